"""A stack: K modules as rows, from which each comes back as it was."""

import pytest
import torch
from torch import nn

from zoo import models
from zoo.stack import LINE, copy_rows, stack


class Tied(nn.Module):
    """Two layers that share one weight, under two names."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(3, 3)
        self.second = nn.Linear(3, 3)
        self.second.weight = self.first.weight

    def forward(self, x):
        return self.second(self.first(x))


def built(kind, members=3):
    if kind == "tied":
        modules = []
        for seed in range(members):
            torch.manual_seed(seed)
            modules.append(Tied())
        return modules, torch.randn(5, 3)
    name, options, shape = {
        "mlp": ("mlp", {"hidden": [4, 5]}, (3,)),
        "mlp-batch": ("mlp", {"hidden": [4], "norm": "batch"}, (3,)),
        "cnn": ("cnn", {"channels": [4]}, (1, 6, 6)),
    }[kind]
    modules = [models.build(name, options, shape, 2, seed) for seed in range(members)]
    return modules, torch.randn(5, *shape)


KINDS = ["mlp", "mlp-batch", "cnn", "tied"]


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def warmed(kind):
    """Return modules whose buffers have seen data."""
    modules, x = built(kind)
    for k, module in enumerate(modules):
        module.train()(x + k)
        module.eval()
    return modules, x


def same_state(one, other):
    assert one.keys() == other.keys()
    for key in one:
        assert one[key].dtype == other[key].dtype, key
        assert torch.equal(one[key], other[key]), key


@pytest.mark.parametrize("kind", KINDS)
def test_each_member_comes_back_as_the_state_dict_it_was(kind):
    modules, _ = warmed(kind)
    stacked = stack(modules)
    assert len(stacked) == len(modules)
    for k, module in enumerate(modules):
        same_state(stacked.state(k), module.state_dict())
        assert list(stacked.state(k)) == list(module.state_dict())


@pytest.mark.parametrize("kind", KINDS)
def test_a_state_loads_strictly_and_gives_the_same_outputs(kind):
    modules, x = warmed(kind)
    stacked = stack(modules)
    for k, module in enumerate(modules):
        fresh = built(kind, members=1)[0][0].eval()
        fresh.load_state_dict(stacked.state(k), strict=True)
        assert torch.equal(fresh(x), module(x))


@pytest.mark.parametrize("kind", KINDS)
def test_put_overwrites_one_member_and_leaves_the_others(kind):
    modules, _ = warmed(kind)
    stacked = stack(modules)
    stacked.put(1, modules[2])
    same_state(stacked.state(0), modules[0].state_dict())
    same_state(stacked.state(1), modules[2].state_dict())
    same_state(stacked.state(2), modules[2].state_dict())


@pytest.mark.parametrize("kind", KINDS)
def test_a_module_that_loads_what_state_returned_can_be_put(kind):
    modules, _ = warmed(kind)
    stacked = stack(modules)
    kept = stacked.state(0)
    copy_rows(stacked.rows(), stack([modules[1]] * 3).rows(), [0, 1, 2])
    modules[2].load_state_dict(kept)
    stacked.put(0, modules[2])
    same_state(stacked.state(0), modules[0].state_dict())
    same_state(stacked.state(2), modules[1].state_dict())


def test_the_parameters_are_views_of_one_matrix_whose_rows_are_filled_up_to_whole_lines():
    modules, _ = built("mlp-batch")
    stacked = stack(modules)
    count = sum(p.numel() for p in modules[0].parameters())
    assert sum(view[0].numel() for view in stacked.params.values()) == count
    assert count % LINE
    assert stacked.flat_KP.shape == (3, count + LINE - count % LINE)
    assert (stacked.flat_KP[:, count:] == 0).all()
    stacked.flat_KP.fill_(3.0)
    assert all((view == 3).all() for view in stacked.params.values())


@pytest.mark.parametrize("kind", KINDS)
def test_the_columns_are_weights_first_then_biases_and_norms_each_in_the_modules_order(kind):
    modules, _ = built(kind)
    stacked = stack(modules)
    for k, module in enumerate(modules):
        parameters = list(module.parameters())
        weights = [p.detach().reshape(-1) for p in parameters if p.ndim >= 2]
        others = [p.detach().reshape(-1) for p in parameters if p.ndim < 2]
        assert weights
        assert others
        assert torch.equal(stacked.flat_KP[k, : stacked.weights], torch.cat(weights))
        count = stacked.weights + sum(map(len, others))
        assert torch.equal(stacked.flat_KP[k, stacked.weights : count], torch.cat(others))
    assert stacked.take([1]).weights == stacked.narrow(0, 1).weights == stacked.weights


def test_frozen_parameters_are_kept_beside_the_row_that_is_trained():
    modules, _ = built("mlp")
    for module in modules:
        module[1].weight.requires_grad_(False)
    stacked = stack(modules)
    assert "1.weight" in stacked.buffers
    assert stacked.params.keys() == dict(modules[0].named_parameters()).keys() - {"1.weight"}
    assert stacked.weights == modules[0][3].weight.numel() + modules[0][5].weight.numel()
    for k, module in enumerate(modules):
        same_state(stacked.state(k), module.state_dict())


@pytest.mark.parametrize("kind", KINDS)
def test_narrow_shows_the_same_values_of_some_members(kind):
    modules, _ = warmed(kind)
    stacked = stack(modules)
    part = stacked.narrow(1, 3)
    assert len(part) == 2
    same_state(part.state(0), modules[1].state_dict())
    same_state(part.state(1), modules[2].state_dict())
    part.put(1, modules[0])
    same_state(stacked.state(2), modules[0].state_dict())
    stacked.flat_KP.zero_()
    assert all((view == 0).all() for view in part.params.values())


@pytest.mark.parametrize("kind", KINDS)
def test_rows_are_all_that_a_member_is_and_writing_them_writes_the_stack(kind):
    modules, _ = warmed(kind)
    stacked, other = stack(modules), stack(modules[::-1])
    assert all(len(row) == 3 for row in stacked.rows().values())
    for name, row in other.rows().items():
        row.copy_(stacked.rows()[name])
    for k, module in enumerate(modules):
        same_state(other.state(k), module.state_dict())


def test_stacking_copies_so_that_the_modules_stay_as_they_are():
    modules, _ = warmed("mlp-batch")
    before = {name: value.clone() for name, value in modules[0].state_dict().items()}
    stacked = stack(modules)
    stacked.flat_KP.zero_()
    for buffer in stacked.buffers.values():
        buffer.zero_()
    same_state(modules[0].state_dict(), before)


def test_a_state_is_a_copy():
    modules, _ = warmed("mlp-batch")
    stacked = stack(modules)
    kept = stacked.state(0)
    before = {name: value.clone() for name, value in kept.items()}
    stacked.flat_KP.zero_()
    for buffer in stacked.buffers.values():
        buffer.zero_()
    same_state(kept, before)


def test_tied_weights_are_one_parameter_and_stay_tied():
    modules, _ = built("tied")
    stacked = stack(modules)
    assert list(stacked.params) == ["first.weight", "first.bias", "second.bias"]
    state = stacked.state(1)
    assert state["first.weight"] is state["second.weight"]
    changed = {name: value + 1 for name, value in modules[0].state_dict().items()}
    modules[1].load_state_dict(changed)
    stacked.put(1, modules[1])
    assert torch.equal(stacked.state(1)["second.weight"], changed["first.weight"])


def test_batch_norm_counts_stay_integers():
    stacked = stack(warmed("mlp-batch")[0])
    counts = {n: b for n, b in stacked.buffers.items() if n.endswith("num_batches_tracked")}
    assert counts
    assert all(b.dtype == torch.int64 and b.tolist() == [1, 1, 1] for b in counts.values())


@pytest.mark.parametrize("kind", KINDS)
def test_take_copies_the_given_members_in_the_given_order(kind):
    modules, _ = warmed(kind)
    stacked = stack(modules)
    taken = stacked.take([2, 0])
    assert len(taken) == 2
    stacked.flat_KP.zero_()
    for buffer in stacked.buffers.values():
        buffer.zero_()
    same_state(taken.state(0), modules[2].state_dict())
    same_state(taken.state(1), modules[0].state_dict())
    taken.flat_KP.fill_(1.0)
    assert all((view == 1).all() for view in taken.params.values())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("chosen", [[], [1], [0, 2], [0, 1, 2]])
def test_copy_rows_overwrites_the_given_members_only(kind, chosen):
    modules, _ = warmed(kind)
    stacked = stack(modules)
    source = stack([modules[1], modules[2], modules[0]])
    copy_rows(stacked.rows(), source.rows(), chosen)
    for k in range(3):
        same_state(stacked.state(k), modules[(k + 1) % 3 if k in chosen else k].state_dict())
        same_state(source.state(k), modules[(k + 1) % 3].state_dict())
