"""Early stopping of K members at once."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor


class EarlyStopping:
    """Watches one score per member; says who improved and who has waited long enough.

    An improvement must exceed the best score so far by more than ``min_delta``, so a tie is none
    and the earlier epoch stays the best.  NaN is never an improvement.

    >>> stopping = EarlyStopping("min", patience=[1, 2], min_delta=[0.0, 0.0])
    >>> for epoch, score in enumerate([[1.0, 1.0], [0.5, 1.0], [0.6, 1.2]], start=1):
    ...     improved, stop = stopping.update(torch.tensor(score), torch.tensor([epoch, epoch]))
    >>> improved.tolist(), stop.tolist(), stopping.best_K.tolist(), stopping.best_epoch_K.tolist()
    ([False, False], [True, True], [0.5, 1.0], [2, 1])
    """

    def __init__(
        self, mode: Literal["min", "max"], patience: Sequence[int], min_delta: Sequence[float]
    ) -> None:
        """Start before the first epoch.

        Args:
            mode: whether a smaller or a larger score is better.
            patience: K numbers of epochs without improvement after which to stop.
            min_delta: K amounts, in the score's unit, that an improvement must exceed.
        """
        self.sign = 1.0 if mode == "min" else -1.0
        self.patience_K = torch.tensor(patience)
        self.min_delta_K = torch.tensor(min_delta, dtype=torch.float64)
        self.best_K = torch.full((len(patience),), self.sign * torch.inf, dtype=torch.float64)
        self.best_epoch_K = torch.zeros(len(patience), dtype=torch.int64)

    def update(self, score_K: Tensor, epoch_K: Tensor) -> tuple[Tensor, Tensor]:
        """Take the scores of one epoch.

        Args:
            score_K: float (K,), the monitored score of each member.
            epoch_K: int64 (K,), the number of each member's epoch, from 1.

        Returns:
            Two boolean K-vectors: who improved, and who should stop.
        """
        score_K = score_K.to(torch.float64)
        improved_K = self.sign * (self.best_K - score_K) > self.min_delta_K
        self.best_K = torch.where(improved_K, score_K, self.best_K)
        self.best_epoch_K = torch.where(improved_K, epoch_K, self.best_epoch_K)
        return improved_K, epoch_K - self.best_epoch_K >= self.patience_K

    def assign(self, k: int, patience: int, min_delta: float) -> None:
        """Give place ``k`` to a new member."""
        self.patience_K[k] = patience
        self.min_delta_K[k] = min_delta
        self.best_K[k] = self.sign * torch.inf
        self.best_epoch_K[k] = 0

    def take(self, members: list[int]) -> None:
        """Keep only the given members, in this order."""
        self.patience_K, self.min_delta_K = self.patience_K[members], self.min_delta_K[members]
        self.best_K, self.best_epoch_K = self.best_K[members], self.best_epoch_K[members]
