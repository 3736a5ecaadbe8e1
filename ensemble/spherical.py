"""Averages along the sphere, which keep the length of the weights where a straight one cuts it.

Every tensor is taken as one vector, or the whole state with ``whole``.  Its mean lies in the span
of the members, Σ cᵢ θᵢ, and the cᵢ follow from the members' inner products alone; so the members
are read twice and memory for one leaf is enough.

- SLERP: Shoemake 1985, Animating rotation with quaternion curves, section 3.3: the angle Ω between
  two members gives c = (sin((1 - t) Ω), sin(t Ω)) / sin Ω.  Members within 0.9995 of parallel or
  opposite are combined linearly, as mergekit does.
- Karcher mean: Buss & Fillmore 2001, Spherical averages and applications to spherical splines and
  interpolation, Algorithm A1, on uᵢ = θᵢ / ‖θᵢ‖: m moves along Σ wᵢ logₘ(uᵢ) until that vanishes.
  The norm of the result is Σ wᵢ ‖θᵢ‖, as in mergekit.
"""

import math
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from ensemble.catalogue import method
from ensemble.errors import OptionError
from ensemble.shares import normalised
from ensemble.state import State, blend, check, float_leaves, leafwise, mix, pieces

PARALLEL = 0.9995  # cosine beyond which the arc and its chord differ by less than rounding


@method("lerp", mode="weights", paper="Shoemake 1985", ordered=True)
def lerp(states: Iterable[State], *, t: float = 0.5) -> dict[str, Tensor]:
    """Go a share t of the straight way from the first to the second of two members.

    The order of the members counts.  Raises as :func:`ensemble.average.uniform` does, and
    :class:`OptionError` for more than two members or t outside of [0, 1]; a single member comes
    back as it is.

    >>> lerp([{"w": torch.tensor([0.0])}, {"w": torch.tensor([4.0])}], t=0.25)
    {'w': tensor([1.])}
    """
    members = check(states)
    return blend(members, _straight(len(members), t, "lerp"))


@method("slerp", mode="weights", paper="Shoemake 1985", ordered=True)
def slerp(states: Iterable[State], *, t: float = 0.5, whole: bool = False) -> dict[str, Tensor]:
    """Go a share t of the arc from the first to the second of two members.

    The arc is that of each tensor, or with ``whole`` of all weights as one vector.  Its length is
    that of the members' own norms, not normalised.  The order of the members counts.  Raises as
    :func:`lerp` does.

    >>> slerp([{"w": torch.tensor([1.0, 0.0])}, {"w": torch.tensor([0.0, 1.0])}], t=0.5)
    {'w': tensor([0.7071, 0.7071])}
    """
    members = check(states)
    straight = _straight(len(members), t, "slerp")

    def arc(gram_KK: Tensor) -> list[float]:
        cosine = float(cosines(gram_KK)[0, -1])
        if abs(cosine) > PARALLEL or not gram_KK.diagonal().all():
            return straight
        angle = math.acos(cosine)
        return [math.sin(share * angle) / math.sin(angle) for share in (1 - t, t)]

    return _combine(members, arc, whole)


@method("multislerp", mode="weights", paper="Buss & Fillmore 2001")
def multislerp(
    states: Iterable[State],
    weights: Sequence[float] | Tensor,
    *,
    steps: int = 100,
    whole: bool = False,
) -> dict[str, Tensor]:
    """Take the weighted Karcher mean of the members' directions, at the mean of their norms.

    ``weights`` are as for :func:`ensemble.average.weighted`, ``steps`` the most that are taken
    towards the mean from the direction of the straight average.  mergekit's ``multislerp`` is that
    start (``steps=0``: its one step in the tangent space has length zero), and its ``karcher`` the
    same with ten steps.  Where the straight average of the directions vanishes no direction is
    the mean, and the result is the straight average of the members.  Raises as ``weighted`` does,
    and :class:`OptionError` for negative steps.

    >>> members = [{"w": torch.tensor([2.0, 0.0])}, {"w": torch.tensor([0.0, 4.0])}]
    >>> multislerp(members, [0.5, 0.5])
    {'w': tensor([2.1213, 2.1213])}
    """
    members = check(states)
    shares = normalised(weights, len(members))
    if steps < 0:
        raise OptionError(f"steps must be at least 0, however it is {steps}")
    return _combine(members, lambda gram_KK: _karcher(gram_KK, shares, steps), whole)


def gram(leaves: Sequence[Tensor], base: Tensor | None = None) -> Tensor:
    """Return the inner products (K, K) of real leaves, or of their differences from ``base``.

    >>> gram([torch.tensor([3.0, 4.0]), torch.tensor([1.0, 0.0])])
    tensor([[25.,  3.],
            [ 3.,  1.]], dtype=torch.float64)
    """
    count = len(leaves)
    total_KK = torch.zeros(count, count, dtype=torch.float64, device=leaves[0].device)
    for values_KN in pieces([*leaves, *([] if base is None else [base])]):
        vectors_KN = values_KN if base is None else values_KN[:-1] - values_KN[-1]
        total_KK += vectors_KN @ vectors_KN.mT
    return total_KK


def cosines(gram_KK: Tensor) -> Tensor:
    """Return the cosines (K, K) that inner products tell of; those of a vector of zeros are 0.

    >>> cosines(torch.tensor([[4.0, 2.0], [2.0, 1.0]]))
    tensor([[1., 1.],
            [1., 1.]])
    """
    norm_K = gram_KK.diagonal().sqrt()
    product_KK = norm_K.outer(norm_K)
    return (gram_KK / product_KK.where(product_KK > 0, 1.0)).clamp(-1, 1)


def _combine(
    members: tuple[State, ...], coefficients: Callable[[Tensor], list[float]], whole: bool
) -> dict[str, Tensor]:
    """Combine linearly, by coefficients that are found from the members' inner products."""
    if whole:
        grams = [gram(leaves).cpu() for _, leaves in float_leaves(members)]
        return blend(members, coefficients(sum(grams, torch.zeros(len(members), len(members)))))
    return leafwise(members, lambda key, leaves: mix(leaves, coefficients(gram(leaves).cpu())))


def _straight(count: int, t: float, name: str) -> list[float]:
    if count > 2:
        raise OptionError(f"{name} takes two members, however there are {count}; see multislerp")
    if not 0 <= t <= 1:
        raise OptionError(f"t must be from 0 to 1, however it is {t}")
    return [1 - t, t] if count == 2 else [1.0]


def _karcher(gram_KK: Tensor, shares: Sequence[float], steps: int) -> list[float]:
    """Return the coefficients of the members in their spherical mean."""
    norm_K = gram_KK.diagonal().sqrt()
    there_K = norm_K > 0  # a vector of zeros has no direction; it counts in the norm alone
    cosine_KK = cosines(gram_KK)[there_K][:, there_K]
    share_K = torch.tensor(shares, dtype=torch.float64)
    weight_K = share_K[there_K] / share_K[there_K].sum()
    # The mean is Σ cᵢ uᵢ; what is orthogonal to all uᵢ never enters.
    start = _length(weight_K, cosine_KK)
    if not start > 1e-12 or cosine_KK.min() > 1 - 1e-9:
        return list(shares)
    c_K = weight_K / start
    for _ in range(steps):
        dot_K = (cosine_KK @ c_K).clamp(-1, 1)
        sine_K = (1 - dot_K.square()).sqrt()
        # θ / sin θ, which is 1 at 0; the way to an opposite point has no direction.
        factor_K = torch.where(sine_K > 1e-7, dot_K.acos() / sine_K, (dot_K > 0).double())
        pull_K = weight_K * factor_K
        tangent_K = pull_K - (pull_K @ dot_K) * c_K
        angle = _length(tangent_K, cosine_KK)
        if angle < 1e-8:
            break
        c_K = math.cos(angle) * c_K + math.sin(angle) / angle * tangent_K
        c_K /= _length(c_K, cosine_KK)
    result_K = torch.zeros_like(share_K)
    result_K[there_K] = (share_K @ norm_K) * c_K / norm_K[there_K]
    return [float(value) for value in result_K]


def _length(c_K: Tensor, cosine_KK: Tensor) -> float:
    return math.sqrt(max(0.0, float(c_K @ cosine_KK @ c_K)))
