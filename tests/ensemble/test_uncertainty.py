"""Entropy, mutual information and spread: their definitions, and the identity between them."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from panels import case
from scipy import special, stats

from ensemble.predictions import pooled, weighted
from ensemble.uncertainty import entropy, mutual_information, spread


def test_entropies_agree_with_scipy() -> None:
    logits_KNC, _ = case("classification")
    expected = stats.entropy(special.softmax(logits_KNC.numpy(), -1), axis=-1)
    np.testing.assert_allclose(entropy(logits_KNC, "classification"), expected)
    odds_KNL, _ = case("multilabel")
    shares = special.expit(odds_KNL.numpy())
    expected = stats.entropy(np.stack([shares, 1 - shares]), axis=0).sum(-1)
    np.testing.assert_allclose(entropy(odds_KNL, "multilabel"), expected)


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    weights=st.lists(st.floats(0.01, 5), min_size=6, max_size=6),
)
@pytest.mark.parametrize("task", ["classification", "multilabel"])
def test_the_entropy_of_a_pool_is_its_members_and_their_disagreement(
    task: str, seed: int, weights: list[float]
) -> None:
    outputs_K, _ = case(task, seed=seed)
    shares = np.array(weights) / sum(weights)
    own_N = np.tensordot(shares, entropy(outputs_K, task).numpy(), 1)
    gained_N = mutual_information(outputs_K, task, weights)
    together = pooled(weighted, outputs_K, task, weights=weights)
    np.testing.assert_allclose(entropy(together, task), own_N + gained_N.numpy(), atol=1e-9)
    assert bool((gained_N >= 0).all())
    bound = stats.entropy(shares) * (1 if task == "classification" else 3)
    assert bool((gained_N <= bound + 1e-9).all())


def test_the_mutual_information_is_that_of_label_and_member() -> None:
    logits_KNC, _ = case("classification", count=3, rows=5)
    joint = special.softmax(logits_KNC.numpy(), -1) / 3  # (K, N, C)
    for row in range(5):
        table = joint[:, row]
        independent = np.outer(table.sum(1), table.sum(0))
        expected = (table * np.log(table / independent)).sum()
        assert float(mutual_information(logits_KNC, "classification")[row]) == pytest.approx(
            expected
        )


@pytest.mark.parametrize("task", ["classification", "multilabel"])
def test_members_that_agree_add_nothing_and_certain_ones_all(task: str) -> None:
    outputs_K, _ = case(task, count=1)
    torch.testing.assert_close(
        mutual_information(outputs_K.repeat(4, 1, 1), task),
        torch.zeros(60, dtype=torch.float64),
    )
    certain_K = torch.tensor([[[500.0, -500.0]], [[-500.0, 500.0]]])
    expected = math.log(2) * (1 if task == "classification" else 2)
    assert float(mutual_information(certain_K, task)) == pytest.approx(expected)


def test_the_spread_is_the_usual_deviation_and_weighs_members() -> None:
    values_KN, _ = case("regression")
    np.testing.assert_allclose(spread(values_KN), values_KN.numpy().std(axis=0, ddof=1))
    two_KNT = torch.stack([values_KN, 3 * values_KN], dim=-1)
    np.testing.assert_allclose(spread(two_KNT)[:, 1], 3 * spread(values_KN))
    left_out = spread(values_KN, [1, 1, 1, 1, 1, 0])
    np.testing.assert_allclose(left_out, spread(values_KN[:5]))
    assert spread(values_KN[:1]).tolist() == [0.0] * 60
