"""Train what a config asks for and is not there yet, into the registry.

``Config -> runs -> stacks of runs that share a shape -> published checkpoints``
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from itertools import groupby
from typing import Any

from zoo.config import Config, RunConfig
from zoo.data import Data, load
from zoo.errors import InterruptedRunsError, MismatchError, ZooError
from zoo.fit import EngineName, Epoch, Finished, Fit, Member, Pass, batch_size, check, shape_key
from zoo.registry import NewRun, Registry, Run
from zoo.registry.records import label
from zoo.settings import flatten

FLUSH_S = 1.0  # how long epochs may wait to be written together: one disk synchronisation for all
DONE = ("finished", "diverged")


@dataclass(frozen=True)
class Plan:
    """What a ``train-many`` will do, before it does anything.

    Attributes:
        title: the name of the zoo.
        data: the loaded data.
        requests: every run asked for, in order.
    """

    title: str
    data: Data
    requests: list[NewRun]


@dataclass(frozen=True)
class Begun:
    """Training begins: all runs asked for, and those of them that are still to be trained."""

    plan: Plan
    runs: list[Run]
    pending: list[Run]


@dataclass(frozen=True)
class Chosen:
    """The engine of the next stacks, in a sentence."""

    reason: str


Event = Begun | Chosen | Pass
Watch = Callable[[Event], None]


def plan(config: Config) -> Plan:
    """Load the data and check every setting against it; nothing is written.

    Raises:
        DataError, ConfigError: where the data or a setting will not do.
    """
    data = load(config.cells[0][0].data)
    requests = []
    for asked, varied, seed in config.runs():
        train = asked.train.model_copy(update={"batch_size": batch_size(asked, data)})
        run = asked.model_copy(update={"train": train})
        requests.append(
            NewRun(
                name=config.name,
                config=run.model_dump(mode="json"),
                config_hash=run.hash,
                task=data.task,
                data_ref=data.ref,
                data_fingerprint=data.fingerprint,
                split_hash=data.split_hash,
                seed=seed,
                varied=varied,
                classes=list(data.classes),
                preprocessing=data.preprocessing,
                environment={"torch": version("torch")},
            )
        )
    for config_json in {request.config_hash: request.config for request in requests}.values():
        check(RunConfig.model_validate(config_json), data)
    return Plan(config.name, data, requests)


def train_many(
    plan: Plan,
    registry: Registry,
    *,
    engine: EngineName = "auto",
    watch: Watch = lambda event: None,
) -> list[Run]:
    """Train the planned runs that are not finished yet; publish each as soon as it ends.

    Args:
        plan: from :func:`plan`.
        registry: where runs, histories and weights go.
        engine: ``auto`` measures both and takes the faster.
        watch: is told what happens.

    Returns:
        All planned runs as they are now, in the plan's order.

    Raises:
        MismatchError: where the zoo's name is taken by runs on other data.
        InterruptedRunsError: at Ctrl-C, once everything finished is safe.
    """
    known = [run for run in registry.runs() if run.name == plan.title]
    _refuse_other_data(plan, known)
    runs = registry.add(_distinguish(plan.requests, known))
    pending = [run for run in runs if run.status not in DONE]
    watch(Begun(plan, runs, pending))
    configs = {run.id: RunConfig.model_validate(run.config) for run in pending}
    ordered = sorted(pending, key=lambda run: str(shape_key(configs[run.id])))
    try:
        for _, group in groupby(ordered, key=lambda run: str(shape_key(configs[run.id]))):
            members = [Member(run.id, configs[run.id], run.seed or 0) for run in group]
            _train(members, plan.data, registry, engine, watch)
    except KeyboardInterrupt:
        left = [run for run in _now(runs, registry) if run.status not in DONE]
        for run in left:
            if run.status == "running":
                registry.finish(run.id, "interrupted")
        raise InterruptedRunsError(
            f"interrupted: {len(runs) - len(left)} of {len(runs)} runs are finished and safe in "
            "the registry; the same command again trains the others"
        ) from None
    return _now(runs, registry)


def _train(
    members: Sequence[Member], data: Data, registry: Registry, engine: EngineName, watch: Watch
) -> None:
    """Train members that share a shape; where that fails, they fail and others go on."""
    journal = _Journal(registry, data)
    try:
        fit = Fit(members, data, engine=engine)
        watch(Chosen(fit.choice.reason))
        for happened in fit:
            journal.keep(happened)
            watch(happened)
    except (RuntimeError, MemoryError) as error:
        fault = str(error).strip().splitlines()
        for member in members:
            if member.key not in journal.ended:
                registry.finish(member.key, "failed", error=fault[0] if fault else repr(error))
    finally:
        journal.flush()


@dataclass
class _Journal:
    """Writes what happens to the registry: epochs together about once a second, ends at once."""

    registry: Registry
    data: Data
    rows: list[dict[str, Any]] = field(default_factory=list)
    started: list[str] = field(default_factory=list)
    ended: set[str] = field(default_factory=set)
    flushed: float = field(default_factory=time.monotonic)

    def keep(self, happened: Pass) -> None:
        for epoch in happened.epochs:
            self.started += [epoch.key] if epoch.epoch == 1 else []
            row = asdict(epoch)
            self.rows.append({"run_id": row.pop("key"), **row})
        if happened.finished or time.monotonic() - self.flushed > FLUSH_S:
            self.flush()
        for end in happened.finished:
            self._publish(end)

    def flush(self) -> None:
        if self.started:
            self.registry.start(self.started)
        self.registry.record(self.rows)
        self.rows, self.started, self.flushed = [], [], time.monotonic()

    def _publish(self, end: Finished) -> None:
        self.ended.add(end.key)
        if end.state is None or end.best is None:
            fault = "the loss was not finite in the first epoch; try a smaller optim.lr"
            self.registry.finish(
                end.key, end.status, error=fault, epochs=end.epochs, seconds=end.seconds
            )
            return
        try:
            self.registry.publish(
                end.key,
                end.state,
                status=end.status,
                epoch=end.best.epoch,
                epochs=end.epochs,
                metrics=_metrics(end.best, self.data),
                seconds=end.seconds,
            )
        except ZooError as error:  # such as a full disk: the others may still find room
            self.registry.finish(end.key, "failed", error=str(error))


def _metrics(epoch: Epoch, data: Data) -> dict[str, float]:
    name = "accuracy" if data.task == "classification" else "rmse"
    return {
        "train_loss": epoch.train_loss,
        f"train_{name}": epoch.train_metric,
        "val_loss": epoch.val_loss,
        f"val_{name}": epoch.val_metric,
    }


def _refuse_other_data(plan: Plan, known: Sequence[Run]) -> None:
    asked = plan.requests[0]
    for run in known:
        for what, theirs, ours in (
            ("data", run.data_fingerprint, asked.data_fingerprint),
            ("split", run.split_hash, asked.split_hash),
        ):
            if theirs != ours:
                raise MismatchError(
                    f"the runs of one name must share their data, however {plan.title!r} was "
                    f"trained on other {what}: {run.data_ref} ({theirs}), now {asked.data_ref} "
                    f"({ours}); choose another --name"
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
    now = {run.id: run for run in registry.runs()}
    return [now[run.id] for run in runs]
