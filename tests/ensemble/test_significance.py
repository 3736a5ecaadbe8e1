"""McNemar's test is scipy's binomial test; Holm's correction is what the hand calculates."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from ensemble.errors import EmptyError, EnsembleError
from ensemble.significance import holm, mcnemar


def answers(only_a: int, only_b: int, both: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    """Right answers of two models, of which so many only one has."""
    a_N = [1] * only_a + [0] * only_b + [1] * both
    b_N = [0] * only_a + [1] * only_b + [1] * both
    return torch.tensor(a_N), torch.tensor(b_N)


@given(st.integers(0, 400), st.integers(0, 400))
def test_mcnemars_test_is_the_binomial_test_of_the_rows_that_differ(only_a, only_b):
    ours = mcnemar(*answers(only_a, only_b))
    exact = stats.binomtest(only_a, only_a + only_b).pvalue if only_a + only_b else 1.0
    assert ours == pytest.approx(exact, rel=1e-9)


@pytest.mark.parametrize(("only_a", "only_b"), [(50_900, 49_100), (50_000, 50_000), (1000, 3)])
def test_many_rows_are_counted_without_overflow(only_a, only_b):
    exact = stats.binomtest(only_a, only_a + only_b).pvalue
    assert mcnemar(*answers(only_a, only_b)) == pytest.approx(exact, rel=1e-6, abs=1e-300)


def test_what_mcnemars_test_cannot_compare_is_refused():
    with pytest.raises(EnsembleError, match=r"\(3,\) and \(4,\)"):
        mcnemar(torch.ones(3), torch.ones(4))
    with pytest.raises(EmptyError, match="at least one row"):
        mcnemar(torch.ones(0), torch.ones(0))
    with pytest.raises(EnsembleError, match="rows of 0 and 1"):
        mcnemar(torch.tensor([0.5]), torch.tensor([1.0]))


def test_holms_correction_agrees_with_the_hand():
    """0.005 x 4, 0.01 x 3, 0.03 x 2; then 0.04 x 1, raised to the one before it."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.7]) == [1.0, 1.0]
    assert holm([]) == []


def test_what_is_undefined_stays_so_and_does_not_count():
    corrected = holm([0.01, math.nan, 0.04])
    assert corrected[0] == pytest.approx(0.02)
    assert math.isnan(corrected[1])
    assert corrected[2] == pytest.approx(0.04)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_a_correction_never_lowers_and_keeps_the_order(p_values):
    corrected = holm(p_values)
    assert all(p <= q <= 1 for p, q in zip(p_values, corrected, strict=True))
    order = sorted(range(len(p_values)), key=lambda k: p_values[k])
    assert [corrected[k] for k in order] == sorted(corrected)
    assert all(q <= min(1.0, len(p_values) * p) for p, q in zip(p_values, corrected, strict=True))
