"""Which engine, and how many CPU threads: found by a short race on the real members and data."""

import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from zoo.engines import Engine
from zoo.stack import Stack

MARGIN = 1.2  # by which all threads must be faster than one
ROUND_S = 0.002  # of steps, each time that an engine is timed
RACE_S = 0.1  # for timing all engines, at least one round
HOPELESS = 1.5  # times slower than the best: timed no further


@dataclass(frozen=True)
class Choice:
    """An engine, the number of CPU threads to run it with, and a sentence that says why."""

    engine: Engine
    threads: int
    reason: str


def choose(stack: Stack, engines: Sequence[Engine], x_KN: Tensor, y_KN: Tensor) -> Choice:
    """Time a few training steps of each engine on these members and data; take the fastest.

    On a CPU each engine is timed with one thread and with all.  Threads that wait for each other
    many times per step suffer as soon as the machine has other work, so all of them must win by
    a clear margin.

    Args:
        stack: the members; they are left as they are.
        engines: the candidates, the one preferred at equal speed first.
        x_KN: one batch per member.
        y_KN: its targets.

    Raises:
        RuntimeError: where none of the engines can run the model.
    """
    every = torch.get_num_threads()
    counts = [1, every] if every > 1 and not x_KN.is_cuda else [every]
    timers: list[_Timer] = []
    impossible = []
    for engine in engines:
        try:
            timers += [_Timer(engine, count, stack, x_KN, y_KN) for count in counts]
        except RuntimeError as error:
            if engine is engines[-1] and not timers:
                raise
            impossible.append(f"{engine.name} impossible: {str(error).splitlines()[0]}")
    _race(timers)
    best = min(timers, key=lambda timer: timer.seconds * (MARGIN if timer.threads > 1 else 1))
    fastest = {engine.name: torch.inf for engine in engines}
    for timer in timers:
        fastest[timer.engine.name] = min(fastest[timer.engine.name], timer.seconds)
    figures = [f"{name} {s * 1e3:.3g} ms" for name, s in fastest.items() if s < torch.inf]
    used = f", {best.threads} thread{'s' if best.threads > 1 else ''}" if not x_KN.is_cuda else ""
    steps = f"a step of {len(stack)} members: {', '.join([*impossible, *figures])}"
    return Choice(best.engine, best.threads, f"{best.engine.name} engine{used} ({steps})")


class _Timer:
    """Times steps of an engine with a number of threads, on a copy of some members."""

    def __init__(
        self, engine: Engine, threads: int, stack: Stack, x_KN: Tensor, y_KN: Tensor
    ) -> None:
        """Record what the engine records, and warm up."""
        count = min(len(stack), engine.probe)
        self.engine, self.threads, self.scale = engine, threads, len(stack) / count
        self.stack, self.x_KN, self.y_KN = stack.take(range(count)), x_KN[:count], y_KN[:count]
        self.seed_K = torch.zeros(count, dtype=torch.int64, device=x_KN.device)
        self.taken: list[float] = []
        self.run()

    @property
    def seconds(self) -> float:
        """The median time of one step of all members."""
        return statistics.median(self.taken) * self.scale

    def run(self) -> None:
        with threads(self.threads):
            self.engine.step(self.stack, self.x_KN, self.y_KN, self.seed_K)
            _wait(self.x_KN)

    def measure(self) -> float:
        """Time some steps; return what that took in all."""
        start, steps, spent = time.perf_counter(), 0, 0.0
        while spent < ROUND_S:
            self.run()
            steps, spent = steps + 1, time.perf_counter() - start
        self.taken.append(spent / steps)
        return spent


def _race(timers: list[_Timer]) -> None:
    """Measure all in turns, so that a stall of the machine hits them alike; drop the hopeless."""
    alive, spent = timers, 0.0
    while spent < RACE_S:
        spent += sum(timer.measure() for timer in alive)
        best = min(timer.seconds for timer in alive)
        alive = [timer for timer in alive if timer.seconds < HOPELESS * best]


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Let PyTorch use this many CPU threads inside the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _wait(x: Tensor) -> None:
    if x.is_cuda:
        torch.cuda.synchronize(x.device)
