"""Folds and draws: every row is validated once per repeat, and units are never torn apart."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.model_selection import StratifiedKFold

from zoo.data import load, open_source, tabular
from zoo.data.folds import bootstrap, kfold
from zoo.errors import DataError
from zoo.sections import DataConfig

UNITS = st.lists(st.integers(0, 25), min_size=12, max_size=80)


@settings(max_examples=80, deadline=None)
@given(UNITS, st.integers(2, 6), st.integers(0, 99))
def test_every_row_has_one_fold_and_units_stay_whole(units, folds, seed):
    units = np.array(units)
    strata = units % 3  # alike within a unit
    if len(set(units.tolist())) < folds:
        with pytest.raises(DataError, match=r"data\.folds must be at most the"):
            kfold(units, strata, folds, [seed])
        return
    fold = kfold(units, strata, folds, [seed])
    assert fold.shape == units.shape
    assert set(fold.tolist()) == set(range(folds))
    assert len({*zip(units.tolist(), fold.tolist(), strict=True)}) == len(set(units.tolist()))
    assert fold.tolist() == kfold(units, strata, folds, [seed]).tolist()


@settings(max_examples=60, deadline=None)
@given(
    counts=st.lists(st.integers(6, 40), min_size=1, max_size=5),
    folds=st.integers(2, 6),
    seed=st.integers(0, 2**31 - 1),
)
def test_folds_are_as_even_as_scikit_learns(counts, folds, seed):
    labels = np.repeat(np.arange(len(counts)), counts)
    fold = kfold(np.arange(len(labels)), labels, folds, [seed])
    theirs = StratifiedKFold(folds, shuffle=True, random_state=seed).split(labels, labels)
    theirs = [np.bincount(labels[val], minlength=len(counts)) for _, val in theirs]
    ours = [np.bincount(labels[fold == f], minlength=len(counts)) for f in range(folds)]
    for parts in (ours, theirs):
        assert (np.ptp(parts, axis=0) <= 1).all()  # of every class
    assert np.ptp(np.sum(ours, axis=1)) <= 1
    assert (np.sum(ours, axis=0) == np.sum(theirs, axis=0)).all()


@settings(max_examples=80, deadline=None)
@given(UNITS, st.integers(0, 99))
def test_a_draw_takes_whole_units_and_leaves_the_others_out(units, seed):
    units = np.array(units)
    if len(set(units.tolist())) < 3:
        return
    drawn, out = bootstrap(units, np.zeros_like(units), np.zeros_like(units), [seed])
    assert len(out)
    assert not set(units[drawn].tolist()) & set(units[out].tolist())
    assert set(drawn.tolist()) | set(out.tolist()) == set(range(len(units)))
    times = np.bincount(drawn, minlength=len(units))
    for unit in set(units.tolist()):
        assert len(set(times[units == unit].tolist())) == 1
    distinct = len(set(units.tolist()))
    first = [int(np.flatnonzero(units == unit)[0]) for unit in set(units.tolist())]
    assert times[first].sum() == distinct  # as many units are drawn as there are


def test_draws_leave_out_about_a_third_and_keep_the_classes_in_proportion():
    labels = np.repeat([0, 1, 2], [600, 300, 30])
    shares = []
    for draw in range(20):
        drawn, out = bootstrap(np.arange(930), labels, labels, [0, 2, draw])
        assert np.bincount(labels[drawn]).tolist() == [600, 300, 30]
        shares.append(len(out) / 930)
    assert np.mean(shares) == pytest.approx(np.exp(-1), abs=0.01)


def test_a_draw_that_cannot_be_learnt_from_is_refused():
    units = np.array([0, 1])
    with pytest.raises(DataError, match="100 draws of 2 distinct rows or groups had none"):
        bootstrap(units, np.zeros(2, int), np.array([0, 1]), [0])


@pytest.mark.parametrize("ref", ["iris", "diabetes", "digits"])
def test_the_test_part_is_common_and_every_other_row_is_validated_once_per_repeat(ref):
    plain = load(DataConfig(ref=ref))
    source = open_source(DataConfig(ref=ref, folds=3, repeats=2))
    seen = [source.data(fold) for fold in range(6)]
    assert len({data.split_hash for data in seen}) == 6
    assert len({data.preprocessing["common_split"] for data in seen}) == 1
    assert {data.fingerprint for data in seen} == {plain.fingerprint}
    for data in seen:
        assert data.rows[2].tolist() == plain.rows[2].tolist()
        assert not set(data.rows[0].tolist()) & set(data.rows[1].tolist())
    rest = sorted([*plain.rows[0].tolist(), *plain.rows[1].tolist()])
    for repeat in (seen[:3], seen[3:]):
        assert sorted(np.concatenate([data.rows[1] for data in repeat]).tolist()) == rest
    assert seen[0].rows[1].tolist() != seen[3].rows[1].tolist()


@pytest.mark.parametrize("own", [{"folds": 3}, {"bootstrap": True}])
def test_copies_share_a_fold_and_are_out_of_bag_together(own, tmp_path):
    frame = pd.DataFrame({"x": np.arange(120) % 50, "y": np.arange(120) % 50 % 2})
    frame.to_csv(tmp_path / "t.csv", index=False)
    source = open_source(DataConfig(ref=str(tmp_path / "t.csv"), target="y", **own))
    for fold in range(3):
        values = [set(frame.x[rows].tolist()) for rows in source.data(fold).rows]
        assert not values[0] & values[1]
        assert not (values[0] | values[1]) & values[2]


def test_whose_rows_are_to_be_loaded_must_be_said():
    with pytest.raises(DataError, match=r"data\.fold does not say whose"):
        load(DataConfig(ref="iris", folds=3))


@pytest.fixture
def messy(tmp_path):
    """A table with missing cells, rare categories and different scales, as a path."""
    state = np.random.RandomState(0)
    frame = pd.DataFrame(
        {
            "size": state.lognormal(0, 2, 200).round(3),
            "gaps": np.where(state.rand(200) < 0.02, np.nan, state.rand(200).round(3)),
            "town": state.choice([*"abc", *[f"rare{i}" for i in range(12)]], 200),
            "y": state.choice(["no", "yes"], 200),
        }
    )
    frame.to_csv(tmp_path / "messy.csv", index=False)
    return tmp_path / "messy.csv"


@pytest.mark.parametrize("own", [{"folds": 4}, {"bootstrap": True}])
def test_the_preprocessing_of_a_fold_is_fitted_on_its_own_training_rows_alone(messy, own):
    frame = pd.read_csv(messy)
    source = open_source(DataConfig(ref=str(messy), target="y", **own))
    fitted = []
    for fold in range(4):
        data = source.data(fold)
        train = frame.iloc[data.rows[0]]
        columns = {c["name"]: c for c in data.preprocessing["columns"]}
        assert columns["size"]["centre"] == pytest.approx(train["size"].mean(), rel=1e-12)
        assert columns["size"]["scale"] == pytest.approx(train["size"].std(ddof=0), rel=1e-12)
        assert columns["gaps"]["fill"] == train["gaps"].median()
        assert columns["gaps"]["missing"] == train["gaps"].isna().any()
        assert columns["town"]["categories"] == sorted(set(train["town"]))
        fitted.append(columns["size"]["centre"])
        # Whatever stands in the rows that are not trained on makes no difference.
        changed = frame.copy()
        others = np.concatenate(data.rows[1:])
        changed.loc[others, "size"] *= 1000
        changed.loc[others, "town"] = "elsewhere"
        changed.to_csv(messy.with_name("changed.csv"), index=False)
        again = pd.read_csv(messy.with_name("changed.csv")).iloc[data.rows[0]]
        kinds = tabular.kinds(frame.drop(columns="y"))
        alone, _ = tabular.fit(again.drop(columns="y"), kinds)
        assert data.preprocessing["columns"] == alone["columns"]
    assert len(set(fitted)) == 4
