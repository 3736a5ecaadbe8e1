"""Races: contenders are timed in turns, so that a stall of the machine hits them alike."""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

ROUND_S = 0.002  # of running, each time that a contender is timed
ROUNDS = 3  # at least, of timing all contenders
HOPELESS = 1.5  # times slower than the best: timed no further


class Timer:
    """Times something that can be done again and again.

    Args:
        run: does it.
        scale: what a time is multiplied by, to be comparable with those of others.
        clock: returns seconds.
    """

    def __init__(
        self,
        run: Callable[[], Any],
        scale: float = 1.0,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.run = run
        self.scale = scale
        self.clock = clock
        self.taken: list[float] = []

    @property
    def seconds(self) -> float:
        """The median time of one run, scaled."""
        return statistics.median(self.taken) * self.scale

    def measure(self) -> float:
        """Time some runs; return what that took in all."""
        start, runs, spent = self.clock(), 0, 0.0
        while spent < ROUND_S:
            self.run()
            runs, spent = runs + 1, self.clock() - start
        self.taken.append(spent / runs)
        return spent


def in_turns(timers: Sequence[Timer], least: float) -> None:
    """Measure all in turns, for so many seconds at least; drop the hopeless."""
    alive, spent, rounds = list(timers), 0.0, 0
    while spent < least or rounds < ROUNDS:
        spent, rounds = spent + sum(timer.measure() for timer in alive), rounds + 1
        best = min(timer.seconds for timer in alive)
        alive = [timer for timer in alive if timer.seconds < HOPELESS * best]
