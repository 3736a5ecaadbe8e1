"""A share of the stack, trained and measured by one thread."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from threading import Event

import torch
from torch import Tensor

from zoo.data import Part
from zoo.engines import Engine, Knobs
from zoo.gradient import Restraints, restrain
from zoo.optim import Optimiser
from zoo.reports import Source
from zoo.running import Running
from zoo.slots import Slot, clock, factors, mixing, order
from zoo.stack import Stack
from zoo.teaching import Lesson


@dataclass(frozen=True)
class Lane:
    """The members from number ``start`` on, and all that is needed to train them for an epoch.

    Attributes:
        slots: of the members; None where one is empty.
        stacks: views of the members, and of their averages.
        ema: their exponential average, where there is one, and 1 - its decay, (k, 1).
        knobs: what the loss takes of each member, whatever the batch.
        augment: changes a batch (k, N, *shape) by seeds (k,), where that is asked for.
        lesson: what a teacher says of a batch, where there is one.
        halt: is set where training ends at once: what the lane has done is not wanted any more.
    """

    start: int
    slots: Sequence[Slot | None]
    stacks: Mapping[Source, Stack]
    engine: Engine
    optimiser: Optimiser
    limits: Restraints
    ema: tuple[Running, Tensor] | None
    knobs: Knobs
    augment: Callable[[Tensor, Tensor], Tensor] | None
    lesson: Lesson | None
    halt: Event

    @property
    def stack(self) -> Stack:
        """The members themselves."""
        return self.stacks["weights"]

    @torch.no_grad()
    def train(self, train: Part, batch_size: int, accumulate: int) -> tuple[Tensor, list[float]]:
        """Train every member for one epoch.

        Returns:
            (3, k): means over the epoch of loss, score and gradient norm; and what each learning
            rate was multiplied by in the last step.
        """
        rows, device = len(train), train.y.device
        # A last batch of one row is left out: BatchNorm has no variance there.
        used = rows - 1 if rows % batch_size == 1 and rows > 1 else rows
        steps = -(-used // batch_size)
        order_KN = torch.stack([order(slot, rows) for slot in self.slots]).to(device)
        seed_K = torch.tensor([clock(slot) for slot in self.slots], device=device) * 1_000_003
        mix = mixing(self.slots, steps)
        mix = None if mix is None else mix.to(device)
        totals_3K = torch.zeros(3, len(self.slots), device=device)
        rates = factors(self.slots, 0, steps)
        varying = any(slot and slot.varying for slot in self.slots)
        for step in range(steps):
            if self.halt.is_set():
                break
            index_KN = order_KN[:, step * batch_size : min((step + 1) * batch_size, used)]
            mix_K = None if mix is None else mix[step]
            now_K = seed_K + step * accumulate
            x_KN, y_KN, knobs = self._batch(train, index_KN, now_K, mix_K)
            parts = max(1, min(accumulate, index_KN.shape[1] * accumulate // batch_size))
            loss_K, score_K, gradient_KP = self._step(x_KN, y_KN, now_K, knobs, parts)
            norm_K = restrain(gradient_KP, self.stack.flat_KP, self.stack.weights, self.limits)
            rates = factors(self.slots, step, steps) if varying else rates
            self.optimiser.update(self.stack.flat_KP, gradient_KP, rates, self.start)
            if self.ema is not None:
                average, rate_K1 = self.ema
                average.after_step(self.stack.flat_KP, rate_K1, self.start)
            share = index_KN.shape[1] / used
            totals_3K.add_(torch.stack([loss_K, score_K, norm_K]), alpha=share)
        return totals_3K, rates

    @torch.no_grad()
    def measure(
        self, val: Part, train_x: Tensor, names: Sequence[Source] = ("weights",)
    ) -> dict[Source, Tensor]:
        """Return validation figures (F, k) of the members and averages of these names."""
        judged = () if self.lesson is None else self.lesson.judged
        measured: dict[Source, Tensor] = {}
        for name in names:
            members = self.stacks[name]
            if name != "weights":
                self.engine.normalise(members, train_x)
            measured[name] = self.engine.evaluate(members, val.x, val.y, *judged)
        return measured

    def _batch(
        self, train: Part, index_KN: Tensor, seed_K: Tensor, mix_K: Tensor | None
    ) -> tuple[Tensor, Tensor, Knobs]:
        """Return the rows as they are learnt from, their targets, and what the loss takes besides.

        Where rows are mixed, each is with the one that is as far from the batch's other end.
        """
        x_KN, y_KN = gather(train, index_KN)
        x_KN = self.engine.prepare(x_KN)
        knobs = dict(self.knobs)
        if self.augment is not None:
            x_KN = self.augment(x_KN, seed_K)
        if mix_K is not None:
            share = mix_K.view(-1, *(1 for _ in x_KN.shape[1:]))
            x_KN = share * x_KN + (1 - share) * x_KN.flip(1)
            knobs |= {"mix": mix_K, "mate_N": y_KN.flip(1)}
        if self.lesson is not None:
            x_KN = self.lesson.disturbed(x_KN, seed_K)
            knobs["taught_N"] = self.lesson.taught(x_KN, index_KN)
        return x_KN, y_KN, knobs

    def _step(
        self, x_KN: Tensor, y_KN: Tensor, seed_K: Tensor, knobs: Knobs, parts: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return loss (k,), score (k,) and gradient (k, P) of a batch that is computed in parts."""
        if parts == 1:
            return self.engine.step(self.stack, x_KN, y_KN, seed_K, knobs)
        rows = y_KN.shape[1]
        totals: list[Tensor] = []
        for number, index in enumerate(torch.arange(rows).tensor_split(parts)):
            here = slice(int(index[0]), int(index[-1]) + 1)
            own = {n: v[:, here].contiguous() if n[-2:] == "_N" else v for n, v in knobs.items()}
            x, y = x_KN[:, here].contiguous(), y_KN[:, here].contiguous()
            step = self.engine.step(self.stack, x, y, seed_K + number, own)
            shares = [value * (len(index) / rows) for value in step]
            totals = [a + b for a, b in zip(totals, shares, strict=True)] if totals else shares
        loss_K, score_K, gradient_KP = totals
        return loss_K, score_K, gradient_KP


def gather(part: Part, index_KN: Tensor) -> tuple[Tensor, Tensor]:
    """Gather one batch per member: x (K, N, *shape), as it is held, and y (K, N) or (K, N, T)."""
    flat, shape = index_KN.reshape(-1), index_KN.shape
    x_KN = part.x.index_select(0, flat).view(*shape, *part.x.shape[1:])
    return x_KN, part.y.index_select(0, flat).view(*shape, *part.y.shape[1:])
