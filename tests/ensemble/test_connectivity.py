"""Whether an average is any good is measured on the way to it, and told in one sentence."""

import math

import pytest
import torch
from torch import nn
from torch.func import functional_call

from ensemble.connectivity import Preflight, preflight
from ensemble.errors import NonFiniteError, OptionError


def scalars(*values):
    return [{"w": torch.tensor(float(value))} for value in values]


def judge(losses, member_losses, zero_loss):
    alphas = tuple(i / (len(losses) - 1) for i in range(len(losses)))
    return Preflight(alphas, tuple(losses), tuple(member_losses), zero_loss)


@pytest.fixture(scope="module")
def trained():
    """Train a small network on eight separable clusters; return its state and its loss."""
    torch.manual_seed(0)
    centres = torch.randn(8, 10) * 3
    y = torch.arange(8).repeat(32)
    x = centres[y] + torch.randn(256, 10)
    module = nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 8))
    for _ in range(100):
        gradients = torch.autograd.grad(
            nn.functional.cross_entropy(module(x), y), list(module.parameters())
        )
        with torch.no_grad():
            for weight, gradient in zip(module.parameters(), gradients, strict=True):
                weight -= 0.2 * gradient

    def loss(state):
        with torch.no_grad():
            return float(nn.functional.cross_entropy(functional_call(module, dict(state), x), y))

    return module.state_dict(), loss


def test_members_of_other_neuron_order_collapse(trained):
    state, loss = trained
    members = []
    for _ in range(8):
        order = torch.randperm(32)
        members.append(
            {
                "0.weight": state["0.weight"][order],
                "0.bias": state["0.bias"][order],
                "2.weight": state["2.weight"][:, order],
                "2.bias": state["2.bias"],
            }
        )
    result = preflight(members, loss)
    assert max(result.member_losses) - min(result.member_losses) < 1e-4
    assert result.collapses
    assert result.barrier > 0.5
    assert result.zero_loss == pytest.approx(math.log(8))
    assert "collapses" in result.sentence
    assert "different initialisations" in result.sentence


def test_neighbours_do_not(trained):
    state, loss = trained
    torch.manual_seed(0)
    members = [{k: v + 0.02 * torch.randn_like(v) for k, v in state.items()} for _ in range(4)]
    result = preflight(members, loss)
    assert not result.collapses
    assert result.barrier < 0.01
    assert result.kept == pytest.approx(1, abs=0.05)
    assert "The average holds" in result.sentence


@pytest.mark.parametrize(
    ("average", "verdict"),
    [(0.009, "holds"), (0.02, "holds"), (0.0201, "loses"), (0.53, "loses"), (0.7, "collapses")],
)
def test_an_average_that_is_worse_than_every_member_is_not_said_to_hold(average, verdict):
    # 0.53 is 53 times the members' loss, and yet nearer to it than to that of zero weights.
    flight = judge([0.005, average], [0.005, 0.005, 0.02], 2.3)
    assert flight.verdict == verdict
    assert f"The average {verdict}: loss {average:.3g} against 0.01 of" in flight.sentence
    assert ("every single member is better" in flight.sentence) == (verdict == "loses")


def test_the_way_starts_at_the_best_member_and_ends_at_the_average():
    result = preflight(scalars(4, 1, -2), lambda state: abs(float(state["w"])) + 1, points=3)
    assert result.alphas == (0, 0.5, 1)
    assert result.losses == (2, 2, 2)
    assert result.member_losses == (5, 2, 3)
    assert result.zero_loss == 1


def test_two_members_have_the_barrier_of_the_literature():
    result = preflight(scalars(1, -1), lambda state: 3 - float(state["w"]) ** 2, points=9)
    assert result.barrier == pytest.approx(1)


def test_one_member_is_its_own_average():
    result = preflight(scalars(3), lambda state: (float(state["w"]) - 3) ** 2)
    assert (result.barrier, result.kept, result.collapses) == (0, 1, False)


def test_calls_are_as_few_as_promised():
    calls = []
    preflight(scalars(1, 2, 3), lambda state: calls.append(state) or 1.0, points=4)
    assert len(calls) == 3 + 4


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("offset", [-3.0, 0.0, 5.0])
def test_the_verdict_depends_on_neither_unit_nor_origin_of_the_loss(scale, offset):
    def at(value):
        return scale * (value + offset)

    good = judge([at(0.1), at(0.5)], [at(0.1), at(0.2)], at(2.0))
    bad = judge([at(0.1), at(1.5)], [at(0.1), at(0.2)], at(2.0))
    assert (good.collapses, bad.collapses) == (False, True)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_on_the_way_is_a_collapse(bad):
    assert judge([0.1, bad], [0.1, 0.2], 2.0).collapses
    assert judge([0.1, bad], [0.1, 0.2], bad).collapses
    assert judge([0.1, bad, 0.1], [0.1, 0.2], 2.0).barrier == math.inf


def test_a_member_whose_loss_is_not_finite_is_left_out_of_the_mean():
    assert judge([0.1, 0.2], [math.nan, 0.1, 0.3], 2.0).mean_loss == pytest.approx(0.2)


@pytest.mark.parametrize("zero", [0.1, math.nan, math.inf])
def test_without_a_yardstick_the_average_must_not_be_worse_than_the_worst(zero):
    assert judge([0.5, 0.6], [0.5, 0.6], zero).verdict == "holds"
    assert judge([0.5, 0.61], [0.5, 0.6], zero).verdict == "collapses"


def test_no_member_with_a_finite_loss_is_an_expected_error():
    with pytest.raises(NonFiniteError, match="none has"):
        preflight(scalars(1, 2), lambda state: math.nan)


def test_a_way_has_two_ends():
    with pytest.raises(OptionError, match="at least 2 points"):
        preflight(scalars(1, 2), lambda state: 0.0, points=1)
