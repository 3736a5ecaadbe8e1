"""One process's share of a training: it claims runs, trains them in stacks, and publishes them.

The claims of the registry are the queue.  A worker takes a portion of the runs that share a shape,
and the next ones as slots of its stack become free; so processes share the work, on whatever
machines, and nobody tells them what to do.  What a dead one leaves is taken over, stack by stack,
by whoever is free first.  A process that is alone takes all at once.
"""

import gc
import random
import socket
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from typing import Literal

import torch

from zoo.checks import shape_key
from zoo.choice import Choice, described
from zoo.data import Data
from zoo.engines import EngineName
from zoo.errors import (
    IntegrityError,
    LostClaimError,
    MismatchError,
    UnsafeFileError,
    first_line,
)
from zoo.fit import Fit, most_at_once
from zoo.interrupting import Stop
from zoo.journal import Journal
from zoo.memory import is_exhausted
from zoo.planning import Plan
from zoo.registry import Registry, Run
from zoo.registry.records import DONE, SavedState, changed
from zoo.registry.standing import Standing
from zoo.reports import Member, Pass
from zoo.setup import default_device
from zoo.supply import Supply

POLL_S = 1.0  # between two looks at what others work on
STALE_S = 2.0  # how long a look at what is free holds
TURN_S = 0.2  # after a portion, how long others may take theirs
AHEAD_S = 1.0  # of work, that is claimed ahead at most
# What a saved state is damaged by, does not fit, or is too large for.
LOST = (IntegrityError, UnsafeFileError, MismatchError, LostClaimError, RuntimeError, MemoryError)


@dataclass(frozen=True)
class Job:
    """What the workers of a training are told.

    Attributes:
        plan: all that was asked for.
        runs: it, as runs of the registry, by their identifiers.
        pending: those to be trained, and how many times each had been claimed so far.
        engine: how to compute; ``auto`` measures.
        width: the most members a worker trains at once; by default as many as pay and fit.
        share: how many workers there are.
    """

    plan: Plan
    runs: Mapping[str, Run]
    pending: Mapping[str, int]
    engine: EngineName | Literal["auto"] = "auto"
    width: int | None = None
    share: int = 1


@dataclass(frozen=True)
class Noted:
    """Something worth a line: the engine of the next stacks, a resumption, too little memory."""

    text: str


class Stopped(Exception):  # noqa: N818  # not an error: the user asked for it
    """The user asked to stop, and everything is written."""


class Worker:
    """Trains runs of a job until none is left to be trained, here or elsewhere."""

    def __init__(
        self, job: Job, registry: Registry, watch: Callable[[Noted | Pass], None], stop: Stop
    ) -> None:
        self.job, self.registry, self.watch, self.stop = job, registry, watch, stop
        self.members = {key: job.plan.member(job.runs[key]) for key in job.pending}
        self.shapes = {key: str(shape_key(m.config)) for key, m in self.members.items()}
        self.mine: set[str] = set()  # all that were ever claimed here
        self.ended: set[str] = set()  # of these, with whom others have taken over
        self.tried: set[str] = set()  # states that could not be gone on from, by their SHA-256
        self.told: set[str] = set()
        self.choices: dict[tuple[str, int, int | None], Choice] = {}
        self.fresh: list[str] = []  # what is nobody's and has not begun, when we looked
        self.looked = self.asked = self.turn = 0.0
        self.portion = self.first = 0

    def work(self) -> None:
        """Train what is free; wait while others work on the rest, and take over where one dies.

        What failed has been tried, and is left.

        Raises:
            Stopped: where the user asked for it; the states of all stacks are saved.
        """
        try:
            while True:
                free, others = self._look()
                if self.job.share == 1:
                    self._claim([run.id for run in free if not run.is_ours])
                saved = [run.id for run in free if run.is_saved]
                states = self.registry.saved_states(saved) if saved else []
                states = [state for state in states if state.sha256 not in self.tried]
                if states:
                    self._take_over(states[0], {run.id for run in free if run.is_ours})
                elif free:
                    self._train_some({run.id for run in free}, len(free) + len(others))
                elif others:
                    self._wait(others)
                else:
                    return
        except (Stopped, KeyboardInterrupt):
            for run in self.registry.by_id(self.mine).values():
                if run.status == "running":
                    with suppress(LostClaimError):
                        self.registry.finish(run.id, "interrupted")
            raise

    def _look(self) -> tuple[list[Standing], list[Standing]]:
        """Return the runs of the job that may be claimed, and those that others work on."""
        undone = [
            run
            for run in self.registry.standings(self.job.plan.title, undone=True)
            if run.id in self.members
            and (run.status != "failed" or run.holder or run.attempts == self.job.pending[run.id])
        ]
        free = [run for run in undone if run.is_free]
        self.fresh = [run.id for run in free if not (run.is_ours or run.is_saved)]
        random.Random().shuffle(self.fresh)  # others choose too, and had better choose others
        self.looked = time.monotonic()
        return free, [run for run in undone if not run.is_free]

    def _claim(self, keys: Sequence[str]) -> set[str]:
        got = self.registry.claim(keys) if keys else set()
        self.mine |= got
        self.ended -= got
        return got

    def _wait(self, others: Sequence[Standing]) -> None:
        """Let others work for a while."""
        names = {run.holder or "" for run in others}
        if names - self.told and self.job.share == 1:
            runs = "1 run" if len(others) == 1 else f"{len(others)} runs"
            self._say(f"waiting for {runs} that {', '.join(sorted(names))} works on")
            self.told |= names
        time.sleep(POLL_S)
        if self.stop.signal is not None:
            raise Stopped

    def _more(self, shape: str, count: int) -> list[Member]:
        """Claim members of that shape for free slots: at least so many, if that is our share.

        Runs that end quickly are claimed ahead, for a second; the last ones are shared out.
        """
        start = time.monotonic()
        if self.job.share == 1 or start < self.turn:
            return []
        pace = int(self.portion * AHEAD_S / max(start - self.asked, 1e-3))
        wanted = max(count, min(pace, most_at_once(default_device())))
        found: list[str] = []
        while len(found) < count:
            if start > self.looked + STALE_S:
                self._look()
            fresh = [key for key in self.fresh if self.shapes[key] == shape]
            some = fresh[: min(wanted - len(found), self.first or -(-len(fresh) // self.job.share))]
            got = self._claim(some)
            self.fresh = [key for key in self.fresh if key not in got]
            found += [key for key in some if key in got]
            if len(got) == len(some):
                break
            self.looked = 0.0  # others were quicker
        self.portion, self.first, self.asked = 0 if self.first else len(found), 0, start
        if len(found) < count:
            self.turn = time.monotonic() + TURN_S
        return [self.members[key] for key in found]

    def _take_over(self, saved: SavedState, ours: set[str]) -> None:
        """Go on with runs from their saved state; where that fails they are left to start anew.

        Members of the stack that ended after it was saved train along once more, unrecorded: the
        others then come out the same to the last bit, which may depend on the size of the stack.

        Raises:
            ZooError: where a place cannot be read now: the state is still there.
        """
        claimed = ours.intersection(saved.run_ids)
        claimed |= self._claim([key for key in saved.run_ids if key not in claimed])
        if not claimed:
            return
        key = next(iter(claimed))
        try:
            tensors, note = self.registry.load_state(saved)
            data = self._data_of(self.members[key])
            known = {*note["waiting"], *(slot["key"] for slot in note["slots"] if slot)}
            now = self.registry.by_id(known.intersection(self.job.runs)).values()
            mates = [run for run in now if run.status in DONE or run.id in claimed]
            members = {run.id: self.job.plan.member(run) for run in mates}
            more = partial(self._more, self.shapes[key])
            fit = Fit.resume(members, data, tensors, note, more)
            begun = [slot.member.key for slot in fit.slots if slot and slot.epoch]
            begun = [key for key in begun if key in claimed]
            self.registry.start(begun, anew=False)
            histories = {key: self.registry.history(key) for key in begun}
        except LOST as error:
            self._anew(saved, claimed, error)
            return
        how = described(fit.choice, fit.setup.device)
        if note["torch"] != version("torch"):
            how += (
                f"; the state is of PyTorch {note['torch']} and this is {version('torch')}: "
                "figures may differ in the last digits"
            )
        self._say(f"{len(claimed)} interrupted runs go on where they were: {how}")
        journal = Journal(self.registry, data, self._say, histories, set(members) - claimed)
        try:
            self._follow(fit, journal)
        except (RuntimeError, MemoryError) as error:
            self._anew(saved, claimed, error)

    def _anew(self, saved: SavedState, runs: Set[str], error: Exception) -> None:
        """Say that those of the runs that have not ended start anew, and why."""
        self.tried.add(saved.sha256)
        left = len(runs - self.ended)
        self._say(f"{left} interrupted runs start anew: {first_line(error)}")

    def _train_some(self, free: set[str], undone: int) -> None:
        """Train our share of the shape that most of the free runs have.

        Where memory ends, with fewer at once.
        """
        groups = defaultdict(list)
        for key, member in self.members.items():
            if key in free:
                groups[self.shapes[key]].append(member)
        shape, group = min(groups.items(), key=lambda item: (-len(item[1]), item[0]))
        group.sort(key=lambda member: member.key not in self.mine)
        group = group[: -(-undone // self.job.share)]
        data, width = self._data_of(group[0]), self.job.width
        while True:
            self.first = len(group)
            journal = Journal(self.registry, data, self._say)
            count = self._try(shape, group, data, width, journal)
            if not count:
                return
            width = count // 2
            self._say(f"out of memory with {count} members at once: now {width} at once")
            gc.collect()  # before the next stack is built
            torch.cuda.empty_cache()

    def _try(
        self,
        shape: str,
        members: Sequence[Member],
        data: Data,
        width: int | None,
        journal: Journal,
    ) -> int:
        """Train members; where memory ends, return how many were tried at once, otherwise 0.

        Nothing of the attempt is left in memory then, an error's traceback neither.
        """
        count = min(width or most_at_once(default_device()), len(members))
        # Folds differ in their rows alone: what was fastest for one is for all.
        size = (str(shape_key(members[0].config, of_fold=False)), count, width)
        known = self.choices.get(size)
        supply = Supply(self._held(shape), partial(self._more, shape))
        try:
            fit = Fit(
                members, data, engine=self.job.engine, width=width, choice=known, supply=supply
            )
            count = len(fit.slots)
            if known is None:
                self.choices[size] = fit.choice
                self._say(fit.choice.reason)
            journal.save(fit, now=True)
            self._follow(fit, journal)
        except (RuntimeError, MemoryError) as error:
            exhausted = is_exhausted(error)
            if exhausted and count > 1:
                return count
            hint = "; try a smaller train.batch_size" if exhausted else ""
            held = self._held(shape) or self._more(shape, len(members))
            journal.fail([member.key for member in held], first_line(error) + hint)
            journal.flush(last=True)
            self.ended |= journal.ended
        return 0

    def _follow(self, fit: Fit, journal: Journal) -> None:
        """Train, and write down what happens."""
        try:
            for happened in (passed.without(journal.ended) for passed in fit):
                journal.keep(happened)
                self.watch(happened)
                if self.stop.signal is not None:
                    journal.save(fit, now=True)
                    raise Stopped
                journal.save(fit)
        finally:
            journal.flush(last=True)
            self.ended |= journal.ended

    def _held(self, shape: str) -> list[Member]:
        """Return the members of that shape that are ours and have not ended, in their order."""
        return [
            member
            for key, member in self.members.items()
            if key in self.mine and key not in self.ended and self.shapes[key] == shape
        ]

    def _data_of(self, member: Member) -> Data:
        """Return what a member learns from.

        Raises:
            MismatchError: where it is not what the run was planned for, as on another machine.
        """
        data = self.job.plan.data_of(member)
        for what, then, now in changed(data, self.job.runs[member.key]):
            raise MismatchError(
                f"workers must learn from the same data, however the {what} of {data.ref} is {now} "
                f"on {socket.gethostname()} and was {then} where they were planned"
            )
        return data

    def _say(self, text: str) -> None:
        self.watch(Noted(text))
