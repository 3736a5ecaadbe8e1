"""What a slot of the stack knows of its member, and what follows from it alone.

All that is random in training is a function of the member's seed and of how many epochs and steps
it has done: a member is the same alone, in any stack, and after any interruption.
"""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zoo.reports import Epoch, Kept, Member
from zoo.schedules import factor


@dataclass
class Slot:
    """A member in training.

    Attributes:
        started: when, by the monotonic clock.
        epoch: epochs done.
        best: its best epoch so far.
        losses: validation loss of every epoch done.
        top: the best epochs so far, best first, where settings keep several.
    """

    member: Member
    started: float = field(default_factory=time.monotonic)
    epoch: int = 0
    best: Epoch | None = None
    losses: list[float] = field(default_factory=list)
    top: list[Kept] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        """Seconds since the member started."""
        return time.monotonic() - self.started

    @property
    def given(self) -> bool:
        """Whether it starts from weights that someone trained."""
        return self.member.state is not None

    @property
    def varying(self) -> bool:
        """Whether its learning rate changes from step to step."""
        schedule = self.member.config.schedule
        return schedule.name not in ("constant", "plateau") or self.epoch < schedule.warmup

    def note(self) -> dict[str, Any]:
        """Write it as JSON, all but the weights."""
        return {
            "key": self.member.key,
            "seconds": self.seconds,
            "epoch": self.epoch,
            "best": self.best and asdict(self.best),
            "losses": self.losses,
            "top": [{"kind": kept.kind, "epoch": asdict(kept.epoch)} for kept in self.top],
        }

    def recall(self, note: dict[str, Any], top: Sequence[dict[str, Tensor]]) -> None:
        """Take over what :meth:`note` wrote, and the weights of ``top``."""
        self.started = time.monotonic() - note["seconds"]
        self.epoch, self.losses = note["epoch"], list(note["losses"])
        self.best = Epoch(**note["best"]) if note["best"] else None
        self.top = [
            Kept(kept["kind"], Epoch(**kept["epoch"]), state)
            for kept, state in zip(note["top"], top, strict=True)
        ]


def clock(slot: Slot | None) -> int:
    """Return the seed of all that is random in the slot's next epoch."""
    if slot is None:
        return 0
    config = slot.member.config
    order_seed = config.train.order_seed
    seed = slot.member.seed if order_seed is None else order_seed
    return seed * 1_000_003 + config.init.trained + slot.epoch


def order(slot: Slot | None, rows: int) -> Tensor:
    """Return the order of the rows in the slot's next epoch."""
    return torch.randperm(rows, generator=torch.Generator().manual_seed(clock(slot)))


def mixing(slots: Sequence[Slot | None], steps: int) -> Tensor | None:
    """Draw mixup's shares for the next epoch: float (steps, K), or None where nobody mixes."""
    alphas = [slot.member.config.train.mixup if slot else 0.0 for slot in slots]
    if not any(alphas):
        return None
    shares = [
        np.random.default_rng([clock(slot), 1]).beta(alpha, alpha, steps)
        if alpha
        else np.ones(steps)
        for slot, alpha in zip(slots, alphas, strict=True)
    ]
    return torch.from_numpy(np.stack(shares, axis=1).astype(np.float32))


def factors(slots: Sequence[Slot | None], step: int, steps: int) -> list[float]:
    """Return what each member's learning rate is multiplied by at a step of the next epoch."""
    return [
        factor(
            slot.member.config.schedule,
            slot.epoch + step / steps,
            slot.member.config.train.epochs,
            slot.losses,
            1 / steps,
        )
        if slot
        else 1.0
        for slot in slots
    ]
