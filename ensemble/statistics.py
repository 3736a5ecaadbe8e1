"""Is the candidate better than the baseline, or was it luck?  Both are scored on the same rows.

With rows a_i of the candidate and b_i of the baseline, and a metric finish(mean(rows)),

    delta = finish(mean a) - finish(mean b)

* The *interval* resamples the pairs (a_i, b_i) with replacement and takes percentiles of delta,
  expanded for small N: the lower one, at level 1 - alpha, is Phi(sqrt(N / (N - 1)) t) with t the
  alpha/2 quantile of Student's distribution.  A normal sample then gets Student's interval.
  B. Efron & R. J. Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13;
  T. C. Hesterberg, What Teachers Should Know About the Bootstrap, 2015.
* The *p-value* flips pairs: if both are equally good, a_i and b_i could be swapped.  That is
  p = (1 + #{|sum s_i d_i| >= |sum d_i|}) / (1 + samples) with d = a - b and random signs s.
  Swapping moves mean a and mean b by opposite amounts, so any monotone ``finish`` gives the same p.
  E. J. G. Pitman 1937; B. Phipson & G. K. Smyth, Permutation P-values Should Never Be Zero, 2010.

Percentiles were chosen over BCa (B. Efron, Better Bootstrap Confidence Intervals, 1987) by
simulation: of NLL and of the accuracy of few rows BCa is better by half a point, of RMSE with
heavy tails its estimate of skewness is so unsure that 95 % intervals hold 89 %, these 93 %.  All
cases are in ``docs/comparison.md``, from ``benchmarks/coverage.py``.

Metrics that are no mean of rows, such as an area under a curve, have the same interval: a resample
draws rows with replacement, and both figures are computed of the rows it drew, as weights
(:func:`weighted_bootstrap`).  Pairs cannot be flipped by adding up, so their *p-value* is the
smallest level at which the percentile interval leaves out zero, p = 2 (1 + #) / (1 + samples) with
# the resamples on the rarer side of zero, those at zero being on both (Efron & Tibshirani,
chapter 15.4).  It is 2^(1 - N) at least, as if pairs were flipped: resamples of a few rows that all
agree agree as well, however many there are.

Beyond 4,096 rows, rows are first summed in 4,096 random groups, which are then resampled and
flipped like rows.  That keeps the variance (in expectation over the grouping; its standard
deviation is 2 %) and the validity of the p-value, and bounds time and memory.
"""

import math
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from ensemble.errors import EmptyError, EnsembleError, OptionError

LEVEL = 0.95
SAMPLES = 2_000  # of figures that are no mean of rows, or of many models
GROUPS = 4096
# Resampled at once: two columns stay below the 32,768 elements from which torch uses threads, which
# on a busy machine made these short operations 20 times slower.
DRAWS = 16_000
WEIGHTS = 1_000_000  # of rows at once, for figures that are no mean of rows
ROUNDING = 1e-12  # sums this close, relative to the sum of magnitudes, are equal


class Interval(NamedTuple):
    """A paired difference, candidate minus baseline, its interval and two-sided p-value."""

    delta: float
    low: float
    high: float
    p_value: float


def paired_bootstrap(
    rows_a_N: Tensor,
    rows_b_N: Tensor,
    finish: Callable[[Tensor], Tensor] = lambda means: means,
    *,
    samples: int = 10_000,
    level: float = LEVEL,
    seed: int = 0,
) -> Interval:
    """Compare a candidate's rows with a baseline's on the same test set.

    Rows are (N,) tensors of any real type, as the ``rows`` of a metric in
    :mod:`ensemble.scores` returns them, and ``finish`` is that metric's: monotone, elementwise.
    The result is a function of the arguments alone; torch's global generator is left as it is.
    Rows that are not finite (a probability of 0, an undefined R2) give an interval of nan.

    Raises :class:`EnsembleError` if the rows are not two vectors of one length,
    :class:`EmptyError` if there is none, :class:`OptionError` for samples or a level out of range.

    >>> better, worse = torch.tensor([1.0] * 95 + [0.0] * 5), torch.tensor([1.0] * 85 + [0.0] * 15)
    >>> delta, low, high, p_value = paired_bootstrap(better, worse)
    >>> f"{delta:+.2f} [{low:+.2f}, {high:+.2f}]", p_value < 0.01
    ('+0.10 [+0.05, +0.16]', True)
    """
    if rows_a_N.ndim != 1 or rows_a_N.shape != rows_b_N.shape:
        raise EnsembleError(
            "a paired comparison needs two vectors of the same rows, however: "
            f"{tuple(rows_a_N.shape)} and {tuple(rows_b_N.shape)}"
        )
    if rows_a_N.numel() == 0:
        raise EmptyError("a paired comparison needs at least one row, however: there is none")
    if samples < 1 or not 0 < level < 1:
        raise OptionError(
            f"samples >= 1 and 0 < level < 1 are needed, however: {samples} and {level}"
        )
    a_N, b_N = rows_a_N.detach().cpu().double(), rows_b_N.detach().cpu().double()
    figure_a, figure_b = (float(finish(rows_N.mean())) for rows_N in (a_N, b_N))
    delta = figure_a - figure_b
    if not bool((a_N.isfinite() & b_N.isfinite()).all()):
        return Interval(delta, math.nan, math.nan, math.nan)
    generator = torch.Generator().manual_seed(seed)
    count = a_N.shape[0]
    group_N = torch.randperm(count, generator=generator) % min(count, GROUPS)
    deltas_S = _resampled(a_N, b_N, finish, group_N, samples, generator)
    tail = _tail(level, count)
    ends = torch.quantile(deltas_S, torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()
    told_3 = torch.tensor([delta, *ends], dtype=torch.float64)
    delta, low, high = _unrounded(told_3, abs(figure_a) + abs(figure_b)).tolist()
    return Interval(delta, low, high, _flipped(a_N - b_N, group_N, samples, generator))


def weighted_bootstrap(
    figure_a: Callable[[Tensor], Tensor],
    figure_b: Callable[[Tensor], Tensor],
    count: int,
    *,
    samples: int = SAMPLES,
    seed: int = 0,
) -> Interval:
    """Compare two figures of the same rows, neither of them a mean of rows.

    Figures are functions from weights (S, N) of the N = ``count`` rows to (S,) figures, as those of
    :mod:`ensemble.whole`.  Resamples in which one of them is undefined are left out; where that is
    half of them or more, or a figure of all rows is undefined, the interval is nan.

    Raises :class:`EmptyError` if there is no row, :class:`OptionError` if there is no sample.

    >>> best, worst = (lambda w, c=c: w[:, :c].sum(1) / w.sum(1) for c in (95, 85))
    >>> delta, low, high, p_value = weighted_bootstrap(best, worst, 100)
    >>> f"{delta:+.2f} [{low:+.2f}, {high:+.2f}]", p_value < 0.01
    ('+0.10 [+0.05, +0.16]', True)
    """
    once_1N = torch.ones(1, count, dtype=torch.float64)
    whole_a, whole_b = (float(figure(once_1N)) for figure in (figure_a, figure_b))
    deltas_S = resampled_figures(
        lambda weight_SN: figure_a(weight_SN) - figure_b(weight_SN),
        count,
        samples=samples,
        seed=seed,
    )
    scale = abs(whole_a) + abs(whole_b)
    return interval_of(whole_a - whole_b, deltas_S, count, scale=scale)


def resampled_means(rows_N: Tensor) -> Tensor:
    """Return the means of resampled rows, float64 (samples,).

    Rows of as many others are drawn alike, so that differences of their means are paired.  Raises
    :class:`EmptyError` if there is no row.

    >>> rows = torch.arange(100.0)
    >>> bool(resampled_means(rows).add(1).allclose(resampled_means(rows + 1)))
    True
    """
    group_N, weight_SG = _draws(len(rows_N), SAMPLES, seed=0)
    mean = rows_N.double().mean()
    # Rows are centred, so that groups of unequal size add no noise of their own.
    centred_G = _grouped(rows_N.double() - mean, group_N) / len(rows_N)
    return mean + weight_SG @ centred_G


def resampled_figures(
    figure: Callable[[Tensor], Tensor], count: int, *, samples: int = SAMPLES, seed: int = 0
) -> Tensor:
    """Return a figure of resampled rows, (samples,), as :func:`resampled_means` does."""
    group_N, weight_SG = _draws(count, samples, seed)
    some = torch.split(weight_SG, max(1, WEIGHTS // count))
    return torch.cat([figure(weight_SG[:, group_N]) for weight_SG in some])


def interval_of(delta: float, deltas_S: Tensor, count: int, *, scale: float) -> Interval:
    """Return the percentile interval and the p-value that go with resampled differences.

    Resamples that are undefined are left out; where that is half of them or more, or the difference
    itself is undefined, the interval is nan.

    Args:
        delta: the difference of all rows.
        deltas_S: those of resamples.
        count: how many rows there are.
        scale: of the figures that differ, beside which rounding makes no difference.

    >>> interval_of(1e-16, torch.full((100,), -1e-16), count=9, scale=0.9)
    Interval(delta=0.0, low=0.0, high=0.0, p_value=1.0)
    """
    known_S = _unrounded(deltas_S[deltas_S.isfinite()].double(), scale)
    if not math.isfinite(delta) or 2 * len(known_S) <= len(deltas_S):
        return Interval(delta, math.nan, math.nan, math.nan)
    delta = float(_unrounded(torch.tensor(delta, dtype=torch.float64), scale))
    tail = _tail(LEVEL, count)
    low, high = torch.quantile(known_S, torch.tensor([tail, 1 - tail]).double()).tolist()
    rarer = min(int((known_S <= 0).sum()), int((known_S >= 0).sum()))
    p_value = max(2 * (1 + rarer) / (1 + len(known_S)), 2.0 ** (1 - count))
    return Interval(delta, low, high, min(1.0, p_value))


def _unrounded(deltas: Tensor, scale: float) -> Tensor:
    """Let differences that are mere rounding of figures of this size be none."""
    return deltas.where(deltas.abs() > ROUNDING * scale, 0.0)


def _draws(count: int, samples: int, seed: int) -> tuple[Tensor, Tensor]:
    """The group of each row, (N,), and how often resamples drew each group, (S, G)."""
    if count == 0:
        raise EmptyError("a paired comparison needs at least one row, however: there is none")
    if samples < 1:
        raise OptionError(f"samples >= 1 is needed, however: {samples}")
    generator = torch.Generator().manual_seed(seed)
    group_N = torch.randperm(count, generator=generator) % min(count, GROUPS)
    return group_N, _drawn(min(count, GROUPS), samples, seed)


@lru_cache(maxsize=1)  # many models are resampled alike
def _drawn(groups: int, samples: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    drawn_SG = torch.randint(groups, (samples, groups), generator=generator)
    once_SG = torch.ones((), dtype=torch.float64).expand(samples, groups)
    return torch.zeros(samples, groups, dtype=torch.float64).scatter_add_(1, drawn_SG, once_SG)


def _resampled(
    a_N: Tensor,
    b_N: Tensor,
    finish: Callable[[Tensor], Tensor],
    group_N: Tensor,
    samples: int,
    generator: torch.Generator,
) -> Tensor:
    """The bootstrap distribution of delta, (samples,)."""
    # Rows are centred, so that groups of unequal size add no noise of their own; and b and the
    # difference are resampled rather than b and a, so that identical rows give exactly 0.
    rows_N2 = torch.stack([b_N, a_N - b_N], dim=1)
    mean_2 = rows_N2.mean(dim=0)
    rows_G2 = _grouped(rows_N2 - mean_2, group_N)
    groups = rows_G2.shape[0]
    deltas = []
    for size in _chunks(samples, groups):
        index = torch.randint(groups, (size * groups,), generator=generator)
        drawn_S2 = rows_G2.index_select(0, index).view(size, groups, 2).sum(dim=1)
        b_S, difference_S = (mean_2 + drawn_S2 / b_N.shape[0]).unbind(dim=1)
        # No mean lies below the smallest row: keeps rounding out of the square root's domain.
        a_S = (b_S + difference_S).clamp(min=a_N.min())
        deltas.append(finish(a_S) - finish(b_S.clamp(min=b_N.min())))
    return torch.cat(deltas)


def _flipped(
    difference_N: Tensor, group_N: Tensor, samples: int, generator: torch.Generator
) -> float:
    """The p-value of random sign flips, the observed signs counted as one of them."""
    difference_G = _grouped(difference_N, group_N)
    total = difference_G.sum()
    bound = total.abs() - ROUNDING * difference_G.abs().sum()
    extreme = 1
    for size in _chunks(samples, difference_G.shape[0]):
        kept_SG = torch.randint(
            2, (size, difference_G.shape[0]), generator=generator, dtype=torch.int8
        )
        flipped_S = 2 * (kept_SG.double() @ difference_G) - total
        extreme += int((flipped_S.abs() >= bound).sum())
    return extreme / (1 + samples)


def _grouped(rows_N: Tensor, group_N: Tensor) -> Tensor:
    """Sum rows, (N,) or (N, ...), by group; with one row per group this only reorders them."""
    groups = min(group_N.shape[0], GROUPS)
    return rows_N.new_zeros(groups, *rows_N.shape[1:]).index_add_(0, group_N, rows_N)


def _chunks(samples: int, rows: int) -> Iterator[int]:
    """Split the samples into sizes of at most so many resampled rows."""
    size = max(1, DRAWS // rows)
    for start in range(0, samples, size):
        yield min(size, samples - start)


def _tail(level: float, count: int) -> float:
    """The expanded lower percentile."""
    from scipy.special import ndtr, stdtrit

    if count < 3:
        return 0.0
    student = stdtrit(count - 1, (1 - level) / 2)
    return float(ndtr(student * math.sqrt(count / (count - 1))))
