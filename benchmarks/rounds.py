"""Contenders in turns, so that a stall of the machine hurts none of them alone."""

import time
from collections.abc import Callable, Mapping
from typing import TypeVar

T = TypeVar("T")


def in_turns(
    contenders: Mapping[str, Callable[[], T]], rounds: int
) -> tuple[dict[str, float], dict[str, T]]:
    """Run every contender once in every round; return the least seconds of each, and its answer."""
    seconds = dict.fromkeys(contenders, float("inf"))
    answers = {}
    for _ in range(rounds):
        for name, contender in contenders.items():
            start = time.perf_counter()
            answers[name] = contender()
            seconds[name] = min(seconds[name], time.perf_counter() - start)
    return seconds, answers
