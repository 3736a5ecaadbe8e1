"""Heal: a short distillation that mends what averaging has broken.

An average of aligned and repaired members computes nearly what they do, and its weights are a good
start.  A few epochs on the members' pooled predictions for the training rows bring it to them; at
no more than a quarter of the epochs that a member took, it is no retraining.  Its best epoch by
validation is kept, among them the average itself.
"""

import copy
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn

from ensemble.distillation import (
    Distilled,
    Rows,
    distill,
    graduate,
    learn,
    members_as_teacher,
)
from ensemble.errors import OptionError
from ensemble.heldout import mean_pool
from ensemble.members import Bench
from ensemble.state import State
from ensemble.teachers import anew, together
from zoo.models import restore
from zoo.registry import Run
from zoo.reports import Member
from zoo.sections import Task
from zoo.settings import flatten, override
from zoo.setup import default_device
from zoo.teaching import Teacher

QUARTER = 0.25  # of the epochs of a member


def heal(
    module: nn.Module,
    merged: State,
    states: Sequence[State],
    train: Rows,
    val: Rows,
    *,
    task: Task = "classification",
    epochs: int = 5,
    settings: Mapping[str, Any] | None = None,
) -> Distilled:
    """Train an average on the mean prediction of its members; return its best weights.

    Args:
        module: lends its architecture, and is left as it was.
        merged: the average, aligned and repaired where it has to be.
        states: the members.
        train: inputs and targets, as :func:`~ensemble.distillation.distill` takes them.
        val: the same; its targets decide which epoch is best, the average itself being epoch 0.
        task: ``classification``, ``multilabel`` or ``regression``.
        epochs: how many.
        settings: of the training, nested; by default Adam at 0.001 that comes down to 0.

    Raises:
        EnsembleError: as ``distill`` does.

    >>> import torch
    >>> x = torch.linspace(-1, 1, 64)[:, None]
    >>> states = [{"weight": torch.tensor([[w]])} for w in (1.0, 3.0)]
    >>> far = {"weight": torch.tensor([[1.9]])}
    >>> module, rows = nn.Linear(1, 1, bias=False), (x, 2 * x.squeeze(1))
    >>> told = {"task": "regression", "epochs": 50, "settings": {"optim": {"lr": 0.01}}}
    >>> healed = heal(module, far, states, rows, rows, **told)
    >>> abs(float(healed["weight"]) - 2) < 0.02
    True
    """
    twin = copy.deepcopy(module)
    restore(twin, merged)
    asked = override({}, _gentle(epochs) | flatten(settings or {}))
    teacher = members_as_teacher(module, states, task)
    return distill(twin, teacher, train, val, task=task, settings=asked)


def healer(table: Bench, members: Sequence[Run]) -> Callable[[State], tuple[State, int]]:
    """Return the function that heals averages of runs; see :func:`~ensemble.ladder.climb`.

    Raises:
        OptionError: where a quarter of the members' epochs is none.
    """
    spent = statistics.fmean((run.epochs or 0) / max(1, len(run.parents)) for run in members)
    epochs = int(QUARTER * spent)
    if epochs < 1:
        raise OptionError(
            "heal=true trains for a quarter of a member's epochs, however the members were "
            f"trained for {spent:.3g} on average; train them longer, or leave it out"
        )
    plain = {"train.mixup": 0.0, "train.label_smoothing": 0.0}
    config = anew(members[0], _gentle(epochs) | plain, leave=("keep", "augment", "stop"))
    pool = mean_pool(table.data.task)
    device = default_device()

    def healed(state: State) -> tuple[State, int]:
        member = Member("healed", config, members[0].seed or 0, state)
        teacher = Teacher(together(table, members, pool, device))
        data = table.own(members[0])
        state = graduate(learn([member], data, teacher), data)
        return state, state.epochs

    return healed


def _gentle(epochs: int) -> dict[str, Any]:
    """Return the settings of a short training that ends as it should, by dotted keys."""
    return {"train.epochs": epochs, "stop.patience": epochs, "schedule.name": "cosine"}
