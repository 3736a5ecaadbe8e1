"""The greedy soup takes in whoever improves it, and is never worse than the best member."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ensemble.average import uniform
from ensemble.errors import NonFiniteError
from ensemble.soup import Soup, greedy_soup


def scalars(*values):
    return [{"w": torch.tensor(float(value))} for value in values]


def closeness(state):
    return -abs(float(state["w"]))


def test_members_join_in_the_order_of_their_scores_if_they_help():
    soup = greedy_soup(scalars(9, 1, -2, 1.5), closeness)
    assert soup.members == (1, 2)
    assert soup.score == -0.5
    assert soup["w"] == -0.5


def test_a_member_that_fails_does_not_keep_later_ones_out():
    soup = greedy_soup(scalars(2, 3, -4), closeness)
    assert soup.members == (0, 2)


def test_the_soup_is_a_state_that_loads():
    models = [torch.nn.Linear(2, 2) for _ in range(3)]
    soup = greedy_soup([m.state_dict() for m in models], lambda state: -state["bias"].norm())
    models[0].load_state_dict(soup, strict=True)
    assert isinstance(soup, Soup)
    assert isinstance(soup, dict)


def test_a_tie_is_no_improvement():
    assert greedy_soup(scalars(1, 2, 3), lambda state: 0.5).members == (0,)


@pytest.mark.parametrize("nan", [0, 1, 2])
def test_nan_never_wins(nan):
    def score(state):
        return math.nan if state["w"] == nan else closeness(state)

    soup = greedy_soup(scalars(0, 1, 2), score)
    assert nan not in soup.members
    assert not math.isnan(soup.score)


def test_an_average_that_scores_nan_is_not_accepted():
    def score(state):
        return closeness(state) if float(state["w"]) in (1, 2) else math.nan

    assert greedy_soup(scalars(1, 2), score).members == (0,)


def test_if_every_score_is_nan_nobody_is_best():
    with pytest.raises(NonFiniteError, match="every score is NaN"):
        greedy_soup(scalars(1, 2), lambda state: math.nan)


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=8))
@settings(deadline=None)
def test_the_soup_is_the_average_that_was_scored_and_no_worse_than_any_member(values):
    members, calls = scalars(*values), []

    def score(state):
        calls.append(state)
        return closeness(state)

    soup = greedy_soup(members, score)
    assert len(calls) <= 2 * len(members) - 1
    assert soup.score >= max(closeness(member) for member in members)
    assert soup.score == closeness(soup)
    assert torch.equal(soup["w"], uniform([members[i] for i in soup.members])["w"])
