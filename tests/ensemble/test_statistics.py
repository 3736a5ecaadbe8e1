"""The paired comparison: intervals that cover, p-values that hold, the same answer every time."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor
from torch.special import ndtri

from ensemble.errors import EmptyError, EnsembleError, OptionError
from ensemble.metrics import METRICS, Metric
from ensemble.statistics import Interval, paired_bootstrap


def correct_rows(
    generator: torch.Generator, count: int, first: float, second: float
) -> list[Tensor]:
    """Right and wrong answers of two models whose mistakes correlate (latent correlation 0.6)."""
    shared_N1 = torch.randn(count, 1, generator=generator, dtype=torch.float64)
    own_N2 = torch.randn(count, 2, generator=generator, dtype=torch.float64)
    latent_N2 = math.sqrt(0.6) * shared_N1 + math.sqrt(0.4) * own_N2
    levels = ndtri(torch.tensor([first, second], dtype=torch.float64))
    return list((latent_N2 < levels).double().unbind(dim=1))


def squared_rows(
    generator: torch.Generator, count: int, first: float, second: float
) -> list[Tensor]:
    """Squared errors of two models with the given RMSE whose errors correlate (0.7)."""
    shared_N1 = torch.randn(count, 1, generator=generator, dtype=torch.float64)
    own_N2 = torch.randn(count, 2, generator=generator, dtype=torch.float64)
    error_N2 = math.sqrt(0.7) * shared_N1 + math.sqrt(0.3) * own_N2
    scales = torch.tensor([first, second], dtype=torch.float64)
    return list((error_N2 * scales).square().unbind(dim=1))


CASES = [
    pytest.param(
        correct_rows, 0.92, 0.88, METRICS["classification"]["accuracy"].finish, id="accuracy"
    ),
    pytest.param(squared_rows, 1.0, 1.08, METRICS["regression"]["rmse"].finish, id="rmse"),
]
Rows = Callable[[torch.Generator, int, float, float], list[Tensor]]
Finish = Callable[[Tensor], Tensor]


def finished(finish: Finish) -> Callable[..., np.ndarray]:
    """The whole metric's difference as scipy wants it: of arrays, along an axis."""

    def delta(a: np.ndarray, b: np.ndarray, axis: int = -1) -> np.ndarray:
        means = torch.from_numpy(np.stack([a.mean(axis), b.mean(axis)]))
        return (finish(means[0]) - finish(means[1])).numpy()

    return delta


@pytest.mark.parametrize(("rows", "first", "second", "finish"), CASES)
def test_the_interval_agrees_with_scipy(
    rows: Rows, first: float, second: float, finish: Finish
) -> None:
    a_N, b_N = rows(torch.Generator().manual_seed(3), 300, first, second)

    delta = finished(finish)
    expanded = stats.norm.cdf(math.sqrt(300 / 299) * stats.t.ppf(0.025, 299))
    oracle = stats.bootstrap(
        (a_N.numpy(), b_N.numpy()),
        delta,
        paired=True,
        n_resamples=20_000,
        method="percentile",
        confidence_level=1 - 2 * expanded,
        rng=np.random.default_rng(0),
    )
    ours = paired_bootstrap(a_N, b_N, finish, samples=20_000)
    width = oracle.confidence_interval.high - oracle.confidence_interval.low
    near = max(0.04 * width, 1.01 / 300)  # accuracies move in steps of one row
    assert ours.delta == pytest.approx(float(delta(a_N.numpy(), b_N.numpy())))
    assert ours.low == pytest.approx(oracle.confidence_interval.low, abs=near)
    assert ours.high == pytest.approx(oracle.confidence_interval.high, abs=near)


@pytest.mark.parametrize(("rows", "first", "second", "finish"), CASES)
def test_the_p_value_agrees_with_scipy_on_the_finished_metric(
    rows: Rows, first: float, second: float, finish: Finish
) -> None:
    """Ours flips the rows' differences; scipy swaps the rows and recomputes the whole metric."""
    a_N, b_N = rows(torch.Generator().manual_seed(4), 60, first, second)

    delta = finished(finish)
    oracle = stats.permutation_test(
        (a_N.numpy(), b_N.numpy()),
        delta,
        permutation_type="samples",
        n_resamples=20_000,
        rng=np.random.default_rng(0),
    )
    ours = paired_bootstrap(a_N, b_N, finish, samples=20_000)
    assert ours.p_value == pytest.approx(oracle.pvalue, abs=0.015)


def test_the_p_value_of_accuracies_is_mcnemars_exact_test() -> None:
    a_N = torch.tensor([1.0] * 14 + [0.0] * 5 + [1.0] * 281)
    b_N = torch.tensor([0.0] * 14 + [1.0] * 5 + [1.0] * 281)
    exact = stats.binomtest(14, 19).pvalue
    assert paired_bootstrap(a_N, b_N, samples=40_000).p_value == pytest.approx(exact, abs=0.004)


@pytest.mark.parametrize("count", [30, 200])
def test_a_mean_difference_gets_students_interval(count: int) -> None:
    difference_N = torch.randn(count, generator=torch.Generator().manual_seed(5)).double()
    result = paired_bootstrap(difference_N, torch.zeros(count), samples=40_000)
    student = stats.ttest_1samp(difference_N.numpy(), 0).confidence_interval(0.95)
    width = student.high - student.low
    assert result.low == pytest.approx(student.low, abs=0.04 * width)
    assert result.high == pytest.approx(student.high, abs=0.04 * width)


@pytest.mark.parametrize(
    ("rows", "count", "first", "second", "finish"),
    [
        pytest.param(
            correct_rows,
            250,
            0.92,
            0.90,
            METRICS["classification"]["accuracy"].finish,
            id="accuracy 250",
        ),
        pytest.param(
            squared_rows, 100, 1.0, 1.05, METRICS["regression"]["rmse"].finish, id="rmse 100"
        ),
    ],
)
def test_intervals_cover_the_true_difference(
    rows: Rows, count: int, first: float, second: float, finish: Finish
) -> None:
    generator = torch.Generator().manual_seed(6)
    repetitions = 400
    covered = 0
    for seed in range(repetitions):
        pair = rows(generator, count, first, second)
        result = paired_bootstrap(*pair, finish, samples=500, seed=seed)
        covered += result.low - 1e-12 <= first - second <= result.high + 1e-12
    assert 0.93 <= covered / repetitions <= 0.97


def test_p_values_hold_their_level_when_nothing_differs() -> None:
    generator = torch.Generator().manual_seed(7)
    rejected = sum(
        paired_bootstrap(*squared_rows(generator, 50, 1.0, 1.0), samples=400).p_value <= 0.1
        for _ in range(400)
    )
    assert 0.06 <= rejected / 400 <= 0.14


FINISHES = {
    name: metric.finish
    for metrics in METRICS.values()
    for name, metric in metrics.items()
    if isinstance(metric, Metric)
}


@pytest.mark.parametrize("name", FINISHES)
def test_identical_rows_differ_by_exactly_nothing(name: str) -> None:
    rows_N = torch.rand(5000, generator=torch.Generator().manual_seed(8))
    result = paired_bootstrap(rows_N, rows_N.clone(), FINISHES[name], samples=50)
    assert result == Interval(0.0, 0.0, 0.0, 1.0)


def test_swapping_candidate_and_baseline_mirrors_delta_and_keeps_the_p_value() -> None:
    a_N, b_N = squared_rows(torch.Generator().manual_seed(9), 150, 1.0, 1.1)
    forth = paired_bootstrap(a_N, b_N, torch.sqrt)
    back = paired_bootstrap(b_N, a_N, torch.sqrt)
    mirrored = (-back.delta, -back.high, -back.low, back.p_value)
    assert tuple(forth) == pytest.approx(mirrored, abs=1e-3)


def test_the_seed_decides_everything_and_the_global_generator_is_left_alone() -> None:
    a_N, b_N = squared_rows(torch.Generator().manual_seed(10), 150, 1.0, 1.1)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = paired_bootstrap(a_N, b_N, torch.sqrt, seed=1)
    torch.manual_seed(99)
    assert paired_bootstrap(a_N, b_N, torch.sqrt, seed=1) == first
    assert paired_bootstrap(a_N, b_N, torch.sqrt, seed=2) != first
    torch.manual_seed(0)
    paired_bootstrap(a_N, b_N)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("count", [6000, 15_000])
def test_many_rows_are_grouped_without_changing_the_interval(count: int) -> None:
    """6,000 rows make groups of one and of two; the normal interval is right for so many rows."""
    a_N, b_N = squared_rows(torch.Generator().manual_seed(11), count, 1.0, 1.02)
    result = paired_bootstrap(a_N, b_N, samples=1000)
    error = float((a_N - b_N).std()) / math.sqrt(count)
    assert result.low == pytest.approx(result.delta - 1.96 * error, abs=0.25 * error)
    assert result.high == pytest.approx(result.delta + 1.96 * error, abs=0.25 * error)
    exact = 2 * stats.norm.sf(abs(result.delta) / error)
    assert result.p_value == pytest.approx(exact, abs=0.02)


def test_a_single_error_among_many_rows_never_leaves_the_square_root_undefined() -> None:
    a_N, b_N = torch.zeros(9000), torch.zeros(9000)
    a_N[0] = 1.0
    result = paired_bootstrap(a_N, b_N, torch.sqrt, samples=500)
    assert all(map(math.isfinite, result))
    assert result.low == 0.0


def test_an_end_at_zero_is_exactly_zero() -> None:
    """Three wins and no loss: some 5 % of the resamples hold none of them."""
    a_N, b_N = torch.ones(300), torch.ones(300)
    b_N[:3] = 0.0
    assert paired_bootstrap(a_N, b_N).low == 0.0
    assert paired_bootstrap(b_N, a_N).high == 0.0


def test_undefined_rows_give_an_undefined_interval() -> None:
    result = paired_bootstrap(torch.tensor([0.1, math.inf]), torch.tensor([0.1, 0.2]))
    assert result.delta == math.inf
    assert all(map(math.isnan, result[1:]))


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_few_rows_prove_nothing(count: int) -> None:
    result = paired_bootstrap(torch.ones(count), torch.zeros(count))
    assert result[:3] == (1.0, 1.0, 1.0)
    assert result.p_value > 0.2


@pytest.mark.parametrize(
    ("pair", "options", "error", "message"),
    [
        ((torch.zeros(3), torch.zeros(4)), {}, EnsembleError, r"\(3,\) and \(4,\)"),
        ((torch.zeros(3, 1), torch.zeros(3, 1)), {}, EnsembleError, r"\(3, 1\)"),
        ((torch.zeros(0), torch.zeros(0)), {}, EmptyError, "at least one row"),
        ((torch.zeros(3), torch.zeros(3)), {"samples": 0}, OptionError, "however: 0 and 0.95"),
        ((torch.zeros(3), torch.zeros(3)), {"level": 95}, OptionError, "however: 10000 and 95"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    pair: tuple[Tensor, Tensor], options: dict[str, float], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        paired_bootstrap(*pair, **options)
