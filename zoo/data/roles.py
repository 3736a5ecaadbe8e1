"""What a column is for: learnt from, or of no use, and why; and how that is told."""

import re
from collections.abc import Sequence
from typing import Any, get_args

import numpy as np
import pandas as pd

from zoo.data import cells
from zoo.data.cells import Kind

MOST_CATEGORIES = 1000
MOST_LISTED = 20  # columns that are listed one by one
ID = re.compile(r"(?:.*[\W_])?(?:id|uuid|guid|index|rownum|row_number)|.*[a-z](?:ID|Id)")
WORDS = 4  # more words in a usual text than these are prose


def useless(column: pd.Series, kind: Kind, *, is_declared: bool) -> str:
    """Say why nothing can be learnt from a column of training rows, or nothing.

    What the user declared is only useless if it is constant.

    >>> useless(pd.Series([5, 5]), "numeric", is_declared=False)
    'it is constant in training'
    >>> useless(pd.Series([7, 8, 5], name="user_id"), "numeric", is_declared=False)
    'it is like an identifier: 3 different whole numbers in 3 rows; data.columns can keep it'
    """
    gaps = cells.missing(column)
    if gaps.all():
        return ""  # kept as a constant: the model's inputs stay those of the table
    if kind == "categorical":
        return _useless_text(cells.words(column), is_declared)
    if kind == "datetime":
        return "" if gaps.any() or column.nunique() > 1 else "it is constant in training"
    values = cells.numbers(column, kind)
    if not gaps.any():
        if not values.std() > cells.CONSTANT * np.abs(values).max():
            return "it is constant in training"
        named = kind == "numeric" and ID.fullmatch(str(column.name))
        if named and not is_declared and bool((values == np.floor(values)).all()):
            distinct = len(np.unique(values))
            if distinct == len(values):
                return (
                    f"it is like an identifier: {distinct} different whole numbers in "
                    f"{len(values)} rows; data.columns can keep it"
                )
    return ""


def _useless_text(coded: cells.Words, is_declared: bool) -> str:
    counts = np.bincount(coded.codes[coded.codes >= 0], minlength=len(coded.words))
    present, distinct, rows = int(counts.sum()), int((counts > 0).sum()), len(coded.codes)
    if distinct == 1 and present == rows:
        return "it is constant in training"
    if is_declared or distinct <= max(20, min(present // 2, MOST_CATEGORIES)):
        return ""
    told = f"its {distinct} distinct texts in {rows} training rows"
    if distinct <= present // 2:
        return f"{told} are more than {MOST_CATEGORIES}; data.columns can keep the most frequent"
    sample = [coded.words[place] for place in np.flatnonzero(counts)[:1000]]
    if np.median([len(word.split()) for word in sample]) > WORDS:
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
