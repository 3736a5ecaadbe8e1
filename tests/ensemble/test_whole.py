"""Metrics of predictions as a whole: scikit-learn's, of any weights; intervals resample rows."""

import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics as sk
from torch import Tensor

from ensemble.errors import EmptyError, EnsembleError, OptionError
from ensemble.metrics import ALIASES, METRICS, WholeMetric, find
from ensemble.statistics import Interval, interval_of, weighted_bootstrap

WHOLE = {
    (task, name): metric
    for task, metrics in METRICS.items()
    for name, metric in metrics.items()
    if isinstance(metric, WholeMetric)
}


def classified(
    rows: int, classes: int, seed: int = 0, coarse: bool = False
) -> tuple[Tensor, Tensor]:
    """Log-probabilities that know something of the labels, perhaps with many ties."""
    generator = torch.Generator().manual_seed(seed)
    labels_N = torch.randint(classes, (rows,), generator=generator)
    logits_NC = torch.randn(rows, classes, generator=generator, dtype=torch.float64)
    logits_NC += torch.nn.functional.one_hot(labels_N, classes)
    logits_NC = logits_NC.round() if coarse else logits_NC
    return logits_NC.log_softmax(1), labels_N


def labelled(rows: int, labels: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels_NL = torch.randint(2, (rows, labels), generator=generator).float()
    odds_NL = torch.randn(rows, labels, generator=generator, dtype=torch.float64)
    return (odds_NL + labels_NL).round(decimals=1), labels_NL


def pair(task: str, rows: int = 60, seed: int = 0) -> tuple[Tensor, Tensor]:
    return classified(rows, 3, seed) if task == "classification" else labelled(rows, 3, seed)


@pytest.mark.parametrize("coarse", [False, True])
@pytest.mark.parametrize("classes", [2, 5])
def test_figures_of_classes_are_scikit_learns(classes: int, coarse: bool) -> None:
    log_NC, labels_N = classified(300, classes, coarse=coarse)
    labels, decided = labels_N.numpy(), log_NC.argmax(1).numpy()
    # Of the very scores that are sorted here, so that ties are the same.
    scores = [log_NC[:, 1] - log_NC[:, 0]] if classes == 2 else log_NC.T
    there = [labels == 1] if classes == 2 else [labels == c for c in range(classes)]
    areas = [sk.roc_auc_score(*pair) for pair in zip(there, scores, strict=True)]
    expected = {
        "balanced_accuracy": sk.balanced_accuracy_score(labels, decided),
        "f1": sk.f1_score(labels, decided, average="macro"),
        "roc_auc": np.mean(areas),
    }
    got = {name: METRICS["classification"][name](log_NC, labels_N) for name in expected}
    assert got == pytest.approx(expected)
    if not coarse:
        shares = log_NC.exp().numpy()
        whole = sk.roc_auc_score(
            labels, shares[:, 1] if classes == 2 else shares, multi_class="ovr"
        )
        assert got["roc_auc"] == pytest.approx(whole)


def test_figures_of_labels_are_scikit_learns() -> None:
    odds_NL, labels_NL = labelled(200, 4)
    labels, decided = labels_NL.numpy(), (odds_NL > 0).numpy()
    shares = odds_NL.sigmoid().numpy()
    expected = {
        "accuracy": sk.accuracy_score(labels, decided),
        "hamming": sk.hamming_loss(labels, decided),
        "nll": np.mean([sk.log_loss(labels[:, k], shares[:, k]) for k in range(4)]),
        "brier": np.mean([sk.brier_score_loss(labels[:, k], shares[:, k]) for k in range(4)]),
        "f1": sk.f1_score(labels, decided, average="macro"),
        "f1_micro": sk.f1_score(labels, decided, average="micro"),
        "roc_auc": sk.roc_auc_score(labels, shares, average="macro"),
    }
    got = {name: metric(odds_NL, labels_NL) for name, metric in METRICS["multilabel"].items()}
    assert got == pytest.approx(expected)
    assert next(iter(got)) == "accuracy"


def test_figures_of_several_values_are_scikit_learns() -> None:
    generator = torch.Generator().manual_seed(1)
    targets_NT = torch.randn(80, 3, generator=generator) * torch.tensor([1.0, 10.0, 0.1])
    values_NT = targets_NT + 0.3 * torch.randn(80, 3, generator=generator)
    both = targets_NT.double().numpy(), values_NT.double().numpy()
    expected = {
        "rmse": math.sqrt(sk.mean_squared_error(*both)),
        "mae": sk.mean_absolute_error(*both),
        "r2": sk.r2_score(*both),
    }
    got = {name: metric(values_NT, targets_NT) for name, metric in METRICS["regression"].items()}
    assert got == pytest.approx(expected)


@settings(max_examples=60, deadline=None)
@given(
    weights=st.lists(st.integers(0, 3), min_size=12, max_size=12).filter(any),
    seed=st.integers(0, 50),
    case=st.sampled_from(sorted(WHOLE)),
)
def test_weights_count_rows_as_often_as_they_say(
    weights: list[int], seed: int, case: tuple[str, str]
) -> None:
    task, _ = case
    predictions, targets = pair(task, rows=12, seed=seed)
    whole = WHOLE[case].whole(predictions, targets)(torch.tensor([weights, [1] * 12]))
    index = torch.arange(12).repeat_interleave(torch.tensor(weights))
    again = WHOLE[case](predictions[index], targets[index])
    assert whole[0].item() == pytest.approx(again, nan_ok=True)
    assert whole[1].item() == pytest.approx(WHOLE[case](predictions, targets), nan_ok=True)


@pytest.mark.parametrize("task", ["classification", "multilabel"])
def test_a_missing_class_leaves_the_area_undefined_and_no_other_figure(task: str) -> None:
    predictions, targets = pair(task)
    targets = (
        targets.clamp(max=1) if task == "classification" else targets * torch.tensor([1, 1, 0])
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        got = {name: metric(predictions, targets) for name, metric in METRICS[task].items()}
        interval = METRICS[task]["roc_auc"].interval(predictions, predictions, targets)
    assert [name for name, figure in got.items() if math.isnan(figure)] == ["roc_auc"]
    assert all(map(math.isnan, interval))


def test_labels_neither_there_nor_predicted_are_left_out_of_f1() -> None:
    odds_NL, labels_NL = labelled(50, 3)
    odds_NL[:, 1], labels_NL[:, 1] = -1.0, 0.0
    both = labels_NL.numpy(), (odds_NL > 0).numpy()
    expected = sk.f1_score(*both, average="macro", zero_division=np.nan)
    assert METRICS["multilabel"]["f1"](odds_NL, labels_NL) == pytest.approx(expected)


# Intervals


@pytest.mark.parametrize("name", ["balanced_accuracy", "f1", "roc_auc"])
def test_the_interval_agrees_with_scipys_bootstrap_of_rows(name: str) -> None:
    metric = METRICS["classification"][name]
    (a_NC, labels_N), (other_NC, _) = classified(120, 2, 1), classified(120, 2, 2)
    b_NC = (a_NC + 0.5 * other_NC).log_softmax(1)
    got = metric.interval(a_NC, b_NC, labels_N)
    figures = metric.whole(a_NC, labels_N), metric.whole(b_NC, labels_N)

    def delta(index: np.ndarray, axis: int = -1) -> np.ndarray:
        weight_SN = np.apply_along_axis(np.bincount, axis, index, minlength=120)
        first, second = (figure(torch.from_numpy(weight_SN)) for figure in figures)
        return (first - second).numpy()

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = stats.bootstrap(
            (np.arange(120),), delta, n_resamples=4000, method="percentile", rng=0, vectorized=True
        ).confidence_interval
    width = theirs.high - theirs.low
    assert got.delta == pytest.approx(metric(a_NC, labels_N) - metric(b_NC, labels_N))
    assert got.low == pytest.approx(theirs.low, abs=0.08 * width)
    assert got.high == pytest.approx(theirs.high, abs=0.08 * width)
    assert got.low < got.delta < got.high


@pytest.mark.parametrize("case", sorted(WHOLE))
def test_identical_predictions_differ_by_exactly_nothing(case: tuple[str, str]) -> None:
    predictions, targets = pair(case[0], rows=200)
    assert WHOLE[case].interval(predictions, predictions, targets) == Interval(0.0, 0.0, 0.0, 1.0)


def test_a_clear_difference_is_significant_and_none_rarely_is() -> None:
    auc = METRICS["classification"]["roc_auc"]
    log_NC, labels_N = classified(300, 2)
    noise_NC = classified(300, 2, 5)[0]
    clear = auc.interval(log_NC, noise_NC, labels_N)
    assert clear.low > 0
    assert clear.p_value < 0.01
    rejected = 0
    for seed in range(100):
        _, labels_N = classified(80, 2, seed)
        pair = (classified(80, 2, 1000 + 2 * seed + k)[0] for k in range(2))
        figures = [auc.whole(log, labels_N) for log in pair]
        rejected += weighted_bootstrap(*figures, 80, samples=400).p_value <= 0.1
    assert 2 <= rejected <= 20


def test_many_rows_are_grouped_and_take_little_time_and_memory() -> None:
    auc = METRICS["classification"]["roc_auc"]
    log_NC, labels_N = classified(20_000, 2)
    other_NC = (log_NC + classified(20_000, 2, 3)[0]).log_softmax(1)
    figures = auc.whole(log_NC, labels_N), auc.whole(other_NC, labels_N)
    got = weighted_bootstrap(*figures, 20_000, samples=200)
    assert got.low < got.delta < got.high


def test_the_seed_decides_everything_and_the_global_generator_is_left_alone() -> None:
    log_NC, labels_N = classified(100, 3)
    figures = [
        METRICS["classification"]["f1"].whole(classified(100, 3, k)[0], labels_N) for k in (0, 1)
    ]
    before = torch.get_rng_state()
    first = weighted_bootstrap(*figures, 100, samples=200, seed=1)
    assert weighted_bootstrap(*figures, 100, samples=200, seed=1) == first
    assert weighted_bootstrap(*figures, 100, samples=200, seed=2) != first
    assert torch.equal(torch.get_rng_state(), before)
    assert log_NC.isfinite().all()


@pytest.mark.parametrize("task", ["classification", "multilabel"])
def test_an_area_of_few_rows_of_a_class_has_no_interval(task: str) -> None:
    """With one such row nominal 95 % intervals hold the truth less than half the time."""
    area, draw = METRICS[task]["roc_auc"], torch.Generator().manual_seed(3)
    for few, known in ((1, False), (4, False), (5, True)):
        for rare_N in ((torch.arange(80) < few).long(), (torch.arange(80) >= few).long()):
            odds_N1, other_N1 = torch.randn(2, 80, 1, generator=draw)
            targets = rare_N
            pair = [torch.cat([-odds, odds], 1).log_softmax(1) for odds in (odds_N1, other_N1)]
            if task == "multilabel":
                targets, pair = rare_N[:, None], [odds_N1, other_N1]
            told = area.interval(*pair, targets)
            assert math.isfinite(told.delta)
            assert [math.isfinite(end) for end in told[1:]] == [known] * 3
            assert bool(area.resamples(pair[0], targets).isfinite().any()) == known


@pytest.mark.parametrize("count", [1, 2, 3, 9])
def test_a_few_rows_that_all_agree_prove_no_more_than_flips_of_them_could(count: int) -> None:
    def best(weight_SN: Tensor) -> Tensor:
        return weight_SN.sum(1) / count

    told = weighted_bootstrap(best, lambda weight_SN: 0 * best(weight_SN), count)
    assert told == Interval(1.0, 1.0, 1.0, 2.0 ** (1 - count))


def test_the_mean_of_copies_differs_from_them_by_nothing() -> None:
    """Ten tenths of a figure are not quite the figure: rounding must not become a difference."""
    one, (log_NC, labels_N) = METRICS["classification"]["accuracy"], classified(100, 3)
    figure, figure_S = one(log_NC, labels_N), one.resamples(log_NC, labels_N)
    for copies in range(2, 60):
        mean_S = sum(figure_S / copies for _ in range(copies))
        told = interval_of(0.0, mean_S - figure_S, 100, scale=2 * figure)
        assert told == Interval(0.0, 0.0, 0.0, 1.0)


# Refusals


@pytest.mark.parametrize("case", sorted(WHOLE))
def test_what_cannot_be_scored_is_refused(case: tuple[str, str]) -> None:
    predictions, targets = pair(case[0])
    with pytest.raises(EnsembleError, match="scores need"):
        WHOLE[case](predictions, targets[:-1])
    with pytest.raises(EmptyError, match="at least one row"):
        WHOLE[case](predictions[:0], targets[:0])


@pytest.mark.parametrize("name", METRICS["multilabel"])
def test_labels_other_than_0_and_1_are_refused(name: str) -> None:
    odds_NL, labels_NL = labelled(4, 2)
    with pytest.raises(EnsembleError, match="labels are 0 or 1, however: not in row 1"):
        METRICS["multilabel"][name](odds_NL, labels_NL + torch.tensor([[0], [2], [0], [0]]))
    with pytest.raises(EnsembleError, match="nan in row 0"):
        METRICS["multilabel"][name](odds_NL * math.nan, labels_NL)


def test_metrics_are_found_by_their_usual_names() -> None:
    assert find("classification", "log_loss").name == "nll"
    assert find("multilabel", "hamming_loss").name == "hamming"
    assert all(any(name in metrics for metrics in METRICS.values()) for name in ALIASES.values())
    with pytest.raises(OptionError, match=r"no metric of regression is called 'roc_auc'"):
        find("regression", "roc_auc")


def test_samples_and_levels_out_of_range_are_refused() -> None:
    def figure(weight_SN: Tensor) -> Tensor:
        return weight_SN.sum(1)

    with pytest.raises(OptionError, match="samples >= 1"):
        weighted_bootstrap(figure, figure, 3, samples=0)
    with pytest.raises(EmptyError, match="at least one row"):
        weighted_bootstrap(figure, figure, 0)
