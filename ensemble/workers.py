"""Threads that make a file piece by piece, each with memory of its own."""

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from typing import TypeVar

import numpy as np

from ensemble.elementwise import Space

MOST = 8  # workers: more would not read any faster
MOST_HELD = 1 << 30  # bytes of whole tensors that all workers hold, where one alone takes less
FLUSH_S = 0.02  # between two flushes to the disk

Job = TypeVar("Job")


def worker_count() -> int:
    """Return how many workers there are."""
    return min(MOST, os.cpu_count() or 1)


def run(jobs: Iterator[Job], do: Callable[[Job, Space], None]) -> None:
    """Do all jobs by a few workers; the first failure, or an interruption, ends all of them."""
    lock, stop = threading.Lock(), threading.Event()

    def work() -> None:
        space = Space()
        with np.errstate(all="ignore"):  # what is not finite is found, and told with its place
            while not stop.is_set():
                with lock:
                    job = next(jobs, None)
                if job is None:
                    return
                do(job, space)

    with ThreadPoolExecutor(worker_count()) as pool:
        try:
            for done in as_completed([pool.submit(work) for _ in range(worker_count())]):
                done.result()
        finally:
            stop.set()


class Room:
    """Lets workers hold tensors of so many bytes at once, or one of any size."""

    def __init__(self) -> None:
        self.held = 0
        self.changed = threading.Condition()

    @contextmanager
    def taken(self, size: int) -> Iterator[None]:
        """Wait for room."""
        with self.changed:
            self.changed.wait_for(lambda: not self.held or self.held + size <= MOST_HELD)
            self.held += size
        try:
            yield
        finally:
            with self.changed:
                self.held -= size
                self.changed.notify_all()


@contextmanager
def flushed(descriptor: int) -> Iterator[None]:
    """Let the disk take what was written so far meanwhile, so that little is left for the end."""
    stop = threading.Event()

    def flush() -> None:
        while not stop.wait(FLUSH_S):
            os.fsync(descriptor)

    with ThreadPoolExecutor(1) as pool:
        flushing = pool.submit(flush)
        try:
            yield
        finally:
            stop.set()
    flushing.result()  # a failure of the disk is told to one flush alone
