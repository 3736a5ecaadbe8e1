"""Selection: Caruana's algorithm with AutoGluon's rules, and the best few within a budget."""

import itertools
import math
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from panels import LOSSES, case, loss_of
from scipy import special
from sklearn.metrics import accuracy_score, log_loss, mean_squared_error
from torch import Tensor

from ensemble.errors import EnsembleError, NonFiniteError, OptionError
from ensemble.predictions import pooled, weighted
from ensemble.scores import accuracy
from ensemble.selection import budgeted_selection, greedy_selection


def reference(
    predictions: list[np.ndarray], regret, second, size: int
) -> tuple[list[int], list[float]]:
    """What AutoGluon's EnsembleSelection does, in other words, without drawing among the last.

    After the first model regrets are rounded to six decimals, unless the first is tiny; a model in
    use is preferred, then the second metric; what follows the first minimum is cut off.
    """
    order: list[int] = []
    trajectory: list[float] = []
    rounding = False

    def lowest(regrets: np.ndarray) -> list[int]:
        regrets = np.where(np.isfinite(regrets), regrets, np.inf)
        return np.flatnonzero(np.isclose(regrets, regrets.min(), atol=0, rtol=1e-12)).tolist()

    for s in range(size):
        grown = [np.mean([*(predictions[i] for i in order), p], axis=0) for p in predictions]
        regrets = np.array([regret(one) for one in grown])
        if rounding:
            regrets = regrets.round(6)
        best = lowest(regrets)
        best = [j for j in best if j in order] or best
        if len(best) > 1:
            best = [best[k] for k in lowest(np.array([second(grown[j]) for j in best]))]
        value = regrets[best[0]]
        if s == 0 and abs(value) > 1e-4:
            rounding, value = True, value.round(6)
        order.append(best[0])
        trajectory.append(value)
        if len(predictions) == 1:
            break
    stop = trajectory.index(min(trajectory)) + 1
    return order[:stop], trajectory[:stop]


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**16), rounds=st.integers(1, 25), count=st.integers(1, 7))
@pytest.mark.parametrize("metric", ["accuracy", "nll", "rmse"])
def test_greedy_selection_is_autogluons(metric: str, seed: int, rounds: int, count: int) -> None:
    task = "regression" if metric == "rmse" else "classification"
    outputs_K, truth = case(task, count, rows=25, seed=seed)
    y = truth.numpy()
    if metric == "rmse":
        shares = list(outputs_K.numpy())

        def regret(prediction):
            return math.sqrt(mean_squared_error(y, prediction))

        second = regret
        found = greedy_selection(
            outputs_K, task, lambda p: -math.sqrt(loss_of(task, truth)(p)), rounds=rounds
        )
    else:
        shares = list(special.softmax(outputs_K.numpy(), axis=-1))

        def second(prediction):
            return log_loss(y, prediction / prediction.sum(1, keepdims=True), labels=range(4))

        def regret(prediction):
            if metric == "nll":
                return second(prediction)
            return 1 - accuracy_score(y, prediction.argmax(axis=1))

        def score(log_NC: Tensor) -> float:
            if metric == "nll":
                return -loss_of(task, truth)(log_NC)
            return float(accuracy(log_NC, truth).mean())

        found = greedy_selection(outputs_K, task, score, loss_of(task, truth), rounds=rounds)
    order, _ = reference(shares, regret, second, rounds)
    times = Counter(order)
    expected = [times[k] / len(order) for k in range(count)]
    assert found["weights"] == pytest.approx(expected)


@pytest.mark.parametrize("task", LOSSES)
def test_a_selection_is_no_worse_than_its_best_member_where_it_was_chosen(task: str) -> None:
    outputs_K, truth = case(task)
    loss = loss_of(task, truth)
    found = greedy_selection(outputs_K, task, lambda predictions: -loss(predictions))
    assert math.fsum(found["weights"]) == pytest.approx(1)
    together = loss(pooled(weighted, outputs_K, task, **found))
    alone = [loss(pooled(weighted, outputs_K[k : k + 1], task, weights=[1])) for k in range(6)]
    assert together <= min(alone) + 1e-6


def test_ties_prefer_members_that_are_there_then_the_lower_loss_then_the_first() -> None:
    truth_N = torch.zeros(4)
    same_KN = torch.ones(3, 4)
    found = greedy_selection(same_KN, "regression", lambda values_N: 0.0)
    assert found["weights"] == [1, 0, 0], "what comes after the first of the best is dropped"
    unlike_KN = torch.tensor([[3.0] * 4, [1.0] * 4, [2.0] * 4])
    loss = loss_of("regression", truth_N)
    assert greedy_selection(unlike_KN, "regression", lambda v: 0.0, loss)["weights"] == [0, 1, 0]
    nearly = iter([1.0, 0.5, 0.5, 2.0, 2.0 + 4e-7, 2.0 - 4e-7])
    found = greedy_selection(unlike_KN, "regression", lambda v: next(nearly), rounds=2)
    assert found["weights"] == [1, 0, 0], (
        "scores are rounded to six digits, and it is there already"
    )
    nearly = iter([-5e-5, -6e-5, -7e-5, -2e-7, -1e-7, -3e-7])
    found = greedy_selection(unlike_KN, "regression", lambda v: next(nearly), rounds=2)
    assert found["weights"] == [0.5, 0.5, 0], "unless they are tiny"


def test_bags_are_drawn_from_the_members_by_their_seed_and_averaged() -> None:
    outputs_K, truth = case("classification", count=9)
    loss = loss_of("classification", truth)

    def chosen(**options: float) -> list[float]:
        return greedy_selection(outputs_K, "classification", lambda p: -loss(p), **options)[
            "weights"
        ]

    one = chosen(bags=20, seed=3)
    assert chosen(bags=20, seed=3) == one != chosen(bags=20, seed=4)
    assert math.fsum(one) == pytest.approx(1)
    assert sum(weight > 0 for weight in one) >= sum(weight > 0 for weight in chosen())
    assert chosen(bags=5, share=1.0) == pytest.approx(chosen()), "whole bags are all alike"
    generator = torch.Generator().manual_seed(7)
    drawn = sorted(torch.randperm(9, generator=generator)[:4].tolist())
    one_bag = greedy_selection(outputs_K[drawn], "classification", lambda p: -loss(p))["weights"]
    generator = torch.Generator().manual_seed(7)
    drawn_two = [sorted(torch.randperm(9, generator=generator)[:4].tolist()) for _ in range(2)]
    other = greedy_selection(outputs_K[drawn_two[1]], "classification", lambda p: -loss(p))
    expected = np.zeros(9)
    expected[drawn] += np.array(one_bag) / 2
    expected[drawn_two[1]] += np.array(other["weights"]) / 2
    assert chosen(bags=2, seed=7, share=4 / 9) == pytest.approx(expected.tolist())


def test_two_hundred_members_are_chosen_from() -> None:
    outputs_K, truth = case("classification", count=200, rows=40)
    loss = loss_of("classification", truth)
    found = greedy_selection(outputs_K, "classification", lambda p: -loss(p), rounds=5)
    assert len(found["weights"]) == 200
    assert 1 <= sum(weight > 0 for weight in found["weights"]) <= 5


def test_a_single_member_is_chosen_at_once() -> None:
    outputs_K, _ = case("regression", count=1)
    calls = []
    found = greedy_selection(outputs_K, "regression", lambda values_N: calls.append(0) or 1.0)
    assert found == {"weights": [1.0]}
    assert len(calls) == 1


def test_scores_that_are_undefined_choose_nobody() -> None:
    outputs_K, _ = case("regression")
    half = iter([math.nan, 0.5, *[math.nan] * 4])
    found = greedy_selection(outputs_K, "regression", lambda values_N: next(half), rounds=1)
    assert found["weights"] == [0, 1, 0, 0, 0, 0]
    with pytest.raises(EnsembleError, match="undefined or infinitely bad for all"):
        greedy_selection(outputs_K, "regression", lambda values_N: math.nan)


@pytest.mark.parametrize(
    "options", [{"rounds": 0}, {"bags": 0}, {"share": 0.0}, {"share": 1.5}, {"share": math.nan}]
)
def test_options_out_of_range_are_refused(options: dict[str, float]) -> None:
    outputs_K, _ = case("regression")
    with pytest.raises(OptionError, match="rounds and bags must be at least 1 and share"):
        greedy_selection(outputs_K, "regression", lambda values_N: 0.0, **options)


def test_a_member_that_predicts_nan_is_named() -> None:
    outputs_K, truth = case("classification")
    outputs_K[4, 3] = math.nan
    loss = loss_of("classification", truth)
    with pytest.raises(NonFiniteError, match="member #4"):
        greedy_selection(outputs_K, "classification", loss)
    with pytest.raises(NonFiniteError, match="member #4"):
        budgeted_selection(outputs_K, "classification", loss, lambda chosen, rows: 1.0)


# Within a budget


def price(outputs_K: Tensor, task: str, truth: Tensor, chosen, diversity: float = 0.0) -> float:
    loss = loss_of(task, truth)

    def of(some) -> float:
        return loss(pooled(weighted, outputs_K[list(some)], task, weights=[1.0] * len(some)))

    gained = np.mean([of([k]) for k in chosen]) - of(chosen)
    return of(chosen) - diversity * gained


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**16), diversity=st.sampled_from([0.0, 0.5]))
@pytest.mark.parametrize("task", LOSSES)
def test_a_budget_is_kept_and_no_exchange_improves_on_it(
    task: str, seed: int, diversity: float
) -> None:
    outputs_K, truth = case(task, rows=30, seed=seed)
    times = [3.0, 1.0, 2.0, 1.0, 1.0, 2.0]

    def cost(chosen, rows: int) -> float:
        assert rows == 8
        return math.fsum(times[k] for k in chosen)

    found = budgeted_selection(
        outputs_K, task, loss_of(task, truth), cost, members=3, ms=4.0, batch=8, diversity=diversity
    )
    chosen = [k for k, weight in enumerate(found["weights"]) if weight]
    assert found["weights"] == [1 / len(chosen) if k in chosen else 0 for k in range(6)]
    assert len(chosen) <= 3
    assert cost(chosen, 8) <= 4
    mine = price(outputs_K, task, truth, chosen, diversity)
    for place, other in itertools.product(range(len(chosen)), set(range(6)) - set(chosen)):
        swapped = [*chosen[:place], other, *chosen[place + 1 :]]
        if cost(swapped, 8) <= 4:
            assert mine <= price(outputs_K, task, truth, swapped, diversity) + 2e-6
    singles = [k for k in range(6) if times[k] <= 4]
    best_alone = min(price(outputs_K, task, truth, [k], diversity) for k in singles)
    assert mine <= best_alone + 1e-6


def test_of_few_members_the_best_subset_is_found() -> None:
    hits = 0
    for seed in range(10):
        outputs_K, truth = case("classification", count=5, rows=30, seed=seed)
        loss = loss_of("classification", truth)
        found = budgeted_selection(
            outputs_K, "classification", loss, lambda chosen, rows: len(chosen), members=2
        )
        mine = price(
            outputs_K, "classification", truth, [k for k, w in enumerate(found["weights"]) if w]
        )
        every = [c for size in (1, 2) for c in itertools.combinations(range(5), size)]
        best = min(price(outputs_K, "classification", truth, chosen) for chosen in every)
        hits += mine <= best + 2e-6
    assert hits >= 9


def test_where_more_are_asked_for_than_there_are_or_have_the_time_it_ends_with_fewer() -> None:
    outputs_K = torch.tensor([[2.0, 2.0], [-1.0, -1.0], [-2.0, -2.0]])
    loss = loss_of("regression", torch.zeros(2))
    found = budgeted_selection(
        outputs_K, task="regression", members=9, loss=loss, cost=lambda chosen, batch: 0.0, ms=1.0
    )
    assert found["weights"] == pytest.approx([1 / 3] * 3)
    found = budgeted_selection(
        outputs_K,
        task="regression",
        members=9,
        loss=loss,
        cost=lambda chosen, batch: len(chosen) - 1.0,
        ms=1.0,
    )
    assert found["weights"] == [0.5, 0.0, 0.5]


def test_diversity_prefers_members_that_differ() -> None:
    truth_N = torch.zeros(40)
    generator = torch.Generator().manual_seed(0)
    noise_N = torch.randn(40, generator=generator)
    twin_N = noise_N + 0.01
    opposite_N = -1.2 * noise_N + 0.9  # cancels the noise, at a bias
    values_KN = torch.stack([noise_N, twin_N, opposite_N])
    loss = loss_of("regression", truth_N)

    def chosen(diversity: float) -> list[int]:
        found = budgeted_selection(
            values_KN, "regression", loss, lambda c, rows: 1.0, members=2, diversity=diversity
        )
        return [k for k, weight in enumerate(found["weights"]) if weight]

    def spread_of(some) -> float:
        return float(values_KN[some].var(dim=0, correction=0).mean())

    assert spread_of(chosen(5.0)) >= spread_of(chosen(0.0))
    assert 2 in chosen(5.0)


def test_a_budget_that_nobody_keeps_is_refused_with_what_the_fastest_takes() -> None:
    outputs_K, truth = case("regression")
    with pytest.raises(OptionError, match=r"predict 64 rows in ms=0\.5, .* the fastest takes 2 ms"):
        budgeted_selection(
            outputs_K, "regression", loss_of("regression", truth), lambda c, r: 2.0 + c[0], ms=0.5
        )


@pytest.mark.parametrize("options", [{"members": 0}, {"batch": 0}, {"diversity": -1.0}])
def test_budgets_out_of_range_are_refused(options: dict[str, float]) -> None:
    outputs_K, truth = case("regression")
    with pytest.raises(OptionError, match="members and batch must be at least 1"):
        budgeted_selection(
            outputs_K, "regression", loss_of("regression", truth), lambda c, r: 1.0, **options
        )
