"""Calibration: minima found another way, lines of scikit-learn, and what must not break."""

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from panels import case
from scipy import special
from scipy.optimize import minimize, minimize_scalar
from sklearn.isotonic import IsotonicRegression
from torch import Tensor

from ensemble.calibration import KINDS, calibrate, calibrated
from ensemble.errors import EnsembleError, NonFiniteError, OptionError
from ensemble.predictions import mean, pooled
from ensemble.scores import label_nll, nll

NLL = {"classification": nll, "multilabel": label_nll}


def pool_of(task: str, rows: int = 300, sharp: float = 1.0, seed: int = 0) -> tuple[Tensor, Tensor]:
    outputs_K, truth = case(task, rows=rows, seed=seed)
    return pooled(mean, sharp * outputs_K, task), truth


@pytest.mark.parametrize("sharp", [0.3, 1.0, 5.0])
def test_the_temperature_is_the_minimum_that_a_search_finds(sharp: float) -> None:
    log_NC, labels_N = pool_of("classification", sharp=sharp)

    def loss(temperature: float) -> float:
        told = special.log_softmax(log_NC.numpy() / temperature, axis=1)
        total = -told[np.arange(300), labels_N.numpy()].sum()
        return total + (1 / temperature - 1) ** 2 / 2

    expected = minimize_scalar(loss, bounds=(0.05, 50), method="bounded", options={"xatol": 1e-9}).x
    found = calibrate(log_NC, labels_N, "classification", "temperature")
    assert found["temperature"] == pytest.approx(expected, rel=1e-4)


def test_a_temperature_that_was_applied_is_found_again() -> None:
    generator = torch.Generator().manual_seed(0)
    logits_NC = 2 * torch.randn(50_000, 5, generator=generator, dtype=torch.float64)
    labels_N = torch.multinomial(logits_NC.softmax(1), 1, generator=generator)[:, 0]
    found = calibrate((logits_NC / 0.4).log_softmax(1), labels_N, "classification", "temperature")
    assert found["temperature"] == pytest.approx(1 / 0.4, rel=0.02)
    odds_NL = logits_NC[:, :3]
    there_NL = torch.bernoulli(odds_NL.sigmoid(), generator=generator)
    found = calibrate(3 * odds_NL, there_NL, "multilabel", "temperature")
    assert found["temperature"] == pytest.approx(3, rel=0.02)
    scales, shifts = torch.tensor([0.5, 2.0, 1.0]), torch.tensor([0.4, -0.6, 0.0])
    found = calibrate((odds_NL - shifts) / scales, there_NL, "multilabel", "vector")
    np.testing.assert_allclose(found["scales"], scales, atol=0.05)
    np.testing.assert_allclose(found["shifts"], shifts, atol=0.05)


@pytest.mark.parametrize("task", NLL)
def test_vector_scaling_is_the_minimum_that_another_solver_finds(task: str) -> None:
    told, truth = pool_of(task, sharp=2.0)
    width = told.shape[1]
    z, y = told.double().numpy(), truth.numpy()

    def loss(numbers: np.ndarray) -> float:
        scaled = z * numbers[:width] + numbers[width:]
        if task == "classification":
            total = -special.log_softmax(scaled, axis=1)[np.arange(len(y)), y].sum()
        else:
            total = -special.log_expit(np.where(y == 1, scaled, -scaled)).sum()
        return total + (((numbers[:width] - 1) ** 2).sum() + (numbers[width:] ** 2).sum()) / 2

    start = np.array([1.0] * width + [0.0] * width)
    expected = minimize(loss, start, method="Powell", options={"xtol": 1e-8, "ftol": 1e-12}).x
    found = calibrate(told, truth, task, "vector")
    assert loss(np.array(found["scales"] + found["shifts"])) <= loss(expected) + 1e-6
    np.testing.assert_allclose(found["scales"] + found["shifts"], expected, atol=5e-3)


@pytest.mark.parametrize("task", NLL)
def test_isotonic_lines_are_those_of_scikit_learn(task: str) -> None:
    told, truth = pool_of(task)
    found = calibrate(told, truth, task, "isotonic")
    new, _ = pool_of(task, seed=1)
    z = new.numpy()
    fitted = special.softmax(told.numpy(), 1), special.softmax(z, 1)
    if task == "multilabel":
        fitted = special.expit(told.numpy()), special.expit(z)
    columns = []
    for place in range(told.shape[1]):
        there = truth[:, place] if task == "multilabel" else truth == place
        line = IsotonicRegression(y_min=1 / 302, y_max=301 / 302, out_of_bounds="clip")
        columns.append(line.fit(fitted[0][:, place], there.numpy()).predict(fitted[1][:, place]))
    expected = np.stack(columns, axis=1)
    mine = calibrated(new, task, found)
    if task == "classification":
        expected /= expected.sum(axis=1, keepdims=True)
        np.testing.assert_allclose(mine.exp().numpy(), expected, atol=1e-9)
    else:
        np.testing.assert_allclose(mine.sigmoid().numpy(), expected, atol=1e-9)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**16), sharp=st.floats(0.1, 8))
@pytest.mark.parametrize("kind", ["temperature", "vector"])
@pytest.mark.parametrize("task", NLL)
def test_no_calibration_is_worse_where_it_was_fitted(
    task: str, kind: str, seed: int, sharp: float
) -> None:
    told, truth = pool_of(task, rows=80, sharp=sharp, seed=seed)
    mended = calibrated(told, task, calibrate(told, truth, task, kind))
    before, after = (float(NLL[task](each, truth).mean()) for each in (told, mended))
    assert after <= before + 1e-9
    if kind == "temperature" and task == "classification":
        assert torch.equal(mended.argmax(1), told.argmax(1)), "decisions stay"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("task", NLL)
def test_it_improves_on_overconfident_predictions_of_other_rows(task: str, kind: str) -> None:
    told, truth = pool_of(task, rows=1000, sharp=6.0)
    found = json.loads(json.dumps(calibrate(told[:500], truth[:500], task, kind)))
    mended = calibrated(told[500:], task, found)
    assert NLL[task](mended, truth[500:]).mean() < NLL[task](told[500:], truth[500:]).mean()


@pytest.mark.parametrize("kind", KINDS)
def test_rows_that_are_all_right_make_nothing_certain(kind: str) -> None:
    log_NC = torch.tensor([[0.9, 0.05, 0.05], [0.05, 0.9, 0.05]]).log().repeat(15, 1)
    labels_N = torch.tensor([0, 1]).repeat(15)  # and the third class is never there
    found = calibrate(log_NC, labels_N, "classification", kind)
    mended = calibrated(log_NC, "classification", found)
    wrong = calibrated(torch.tensor([[0.98, 0.01, 0.01]]).log(), "classification", found)
    assert bool((nll(mended, labels_N) < nll(log_NC, labels_N)).all())
    assert float(nll(wrong, torch.tensor([2]))) < 30


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("task", NLL)
def test_rows_without_a_prediction_stay_without_one(task: str, kind: str) -> None:
    told, truth = pool_of(task)
    found = calibrate(told, truth, task, kind)
    told[5] = math.nan
    mended = calibrated(told, task, found)
    assert bool(mended[5].isnan().all())
    assert bool(mended[:5].isfinite().all())


@pytest.mark.parametrize("kind", KINDS)
def test_predictions_without_any_variance_become_the_frequencies(kind: str) -> None:
    log_NC = torch.tensor([[0.5, 0.5]]).log().repeat(400, 1)
    labels_N = (torch.arange(400) % 4 == 0).long()
    mended = calibrated(
        log_NC, "classification", calibrate(log_NC, labels_N, "classification", kind)
    )
    expected = [0.5, 0.5] if kind == "temperature" else [0.75, 0.25]
    np.testing.assert_allclose(mended[0].exp(), expected, atol=0.01)


def test_scores_of_certain_members_stay_finite() -> None:
    log_NC = torch.tensor([[0.0, -3000.0], [-3000.0, 0.0], [0.0, -3000.0], [-3000.0, 0.0]])
    labels_N = torch.tensor([0, 1, 1, 1])
    for kind in KINDS:
        found = calibrate(log_NC, labels_N, "classification", kind)
        assert bool(nll(calibrated(log_NC, "classification", found), labels_N).isfinite().all())


def test_what_cannot_be_calibrated_is_refused() -> None:
    told, truth = pool_of("classification")
    with pytest.raises(OptionError, match="did you mean 'temperature'"):
        calibrate(told, truth, "classification", "temprature")
    with pytest.raises(OptionError, match="calibrates probabilities, however the task is regr"):
        calibrate(torch.zeros(3), torch.zeros(3), "regression", "temperature")
    for few, labels in ((told, truth[:-1]), (told[:0], truth[:0]), (told[:, 0], truth)):
        with pytest.raises(EnsembleError, match="needs predictions and labels of some rows"):
            calibrate(few, labels, "classification", "vector")
    impossible = torch.tensor([[0.5, 0.5], [1.0, 0.0]]).log()
    for kind in KINDS:
        with pytest.raises(NonFiniteError, match="those of row 1 are not"):
            calibrate(impossible, torch.tensor([0, 0]), "classification", kind)
