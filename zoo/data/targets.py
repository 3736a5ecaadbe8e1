"""What is to be predicted: the task a target column asks for, and its values."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from zoo.data import cells
from zoo.data.cells import NUMBER
from zoo.errors import DataError

Task = Literal["classification", "regression"]
MOST_CLASSES = 20  # more distinct integers than these are quantities, not classes


@dataclass(frozen=True)
class Target:
    """The values to predict.

    Attributes:
        values: int64 (N,) class indices into ``classes``, or float64 (N,) in the target's unit.
        classes: the labels in natural order; () for regression.
        note: the task, in a sentence.
    """

    name: str
    task: Task
    values: npt.NDArray[Any]
    classes: tuple[str, ...]
    note: str


def as_target(column: pd.Series, task: Task | None = None) -> Target:
    """Read a column without missing values as classes or as quantities.

    Text, truth values and few distinct integers are classes, other numbers quantities, unless
    ``task`` says so.

    Raises:
        DataError: quantities are wanted of text, or all rows have the same value.

    >>> as_target(pd.Series(["no", "yes", "no"], name="ill")).values
    array([0, 1, 0])
    >>> as_target(pd.Series([0.5, 1.25, 3.0], name="price")).note
    "'price': regression on numbers from 0.5 to 3"
    """
    name = str(column.name)
    if not len(column):
        raise DataError(
            f"target {name!r} must have values, however every row lacks one; choose another column"
        )
    kind = cells.kind(column)
    found = task or _task(column, kind)
    if found == "classification":
        labels = cells.text(column)
        classes = natural(set(labels.tolist()))
        if len(classes) < 2:
            raise DataError(
                f"target {name!r} must have at least two classes, however every row with a target "
                f"is {classes[0]!r}; choose another column"
            )
        places = {label: place for place, label in enumerate(classes)}
        values = np.array([places[label] for label in labels], dtype=np.int64)
        why = "" if task else f" (found from {'integers' if kind == 'numeric' else 'text'})"
        return Target(name, found, values, classes, f"{name!r}: {len(classes)} classes{why}")
    if kind != "numeric":
        raise DataError(
            f"data.task 'regression' needs a numeric target, however {name!r} holds "
            f"{cells.text(column)[0]!r}; choose another column or task 'classification'"
        )
    numbers = cells.numbers(column)
    low, high = numbers.min(), numbers.max()
    if low == high:
        raise DataError(
            f"target {name!r} must vary, however every row is {low:g}; choose another column"
        )
    note = f"{name!r}: regression on numbers from {low:g} to {high:g}"
    return Target(name, found, numbers, (), note)


def standardisation(target: Target, rows: npt.NDArray[np.int64]) -> tuple[float, float]:
    """Return (offset, scale), the mean and deviation of the given rows; (0, 1) for classes.

    Raises:
        DataError: these rows all have the same value.
    """
    if target.classes:
        return 0.0, 1.0
    offset, scale = float(target.values[rows].mean()), float(target.values[rows].std())
    if not scale > cells.CONSTANT * np.abs(target.values[rows]).max():
        raise DataError(
            f"target {target.name!r} must vary among the training rows, however all "
            f"{len(rows)} are {offset:g}; try another data.split_seed or more rows"
        )
    return offset, scale


def natural(labels: Iterable[str]) -> tuple[str, ...]:
    """Sort labels as a reader would: numbers by value, also within text.

    >>> natural(["10", "9", "-1"]), natural(["c10", "c2", "b"])
    (('-1', '9', '10'), ('b', 'c2', 'c10'))
    """
    labels = list(labels)
    if all(map(NUMBER.fullmatch, labels)):
        return tuple(sorted(labels, key=lambda label: (float(label), label)))
    return tuple(sorted(labels, key=lambda label: (_alternating(label), label)))


def _alternating(label: str) -> list[str | int]:
    """Split into text and runs of digits, in turns, so that equal places compare."""
    pieces = re.split(r"(\d{1,18})", label)
    return [int(piece) if place % 2 else piece for place, piece in enumerate(pieces)]


def _task(column: pd.Series, kind: cells.Kind) -> Task:
    if kind != "numeric":
        return "classification"
    numbers = cells.numbers(column)
    distinct = len(np.unique(numbers))
    whole = bool((numbers == np.floor(numbers)).all())
    few = distinct <= min(MOST_CLASSES, len(numbers) // 3)
    return "classification" if whole and few else "regression"
