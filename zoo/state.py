"""All tensors of K members in training, each with the member as its first axis."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from zoo.optim import Optimiser
from zoo.reports import Member, Source
from zoo.running import KINDS, Running
from zoo.stack import Stack, copy_rows, stack
from zoo.stopping import EarlyStopping

ROUNDING = 1e-6  # of a bound's size: figures are float32, and 9 rows of 10 are 0.899999976 there


class TrainState:
    """What changes while K members train.

    Attributes:
        stack: the members.
        best: as they were after their best epochs.
        optimiser: its state.
        best_optimiser: the optimiser's rows after the best epochs, where settings keep them.
        stopping: one watcher per monitor, the one that decides what is best first.
        running: averages of the weights along the training, by kind.
    """

    def __init__(self, members: Sequence[Member], modules: Sequence[nn.Module]) -> None:
        """Start from the modules' values; the members share what a stack must share."""
        first = members[0].config
        self.stack = stack(modules)
        self.best = self.stack.take(range(len(members)))
        settings = [member.config.optim for member in members]
        self.optimiser = Optimiser(settings, self.stack.flat_KP, self.stack.weights)
        rows = self.optimiser.rows() if first.keep.optimiser else {}
        self.best_optimiser = {name: value.clone() for name, value in rows.items()}
        self.stopping = [
            EarlyStopping(monitor.direction, [1] * len(members)) for monitor in first.stop.monitors
        ]
        self.running = {
            kind: Running(kind, self.stack, first.keep.lawa or 0)
            for kind in KINDS
            if getattr(first.keep, kind) is not None
        }
        for k, member in enumerate(members):
            self._assign(k, member)

    def __len__(self) -> int:
        return len(self.stack)

    def put(self, k: int, member: Member, module: nn.Module) -> None:
        """Give slot ``k`` to a new member; nothing of the former one is left."""
        self.stack.put(k, module)
        self._assign(k, member)

    def take(self, members: Sequence[int]) -> None:
        """Keep only the given members, in this order."""
        index = list(members)
        self.stack, self.best = self.stack.take(index), self.best.take(index)
        self.optimiser.take(index)
        self.best_optimiser = {name: value[index] for name, value in self.best_optimiser.items()}
        for watcher in self.stopping:
            watcher.take(index)
        for average in self.running.values():
            average.take(index)

    def source(self, name: Source) -> Stack:
        """Return the weights themselves, or an average of them."""
        return self.stack if name == "weights" else self.running[name].stack

    def improve(self, members: Sequence[int], name: Source) -> None:
        """Let the weights of ``name`` be the best of the given members."""
        copy_rows(self.best.rows(), self.source(name).rows(), members)
        copy_rows(self.best_optimiser, self.optimiser.rows(), members)

    def rows(self) -> dict[str, Tensor]:
        """Return everything under its name, the member first; writing there changes it here."""
        parts = {
            "stack": self.stack.rows(),
            "best": self.best.rows(),
            "optimiser": self.optimiser.rows(),
            "best_optimiser": self.best_optimiser,
            **{f"stopping.{i}": part.rows() for i, part in enumerate(self.stopping)},
            **{f"running.{kind}": part.rows() for kind, part in self.running.items()},
        }
        return {f"{name}.{key}": row for name, part in parts.items() for key, row in part.items()}

    def _assign(self, k: int, member: Member) -> None:
        """Reset all but the weights of slot ``k``."""
        self.optimiser.assign(k, member.config.optim)
        for name, row in self.optimiser.rows().items() if member.optimiser else ():
            row[k] = (member.optimiser or {})[name]
        for watcher, monitor in zip(self.stopping, member.config.stop.monitors, strict=True):
            given = {name: getattr(monitor, name) for name in watcher.settings}
            for name in ("threshold", "divergence"):  # what is worse by rounding alone meets them
                bound = torch.nan if given[name] is None else given[name]
                given[name] = bound + watcher.sign * ROUNDING * abs(bound)
            watcher.assign(k, given)
        for average in self.running.values():
            average.assign(k, self.stack)
