"""Raw columns become features; what is fitted on the training rows is plain JSON.

A numeric or boolean column: missing cells take the median, then ``(value - mean) / std``; a second
feature marks the missing cells if there were any in training.  A categorical column: one feature
per category seen in training, missing being a category like others; an unseen one is all zeros.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor

from zoo.data import cells
from zoo.data.cells import FloatArray, Kind
from zoo.errors import DataError, nearest

MOST_CATEGORIES = 1000


def content(frame: pd.DataFrame) -> Iterator[str | bytes]:
    """Yield every name and value in a form that does not depend on versions or machines."""
    for name in frame.columns:
        kind = cells.kind(frame[name])
        yield f"{name}:{kind}"
        if kind == "categorical":
            yield "\x1f".join("\x1e" if w is None else w for w in cells.text(frame[name]))
        else:
            values = cells.numbers(frame[name], kind)
            yield np.where(np.isnan(values), np.nan, values + 0.0).astype("<f8").tobytes()


def kinds(frame: pd.DataFrame) -> dict[str, Kind]:
    """Tell what each column holds; this schema, unlike what is fitted, comes from all rows."""
    return {name: cells.kind(frame[name]) for name in frame.columns}


def fit(frame: pd.DataFrame, kinds: dict[str, Kind]) -> tuple[dict[str, Any], list[str]]:
    """Fit the preprocessing on training rows.

    Returns:
        the JSON value that :func:`apply` takes, and notes on what was dropped and kept.

    Raises:
        DataError: no column is left to learn from.

    >>> fitted, notes = fit(pd.DataFrame({"x": [1.0, 3.0], "c": [7, 7]}), \
{"x": "numeric", "c": "numeric"})
    >>> fitted["features"], notes[0]
    (['x'], "column 'c' was dropped: it is constant in training")
    """
    columns: list[dict[str, Any]] = []
    notes: list[str] = []
    for name, kind in kinds.items():
        fitted = (
            _fit_text(frame[name]) if kind == "categorical" else _fit_numbers(frame[name], kind)
        )
        if isinstance(fitted, str):
            notes.append(f"column {name!r} was dropped: {fitted}")
        else:
            columns.append({"name": name, "kind": kind, **fitted})
    if not columns:
        why = "; ".join(notes) or "the target is the only column"
        raise DataError(f"at least one column must be left to learn from, however {why}")
    features = [feature for column in columns for feature in _features(column)]
    counts = [f"{n} {k}" for k in _KINDS if (n := sum(c["kind"] == k for c in columns))]
    notes.append(f"learns from {', '.join(counts)} columns as {len(features)} features")
    return {"kind": "table", "columns": columns, "features": features}, notes


def apply(preprocessing: dict[str, Any], frame: pd.DataFrame) -> Tensor:
    """Turn raw columns, matched by name, into features: float32 (N, D).

    Raises:
        DataError: a column is missing, or a cell cannot be read as its column was in training.
    """
    for column in preprocessing["columns"]:
        if column["name"] not in frame.columns:
            raise DataError(
                f"every column of the training data is needed, however {column['name']!r} is "
                f"missing{nearest(column['name'], map(str, frame.columns))}"
            )
    encoded = [_encode(column, frame[column["name"]]) for column in preprocessing["columns"]]
    return torch.from_numpy(np.concatenate(encoded, axis=1))


def unseen(preprocessing: dict[str, Any], frame: pd.DataFrame) -> dict[str, int]:
    """Count the cells per categorical column whose value was not there in training."""
    counts = {}
    for column in preprocessing["columns"]:
        if column["kind"] == "categorical":
            known = {*column["categories"], *([None] if column["missing"] else [])}
            words = cells.text(frame[column["name"]])
            counts[column["name"]] = sum(word not in known for word in words.tolist())
    return {name: count for name, count in counts.items() if count}


_KINDS: tuple[Kind, ...] = ("numeric", "boolean", "categorical")


def _fit_numbers(column: pd.Series, kind: Kind) -> dict[str, Any] | str:
    """Return what is fitted on numbers, or why the column is of no use."""
    values = cells.numbers(column, kind)
    missing = np.isnan(values)
    if missing.all():
        return "every cell is missing in training"
    median = float(np.median(values[~missing]))
    filled = np.where(missing, median, values)
    mean, std = float(filled.mean()), float(filled.std())
    constant = not std > cells.CONSTANT * np.abs(filled).max()
    if constant and not missing.any():
        return "it is constant in training"
    std = 1.0 if constant else std
    return {"median": median, "mean": mean, "std": std, "missing": bool(missing.any())}


def _fit_text(column: pd.Series) -> dict[str, Any] | str:
    """Return the categories of text, or why the column is of no use."""
    words = cells.text(column)
    present = [word for word in words.tolist() if word is not None]
    categories = sorted(set(present))
    missing = len(present) < len(words)
    if not present:
        return "every cell is missing in training"
    if len(categories) == 1 and not missing:
        return "it is constant in training"
    if len(categories) > max(20, min(len(present) // 2, MOST_CATEGORIES)):
        return f"its {len(categories)} distinct texts in {len(words)} training rows name rows"
    return {"categories": categories, "missing": missing}


def _features(column: dict[str, Any]) -> list[str]:
    """Name the features a column becomes."""
    name = column["name"]
    values = (
        [f"{name}={word}" for word in column["categories"]] if "categories" in column else [name]
    )
    return values + [f"{name} is missing"] * column["missing"]


def _encode(column: dict[str, Any], raw: pd.Series) -> npt.NDArray[np.float32]:
    """Turn one raw column into its features, float32 (N, d)."""
    if column["kind"] == "categorical":
        places = {word: place for place, word in enumerate(column["categories"])}
        width = len(places) + column["missing"]
        if column["missing"]:
            places[None] = width - 1
        place = np.array([places.get(word, width) for word in cells.text(raw)], dtype=np.int64)
        # An unseen category points past the last feature: a row of zeros.
        return np.eye(width + 1, width, dtype=np.float32)[place]
    values = cells.numbers(raw, column["kind"])
    missing = np.isnan(values)
    with np.errstate(over="ignore"):
        scaled = (np.where(missing, column["median"], values) - column["mean"]) / column["std"]
        features = [scaled.astype(np.float32)]
    _refuse_overflow(column, values, features[0])
    if column["missing"]:
        features.append(missing.astype(np.float32))
    return np.stack(features, axis=1)


def _refuse_overflow(
    column: dict[str, Any], values: FloatArray, scaled: npt.NDArray[np.float32]
) -> None:
    beyond = ~np.isfinite(scaled)
    if beyond.any():
        raise DataError(
            f"column {column['name']!r} must hold numbers like those it was trained on (mean "
            f"{column['mean']:g}, deviation {column['std']:g}), however one is "
            f"{values[beyond][0]:g}"
        )
