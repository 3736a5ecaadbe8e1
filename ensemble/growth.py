"""What every further member is worth: pools of 1, 2, ... K members.

The pool is the mean of probabilities or values.  Which k members it is must not matter, so the rows
of its metric are averaged over several subsets: windows of k members on a circle in random order,
in which every member has equally many neighbours.  A pool of one is every member, a pool of K all.

Shapes: S size, K member, N sample, C class, L label, T target.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ensemble.expectations import expectation, predicted
from ensemble.metrics import Metric
from ensemble.statistics import paired_bootstrap

SIZES = 10  # at most, so many numbers of members
SUBSETS = 16  # at most, so many windows of each size


@dataclass(frozen=True)
class Growth:
    """Pools of so many members.

    Attributes:
        members: how many.
        value: the metric of their mean rows.
        gain: by how much it differs from that of single members.
        low: of the gain's 95 % interval.
        high: of the gain's 95 % interval.
    """

    members: int
    value: float
    gain: float
    low: float
    high: float


def pool_sizes(members: int) -> list[int]:
    """Choose numbers of members: all where they are few, else from 1 by nearly equal ratios.

    >>> pool_sizes(4), pool_sizes(200)
    ([1, 2, 3, 4], [1, 2, 3, 6, 11, 19, 34, 62, 111, 200])
    """
    if members <= SIZES:
        return list(range(1, members + 1))
    return sorted({round(members ** (step / (SIZES - 1))) for step in range(SIZES)})


def subset_rows(
    outputs_K: Tensor, targets: Tensor, metric: Metric, task: str, *, seed: int = 0
) -> Tensor:
    """Return the rows of a metric for pools of each size, (S, N), averaged over subsets.

    Args:
        outputs_K: logits (K, N, C), log-odds (K, N, L), or values (K, N) or (K, N, T).
        targets: of the same rows, which may be a portion of all.
        metric: one that is not ``joint``.
        task: ``classification``, ``multilabel`` or ``regression``.
        seed: of the order of the members on the circle.
    """
    count = len(outputs_K)
    guess_K = expectation(outputs_K.double(), task)
    guess_K = guess_K[torch.randperm(count, generator=torch.Generator().manual_seed(seed))]
    sizes = pool_sizes(count)
    rows_SN = torch.zeros(len(sizes), len(targets), dtype=torch.float64)
    for guess in guess_K:
        rows_SN[0] += metric.rows(predicted(guess, task), targets) / count
    starts = sorted({count * step // SUBSETS for step in range(SUBSETS)})
    for start in starts:
        total = torch.zeros_like(guess_K[0])
        for held in range(1, sizes[-1] + 1):
            total += guess_K[(start + held - 1) % count]
            whole = held == count  # of which there is one subset
            if held in sizes[1:] and not (whole and start):
                rows = metric.rows(predicted(total / held, task), targets)
                rows_SN[sizes.index(held)] += rows / (1 if whole else len(starts))
    return rows_SN


def growth(rows_SN: Tensor, sizes: Sequence[int], metric: Metric) -> list[Growth]:
    """Compare pools of each size with single members, on all rows.

    >>> from ensemble.metrics import METRICS
    >>> values = torch.tensor([[0.0, 4.0], [2.0, 2.0]])
    >>> rmse = METRICS["regression"]["rmse"]
    >>> rows = subset_rows(values, torch.tensor([1.0, 3.0]), rmse, "regression")
    >>> [(size.members, size.value, size.gain) for size in growth(rows, [1, 2], rmse)]
    [(1, 1.0, 0.0), (2, 0.0, -1.0)]
    """
    told = []
    for size, rows_N in zip(sizes, rows_SN, strict=True):
        interval = paired_bootstrap(rows_N, rows_SN[0], metric.finish, samples=2_000)
        value = float(metric.finish(rows_N.mean()))
        told.append(Growth(size, value, interval.delta, interval.low, interval.high))
    return told
