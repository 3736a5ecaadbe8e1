"""The estimators do what scikit-learn expects, in every mode, and what their users do with them."""

import copy
import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks
from torch import nn

from ensemble import ZooClassifier, ZooRegressor, estimators
from ensemble.errors import DivergedError, OptionError
from zoo import models

QUICK = {"engine": "stacked", "random_state": 0}
X, Y = load_iris(return_X_y=True)
XR, YR = load_diabetes(return_X_y=True)


@parametrize_with_checks(
    [
        ZooClassifier(2, epochs=20, lr=0.02, hidden=(16,), **QUICK),
        ZooRegressor(2, mode="single", epochs=20, lr=0.02, hidden=(16,), **QUICK),
    ]
)
def test_scikit_learn_finds_nothing_wrong(estimator, check):
    check(estimator)


@pytest.mark.parametrize("mode", ["predictions", "weights", "distill", "single"])
def test_every_mode_learns(mode):
    model = ZooClassifier(3, mode=mode, epochs=40, lr=0.02, **QUICK).fit(X, Y)
    assert model.score(X, Y) > 0.9
    told = model.predict_proba(X)
    assert told.shape == (150, 3)
    np.testing.assert_allclose(told.sum(axis=1), 1)
    assert len(model.members_) == 3
    line = ZooRegressor(2, mode=mode, epochs=40, lr=0.02, **QUICK).fit(XR, YR)
    assert line.score(XR, YR) > 0.3


def test_the_same_seed_gives_the_same_model_and_another_one_another():
    one, same, other = (
        ZooRegressor(2, epochs=3, **{**QUICK, "random_state": seed}).fit(XR, YR).predict(XR)
        for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(one, same)
    assert np.abs(one - other).max() > 0


def test_it_is_searched_scored_piped_copied_and_pickled():
    model = ZooClassifier(2, epochs=10, **QUICK)
    assert cross_val_score(make_pipeline(StandardScaler(), model), X, Y, cv=3).mean() > 0.7
    search = GridSearchCV(model, {"lr": [1e-6, 0.02]}, cv=2).fit(X, Y)
    assert search.best_params_ == {"lr": 0.02}
    best = search.best_estimator_
    told = best.predict_proba(X)
    for twin in (pickle.loads(pickle.dumps(best)), copy.deepcopy(best)):
        np.testing.assert_array_equal(twin.predict_proba(X), told)
    with pytest.raises(NotFittedError):
        clone(best).predict(X)


def test_a_frame_may_have_names_categories_and_gaps_and_classes_are_words():
    data = load_breast_cancer(as_frame=True)
    frame = data.data.iloc[:, :4].copy()
    frame["size"] = pd.cut(frame["mean area"], 3, labels=["small", "middle", "large"]).astype(str)
    frame.loc[::7, "mean radius"] = np.nan
    words = np.array(["bad", "good"])[data.target]
    model = ZooClassifier(2, epochs=20, lr=0.02, **QUICK).fit(frame, words)
    assert model.classes_.tolist() == ["bad", "good"]
    assert model.feature_names_in_.tolist() == [*frame.columns]
    assert set(model.predict(frame)) == {"bad", "good"}
    assert model.score(frame, words) > 0.85
    unknown = frame.assign(size="huge")
    assert np.isfinite(model.predict_proba(unknown)).all()


def test_members_that_diverge_are_told_and_are_not_members():
    some = ZooRegressor(8, optim="sgd", lr=1.0, epochs=3, **QUICK)  # for a few of them too large
    with pytest.warns(ConvergenceWarning, match=r"of 8 members diverged .* \(seeds \d+") as told:
        some.fit(XR, YR)
    assert 0 < len(some.members_) < 8
    assert {run.status for run in some.members_} == {"finished"}
    assert str(told[0].message).startswith(f"{8 - len(some.members_)} of 8")
    with pytest.raises(DivergedError, match="at least one member must end with finite weights"):
        ZooRegressor(2, optim="sgd", lr=1e30, epochs=3, **QUICK).fit(XR, YR)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"members": 0}, "members must be a count from 1, however it is 0"),
        ({"mode": "wieghts"}, "no mode is called 'wieghts'; did you mean 'weights'"),
        ({"mode": "single", "method": "mean"}, "mode 'single' has no methods"),
        ({"validation_fraction": 1.0}, "validation_fraction must be between 0 and 1"),
        ({"settings": {"data.target": "y"}}, "settings must leave 'data.target' out"),
        ({"settings": {"optim.rate": 1}}, "optim"),
        ({"lr": -1.0}, "optim.lr"),
    ],
)
def test_wrong_parameters_are_refused_in_a_sentence(wrong, says):
    with pytest.raises(OptionError, match=says):
        ZooClassifier(**{"epochs": 1, **QUICK, **wrong}).fit(X, Y)


def test_copies_of_a_row_stay_on_one_side_of_the_split(monkeypatch):
    frames, train = [], estimators.train_and_combine
    monkeypatch.setattr(
        estimators, "train_and_combine", lambda *a, **k: frames.append(a[1]) or train(*a, **k)
    )
    times = np.where(Y == 0, 3, 1)
    rare = {"train.class_weights": "balanced"}
    model = ZooClassifier(1, epochs=2, settings=rare, **QUICK)
    model.fit(np.repeat(X, times, axis=0), np.repeat(Y, times))
    rows = frames[0].iloc[:-1]  # the last is the test row that there must be
    sides = rows.groupby([*rows.columns.drop("part")])["part"]
    assert (sides.size() >= 3).sum() >= 40
    assert (sides.nunique() == 1).all()


def test_most_rows_may_validate():
    model = ZooClassifier(1, epochs=2, validation_fraction=0.9, **QUICK).fit(X, Y)
    assert model.predict(X).shape == (150,)


class Stubborn(nn.Module):
    """Looks at what it computes, so it cannot be stacked; and has a constant of float32."""

    def __init__(self, width, outputs):
        super().__init__()
        self.last = nn.Linear(width, outputs)

    def forward(self, x_ND):
        if x_ND.mean().item() > 1e9:
            x_ND = x_ND / 2
        return self.last(x_ND @ torch.eye(x_ND.shape[1], dtype=torch.float32))


def test_a_module_that_resists_stacking_and_float64_trains_predicts_and_travels(monkeypatch):
    def stubborn(shape, outputs):
        return Stubborn(*shape, outputs)

    monkeypatch.setitem(models.BUILDERS, "stubborn", stubborn)
    model = ZooClassifier(2, model="stubborn", epochs=30, lr=0.05, random_state=0).fit(X, Y)
    assert model.score(X, Y) > 0.8
    twin = pickle.loads(pickle.dumps(model))
    np.testing.assert_allclose(twin.predict_proba(X), model.predict_proba(X), atol=1e-5)
