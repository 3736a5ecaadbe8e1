"""What is done to each member's own gradient before its optimiser sees it.

Members share nothing: penalties are added and norms are measured and limited row by row.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from zoo.sections import TrainConfig


@dataclass(frozen=True)
class Restraints:
    """Penalties and limits of K members, as columns; None where no member asks for any.

    Attributes:
        l1_K1: of the penalty l1 sum |w| on weights.
        l2_K1: of the penalty l2 sum w^2 on weights.
        norm_K1: the largest Euclidean norm of a gradient; infinity for no limit.
        value_K1: the largest entry of a gradient; infinity for no limit.
    """

    l1_K1: Tensor | None
    l2_K1: Tensor | None
    norm_K1: Tensor | None
    value_K1: Tensor | None

    @classmethod
    def of(cls, configs: Sequence[TrainConfig], device: torch.device) -> "Restraints":
        """Collect the restraints of members."""

        def column(name: str, absent: float) -> Tensor | None:
            values = [getattr(config, name) or absent for config in configs]
            if all(value == absent for value in values):
                return None
            return torch.tensor(values, device=device).unsqueeze(1)

        return cls(
            column("l1", 0.0),
            column("l2", 0.0),
            column("clip_norm", torch.inf),
            column("clip_value", torch.inf),
        )


def restrain(gradient_KP: Tensor, flat_KP: Tensor, weights: int, limits: Restraints) -> Tensor:
    """Add penalties, then clip by value and by norm, in place; return the norm (K,) before that.

    Clipping by norm is that of ``torch.nn.utils.clip_grad_norm_`` (Pascanu et al. 2013,
    arXiv:1211.5063, Algorithm 1), for each member alone.

    Args:
        gradient_KP: (K, P), of each member's own loss.
        flat_KP: (K, P), the parameters.
        weights: how many columns, the first ones, penalties act on.
        limits: from :meth:`Restraints.of`.

    >>> gradient = torch.tensor([[3.0, 4.0], [0.3, 0.4]])
    >>> limits = Restraints(None, None, torch.tensor([[1.0], [1.0]]), None)
    >>> restrain(gradient, torch.zeros(2, 2), 2, limits), gradient.round(decimals=3)
    (tensor([5.0000, 0.5000]), tensor([[0.6000, 0.8000],
            [0.3000, 0.4000]]))
    """
    if limits.l1_K1 is not None:
        gradient_KP[:, :weights].addcmul_(flat_KP[:, :weights].sign(), limits.l1_K1)
    if limits.l2_K1 is not None:
        gradient_KP[:, :weights].addcmul_(flat_KP[:, :weights], limits.l2_K1, value=2)
    norm_K: Tensor = torch.linalg.vector_norm(gradient_KP, dim=1)
    if limits.value_K1 is not None:
        torch.clamp(gradient_KP, -limits.value_K1, limits.value_K1, out=gradient_KP)
    if limits.norm_K1 is not None:
        clipped_K = (
            norm_K if limits.value_K1 is None else torch.linalg.vector_norm(gradient_KP, dim=1)
        )
        gradient_KP *= (limits.norm_K1 / (clipped_K.unsqueeze(1) + 1e-6)).clamp(max=1)
    return norm_K
