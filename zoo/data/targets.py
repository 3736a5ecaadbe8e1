"""What is to be predicted: the task that target columns ask for, and their values.

Several labels of a row stand in columns of their own, or in one column of text, where ``;`` and
``|`` separate them.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from zoo.data import cells
from zoo.data.cells import NUMBER, FloatArray
from zoo.data.words import text
from zoo.errors import DataError
from zoo.sections import Task

MOST_CLASSES = 20  # more distinct integers than these are quantities, not classes
EXACT = 2.0**53  # whole numbers from here on are not all there among float64
SEPARATOR = re.compile(r"[;|]")  # of labels in one cell


@dataclass(frozen=True)
class Target:
    """The values to predict.

    Attributes:
        names: of the columns.
        values: int64 (N,) class indices into ``classes``; float64 (N, L), 1 where a row has one of
            L labels and else 0; float64 (N,) or (N, T) quantities in their own units.
        classes: the classes or labels in natural order, labels from columns of their own in the
            columns' order; () for regression.
        note: the task, in a sentence.
    """

    names: tuple[str, ...]
    task: Task
    values: npt.NDArray[Any]
    classes: tuple[str, ...]
    note: str

    @property
    def strata(self) -> npt.NDArray[np.int64]:
        """The class (N,) of each row, in the proportions of which rows are split; else zeros."""
        if self.task == "classification":
            return self.values
        return np.zeros(len(self.values), np.int64)


def as_target(column: pd.Series, task: Task | None = None) -> Target:
    """Read a column without missing values as classes, as labels or as quantities.

    Text, truth values and few distinct integers are classes, other numbers quantities, unless
    ``task`` says so.

    Raises:
        DataError: quantities are wanted of text, or all rows have the same value.

    >>> as_target(pd.Series(["no", "yes", "no"], name="ill")).values
    array([0, 1, 0])
    >>> as_target(pd.Series([0.5, 1.25, 3.0], name="price")).note
    "'price': regression on numbers from 0.5 to 3"
    >>> as_target(pd.Series(["a;b", "b", "|"], name="tags"), "multilabel").values
    array([[1., 1.],
           [0., 1.],
           [0., 0.]])
    """
    name = str(column.name)
    _refuse_no_values(name, len(column))
    kind = cells.kind(column)
    found = task or _task(column, kind)
    if found == "classification":
        held = "integers" if kind == "numeric" else "text"
        return _classes(name, column, "" if task else f" (found from {held})")
    if found == "multilabel":
        return _labels_in_text(name, column)
    numbers = _quantities(column, kind)
    note = f"{name!r}: regression on numbers from {numbers.min():g} to {numbers.max():g}"
    return Target((name,), found, numbers, (), note)


def as_targets(columns: pd.DataFrame, task: Task | None = None) -> Target:
    """Read several columns without missing values, each as a label or each as a quantity.

    Columns of truth values or of zeros and ones are labels, unless ``task`` says so.

    Raises:
        DataError: columns hold something else, or one has the same value in all rows.

    >>> both = as_targets(pd.DataFrame({"x": [0.5, 2.0], "y": [7, 8]}))
    >>> both.task, both.values.shape
    ('regression', (2, 2))
    """
    names = tuple(map(str, columns.columns))
    listed = ", ".join(map(repr, names))
    _refuse_no_values(listed, len(columns))
    kinds = {name: cells.kind(columns[name]) for name in names}
    binary = {name: _binary(columns[name], kinds[name]) for name in names}
    found: Task = task or ("multilabel" if all(binary.values()) else "regression")
    if found == "classification":
        raise DataError(
            f"data.task 'classification' takes one target, however data.target names {listed}; "
            "choose one of them, or task 'multilabel' for columns of 0 and 1"
        )
    if found == "multilabel":
        for name in (name for name in names if not binary[name]):
            raise DataError(
                f"a label's column must hold 0 or 1, true or false, however {name!r} does not; "
                "leave it out, or set data.task regression"
            )
        values = np.stack([cells.numbers(columns[name], kinds[name]) for name in names], axis=1)
        _refuse_constant(names, values)
        _refuse_taken(names, "p_")
        return Target(names, found, values, names, f"{listed}: {len(names)} labels")
    values = np.stack([_quantities(columns[name], kinds[name]) for name in names], axis=1)
    _refuse_taken(names, "std_")
    return Target(names, found, values, (), f"{listed}: regression on {len(names)} targets")


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


def _classes(name: str, column: pd.Series, why: str) -> Target:
    if column.dtype == np.float64 and column.abs().max() >= EXACT:
        raise DataError(
            f"target {name!r} must have classes that can be told apart, however numbers beyond "
            f'{EXACT:g} cannot; set data.task = "classification" for a file, or give them as text'
        )
    words = text(column)
    classes = natural(set(words.tolist()))
    if len(classes) < 2:
        raise DataError(
            f"target {name!r} must have at least two classes, however every row with a target "
            f"is {classes[0]!r}; choose another column"
        )
    places = {label: place for place, label in enumerate(classes)}
    values = np.array([places[word] for word in words], dtype=np.int64)
    return Target(
        (name,), "classification", values, classes, f"{name!r}: {len(classes)} classes{why}"
    )


def _labels_in_text(name: str, column: pd.Series) -> Target:
    codes, words = pd.factorize(text(column))
    sets = [{label.strip() for label in SEPARATOR.split(word)} - {""} for word in words]
    classes = natural(set().union(*sets))
    if not classes:
        raise DataError(
            f"target {name!r} must hold labels, however no row has any; choose another column"
        )
    of_word = np.array([[label in labels for label in classes] for labels in sets], np.float64)
    values = of_word[codes]
    _refuse_constant(classes, values)
    _refuse_taken(classes, "p_")
    note = f"{name!r}: {len(classes)} labels, {values.sum(axis=1).mean():.3g} per row"
    return Target((name,), "multilabel", values, classes, note)


def _quantities(column: pd.Series, kind: cells.Kind) -> FloatArray:
    """Return the values (N,) of a quantity, which must vary."""
    if kind != "numeric":
        raise DataError(
            f"data.task 'regression' needs a numeric target, however {str(column.name)!r} holds "
            f"{text(column)[0]!r}; choose another column or task 'classification'"
        )
    numbers = cells.numbers(column)
    if numbers.min() == numbers.max():
        raise DataError(
            f"target {str(column.name)!r} must vary, however every row is {numbers[0]:g}; "
            "choose another column"
        )
    return numbers


def _binary(column: pd.Series, kind: cells.Kind) -> bool:
    if kind == "boolean":
        return True
    return kind == "numeric" and bool(np.isin(cells.numbers(column), (0.0, 1.0)).all())


def _refuse_no_values(name: str, rows: int) -> None:
    if not rows:
        quoted = name if name.startswith("'") else repr(name)
        raise DataError(
            f"target {quoted} must have values, however every row lacks one; choose another column"
        )


def _refuse_taken(names: tuple[str, ...], prefix: str) -> None:
    """Refuse names under which predictions have another column (see :mod:`zoo.terms`)."""
    taken = {f"{prefix}{name}" for name in names} | {"file", "uncertainty", "disagreement"}
    for name in names:
        if name in taken:
            raise DataError(
                f"predictions are columns called as the targets, besides {prefix}TARGET, file, "
                f"uncertainty and disagreement, however {name!r} would then come twice; rename it"
            )


def _refuse_constant(labels: tuple[str, ...], values: FloatArray) -> None:
    """Refuse labels that all rows have, or none."""
    constant = values.min(axis=0) == values.max(axis=0)
    if constant.any():
        place = int(constant.argmax())
        raise DataError(
            f"a label must be there in some rows and not in others, however {labels[place]!r} is "
            f"in {'all' if values[0, place] else 'none'}; leave it out"
        )
