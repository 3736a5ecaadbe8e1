"""Targets: every task from columns to tensors, and every fault with its one line."""

import contextlib

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from zoo.config import parse
from zoo.data import Data, fitting, load
from zoo.data.targets import as_target, as_targets
from zoo.errors import ConfigError, DataError
from zoo.sections import DataConfig

N = 90


@pytest.fixture
def table(tmp_path):
    """Write columns, a feature ``x`` added, as CSV and load them."""

    def read(columns, target, **options) -> Data:
        x = np.random.default_rng(0).normal(size=N)
        path = tmp_path / "table.csv"
        pd.DataFrame({"x": x, **columns}).to_csv(path, index=False)
        return load(DataConfig(ref=str(path), target=target, **options))

    return read


def refusal(act):
    with pytest.raises(DataError) as caught:
        act()
    message = str(caught.value)
    assert "\n" not in message
    return message


def parts(data):
    return data.train, data.val, data.test


def binary(seed, rate=0.4):
    return (np.random.default_rng(seed).random(N) < rate).astype(int)


# Labels


def test_columns_of_zeros_and_ones_or_truth_values_are_labels(table):
    a, b = binary(1), binary(2)
    words = np.where(b == 1, "True", "False")
    data = table({"a": a, "b": words}, ["a", "b"])
    assert (data.task, data.classes, data.outputs, data.shape) == (
        "multilabel",
        ("a", "b"),
        2,
        (1,),
    )
    y = torch.cat([part.y for part in parts(data)])
    assert y.dtype == torch.float32
    assert y.sum(0).tolist() == [a.sum(), b.sum()]
    assert any("'a', 'b': 2 labels" in note for note in data.notes)


def test_labels_in_text_are_separated_by_either_mark(table):
    cells = ["red; blue", "blue|red", "green", ";", " red ", "blue;blue", "green|"] * 13
    data = table({"tags": cells[:N]}, "tags", task="multilabel")
    assert data.classes == ("blue", "green", "red")
    y = as_target(pd.Series(cells[:7]), "multilabel").values
    assert y.tolist() == [
        [1, 0, 1],
        [1, 0, 1],
        [0, 1, 0],
        [0, 0, 0],
        [0, 0, 1],
        [1, 0, 0],
        [0, 1, 0],
    ]
    guessed = table({"tags": cells[:N]}, "tags")
    assert guessed.task == "classification"
    assert any("data.task=multilabel" in note for note in guessed.notes)


def test_rows_that_lack_any_target_are_left_out_and_counted(table):
    a, b = binary(1).astype(object), binary(2).astype(object)
    a[[3, 4]] = b[[4, 5, 6]] = None
    data = table({"a": a, "b": b}, ["a", "b"])
    assert sum(map(len, parts(data))) == N - 4
    assert any("4 rows without a value in 'a' or 'b' were left out" in n for n in data.notes)


# Quantities


def test_each_of_several_targets_is_standardised_by_its_own_training_rows(table):
    drawn = np.random.default_rng(3)
    columns = {"price": drawn.normal(300, 40, N), "rent": drawn.normal(1, 0.1, N)}
    data = table(columns, ["price", "rent"])
    assert (data.task, data.outputs, data.classes) == ("regression", 2, ())
    assert data.train.y.shape == (len(data.train), 2)
    torch.testing.assert_close(data.train.y.mean(0), torch.zeros(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(data.train.y.std(0, correction=0), torch.ones(2))
    back = data.units().restore(torch.cat([part.y for part in parts(data)]))
    np.testing.assert_allclose(
        np.sort(back, axis=0), np.sort(np.stack(list(columns.values()), 1), axis=0), rtol=1e-5
    )


def test_one_of_a_list_is_that_column_itself(table):
    columns = {"price": np.random.default_rng(3).normal(300, 40, N)}
    one, listed = table(columns, "price"), table(columns, ["price"])
    assert one.split_hash == listed.split_hash
    assert torch.equal(one.train.y, listed.train.y)
    assert DataConfig(ref="t", target=["a"]) == DataConfig(ref="t", target="a")


def test_zeros_and_ones_are_quantities_where_that_is_asked_for(table):
    data = table({"a": binary(1), "b": binary(2)}, ["a", "b"], task="regression")
    assert data.units().transform == "none"
    mixed = table({"a": binary(1), "b": np.arange(N)}, ["a", "b"])
    assert mixed.task == "regression"


def test_a_transform_is_fitted_on_training_rows_alone(table):
    values = np.random.default_rng(4).lognormal(0, 1, N)
    data = table({"y": values}, "y", target_transform="log1p")
    units = data.units()
    learnt = units.restore(data.train.y, predicted=False).log1p()
    torch.testing.assert_close(units.offset_T, learnt.mean().reshape(1), rtol=1e-5, atol=1e-5)
    assert units.high_T.item() == pytest.approx(data.train.y.max().item() + 1, rel=1e-5)


# Faults


def test_every_fault_of_targets_is_one_line(table):
    a, b, text = binary(1), binary(2), ["u", "v", "w"] * 30
    both = ["a", "b"]
    one, zero = np.ones(N, int), np.zeros(N, int)
    inf = np.arange(N) * 1.0
    inf[7] = np.inf
    faults = {
        "'b' is in all; leave it out": lambda: table({"a": a, "b": one}, both),
        "'b' is in none; leave it out": lambda: table({"a": a, "b": zero}, both),
        "at least two classes": lambda: table({"y": ["u"] * N}, "y"),
        "takes one target": lambda: table({"a": a, "b": b}, both, task="classification"),
        "0 or 1, true or false, however 'b' does not": lambda: table(
            {"a": a, "b": text}, both, task="multilabel"
        ),
        "needs a numeric target, however 'b' holds 'u'": lambda: table({"a": a, "b": text}, both),
        "no row has any": lambda: table({"y": [";"] * N}, "y", task="multilabel"),
        "column 'y' must hold finite numbers": lambda: table({"y": inf}, "y"),
        "is for quantities": lambda: table({"y": text}, "y", target_transform="log1p"),
        "it has no 'c'": lambda: table({"a": a, "b": b}, ["a", "c"]),
        "needs a table": lambda: load(DataConfig(ref="digits", task="multilabel")),
        "every row lacks one": lambda: table({"a": [None] * N, "b": b}, both),
        "'b' must vary, however every row is 5": lambda: table(
            {"a": np.arange(N), "b": one * 5}, both
        ),
        "3 distinct rows": lambda: table({"y": ["u", "v"] * 44 + ["v", "rare"]}, "y"),
    }
    for fact, act in faults.items():
        assert fact in refusal(act)


def test_a_class_or_label_that_training_rows_lack_is_refused_by_name():
    classes = as_target(pd.Series(["u", "v", "w"] * 5))
    assert "'w' is not; merge or drop it" in refusal(
        lambda: fitting.fit(classes, np.array([0, 1, 3, 4]))
    )
    labels = as_targets(pd.DataFrame({"a": [0, 1, 0, 1], "b": [1, 0, 0, 1], "c": [0, 0, 1, 1]}))
    message = refusal(lambda: fitting.fit(labels, np.array([1, 3])))
    assert "every label must be there in some training rows and not in others" in message
    assert "'a' is not" in message


@pytest.mark.parametrize(
    ("target", "says"),
    [
        (["a", "b", "a"], "a column may be a target once, however 'a' came twice"),
        ([], "however it is empty"),
        (3, "however it is 3"),
        (["a", 3], "a list of names"),
    ],
)
def test_what_names_no_columns_is_refused_before_the_data_are_read(target, says):
    with pytest.raises(ConfigError, match=r"^data\.target: ") as caught:
        parse({"data": {"ref": "nowhere.csv", "target": target}})
    assert says in str(caught.value)


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    cells=st.lists(
        st.one_of(st.none(), st.integers(-2, 3), st.floats(), st.text(max_size=3), st.booleans()),
        min_size=1,
        max_size=12,
    ),
    task=st.sampled_from([None, "classification", "multilabel", "regression"]),
    transform=st.sampled_from(["none", "log1p", "yeo-johnson"]),
    several=st.booleans(),
)
def test_any_cells_give_tensors_or_one_line(table, cells, task, transform, several):
    column = (cells * N)[:N]
    columns = {"y": column, "z": column[::-1]} if several else {"y": column}
    with contextlib.suppress(DataError):
        data = table(columns, list(columns), task=task, target_transform=transform)
        assert data.train.y.isfinite().all()
