"""Plain averages of weights: θ = Σ wᵢ θᵢ, with wᵢ ≥ 0 and Σ wᵢ = 1.

Members must share an initialisation, or be aligned first; :func:`ensemble.connectivity.preflight`
tells.  BatchNorm statistics want :func:`ensemble.recalibration.recalibrate` afterwards.
"""

from collections.abc import Iterable, Sequence

from torch import Tensor

from ensemble.catalogue import method
from ensemble.shares import normalised
from ensemble.state import State, blend, check


@method(
    "uniform",
    mode="weights",
    paper="Wortsman et al. 2022, arXiv:2203.05482",
)
def uniform(states: Iterable[State]) -> dict[str, Tensor]:
    """Average all members with equal weights.

    K states with equal keys, shapes and dtypes give one such state; integer leaves are those of
    the first member.  Raises :class:`StateMismatchError`, :class:`NonFiniteError` or
    :class:`EmptyError` for members that cannot be averaged.

    >>> import torch
    >>> uniform([{"w": torch.tensor([0.0, 2.0])}, {"w": torch.tensor([4.0, 2.0])}])
    {'w': tensor([2., 2.])}
    """
    members = check(states)
    return blend(members, [1 / len(members)] * len(members))


@method(
    "weighted",
    mode="weights",
    paper="Wortsman et al. 2022, arXiv:2203.05482",
)
def weighted(states: Iterable[State], weights: Sequence[float] | Tensor) -> dict[str, Tensor]:
    """Average the members with given weights.

    ``weights`` are K nonnegative finite numbers, not all zero; they are divided by their sum.
    Raises as :func:`uniform` does, and :class:`OptionError` for weights of another kind.

    >>> import torch
    >>> weighted([{"w": torch.tensor(0.0)}, {"w": torch.tensor(4.0)}], [1, 3])
    {'w': tensor(3.)}
    """
    members = check(states)
    return blend(members, normalised(weights, len(members)))
