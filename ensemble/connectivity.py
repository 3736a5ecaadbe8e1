"""Whether members can be averaged, measured on the straight way from the best one to the average.

With members θᵢ of losses Lᵢ, best one b and average θ̄, the way is θ(t) = (1 - t) θ_b + t θ̄.
Its barrier is the highest rise of the loss above what the members would give in the same mixture:

    max over t of  L(θ(t)) - [(1 - t) L_b + t mean Lᵢ]

For two members this is the first half of the way between them, and the barrier is that of
Entezari et al. 2022, The role of permutation invariance in linear mode connectivity of neural
networks, arXiv:2110.06296, after Frankle et al. 2020, Linear mode connectivity and the lottery
ticket hypothesis, arXiv:1912.05671.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from ensemble.errors import NonFiniteError, OptionError
from ensemble.state import State, blend, check

USUAL = {
    "loses": "; every single member is better",
    "collapses": ", as is usual for members of different initialisations",
}


@dataclass(frozen=True)
class Preflight:
    """Losses on the way from the best member (t = 0) to the average of all (t = 1)."""

    alphas: tuple[float, ...]
    losses: tuple[float, ...]
    member_losses: tuple[float, ...]
    zero_loss: float
    """The loss where every weight is zero: that of a network that has learnt nothing."""

    @property
    def mean_loss(self) -> float:
        """The mean of the members' losses, of those that are finite."""
        finite = [loss for loss in self.member_losses if math.isfinite(loss)]
        return math.fsum(finite) / len(finite)

    @property
    def worst_loss(self) -> float:
        """The highest of the members' losses, of those that are finite."""
        return max(filter(math.isfinite, self.member_losses))

    @property
    def barrier(self) -> float:
        """The highest rise of the loss above the members' own, 0 if none; inf if not finite."""
        if not all(map(math.isfinite, self.losses)):
            return math.inf
        start, end = self.losses[0], self.mean_loss
        rises = [
            loss - ((1 - alpha) * start + alpha * end)
            for alpha, loss in zip(self.alphas, self.losses, strict=True)
        ]
        return max(0.0, *rises)

    @property
    def kept(self) -> float:
        """The share of what the members learnt that the average keeps; NaN if not measurable.

        1 where the average's loss is the members' mean, 0 where it is that of zero weights.  It
        does not depend on the loss's unit or origin.
        """
        learnt = self.zero_loss - self.mean_loss
        if not (learnt > 0 and math.isfinite(learnt)):
            return math.nan
        return (self.zero_loss - self.losses[-1]) / learnt

    @property
    def collapses(self) -> bool:
        """Whether the average is no good.

        So it is if a loss on the way is not finite, or if the average has lost more than a quarter
        of what the members learnt.  Where members are no better than zero weights and that share
        says nothing, the average must not be worse than the worst of them.
        """
        if math.isinf(self.barrier):
            return True
        if math.isnan(self.kept):
            return self.losses[-1] > self.worst_loss
        return self.kept < 0.75

    @property
    def verdict(self) -> Literal["holds", "loses", "collapses"]:
        """What the average is: no worse than the worst member, worse than all, or no good."""
        if self.collapses:
            return "collapses"
        return "holds" if self.losses[-1] <= self.worst_loss else "loses"

    @property
    def sentence(self) -> str:
        """The finding in words."""
        usual = USUAL.get(self.verdict, "")
        measured = (self.losses[-1], self.mean_loss, self.worst_loss, self.zero_loss, self.barrier)
        average, mean, worst, zero, barrier = (f"{value:.3g}" for value in measured)
        return (
            f"The average {self.verdict}: loss {average} against {mean} of the members, {worst} of "
            f"the worst of them and {zero} of zero weights (barrier {barrier}){usual}."
        )


def preflight(
    states: Iterable[State], loss: Callable[[State], float], *, points: int = 5
) -> Preflight:
    """Measure whether the average of the members is any good.

    ``loss`` maps a state to its validation loss, lower is better; it re-estimates BatchNorm
    statistics first where there are any.  It is called K + ``points`` times: for each member, for
    ``points`` - 1 steps to the average, and for zero weights.  Raises as
    :func:`ensemble.average.uniform` does, :class:`NonFiniteError` if no member has a finite loss,
    and :class:`OptionError` for fewer than two points.

    >>> import torch
    >>> members = [{"w": torch.tensor([1.0])}, {"w": torch.tensor([-1.0])}]
    >>> result = preflight(members, lambda state: float((state["w"].square() - 1).square()))
    >>> result.losses, result.barrier, result.collapses
    ((0.0, 0.19140625, 0.5625, 0.87890625, 1.0), 1.0, True)
    """
    members = check(states)
    if points < 2:
        raise OptionError(f"the way needs at least 2 points, however points is {points}")
    member_losses = [float(loss(state)) for state in members]
    finite = [i for i, value in enumerate(member_losses) if math.isfinite(value)]
    if not finite:
        raise NonFiniteError("some member must have a finite loss, however none has")
    best = min(finite, key=lambda i: member_losses[i])
    alphas = [i / (points - 1) for i in range(points)]
    losses = [member_losses[best]]
    for alpha in alphas[1:]:
        weights = [alpha / len(members)] * len(members)
        weights[best] += 1 - alpha
        losses.append(float(loss(blend(members, weights))))
    zero_loss = float(loss(blend(members[:1], [0.0])))
    return Preflight(tuple(alphas), tuple(losses), tuple(member_losses), zero_loss)
