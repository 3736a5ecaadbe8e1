"""Early stopping, of one model in anybody's own loop or of K members at once.

The class watches and says; it touches no weights.  Whoever trains copies them *by value* when it
says ``improved``:

>>> stopping = EarlyStopping("min", patience=2)
>>> kept = None
>>> for weights, loss in [("a", 1.0), ("b", 0.5), ("c", 0.6), ("d", 0.5), ("e", 0.1)]:
...     seen = stopping.update(loss)
...     if seen.improved:
...         kept = weights  # of a real model: {k: v.clone() for k, v in model.state_dict().items()}
...     if seen.stop:
...         break
>>> kept, int(stopping.epoch), int(stopping.best_epoch), float(stopping.best)
('b', 4, 2, 0.5)
"""

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

Number = float | Sequence[float]


class Seen(NamedTuple):
    """What one epoch's scores mean: boolean tensors, of shape () or (K,)."""

    improved: Tensor
    stop: Tensor
    diverged: Tensor


class EarlyStopping:
    """Watches one score per member; says who improved and who has waited long enough.

    An improvement must exceed the best score so far by more than ``min_delta``, so a tie is none
    and the earlier epoch stays the best.  NaN is never an improvement.  Epochs count from 1; what
    is known before training may be given by :meth:`begin` as epoch 0.

    Args:
        mode: whether a smaller or a larger score is better.
        patience: epochs without improvement after which to stop.
        min_delta: what an improvement must exceed, in the score's unit; where ``relative`` is set,
            as a share of the best score's size.
        start_from_epoch: epochs before this one are not looked at: none of them can be the best,
            and waiting begins after them.
        threshold: stop as soon as the score is this good; NaN for never.
        divergence: stop, and say so, as soon as the score is worse than this; NaN for never.

    Every number may be a sequence of K, one per member; then scores are K-vectors too.

    >>> stopping = EarlyStopping("min", patience=[1, 2])
    >>> for scores in ([1.0, 1.0], [0.5, 1.0], [0.6, 1.2]):
    ...     improved, stop, diverged = stopping.update(torch.tensor(scores))
    >>> improved.tolist(), stop.tolist(), stopping.best.tolist(), stopping.best_epoch.tolist()
    ([False, False], [True, True], [0.5, 1.0], [2, 1])
    """

    def __init__(
        self,
        mode: Literal["min", "max"],
        patience: int | Sequence[int],
        min_delta: Number = 0.0,
        *,
        relative: bool | Sequence[bool] = False,
        start_from_epoch: int | Sequence[int] = 0,
        threshold: Number = torch.nan,
        divergence: Number = torch.nan,
    ) -> None:
        if mode not in ("min", "max"):
            raise ValueError(f"mode must be 'min' or 'max', however it is {mode!r}")
        self.sign = 1.0 if mode == "min" else -1.0
        given = {
            "patience": patience,
            "min_delta": min_delta,
            "relative": relative,
            "start_from_epoch": start_from_epoch,
            "threshold": threshold,
            "divergence": divergence,
        }
        values = [torch.as_tensor(value, dtype=torch.float64) for value in given.values()]
        shape = max((value.shape for value in values), key=len)
        self.settings = {
            name: value.expand(shape).clone() for name, value in zip(given, values, strict=True)
        }
        self.best = torch.full(shape, self.sign * torch.inf, dtype=torch.float64)
        self.best_epoch = torch.zeros(shape, dtype=torch.int64)
        self.epoch = torch.zeros(shape, dtype=torch.int64)

    def update(self, score: float | Tensor) -> Seen:
        """Take the scores of one more epoch, float () or (K,); say what they mean."""
        score = torch.as_tensor(score, dtype=torch.float64).to(self.best.device)
        settings = self.settings
        self.epoch += 1
        counts = self.epoch >= settings["start_from_epoch"]
        size = torch.where(self.best.isfinite(), self.best.abs(), 0.0)
        delta = settings["min_delta"] * torch.where(settings["relative"] > 0, size, 1.0)
        improved = counts & (self.sign * (self.best - score) > delta)
        self.best = torch.where(improved, score, self.best)
        self.best_epoch = torch.where(improved, self.epoch, self.best_epoch)
        last = torch.maximum(self.best_epoch.double(), settings["start_from_epoch"] - 1)
        waited = self.epoch - last >= settings["patience"]
        reached = self.sign * (settings["threshold"] - score) >= 0
        diverged = self.sign * (score - settings["divergence"]) > 0
        return Seen(improved, counts & (waited | reached) | diverged, diverged)

    def begin(self, k: int, score: float) -> None:
        """Let member ``k``, at epoch 0, have this score already: what it starts from is to beat."""
        self.best[k] = score

    def assign(self, k: int, settings: Mapping[str, float]) -> None:
        """Give slot ``k`` to a new member with these settings, which has seen nothing."""
        for name, value in settings.items():
            self.settings[name][k] = value
        self.best[k] = self.sign * torch.inf
        self.best_epoch[k] = self.epoch[k] = 0

    def take(self, members: Sequence[int]) -> None:
        """Keep only the given members, in this order."""
        index = torch.as_tensor(members)
        self.settings = {name: value[index] for name, value in self.settings.items()}
        for name, value in self.rows().items():
            setattr(self, name, value[index])

    def rows(self) -> dict[str, Tensor]:
        """Return all that changes while training, the member first."""
        return {"best": self.best, "best_epoch": self.best_epoch, "epoch": self.epoch}
