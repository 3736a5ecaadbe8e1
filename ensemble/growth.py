"""What every further member is worth: pools of 1, 2, ... K members.

The pool is the mean of probabilities or values.  Which k members it is must not matter, so the rows
of its metric are averaged over several subsets: windows of k members on a circle in random order,
in which every member has equally many neighbours.  A pool of one is every member, a pool of K all.

Shapes: S size, W window, K member, N sample, C class, L label, T target.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ensemble.expectations import expectation, predicted
from ensemble.lanes import in_lanes
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


def subset_rows(outputs_K: Tensor, targets: Tensor, metric: Metric, task: str) -> Tensor:
    """Return the rows of a metric for pools of each size, (S, N), averaged over subsets.

    Args:
        outputs_K: logits (K, N, C), log-odds (K, N, L), or values (K, N) or (K, N, T).
        targets: of the same rows, which may be a portion of all.
        metric: one that is not ``joint``.
        task: ``classification``, ``multilabel`` or ``regression``.
    """
    count = len(outputs_K)
    guess_K = expectation(outputs_K.double(), task)
    guess_K = guess_K[torch.randperm(count, generator=torch.Generator().manual_seed(0))]
    sizes = pool_sizes(count)

    def mean_rows(pools_K: Tensor) -> Tensor:
        """The rows of several pools, side by side: short operations cost more than their sums."""
        many = targets.repeat(len(pools_K), *(1 for _ in targets.shape[1:]))
        rows = metric.rows(predicted(pools_K.flatten(0, 1), task), many)
        return rows.view(len(pools_K), -1).mean(dim=0)

    rows_SN = [mean_rows(guess_K)]
    start_W = torch.tensor(sorted({count * step // SUBSETS for step in range(SUBSETS)}))
    total_W = torch.zeros_like(guess_K[: len(start_W)])
    for held in range(1, sizes[-1] + 1):
        total_W += guess_K[(start_W + held - 1) % count]
        if held in sizes[1:]:
            whole = held == count  # of which there is one subset
            rows_SN.append(mean_rows((total_W[:1] if whole else total_W) / held))
    return torch.stack(rows_SN)


def growth(rows_SN: Tensor, sizes: Sequence[int], metric: Metric) -> list[Growth]:
    """Compare pools of each size with single members, on all rows.

    >>> from ensemble.metrics import METRICS
    >>> values = torch.tensor([[0.0, 4.0], [2.0, 2.0]])
    >>> rmse = METRICS["regression"]["rmse"]
    >>> rows = subset_rows(values, torch.tensor([1.0, 3.0]), rmse, "regression")
    >>> [(size.members, size.value, size.gain) for size in growth(rows, [1, 2], rmse)]
    [(1, 1.0, 0.0), (2, 0.0, -1.0)]
    """

    def told(place: int) -> Growth:
        rows_N = rows_SN[place]
        interval = paired_bootstrap(rows_N, rows_SN[0], metric.finish, samples=2_000)
        value = float(metric.finish(rows_N.mean()))
        return Growth(sizes[place], value, interval.delta, interval.low, interval.high)

    return [*in_lanes(told, range(len(sizes)))]
