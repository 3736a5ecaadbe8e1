"""Columns that name rows are not learnt from, and do not hide copies from the split."""

import numpy as np
import pandas as pd
import pytest

from zoo.data import load
from zoo.data.roles import ID
from zoo.sections import DataConfig


@pytest.mark.parametrize(
    "name",
    [
        *("id", "Id", "ID", "USER_ID", "user id", "user.Id", "CustomerID", "PassengerId"),
        *("Index", "row_number", "RowNum", "GUID", "Unnamed: 0"),
    ],
)
def test_usual_names_of_identifiers_are_known(name):
    assert ID.fullmatch(name)


@pytest.mark.parametrize("name", ["paid", "humid", "grid", "idle", "ids_seen", "Madrid", "GRID"])
def test_words_that_only_end_like_one_are_none(name):
    assert not ID.fullmatch(name)


def written_twice(rows=120):
    """Rows that each come twice, under numbers and names of their own."""
    random = np.random.default_rng(0)
    once = pd.DataFrame({"a": random.normal(size=rows), "y": random.normal(size=rows)})
    frame = pd.concat([once, once], ignore_index=True)
    texts = [f"n{i} has much to tell" for i in range(2 * rows)]
    return frame.assign(Id=range(2 * rows), who=[f"w{i}" for i in range(2 * rows)], essay=texts)


@pytest.mark.parametrize(
    "settings",
    [{}, {"folds": 4, "fold": 1}, {"bootstrap": True, "fold": 3}, {"split": "group", "group": "g"}],
    ids=["at random", "folds", "draws", "groups"],
)
def test_copies_under_other_identifiers_never_straddle(settings):
    frame = written_twice()
    frame = frame.assign(g=np.arange(len(frame)) // 3) if "group" in settings else frame
    data = load(DataConfig(ref="twice", target="y", **settings), frame)
    assert data.preprocessing["features"] == ["a"]
    train, val, test = (set(part.x[:, 0].tolist()) for part in (data.train, data.val, data.test))
    assert not train & val | train & test | val & test
    assert "120 rows repeat another row in all that can be learnt from" in " ".join(data.notes)
    assert data.preprocessing["schema"]["columns"]["Id"] == "numeric"


def test_an_identifier_that_was_declared_counts_again():
    columns = {"Id": "numeric", "who": "drop", "essay": "drop"}
    data = load(DataConfig(ref="twice", target="y", columns=columns), written_twice())
    assert data.preprocessing["features"] == ["a", "Id"]
    assert not any("repeat" in note for note in data.notes)


def test_identifiers_may_say_in_which_order_rows_come():
    frame = pd.DataFrame({"index": range(50), "x": np.arange(50) % 13, "y": np.arange(50) % 17 / 2})
    data = load(DataConfig(ref="t", target="y", split="time", time="index"), frame)
    assert data.preprocessing["features"] == ["x"]
    assert data.rows[2].tolist() == list(range(40, 50))
