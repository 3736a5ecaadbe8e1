"""Two ways to compute the gradients and outputs of a stack.

:class:`Stacked` runs all members in one program, recorded once per shape.  :class:`Sequential`
runs them one after another as ordinary modules whose parameters are the rows of the stack.  Both
leave the arithmetic of the loss and of autograd to PyTorch and agree to float tolerance.
"""

import copy
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from zoo import noise
from zoo.objective import Objective
from zoo.stack import Stack
from zoo.tape import record

EVALUATION_ROWS = 512  # at a time, so that their activations stay in the cache


class Engine(Protocol):
    """What the training loop asks of an engine."""

    name: str
    probe: int  # how many members must be timed to know the speed of all

    def step(
        self, stack: Stack, x_KN: Tensor, y_KN: Tensor, seed_K: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Run one training batch per member, updating the stack's buffers in place.

        Args:
            stack: the members.
            x_KN: (K, N, *shape), one batch per member.
            y_KN: (K, N), its targets.
            seed_K: int64 (K,), seeds of the step's random numbers (dropout).

        Returns:
            loss (K,), score (K,), and the gradient of each member's own loss (K, P).
        """
        ...

    def evaluate(self, stack: Stack, x_N: Tensor, y_N: Tensor) -> tuple[Tensor, Tensor]:
        """Return loss (K,) and score (K,) of every member, in evaluation mode, over the rows."""
        ...

    def outputs(self, stack: Stack, x_N: Tensor) -> Tensor:
        """Return the outputs (K, N, C) of every member, in evaluation mode, for the rows."""
        ...


class Stacked:
    """All members in one program: ``vmap`` and autograd, recorded and replayed."""

    name = "stacked"
    probe = 1_000_000

    def __init__(self, module: nn.Module, objective: Objective) -> None:
        self.training = copy.deepcopy(module).train()
        self.evaluating = copy.deepcopy(module).eval()
        self.objective = objective
        self.programs: dict[Any, Callable[..., list[Tensor]]] = {}

    def step(
        self, stack: Stack, x_KN: Tensor, y_KN: Tensor, seed_K: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Run one training batch per member (see :class:`Engine`)."""
        values = [*stack.params.values(), *stack.buffers.values()]
        key = ("step", len(stack), x_KN.shape)
        if key not in self.programs:
            examples = [*stack.params.values(), *(b.clone() for b in stack.buffers.values())]
            self.programs[key] = record(self._step(stack), [*examples, x_KN, y_KN], seed_K)
        loss_K, score_K, gradient_KP = self.programs[key](*values, x_KN, y_KN, seed_K)
        return loss_K, score_K, gradient_KP

    def evaluate(self, stack: Stack, x_N: Tensor, y_N: Tensor) -> tuple[Tensor, Tensor]:
        """Return loss and score of every member (see :class:`Engine`)."""

        def measure(outputs_NC: Tensor, y_N: Tensor) -> tuple[Tensor, Tensor]:
            return self.objective.loss(outputs_NC, y_N), self.objective.score(outputs_NC, y_N)

        measured = []
        for x, y in zip(_portions(x_N), _portions(y_N), strict=True):
            loss_K, score_K = self._forward("evaluate", measure, stack, x, y)
            measured.append((len(x), loss_K, score_K))
        return _weighted_mean(measured)

    def outputs(self, stack: Stack, x_N: Tensor) -> Tensor:
        """Return the outputs of every member (see :class:`Engine`)."""

        def same(outputs_NC: Tensor) -> Tensor:
            return outputs_NC

        rows = [self._forward("outputs", same, stack, x)[0] for x in _portions(x_N)]
        return torch.cat(rows, dim=1)

    def _forward(
        self, what: str, after: Callable[..., Any], stack: Stack, *rows: Tensor
    ) -> list[Tensor]:
        """Run ``after(outputs, *rows[1:])`` for every member on the same rows, in one program."""
        values = [*stack.params.values(), *stack.buffers.values()]
        seed_K = torch.zeros(len(stack), dtype=torch.int64, device=rows[0].device)
        key = (what, len(stack), rows[0].shape)
        if key not in self.programs:
            call = self._call(stack, self.evaluating)
            count = len(stack.params)

            def member(params: Any, buffers: Any, x_N: Tensor, *rest: Tensor) -> Any:
                return after(call(params, buffers, x_N), *rest)

            every = vmap(member, in_dims=(0, 0, *(None for _ in rows)))
            width = len(values)
            self.programs[key] = record(
                lambda *v: every(v[:count], v[count:width], *v[width:]), [*values, *rows], seed_K
            )
        return self.programs[key](*values, *rows, seed_K)

    def _step(self, stack: Stack) -> Callable[..., tuple[Tensor, Tensor, Tensor]]:
        """Return the function of flat tensors that one training step computes."""
        call = self._call(stack, self.training)
        count = len(stack.params)

        def member(params: Any, buffers: Any, x_N: Tensor, y_N: Tensor) -> tuple[Tensor, Tensor]:
            outputs_NC = call(params, buffers, x_N)
            return self.objective.loss(outputs_NC, y_N), self.objective.score(
                outputs_NC.detach(), y_N
            )

        def step(*values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            *named, x_KN, y_KN = values
            with torch.enable_grad():
                params = [value.detach().requires_grad_() for value in named[:count]]
                loss_K, score_K = vmap(member, randomness="different")(
                    params, named[count:], x_KN, y_KN
                )
                # The members share nothing, so the gradient of the sum is each one's own.
                gradients = torch.autograd.grad(
                    loss_K.sum(), params, allow_unused=True, materialize_grads=True
                )
            rows = [gradient.reshape(len(x_KN), -1) for gradient in gradients]
            return loss_K.detach(), score_K, torch.cat(rows, dim=1)

        return step

    def _call(self, stack: Stack, module: nn.Module) -> Callable[[Any, Any, Tensor], Tensor]:
        names, buffers = list(stack.params), list(stack.buffers)

        def call(params: Any, buffer_values: Any, x_N: Tensor) -> Tensor:
            named = dict(zip([*names, *buffers], [*params, *buffer_values], strict=True))
            outputs: Tensor = functional_call(module, named, (x_N,))
            return outputs

        return call


class Sequential:
    """One member after another, each an ordinary module whose weights are rows of the stack."""

    name = "sequential"
    probe = 2  # the others take as long each

    def __init__(self, module: nn.Module, objective: Objective) -> None:
        self.module = module
        self.objective = objective
        self.random: bool | None = None  # whether the module draws random numbers; not known yet
        self.bound: Stack | None = None
        self.members: list[nn.Module] = []

    def step(
        self, stack: Stack, x_KN: Tensor, y_KN: Tensor, seed_K: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Run one training batch per member (see :class:`Engine`)."""
        losses, scores = [], []
        gradient_KP = torch.empty_like(stack.flat_KP)
        for k, member in enumerate(self._bind(stack)):
            with torch.enable_grad():
                outputs_NC = self._forward(member, x_KN[k], seed_K[k : k + 1])
                loss = self.objective.loss(outputs_NC, y_KN[k])
                gradients = torch.autograd.grad(
                    loss, self._trained(member), allow_unused=True, materialize_grads=True
                )
            torch.cat([gradient.reshape(-1) for gradient in gradients], out=gradient_KP[k])
            losses.append(loss.detach())
            scores.append(self.objective.score(outputs_NC.detach(), y_KN[k]))
        return torch.stack(losses), torch.stack(scores), gradient_KP

    def evaluate(self, stack: Stack, x_N: Tensor, y_N: Tensor) -> tuple[Tensor, Tensor]:
        """Return loss and score of every member (see :class:`Engine`)."""
        measured = []
        for x, y in zip(_portions(x_N), _portions(y_N), strict=True):
            outputs_KNC = self.outputs(stack, x)
            losses = [self.objective.loss(outputs_NC, y) for outputs_NC in outputs_KNC]
            scores = [self.objective.score(outputs_NC, y) for outputs_NC in outputs_KNC]
            measured.append((len(x), torch.stack(losses), torch.stack(scores)))
        return _weighted_mean(measured)

    def outputs(self, stack: Stack, x_N: Tensor) -> Tensor:
        """Return the outputs of every member (see :class:`Engine`)."""
        members = []
        for member in self._bind(stack):
            member.eval()
            members.append(torch.cat([member(rows) for rows in _portions(x_N)]))
            member.train()
        return torch.stack(members)

    def _forward(self, member: nn.Module, x_N: Tensor, seed_1: Tensor) -> Tensor:
        """Run a member with random numbers of its own; those that draw none are not watched."""
        if self.random is False:
            outputs: Tensor = member(x_N)
            return outputs
        # For what has no replacement.  torch.manual_seed would take as long as a small step.
        _default_generator(x_N.device).manual_seed(int(seed_1))
        with noise.Own(seed_1) as own:
            outputs = member(x_N)
        if self.random is None:
            self.random = own.drew
        return outputs

    def _bind(self, stack: Stack) -> list[nn.Module]:
        """Return K modules that live in the rows of the stack."""
        if self.bound is not stack:
            self.bound = stack
            self.members = [self._member(stack, k) for k in range(len(stack))]
        return self.members

    def _member(self, stack: Stack, k: int) -> nn.Module:
        module = copy.deepcopy(self.module).to(stack.flat_KP.device).train()
        named = {**stack.params, **stack.buffers}
        for name, parameter in module.named_parameters():
            parameter.data = named[name][k]
        for name, buffer in module.named_buffers():
            buffer.data = named[name][k]
        return module

    @staticmethod
    def _trained(member: nn.Module) -> list[nn.Parameter]:
        return [parameter for parameter in member.parameters() if parameter.requires_grad]


def _default_generator(device: torch.device) -> torch.Generator:
    """Return the generator that modules draw from on a device."""
    if device.type == "cuda":
        return torch.cuda.default_generators[device.index or 0]
    return torch.default_generator


def _portions(x_N: Tensor) -> tuple[Tensor, ...]:
    """Cut rows into nearly equal portions whose activations stay in the cache."""
    return x_N.tensor_split(max(1, -(-len(x_N) // EVALUATION_ROWS)))


def _weighted_mean(measured: list[tuple[int, Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Average the losses and scores of portions, each weighing as many rows as it has."""
    rows = sum(count for count, _, _ in measured)
    loss_K = torch.stack([loss * (count / rows) for count, loss, _ in measured]).sum(0)
    score_K = torch.stack([score * (count / rows) for count, _, score in measured]).sum(0)
    return loss_K, score_K
