"""Races: contenders are timed in turns, so that a stall of the machine hits them alike."""

import time
from collections.abc import Callable, Sequence
from typing import Any

ROUND_S = 0.002  # of running, each time that a contender is timed
ROUNDS = 3  # at least, of timing all contenders
HOPELESS = (30, 4, 1.5)  # times slower than the best, after so many rounds: timed no further


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
        """The least time of one run, scaled."""
        return min(self.taken) * self.scale

    def measure(self) -> float:
        """Time some runs, after one that finds its threads asleep and the caches of others."""
        self.run()
        start, runs, spent = self.clock(), 0, 0.0
        while spent < ROUND_S:
            self.run()
            runs, spent = runs + 1, self.clock() - start
        self.taken.append(spent / runs)
        return spent


def in_turns(timers: Sequence[Timer], enough: Callable[[float], float]) -> None:
    """Measure all in turns; drop the hopeless, and end where nobody is left to beat.

    Args:
        timers: of the contenders.
        enough: from the least seconds of a run to those to be spent at least.
    """
    alive, spent, rounds, least = list(timers), 0.0, 0, 0.0
    while spent < least or rounds < ROUNDS:
        spent, rounds = spent + sum(timer.measure() for timer in alive), rounds + 1
        best = min(timer.seconds for timer in alive)
        limit = HOPELESS[min(rounds, len(HOPELESS)) - 1] * best
        alive = [timer for timer in alive if timer.seconds < limit]
        if len(alive) == 1:
            return
        least = enough(best)
