"""The values the registry takes and gives: what is asked of a run, a run, a checkpoint."""

import hashlib
import json
import math
import re
from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from zoo.settings import parse_value

if TYPE_CHECKING:
    from zoo.data import Data  # imports torch, which lists of runs do not need

Kind = Literal["single", "predictions", "weights", "distilled", "baseline"]
Status = Literal["queued", "running", "finished", "diverged", "failed", "interrupted"]
CheckpointKind = Literal[
    "best", "last", "top", "epoch", "ema", "swa", "lawa", "optimiser", "state", "merged", "pool"
]
OUTCOMES: tuple[CheckpointKind, ...] = ("best", "merged", "pool")  # one of which a finished run has
NO_DATA = "unknown"  # the task and the data of a model that was trained elsewhere
COLUMNS_NAMED = 5  # of those in which two schemas differ
DONE: tuple[Status, ...] = ("finished", "diverged")  # what is never trained again
UNDONE: tuple[Status, ...] = ("queued", "running", "interrupted")  # nor has it failed
SEVERAL: tuple[CheckpointKind, ...] = ("top", "epoch")  # a run may have one for each epoch
Average = Literal["ema", "swa", "lawa"]
Source = Literal["weights", Average]


@dataclass(frozen=True, kw_only=True)
class NewRun:
    """A run to be added: everything that is known before it starts.

    ``environment`` holds versions (``{"torch": "2.10.0"}``); Python and platform are filled in.
    """

    name: str
    config: Mapping[str, Any]
    config_hash: str
    task: str
    data_ref: str
    data_fingerprint: str
    split_hash: str
    seed: int | None = None
    kind: Kind = "single"
    varied: Mapping[str, Any] = field(default_factory=dict)
    classes: list[str] = field(default_factory=list)
    preprocessing: Mapping[str, Any] = field(default_factory=dict)
    parents: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def common_split(self) -> str:
        """See :attr:`Run.common_split`."""
        return str(self.preprocessing.get("common_split", self.split_hash))

    @property
    def identity(self) -> str:
        """SHA-256 of what makes two requests the same run."""
        return digest(
            [
                self.name,
                self.kind,
                self.config_hash,
                self.data_fingerprint,
                self.split_hash,
                self.seed,
                list(self.parents),
            ]
        )


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run as the registry knows it.

    Times are UTC in ISO 8601; runs asked for together share ``requested_at``, whenever they ran.
    ``epochs`` counts those trained, ``best_epoch`` names the one whose weights were kept,
    ``seconds`` is the run's own time.  ``metrics`` holds finite values only.
    """

    id: str
    name: str
    kind: Kind
    seed: int | None
    config: dict[str, Any]
    config_hash: str
    varied: dict[str, Any]
    task: str
    classes: list[str]
    data_ref: str
    data_fingerprint: str
    split_hash: str
    preprocessing: dict[str, Any]
    status: Status
    created_at: str
    requested_at: str
    started_at: str | None
    finished_at: str | None
    best_epoch: int | None
    epochs: int | None
    metrics: dict[str, float]
    seconds: float | None
    parents: tuple[str, ...]
    error: str | None
    environment: dict[str, str]

    @property
    def known_data(self) -> bool:
        """Whether it is known what the run learnt from; of weights from elsewhere it is not."""
        return self.task != NO_DATA

    @property
    def label(self) -> str:
        """The reference a person would write for this run, such as ``digits-mlp/seed=3``."""
        return label(self.name, self.varied, self.seed)

    @property
    def metric(self) -> str:
        """The name of the metric that is recorded in every epoch."""
        return metric_of(self.task)

    @property
    def watched(self) -> str:
        """The name of the metric that says how good it is: balanced accuracy where it was asked."""
        return "balanced_accuracy" if "val_balanced_accuracy" in self.metrics else self.metric

    @property
    def common_split(self) -> str:
        """What runs that are compared share: the whole split, or with folds the test rows."""
        return str(self.preprocessing.get("common_split", self.split_hash))

    @property
    def owner(self) -> str:
        """How messages name this run."""
        return f"run {self.label} ({self.id})"


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """Published weights of a run; the bytes are found by their SHA-256.

    ``source`` says whether they are the weights of an epoch or an average of several.
    """

    run_id: str
    kind: CheckpointKind
    sha256: str
    size: int
    epoch: int | None
    source: Source
    metrics: dict[str, float]
    created_at: str


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a run ended; what is None stays as it was, but an earlier attempt's error does not.

    ``metrics`` holds finite values only, see :func:`finite`.
    """

    run_id: str
    status: Status
    error: str | None = None
    epochs: int | None = None
    best_epoch: int | None = None
    metrics: Mapping[str, float] | None = None
    seconds: float | None = None

    @property
    def given(self) -> dict[str, Any]:
        """What it tells of the run, by the names of its fields."""
        told = {key: value for key, value in vars(self).items() if value is not None}
        del told["run_id"]
        return told | {"error": self.error}


@dataclass
class Batch:
    """What is to be written of some runs together; in this order, all or nothing.

    Attributes:
        started: identifiers of runs that begin anew.
        history: epochs, ``run_id``, ``epoch`` and any figures of :class:`zoo.reports.Epoch`; each
            replaces an earlier one of the same run and epoch.
        checkpoints: from :meth:`~zoo.registry.Registry.put`; each replaces an earlier one of the
            same run and kind, and for ``top`` and ``epoch`` of the same epoch.
        outcomes: how runs ended.
    """

    started: list[str] = field(default_factory=list)
    history: list[Mapping[str, Any]] = field(default_factory=list)
    checkpoints: list[Checkpoint] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)

    @property
    def run_ids(self) -> set[str]:
        """Of whom it tells."""
        told = {*self.started, *(row["run_id"] for row in self.history)}
        told |= {kept.run_id for kept in self.checkpoints}
        return told | {end.run_id for end in self.outcomes}

    def without(self, run_ids: Set[str]) -> "Batch":
        """Leave some runs out."""
        return Batch(
            [key for key in self.started if key not in run_ids],
            [row for row in self.history if row["run_id"] not in run_ids],
            [kept for kept in self.checkpoints if kept.run_id not in run_ids],
            [end for end in self.outcomes if end.run_id not in run_ids],
        )


@dataclass(frozen=True)
class SavedState:
    """Where the state of some runs in the midst of their training is.

    ``run_ids`` are those of the runs asked for that are part of it.
    """

    sha256: str
    size: int
    run_ids: tuple[str, ...]


def label(name: str, varied: Mapping[str, Any], seed: int | None) -> str:
    """Write the reference that finds a run by its name, its varied settings and its seed.

    >>> label("digits-mlp", {"optim.lr": 0.001, "model.hidden": [64, 64]}, 3)
    'digits-mlp/optim.lr=0.001,model.hidden=[64,64],seed=3'
    >>> label("soup", {}, None)
    'soup'
    """
    settings = [f"{key}={_written(value)}" for key, value in varied.items()]
    settings += [] if seed is None else [f"seed={seed}"]
    return f"{name}/{','.join(settings)}" if settings else name


def schema(run: NewRun | Run) -> tuple[str | None, dict[str, str]]:
    """Return the hash of the schema of a run's data, and what each column holds, where told."""
    told = run.preprocessing.get("schema")
    told = told if isinstance(told, dict) else {}
    columns = told.get("columns")
    return told.get("hash"), columns if isinstance(columns, dict) else {}


def differences(one: NewRun | Run, other: NewRun | Run) -> list[tuple[str, str, str]]:
    """Tell in what the data of two runs differ: in content, schema or, where these agree, split.

    Returns:
        (what, of the one, of the other), and after the schema the first columns that differ, unless
        other data have hardly a column in common.
    """
    told: list[tuple[str, str, str]] = []
    if one.data_fingerprint != other.data_fingerprint:  # the same content may lie at two places
        mine, theirs = (f"{run.data_ref} ({run.data_fingerprint})" for run in (one, other))
        told.append(("data", mine, theirs))
    schemas = schema(one), schema(other)
    columns = [names for _, names in schemas]
    common = columns[0].keys() & columns[1].keys()
    strangers = bool(told) and 2 * len(common) < min(map(len, columns))
    if columns[0] != columns[1] and not strangers:
        mine, theirs = (f"{known} of {len(names)} columns" for known, names in schemas)
        told.append(("schema", mine, theirs))
        for name in {**columns[0], **columns[1]}:
            mine, theirs = (str(names.get(name, "absent")) for names in columns)
            if mine != theirs and len(told) < COLUMNS_NAMED + 2:
                told.append((f"column {name!r}", mine, theirs))
    if not told and one.common_split != other.common_split:
        told.append(("split", _split(one, other), _split(other, one)))
    return told


def _split(run: NewRun | Run, other: NewRun | Run) -> str:
    """Name a run's split, and which of its settings another run has otherwise."""
    mine, theirs = (told.config.get("data", {}) for told in (run, other))
    apart = [f"{key} {mine[key]}" for key in mine if mine[key] != theirs.get(key)]
    return f"{run.common_split} ({', '.join(apart)})" if apart else run.common_split


def changed(data: "Data", run: NewRun | Run) -> list[tuple[str, str, str]]:
    """Tell in what data are not those that a run learnt from.

    Returns:
        (what, then, now).
    """
    told = [
        ("content", run.data_fingerprint, data.fingerprint),
        ("split", run.split_hash, data.split_hash),
    ]
    return [(what, then, now) for what, then, now in told if then != now]


def metric_of(task: str) -> str:
    """Return the name of the metric that is recorded in every epoch of such a task."""
    return "rmse" if task == "regression" else "accuracy"


def finite(metrics: Mapping[str, float]) -> dict[str, float]:
    """Keep the finite metrics, as plain floats.

    >>> finite({"val_loss": float("nan"), "val_accuracy": 1})
    {'val_accuracy': 1.0}
    """
    return {key: float(value) for key, value in metrics.items() if math.isfinite(value)}


def digest(value: object) -> str:
    """SHA-256 of a value's canonical JSON, in hexadecimal."""
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def _written(value: Any) -> str:
    """Write a value so that :func:`~zoo.settings.parse_value` reads it back."""
    if isinstance(value, str) and re.fullmatch(r"[\w.-]+", value) and parse_value(value) == value:
        return value
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)
