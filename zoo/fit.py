"""The one training loop: many members in the slots of a stack, each on its own clock.

Every member has its own epoch counter, data order, hyper-parameters and early stopping.  A member
that stops gives its slot to the next one waiting, so the cost follows the epochs that are needed
and not the slowest member.  What a member becomes is a function of its settings and its seed: it
does not depend on who trains beside it.
"""

import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from zoo import models
from zoo.choice import Choice, choose, threads
from zoo.config import ModelConfig, RunConfig
from zoo.data import Data
from zoo.engines import Engine, Sequential, Stacked
from zoo.errors import ConfigError
from zoo.objective import objective
from zoo.optim import Optimiser
from zoo.stack import stack
from zoo.stopping import EarlyStopping

EngineName = Literal["auto", "stacked", "sequential"]
WIDTH = 64  # slots of a stack; beyond this width the gain is small and the memory is not


@dataclass(frozen=True)
class Member:
    """One model to train: a key to report it by, its settings and its seed."""

    key: str
    config: RunConfig
    seed: int


@dataclass(frozen=True)
class Epoch:
    """One epoch of one member: losses, metrics in the user's unit, seconds since it started."""

    key: str
    epoch: int
    train_loss: float
    train_metric: float
    val_loss: float
    val_metric: float
    seconds: float


@dataclass(frozen=True)
class Finished:
    """A member's end.

    Attributes:
        best: its best epoch, or None where no epoch was finite.
        state: the weights of the best epoch as a state dict on the CPU, or None.
        epochs: how many epochs it trained.
    """

    key: str
    status: Literal["finished", "diverged"]
    best: Epoch | None
    state: dict[str, Tensor] | None
    epochs: int
    seconds: float


@dataclass(frozen=True)
class Pass:
    """What happened while every member in the stack trained one epoch."""

    epochs: list[Epoch]
    finished: list[Finished]


@dataclass
class _Slot:
    member: Member
    started: float = field(default_factory=time.monotonic)
    epoch: int = 0
    best: Epoch | None = None


def shape_key(config: RunConfig) -> tuple[object, ...]:
    """Return what members must have in common to train in one stack."""
    return (
        config.data,
        config.model.model_dump_json(),
        config.optim.name,
        config.train.batch_size,
        config.stop.metric,
        config.stop.direction,
    )


def build(model: ModelConfig, data: Data, seed: int) -> nn.Module:
    """Build an untrained model for the data."""
    return models.build(model.name, model.options, data.shape, data.outputs, seed)


def batch_size(config: RunConfig, data: Data) -> int:
    """Return how many rows a step takes: as set, or 128, or all rows where there are fewer."""
    return config.train.batch_size or min(128, len(data.train))


def check(config: RunConfig, data: Data) -> None:
    """Check what only the data can tell of a run's settings.

    Raises:
        ConfigError: where the model, the batch size or the monitored metric do not suit the data.
    """
    try:
        module = build(config.model, data, seed=0)
    except (RuntimeError, MemoryError) as error:
        fault = str(error).splitlines()[0]
        raise ConfigError(f"model: cannot be built with these options: {fault}") from error
    rows = len(data.train)
    if batch_size(config, data) > rows:
        raise ConfigError(
            f"train.batch_size: must be at most the {rows} training rows, however it is "
            f"{config.train.batch_size}"
        )
    if batch_size(config, data) == 1 and any(isinstance(m, _BatchNorm) for m in module.modules()):
        raise ConfigError("train.batch_size: must be at least 2 with BatchNorm, however it is 1")
    metric = objective(data.task).metric
    if config.stop.metric not in ("loss", metric):
        raise ConfigError(
            f"stop.metric: must be loss or {metric} for {data.task}, however it is "
            f"{config.stop.metric}"
        )


class Fit:
    """The training of some members that share a :func:`shape_key`.

    Iterating trains; each :class:`Pass` reports one epoch of everyone in the stack.
    """

    def __init__(
        self,
        members: Sequence[Member],
        data: Data,
        *,
        engine: EngineName = "auto",
        width: int = WIDTH,
        device: torch.device | str | None = None,
    ) -> None:
        """Build the first stack and choose the engine.

        Raises:
            ConfigError: where settings do not suit each other or the data.
        """
        first = members[0].config
        check(first, data)
        self.objective = objective(data.task, data.target_scale)
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.data = data
        self.x, self.y = data.train.x.to(self.device), data.train.y.to(self.device)
        self.val_x, self.val_y = data.val.x.to(self.device), data.val.y.to(self.device)
        self.batch_size = batch_size(first, data)
        self.metric = first.stop.metric
        self.waiting = deque(members)
        count = min(width, len(members))
        first_members = [self.waiting.popleft() for _ in range(count)]
        self.slots: list[_Slot | None] = [_Slot(member) for member in first_members]
        self.stack = stack([self._build(member) for member in first_members])
        self.best = self.stack.take(range(count))
        configs = [member.config for member in first_members]
        self.optimiser = Optimiser([c.optim for c in configs], self.stack.flat_KP)
        self.stopping = EarlyStopping(
            first.stop.direction,
            [c.stop.patience for c in configs],
            [c.stop.min_delta for c in configs],
        )
        self.choice = self._choose(engine, first_members[0])

    def __iter__(self) -> Iterator[Pass]:
        """Train until every member has ended."""
        while any(self.slots):
            with threads(self.choice.threads), self._own_randomness():
                happened = self._pass()
            yield happened

    @torch.no_grad()
    def _pass(self) -> Pass:
        """Train every member in the stack for one epoch, evaluate, and refill free slots."""
        train_loss_K, train_score_K = self._train()
        val_loss_K, val_score_K = self.choice.engine.evaluate(self.stack, self.val_x, self.val_y)
        report = self.objective.report
        figures_K4 = torch.stack(
            [train_loss_K, report(train_score_K), val_loss_K, report(val_score_K)], dim=1
        ).cpu()
        finite_K = figures_K4.isfinite().all(1)
        watched_K = figures_K4[:, 2 if self.metric == "loss" else 3].where(finite_K, torch.nan)
        epoch_K = torch.tensor([slot.epoch + 1 if slot else 0 for slot in self.slots])
        improved_K, stop_K = self.stopping.update(watched_K, epoch_K)
        self.best.copy_rows(self.stack, improved_K.to(self.device))
        happened = Pass([], [])
        for k, slot in enumerate(self.slots):
            if slot is None:
                continue
            slot.epoch += 1
            train_loss, train_metric, val_loss, val_metric = figures_K4[k].tolist()
            epoch = Epoch(
                slot.member.key,
                slot.epoch,
                train_loss=train_loss,
                train_metric=train_metric,
                val_loss=val_loss,
                val_metric=val_metric,
                seconds=time.monotonic() - slot.started,
            )
            happened.epochs.append(epoch)
            if improved_K[k]:
                slot.best = epoch
            last = stop_K[k] or slot.epoch >= slot.member.config.train.epochs
            if last or not finite_K[k]:
                happened.finished.append(self._finish(k, slot, diverged=not finite_K[k]))
                self._vacate(k)
        self._shrink()
        return happened

    def _train(self) -> tuple[Tensor, Tensor]:
        """Train one epoch; return mean training loss (K,) and score (K,) over its batches."""
        rows = len(self.y)
        order_KN = torch.stack([_order(slot, rows) for slot in self.slots]).to(self.device)
        clock_K = torch.tensor([_clock(slot) for slot in self.slots], device=self.device)
        loss_K = torch.zeros(len(self.slots), device=self.device)
        score_K = torch.zeros_like(loss_K)
        # A last batch of one row is left out: BatchNorm has no variance there.
        used = rows - 1 if rows % self.batch_size == 1 and rows > 1 else rows
        for step, start in enumerate(range(0, used, self.batch_size)):
            index_KN = order_KN[:, start : min(start + self.batch_size, used)]
            x_KN, y_KN = self._batch(index_KN)
            loss, score, gradient_KP = self.choice.engine.step(
                self.stack, x_KN, y_KN, clock_K * 1_000_003 + step
            )
            self.optimiser.update(self.stack.flat_KP, gradient_KP)
            weight = index_KN.shape[1] / used
            loss_K += loss * weight
            score_K += score * weight
        return loss_K, score_K

    def _batch(self, index_KN: Tensor) -> tuple[Tensor, Tensor]:
        """Gather one batch per member."""
        flat = index_KN.reshape(-1)
        shape = index_KN.shape
        x_KN = self.x.index_select(0, flat).view(*shape, *self.x.shape[1:])
        return x_KN, self.y.index_select(0, flat).view(shape)

    def _build(self, member: Member) -> nn.Module:
        return build(member.config.model, self.data, member.seed).to(self.device)

    def _finish(self, k: int, slot: _Slot, *, diverged: bool) -> Finished:
        state = None
        if slot.best is not None:
            state = {name: value.cpu() for name, value in self.best.state(k).items()}
        status: Literal["finished", "diverged"] = "diverged" if diverged else "finished"
        elapsed = time.monotonic() - slot.started
        return Finished(slot.member.key, status, slot.best, state, slot.epoch, elapsed)

    def _vacate(self, k: int) -> None:
        """Give slot ``k`` to the next waiting member, if there is one."""
        if not self.waiting:
            self.slots[k] = None
            return
        member = self.waiting.popleft()
        self.slots[k] = _Slot(member)
        self.stack.put(k, self._build(member))
        self.optimiser.assign(k, member.config.optim)
        self.stopping.assign(k, member.config.stop.patience, member.config.stop.min_delta)

    def _shrink(self) -> None:
        """Once half the slots are empty, go on with the others only.

        Not sooner: a stack of another width is another program to record.
        """
        occupied = [k for k, slot in enumerate(self.slots) if slot is not None]
        if not occupied or len(occupied) > len(self.slots) // 2:
            return
        self.slots = [self.slots[k] for k in occupied]
        self.stack, self.best = self.stack.take(occupied), self.best.take(occupied)
        self.optimiser.take(occupied)
        self.stopping.take(occupied)

    @torch.no_grad()
    def _choose(self, name: EngineName, member: Member) -> Choice:
        """Return the engine of that name, or the fastest one on the real shapes."""
        module = self._build(member)
        engines: dict[str, Engine] = {
            "stacked": Stacked(module, self.objective),
            "sequential": Sequential(module, self.objective),
        }
        if name != "auto":
            return Choice(engines[name], torch.get_num_threads(), f"{name} engine, as asked")
        index = torch.arange(self.batch_size, device=self.device).expand(len(self.slots), -1)
        with self._own_randomness():
            return choose(self.stack, list(engines.values()), *self._batch(index))

    def _own_randomness(self) -> AbstractContextManager[None]:
        """Leave PyTorch's global generators as they were: a user may draw from them too."""
        devices = [self.device] if self.device.type == "cuda" else []
        return torch.random.fork_rng(devices)


def _clock(slot: _Slot | None) -> int:
    """Return the seed of all that is random in the slot's next epoch."""
    return slot.member.seed * 1_000_003 + slot.epoch if slot else 0


def _order(slot: _Slot | None, rows: int) -> Tensor:
    """Return the order of the rows in the slot's next epoch."""
    return torch.randperm(rows, generator=torch.Generator().manual_seed(_clock(slot)))
