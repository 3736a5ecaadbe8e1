"""All members in one program: ``vmap`` and autograd, recorded and replayed."""

import copy
from collections.abc import Callable
from threading import Lock
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from zoo.channels import AmongChannels
from zoo.cudagraph import Graph
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
from zoo.program import NotRecordableError
from zoo.stack import Stack, flat
from zoo.tape import record

Program = Callable[..., list[Tensor]]


class Stacked:
    """All members in one program: ``vmap`` and autograd, recorded and replayed."""

    name: EngineName = "stacked"
    records = True
    probe = 1_000_000
    shares_generator = False

    def __init__(
        self,
        module: nn.Module,
        objective: Objective,
        precision: Precision = "float32",
        prepare: Prepare = as_is,
    ) -> None:
        self.training = copy.deepcopy(module).train()
        self.evaluating = copy.deepcopy(module).eval()
        self.normalising = for_statistics(copy.deepcopy(module))
        self.objective = objective
        self.precision = precision
        self.prepare = prepare
        self.row_bytes: int | None = None  # what a member makes of a row; not known yet
        self.programs: dict[Any, Program] = {}
        self.recording = Lock()
        self.graphs: WeakKeyDictionary[Stack, dict[Any, Graph]] = WeakKeyDictionary()

    def step(
        self, stack: Stack, x_KN: Tensor, y_KN: Tensor, seed_K: Tensor, knobs: Knobs
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Run one training batch per member (see :class:`~zoo.engines.Engine`)."""
        batch = [*knobs.values(), x_KN, y_KN]

        def recorded() -> Program:
            examples = [*stack.params.values(), *(b.clone() for b in stack.buffers.values())]
            return record(self._step(stack, list(knobs)), [*examples, *batch], seed_K)

        key = ("step", len(stack), x_KN.shape, *knobs)
        program = self._program(key, recorded)
        own = [*stack.params.values(), *stack.buffers.values()]
        if x_KN.is_cuda:
            graphs = self.graphs.setdefault(stack, {})
            if key not in graphs:
                graphs[key] = Graph(program, own, [*batch, seed_K])
            loss_K, score_K, gradient_KP = graphs[key](*batch, seed_K)
        else:
            loss_K, score_K, gradient_KP = program(*own, *batch, seed_K)
        return loss_K, score_K, gradient_KP

    def evaluate(self, stack: Stack, x_N: Tensor, *told: Tensor) -> Tensor:
        """Return every member's figures (see :class:`~zoo.engines.Engine`)."""
        measured = []
        most = self._rows(stack, x_N)
        for x, *rest in zip(*(portions(each, most) for each in (x_N, *told)), strict=True):
            x = self.prepare(x)
            figures = self._forward("evaluate", self.objective.figures, stack, x, *rest)
            measured.append((len(x), torch.stack(figures)))
        return weighted_mean(measured)

    def outputs(self, stack: Stack, x_N: Tensor) -> Tensor:
        """Return the outputs of every member (see :class:`~zoo.engines.Engine`)."""
        parts = map(self.prepare, portions(x_N, self._rows(stack, x_N)))
        return torch.cat([self._forward("outputs", as_is, stack, x)[0] for x in parts], dim=1)

    def normalise(self, stack: Stack, x_N: Tensor) -> None:
        """Estimate BatchNorm's statistics anew (see :class:`~zoo.engines.Engine`)."""
        names = statistics(self.normalising, stack.buffers)
        if not names:
            return
        trial = stack.take(range(len(stack)))
        total = {name: torch.zeros_like(stack.buffers[name]) for name in names}
        for rows in map(self.prepare, portions(x_N)):
            self._forward("normalise", as_is, trial, rows)
            for name in names:
                total[name].add_(trial.buffers[name], alpha=len(rows) / len(x_N))
        for name in names:
            stack.buffers[name].copy_(total[name])

    def _rows(self, stack: Stack, x_N: Tensor) -> int:
        """Return how many rows to compute at a time."""
        if self.row_bytes is None:
            with self.recording:  # which puts other tensors into the module meanwhile
                self.row_bytes = row_bytes(self.evaluating, self.prepare(x_N[:2]))
        return cached_rows(self.row_bytes * len(stack))

    def _forward(
        self, what: str, after: Callable[..., Any], stack: Stack, *rows: Tensor
    ) -> list[Tensor]:
        """Run ``after(outputs, *rows[1:])`` for every member on the same rows, in one program."""
        values = [*stack.params.values(), *stack.buffers.values()]
        seed_K = torch.zeros(len(stack), dtype=torch.int64, device=rows[0].device)

        def recorded() -> Program:
            module = self.normalising if what == "normalise" else self.evaluating
            call = self._call(stack, module)
            count, width = len(stack.params), len(values)

            def member(params: Any, buffers: Any, x_N: Tensor, *rest: Tensor) -> Any:
                return after(call(params, buffers, x_N), *rest)

            axes = (0, 0, *(None for _ in rows))
            every = vmap(member, in_dims=axes, randomness="different")
            return record(
                lambda *v: every(v[:count], v[count:width], *v[width:]), [*values, *rows], seed_K
            )

        program = self._program((what, len(stack), len(rows), rows[0].shape), recorded)
        return program(*values, *rows, seed_K)

    def _program(self, key: Any, recorded: Callable[[], Program]) -> Program:
        """Return the program for a key; it is recorded once, whichever thread needs it first."""
        if key not in self.programs:
            with self.recording:
                if key not in self.programs:
                    self.programs[key] = _among_channels(recorded)
        return self.programs[key]

    def _step(self, stack: Stack, knobs: list[str]) -> Callable[..., tuple[Tensor, Tensor, Tensor]]:
        """Return the function of flat tensors that one training step computes."""
        call = self._call(stack, self.training)
        count = len(stack.params)
        width = count + len(stack.buffers)

        def member(
            params: Any, buffers: Any, own: list[Tensor], x_N: Tensor, y_N: Tensor
        ) -> tuple[Tensor, Tensor]:
            outputs_NC = call(params, buffers, x_N)
            loss = self.objective.loss(outputs_NC, y_N, **dict(zip(knobs, own, strict=True)))
            return loss, self.objective.score(outputs_NC.detach(), y_N)

        def step(*values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            *named, x_KN, y_KN = values
            with torch.enable_grad():
                params = [value.detach().requires_grad_() for value in named[:count]]
                loss_K, score_K = vmap(member, randomness="different")(
                    params, named[count:width], named[width:], x_KN, y_KN
                )
                # The members share nothing, so the gradient of the sum is each one's own.
                gradients = torch.autograd.grad(
                    loss_K.sum(), params, allow_unused=True, materialize_grads=True
                )
            return loss_K.detach(), score_K, flat(gradients, len(x_KN))

        return step

    def _call(self, stack: Stack, module: nn.Module) -> Callable[[Any, Any, Tensor], Tensor]:
        names, buffers = list(stack.params), list(stack.buffers)

        def call(params: Any, buffer_values: Any, x_N: Tensor) -> Tensor:
            named = dict(zip([*names, *buffers], [*params, *buffer_values], strict=True))
            with casting(self.precision):
                outputs: Tensor = functional_call(module, named, (x_N,))
            return outputs.float()

        return call


def _among_channels(recorded: Callable[[], Program]) -> Program:
    """Record with the members of images among their channels, if the module bears it."""
    try:
        with AmongChannels():
            return recorded()
    except NotRecordableError:
        raise
    except RuntimeError:  # such as of a function that asks how its images lie in memory
        return recorded()
