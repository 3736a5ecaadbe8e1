"""Averages that a few stray members cannot move far: each element by its members' order.

Yin et al. 2018, Byzantine-robust distributed learning: towards optimal statistical rates,
arXiv:1803.01498, Definitions 1 and 2.  With the values x₍₁₎ ≤ … ≤ x₍K₎ of one element, the median
is the middle one, or the mean of the middle two, and the β-trimmed mean is that of all but the ⌊βK⌋
smallest and the ⌊βK⌋ largest.  Complex numbers are taken as pairs of reals.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from ensemble.catalogue import method
from ensemble.shares import trimmed
from ensemble.sorting import network
from ensemble.state import State, check, elementwise, leafwise, within


@method("median", mode="weights", paper="Yin et al. 2018, arXiv:1803.01498")
def median(states: Iterable[State]) -> dict[str, Tensor]:
    """Take the median of the members, element by element.

    Raises as :func:`ensemble.average.uniform` does.

    >>> median([{"w": torch.tensor([1.0, 5.0])}, {"w": torch.tensor([2.0, 9.0])},
    ...         {"w": torch.tensor([900.0, 7.0])}])
    {'w': tensor([2., 7.])}
    """
    members = check(states)
    return _middle(members, (len(members) - 1) // 2)


@method("trimmed-mean", mode="weights", paper="Yin et al. 2018, arXiv:1803.01498")
def trimmed_mean(states: Iterable[State], *, trim: float = 0.2) -> dict[str, Tensor]:
    """Average each element over the members without its smallest and largest values.

    ``trim`` is the share, below 0.5, that is left out at either end, rounded down to whole members:
    without effect among fewer than 1 / ``trim``.  Raises as :func:`ensemble.average.uniform` does,
    and :class:`OptionError` for a share out of range.

    >>> members = [{"w": torch.tensor([x])} for x in (1.0, 2.0, 4.0, 900.0)]
    >>> trimmed_mean(members, trim=0.25)
    {'w': tensor([3.])}
    """
    members = check(states)
    return _middle(members, trimmed(trim, len(members)))


def _middle(members: tuple[State, ...], cut: int) -> dict[str, Tensor]:
    """Average each element's values but for ``cut`` at either end."""
    steps = network(len(members))
    weight = 1 / (len(members) - 2 * cut)

    def merge(values_KN: Tensor) -> Tensor:
        rows = list(values_KN)
        for i, j in steps:
            rows[i], rows[j] = torch.minimum(rows[i], rows[j]), torch.maximum(rows[i], rows[j])
        kept_MN = torch.stack(rows[cut : len(rows) - cut])
        # Divided first, since a sum of large values could overflow.
        return within(kept_MN, (kept_MN * weight).sum(0))

    return leafwise(members, lambda key, leaves: elementwise(leaves, merge))
