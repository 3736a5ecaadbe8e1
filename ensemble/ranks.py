"""The k-th largest of many numbers, exactly, without sorting them or holding them all.

A sample tells two bounds that the wanted number almost surely lies between.  One pass counts what
is above them and collects the few that are between, among which it is then found (Floyd & Rivest
1975, Algorithm 489: SELECT).

The pass runs in float32 unless members are float64.  Rounding keeps the order, so whatever is above
the bounds once rounded is so before; those between are measured again in float64.  It is NumPy's:
PyTorch takes five times as long to compare with a number, and to find what is true, on a CPU.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ensemble.dtypes import Array

SAMPLE = 1 << 16
PIECE = 1 << 15  # elements at a time, near a core


def kth_largest(leaves: Sequence[Tensor], base: Tensor, k: int) -> Tensor:
    """Return the k-th largest \\|xᵢ - base\\| of each of K real leaves: (K,), float64.

    The largest is that for k = 1, and k is at most the number of elements.

    >>> kth_largest([torch.tensor([1.0, -7.0, 5.0])], torch.tensor([0.0, 0.0, 1.0]), 2)
    tensor([4.], dtype=torch.float64)
    """
    found = [_kth_largest(leaf.reshape(-1), base.reshape(-1), k) for leaf in leaves]
    return torch.tensor(found, dtype=torch.float64, device=base.device)


def _kth_largest(leaf_N: Tensor, base_N: Tensor, k: int) -> float:
    low, high = _bounds(leaf_N, base_N, k)
    above, between = 0, []
    for part_N, start_N in zip(*(torch.split(x, PIECE) for x in (leaf_N, base_N)), strict=True):
        size_N = _sizes(part_N, start_N)
        higher_N = size_N > high
        above += int(np.count_nonzero(higher_N))
        if high > 0:  # else all others are the same
            near_M = torch.from_numpy(np.flatnonzero((size_N >= low) ^ higher_N)).to(base_N.device)
            between.append(_exact(part_N[near_M], start_N[near_M]))
    rank = k - above
    if high == 0 and rank > 0:
        return 0.0
    values_M = np.concatenate(between) if between else np.empty(0)
    if not 0 < rank <= len(values_M):  # the sample was unlike the rest
        values_M, rank = _exact(leaf_N, base_N), k
    place = len(values_M) - rank
    return float(np.partition(values_M, place)[place])


def _bounds(leaf_N: Tensor, base_N: Tensor, k: int) -> tuple[float, float]:
    """Return numbers below and above the k-th largest, with a chance of nearly one."""
    step = -(-len(leaf_N) // SAMPLE)
    sample_M = np.sort(_sizes(leaf_N[::step], base_N[::step]))[::-1]
    share, count = k / len(leaf_N), len(sample_M)
    # Five standard deviations of how many of the sample are above it.
    margin = 5 * (count * share * (1 - share)) ** 0.5 + 5
    first, last = int(share * count - margin), int(share * count + margin)
    high = float(sample_M[first]) if first > 0 else np.inf
    low = float(sample_M[last]) if last < count else 0.0
    return low, high


def _sizes(leaf_N: Tensor, base_N: Tensor) -> Array:
    """Return \\|x - base\\|, rounded to float32 unless members are float64."""
    kind = torch.float64 if torch.float64 in (leaf_N.dtype, base_N.dtype) else torch.float32
    sizes: Array = torch.sub(leaf_N.to(kind), base_N.to(kind)).abs_().cpu().numpy()
    return sizes


def _exact(leaf_N: Tensor, base_N: Tensor) -> Array:
    exact: Array = torch.sub(leaf_N.double(), base_N.double()).abs_().cpu().numpy()
    return exact
