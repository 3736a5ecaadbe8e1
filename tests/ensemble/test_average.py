"""Uniform and weighted averages of plain state dicts."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.optim.swa_utils import AveragedModel

from ensemble.average import uniform, weighted
from ensemble.errors import OptionError
from ensemble.shares import normalised


def nets(count):
    torch.manual_seed(0)
    return [
        nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7), nn.Linear(7, 3)) for _ in range(count)
    ]


@pytest.mark.parametrize("count", [1, 2, 5])
def test_uniform_agrees_with_pytorchs_averaged_model(count):
    models = nets(count)
    theirs = AveragedModel(models[0], use_buffers=True)
    for model in models:
        theirs.update_parameters(model)
    mine = uniform(model.state_dict() for model in models)
    for key, leaf in theirs.module.state_dict().items():
        torch.testing.assert_close(mine[key], leaf)


def test_the_result_loads_with_strict_keys():
    models = nets(3)
    models[0].load_state_dict(uniform(model.state_dict() for model in models), strict=True)


def test_equal_weights_are_the_uniform_average():
    states = [model.state_dict() for model in nets(4)]
    mine, theirs = weighted(states, [7] * 4), uniform(states)
    assert all(torch.equal(mine[key], theirs[key]) for key in theirs)


def test_weights_may_be_a_tensor():
    states = [{"w": torch.tensor(0.0)}, {"w": torch.tensor(4.0)}]
    assert weighted(states, torch.tensor([1.0, 3.0]))["w"] == 3


@given(st.lists(st.floats(0, allow_infinity=False), min_size=1).filter(any))
@settings(deadline=None)
def test_any_nonnegative_weights_are_normalised(weights):
    shares = normalised(weights, len(weights))
    assert sum(shares) == pytest.approx(1, abs=1e-12)
    assert all(0 <= share <= 1 for share in shares)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1.0], "2 members need 2 weights, however 1 were given"),
        ([1.0, -0.5], "#1 is -0.5"),
        ([float("nan"), 1.0], "#0 is nan"),
        ([float("inf"), 1.0], "#0 is inf"),
        ([0, 0], "not all be zero"),
    ],
)
def test_weights_that_do_not_fit_are_named(weights, message):
    with pytest.raises(OptionError, match=message):
        weighted([{"w": torch.zeros(1)}] * 2, weights)
