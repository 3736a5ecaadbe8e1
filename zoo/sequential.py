"""One member after another: ordinary modules, ordinary autograd."""

import copy
from collections.abc import Iterable
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from zoo import noise
from zoo.channels import channels_last
from zoo.engines import (
    EngineName,
    Knobs,
    Precision,
    Prepare,
    as_is,
    cached_rows,
    casting,
    for_statistics,
    portions,
    row_bytes,
    statistics,
    weighted_mean,
)
from zoo.objective import Objective
from zoo.stack import Stack, flat


class Sequential:
    """One member after another, each an ordinary module whose weights are rows of the stack."""

    name: EngineName = "sequential"
    records = False
    probe = 2  # the others take as long each

    def __init__(
        self,
        module: nn.Module,
        objective: Objective,
        precision: Precision = "float32",
        prepare: Prepare = as_is,
    ) -> None:
        self.module = module
        self.objective = objective
        self.precision = precision
        self.prepare = prepare
        self.random: bool | None = None  # whether the module draws random numbers; not known yet
        self.shares_generator = False
        self.rebinds: bool | None = None  # whether it replaces buffers by others; not known yet
        self.channels_last: bool | None = None  # whether images go in that way; not known yet
        self.row_bytes: int | None = None  # what a member makes of a row; not known yet
        self.bound: WeakKeyDictionary[Stack, list[nn.Module]] = WeakKeyDictionary()

    def step(
        self, stack: Stack, x_KN: Tensor, y_KN: Tensor, seed_K: Tensor, knobs: Knobs
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Run one training batch per member (see :class:`~zoo.engines.Engine`)."""
        losses, scores = [], []
        gradient_KP = torch.empty_like(stack.flat_KP)
        for k, member in enumerate(self._bind(stack)):
            own = {name: value_K[k] for name, value_K in knobs.items()}
            parameters = dict(member.named_parameters())
            with torch.enable_grad():
                outputs_NC = self._forward(member, x_KN[k], seed_K[k : k + 1])
                loss = self.objective.loss(outputs_NC, y_KN[k], **own)
                gradients = torch.autograd.grad(
                    loss,
                    [parameters[name] for name in stack.params],
                    allow_unused=True,
                    materialize_grads=True,
                )
            flat(gradients, out=gradient_KP[k])
            self._take_over(member, stack, k)
            losses.append(loss.detach())
            scores.append(self.objective.score(outputs_NC.detach(), y_KN[k]))
        return torch.stack(losses), torch.stack(scores), gradient_KP

    def evaluate(self, stack: Stack, x_N: Tensor, *told: Tensor) -> Tensor:
        """Return every member's figures (see :class:`~zoo.engines.Engine`)."""
        measured = []
        for x, *rest in zip(*map(portions, (x_N, *told)), strict=True):
            outputs_KNC = self.outputs(stack, x)
            members = [self.objective.figures(outputs_NC, *rest) for outputs_NC in outputs_KNC]
            measured.append((len(x), torch.stack([torch.stack(own) for own in members], dim=1)))
        return weighted_mean(measured)

    def outputs(self, stack: Stack, x_N: Tensor) -> Tensor:
        """Return the outputs of every member (see :class:`~zoo.engines.Engine`)."""
        members = [member.eval() for member in self._bind(stack)]
        seed_1 = torch.zeros(1, dtype=torch.int64, device=x_N.device)
        if self.row_bytes is None:
            module = copy.deepcopy(self.module).eval()
            self.row_bytes = row_bytes(module, self.prepare(x_N[:2]))
        parts = portions(x_N, cached_rows(self.row_bytes))
        outputs_KNC = torch.cat(
            [
                torch.stack([self._forward(member, rows, seed_1) for member in members])
                for rows in map(self.prepare, parts)
            ],
            dim=1,
        )
        for member in members:
            member.train()
        return outputs_KNC

    def normalise(self, stack: Stack, x_N: Tensor) -> None:
        """Estimate BatchNorm's statistics anew (see :class:`~zoo.engines.Engine`)."""
        names = statistics(self.module, stack.buffers)
        for k in range(len(stack)) if names else ():
            member = for_statistics(self._member(stack, k))
            for name in set(stack.buffers) - set(names):  # the counters, say, stay as they are
                member.get_buffer(name).data = stack.buffers[name][k].clone()
            total = {name: torch.zeros_like(stack.buffers[name][k]) for name in names}
            for rows in map(self.prepare, portions(x_N)):
                self._call(member, rows)
                share = len(rows) / len(x_N)
                total = {name: total[name] + member.get_buffer(name) * share for name in names}
            for name in names:
                stack.buffers[name][k] = total[name]

    def _forward(self, member: nn.Module, x_N: Tensor, seed_1: Tensor) -> Tensor:
        """Run a member with random numbers of its own; those that draw none are not watched."""
        if self.random is False:
            return self._call(member, x_N)
        # For what has no replacement.  torch.manual_seed would take as long as a small step.
        _default_generator(x_N.device).manual_seed(int(seed_1))
        with noise.Own(seed_1) as own:
            outputs = self._call(member, x_N)
        if self.random is None:
            self.random, self.shares_generator = own.drew, own.from_generator
        return outputs

    def _take_over(self, member: nn.Module, stack: Stack, k: int) -> None:
        """Copy buffers that a forward pass has replaced by others into the stack."""
        if self.rebinds is False:
            return
        rebound = [
            (name, buffer)
            for name, buffer in member.named_buffers()
            if buffer.data_ptr() != stack.buffers[name][k].data_ptr() and buffer.numel()
        ]
        self.rebinds = bool(rebound)
        for name, buffer in rebound:
            stack.buffers[name][k] = buffer.detach()
            buffer.data = stack.buffers[name][k]

    def _call(self, member: nn.Module, x_N: Tensor) -> Tensor:
        if self.channels_last is None:
            self.channels_last = self._suits(x_N)
        with casting(self.precision):
            outputs: Tensor = member(channels_last(x_N) if self.channels_last else x_N)
        return outputs.float()

    @torch.no_grad()
    def _suits(self, x_N: Tensor) -> bool:
        """Tell whether the model takes images with the channels last, and computes the same.

        On a CPU convolutions are up to twice as fast then; a module that takes views may refuse.
        """
        if x_N.ndim != 4 or x_N.device.type != "cpu":
            return False
        module = copy.deepcopy(self.module).eval()
        try:
            outputs, expected = module(channels_last(x_N)), module(x_N)
            return torch.allclose(outputs, expected, rtol=1e-3, atol=1e-4)
        except RuntimeError:
            return False

    def _bind(self, stack: Stack) -> list[nn.Module]:
        """Return K modules that live in the rows of the stack."""
        members = self.bound.get(stack)
        if members is None:
            members = self.bound[stack] = [self._member(stack, k) for k in range(len(stack))]
        return members

    def _member(self, stack: Stack, k: int) -> nn.Module:
        module = copy.deepcopy(self.module).to(stack.flat_KP.device).train()
        named = {**stack.params, **stack.buffers}
        values: Iterable[tuple[str, Tensor]] = [*module.named_parameters(), *module.named_buffers()]
        for name, tensor in values:
            tensor.data = named[name][k]
        return module


def _default_generator(device: torch.device) -> torch.Generator:
    """Return the generator that modules draw from on a device."""
    if device.type == "cuda":
        return torch.cuda.default_generators[device.index or 0]
    return torch.default_generator
