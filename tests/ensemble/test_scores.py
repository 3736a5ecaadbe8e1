"""Metrics agree with scikit-learn, decompose into rows, and refuse what they cannot score."""

import math

import numpy as np
import pytest
import torch
from sklearn import metrics as sk
from torch import Tensor

from ensemble.errors import EmptyError, EnsembleError
from ensemble.metrics import METRICS, Metric
from ensemble.scores import accuracy, brier, ece, nll, squared_error

CLASSES, VALUES = METRICS["classification"], METRICS["regression"]
ROWWISE = {n: m for n, m in {**CLASSES, **VALUES}.items() if isinstance(m, Metric)}


@pytest.fixture(params=[2, 10], ids=["2 classes", "10 classes"])
def scored(request: pytest.FixtureRequest) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits_NC = 2 * torch.randn(500, request.param, generator=generator)
    labels_N = torch.randint(request.param, (500,), generator=generator)
    labels_N = torch.where(
        torch.rand(500, generator=generator) < 0.6, logits_NC.argmax(1), labels_N
    )
    return logits_NC.log_softmax(1), labels_N


@pytest.fixture
def predicted() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    targets_N = 5 + 3 * torch.randn(300, generator=generator)
    return targets_N + torch.randn(300, generator=generator), targets_N


def naive_ece(probabilities_NC: np.ndarray, labels_N: np.ndarray) -> float:
    """Guo et al.'s definition, bin by bin and row by row."""
    total = 0.0
    for lower, upper in zip(np.linspace(0, 1, 16)[:-1], np.linspace(0, 1, 16)[1:], strict=True):
        inside = [i for i, row in enumerate(probabilities_NC) if lower < row.max() <= upper]
        if inside:
            confidence = np.mean([probabilities_NC[i].max() for i in inside])
            correct = np.mean([probabilities_NC[i].argmax() == labels_N[i] for i in inside])
            total += len(inside) / len(labels_N) * abs(confidence - correct)
    return float(total)


def test_classification_agrees_with_scikit_learn(scored: tuple[Tensor, Tensor]) -> None:
    log_NC, labels_N = scored
    probabilities = log_NC.double().softmax(1).numpy()
    labels, classes = labels_N.numpy(), np.arange(log_NC.shape[1])
    expected = {
        "accuracy": sk.accuracy_score(labels, probabilities.argmax(1)),
        "nll": sk.log_loss(labels, probabilities, labels=classes),
        "brier": sk.brier_score_loss(labels, probabilities, labels=classes, scale_by_half=False),
        "ece": naive_ece(probabilities, labels),
    }
    assert {name: CLASSES[name](log_NC, labels_N) for name in expected} == pytest.approx(
        expected, rel=1e-6
    )


def test_regression_agrees_with_scikit_learn(predicted: tuple[Tensor, Tensor]) -> None:
    values_N, targets_N = predicted
    pair = targets_N.double().numpy(), values_N.double().numpy()
    expected = {
        "rmse": sk.root_mean_squared_error(*pair),
        "mae": sk.mean_absolute_error(*pair),
        "r2": sk.r2_score(*pair),
    }
    assert {name: VALUES[name](*predicted) for name in expected} == pytest.approx(expected)


@pytest.mark.parametrize("name", ROWWISE)
def test_a_figure_is_its_finished_mean_of_rows(
    name: str, scored: tuple[Tensor, Tensor], predicted: tuple[Tensor, Tensor]
) -> None:
    metric = ROWWISE[name]
    assert metric.name == name
    pair = scored if name in CLASSES else predicted
    rows_N = metric.rows(*pair)
    assert rows_N.shape == pair[1].shape
    assert rows_N.dtype == torch.float64
    assert metric(*pair) == float(metric.finish(rows_N.mean()))
    means = torch.tensor([0.25, 0.5, 1.0], dtype=torch.float64)
    steps = metric.finish(means).diff()
    assert bool((steps > 0).all() or (steps < 0).all()), "finish is monotone"


@pytest.mark.parametrize("name", ROWWISE)
def test_better_predictions_score_better_in_the_stated_direction(
    name: str, scored: tuple[Tensor, Tensor], predicted: tuple[Tensor, Tensor]
) -> None:
    metric = ROWWISE[name]
    if name in CLASSES:
        log_NC, targets_N = scored
        perfect = torch.nn.functional.one_hot(targets_N, log_NC.shape[1]).float().log()
        pair = perfect, log_NC
    else:
        values_N, targets_N = predicted
        pair = targets_N, values_N
    better, worse = (metric(predictions, targets_N) for predictions in pair)
    assert (better > worse) == (metric.direction == "max")


def test_adaptive_bins_hold_equally_many_rows(scored: tuple[Tensor, Tensor]) -> None:
    log_NC, labels_N = scored
    order = log_NC.exp().max(1).values.argsort()
    confidence_N, predicted_N = (part.double()[order].numpy() for part in log_NC.exp().max(1))
    right_N = predicted_N == labels_N[order].numpy()
    bins = np.arange(len(order)) * 15 // len(order)
    expected = sum(
        (bins == b).mean() * abs(confidence_N[bins == b].mean() - right_N[bins == b].mean())
        for b in range(15)
    )
    assert CLASSES["adaptive_ece"](log_NC, labels_N) == pytest.approx(expected, abs=1e-6)


def test_rows_of_one_confidence_share_an_adaptive_bin() -> None:
    log_NC = torch.tensor([[0.8, 0.2]] * 30).log()
    labels_N = torch.tensor([0] * 24 + [1] * 6)
    assert CLASSES["adaptive_ece"](log_NC, labels_N) == pytest.approx(0, abs=1e-7)


def test_bin_edges_belong_to_the_lower_bin() -> None:
    """0.8 is an edge of 15 bins: above it is another bin, so errors of opposite sign stay apart."""
    confidence = torch.tensor([12 / 15, 12 / 15 + 1e-9], dtype=torch.float64)
    log_NC = torch.stack([confidence, 1 - confidence], dim=1).log()
    assert float(ece(log_NC, torch.tensor([0, 1])).mean()) == pytest.approx(0.5)


def test_one_class_among_the_labels_is_scored() -> None:
    log_NC = torch.tensor([[0.75, 0.25], [0.5, 0.5]]).log()
    labels_N = torch.zeros(2, dtype=torch.int64)
    figures = {
        name: metric(log_NC, labels_N)
        for name, metric in CLASSES.items()
        if isinstance(metric, Metric)
    }
    expected = {
        "accuracy": 1.0,
        "nll": -math.log(0.75 * 0.5) / 2,
        "brier": (2 * 0.25**2 + 2 * 0.5**2) / 2,
        "ece": 0.375,
        "adaptive_ece": 0.375,
    }
    assert figures == pytest.approx(expected)


def test_equal_targets_leave_r2_undefined_and_rmse_defined() -> None:
    pair = torch.tensor([1.0, 2.0]), torch.tensor([0.1, 0.1])
    assert math.isnan(VALUES["r2"](*pair))
    assert VALUES["rmse"](*pair) == pytest.approx(math.sqrt((0.9**2 + 1.9**2) / 2))


def test_a_label_of_probability_zero_costs_infinitely_much_but_no_nan() -> None:
    log_NC = torch.tensor([[1.0, 0.0], [0.0, 1.0]]).log()
    labels_N = torch.tensor([1, 1])
    assert nll(log_NC, labels_N).tolist() == [math.inf, 0.0]
    assert brier(log_NC, labels_N).tolist() == [2.0, 0.0]


def test_inputs_are_left_as_they_were(scored: tuple[Tensor, Tensor]) -> None:
    log_NC, labels_N = scored[0].double(), scored[1]
    before = log_NC.clone()
    for rows in (accuracy, nll, brier, ece):
        rows(log_NC, labels_N)
    assert torch.equal(log_NC, before)


LOG_NC = torch.tensor([[0.5, 0.5], [0.5, 0.5]]).log()


@pytest.mark.parametrize(
    ("log_NC", "labels_N", "message"),
    [
        (LOG_NC, torch.tensor([0]), r"\(2, 2\) and \(1,\)"),
        (LOG_NC, torch.tensor([[0], [1]]), r"\(2, 2\) and \(2, 1\)"),
        (LOG_NC[0], torch.tensor([0, 1]), r"\(2,\) and \(2,\)"),
        (LOG_NC, torch.tensor([0.0, 1.0]), "torch.float32"),
        (LOG_NC, torch.tensor([0, 2]), r"0\.\.1, however: 2 in row 1"),
        (LOG_NC, torch.tensor([-1, 0]), "however: -1 in row 0"),
        (LOG_NC * torch.tensor([[1.0], [math.nan]]), torch.tensor([0, 1]), "nan in row 1"),
        (torch.tensor([[3.0, 1.0]]), torch.tensor([0]), "sum to 1, however: 22.8 in row 0"),
    ],
)
def test_what_cannot_be_scored_is_refused(log_NC: Tensor, labels_N: Tensor, message: str) -> None:
    for rows in (accuracy, nll, brier, ece):
        with pytest.raises(EnsembleError, match=message):
            rows(log_NC, labels_N)


def test_a_column_of_values_is_refused_rather_than_broadcast() -> None:
    with pytest.raises(EnsembleError, match=r"\(2, 1\) and \(2,\)"):
        squared_error(torch.zeros(2, 1), torch.zeros(2))


@pytest.mark.parametrize("name", ROWWISE)
def test_no_rows_are_refused(name: str) -> None:
    metric = ROWWISE[name]
    pair = (
        (torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64))
        if name in CLASSES
        else (torch.zeros(0), torch.zeros(0))
    )
    with pytest.raises(EmptyError, match="at least one row"):
        metric(*pair)
