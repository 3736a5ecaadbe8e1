"""What a file or somebody else's catalogue tells of a run: checked before it is entered or used.

A header may lie, a database may hold anything in any column.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic import TypeAdapter, ValidationError

from zoo import fitted
from zoo.errors import UnsafeFileError
from zoo.registry import layout, tables
from zoo.registry.records import Checkpoint, Run
from zoo.settings import NAME_RULE, is_name

_run, _checkpoints = TypeAdapter(Run), TypeAdapter(list[Checkpoint])
_COLUMNS = set(tables.history.c.keys())


def run_of(facts: Mapping[str, Any]) -> Run:
    """Return the run that facts tell of.

    Raises:
        UnsafeFileError: where no registry of ours has written them.
    """
    run, owner = _typed(facts)
    if not is_name(run.name) or not re.fullmatch("[0-9a-f]{12}", run.id):
        raise UnsafeFileError(f"{owner}: a name has {NAME_RULE}, however it is {run.name[:100]!r}")
    return run


def checkpoints_of(told: Sequence[Mapping[str, Any]], owner: str) -> list[Checkpoint]:
    """Return the checkpoints that are told of a run.

    Raises:
        UnsafeFileError: where they are none.
    """
    try:
        return _checkpoints.validate_python(told)
    except ValidationError:
        raise UnsafeFileError(f"{owner}: its weights are not what a registry holds") from None


def check_epochs(rows: Iterable[Mapping[str, Any]], owner: str) -> None:
    """Refuse epochs that no registry of ours has written.

    Raises:
        UnsafeFileError: where a row is none.
    """
    if not all(_is_epoch(row) for row in rows):
        raise UnsafeFileError(f"{owner}: its epochs are not what a registry holds")


def _is_epoch(row: Mapping[str, Any]) -> bool:
    figures = [row[key] for key in row.keys() - {"run_id", "epoch", "averages"}]
    return (
        row.keys() <= _COLUMNS
        and type(row.get("epoch")) is int
        and isinstance(row.get("averages"), dict | None)
        and all(isinstance(figure, int | float | None) for figure in figures)
    )


def check_usable(run: Run) -> None:
    """Refuse a run whose rows could not be prepared as they were in training.

    Raises:
        UnsafeFileError: where no registry of ours has written what is said of it.
    """
    _typed(vars(run))
    try:
        target = fitted.read(run.preprocessing).target
        if (target.task, target.classes) != (run.task, run.classes):
            raise ValueError("target: must be that of the run")
    except ValueError as error:
        raise UnsafeFileError(f"{run.owner}: what prepares its rows is damaged: {error}") from None


def _typed(facts: Mapping[str, Any]) -> tuple[Run, str]:
    """Return a run all of whose facts are of their types, and how messages name it."""
    owner = f"run {str(facts.get('id'))[:100]!r}"
    try:
        run = _run.validate_python(facts)
    except ValidationError as error:
        where = ".".join(map(str, error.errors()[0]["loc"]))
        raise UnsafeFileError(f"{owner}: {where} is not what a registry holds") from None
    if not layout.shallow(dict(facts)):
        raise UnsafeFileError(f"{owner}: its settings are nested too deeply")
    return run, owner
