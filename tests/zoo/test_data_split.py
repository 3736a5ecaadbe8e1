"""The split: disjoint, complete, stratified, seeded, and blind to copies."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zoo.data.split import grouped, split
from zoo.errors import DataError


@settings(max_examples=60, deadline=None)
@given(
    counts=st.lists(st.integers(3, 60), min_size=1, max_size=6).filter(lambda c: sum(c) >= 10),
    val=st.floats(0.01, 0.49),
    test=st.floats(0.01, 0.49),
    seed=st.integers(0, 2**31 - 1),
)
def test_every_row_is_in_one_part_and_every_class_in_all(counts, val, test, seed):
    labels = np.repeat(np.arange(len(counts)), counts)
    parts = split(np.arange(len(labels)), labels, val, test, seed)
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(labels)))
    for part in parts:
        assert set(labels[part]) == set(range(len(counts)))


def test_proportions_hold_in_every_class():
    labels = np.array([0] * 500 + [1] * 300 + [2] * 100)
    train, val, test = split(np.arange(900), labels, 0.2, 0.1, 3)
    assert np.bincount(labels[train]).tolist() == [350, 210, 70]
    assert np.bincount(labels[val]).tolist() == [100, 60, 20]
    assert np.bincount(labels[test]).tolist() == [50, 30, 10]


def test_rounding_per_class_does_not_add_up():
    labels = np.repeat(np.arange(10), 12)
    train, val, test = split(np.arange(120), labels, 0.2, 0.2, 0)
    assert (len(train), len(val), len(test)) == (72, 24, 24)


def test_the_split_depends_on_its_seed_alone():
    labels = np.zeros(50, np.int64)
    first, again, other = (split(np.arange(50), labels, 0.2, 0.2, seed)[2] for seed in (0, 0, 1))
    assert first.tolist() == again.tolist() != other.tolist()


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 30), min_size=40, max_size=80), st.integers(0, 99))
def test_copies_share_a_part(values, seed):
    groups = grouped(pd.DataFrame({"x": values}))
    if len(set(values)) < 10:
        return
    parts = split(groups, np.zeros(len(values), np.int64), 0.2, 0.2, seed)
    places = [{values[row] for row in part} for part in parts]
    assert sum(map(len, places)) == len(set(values))


def test_too_few_rows_of_a_class_are_named():
    labels = np.array([0] * 20 + [1] * 2)
    with pytest.raises(DataError, match="1 of 2 have fewer: 'rare'; merge"):
        split(np.arange(22), labels, 0.2, 0.2, 0, names=("common", "rare"))
