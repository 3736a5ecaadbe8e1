"""Where workers are: processes of this machine; and what is common to all places.

An executor starts workers, watches them, and passes on what they say.  Who trains what is none of
its business: workers claim runs of the registry (:mod:`zoo.working`).
"""

import os
import pickle
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import get_all_start_methods, get_context
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread
from typing import Any, Protocol

import torch

from zoo import usercode
from zoo.errors import WorkersLostError, ZooError
from zoo.interrupting import Stop
from zoo.registry import Registry
from zoo.registry.records import UNDONE
from zoo.reports import Pass
from zoo.training import Surveyed, Watch
from zoo.working import Job, Noted, Stopped, Worker

WATCH_S = 0.5  # between two looks at the workers
LOSSES = 3  # of each worker, on average, before the training gives up


@dataclass(frozen=True)
class Ending:
    """How a worker ended.

    Attributes:
        fault: what was wrong; empty where no run was left for it.
        is_lost: whether it died on the way, so that another one may get further.
    """

    fault: str = ""
    is_lost: bool = False


class Hand(Protocol):
    """A worker, as its executor sees it."""

    def news(self) -> list[str]:
        """Return what it has said since it was asked last."""

    def ending(self) -> Ending | None:
        """Say how it ended; None while it works."""

    def stop(self) -> None:
        """Ask it to end its epoch and to save its state."""

    def kill(self) -> None:
        """End it at once, if it still works."""


def oversee(
    start: Callable[[int], Hand],
    workers: int,
    job: Job,
    registry: Registry,
    watch: Watch,
    stop: Stop,
) -> None:
    """Start workers and watch them until all have ended; replace those that die.

    Args:
        start: starts the worker of that number.
        workers: how many.
        job: what they work on.
        registry: where they do.
        watch: is told what they say, and how far the runs are.
        stop: whether the user wants to stop.

    Raises:
        Stopped: where the user asked for it, once all have written what they had.
        WorkersLostError: where runs are left that no worker can train.
    """
    hands = {number: start(number) for number in range(workers)}
    faults: list[str] = []
    losses, stopping = 0, False
    try:
        while hands:
            time.sleep(WATCH_S)
            for number, hand in list(hands.items()):
                end = hand.ending()  # first: it says nothing afterwards
                for text in hand.news():
                    watch(Noted(f"worker {number + 1}: {text}"))
                if end is None:
                    continue
                del hands[number]
                if end.fault:
                    faults.append(f"worker {number + 1} {end.fault}")
                    watch(Noted(faults[-1]))
                losses += end.is_lost
                if end.is_lost and not stopping and losses <= LOSSES * workers:
                    hands[number] = start(number)
            runs = [run for run in registry.standings(job.plan.title) if run.id in job.pending]
            watch(Surveyed(runs, len(hands)))
            if stop.signal is not None and not stopping:
                stopping = True
                for hand in hands.values():
                    hand.stop()
    finally:
        for hand in hands.values():
            hand.kill()
    if stopping:
        raise Stopped
    left = sum(run.status in UNDONE for run in runs)
    if left:
        raise WorkersLostError(
            f"{left} of {len(job.runs)} runs are not finished: "
            f"{faults[0] if faults else 'others have begun them anew'}; the same command goes "
            "on with them, with fewer --workers or a smaller --width where memory was short"
        )


@dataclass
class Processes:
    """Workers in processes of this machine; they share its cores, and its GPUs if it has any.

    One that dies is replaced; its runs go on from their last state.

    Attributes:
        workers: how many.
    """

    workers: int

    def __call__(self, job: Job, registry: Registry, watch: Watch, stop: Stop) -> None:
        """Train there."""
        with TemporaryDirectory(prefix="zoo-") as folder:
            parcel = Path(folder) / "job"
            parcel.write_bytes(packed(job))
            places = registry.url, registry.blobs.place
            cores = max(torch.get_num_threads() // self.workers, 1)
            gpus = _gpus()

            def start(number: int) -> Hand:
                gpu = gpus[number % len(gpus)] if gpus else None
                return _Process(parcel, places, cores, gpu)

            oversee(start, self.workers, job, registry, watch, stop)


class _Process:
    """A worker in a process of its own; between them is a pipe, at whose end the worker stops."""

    def __init__(self, parcel: Path, places: tuple[str, str], cores: int, gpu: str | None) -> None:
        context = _context()
        self.line, theirs = context.Pipe()
        self.told: list[str] = []
        self.fault = ""
        arguments = (parcel, places, cores, gpu, theirs, dict(os.environ))
        self.process: BaseProcess = context.Process(target=_serve, args=arguments, daemon=True)
        self.process.start()
        theirs.close()

    def news(self) -> list[str]:
        with suppress(EOFError, OSError):
            while self.line.poll():
                text, is_fault = self.line.recv()
                if is_fault:
                    self.fault = text
                else:
                    self.told.append(text)
        told, self.told = self.told, []
        return told

    def ending(self) -> Ending | None:
        code = self.process.exitcode
        if code is None:
            return None
        self.told = self.news()
        if code:
            how = f"exit code {code}" if code > 0 else signal.Signals(-code).name
            return Ending(f"died ({how})", is_lost=True)
        return Ending(self.fault)

    def stop(self) -> None:
        with suppress(OSError):
            self.line.send("stop")

    def kill(self) -> None:
        self.process.kill()
        self.process.join()


def packed(job: Job) -> bytes:
    """Write a job, and what code is trusted here, for :func:`serve` in another process."""
    return pickle.dumps((job, usercode.trusted()))


def serve(
    parcel: bytes, cores: int, places: tuple[str, str], say: Callable[[str], None], stop: Stop
) -> str:
    """Do a worker's work, in a process of its own, wherever that is; return what was wrong, if any.

    Args:
        parcel: the job, from :func:`packed`.
        cores: how many to use.
        places: of the registry, and of its weights.
        say: passes a line on.
        stop: whether to stop.
    """
    torch.set_num_threads(cores)
    job, trusted = pickle.loads(parcel)
    usercode.trust(*trusted)

    def watch(event: Noted | Pass) -> None:
        if isinstance(event, Noted):
            say(event.text)

    try:
        with Registry(*places, create=False) as registry:
            Worker(job, registry, watch, stop).work()
    except Stopped:
        pass
    except ZooError as error:
        return str(error)
    return ""


def _context() -> Any:
    """Say how processes begin: as forks of one that has imported this module and done nothing else.

    So all share what is imported, and each begins at once.  Where that cannot be, each imports it.
    """
    methods = get_all_start_methods()
    context = get_context("forkserver" if "forkserver" in methods else "spawn")
    context.set_forkserver_preload([__name__])
    return context


def _serve(
    parcel: Path,
    places: tuple[str, str],
    cores: int,
    gpu: str | None,
    line: Connection,
    environment: dict[str, str],
) -> None:
    """Work in a process of one's own, until no run is left or the parent says stop, or dies."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all, but the parent tells us
    os.environ.update(environment)  # as it is now, and not when the first process was forked
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    with Stop("", (signal.SIGTERM,)) as stop:
        Thread(target=_obey, args=(line, stop), daemon=True).start()
        fault = serve(
            parcel.read_bytes(), cores, places, lambda text: _tell(line, text, False), stop
        )
    _tell(line, fault, True)


def _obey(line: Connection, stop: Stop) -> None:
    """Wait for the parent's word or its end; then stop as SIGTERM does, which may have come too."""
    with suppress(EOFError, OSError):
        line.recv()
    if stop.signal is None:
        os.kill(os.getpid(), signal.SIGTERM)


def _tell(line: Connection, text: str, is_fault: bool) -> None:
    with suppress(OSError):  # the parent is dead
        line.send((text, is_fault))


def _gpus() -> list[str]:
    """Name the GPUs of this machine that may be used."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    count = torch.cuda.device_count()
    return named.split(",")[:count] if named else list(map(str, range(count)))
