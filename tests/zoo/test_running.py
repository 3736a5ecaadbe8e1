"""Running averages: those of torch.optim.swa_utils, for each member alone."""

import copy

import pytest
import torch
from crowd import settings
from stacks import CLOSE, ENGINES, prepared
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn

from zoo import models
from zoo.engines import EVALUATION_ROWS
from zoo.objective import objective
from zoo.running import Running
from zoo.stack import stack

MEMBERS, EPOCHS, STEPS = 3, 8, 4


@pytest.fixture(autouse=True)
def _no_grad():
    torch.manual_seed(0)
    with torch.no_grad():
        yield


def built(norm="none"):
    return [models.build("mlp", {"hidden": [5], "norm": norm}, (4,), 3, k) for k in range(MEMBERS)]


def moved(stacked, modules, seed):
    """Move the members and the modules alike, in place, as a step of training would."""
    noise = torch.Generator().manual_seed(seed)
    push_KP = torch.randn(stacked.flat_KP.shape, generator=noise)
    stacked.flat_KP.add_(push_KP)
    for k, module in enumerate(modules):
        module.load_state_dict(stacked.state(k))


def same(average, models_K, members=range(MEMBERS)):
    """Check the averages against those of swa_utils."""
    for k in members:
        state = average.stack.state(k)
        for name, value in models_K[k].module.named_parameters():
            torch.testing.assert_close(state[name], value)


@pytest.mark.parametrize("lanes", [[(0, 3)], [(0, 2), (2, 3)]])
def test_ema_is_torchs_that_begins_at_the_first_weights(lanes):
    modules = built()
    stacked, decays = stack(modules), [0.9, 0.5, 0.99]
    average = Running("ema", stacked, 0)
    theirs = [
        AveragedModel(module, multi_avg_fn=get_ema_multi_avg_fn(decay))
        for module, decay in zip(modules, decays, strict=True)
    ]
    rate_K1 = 1 - torch.tensor(decays).unsqueeze(1)
    for ema, module in zip(theirs, modules, strict=True):
        ema.update_parameters(module)  # the first call copies
    for step in range(12):
        moved(stacked, modules, step)
        for a, b in lanes:
            average.after_step(stacked.flat_KP[a:b], rate_K1[a:b], a)
        for ema, module in zip(theirs, modules, strict=True):
            ema.update_parameters(module)
        same(average, theirs)


def epochs_of(average, stacked, modules, configs, *watchers):
    """Train all members for the epochs, and tell every watcher (epoch, k, module) of each."""
    for epoch in range(1, EPOCHS + 1):
        moved(stacked, modules, epoch)
        average.after_epoch(stacked, [epoch] * len(modules), configs)
        for k, module in enumerate(modules):
            for watcher in watchers:
                watcher(epoch, k, module)


def test_swa_is_torchs_mean_of_the_epochs_after_its_beginning():
    modules = built()
    stacked, shares = stack(modules), [0.25, 0.5, 0.9]
    configs = [settings(keep={"swa": share}, train={"epochs": EPOCHS}) for share in shares]
    average = Running("swa", stacked, 0)
    theirs = [AveragedModel(module) for module in modules]

    def follow(epoch, k, module):
        if epoch > shares[k] * EPOCHS:
            theirs[k].update_parameters(module)

    epochs_of(average, stacked, modules, configs, follow)
    same(average, theirs)
    assert average.count_K.tolist() == [6, 4, 1]
    assert [ema.n_averaged.item() for ema in theirs] == [6, 4, 1]


@pytest.mark.parametrize(("share", "epochs"), [(0.7, 90), (0.58, 50), (0.29, 100), (0.07, 100)])
def test_swa_begins_after_its_share_of_the_epochs_whatever_it_rounds_to(share, epochs):
    stacked, average = stack(built()), Running("swa", stack(built()), 0)
    config = settings(keep={"swa": share}, train={"epochs": epochs})
    for epoch in range(1, epochs + 1):
        average.after_epoch(stacked, [epoch] * MEMBERS, [config] * MEMBERS)
    assert average.count_K.tolist() == [epochs - round(share * epochs)] * MEMBERS


@pytest.mark.parametrize("length", [2, 3, 20])
def test_lawa_is_the_mean_of_the_latest_epochs(length):
    modules = built()
    stacked = stack(modules)
    average = Running("lawa", stacked, length)
    seen = []

    def follow(epoch, k, module):
        if k == 0:
            seen.append(stacked.flat_KP.clone())
            expected_KP = torch.stack(seen[-length:]).mean(0)
            torch.testing.assert_close(average.stack.flat_KP, expected_KP)

    epochs_of(average, stacked, modules, [settings(keep={"lawa": length})] * MEMBERS, follow)
    assert len(seen) == EPOCHS


KEEP = {"ema": 0.8, "swa": 0.25, "lawa": 3}


def advance(average, stacked, epoch_K, seed):
    """Move the members and let the average take in a step and an epoch."""
    noise = torch.Generator().manual_seed(seed)
    stacked.flat_KP.add_(torch.randn(stacked.flat_KP.shape, generator=noise))
    for buffer in stacked.buffers.values():
        buffer.add_(1)
    if average.kind == "ema":
        average.after_step(stacked.flat_KP, torch.full((len(stacked), 1), 0.2), 0)
    config = settings(keep={average.kind: KEEP[average.kind]}, train={"epochs": 4})
    average.after_epoch(stacked, epoch_K, [config] * len(stacked))


@pytest.mark.parametrize("kind", KEEP)
def test_a_place_given_to_a_new_member_keeps_no_trace_of_the_former_one(kind):
    stacked = stack(built("batch"))
    average, fresh = Running(kind, stacked, 3), None
    for epoch in range(1, 6):
        advance(average, stacked, [epoch] * 3, epoch)
    average.latest.fill_(torch.nan)
    average.stack.flat_KP[1] = torch.nan
    stacked.put(1, built("batch")[0])
    average.assign(1, stacked)
    again = stack(built("batch")[:1] * 3)
    fresh = Running(kind, again, 3)
    stacked.flat_KP.copy_(again.flat_KP)
    for epoch in range(1, 6):
        advance(average, stacked, [0, epoch, 0], 10 + epoch)
        advance(fresh, again, [0, epoch, 0], 10 + epoch)
        assert torch.equal(average.stack.flat_KP[1], fresh.stack.flat_KP[1])
        assert average.count_K[1] == fresh.count_K[1]


@pytest.mark.parametrize("kind", KEEP)
def test_members_taken_and_rows_written_elsewhere_go_on_alike(kind):
    stacked = stack(built("batch"))
    average = Running(kind, stacked, 3)
    for epoch in range(1, 4):
        advance(average, stacked, [epoch] * 3, epoch)
    other = Running(kind, stack(built("batch")), 3)
    for name, row in other.rows().items():
        row.copy_(average.rows()[name])
    twin = stacked.take([0, 1, 2])
    for one, rows in ((average, stacked), (other, twin)):
        one.take([2, 0])
        part = rows.take([2, 0])
        for epoch in (4, 5):
            advance(one, part, [epoch] * 2, epoch)
    for name, row in average.rows().items():
        assert torch.equal(row, other.rows()[name]), name


def test_a_place_that_is_empty_is_left_alone():
    stacked = stack(built())
    average = Running("swa", stacked, 0)
    advance(average, stacked, [3, 0, 3], 1)
    assert average.count_K.tolist() == [1, 0, 1]


# BatchNorm's statistics


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("case", ["mlp batch norm", "cnn", "regression batch norm"])
@pytest.mark.parametrize("count", [1, 2])
def test_an_averages_statistics_are_those_of_update_bn_on_equal_portions(case, count, engine):
    rows = 40 if count == 1 else 2 * EVALUATION_ROWS
    modules, x_KN, _, task = prepared(case, rows=rows)
    x_N = x_KN[0]
    for k, module in enumerate(modules):
        module.train()(x_KN[k][:8] * 3 + 1)  # what is there before must not show
    stacked = stack(modules)
    flat_KP, counters = stacked.flat_KP.clone(), dict(stacked.buffers)
    counters = {n: b.clone() for n, b in counters.items() if b.dtype == torch.int64}
    engine(modules[0], objective(task)).normalise(stacked, x_N)
    for k, module in enumerate(modules):
        update_bn(x_N.split(rows // count), module)
        for name, value in module.state_dict().items():
            if name not in counters:
                torch.testing.assert_close(stacked.state(k)[name], value, **CLOSE)
    assert torch.equal(stacked.flat_KP, flat_KP)
    assert counters
    for name, counter in counters.items():
        assert torch.equal(stacked.buffers[name], counter)


@pytest.mark.parametrize("engine", ENGINES)
def test_statistics_of_unequal_portions_weigh_every_row_once(engine):
    modules, x_KN, _, task = prepared("mlp batch norm", rows=EVALUATION_ROWS + 1)
    first = copy.deepcopy(modules[0]).eval()[:2]  # the layers before the first norm
    stacked = stack(modules)
    engine(modules[0], objective(task)).normalise(stacked, x_KN[0])
    mean_D = first(x_KN[0]).mean(0)
    torch.testing.assert_close(stacked.state(0)["2.running_mean"], mean_D, **CLOSE)


class Other(nn.Module):
    """Drops units before a norm, and has a buffer of its own that is no statistic."""

    def __init__(self):
        super().__init__()
        self.drop, self.norm, self.head = nn.Dropout(0.5), nn.BatchNorm1d(4), nn.Linear(4, 3)
        self.register_buffer("scale", torch.full((4,), 2.0))

    def forward(self, x):
        return self.head(self.norm(self.drop(x)) * self.scale)


@pytest.mark.parametrize("engine", ENGINES)
def test_statistics_are_taken_without_dropout_and_nothing_else_changes(engine):
    module, x_N = Other(), torch.randn(30, 4) + 3
    made, stacked = engine(module, objective("classification")), stack([module] * 2)
    made.normalise(stacked, x_N)
    for k in range(2):
        state = stacked.state(k)
        torch.testing.assert_close(state["norm.running_mean"], x_N.mean(0), **CLOSE)
        torch.testing.assert_close(state["norm.running_var"], x_N.var(0), **CLOSE)
        assert torch.equal(state["scale"], module.scale)
        assert state["norm.num_batches_tracked"] == 0


@pytest.mark.parametrize("engine", ENGINES)
def test_a_model_without_batch_norm_is_left_as_it_is(engine):
    modules, x_KN, _, task = prepared("mlp")
    stacked = stack(modules)
    engine(modules[0], objective(task)).normalise(stacked, x_KN[0])
    for k, module in enumerate(modules):
        for name, value in module.state_dict().items():
            assert torch.equal(stacked.state(k)[name], value)
