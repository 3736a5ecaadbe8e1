"""Dropout: a member draws its own masks, the same alone, in any stack and by either engine."""

import pytest
import torch
from stacks import CLOSE, ENGINES, batch
from torch import nn

from zoo import models
from zoo.objective import objective
from zoo.stack import stack
from zoo.stacked import Stacked


@pytest.fixture(autouse=True)
def _no_grad():
    torch.manual_seed(0)
    with torch.no_grad():
        yield


DROPOUT = {
    "mlp": ("mlp", {"hidden": [16], "dropout": 0.5}, (4,)),
    "mlp batch norm": ("mlp", {"hidden": [8, 8], "norm": "batch", "dropout": 0.25}, (4,)),
    "cnn": ("cnn", {"channels": [6, 3], "dropout": 0.5}, (1, 6, 6)),
}


def dropping(case, rows, members=3):
    name, options, shape = DROPOUT[case]
    modules = [models.build(name, options, shape, 3, seed) for seed in range(members)]
    return modules, *batch(members, rows, shape)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("rows", [2, 3, 8])
@pytest.mark.parametrize("case", DROPOUT)
def test_a_member_with_dropout_steps_alike_alone_and_among_others(case, rows, engine):
    # Where rows equal members, the member axis must still be found.
    modules, x_KN, y_KN = dropping(case, rows)
    seeds = torch.tensor([11, 5, 2**40 + 3])
    together = engine(modules[0], objective("classification"))
    got = together.step(stack(modules), x_KN, y_KN, seeds, {})
    for k, module in enumerate(modules):
        alone = engine(modules[0], objective("classification"))
        one = slice(k, k + 1)
        expected = alone.step(stack([module]), x_KN[one], y_KN[one], seeds[one], {})
        for mine, theirs in zip(expected, got, strict=True):
            torch.testing.assert_close(theirs[k], mine[0], **CLOSE)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("case", DROPOUT)
def test_equal_members_get_equal_masks_for_equal_seeds_only(case, engine):
    modules, x_KN, y_KN = dropping(case, 8)
    engine = engine(modules[0], objective("classification"))
    stacked = stack([modules[0]] * 3)
    x_KN, y_KN = x_KN[:1].expand_as(x_KN), y_KN[:1].expand_as(y_KN)
    loss_K, _, gradient_KP = engine.step(stacked, x_KN, y_KN, torch.tensor([4, 9, 4]), {})
    torch.testing.assert_close(loss_K[2], loss_K[0])
    torch.testing.assert_close(gradient_KP[2], gradient_KP[0], **CLOSE)
    assert not torch.allclose(gradient_KP[1], gradient_KP[0], rtol=1e-2)
    again, _, _ = engine.step(stack([modules[0]] * 3), x_KN, y_KN, torch.tensor([5, 10, 5]), {})
    assert (again - loss_K).abs().min() > 1e-6


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("case", DROPOUT)
def test_evaluation_drops_nothing_even_after_steps(case, engine):
    modules, x_KN, y_KN = dropping(case, 8)
    engine = engine(modules[0], objective("classification"))
    stacked = stack(modules)
    engine.step(stacked, x_KN, y_KN, torch.arange(3), {})
    outputs_KNC = engine.outputs(stacked, x_KN[0])
    for k, module in enumerate(modules):
        module.load_state_dict(stacked.state(k))
        torch.testing.assert_close(outputs_KNC[k], module.eval()(x_KN[0]), **CLOSE)


class Dropped(nn.Module):
    """Its loss shows which inputs were dropped."""

    def __init__(self):
        super().__init__()
        self.drop = nn.Dropout(0.3)
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x):
        return self.drop(x).mean(1, keepdim=True) * self.weight


def test_the_stacked_engine_drops_the_share_asked_for_and_keeps_the_mean():
    one = Dropped()
    x_KN, y_KN = torch.ones(4, 50, 100), torch.zeros(4, 50)
    engine, stacked = Stacked(one, objective("regression")), stack([one] * 4)
    squares = []
    for step in range(10):
        loss_K, _, _ = engine.step(stacked, x_KN, y_KN, torch.arange(4) * 1000 + step, {})
        squares.append(loss_K)
    # E[mean^2] = 1 + p / (1 - p) / 100, over 2,000 rows.
    mean = torch.stack(squares).mean().item()
    assert mean == pytest.approx(1 + 0.3 / 0.7 / 100, abs=0.015)


@pytest.mark.parametrize("model", ["mlp", "cnn"])
def test_both_engines_drop_the_same_units(model):
    shape = (1, 8, 8)
    modules = [models.build(model, {"dropout": 0.4}, shape, 3, seed) for seed in range(3)]
    noise = torch.Generator().manual_seed(0)
    x_KN = torch.randn(3, 16, *shape, generator=noise)
    y_KN = torch.randint(0, 3, (3, 16), generator=noise)
    seed_K = torch.tensor([5, 6, 5])
    told = []
    for engine in ENGINES:
        made = engine(modules[0], objective("classification"))
        for _ in range(2):  # the second time, what draws is known
            told.append(made.step(stack(modules), x_KN, y_KN, seed_K, {}))
    for loss_K, _, gradient_KP in told[1:]:
        torch.testing.assert_close(loss_K, told[0][0])
        torch.testing.assert_close(gradient_KP, told[0][2], rtol=1e-4, atol=1e-5)
