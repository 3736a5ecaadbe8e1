"""Preprocessing: what scikit-learn does, fitted on the training rows alone."""

import json

import numpy as np
import pandas as pd
import pytest
from sklearn.impute import SimpleImputer
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from zoo.data.cells import kind, numbers, text
from zoo.data.tabular import apply, fit, kinds, unseen
from zoo.errors import DataError


@pytest.fixture
def houses():
    """200 rows with two numeric columns, one of them with gaps, and a categorical one with gaps."""
    random = np.random.default_rng(0)
    area = random.lognormal(4, 0.5, 200)
    age = np.where(random.random(200) < 0.2, np.nan, random.integers(0, 90, 200))
    town = random.choice(np.array(["Rome", "Bari", "Pisa", None], dtype=object), 200)
    return pd.DataFrame({"area": area, "age": age, "town": town})


def test_features_equal_those_of_scikit_learn_fitted_on_the_same_rows(houses):
    train, test = houses[:120], houses[120:]
    fitted, _ = fit(train, kinds(houses))
    imputer, scaler = SimpleImputer(strategy="median"), StandardScaler()
    encoder = OneHotEncoder(handle_unknown="ignore", sparse_output=False)
    scaler.fit(imputer.fit_transform(train[["area", "age"]]))
    town = [
        frame[["town"]].astype(object).where(frame[["town"]].notna(), None)
        for frame in (train, test)
    ]
    encoder.fit(town[0])
    for frame, towns in ((train, town[0]), (test, town[1])):
        scaled = scaler.transform(imputer.transform(frame[["area", "age"]]))
        gaps = frame[["age"]].isna().to_numpy(dtype=float)
        wanted = np.hstack([scaled, gaps, encoder.transform(towns)])
        np.testing.assert_allclose(apply(fitted, frame).numpy(), wanted, rtol=1e-6, atol=1e-6)
    assert fitted["features"] == [
        *("area", "age", "age is missing"),
        *("town=Bari", "town=Pisa", "town=Rome", "town is missing"),
    ]


def test_other_test_rows_do_not_change_what_is_fitted(houses):
    changed = houses.copy()
    changed.loc[120:, "area"] *= 1000
    changed.loc[120:, "town"] = "Oslo"
    assert fit(houses[:120], kinds(houses)) == fit(changed[:120], kinds(changed))


def test_json_keeps_the_preprocessing_exactly(houses):
    fitted, _ = fit(houses, kinds(houses))
    again = json.loads(json.dumps(fitted, allow_nan=False))
    assert apply(again, houses).equal(apply(fitted, houses))


def test_columns_are_matched_by_name_not_by_place(houses):
    fitted, _ = fit(houses, kinds(houses))
    shuffled = houses[["town", "age", "area"]].assign(extra=1)
    assert apply(fitted, shuffled).equal(apply(fitted, houses))
    with pytest.raises(DataError, match="'age' is missing"):
        apply(fitted, houses.drop(columns="age"))


def test_a_category_unseen_in_training_is_all_zeros_and_counted():
    frame = pd.DataFrame({"town": ["a", "b", "c", None]})
    fitted, _ = fit(frame[:2], kinds(frame))
    assert apply(fitted, frame).tolist() == [[1, 0], [0, 1], [0, 0], [0, 0]]
    assert unseen(fitted, frame) == {"town": 2}


def test_a_gap_seen_only_later_takes_the_median_without_a_marker():
    frame = pd.DataFrame({"x": [1.0, 2.0, 6.0, np.nan]})
    fitted, _ = fit(frame[:3], kinds(frame))
    x = apply(fitted, frame)
    assert x.shape == (4, 1)
    assert x[3] == x[1]


def test_truth_values_are_numbers_with_gaps_marked():
    frame = pd.DataFrame({"b": pd.Series([True, False, None, True], dtype=object)})
    fitted, _ = fit(frame, kinds(frame))
    assert fitted["features"] == ["b", "b is missing"]
    assert apply(fitted, frame)[:, 1].tolist() == [0, 0, 1, 0]
    with pytest.raises(DataError, match="'b' must hold True or False, however row 1 holds 'maybe'"):
        apply(fitted, pd.DataFrame({"b": ["maybe"]}))


def test_text_in_a_numeric_column_of_new_rows_is_refused_by_row():
    fitted, _ = fit(pd.DataFrame({"x": [1, 2]}), {"x": "numeric"})
    with pytest.raises(DataError, match="'x' must hold numbers, however row 2 holds 'two'"):
        apply(fitted, pd.DataFrame({"x": ["1", "two"]}))
    with pytest.raises(DataError, match="those it was trained on"):
        apply(
            fitted | {"columns": [fitted["columns"][0] | {"scale": 1e-90}]},
            pd.DataFrame({"x": [1e90]}),
        )


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        ([1, 2], "numeric"),
        (["1", " 2.5e3"], "numeric"),
        ([None, None], "numeric"),
        (["TRUE", "false", None], "boolean"),
        (["1", "x"], "categorical"),
        (["nan?", "inf"], "categorical"),
        (pd.Categorical(["a", "b"]), "categorical"),
        (pd.array([1, None], dtype="Int64"), "numeric"),
        (pd.array([True, None], dtype="boolean"), "boolean"),
    ],
)
def test_columns_are_numbers_truth_values_or_text(values, wanted):
    column = pd.Series(values, name="c")
    assert kind(column) == wanted
    assert (text(column) == None).tolist() == column.isna().tolist()  # noqa: E711  # elementwise
    if wanted != "categorical":
        assert np.isnan(numbers(column, wanted)).tolist() == column.isna().tolist()
