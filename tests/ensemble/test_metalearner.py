"""Stacking: scikit-learn's regressions on the members' predictions, applied from plain numbers."""

import json
import math

import numpy as np
import pytest
import torch
from panels import LOSSES, case
from scipy import special
from sklearn.datasets import load_iris, make_regression
from sklearn.ensemble import StackingClassifier, StackingRegressor
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import cross_val_predict
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor

from ensemble.errors import EnsembleError, NonFiniteError, OptionError
from ensemble.metalearner import stacked, stacking
from ensemble.predictions import pooled, weighted


def test_classes_are_stacked_as_scikit_learn_stacks_them() -> None:
    x, y = load_iris(return_X_y=True)
    models = [("near", KNeighborsClassifier(5)), ("bayes", GaussianNB())]
    final = LogisticRegression(C=0.5, max_iter=10_000)
    theirs = StackingClassifier(models, final, cv=5, stack_method="predict_proba").fit(x, y)
    held_out = [cross_val_predict(model, x, y, cv=5, method="predict_proba") for _, model in models]
    found = stacking(log(held_out), torch.from_numpy(y), "classification", penalty=2.0)
    everywhere = log([model.predict_proba(x) for model in theirs.estimators_])
    mine = stacked(everywhere, "classification", **found)
    np.testing.assert_allclose(mine.exp().numpy(), theirs.predict_proba(x), atol=1e-3)


def log(shares: list[np.ndarray]) -> torch.Tensor:
    return torch.from_numpy(np.stack(shares)).clamp_min(1e-300).log()


def test_two_classes_are_one_logistic_regression() -> None:
    x, y = load_iris(return_X_y=True)
    x, y = x[y > 0], y[y > 0] - 1
    models = [KNeighborsClassifier(7).fit(x[::2], y[::2]), GaussianNB().fit(x[::2], y[::2])]
    logits_KNC = log([model.predict_proba(x) for model in models])
    found = stacking(logits_KNC, torch.from_numpy(y), "classification")
    features = np.concatenate([model.predict_proba(x) for model in models], axis=1)
    expected = LogisticRegression(max_iter=10_000).fit(features, y).predict_proba(features)
    mine = stacked(logits_KNC, "classification", **found).exp().numpy()
    np.testing.assert_allclose(mine, expected, atol=1e-6)


def test_values_are_stacked_as_scikit_learn_stacks_them() -> None:
    x, y = make_regression(120, 5, noise=20.0, random_state=0)
    y = 1e4 + 300 * y
    models = [("near", KNeighborsRegressor(5)), ("ridge", Ridge())]
    scale = y.std()
    final = Ridge(alpha=3.0)
    held_out = np.stack([cross_val_predict(model, x, y, cv=5) for _, model in models])
    scaled = [("near", KNeighborsRegressor(5)), ("ridge", Ridge())]
    theirs = StackingRegressor(scaled, final, cv=5).fit(x, (y - y.mean()) / scale)
    found = stacking(torch.from_numpy(held_out), torch.from_numpy(y), "regression", penalty=3.0)
    everywhere = np.stack([model.predict(x) for model in theirs.estimators_]) * scale + y.mean()
    mine = stacked(torch.from_numpy(everywhere), "regression", **found)
    np.testing.assert_allclose(mine, theirs.predict(x) * scale + y.mean(), rtol=1e-6)


def test_labels_and_targets_are_stacked_each_by_itself() -> None:
    odds_KNL, labels_NL = case("multilabel")
    found = stacking(odds_KNL, labels_NL, "multilabel", penalty=0.5)
    for place in range(3):
        shares_NK = special.expit(odds_KNL[:, :, place].numpy().T)
        alone = LogisticRegression(C=2.0, max_iter=10_000).fit(shares_NK, labels_NL[:, place])
        mine = stacked(odds_KNL, "multilabel", **found)[:, place]
        np.testing.assert_allclose(mine, alone.decision_function(shares_NK), atol=1e-6)
    values_KN, truth_N = case("regression")
    two_KNT = torch.stack([values_KN, 100 * values_KN.flip(0)], dim=-1)
    truth_NT = torch.stack([truth_N, 100 * truth_N], dim=-1)
    both = stacked(two_KNT, "regression", **stacking(two_KNT, truth_NT, "regression"))
    one = stacked(values_KN, "regression", **stacking(values_KN, truth_N, "regression"))
    torch.testing.assert_close(both[:, 0], one)
    assert both.shape == (60, 2)


@pytest.mark.parametrize("task", LOSSES)
def test_what_is_fitted_survives_json_and_pooling_in_portions(
    task: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    outputs_K, truth = case(task)
    found = stacking(outputs_K, truth, task)
    told = stacked(outputs_K, task, **found)
    again = json.loads(json.dumps(found))
    monkeypatch.setattr("ensemble.predictions.PORTION", 5 * outputs_K[:, :1].numel())
    torch.testing.assert_close(pooled(stacked, outputs_K, task, **again), told)
    assert told.shape == outputs_K.shape[1:]


@pytest.mark.parametrize("task", LOSSES)
def test_members_of_one_learner_are_averaged_first(task: str) -> None:
    outputs_K, truth = case(task)
    groups = [[0, 3], [1], [2, 4, 5]]
    learners = [0, 1, 2, 0, 2, 2]
    means_G = torch.stack(
        [pooled(weighted, outputs_K[group], task, weights=[1] * len(group)) for group in groups]
    )
    found = stacking(means_G, truth, task)
    told = stacked(outputs_K, task, **found, learners=learners)
    torch.testing.assert_close(told, stacked(means_G, task, **found))
    missing = stacked(outputs_K[[0, 2]], task, **found, learners=[0, 2])
    assert bool(missing.isnan().all()), "nobody speaks for the second learner"


def test_a_large_penalty_leaves_the_frequencies_and_a_mean() -> None:
    logits_KNC, labels_N = case("classification")
    found = stacking(logits_KNC, labels_N, "classification", penalty=1e7)
    shares = labels_N.bincount() / len(labels_N)
    told = stacked(logits_KNC, "classification", **found).exp()
    torch.testing.assert_close(told[0], shares.double(), atol=1e-3, rtol=0)
    values_KN, truth_N = case("regression")
    found = stacking(values_KN, truth_N, "regression", penalty=1e9)
    told = stacked(values_KN, "regression", **found)
    torch.testing.assert_close(told, truth_N.mean().expand(60), atol=1e-3, rtol=0)


def test_what_cannot_be_learnt_is_refused() -> None:
    logits_KNC, labels_N = case("classification")
    labels_N[labels_N == 2] = 1
    with pytest.raises(EnsembleError, match=r"rows of every class, however none is of class #2"):
        stacking(logits_KNC, labels_N, "classification")
    odds_KNL, labels_NL = case("multilabel")
    labels_NL[:, 1] = 1
    with pytest.raises(EnsembleError, match="with and without every label"):
        stacking(odds_KNL, labels_NL, "multilabel")
    for penalty in (0.0, -1.0, math.nan):
        with pytest.raises(OptionError, match="penalty must be above 0"):
            stacking(logits_KNC, labels_N, "classification", penalty=penalty)
    logits_KNC[1, 2, 0] = math.nan
    with pytest.raises(NonFiniteError, match="member #1"):
        stacking(logits_KNC, labels_N, "classification")


def test_constant_members_and_targets_are_stacked() -> None:
    found = stacking(torch.full((3, 10), 2.0), torch.full((10,), 5.0), "regression")
    told = stacked(torch.full((3, 10), 2.0), "regression", **found)
    torch.testing.assert_close(told, torch.full((10,), 5.0, dtype=torch.float64))
