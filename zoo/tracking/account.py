"""What a tracker is told of a run, whichever it is: plain values, made of the registry alone."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from zoo.errors import UnsafeFileError
from zoo.printable import printable
from zoo.registry import Registry, Run
from zoo.registry.checking import check_epochs, run_of
from zoo.settings import flatten

Setting = bool | int | float | str
Outcome = Literal["written", "extended", "unchanged"]
EXACT = 2**53  # the largest integer up to which a double has all


@dataclass(frozen=True)
class Epoch:
    """One epoch.

    Attributes:
        epoch: from 1; 0 for weights that were given.
        at_s: when it ended, in seconds since 1970.
        figures: finite ones, such as ``val_loss`` and ``val_accuracy``.
    """

    epoch: int
    at_s: float
    figures: dict[str, float]


@dataclass(frozen=True)
class Account:
    """A run as trackers are told of it.  What is recorded later only ever adds to it.

    Attributes:
        run: which.
        began_s: when it was started, in seconds since 1970.
        ended_s: when it ended; None where it has not.
        settings: by dotted keys, with ``name``, ``kind`` and ``seed``; lists are JSON, what is
            unset is left out.
        epochs: those that were recorded.
        best: the figures of the weights that were kept, each with ``best_`` before its name.
    """

    run: Run
    began_s: float
    ended_s: float | None
    settings: dict[str, Setting]
    epochs: list[Epoch]
    best: dict[str, float]


def account(registry: Registry, run: Run) -> Account:
    """Read what is known of a run.

    Raises:
        UnsafeFileError: where no registry of ours has written what is said of it.
    """
    history = registry.history(run.id)
    run_of(vars(run))
    check_epochs(history, run.owner)
    began_s = _seconds(run, run.started_at or run.created_at)
    ended = run.finished_at if run.status in ("finished", "diverged", "failed") else None
    told = {"name": run.name, "kind": run.kind, "seed": run.seed, **flatten(run.config)}
    return Account(
        run=run,
        began_s=began_s,
        ended_s=None if ended is None else _seconds(run, ended),
        settings={
            printable(key): _setting(value) for key, value in told.items() if value is not None
        },
        epochs=[
            Epoch(row["epoch"], began_s + (row["seconds"] or 0.0), _figures(run, row))
            for row in history
        ],
        best={} if ended is None else {f"best_{key}": value for key, value in run.metrics.items()},
    )


def _figures(run: Run, row: Mapping[str, Any]) -> dict[str, float]:
    """Name the finite figures of an epoch as the metrics of a run are named."""
    told = {
        "train_loss": row["train_loss"],
        f"train_{run.metric}": row["train_metric"],
        "val_loss": row["val_loss"],
        f"val_{run.metric}": row["val_metric"],
        "lr": row["lr"],
        "grad_norm": row["grad_norm"],
    }
    for average, figures in (row["averages"] or {}).items():
        if isinstance(figures, list):
            names = (f"{average}_val_loss", f"{average}_val_{run.metric}")
            told |= dict(zip(names, figures, strict=False))  # a third may follow
    return {
        key: float(value)
        for key, value in told.items()
        if isinstance(value, int | float) and math.isfinite(value)
    }


def _setting(value: Any) -> Setting:
    """Return a value as trackers have it: numbers that fit a double, text without controls."""
    if isinstance(value, float) or (isinstance(value, int) and abs(value) <= EXACT):
        return value
    return printable(value if isinstance(value, str) else json.dumps(value))


def _seconds(run: Run, time: str) -> float:
    """Read a time as seconds since 1970.

    Raises:
        UnsafeFileError: where it is none.
    """
    try:
        return datetime.fromisoformat(time).timestamp()
    except (ValueError, OverflowError):
        raise UnsafeFileError(
            f"{run.owner}: times are ISO 8601, however one is {time[:40]!r}"
        ) from None
