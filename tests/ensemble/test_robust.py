"""Median and trimmed mean, element by element."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ensemble.average import uniform
from ensemble.errors import OptionError
from ensemble.robust import median, trimmed_mean
from ensemble.sorting import network

FLOATS = st.floats(allow_nan=False, allow_infinity=False)


def scalars(values):
    return [{"w": torch.tensor([value], dtype=torch.float64)} for value in values]


@pytest.mark.parametrize("count", range(1, 10))
def test_the_network_sorts_every_pattern_of_zeros_and_ones(count):
    """By the zero-one principle it then sorts everything."""
    for pattern in range(2**count):
        values = [pattern >> i & 1 for i in range(count)]
        for i, j in network(count):
            values[i], values[j] = min(values[i], values[j]), max(values[i], values[j])
        assert values == sorted(values)


@given(st.lists(FLOATS, min_size=1, max_size=40))
@settings(deadline=None)
def test_the_median_is_that_of_the_statistics_module(values):
    ordered = sorted(values)
    half = len(values) // 2
    mine = float(median(scalars(values))["w"])
    if len(values) % 2:
        assert mine == ordered[half]
    else:
        low, high = ordered[half - 1], ordered[half]
        assert low <= mine <= high
        assert mine == pytest.approx(low / 2 + high / 2, rel=1e-12, abs=1e-300)


@given(st.lists(FLOATS, min_size=1, max_size=20), st.floats(0, 0.49))
@settings(deadline=None)
def test_the_trimmed_mean_is_that_of_scipy(values, trim):
    from scipy.stats import trim_mean

    cut = int(trim * len(values) + 1e-9)
    mine = float(trimmed_mean(scalars(values), trim=trim)["w"])
    ordered = sorted(values)[cut : len(values) - cut]
    assert ordered[0] <= mine <= ordered[-1]
    largest = max(map(abs, ordered))
    if largest < 1e300:
        theirs = trim_mean(values, (cut + 0.5) / len(values)) if cut else sum(values) / len(values)
        assert mine == pytest.approx(theirs, abs=1e-12 * largest + 1e-300)


def test_without_trimming_it_is_the_uniform_average():
    states = [{"w": torch.randn(50)} for _ in range(5)]
    torch.testing.assert_close(trimmed_mean(states, trim=0.0), uniform(states))


def test_a_stray_member_does_not_move_them():
    states = [{"w": torch.full((3,), float(x))} for x in (1, 2, 3, 4)]
    stray = {"w": torch.full((3,), 1e30)}
    assert median([*states, stray])["w"].tolist() == [3.0] * 3
    assert trimmed_mean([*states, stray])["w"].tolist() == [3.0] * 3


def test_complex_numbers_are_pairs_of_reals():
    states = [{"w": torch.tensor(z)} for z in (1 + 9j, 2 + 8j, 3 + 70j)]
    assert median(states)["w"] == 2 + 9j


@pytest.mark.parametrize("trim", [-0.1, 0.5])
def test_a_share_out_of_range_is_refused(trim):
    with pytest.raises(OptionError, match=f"below 0.5, however it is {trim}"):
        trimmed_mean(scalars([1.0]), trim=trim)
