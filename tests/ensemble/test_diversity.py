"""Diversity agrees with NumPy and scikit-learn, its parts add up, and portions are as the whole."""

import math

import numpy as np
import pytest
import torch
from sklearn import metrics as sk
from torch import Tensor

from ensemble.diversity import Diversity, diversity, tally
from ensemble.growth import growth, pool_sizes, subset_rows
from ensemble.metrics import METRICS
from ensemble.predictions import mean, pooled
from ensemble.reliability import calibration_curve
from ensemble.statistics import paired_bootstrap

MEMBERS, ROWS, CLASSES = 5, 240, 4
TASKS = ("classification", "multilabel", "regression", "several")


def members(task: str) -> tuple[Tensor, Tensor, str]:
    """Outputs of members that err together and apart, and targets."""
    draw = torch.Generator().manual_seed(3)
    width = () if task == "regression" else (3,) if task == "several" else (CLASSES,)
    shared = torch.randn(ROWS, *width, generator=draw)
    outputs_K = shared + 0.7 * torch.randn(MEMBERS, ROWS, *width, generator=draw)
    truth = shared + 0.5 * torch.randn(ROWS, *width, generator=draw)
    if task == "classification":
        return outputs_K, truth.argmax(dim=1), task
    if task == "multilabel":
        return outputs_K, (truth > 0).float(), task
    return outputs_K.double(), truth.double(), "regression"


@pytest.fixture(params=TASKS)
def told(request) -> tuple[Tensor, Tensor, str]:
    return members(request.param)


def of(outputs_K: Tensor, targets: Tensor, task: str) -> Diversity:
    return diversity(tally(outputs_K, targets, task), task)


def test_portions_add_up_to_the_whole(told):
    outputs_K, targets, task = told
    parts = [
        tally(outputs_K[:, a:b], targets[a:b], task) for a, b in ((0, 100), (100, 101), (101, ROWS))
    ]
    summed, whole = diversity(parts[0] + parts[1] + parts[2], task), of(*told)
    for name, value in vars(whole).items():
        assert torch.allclose(torch.as_tensor(getattr(summed, name)), torch.as_tensor(value)), name


def test_ambiguity_is_what_the_mean_of_all_members_removes(told):
    outputs_K, targets, task = told
    found = of(*told)
    pool = pooled(mean, outputs_K.double(), task)
    if task == "classification":
        errors = [METRICS[task]["brier"](o.double().log_softmax(-1), targets) for o in outputs_K]
        error = METRICS[task]["brier"](pool, targets)
    elif task == "multilabel":
        errors = [METRICS[task]["brier"](o, targets) for o in outputs_K]
        error = METRICS[task]["brier"](pool, targets)
    else:
        errors = [sk.mean_squared_error(targets, o) for o in outputs_K]
        error = sk.mean_squared_error(targets, pool)
    assert found.member_error == pytest.approx(np.mean(errors))
    assert found.member_error - found.ambiguity == pytest.approx(error)
    assert found.ambiguity >= 0


def test_disagreement_and_correlation_agree_with_numpy(told):
    outputs_K, targets, task = told
    found = of(*told)
    if task == "regression":
        cells = outputs_K.numpy().reshape(MEMBERS, -1)
        wrong = cells - targets.numpy().reshape(1, -1)
        apart = [[np.sqrt(np.mean((a - b) ** 2)) for b in cells] for a in cells]
    else:
        decided = outputs_K.argmax(-1) if task == "classification" else outputs_K > 0
        cells = decided.numpy().reshape(MEMBERS, -1)
        wrong = (cells != targets.numpy().reshape(1, -1)).astype(float)
        apart = [[np.mean(a != b) for b in cells] for a in cells]
    np.testing.assert_allclose(found.disagreement_KK, apart, atol=1e-6)
    np.testing.assert_allclose(found.correlation_KK, np.corrcoef(wrong), atol=1e-9)
    pairs = np.triu_indices(MEMBERS, 1)
    assert found.disagreement == pytest.approx(np.array(apart)[pairs].mean(), abs=1e-6)
    assert found.correlation == pytest.approx(np.corrcoef(wrong)[pairs].mean())


def test_members_that_are_always_right_have_no_correlation():
    logits_KNC = torch.tensor([[[2.0, 0.0], [0.0, 2.0]], [[2.0, 0.0], [2.0, 0.0]]])
    found = of(logits_KNC, torch.tensor([0, 1]), "classification")
    assert math.isnan(found.correlation)
    assert found.disagreement == 0.5


def test_one_member_has_nobody_to_differ_from():
    found = of(torch.zeros(1, 3, 2), torch.tensor([0, 1, 0]), "classification")
    assert math.isnan(found.disagreement)
    assert found.ambiguity == 0


def test_residuals_that_are_all_the_same_have_no_variance():
    """A bias of a tenth, which no float holds exactly, leaves rounding errors only."""
    targets_N = torch.arange(50).double()
    found = of(torch.stack([targets_N + 0.1, targets_N + 0.3]), targets_N, "regression")
    assert math.isnan(found.correlation)
    assert found.disagreement == pytest.approx(0.2)


def test_pools_grow_from_the_mean_single_to_the_pool_of_all(told):
    outputs_K, targets, task = told
    metric = METRICS[task]["rmse" if task == "regression" else "nll"]
    sizes = pool_sizes(MEMBERS)
    grown = growth(subset_rows(outputs_K, targets, metric, task), sizes, metric)
    assert [size.members for size in grown] == sizes == [1, 2, 3, 4, 5]
    alone = torch.stack(
        [metric.rows(pooled(mean, o[None].double(), task), targets) for o in outputs_K]
    )
    everyone = metric.rows(pooled(mean, outputs_K.double(), task), targets)
    assert grown[0].value == pytest.approx(float(metric.finish(alone.mean())))
    assert grown[-1].value == pytest.approx(float(metric.finish(everyone.mean())))
    expected = paired_bootstrap(everyone, alone.mean(dim=0), metric.finish, samples=2_000)
    assert (grown[-1].gain, grown[-1].low, grown[-1].high) == pytest.approx(expected[:3], abs=1e-6)
    values = [size.value for size in grown]  # losses: they fall with every member
    assert values == sorted(values, reverse=True)


def test_subsets_are_as_good_as_all_of_them_on_average():
    """All ten pairs of five members, against the windows of two on a circle."""
    outputs_K, targets, task = members("classification")
    metric = METRICS[task]["nll"]
    pairs = [
        metric(pooled(mean, outputs_K[[i, j]].double(), task), targets)
        for i in range(MEMBERS)
        for j in range(i)
    ]
    rows_SN = subset_rows(outputs_K, targets, metric, task)
    assert float(rows_SN[1].mean()) == pytest.approx(np.mean(pairs), rel=0.02)


def test_many_members_make_few_sizes_and_rows_come_in_portions():
    draw = torch.Generator().manual_seed(0)
    outputs_K = torch.randn(50, 60, 3, generator=draw)
    targets, metric = torch.randint(3, (60,), generator=draw), METRICS["classification"]["accuracy"]
    whole = subset_rows(outputs_K, targets, metric, "classification")
    assert len(whole) == len(pool_sizes(50)) == 9
    parts = [
        subset_rows(outputs_K[:, a:b], targets[a:b], metric, "classification")
        for a, b in ((0, 17), (17, 60))
    ]
    assert torch.allclose(torch.cat(parts, dim=1), whole)


@pytest.mark.parametrize("task", ["classification", "multilabel"])
def test_pools_of_the_most_certain_members_have_a_loss_that_is_a_number(task):
    """Probabilities that round to 0 or 1 count as elsewhere, and not as an infinite loss."""
    sure = 2000.0 * torch.tensor([[[1.0, -1.0], [-1.0, 1.0]], [[1.0, -1.0], [1.0, -1.0]]])
    targets = torch.tensor([1, 1]) if task == "classification" else torch.tensor([[0, 1], [1, 1]])
    metric = METRICS[task]["nll"]
    grown = growth(subset_rows(sure, targets, metric, task), [1, 2], metric)
    assert all(math.isfinite(value) for size in grown for value in vars(size).values())
    assert grown[1].value < grown[0].value


def test_bins_hold_equally_many_rows_and_agree_with_scikit_learn():
    from sklearn.calibration import calibration_curve as oracle

    draw = torch.Generator().manual_seed(1)
    log_odds_N1 = torch.randn(1000, 1, generator=draw, dtype=torch.float64)
    labels_N1 = (torch.rand(1000, 1, generator=draw) < log_odds_N1.sigmoid()).float()
    bins = calibration_curve(log_odds_N1, labels_N1)
    accuracy, confidence = oracle(
        labels_N1[:, 0], log_odds_N1[:, 0].sigmoid(), n_bins=10, strategy="quantile"
    )
    assert [bin.count for bin in bins] == [100] * 10
    assert [bin.confidence for bin in bins] == pytest.approx(list(confidence))
    assert [bin.accuracy for bin in bins] == pytest.approx(list(accuracy))


def test_a_bins_interval_is_wilsons():
    from scipy import stats

    log_NC = torch.tensor([[0.9, 0.1]] * 40).log()
    (bin,) = calibration_curve(log_NC, torch.tensor([0] * 33 + [1] * 7))
    wilson = stats.binomtest(33, 40).proportion_ci(method="wilson")
    assert (bin.accuracy, bin.low, bin.high) == pytest.approx((33 / 40, *wilson))
