"""Training: what a member becomes is a function of its settings and its seed alone.

The reference is a plain loop of PyTorch, written here: one module, ``torch.optim``, one member.
"""

import math
from dataclasses import replace
from functools import cache
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812  # its name everywhere
from sklearn.metrics import root_mean_squared_error
from torch import nn

from zoo import models
from zoo.config import DataConfig, RunConfig
from zoo.data import Part, load
from zoo.errors import ConfigError
from zoo.fit import Fit, Member, _order, shape_key

CLOSE = {"rtol": 1e-3, "atol": 1e-4}
TORCH = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}


@pytest.fixture(autouse=True)
def _one_thread():
    """Keep these small tensors on one thread, which is faster than sharing them."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@cache
def data(ref, rows=None):
    """Load a data set, perhaps with fewer training rows."""
    loaded = load(DataConfig(ref=ref))
    if rows is None:
        return loaded
    train, val = loaded.train, loaded.val
    return replace(
        loaded, train=Part(train.x[:rows], train.y[:rows]), val=Part(val.x[:60], val.y[:60])
    )


def settings(ref="iris", **changes):
    """Return settings of a short training; ``changes`` are sections."""
    base = {
        "data": {"ref": ref},
        "model": {"name": "mlp", "hidden": [8]},
        "optim": {"name": "adam", "lr": 0.03},
        "train": {"epochs": 6, "batch_size": 32},
        "stop": {"patience": 3},
    }
    for section, values in changes.items():
        fresh = section in ("model", "optim") and "name" in values
        base[section] = dict(values) if fresh else {**base[section], **values}
    return RunConfig.model_validate(base)


def members(*configs):
    """Number the settings as members m0, m1 ... with seeds 0, 1 ..."""
    return [Member(f"m{k}", config, k) for k, config in enumerate(configs)]


def train(crowd, source, **options):
    """Train members to their end; return (epochs by key, ends by key)."""
    options.setdefault("engine", "stacked")
    options.setdefault("device", "cpu")
    history = {member.key: [] for member in crowd}
    ends = {}
    for happened in Fit(crowd, source, **options):
        for epoch in happened.epochs:
            history[epoch.key].append(epoch)
        for end in happened.finished:
            assert end.key not in ends
            ends[end.key] = end
    assert ends.keys() == history.keys()
    for key, end in ends.items():
        assert [epoch.epoch for epoch in history[key]] == list(range(1, end.epochs + 1))
    return history, ends


def figures(module, x, y, task, scale):
    """Return loss and metric in the user's unit, by PyTorch's own functions."""
    with torch.no_grad():
        outputs = module.eval()(x)
    if task == "regression":
        loss = F.mse_loss(outputs[:, 0], y).item()
        return loss, math.sqrt(loss) * scale
    accuracy = (outputs.argmax(1) == y).float().mean().item()
    return F.cross_entropy(outputs, y).item(), accuracy


def solo(member, source):
    """Train one member by a plain loop; return its validation history, best epoch and state."""
    config, task, scale = member.config, source.task, source.target_scale
    module = models.build(
        config.model.name, config.model.options, source.shape, source.outputs, member.seed
    )
    optimiser = TORCH[config.optim.name](
        module.parameters(), **config.optim.model_dump(exclude={"name"})
    )
    x, y = source.train.x, source.train.y
    history, best, best_epoch, state = [], math.inf, 0, None
    for epoch in range(1, config.train.epochs + 1):
        order = _order(SimpleNamespace(member=member, epoch=epoch - 1), len(y))
        for index in order.split(config.train.batch_size):
            if len(index) == 1:
                continue
            outputs = module.train()(x[index])
            if task == "regression":
                loss = F.mse_loss(outputs[:, 0], y[index])
            else:
                loss = F.cross_entropy(outputs, y[index])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        history.append(figures(module, source.val.x, source.val.y, task, scale))
        watched = history[-1][0 if config.stop.metric == "loss" else 1]
        watched = -watched if config.stop.direction == "max" else watched
        if best - watched > config.stop.min_delta:
            best, best_epoch = watched, epoch
            state = {name: value.clone() for name, value in module.state_dict().items()}
        if epoch - best_epoch >= config.stop.patience:
            break
    return history, best_epoch, state


def agrees_with_solo(crowd, source, **options):
    """Check every member against the plain loop; return the numbers of epochs."""
    history, ends = train(crowd, source, **options)
    for member in crowd:
        expected, best_epoch, state = solo(member, source)
        end = ends[member.key]
        assert end.status == "finished"
        got = [(epoch.val_loss, epoch.val_metric) for epoch in history[member.key]]
        assert len(got) == len(expected)
        torch.testing.assert_close(torch.tensor(got), torch.tensor(expected), **CLOSE)
        assert end.best.epoch == best_epoch
        assert end.state.keys() == state.keys()
        for name in state:
            torch.testing.assert_close(end.state[name], state[name], **CLOSE)
    return [ends[member.key].epochs for member in crowd]


def same_end(one, other, *, exact=True):
    """Check that two ends are those of the same member, seconds apart."""
    assert (one.status, one.epochs) == (other.status, other.epochs)
    assert (one.best is None) == (other.best is None)
    if one.best is None:
        assert one.state is other.state is None
        return
    assert one.best.epoch == other.best.epoch
    tolerance = {"rtol": 0, "atol": 0} if exact else CLOSE
    for name in ("train_loss", "train_metric", "val_loss", "val_metric"):
        value = torch.tensor([getattr(end.best, name) for end in (one, other)])
        torch.testing.assert_close(value[0], value[1], **tolerance)
    for name in one.state:
        torch.testing.assert_close(one.state[name], other.state[name], **tolerance)


# Agreement with plain PyTorch

PLAIN = {
    "sgd": ("iris", None, {"optim": {"name": "sgd", "lr": 1.0, "nesterov": True}}),
    "adam": ("iris", None, {"optim": {"name": "adam", "lr": 0.05, "weight_decay": 0.01}}),
    "adamw": ("iris", None, {"optim": {"name": "adamw", "lr": 0.3, "weight_decay": 0.1}}),
    "batch norm": (
        "iris",
        None,
        {"model": {"name": "mlp", "hidden": [8], "norm": "batch"}, "optim": {"lr": 0.1}},
    ),
    "cnn": (
        "digits",
        130,
        {"model": {"name": "cnn", "channels": [4, 6]}, "optim": {"lr": 0.05}},
    ),
    "accuracy": ("iris", None, {"optim": {"lr": 0.1}, "stop": {"metric": "accuracy"}}),
    "regression": ("diabetes", None, {"optim": {"lr": 0.1}, "stop": {"metric": "rmse"}}),
}


@pytest.mark.parametrize("engine", ["stacked", "sequential"])
@pytest.mark.parametrize("case", PLAIN)
def test_a_whole_training_agrees_with_a_plain_loop_for_each_member(case, engine):
    ref, rows, changes = PLAIN[case]
    stop = {"patience": 2, **changes.get("stop", {})}
    config = settings(ref, **{**changes, "train": {"epochs": 20}, "stop": stop})
    epochs = agrees_with_solo(members(*[config] * 4), data(ref, rows), engine=engine)
    assert len(set(epochs)) > 1  # they stop at different epochs
    assert min(epochs) < 20  # and some of them early


@pytest.mark.parametrize("engine", ["stacked", "sequential"])
def test_members_with_their_own_settings_train_as_if_each_were_alone(engine):
    crowd = members(
        settings(optim={"lr": 0.3}, stop={"patience": 1}, train={"epochs": 12}),
        settings(optim={"lr": 0.01, "betas": [0.5, 0.9]}, train={"epochs": 3}),
        settings(optim={"lr": 0.1, "weight_decay": 0.05}, train={"epochs": 1}),
        settings(optim={"lr": 0.05}, stop={"min_delta": 0.1}, train={"epochs": 9}),
        settings(optim={"lr": 0.001, "eps": 0.01}, stop={"patience": 5}),
    )
    epochs = agrees_with_solo(crowd, data("iris"), engine=engine)
    assert epochs[1:3] == [3, 1]
    assert len(set(epochs)) >= 4


def test_the_returned_state_is_that_of_the_best_epoch_by_value():
    source = data("iris")
    config = settings(optim={"lr": 0.3}, train={"epochs": 15}, stop={"patience": 4})
    history, ends = train(members(*[config] * 4), source)
    early = 0
    for k, (key, end) in enumerate(ends.items()):
        lowest = min(history[key], key=lambda epoch: epoch.val_loss)
        assert end.best == lowest
        early += end.best.epoch < end.epochs
        module = models.build("mlp", config.model.options, source.shape, source.outputs, 99 + k)
        module.load_state_dict(end.state, strict=True)
        loss, accuracy = figures(module, source.val.x, source.val.y, source.task, 1.0)
        assert loss == pytest.approx(lowest.val_loss, rel=1e-4)
        assert accuracy == pytest.approx(lowest.val_metric)
    assert early  # the last epoch was not the best


def test_training_figures_are_means_over_the_rows_seen_before_each_step():
    # With a vanishing learning rate the model stays as it was built.
    source = data("iris")
    config = settings(optim={"name": "sgd", "lr": 1e-30}, train={"epochs": 1, "batch_size": 40})
    history, _ = train(members(config), source)
    module = models.build("mlp", config.model.options, source.shape, source.outputs, 0)
    loss, accuracy = figures(module, source.train.x, source.train.y, source.task, 1.0)
    assert history["m0"][0].train_loss == pytest.approx(loss, rel=1e-5)
    assert history["m0"][0].train_metric == pytest.approx(accuracy, rel=1e-5)


def test_rmse_is_in_the_targets_unit_and_agrees_with_sklearn():
    source = data("diabetes")
    config = settings("diabetes", stop={"metric": "rmse"}, train={"epochs": 3})
    _, ends = train(members(config), source)
    module = models.build("mlp", config.model.options, source.shape, source.outputs, 5)
    module.load_state_dict(ends["m0"].state)
    with torch.no_grad():
        outputs = module.eval()(source.val.x)[:, 0]
    in_unit = [
        np.asarray(values) * source.target_scale + source.target_offset
        for values in (source.val.y, outputs)
    ]
    assert ends["m0"].best.val_metric == pytest.approx(root_mean_squared_error(*in_unit), rel=1e-4)
    assert ends["m0"].best.val_metric > 20


# Independence of the company

COMPANY = {
    "mlp": ("iris", None, {}),
    "batch norm": ("iris", None, {"model": {"name": "mlp", "hidden": [8], "norm": "batch"}}),
    "dropout": ("iris", None, {"model": {"name": "mlp", "hidden": [16], "dropout": 0.3}}),
    "cnn with dropout": (
        "digits",
        100,
        {"model": {"name": "cnn", "channels": [4], "dropout": 0.3}, "optim": {"lr": 0.03}},
    ),
}


def company(case):
    """Return five members of different settings that end at different epochs, and the data."""
    ref, rows, changes = COMPANY[case]
    crowd = [
        settings(
            ref,
            **{
                **changes,
                "optim": {"name": "adam", "lr": lr, "weight_decay": lr / 10},
                "train": {"epochs": epochs},
                "stop": {"patience": patience},
            },
        )
        for lr, epochs, patience in [
            (0.3, 8, 1),
            (0.01, 2, 3),
            (0.05, 5, 2),
            (0.1, 1, 1),
            (0.003, 4, 3),
        ]
    ]
    return members(*crowd), data(ref, rows)


@pytest.mark.parametrize("engine", ["stacked", "sequential"])
@pytest.mark.parametrize("case", COMPANY)
def test_a_member_becomes_the_same_alone_in_any_stack_and_in_a_refilled_slot(case, engine):
    crowd, source = company(case)
    alone = {m.key: train([m], source, engine=engine)[1][m.key] for m in crowd}
    for width in (1, 2, 3, 5):
        _, ends = train(crowd, source, engine=engine, width=width)
        for key in alone:
            # Alone and in a refilled slot of width one it is the same program.
            same_end(ends[key], alone[key], exact=width == 1)
    _, ends = train(crowd[::-1], source, engine=engine, width=3)
    for key in alone:
        same_end(ends[key], alone[key], exact=False)


@pytest.mark.parametrize("case", ["mlp", "dropout"])
def test_training_again_gives_the_same_bits(case):
    crowd, source = company(case)
    torch.manual_seed(1)
    _, first = train(crowd, source, width=3)
    torch.manual_seed(2)
    _, second = train(crowd, source, width=3)
    for key in first:
        same_end(first[key], second[key])


def test_members_of_different_seeds_differ_and_of_equal_seeds_do_not():
    config = settings(model={"name": "mlp", "hidden": [8], "dropout": 0.2})
    crowd = [Member("a", config, 3), Member("b", config, 4), Member("c", config, 3)]
    _, ends = train(crowd, data("iris"))
    same_end(ends["a"], ends["c"], exact=False)
    assert not torch.allclose(ends["a"].state["1.weight"], ends["b"].state["1.weight"])


@pytest.mark.parametrize("width", [1, 2])
def test_a_refilled_slot_keeps_no_buffer_of_its_former_member(width, monkeypatch):
    class Projected(nn.Module):
        """Random features whose directions are not part of the state dict."""

        def __init__(self, inputs, outputs):
            super().__init__()
            self.register_buffer("directions", torch.randn(inputs, 8), persistent=False)
            self.head = nn.Linear(8, outputs)

        def forward(self, x):
            return self.head(torch.cos(x @ self.directions))

    def projected(shape, outputs):
        return Projected(shape[0], outputs)

    monkeypatch.setattr(models, "BUILDERS", dict(models.BUILDERS))
    models.model(projected)
    config = settings(model={"name": "projected"}, train={"epochs": 3})
    crowd, source = members(*[config] * 4), data("iris")
    _, ends = train(crowd, source, width=width)
    for member in crowd:
        module = models.build("projected", {}, source.shape, source.outputs, member.seed)
        module.load_state_dict(ends[member.key].state)
        loss, _ = figures(module, source.val.x, source.val.y, source.task, 1.0)
        assert loss == pytest.approx(ends[member.key].best.val_loss, rel=1e-4)


def test_at_most_width_members_train_at_once_and_in_the_order_given():
    crowd = members(*[settings(train={"epochs": e}, stop={"patience": 9}) for e in (2, 1, 1, 3)])
    told = []
    for happened in Fit(crowd, data("iris"), engine="stacked", width=2, device="cpu"):
        told.append([(epoch.key, epoch.epoch) for epoch in happened.epochs])
    assert [sorted(keys) for keys in told] == [
        [("m0", 1), ("m1", 1)],
        [("m0", 2), ("m2", 1)],
        [("m3", 1)],
        [("m3", 2)],
        [("m3", 3)],
    ]


# Divergence


@pytest.mark.parametrize("engine", ["stacked", "sequential"])
@pytest.mark.parametrize("case", ["mlp", "batch norm"])
def test_a_diverging_member_is_reported_and_leaves_the_others_as_they_were(case, engine):
    _, _, changes = COMPANY[case]
    sane = settings(**{**changes, "optim": {"name": "sgd", "lr": 0.05}})
    wild = settings(
        **{**changes, "model": {"name": "mlp", "hidden": [8]}, "optim": {"name": "sgd", "lr": 1e30}}
    )
    wild = wild.model_copy(update={"model": sane.model})
    source = data("iris")
    crowd = members(sane, wild, sane, sane)
    # Batch norm divides a huge weight out again, so that its member may go on for a while.
    _, ends = train(crowd, source, engine=engine)
    if case == "mlp":
        assert ends["m1"].status == "diverged"
        assert ends["m1"].best is None
        assert ends["m1"].state is None
        assert ends["m1"].epochs == 1
    for key in ("m0", "m2", "m3"):
        assert ends[key].status == "finished"
        [member] = [m for m in crowd if m.key == key]
        same_end(ends[key], train([member], source, engine=engine)[1][key], exact=False)
    # A sane member in the same place and program gives the very same bits to the others.
    swapped = [crowd[0], replace(crowd[1], config=sane), *crowd[2:]]
    _, calm = train(swapped, source, engine=engine)
    first = {key: calm[key] for key in ("m0", "m2", "m3")}
    for key, end in first.items():
        same_end(ends[key], end, exact=True)


def test_a_refilled_slot_of_a_diverged_member_is_clean():
    sane = settings(optim={"name": "sgd", "lr": 0.05})
    wild = settings(optim={"name": "sgd", "lr": 1e30})
    source = data("iris")
    crowd = members(wild, sane, wild, sane)
    _, ends = train(crowd, source, width=1)
    assert [ends[f"m{k}"].status for k in range(4)] == ["diverged", "finished"] * 2
    for k in (1, 3):
        same_end(ends[f"m{k}"], train([crowd[k]], source)[1][f"m{k}"])


def test_a_member_that_diverges_late_keeps_its_last_finite_best():
    # Plain gradient descent on a linear model, a little too fast, grows without bound.
    config = settings(
        "diabetes",
        model={"name": "mlp", "hidden": []},
        optim={"name": "sgd", "lr": 3.0, "momentum": 0.0},
        train={"epochs": 200, "batch_size": 266},
        stop={"patience": 200},
    )
    source = data("diabetes")
    history, ends = train(members(config), source)
    end = ends["m0"]
    assert end.status == "diverged"
    assert end.epochs > 2
    assert all(math.isfinite(epoch.val_loss) for epoch in history["m0"][:-1])
    assert end.best == min(history["m0"][:-1], key=lambda epoch: epoch.val_loss)
    assert all(value.isfinite().all() for value in end.state.values())
    module = models.build("mlp", config.model.options, source.shape, source.outputs, 5)
    module.load_state_dict(end.state)
    loss, _ = figures(module, source.val.x, source.val.y, source.task, 1.0)
    assert loss == pytest.approx(end.best.val_loss, rel=1e-4)


# Edges


@pytest.mark.parametrize("engine", ["stacked", "sequential"])
def test_a_last_batch_of_one_row_is_left_out(engine):
    source = data("iris", 65)  # 64 + 1
    config = settings(model={"name": "mlp", "hidden": [8], "norm": "batch"}, train={"epochs": 2})
    agrees_with_solo(members(config), source, engine=engine)
    _, ends = train(members(config), source, engine=engine)
    counted = ends["m0"].state["2.num_batches_tracked"].item()
    assert counted == 2 * ends["m0"].best.epoch


def test_a_batch_may_be_all_training_rows_but_not_more():
    source = data("iris", 65)
    agrees_with_solo(members(settings(train={"epochs": 2, "batch_size": 65})), source)
    with pytest.raises(ConfigError, match=r"^train\.batch_size: .*65.*66"):
        Fit(members(settings(train={"batch_size": 66})), source)


@pytest.mark.parametrize(
    ("ref", "metric", "suited"),
    [("iris", "rmse", "loss or accuracy"), ("diabetes", "accuracy", "loss or rmse")],
)
def test_a_metric_that_does_not_suit_the_task_is_refused(ref, metric, suited):
    with pytest.raises(ConfigError, match=rf"stop\.metric: must be {suited} .* it is {metric}"):
        Fit(members(settings(ref, stop={"metric": metric})), data(ref))


def test_a_model_that_does_not_suit_the_data_is_refused():
    with pytest.raises(ConfigError, match=r"model\.name: cnn takes images"):
        Fit(members(settings(model={"name": "cnn"})), data("iris"))
    with pytest.raises(ConfigError, match=r"model\.hiden: mlp has no such option"):
        Fit(members(settings(model={"name": "mlp", "hiden": [8]})), data("iris"))


@pytest.mark.parametrize("engine", ["stacked", "sequential"])
def test_a_batch_of_one_row_trains_or_is_refused_by_name(engine):
    source = data("iris", 20)
    plain = settings(train={"epochs": 1, "batch_size": 1})
    assert train(members(plain), source, engine=engine)[1]["m0"].status == "finished"
    normed = settings(
        model={"name": "mlp", "hidden": [8], "norm": "batch"},
        train={"epochs": 1, "batch_size": 1},
    )
    with pytest.raises(ConfigError, match=r"train\.batch_size"):
        train(members(normed), source, engine=engine)


def test_one_epoch_is_the_best_and_the_last():
    _, ends = train(members(settings(train={"epochs": 1}, stop={"patience": 9})), data("iris"))
    assert ends["m0"].epochs == ends["m0"].best.epoch == 1


def test_the_first_epoch_can_stay_the_best():
    # An improvement by ten nats is impossible, so the first epoch counts and patience runs out.
    config = settings(stop={"patience": 2, "min_delta": 10.0})
    history, ends = train(members(config), data("iris"))
    assert ends["m0"].epochs == 3
    assert ends["m0"].best == history["m0"][0]


def test_patience_beyond_the_epochs_trains_them_all():
    config = settings(train={"epochs": 4}, stop={"patience": 100, "min_delta": 10.0})
    _, ends = train(members(config), data("iris"))
    assert ends["m0"].epochs == 4


def test_the_engine_asked_for_is_taken_and_otherwise_chosen_with_a_reason():
    crowd = members(settings())
    for name in ("stacked", "sequential"):
        fit = Fit(crowd, data("iris"), engine=name, device="cpu")
        assert (fit.choice.engine.name, fit.choice.reason) == (name, f"{name} engine, as asked")
    fit = Fit(crowd, data("iris"), device="cpu")
    assert fit.choice.reason.startswith(
        f"{fit.choice.engine.name} engine, 1 thread (a step of 1 members: "
    )


def test_choosing_an_engine_does_not_change_what_the_members_become():
    config = settings(model={"name": "mlp", "hidden": [8], "norm": "batch"})
    crowd, source = members(config, config), data("iris")
    fit = Fit(crowd, source, device="cpu")
    ends = {end.key: end for happened in fit for end in happened.finished}
    _, expected = train(crowd, source, engine=fit.choice.engine.name)
    for key in ends:
        same_end(ends[key], expected[key])


def test_seconds_grow_from_epoch_to_epoch():
    history, ends = train(members(settings()), data("iris"))
    seconds = [epoch.seconds for epoch in history["m0"]]
    assert sorted(seconds) == seconds
    assert seconds[0] > 0
    assert ends["m0"].seconds >= seconds[-1]


APART = [
    {"data": {"split_seed": 1}},
    {"model": {"name": "mlp", "hidden": [9]}},
    {"model": {"name": "cnn"}},
    {"optim": {"name": "sgd"}},
    {"optim": {"name": "adamw"}},
    {"train": {"batch_size": 16}},
    {"stop": {"metric": "accuracy"}},
]


def test_the_shape_key_separates_what_cannot_share_a_stack():
    keys = [shape_key(settings(**change)) for change in [{}, *APART]]
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize(
    "change",
    [
        {"optim": {"lr": 9.0, "betas": [0.1, 0.2], "eps": 0.1, "weight_decay": 0.5}},
        {"train": {"epochs": 99}},
        {"stop": {"patience": 99, "min_delta": 0.5}},
        {"stop": {"metric": "loss", "mode": "min"}},
    ],
)
def test_the_shape_key_joins_what_can_share_a_stack(change):
    assert shape_key(settings(**change)) == shape_key(settings())


@pytest.mark.parametrize("engine", ["stacked", "sequential", "auto"])
def test_training_leaves_the_global_generator_as_it_was(engine):
    crowd = members(settings(model={"dropout": 0.5}, train={"epochs": 2}))
    torch.manual_seed(3)
    before = torch.get_rng_state()
    train(crowd, data("iris"), engine=engine)
    assert torch.equal(torch.get_rng_state(), before)
