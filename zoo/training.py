"""Train what a config asks for and is not there yet, into the registry.

``Plan -> runs -> workers that claim them -> stacks that share a shape -> published checkpoints``
"""

import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

from zoo.engines import EngineName
from zoo.errors import InterruptedRunsError, MismatchError
from zoo.interrupting import Stop
from zoo.planning import Plan
from zoo.registry import NewRun, Registry, Run
from zoo.registry.records import DONE, differences, label
from zoo.registry.standing import Standing
from zoo.reports import Pass
from zoo.sections import Task
from zoo.settings import flatten
from zoo.working import Job, Noted, Stopped, Worker


@dataclass(frozen=True)
class Begun:
    """Training begins: all runs asked for, and those of them that are still to be trained."""

    plan: Plan
    runs: list[Run]
    pending: list[Run]


@dataclass(frozen=True)
class Surveyed:
    """How far the runs are that several workers train, and how many workers there are now."""

    standings: list[Standing]
    workers: int


@dataclass(frozen=True)
class Teaching:
    """Models are trained that no plan asked for: what they are, and the most epochs of each."""

    title: str
    task: Task
    limits: Mapping[str, int]


Event = Begun | Noted | Teaching | Pass | Surveyed
Watch = Callable[[Event], None]


class Executor(Protocol):
    """Where the workers of a job are; they claim its runs of the registry.

    Attributes:
        workers: how many there will be.
    """

    workers: int

    def __call__(self, job: Job, registry: Registry, watch: Watch, stop: Stop) -> None:
        """Let workers train the job until no run is left.

        Raises:
            Stopped: where the user asked for it, once everything is written.
            ZooError: where runs are left that no worker can train.
        """


class InProcess:
    """One worker: this process."""

    workers = 1

    def __call__(self, job: Job, registry: Registry, watch: Watch, stop: Stop) -> None:
        """Train here."""
        Worker(job, registry, watch, stop).work()


def train_many(
    plan: Plan,
    registry: Registry,
    *,
    engine: EngineName | Literal["auto"] = "auto",
    width: int | None = None,
    share: int = 1,
    executor: Executor | None = None,
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
        share: how many such calls, in other processes or on other machines, train this plan
            together; each claims its part.
        executor: where workers are, such as :class:`zoo.executors.Processes`; by default this
            process is the one.
        watch: is told what happens.

    Returns:
        All planned runs as they are now, in the plan's order.

    Raises:
        MismatchError: where the zoo's name is taken by runs on other data, or where runs of that
            name were interrupted whose settings are not asked for now.
        InterruptedRunsError: at Ctrl-C or SIGTERM, once everything is safe.
        WorkersLostError: where too many workers died; what they saved is there.
    """
    executor = executor or InProcess()
    known = registry.named(plan.title)
    _refuse_other_data(plan, known)
    _refuse_other_settings(plan, known)
    runs = registry.add(_distinguish(plan.requests, known))
    pending = [run for run in runs if run.status not in DONE]
    watch(Begun(plan, runs, pending))
    claims = {run.id: run.attempts for run in registry.standings(plan.title, undone=True)}
    attempts = {run.id: claims[run.id] for run in pending if run.id in claims}
    everything = {run.id: run for run in runs}
    job = Job(plan, everything, attempts, engine, width, share * executor.workers)
    with Stop("stopping after this epoch; once more stops at once and loses it") as stop:
        try:
            executor(job, registry, watch, stop)
        except (Stopped, KeyboardInterrupt):
            left = sum(run.status not in DONE for run in _now(runs, registry))
            error = InterruptedRunsError(
                f"interrupted: {len(runs) - left} of {len(runs)} runs are finished and safe in the "
                "registry; the same command again goes on with the others"
            )
            error.exit_code = 128 + (stop.signal or signal.SIGINT)
            raise error from None
    return _now(runs, registry)


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
