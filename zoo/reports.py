"""Who is trained, and what training reports of them: plain values."""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor, nn

from zoo.config import RunConfig
from zoo.registry.records import Average, CheckpointKind, Source

__all__ = ["Average", "Epoch", "Finished", "Kept", "Member", "Pass", "Source"]


@dataclass(frozen=True)
class Member:
    """One model to train.

    Attributes:
        key: what it is reported by.
        config: its settings.
        seed: of its first weights and of all that is random in its training, where the settings
            do not say otherwise.
        state: the weights to start from, or None for those that the settings mean.
        optimiser: the optimiser's state to start from (see :attr:`Kept.state`).
        module: the model itself, which is copied, where settings do not say what it is.
    """

    key: str
    config: RunConfig
    seed: int
    state: Mapping[str, Tensor] | None = None
    optimiser: Mapping[str, Tensor] | None = None
    module: nn.Module | None = None


@dataclass(frozen=True)
class Epoch:
    """One epoch of one member; metrics in the user's unit.

    Attributes:
        epoch: from 1; 0 for weights that were given, before any training.
        train_loss: mean over the epoch's batches, as they were before each step, with whatever
            dropout, mixing and smoothing there was; penalties on weights are left out.
        val_loss: of ``source`` after the epoch, in evaluation mode.
        lr: learning rate of the epoch's last step.
        grad_norm: mean over the steps of the gradient's norm before clipping.
        seconds: since the member started.
        source: whose figures these are: the weights themselves, or an average of them.
        averages: validation loss and metric of each running average that has begun, and its
            balanced accuracy where that is watched.
        val_balanced_accuracy: of ``source``, where it is watched.
    """

    key: str
    epoch: int
    train_loss: float
    train_metric: float
    val_loss: float
    val_metric: float
    lr: float
    grad_norm: float
    seconds: float
    source: Source = "weights"
    averages: Mapping[Average, Sequence[float]] = field(default_factory=dict)
    val_balanced_accuracy: float | None = None


@dataclass(frozen=True)
class Kept:
    """Weights to keep, besides those of the best epoch.

    Attributes:
        kind: ``last``, ``top``, ``epoch``, ``ema``, ``swa``, ``lawa`` or ``optimiser``.
        epoch: what epoch they are of, and its figures.
        state: a state dict on the CPU; of an optimiser, its rows by name.
    """

    kind: CheckpointKind
    epoch: Epoch
    state: Mapping[str, Tensor]


@dataclass(frozen=True)
class Finished:
    """A member's end.

    Attributes:
        best: its best epoch, or None where no epoch was finite.
        state: the weights of the best epoch as a state dict on the CPU, or None.
        kept: what else is to be kept.
        epochs: how many epochs it trained.
        fault: why there is no best epoch.
    """

    key: str
    status: Literal["finished", "diverged"]
    best: Epoch | None
    state: Mapping[str, Tensor] | None
    kept: list[Kept]
    epochs: int
    seconds: float
    fault: str = ""


@dataclass(frozen=True)
class Pass:
    """What happened while every member in the stack trained one epoch."""

    epochs: list[Epoch]
    kept: list[tuple[str, Kept]]
    finished: list[Finished]

    def without(self, keys: Set[str]) -> "Pass":
        """Leave out what happened to some members."""
        return Pass(
            [epoch for epoch in self.epochs if epoch.key not in keys],
            [(key, kept) for key, kept in self.kept if key not in keys],
            [end for end in self.finished if end.key not in keys],
        )
