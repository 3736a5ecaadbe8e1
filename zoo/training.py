"""Train what a config asks for and is not there yet, into the registry.

``Plan -> runs -> stacks of runs that share a shape -> published checkpoints``
"""

import gc
import signal
import time
from collections.abc import Callable, Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib.metadata import version
from itertools import groupby
from typing import Literal

import torch

from zoo.checks import shape_key
from zoo.choice import Choice, described
from zoo.data import Data
from zoo.engines import EngineName
from zoo.errors import (
    IntegrityError,
    InterruptedRunsError,
    LostClaimError,
    MismatchError,
    UnsafeFileError,
)
from zoo.fit import Fit, most_at_once
from zoo.interrupting import Stop
from zoo.journal import Journal
from zoo.memory import is_exhausted
from zoo.planning import Plan
from zoo.registry import NewRun, Registry, Run
from zoo.registry.records import DONE, SavedState, differences, label
from zoo.reports import Member, Pass
from zoo.sections import Task
from zoo.settings import flatten
from zoo.setup import default_device

UNDONE = ("queued", "running", "interrupted")
POLL_S = 1.0  # between two looks at what others work on
# What a saved state is damaged by, does not fit, or is too large for.
LOST = (IntegrityError, UnsafeFileError, MismatchError, LostClaimError, RuntimeError, MemoryError)


@dataclass(frozen=True)
class Begun:
    """Training begins: all runs asked for, and those of them that are still to be trained."""

    plan: Plan
    runs: list[Run]
    pending: list[Run]


@dataclass(frozen=True)
class Noted:
    """Something worth a line: the engine of the next stacks, a resumption, too little memory."""

    text: str


@dataclass(frozen=True)
class Teaching:
    """Models are trained that no plan asked for: what they are, and the most epochs of each."""

    title: str
    task: Task
    limits: Mapping[str, int]


Event = Begun | Noted | Teaching | Pass
Watch = Callable[[Event], None]


class _Stopped(Exception):  # noqa: N818  # not an error: the user asked for it
    """The user asked to stop, and everything is written."""


def train_many(
    plan: Plan,
    registry: Registry,
    *,
    engine: EngineName | Literal["auto"] = "auto",
    width: int | None = None,
    watch: Watch = lambda event: None,
) -> list[Run]:
    """Train the planned runs that are not finished yet; publish each as soon as it ends.

    What was interrupted, in whatever way, goes on from where its state was last saved; on a CPU it
    comes out the same to the last bit.  Runs that another process trains are waited for, and taken
    over where it dies.

    Args:
        plan: from :func:`zoo.planning.plan`.
        registry: where runs, histories and weights go.
        engine: ``auto`` measures both and takes the faster.
        width: the most members to train at once; by default as many as pay and fit into memory.
        watch: is told what happens.

    Returns:
        All planned runs as they are now, in the plan's order.

    Raises:
        MismatchError: where the zoo's name is taken by runs on other data, or where runs of that
            name were interrupted whose settings are not asked for now.
        InterruptedRunsError: at Ctrl-C or SIGTERM, once everything is safe.
    """
    known = registry.named(plan.title)
    _refuse_other_data(plan, known)
    _refuse_other_settings(plan, known)
    runs = registry.add(_distinguish(plan.requests, known))
    pending = [run for run in runs if run.status not in DONE]
    watch(Begun(plan, runs, pending))
    trainer = _Trainer(plan, registry, engine, width, watch)
    try:
        with Stop(
            "stopping after this epoch; once more stops at once and loses it"
        ) as trainer.stop:
            left = {run.id for run in pending}
            while left:
                mine = registry.claim(left)
                if mine:
                    trainer.train_all(_now(runs, registry), mine)
                left = trainer.wait(runs, left - mine)
    except (_Stopped, KeyboardInterrupt):
        now = _now(runs, registry)
        left_runs = [run for run in now if run.status not in DONE]
        for run in left_runs:
            if run.status == "running" and run.id in trainer.mine:
                with suppress(LostClaimError):
                    registry.finish(run.id, "interrupted")
        error = InterruptedRunsError(
            f"interrupted: {len(runs) - len(left_runs)} of {len(runs)} runs are finished and safe "
            "in the registry; the same command again goes on with the others"
        )
        error.exit_code = 128 + (trainer.stop.signal or signal.SIGINT)
        raise error from None
    return _now(runs, registry)


@dataclass
class _Trainer:
    """Trains groups of members one after another."""

    plan: Plan
    registry: Registry
    engine: EngineName | Literal["auto"]
    width: int | None
    watch: Watch

    def __post_init__(self) -> None:
        self.ended: set[str] = set()
        self.mine: set[str] = set()
        self.choices: dict[tuple[str, int, int | None], Choice] = {}
        self.stop = Stop("")

    def train_all(self, asked: Sequence[Run], mine: Set[str]) -> None:
        """Train those of the plan's runs that are claimed, first those whose state was saved."""
        self.mine |= mine
        members = {run.id: self.plan.member(run) for run in asked if run.id in mine}
        for saved in self.registry.saved_states(members):
            mates = [run for run in asked if run.status in DONE or run.id in saved.run_ids]
            self.resume(saved, {run.id: self.plan.member(run) for run in mates})
        left = [member for key, member in members.items() if key not in self.ended]
        left.sort(key=_shape)
        for _, group in groupby(left, key=_shape):
            self.train(list(group))

    def wait(self, asked: Sequence[Run], others: Set[str]) -> set[str]:
        """Wait while other processes work on runs; return those that can be gone on with, if any.

        What failed there has been tried, and is left.
        """
        told: set[str] = set()
        while others:
            held = self.registry.holders(others)
            now = [run for run in _now(asked, self.registry) if run.id in others]
            others = {run.id for run in now if run.id in held or run.status in UNDONE}
            names = {holder.name for holder in held.values()}
            if others - held.keys() or any(holder.is_gone for holder in held.values()):
                break
            if names - told:
                text = f"waiting for {len(held)} runs that {', '.join(sorted(names))} works on"
                self.watch(Noted(text))
                told |= names
            time.sleep(POLL_S)
            if self.stop.signal is not None:
                raise _Stopped
        return set(others)

    def resume(self, saved: SavedState, members: Mapping[str, Member]) -> None:
        """Go on with runs from their saved state; where that fails they are left to start anew.

        Members of the stack that ended after it was saved train along once more, unrecorded: the
        others then come out the same to the last bit, which may depend on the size of the stack.

        Args:
            saved: where the state is.
            members: those whose state it is, and all that ended before.

        Raises:
            ZooError: where a place cannot be read now: the state is still there.
        """
        ours = set(saved.run_ids)
        try:
            tensors, note = self.registry.load_state(saved)
            data = self.plan.data_of(members[saved.run_ids[0]])
            fit = Fit.resume(members, data, tensors, note)
            begun = [slot.member.key for slot in fit.slots if slot and slot.epoch]
            begun = [key for key in begun if key in ours]
            self.registry.start(begun, anew=False)
            histories = {key: self.registry.history(key) for key in begun}
        except LOST as error:
            self._anew(ours, error)
            return
        how = described(fit.choice, fit.setup.device)
        if note["torch"] != version("torch"):
            how += (
                f"; the state is of PyTorch {note['torch']} and this is {version('torch')}: "
                "figures may differ in the last digits"
            )
        self.watch(Noted(f"{len(ours)} interrupted runs go on where they were: {how}"))
        journal = Journal(self.registry, data, self._say, histories, set(members) - ours)
        try:
            self._follow(fit, journal)
        except (RuntimeError, MemoryError) as error:
            self._anew(ours, error)

    def _anew(self, runs: Set[str], error: Exception) -> None:
        """Say that those of the runs that have not ended start anew, and why."""
        left = len(runs - self.ended)
        self.watch(Noted(f"{left} interrupted runs start anew: {_first_line(error)}"))

    def train(self, members: Sequence[Member]) -> None:
        """Train members that share a shape; where memory ends, with fewer at once."""
        left, width = list(members), self.width
        data = self.plan.data_of(left[0])
        while left:
            journal = Journal(self.registry, data, self._say)
            count = self._try(left, data, width, journal)
            left = [member for member in left if member.key not in journal.ended]
            if left:
                width = count // 2
                note = f"out of memory with {count} members at once: now {width} at once"
                self.watch(Noted(note))
                gc.collect()  # before the next stack is built
                torch.cuda.empty_cache()

    def _try(
        self, members: Sequence[Member], data: Data, width: int | None, journal: Journal
    ) -> int:
        """Train members until all have ended or memory has; return how many were tried at once.

        Nothing of the attempt is left in memory then, an error's traceback neither.
        """
        count = min(width or most_at_once(default_device()), len(members))
        # Folds differ in their rows alone: what was fastest for one is for all.
        size = (str(shape_key(members[0].config, of_fold=False)), len(members), width)
        known = self.choices.get(size)
        try:
            fit = Fit(members, data, engine=self.engine, width=width, choice=known)
            count = len(fit.slots)
            if known is None:
                self.choices[size] = fit.choice
                self.watch(Noted(fit.choice.reason))
            journal.save(fit, now=True)
            self._follow(fit, journal)
        except (RuntimeError, MemoryError) as error:
            exhausted = is_exhausted(error)
            if not exhausted or count == 1:
                hint = "; try a smaller train.batch_size" if exhausted else ""
                keys = [member.key for member in members]
                journal.fail(keys, _first_line(error) + hint)
                journal.flush(last=True)
        return count

    def _follow(self, fit: Fit, journal: Journal) -> None:
        """Train, and write down what happens."""
        try:
            for happened in (passed.without(journal.ended) for passed in fit):
                journal.keep(happened)
                self.watch(happened)
                if self.stop.signal is not None:
                    journal.save(fit, now=True)
                    raise _Stopped
                journal.save(fit)
        finally:
            journal.flush(last=True)
            self.ended |= journal.ended

    def _say(self, text: str) -> None:
        self.watch(Noted(text))


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), repr(error))


def _shape(member: Member) -> str:
    return str(shape_key(member.config))


def _refuse_other_data(plan: Plan, known: Sequence[Run]) -> None:
    asked = plan.requests[0]
    for run in known:
        apart = differences(run, asked)
        if apart:
            told = "; ".join(f"other {what}: {theirs}, now {ours}" for what, theirs, ours in apart)
            raise MismatchError(
                f"the runs of one name must share their data, however {plan.title!r} was "
                f"trained on {told}; choose another --name"
            )


def _refuse_other_settings(plan: Plan, known: Sequence[Run]) -> None:
    """Refuse to train others beside interrupted runs: most likely these were meant to go on."""
    done = {(run.config_hash, run.seed) for run in known if run.status in DONE}
    if done.issuperset((request.config_hash, request.seed) for request in plan.requests):
        return
    asked = {request.config_hash for request in plan.requests}
    begun = ("interrupted", "running")  # as a killed process leaves them
    left = [run for run in known if run.status in begun and run.config_hash not in asked]
    if left:
        theirs, ours = flatten(left[0].config), flatten(plan.requests[0].config)
        changes = [
            f"{key} was {theirs.get(key)!r} and is now {ours.get(key)!r}"
            for key in {**theirs, **ours}
            if theirs.get(key) != ours.get(key) and key != "data.fold"
        ]
        raise MismatchError(
            f"{len(left)} runs of {plan.title!r} were interrupted, or are still training, and go "
            f"on only with the settings they began with, however {'; '.join(changes)}; ask for "
            "those again, or choose another --name for the new ones"
        )


def _distinguish(requests: Sequence[NewRun], known: Sequence[Run]) -> list[NewRun]:
    """Name in a run's label what sets it apart from an earlier run that has the same label."""
    earlier: dict[str, Run] = {}
    for run in known:
        earlier.setdefault(run.label, run)
    told = []
    for request in requests:
        other = earlier.get(label(request.name, request.varied, request.seed))
        if other is not None and other.config_hash != request.config_hash:
            theirs, ours = flatten(other.config), flatten(request.config)
            apart = {key: value for key, value in ours.items() if theirs.get(key) != value}
            request = replace(request, varied={**apart, **request.varied})
        told.append(request)
    return told


def _now(runs: Sequence[Run], registry: Registry) -> list[Run]:
    """Return the same runs as the registry knows them now."""
    now = registry.by_id(run.id for run in runs)
    return [now[run.id] for run in runs]
