"""Preprocessing: what scikit-learn does, fitted on the training rows alone."""

import json

import numpy as np
import pandas as pd
import pytest
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import (
    OneHotEncoder,
    QuantileTransformer,
    RobustScaler,
    StandardScaler,
)

from zoo.data import apply, apply_counting, leaks, load, scaling
from zoo.data.cells import kind, numbers, times
from zoo.data.tabular import fit, kinds
from zoo.data.words import text
from zoo.errors import DataError
from zoo.sections import DataConfig


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
    x, gaps = apply_counting(fitted, frame)
    assert x.tolist() == [[1, 0], [0, 1], [0, 0], [0, 0]]
    assert gaps == {("town", "unseen"): 1, ("town", "missing"): 1}


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


SCALERS = {
    "standard": lambda rows: StandardScaler(),
    "robust": lambda rows: RobustScaler(),
    "quantile": lambda rows: QuantileTransformer(
        n_quantiles=min(scaling.QUANTILES, rows), output_distribution="normal", subsample=None
    ),
}


@pytest.mark.parametrize("how", SCALERS)
@pytest.mark.parametrize("rows", [120, 1500])
def test_preprocessing_equals_the_column_transformer_of_scikit_learn(how, rows):
    random = np.random.default_rng(1)
    count = rows + 300
    frame = pd.DataFrame(
        {
            "area": random.lognormal(4, 0.5, count),
            "age": np.where(random.random(count) < 0.2, np.nan, random.integers(0, 90, count)),
            "zeros": np.where(random.random(count) < 0.9, 0.0, random.normal(size=count)),
            "town": random.choice(np.array(["Rome", "Bari", "Pisa"], dtype=object), count),
        }
    )
    frame.loc[rows:, "town"] = random.choice(np.array(["Rome", "Oslo"], dtype=object), 300)
    train = frame[:rows]
    impute = SimpleImputer(strategy="median", add_indicator=True)
    # The indicator is not scaled, so it is added after the scaler.
    steps = [
        (f"{name}", make_pipeline(SimpleImputer(strategy="median"), SCALERS[how](rows)), [name])
        for name in ("area", "age", "zeros")
    ]
    steps.insert(2, ("gaps", impute, ["age"]))
    steps.append(("town", OneHotEncoder(handle_unknown="ignore", sparse_output=False), ["town"]))
    theirs = ColumnTransformer(steps).fit(train)
    fitted, _ = fit(train, kinds(frame), how=how)
    wanted = np.delete(theirs.transform(frame), 2, axis=1)  # what was imputed before scaling
    np.testing.assert_allclose(apply(fitted, frame).numpy(), wanted, rtol=1e-4, atol=1e-4)
    assert apply(json.loads(json.dumps(fitted)), frame).equal(apply(fitted, frame))


def test_times_become_days_and_places_in_the_cycles_they_go_through():
    days = pd.date_range("2024-01-01", periods=60, freq="D")
    frame = pd.DataFrame({"day": days, "moment": days + pd.to_timedelta(range(60), unit="h")})
    frame.loc[5, "day"] = None
    fitted, _ = fit(frame, kinds(frame))
    cycles = [f"{turn} {cycle}" for cycle in ("month", "weekday") for turn in ("sin", "cos")]
    assert fitted["features"] == [
        *("day in days", *(f"day {cycle}" for cycle in cycles), "day is missing"),
        *("moment in days", *(f"moment {cycle}" for cycle in cycles)),
        *("moment sin hour", "moment cos hour"),
    ]
    x = apply(fitted, frame).numpy()
    elapsed = pd.Series(np.arange(60.0)).where(frame["day"].notna())
    filled = elapsed.fillna(elapsed.median())
    np.testing.assert_allclose(x[:, 0], (filled - filled.mean()) / filled.std(ddof=0), atol=1e-6)
    assert x[5, 1:6].tolist() == [0, 0, 0, 0, 1]
    february = x[40, 1:3]
    np.testing.assert_allclose(february, [np.sin(np.pi / 6), np.cos(np.pi / 6)], atol=1e-6)
    np.testing.assert_allclose(x[0, 3:5], [0, 1], atol=1e-6)  # a Monday
    as_text = frame.astype(object).map(lambda time: str(time) if time is not pd.NaT else None)
    assert apply(fitted, as_text).equal(apply(fitted, frame))


def test_time_zones_are_taken_to_utc_and_never_guessed():
    zoned = pd.DataFrame({"t": ["2024-01-01T00:30+01:00", "2024-01-02T12:00Z", None] * 5})
    fitted, notes = fit(zoned, kinds(zoned))
    assert any("taken to UTC" in note for note in notes)
    assert times(zoned["t"])[0] == pd.Timestamp("2023-12-31T23:30Z")
    elsewhere = pd.DataFrame({"t": times(zoned["t"]).dt.tz_convert("Asia/Tokyo")})
    assert apply(fitted, elsewhere).equal(apply(fitted, zoned))
    with pytest.raises(DataError, match="'t' must hold times with a time zone, as in training"):
        apply(fitted, pd.DataFrame({"t": ["2024-01-01 10:00"]}))
    mixed = pd.DataFrame({"t": ["2024-01-01", "2024-01-01T10:00Z"], "y": [1, 2]})
    with pytest.raises(DataError, match="row 2 holds '2024-01-01T10:00Z' and row 1"):
        load(DataConfig(ref="mixed", target="y"), mixed)
    with pytest.raises(DataError, match="row 1 holds '2024-02-30'"):
        times(pd.Series(["2024-02-30"], name="t"))


def test_a_column_without_values_is_kept_as_a_constant():
    frame = pd.DataFrame({"void": [None, None, "late"], "x": [1.0, 2.0, 3.0]})
    fitted, notes = fit(frame[:2], kinds(frame))
    assert apply(fitted, frame)[:, 0].tolist() == [0, 0, 0]
    assert any("'void': every cell is missing" in note for note in notes)
    with pytest.raises(DataError, match="at least one column must be left"):
        fit(frame[["void"]][:2], kinds(frame[["void"]]))


def test_roles_are_told_and_the_user_has_the_last_word():
    i = np.arange(60)
    frame = pd.DataFrame(
        {
            "customer_id": i * 7,
            "essay": [f"a long story about the number {k}, and more" for k in i],
            "key": [f"k{k}" for k in i],
            "grade": i % 3,
            "y": i % 7 * 1.5,
        }
    )
    notes = " | ".join(load(DataConfig(ref="told", target="y"), frame).notes)
    assert "'customer_id' was dropped: it is like an identifier" in notes
    assert "'essay' was dropped: its 60 distinct texts" in notes
    assert "are free text" in notes
    assert "'key' was dropped" in notes
    assert "name rows, like an identifier" in notes
    assert "grade  numeric      scaled: 1 feature" in notes
    columns = {"customer_id": "numeric", "grade": "categorical", "key": "categorical"}
    data = load(DataConfig(ref="told", target="y", columns=columns), frame)
    assert [c["name"] for c in data.preprocessing["columns"]] == ["customer_id", "key", "grade"]
    assert any("hold values unseen in training" in note for note in data.notes)


def test_a_feature_that_is_the_target_by_another_name_is_pointed_out():
    random = np.random.default_rng(0)
    price = random.normal(size=400)
    frame = pd.DataFrame(
        {
            "in_dollars": np.exp(price),
            "noise": random.normal(size=400),
            "near": price + random.normal(size=400),
            "y": price,
        }
    )
    notes = [n for n in load(DataConfig(ref="leak", target="y"), frame).notes if "alone" in n]
    assert len(notes) == 1
    assert "column 'in_dollars' alone tells 100.00% of 'y'" in notes[0]
    label = np.where(price > 0.5, "ill", "well")
    frame = pd.DataFrame(
        {
            "code": np.where(price > 0.5, "K1", "K2"),
            "flag": price > 0.5,
            "number": np.where(price > 0.5, 7, 3),
            "noise": frame["noise"],
            "name": [f"n{i}" for i in range(400)],
            "y": label,
        }
    )
    notes = [n for n in load(DataConfig(ref="leak", target="y"), frame).notes if "alone" in n]
    assert [note.split("'")[1] for note in notes] == ["code", "flag", "number"]
    assert not leaks.suspects(frame, np.zeros(400, np.int64), True, np.arange(400))
    for ref in ("iris", "wine", "breast_cancer", "diabetes"):
        assert not any("alone" in note for note in load(DataConfig(ref=ref)).notes)


@pytest.mark.parametrize(
    "values",
    [
        pd.Series([1.0, None, 3.0], dtype="double[pyarrow]"),
        pd.Series([1, None, 3], dtype="Int64"),
        pd.Series(pd.arrays.SparseArray([1.0, np.nan, 3.0])),
        pd.Series(["1", None, "3.0"], dtype="string"),
        pd.Series([1, None, "3"], dtype=object),
    ],
    ids=str,
)
def test_a_column_of_any_type_of_pandas_is_taken(values):
    fitted, _ = fit(pd.DataFrame({"x": [1.0, None, 3.0]}), {"x": "numeric"})
    x = apply(fitted, pd.DataFrame({"x": values}))
    np.testing.assert_allclose(x.numpy(), [[-1.2247449, 0], [0, 1], [1.2247449, 0]], atol=1e-6)


def test_mixed_cells_are_text_and_equal_ones_of_other_types_are_told_apart():
    column = pd.Series([1, True, "1", 1.0], dtype=object)
    assert text(column).tolist() == ["1", "True", "1", "1"]
