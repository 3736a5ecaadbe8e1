"""Averages of what members learnt beyond the state that all of them started from.

With that state θ₀, member k has the task vector τₖ = θₖ - θ₀, and the result is

    θ₀ + λ · elect(trim(τ₁), …, trim(τ_K))

- Ilharco et al. 2023, Editing models with task arithmetic, arXiv:2212.04089, section 2: the sum.
- Yadav et al. 2023, TIES-merging: resolving interference when merging models, arXiv:2306.01708,
  Algorithm 1: trim to the largest elements, elect the sign of Σ τₖ, take the mean of those that
  agree with it.
- Yu et al. 2024, Language models are super Mario (DARE), arXiv:2311.03099, section 3.2: drop
  elements at random and divide the others by the share p that is left.
- Davari & Belilovsky 2024, Model breadcrumbs, arXiv:2312.06795, section 3: drop the largest few
  elements and most of the smallest.

Each tensor is trimmed by itself.  A sum of K vectors wants a small λ: 0.4 is what Yadav et al. use
for untuned task arithmetic over different tasks; 1 / K gives the mean, which suits members that
learnt the same.
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from ensemble.catalogue import method
from ensemble.state import State, check, check_base, elementwise, leafwise
from ensemble.trimming import Trim, everything, largest, random


@method("task-arithmetic", mode="weights", paper="Ilharco et al. 2023, arXiv:2212.04089")
def task_arithmetic(
    states: Iterable[State], base: State, *, scale: float = 0.4
) -> dict[str, Tensor]:
    """Add the sum of the members' task vectors to the base.

    Args:
        states: the members.
        base: the state that all of them were trained from.
        scale: λ, what the sum is multiplied by.

    Raises:
        StateMismatchError: listing all that differs between the members, or from the base.
        NonFiniteError: for NaN or infinity in a member, the base, or the result.
        EmptyError: without members.

    >>> members = [{"w": torch.tensor([2.0, 1.0])}, {"w": torch.tensor([1.0, 4.0])}]
    >>> task_arithmetic(members, {"w": torch.tensor([1.0, 1.0])}, scale=1.0)
    {'w': tensor([2., 4.])}
    """
    return _merge(states, base, everything, False, scale)


@method("ties", mode="weights", paper="Yadav et al. 2023, arXiv:2306.01708")
def ties(
    states: Iterable[State], base: State, *, density: float = 0.2, scale: float = 1.0
) -> dict[str, Tensor]:
    """Add the mean of the largest task vector elements that agree in sign.

    Of elements that tie for the last place all are kept, so that the result does not depend on
    their order; where the sum of the elements is zero, no sign is elected and the base stays.
    mergekit keeps an arbitrary one of the former, and the positive ones of the latter.

    Args:
        states: the members.
        base: the state that all of them were trained from.
        density: the share of each task vector's elements that is kept, rounded down, at least one.
        scale: λ, what the mean is multiplied by.

    Raises:
        OptionError: for a density that is not above 0 and at most 1.
        EnsembleError: as :func:`task_arithmetic` does.

    >>> members = [{"w": torch.tensor([3.0, 1.0, -0.1])}, {"w": torch.tensor([5.0, -2.0, 0.1])}]
    >>> ties(members, {"w": torch.zeros(3)}, density=0.7)
    {'w': tensor([ 4., -2.,  0.])}
    """
    return _merge(states, base, largest(density, 0.0), True, scale)


@method("breadcrumbs", mode="weights", paper="Davari & Belilovsky 2024, arXiv:2312.06795")
def breadcrumbs(
    states: Iterable[State],
    base: State,
    *,
    density: float = 0.1,
    gamma: float = 0.01,
    scale: float = 0.4,
) -> dict[str, Tensor]:
    """Add the sum of the task vectors without their outliers and their small elements.

    Elements that tie with the first or last one kept are kept too.

    Args:
        states: the members.
        base: the state that all of them were trained from.
        density: the share of each task vector's elements that is kept, rounded down, at least one.
        gamma: the share of the largest elements that is dropped before, rounded down; fewer, where
            the density asks for them.
        scale: λ, what the sum is multiplied by.

    Raises:
        OptionError: for a density that is not above 0 and at most 1, or a gamma that is not at
            least 0 and below 1.
        EnsembleError: as :func:`task_arithmetic` does.

    >>> members = [{"w": torch.tensor([0.1, 9.0, 2.0, 0.2])}]
    >>> breadcrumbs(members, {"w": torch.zeros(4)}, density=0.25, gamma=0.25, scale=1.0)
    {'w': tensor([0., 0., 2., 0.])}
    """
    return _merge(states, base, largest(density, gamma), False, scale)


@method("dare", mode="weights", paper="Yu et al. 2024, arXiv:2311.03099", ordered=True)
def dare(
    states: Iterable[State],
    base: State,
    *,
    density: float = 0.5,
    scale: float = 0.4,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Add the sum of randomly thinned task vectors, made up for by division.

    What is kept is a function of seed, key and the member's place among the members, on any device
    and whatever other keys there are.

    Args:
        states: the members; their order decides what is kept of each.
        base: the state that all of them were trained from.
        density: p, the chance of each element to be kept; the others are divided by it.
        scale: λ, what the sum is multiplied by.
        seed: of what is kept.

    Raises:
        OptionError: for a density that is not above 0 and at most 1.
        EnsembleError: as :func:`task_arithmetic` does.

    >>> dare([{"w": torch.ones(6)}], {"w": torch.zeros(6)}, density=0.5, scale=1.0)
    {'w': tensor([2., 2., 2., 0., 2., 0.])}
    """
    return _merge(states, base, random(density, seed, False), False, scale)


@method("dare-ties", mode="weights", paper="Yu et al. 2024, arXiv:2311.03099", ordered=True)
def dare_ties(
    states: Iterable[State],
    base: State,
    *,
    density: float = 0.5,
    scale: float = 1.0,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Add the mean of those randomly thinned task vector elements that agree in sign.

    Thinned as in :func:`dare`, elected as in :func:`ties`, with the arguments and errors of both.
    mergekit's ``dare_ties`` takes the sum of those that agree unless told ``normalize: true``.

    >>> members = [{"w": torch.ones(6)}, {"w": torch.ones(6)}]
    >>> dare_ties(members, {"w": torch.zeros(6)}, density=0.5)
    {'w': tensor([2., 2., 2., 0., 2., 0.])}
    """
    return _merge(states, base, random(density, seed, False), True, scale)


@method("dare-norm", mode="weights", paper="Yu et al. 2024, arXiv:2311.03099", ordered=True)
def dare_norm(
    states: Iterable[State],
    base: State,
    *,
    density: float = 0.5,
    scale: float = 0.4,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Add the sum of randomly thinned task vectors, brought back to their L1 norms.

    This is what mergekit calls ``dare_linear``; the paper's :func:`dare` keeps the norm in
    expectation only.  Arguments and errors are those of ``dare``.

    >>> dare_norm([{"w": torch.ones(6)}], {"w": torch.zeros(6)}, density=0.9, scale=1.0)
    {'w': tensor([1.2000, 1.2000, 1.2000, 1.2000, 1.2000, 0.0000])}
    """
    return _merge(states, base, random(density, seed, True), False, scale)


@method("dare-norm-ties", mode="weights", paper="Yu et al. 2024, arXiv:2311.03099", ordered=True)
def dare_norm_ties(
    states: Iterable[State],
    base: State,
    *,
    density: float = 0.5,
    scale: float = 1.0,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Add the mean of elements that agree in sign, thinned and brought back to their L1 norms.

    Thinned as in :func:`dare_norm`, elected as in :func:`ties`, with the arguments and errors of
    both.

    >>> dare_norm_ties([{"w": torch.ones(6)}], {"w": torch.zeros(6)}, density=0.9)
    {'w': tensor([1.2000, 1.2000, 1.2000, 1.2000, 1.2000, 0.0000])}
    """
    return _merge(states, base, random(density, seed, True), True, scale)


def _merge(
    states: Iterable[State], base: State, trim: Trim, elect: bool, scale: float
) -> dict[str, Tensor]:
    members = check(states)
    check_base(members, base)

    def merge(key: str, leaves: Sequence[Tensor]) -> Tensor:
        trimmed = trim(key, leaves[:-1], leaves[-1])

        def add(values_KN: Tensor) -> Tensor:
            base_N = values_KN[-1]
            tau_KN = trimmed(values_KN[:-1].sub_(base_N))
            sum_N = tau_KN.sum(0)
            if elect:
                sign_N = sum_N.sign()
                agree_KN = tau_KN.mul_(sign_N).clamp_(min=0)
                sum_N = sign_N * agree_KN.sum(0) / agree_KN.sign_().sum(0).clamp_(min=1)
            return torch.where(sum_N == 0, base_N, base_N + scale * sum_N)

        return elementwise(leaves, add)

    return leafwise(members, merge, base=base)
