"""The fair rival of an ensemble: one model that trained as long as all its members together.

Members that stop early leave no more to gain by patience alone, so the rival has the settings of
the best single model but for the epochs, all of which it trains; its best epoch by validation is
kept, as theirs were.  Where a schedule spans the epochs, it spans all of these.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from ensemble.errors import EnsembleError
from zoo.config import parse
from zoo.planning import plan
from zoo.registry import Registry, Run
from zoo.settings import override
from zoo.training import Event, train_many

FOUND = {"init": ("sha256", "trained"), "data": ("fold",)}  # by planning, so not asked for


def train_longer(
    registry: Registry,
    best: Run,
    members: Sequence[Run],
    *,
    frame: Any = None,
    watch: Callable[[Event], None] = lambda event: None,
) -> Run:
    """Train the settings of one run for as many epochs as all members took, or find that run.

    It enters the registry as a ``baseline`` whose parents are the members it is measured against.

    Args:
        registry: where the runs are.
        best: whose settings and seed it has.
        members: whose epochs count.
        frame: the table that they learnt from, where it was not a file.
        watch: is told what happens.

    Raises:
        EnsembleError: where it diverged or failed.
        ZooError: where it cannot be trained.
    """
    epochs = sum(run.epochs or 0 for run in members)
    changes = {"train.epochs": epochs, "stop.patience": epochs, "stop.also": []}
    settings = override(best.config, changes)
    for section, keys in FOUND.items():
        settings[section] = {k: v for k, v in settings[section].items() if k not in keys}
    settings |= {"seeds": [best.seed or 0], "name": f"{best.name}.longer"}
    planned = plan(parse(settings), registry, frame=frame)
    parents = tuple(run.id for run in members)
    asked = [replace(request, kind="baseline", parents=parents) for request in planned.requests]
    (run,) = train_many(replace(planned, requests=asked), registry, watch=watch)
    if run.status != "finished":
        raise EnsembleError(
            f"one model was to train for {epochs} epochs, however {run.label} is {run.status}"
            f"{f': {run.error}' if run.error else ''}"
        )
    return run
