"""Weights by convex optimisation: the conditions of a minimum, and other ways to find it."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from panels import LOSSES, case, loss_of
from scipy import special
from scipy.optimize import nnls
from torch import Tensor

from ensemble.blending import convex_weights
from ensemble.errors import EnsembleError, NonFiniteError
from ensemble.predictions import pooled, weighted


def slopes(outputs_K: Tensor, task: str, truth: Tensor, weights: list[float]) -> Tensor:
    """The gradient of the loss in the weights, before they are divided by their sum."""
    own = torch.tensor(weights, dtype=torch.float64, requires_grad=True)
    if task == "regression":
        together = torch.tensordot(own, outputs_K.double(), 1)
    elif task == "multilabel":
        share = torch.tensordot(own, outputs_K.double().sigmoid(), 1)
        rest = torch.tensordot(own, (-outputs_K.double()).sigmoid(), 1)
        together = share.log() - rest.log()
        nll = -(truth * share.log() + (1 - truth) * rest.log()).mean()
        (slope_K,) = torch.autograd.grad(nll, own)
        return slope_K
    else:
        share = torch.tensordot(own, outputs_K.double().softmax(-1), 1)
        nll = -share.log()[torch.arange(len(truth)), truth].mean()
        (slope_K,) = torch.autograd.grad(nll, own)
        return slope_K
    (slope_K,) = torch.autograd.grad((together - truth).square().mean(), own)
    return slope_K


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**16), count=st.integers(1, 8))
@pytest.mark.parametrize("task", LOSSES)
def test_the_conditions_of_a_minimum_hold(task: str, seed: int, count: int) -> None:
    """Karush, Kuhn and Tucker: one slope where a weight is positive, no lower one elsewhere."""
    outputs_K, truth = case(task, count, rows=50, seed=seed)
    weights = convex_weights(outputs_K, truth, task)["weights"]
    assert math.fsum(weights) == pytest.approx(1)
    assert min(weights) >= 0
    slope_K = slopes(outputs_K, task, truth, weights)
    support = torch.tensor(weights) > 1e-3
    level = slope_K[support].mean()
    torch.testing.assert_close(
        slope_K[support], level.expand(int(support.sum())), atol=2e-3, rtol=0
    )
    assert bool((slope_K >= level - 2e-3).all())


def test_squared_error_agrees_with_nonnegative_least_squares() -> None:
    outputs_K, truth_N = case("regression", count=7, rows=80)
    heavy = 1e6  # makes the weights sum to one
    a = np.vstack([outputs_K.numpy().T, np.full((1, 7), heavy)])
    expected, _ = nnls(a, np.append(truth_N.numpy(), heavy))
    found = convex_weights(outputs_K, truth_N, "regression")["weights"]
    np.testing.assert_allclose(found, expected, atol=2e-3)


@pytest.mark.parametrize("far", [1e2, 1e3, 1e5, 1e15])
def test_a_member_that_is_far_off_does_not_hide_the_minimum_of_the_others(far: float) -> None:
    outputs_K, truth_N = case("regression", count=5, rows=80)
    alone = convex_weights(outputs_K, truth_N, "regression")["weights"]
    wild_KN = torch.randn(2, 80, generator=torch.Generator().manual_seed(0)).double() * far
    outputs_K = torch.cat([wild_KN, outputs_K])
    found = convex_weights(outputs_K, truth_N, "regression")["weights"]
    lowest, reached = (
        (torch.tensor(weights).double() @ outputs_K - truth_N).square().mean()
        for weights in ([0.0, 0.0, *alone], found)
    )
    assert reached <= lowest * (1 + 1e-6)


def test_the_likelihood_agrees_with_expectation_maximisation() -> None:
    outputs_K, labels_N = case("classification", count=5, rows=80)
    shares_KN = special.softmax(outputs_K.numpy(), -1)[:, np.arange(80), labels_N.numpy()]
    weights = np.full(5, 0.2)
    for _ in range(20_000):
        responsible = weights[:, None] * shares_KN
        weights = (responsible / responsible.sum(0)).mean(1)
    found = convex_weights(outputs_K, labels_N, "classification")["weights"]
    np.testing.assert_allclose(found, weights, atol=2e-3)


@pytest.mark.parametrize("task", LOSSES)
def test_no_other_weights_are_better(task: str) -> None:
    outputs_K, truth = case(task)
    loss = loss_of(task, truth)
    found = convex_weights(outputs_K, truth, task)
    best = loss(pooled(weighted, outputs_K, task, **found))
    generator = np.random.default_rng(0)
    for weights in [*np.eye(6), *generator.dirichlet(np.ones(6), size=50)]:
        assert best <= loss(pooled(weighted, outputs_K, task, weights=weights.tolist())) + 1e-6


def test_targets_of_different_units_count_alike() -> None:
    values_KN, truth_N = case("regression", rows=200)
    other_KN, other_N = case("regression", rows=200, seed=1)
    both_KNT = torch.stack([values_KN, 1000 * other_KN], dim=-1)
    truth_NT = torch.stack([truth_N, 1000 * other_N], dim=-1)
    found = convex_weights(both_KNT, truth_NT, "regression")["weights"]
    same = convex_weights(
        torch.stack([values_KN, other_KN], -1), torch.stack([truth_N, other_N], -1), "regression"
    )["weights"]
    np.testing.assert_allclose(found, same, atol=1e-4)


def test_members_that_are_alike_or_certain_or_constant_have_weights() -> None:
    outputs_K, labels_N = case("classification", count=1)
    found = convex_weights(outputs_K.repeat(200, 1, 1), labels_N, "classification")["weights"]
    np.testing.assert_allclose(found, np.full(200, 1 / 200), atol=1e-4)
    certain_KNC = torch.zeros(2, 4, 3)
    certain_KNC[0, :, 0] = 3000.0  # sure, and never right
    certain_KNC[1, :, 1] = 3000.0
    found = convex_weights(certain_KNC, torch.ones(4, dtype=torch.int64), "classification")
    assert found["weights"] == [0, 1]
    constant_N = torch.full((5,), 3.0)
    found = convex_weights(torch.tensor([[3.0] * 5, [4.0] * 5]), constant_N, "regression")
    assert found["weights"] == pytest.approx([1, 0], abs=1e-3)


def test_a_search_that_finds_no_minimum_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    from scipy import optimize

    search = optimize.minimize

    def hasty(*args: object, **options: object) -> object:
        return search(*args, **{**options, "options": {"maxiter": 1}})

    monkeypatch.setattr(optimize, "minimize", hasty)
    outputs_K, labels_N = case("classification", count=5, rows=80)
    with pytest.raises(EnsembleError, match="must have a minimum of the loss, however: Iteration"):
        convex_weights(outputs_K, labels_N, "classification")


def test_a_member_that_predicts_infinity_is_named() -> None:
    outputs_K, truth = case("regression")
    outputs_K[2, 7] = math.inf
    with pytest.raises(NonFiniteError, match="member #2 in 1 of 60 rows, first in row 7"):
        convex_weights(outputs_K, truth, "regression")
