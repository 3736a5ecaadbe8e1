"""Averages of each member's weights along its training, kept beside the weights themselves.

- ``ema``: after every step, average <- decay * average + (1 - decay) * weights (Polyak & Juditsky
  1992, with exponential weights; Morales-Brotons et al. 2024, arXiv:2411.18704).
- ``swa``: the mean of the weights after each epoch of the last part of training (Izmailov et al.
  2018, arXiv:1803.05407, Algorithm 1).
- ``lawa``: the mean of the weights after each of the latest k epochs (Kaddour 2022,
  arXiv:2209.14981).

An average has no BatchNorm statistics of its own until the engine estimates them.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from zoo.config import RunConfig
from zoo.reports import Average
from zoo.stack import Stack

KINDS: tuple[Average, ...] = ("ema", "swa", "lawa")


class Running:
    """One kind of average of K members.

    Attributes:
        kind: ``ema``, ``swa`` or ``lawa``.
        stack: the averages; meaningful where ``count_K`` is positive.
        count_K: int64 (K,), how many states have gone into each, on the CPU.
        latest: for ``lawa``, the (length, K, P) parameters it is the mean of.
    """

    def __init__(self, kind: Average, stack: Stack, length: int) -> None:
        """Start with nothing averaged; ``length`` is how many epochs ``lawa`` looks back."""
        self.kind = kind
        self.stack = stack.take(range(len(stack)))
        self.count_K = torch.zeros(len(stack), dtype=torch.int64)
        shape = (length if kind == "lawa" else 0, *stack.flat_KP.shape)
        self.latest = torch.zeros(shape, device=stack.flat_KP.device)

    def after_step(self, flat_KP: Tensor, rate_K1: Tensor, first: int) -> None:
        """Let ``ema`` follow the members from number ``first`` on; ``rate_K1`` is 1 - decay."""
        here = slice(first, first + len(flat_KP))
        self.stack.flat_KP[here].lerp_(flat_KP, rate_K1)

    def after_epoch(
        self, stack: Stack, epoch_K: Sequence[int], config_K: Sequence[RunConfig]
    ) -> None:
        """Take in the weights that the members have after an epoch.

        Args:
            stack: the members.
            epoch_K: how many epochs each has trained; 0 for an empty slot.
            config_K: their settings.
        """
        for k, (epoch, config) in enumerate(zip(epoch_K, config_K, strict=True)):
            earlier = (config.keep.swa or 0.0) * config.train.epochs + 1e-9  # 0.7 * 90 is 62.999…
            begun = epoch > earlier
            if not epoch or (self.kind == "swa" and not begun):
                continue
            self.count_K[k] += 1
            count = int(self.count_K[k])
            if self.kind == "swa":
                self.stack.flat_KP[k].lerp_(stack.flat_KP[k], 1 / count)
            elif self.kind == "lawa":
                self.latest[(count - 1) % len(self.latest), k] = stack.flat_KP[k]
                self.stack.flat_KP[k] = self.latest[:count, k].mean(0)
        for name, buffer in self.stack.buffers.items():
            buffer.copy_(stack.buffers[name])

    def assign(self, k: int, stack: Stack) -> None:
        """Begin anew in slot ``k``, from the weights that are there."""
        self.stack.flat_KP[k] = stack.flat_KP[k]
        self.count_K[k] = 0

    def take(self, members: list[int]) -> None:
        """Keep only the given members, in this order."""
        self.stack = self.stack.take(members)
        self.count_K = self.count_K[members]
        self.latest = self.latest[:, members]

    def rows(self) -> dict[str, Tensor]:
        """Return all that changes while training, the member first."""
        rows = {f"stack.{name}": value for name, value in self.stack.rows().items()}
        return rows | {"count": self.count_K, "latest": self.latest.transpose(0, 1)}
