"""What a prediction costs: parameters, operations, bytes, and time for one row and for many."""

import time
from dataclasses import dataclass
from timeit import timeit
from typing import Any

import torch
from torch.utils.flop_counter import flop_registry

from ensemble.entrants import Entrant
from zoo.choice import threads
from zoo.noise import Watcher

MANY = 256  # rows at once
TIMINGS = 100  # at most, of which the shortest counts
BUDGET_S = 0.3  # after which no more timings are begun
SETTLING_S = 0.15  # in which several models find the fastest way to predict together


@dataclass(frozen=True)
class Cost:
    """What it takes to predict, all models of a pool together.

    Attributes:
        params: numbers that were learnt.
        flops: floating-point operations for one row, in matrix products and convolutions; an
            addition and a multiplication are two.
        weights_bytes: of the weights and buffers as they are stored.
        inference_ms: shortest time for one row, on one CPU thread, models together where they can.
        inference_ms_256: the same for 256 rows.
    """

    params: int
    flops: int
    weights_bytes: int
    inference_ms: float
    inference_ms_256: float


class Operations(Watcher):  # type: ignore[no-untyped-call]  # torch has no types here
    """Counts floating-point operations while it is entered, by PyTorch's own formulas.

    ``FlopCounterMode`` does the same and more, and first imports the compiler, which takes seconds.
    """

    total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and add what it takes."""
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if count := flop_registry.get(func._overloadpacket):
            self.total += count(*args, **kwargs, out_val=result)
        return result


def cost(entrant: Entrant) -> Cost:
    """Measure what it takes to predict."""
    params = flops = size = 0
    for group, _ in entrant.groups:  # of one model each
        table, run, count = entrant.table, group[0], len(group)
        module, data = table.module(run).eval(), table.own(run)
        counter = Operations()  # type: ignore[no-untyped-call]  # torch has no types here
        with counter, torch.no_grad():
            module(data.prepare(data.test.x[:1]))
        params += count * sum(parameter.numel() for parameter in module.parameters())
        flops += count * counter.total
        size += count * sum(value.nbytes for value in table.state(run).values())
    return Cost(params, flops, size, _milliseconds(entrant, 1), _milliseconds(entrant, MANY))


def _milliseconds(entrant: Entrant, rows: int) -> float:
    """Return the shortest time to predict so many rows on one thread, pooled."""
    forwards = []
    for group, forward in entrant.groups:
        x_N = entrant.table.own(group[0]).test.x
        forwards.append((forward, x_N[torch.arange(rows) % len(x_N)]))
    everyone = range(len(entrant.runs))

    def predict() -> None:
        entrant.pool(torch.cat([forward(x_N) for forward, x_N in forwards]), everyone)

    with threads(1):  # several would measure what else the machine is doing
        spent = 0.0 if len(everyone) > 1 else SETTLING_S
        while spent < SETTLING_S:
            spent += timeit(predict, number=1)
        begun, times = time.perf_counter(), [timeit(predict, number=1)]
        while len(times) < TIMINGS and time.perf_counter() - begun < BUDGET_S:
            times.append(timeit(predict, number=1))
    return 1e3 * min(times)
