"""Runs as runs of MLflow, in an experiment of their zoo's name.

MLflow never overwrites a metric, and what is sent twice may be there twice.  So a run is found by
its tags, what it holds is read first, and only what it lacks is sent; the status that says that
nothing more will come is set last.
"""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from sqlalchemy.exc import SQLAlchemyError

from zoo.errors import UnreachableError, UsageError
from zoo.printable import printable
from zoo.registry import Registry, Run
from zoo.tracking.account import Account, Outcome, account

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric
    from mlflow.entities import Run as Theirs

T = TypeVar("T")

STATUSES = {
    "queued": "SCHEDULED",
    "running": "RUNNING",
    "interrupted": "KILLED",
    "finished": "FINISHED",
    "diverged": "FAILED",
    "failed": "FAILED",
}
METRICS, PARAMS = 1000, 100  # what a request may hold
PAGE = 1000  # runs an answer may hold
KEY = 250  # characters of a key
# By itself it would try for minutes, tell of every try, and report its use to its makers.
DEFAULTS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}


def to_mlflow(registry: Registry, runs: Sequence[Run], uri: str) -> list[Outcome]:
    """Write runs and their histories to MLflow, or what it lacks of them.

    A run that began anew after it had failed is another run there.

    Args:
        registry: where the runs are.
        runs: which; of those that are still in training what is recorded so far.
        uri: where MLflow keeps them: ``sqlite:///FILE``, or the address of a server.

    Returns:
        what became of each.

    Raises:
        UsageError: where MLflow is not installed.
        UnreachableError: where it cannot be reached, or does not take them; what it took stays,
            and the same call goes on.
        UnsafeFileError: where no registry of ours has written what is said of a run.
    """
    for key, value in DEFAULTS.items():
        os.environ.setdefault(key, value)
    try:
        from mlflow import MlflowClient
    except ModuleNotFoundError:
        raise UsageError(
            "--mlflow needs MLflow, however it is not installed; pip install 'zoo-ensemble[mlflow]'"
        ) from None
    known: dict[str, tuple[str, dict[tuple[str, str], Theirs]]] = {}
    outcomes = []
    with _explained(uri):
        client = MlflowClient(tracking_uri=uri)
        for run in runs:
            if run.name not in known:
                experiment = _experiment(client, run.name)
                known[run.name] = experiment, _there(client, experiment)
            experiment, there = known[run.name]
            outcomes.append(
                _bring_up(client, experiment, there.get(_key(run)), account(registry, run))
            )
    return outcomes


def _bring_up(
    client: "MlflowClient", experiment: str, twin: "Theirs | None", told: Account
) -> Outcome:
    """Let MLflow know of a run what is known."""
    from mlflow.entities import Param

    run, status = told.run, STATUSES[told.run.status]
    if twin is not None and twin.info.status in ("FINISHED", "FAILED"):
        return "unchanged"
    outcome: Outcome = "extended" if twin else "written"
    if twin is None:
        tags = _tags(run)
        twin = client.create_run(experiment, _ms(told.began_s), tags, tags["zoo.ref"])
    key = twin.info.run_id
    there = {
        (name, point.step)
        for name in twin.data.metrics
        for point in client.get_metric_history(key, name)
    }
    points = [point for point in _points(told) if (point.key, point.step) not in there]
    params = [
        Param(name, str(value))
        for name, value in _named(told.settings).items()
        if name not in twin.data.params
    ]
    if not points and not params and twin.info.status == status:
        return "unchanged"
    for start in range(0, len(params), PARAMS):
        client.log_batch(key, params=params[start : start + PARAMS])
    for start in range(0, len(points), METRICS):
        client.log_batch(key, metrics=points[start : start + METRICS])
    if told.ended_s is not None:
        client.set_terminated(key, status, _ms(told.ended_s))
    elif twin.info.status != status:
        client.update_run(key, status)
    return outcome


def _points(told: Account) -> list["Metric"]:
    """List every figure with its time and epoch, in the order of epochs."""
    from mlflow.entities import Metric

    points = [
        Metric(name, value, _ms(epoch.at_s), epoch.epoch)
        for epoch in told.epochs
        for name, value in _named(epoch.figures).items()
    ]
    if told.ended_s is not None:
        at, step = _ms(told.ended_s), told.run.best_epoch or 0
        points += [Metric(name, value, at, step) for name, value in _named(told.best).items()]
    return points


def _tags(run: Run) -> dict[str, str]:
    """Say which run it is, and what it was made of."""
    name, started = _key(run)
    told = {"run": name, "started": started, "ref": run.label, "kind": run.kind, "task": run.task}
    told |= {"data": run.data_ref, "split": run.split_hash, "parents": " ".join(run.parents)}
    return {f"zoo.{key}": printable(value) for key, value in told.items()}


def _key(run: Run) -> tuple[str, str]:
    """Return the tags ``zoo.run`` and ``zoo.started``, which no two attempts share."""
    return run.id, run.started_at or run.created_at


def _experiment(client: "MlflowClient", name: str) -> str:
    """Return the identifier of an experiment, which is made where there is none.

    Raises:
        UsageError: where it was deleted.
    """
    found = client.get_experiment_by_name(name)
    if found is None:
        return str(client.create_experiment(name))
    if found.lifecycle_stage == "deleted":
        raise UsageError(
            f"an experiment of MLflow must be there to be written to, however {name!r} was deleted;"
            f" mlflow experiments restore --experiment-id {found.experiment_id}"
        )
    return str(found.experiment_id)


def _there(client: "MlflowClient", experiment: str) -> dict[tuple[str, str], "Theirs"]:
    """Find the runs of an experiment that were written by us."""
    found: dict[tuple[str, str], Theirs] = {}
    token = None
    while True:
        page = client.search_runs([experiment], max_results=PAGE, page_token=token)
        for one in page:
            tags = one.data.tags
            found[tags.get("zoo.run", ""), tags.get("zoo.started", "")] = one
        token = page.token
        if not token:
            return found


def _named(values: Mapping[str, T]) -> dict[str, T]:
    return {re.sub(r"[^\w.\- ]", "_", key)[:KEY]: value for key, value in values.items()}


def _ms(seconds: float) -> int:
    return round(seconds * 1000)


@contextmanager
def _explained(uri: str) -> Iterator[None]:
    """Turn what MLflow raises into one line, without the password that an address may hold."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except (MlflowException, SQLAlchemyError, OSError) as error:  # requests' errors are OSErrors
        told = " ".join(f"{uri}: MLflow does not take runs: {error}".split())[:600]
        raise UnreachableError(re.sub(r"//[^/@\s]*@", "//***@", told)) from error
