"""Jobs shared out to lanes: threads that compute each on a core of its own, without a word between.

PyTorch releases Python's lock inside operations, so that long ones run side by side.  What a job
returns does not depend on the lanes, as long as there are jobs for all cores.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

T = TypeVar("T")
R = TypeVar("R")


def shared_out(some: Sequence[T], most: int | None = None) -> list[Sequence[T]]:
    """Cut something into a part for each core, or more that have so many at most.

    >>> shared_out("abc", 1)
    ['a', 'b', 'c']
    """
    size = -(-len(some) // torch.get_num_threads())
    size = size if most is None else min(size, most)
    return [some[start : start + size] for start in range(0, len(some), max(size, 1))]


def in_lanes(work: Callable[[T], R], jobs: Sequence[T]) -> Iterator[R]:
    """Yield what becomes of each job, in their order; few of them wait for those before.

    There are as many lanes as PyTorch has threads, but no more than jobs.  Where these are fewer,
    the others are threads inside their operations.

    >>> list(in_lanes(len, ["one", "three"]))
    [3, 5]
    """
    cores = torch.get_num_threads()
    lanes = min(cores, len(jobs))
    if lanes < 2:
        yield from map(work, jobs)
        return
    inside = (cores // lanes,)
    ahead: deque[Future[R]] = deque()
    try:
        with ThreadPoolExecutor(lanes, "lane", torch.set_num_threads, inside) as pool:
            try:
                for job in jobs:
                    ahead.append(pool.submit(work, job))
                    if len(ahead) == 2 * lanes:
                        yield ahead.popleft().result()
                while ahead:
                    yield ahead.popleft().result()
            finally:
                for future in ahead:
                    future.cancel()
    finally:
        torch.set_num_threads(cores)  # threads that begin later have as many as the last was set to
