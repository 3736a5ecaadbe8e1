"""What members predict for rows that they did not train on.

With folds or bootstrap draws every member has validation rows of its own.  Together they hold a
prediction for every row that some member was validated on, and so there is something to choose and
to weigh by that no member has seen: D. H. Wolpert, Stacked Generalization, Neural Networks 5, 1992;
L. Breiman, Out-of-bag Estimation, 1996.

Shapes: K member, N sample, C class, L label, T target.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ensemble.predictions import mean, pooled

Pool = Callable[[Tensor, Sequence[int]], Tensor]
EACH = frozenset({"weights", "learners"})  # arguments that have one value per member


@dataclass(frozen=True)
class OutOfFold:
    """Predictions for the rows beside the test part, each by members that did not train on it.

    Attributes:
        rows_N: int64, the numbers of the rows in the data, from 0, ascending.
        targets_N: int64 classes (N,), float32 labels (N, L), or float64 values (N,) or (N, T) in
            their unit.
        outputs_K: logits (K, N, C), log-odds (K, N, L), or values (K, N) or (K, N, T) in their
            unit; NaN where the member trained on the row.
        unseen_KN: bool, whether the member did not.
        task: ``classification``, ``multilabel`` or ``regression``.

    >>> nan = torch.nan
    >>> told = OutOfFold(
    ...     rows_N=torch.tensor([0, 1, 2]),
    ...     targets_N=torch.tensor([1.0, 2.0, 3.0]),
    ...     outputs_K=torch.tensor([[1.0, nan, 4.0], [nan, nan, 2.0]]),
    ...     unseen_KN=torch.tensor([[True, False, True], [False, False, True]]),
    ...     task="regression",
    ... )
    >>> told.pooled(), told.counts_N
    (tensor([1., nan, 3.]), tensor([1, 0, 2]))
    """

    rows_N: Tensor
    targets_N: Tensor
    outputs_K: Tensor
    unseen_KN: Tensor
    task: str

    @property
    def counts_N(self) -> Tensor:
        """Count the members that did not train on each row: int64 (N,)."""
        return self.unseen_KN.sum(dim=0)

    def pooled(self, pool: Pool | None = None) -> Tensor:
        """Pool for each row the members that did not train on it.

        Args:
            pool: takes the outputs of some members for some rows, and which members they are; by
                default their mean.

        Returns:
            log-probabilities (N, C), log-odds (N, L), or values (N,) or (N, T); NaN in rows that
            every member trained on.
        """
        pool = pool or mean_pool(self.task)
        told = self.outputs_K.new_full(self.outputs_K.shape[1:], torch.nan)
        alike: dict[tuple[int, ...], list[int]] = {}
        for row, unseen_K in enumerate(self.unseen_KN.T.tolist()):
            members = tuple(k for k, unseen in enumerate(unseen_K) if unseen)
            alike.setdefault(members, []).append(row)
        for members, rows in alike.items():
            if not members:
                continue
            here = torch.tensor(members)[:, None], torch.tensor(rows)
            part = pool(self.outputs_K[here], members)
            told = told.to(torch.promote_types(told.dtype, part.dtype))
            told[rows] = part.to(told.dtype)
        return told


def mean_pool(task: str) -> Pool:
    """Return the pool that averages what members say; of one member it is what that says."""
    return lambda outputs_K, members: pooled(mean, outputs_K, task)


def assemble(
    rows_N: Tensor, targets_N: Tensor, told: Sequence[tuple[Tensor, Tensor]], task: str
) -> OutOfFold:
    """Put the members' predictions for validation rows of their own side by side.

    Args:
        rows_N: int64, the numbers of all rows beside the test part; any may come several times.
        targets_N: their targets.
        told: of every member, the numbers of its rows (n,), and its outputs (n, C) or the like.
        task: of the members.

    >>> told = assemble(
    ...     torch.tensor([4, 2, 2]),
    ...     torch.tensor([1, 0, 0]),
    ...     [(torch.tensor([2]), torch.tensor([0.5])), (torch.tensor([4]), torch.tensor([0.25]))],
    ...     task="classification",
    ... )
    >>> told.rows_N, told.targets_N, told.outputs_K
    (tensor([2, 4]), tensor([0, 1]), tensor([[0.5000,    nan],
            [   nan, 0.2500]]))
    """
    places_N = torch.tensor(sorted(set(rows_N.tolist())))
    targets = targets_N.new_empty(len(places_N), *targets_N.shape[1:])
    targets[torch.searchsorted(places_N, rows_N)] = targets_N
    first = told[0][1]
    outputs_K = first.new_full((len(told), len(places_N), *first.shape[1:]), torch.nan)
    unseen_KN = torch.zeros(len(told), len(places_N), dtype=torch.bool)
    for k, (own_N, outputs) in enumerate(told):
        here = torch.searchsorted(places_N, own_N)
        outputs_K[k, here] = outputs
        unseen_KN[k, here] = True
    return OutOfFold(places_N, targets, outputs_K, unseen_KN, task)


def pooling(function: Callable[..., Tensor], arguments: Mapping[str, Any]) -> Pool:
    """Let a function pool some of the members that its arguments are of.

    Weights, and the learners that members belong to, are those of the members there.  Where all of
    these have the weight 0, what they predict is NaN: nobody's prediction.

    >>> from ensemble.predictions import weighted
    >>> pool = pooling(weighted, {"weights": [1.0, 2.0, 0.0]})
    >>> pool(torch.tensor([[1.0], [4.0]]), [0, 1]), pool(torch.tensor([[1.0]]), [2])
    (tensor([3.]), tensor([nan]))
    """

    def pool(outputs_K: Tensor, members: Sequence[int]) -> Tensor:
        own = dict(arguments)
        for name in EACH.intersection(own):
            own[name] = [own[name][k] for k in members]
        if "weights" in own and not any(own["weights"]):
            return torch.full_like(outputs_K[0], torch.nan)
        return function(outputs_K, **own)

    return pool
