"""What a column is for: learnt from, or of no use, and why; and how that is told."""

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, get_args

import numpy as np
import pandas as pd

from zoo.data import cells
from zoo.data.cells import Kind
from zoo.data.words import Words, words

MOST_CATEGORIES = 1000
MOST_LISTED = 20  # columns that are listed one by one
WORD = r"(?i:id|uuid|guid|index|row_?num(?:ber)?)"
ID = re.compile(rf"(?:.*[\W_])?{WORD}|.*[a-z](?:ID|Id)|Unnamed: 0")  # the last is by pandas
PROSE = 4  # more words in a usual text than these are prose


def identifiers(
    frame: pd.DataFrame, kinds: Mapping[str, Kind], declared: Collection[str]
) -> dict[str, str]:
    """Find the columns that only name rows, or say something else of every one, by all rows.

    Args:
        frame: the raw columns.
        kinds: what each column holds.
        declared: columns of which the user said what they hold; these are kept.

    Returns:
        column -> why nothing can be learnt from it.

    >>> identifiers(pd.DataFrame({"user_id": [7, 8, 5]}), {"user_id": "numeric"}, ())
    {'user_id': 'it is like an identifier: 3 different whole numbers; data.columns can keep it'}
    """
    told = {
        name: _numbered(frame[name]) if kind == "numeric" else _worded(words(frame[name]))
        for name, kind in kinds.items()
        if name not in declared and kind in ("numeric", "categorical")
    }
    return {name: why for name, why in told.items() if why}


def is_constant(column: pd.Series, kind: Kind) -> bool:
    """Tell whether a column of training rows has one value and no gaps.

    >>> is_constant(pd.Series([5, 5]), "numeric"), is_constant(pd.Series([5, None]), "numeric")
    (True, False)
    """
    if cells.missing(column).any():
        return False
    if kind == "categorical":
        return len(np.unique(words(column).codes)) == 1
    if kind == "datetime":
        return bool(column.nunique() == 1)
    values = cells.numbers(column, kind)
    return bool(values.std() <= cells.CONSTANT * np.abs(values).max())


def _numbered(column: pd.Series) -> str:
    """Say why a column of numbers names rows, or nothing."""
    if not ID.fullmatch(str(column.name)):
        return ""
    values = cells.numbers(column)
    whole = bool((values == np.floor(values)).all())  # none is missing
    if not whole or len(np.unique(values)) < len(values):
        return ""
    return (
        f"it is like an identifier: {len(values)} different whole numbers; data.columns can keep it"
    )


def _worded(coded: Words) -> str:
    """Say why a column of text names rows or is prose, or nothing."""
    counts = np.bincount(coded.codes[coded.codes >= 0], minlength=len(coded.words))
    present, distinct = int(counts.sum()), int((counts > 0).sum())
    if distinct <= max(20, min(present // 2, MOST_CATEGORIES)):
        return ""
    told = f"its {distinct} distinct texts in {len(coded.codes)} rows"
    if distinct <= present // 2:
        return f"{told} are more than {MOST_CATEGORIES}; data.columns can keep the most frequent"
    sample = [coded.words[place] for place in np.flatnonzero(counts)[:1000]]
    if np.median([len(word.split()) for word in sample]) > PROSE:
        return f"{told} are free text"
    return f"{told} name rows, like an identifier"


def summary(
    columns: Sequence[dict[str, Any]], features: Sequence[str], of_each: Sequence[Sequence[str]]
) -> list[str]:
    """Say what is learnt from: a line per column where they are few, and the counts.

    Args:
        columns: what was fitted on each.
        features: all names of features.
        of_each: those of each column.
    """
    lines = []
    if len(columns) <= MOST_LISTED:
        wide = max(len(column["name"]) for column in columns)
        lines = [
            f"{column['name']:<{wide}}  {column['kind']:<11}  {_treatment(column, len(own))}"
            for column, own in zip(columns, of_each, strict=True)
        ]
    counts = [
        f"{n} {kind}"
        for kind in get_args(Kind)
        if (n := sum(column["kind"] == kind for column in columns))
    ]
    return [*lines, f"learns from {', '.join(counts)} columns as {len(features)} features"]


def _treatment(column: dict[str, Any], count: int) -> str:
    """Say what is done to a column.

    >>> _treatment({"kind": "numeric", "scale": 1.0, "missing": True}, 2)
    'scaled, missing cells take the median and are marked: 2 features'
    """
    match column["kind"]:
        case "empty":
            return "all missing, kept as a constant: 1 feature"
        case "categorical":
            gaps = ", missing is one of them" if column["missing"] else ""
            categories = len(column["categories"]) + column["missing"]
            return f"{categories} categories{gaps}: {_counted(count)}"
        case "datetime":
            done = ", ".join(["days passed", *column["cycles"]])
        case _:
            done = "quantiles to normal" if "quantiles" in column else "scaled"
    gaps = ", missing cells take the median and are marked" if column["missing"] else ""
    return f"{done}{gaps}: {_counted(count)}"


def _counted(count: int) -> str:
    return f"{count} feature{'' if count == 1 else 's'}"
