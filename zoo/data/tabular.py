"""Columns become features; what is fitted on the training rows is plain JSON.

A number: missing cells take the median, then it is scaled; a second feature marks the missing cells
if there were any in training.  A truth value: the same as 1 and 0.  A time: the days that have
passed, as a number, and its place in the year, the week and the day.  A category: one feature per
category seen in training, missing being a category like others; an unknown one is all zeros.
"""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor

from zoo.data import arrow, cells, roles, scaling, times
from zoo.data.cells import IntArray, Kind
from zoo.data.scaling import Scaling
from zoo.data.words import Words, words
from zoo.errors import DataError

BLOCK = 1 << 13  # rows that are encoded at a time, so that they stay in the cache
LARGEST = float(np.finfo(np.float32).max)
Gaps = Counter[tuple[str, Literal["missing", "unseen"]]]  # cells of a column that tell little


def content(frame: pd.DataFrame) -> Iterator[str | bytes]:
    """Yield every name and value in a form that does not depend on versions or machines."""
    for name in frame.columns:
        column = cells.canonical(frame[name])
        kind = cells.kind(column)
        yield f"{name}:{kind}"
        if kind == "categorical":
            coded = words(column)
            known = np.array([*coded.words, "\x1e"], dtype=object)
            yield "\x1f".join(known[coded.codes].tolist())
        elif kind == "datetime":
            yield times.microseconds(column).astype("<i8").tobytes()
        else:
            values = cells.numbers(column, kind) + 0.0  # -0 is 0
            values[np.isnan(values)] = np.nan
            yield values.astype("<f8", copy=False).tobytes()


def kinds(frame: pd.DataFrame) -> dict[str, Kind]:
    """Tell what each column holds; this schema, unlike what is fitted, comes from all rows."""
    return {name: cells.kind(frame[name]) for name in frame.columns}


def fit(
    frame: pd.DataFrame,
    kinds: Mapping[str, Kind],
    *,
    rows: IntArray | None = None,
    how: Scaling = "standard",
    declared: Collection[str] = (),
    identifiers: Mapping[str, str] | None = None,
) -> tuple[dict[str, Any], list[str]]:
    """Fit the preprocessing on training rows.

    Args:
        frame: the raw columns.
        kinds: what each column holds.
        rows: the places of the training rows; by default all.
        how: numbers are scaled.
        declared: columns of which the user said what they hold: categories are as written.
        identifiers: column -> why nothing can be learnt from it.

    Returns:
        the JSON value that :func:`apply` takes, and notes on what was dropped and kept.

    Raises:
        DataError: no column is left to learn from.

    >>> fitted, notes = fit(pd.DataFrame({"x": [1.0, 3.0], "c": [7, 7]}), \
{"x": "numeric", "c": "numeric"})
    >>> fitted["features"], notes[0]
    (['x'], "column 'c' was dropped: it is constant in training")
    """
    identifiers = identifiers or {}
    rows = np.arange(len(frame)) if rows is None else rows
    columns: list[dict[str, Any]] = []
    notes: list[str] = []
    for name, kind in kinds.items():
        if name in identifiers:
            notes.append(f"column {name!r} was dropped: {identifiers[name]}")
            continue
        column = cells.canonical(frame[name].iloc[rows], kind)
        if roles.is_constant(column, kind):
            notes.append(f"column {name!r} was dropped: it is constant in training")
            continue
        fitted, note = _fit(column, kind, how)
        notes += [f"column {name!r}: {note}"] if note else []
        told = {"as_written": True} if name in declared and kind == "categorical" else {}
        columns.append({"name": name, "kind": kind, **fitted, **told})
    if not any(column["kind"] != "empty" for column in columns):
        why = "; ".join(notes) or "the target is the only column"
        raise DataError(f"at least one column must be left to learn from, however {why}")
    features = [feature for column in columns for feature in _features(column)]
    notes += roles.summary(columns, features, [_features(column) for column in columns])
    return {"kind": "table", "columns": columns, "features": features}, notes


def apply(preprocessing: Mapping[str, Any], frame: Any) -> tuple[Tensor, Gaps]:
    """Turn raw columns, matched by name, into features.

    Args:
        preprocessing: what was fitted.
        frame: of pandas, polars or Arrow.

    Returns:
        float32 (N, D); and how many cells of which column are missing, or hold a category that has
        no feature.

    Raises:
        DataError: a column is missing, or a cell cannot be read as its column was in training.
    """
    if isinstance(frame, pd.DataFrame):
        frame = frame.set_axis(arrow.names_of(frame.columns), axis=1)
    else:
        kinds = {column["name"]: column["kind"] for column in preprocessing["columns"]}
        frame = arrow.from_table(arrow.only(arrow.as_table(frame), kinds), kinds)
    (encoded,), (gaps,) = encode(preprocessing, frame, [np.arange(len(frame))])
    return encoded, gaps


def encode(
    preprocessing: Mapping[str, Any], frame: pd.DataFrame, parts: Sequence[IntArray]
) -> tuple[list[Tensor], list[Gaps]]:
    """Turn the rows of each part into features, and count gaps: see :func:`apply`."""
    columns = preprocessing["columns"]
    arrow.check_needed((column["name"] for column in columns), frame.columns)
    prepared = [_prepared(column, frame[column["name"]]) for column in columns]
    sizes = widths(preprocessing)
    ends = np.cumsum(sizes)
    encoded = [np.zeros((len(rows), int(ends[-1])), dtype=np.float32) for rows in parts]
    gaps: list[Gaps] = [Counter() for _ in parts]
    for out, counts, rows in zip(encoded, gaps, parts, strict=True):
        for start in range(0, len(rows), BLOCK):
            block = rows[start : start + BLOCK]
            target = out[start : start + BLOCK]
            for column, values, end, width in zip(columns, prepared, ends, sizes, strict=True):
                missing, unseen = _encode(column, values[block], target[:, end - width : end])
                counts[column["name"], "missing"] += missing
                counts[column["name"], "unseen"] += unseen
    return [torch.from_numpy(out) for out in encoded], [+counts for counts in gaps]


def _fit(column: pd.Series, kind: Kind, how: Scaling) -> tuple[dict[str, Any], str]:
    """Return what is fitted on a column of training rows, and what is worth saying of it."""
    gaps = cells.missing(column)
    if gaps.all():
        note = "every cell is missing in training; it is kept as a constant, which tells nothing"
        return {"kind": "empty"}, note
    missing = bool(gaps.any())
    if kind == "categorical":
        categories, note = _categories(words(column))
        return {"categories": categories, "missing": missing}, note
    moments = times.microseconds(column) if kind == "datetime" else None
    values = cells.numbers(column, kind) if moments is None else times.days(moments)
    fitted = scaling.fit(values, "standard" if kind == "boolean" else how)
    fill = float(values[~gaps][0])
    fitted = fitted or {"fill": fill, "centre": fill, "scale": 1.0}
    if moments is None:
        return fitted | {"missing": missing}, ""
    zone = getattr(column.dtype, "tz", None) is not None
    fitted |= {"missing": missing, "zone": zone, "cycles": times.varying(moments)}
    return fitted, "its time zones were taken to UTC" if zone else ""


def _categories(coded: Words) -> tuple[list[str], str]:
    """Return the categories that get a feature, and a note if there are more."""
    counts = np.bincount(coded.codes[coded.codes >= 0], minlength=len(coded.words))
    present = [(-count, word) for word, count in zip(coded.words, counts, strict=True) if count]
    most = sorted(present)[: roles.MOST_CATEGORIES]
    note = (
        f"of its {len(present)} categories the {len(most)} most frequent are learnt from, the "
        "others are unknown (all zeros)"
    )
    return sorted(word for _, word in most), note if len(most) < len(present) else ""


def widths(preprocessing: Mapping[str, Any]) -> tuple[int, ...]:
    """Say how many features each column became, in their order."""
    return tuple(len(_features(column)) for column in preprocessing["columns"])


def _features(column: dict[str, Any]) -> list[str]:
    """Name the features a column becomes."""
    name = column["name"]
    match column["kind"]:
        case "empty":
            return [name]
        case "categorical":
            own = [f"{name}={word}" for word in column["categories"]]
        case "datetime":
            own = [f"{name} in days"]
            own += [
                f"{name} {turn} {cycle}" for cycle in column["cycles"] for turn in ("sin", "cos")
            ]
        case _:
            own = [name]
    return own + [f"{name} is missing"] * column["missing"]


def _prepared(column: dict[str, Any], raw: pd.Series) -> npt.NDArray[Any]:
    """Return a whole column as what :func:`_encode` takes: numbers, microseconds or places."""
    kind = column["kind"]
    if kind == "empty":
        return np.zeros(len(raw), dtype=np.float32)
    held = arrow.series(raw, kind)
    if kind == "categorical":
        coded = words(held)
        places = {word: place for place, word in enumerate(column["categories"])}
        width = len(places) + column["missing"]
        # An unseen category points past the last feature, a gap where there was none further.
        place = [places.get(word, width) for word in coded.words]
        missing = width - 1 if column["missing"] else width + 1
        return np.array([*place, missing], dtype=np.int32)[coded.codes]
    if kind == "datetime":
        if (getattr(held.dtype, "tz", None) is not None) != column["zone"] and held.notna().any():
            rule = "a time zone" if column["zone"] else "no time zone"
            raise DataError(
                f"column {column['name']!r} must hold times with {rule}, as in training, however "
                "these are not so; write them alike"
            )
        return times.microseconds(held)
    is_plain = isinstance(held.dtype, np.dtype) and held.dtype.kind in "iuf"
    return held.to_numpy() if is_plain else cells.numbers(held, kind)


def _encode(
    column: dict[str, Any], values: npt.NDArray[Any], out: npt.NDArray[np.float32]
) -> tuple[int, int]:
    """Write some rows of a column into its features, float32 (n, d), which are all zeros.

    Returns:
        how many of them are missing, and how many unseen.
    """
    kind = column["kind"]
    if kind == "empty":
        return 0, 0
    if kind == "categorical":
        width = out.shape[1]
        known = np.flatnonzero(values < width)
        out[known, values[known]] = 1
        missing = values == (width - 1 if column["missing"] else width + 1)
        return int(missing.sum()), int((values == width).sum())
    moments = values
    values = times.days(values) if kind == "datetime" else values.astype(np.float64, copy=False)
    gaps = np.isnan(values)
    filled = np.where(gaps, column["fill"], values) if gaps.any() else values
    scaled = scaling.apply(column, filled)
    if not np.abs(scaled).max(initial=0) <= LARGEST:
        beyond = np.abs(scaled) > LARGEST
        raise DataError(
            f"column {column['name']!r} must hold numbers like those it was trained on (centre "
            f"{column['centre']:g}, scale {column['scale']:g}), however one is "
            f"{values[beyond][0]:g}"
        )
    out[:, 0] = scaled
    if kind == "datetime":
        for place, circle in enumerate(times.circles(moments, column["cycles"]), start=1):
            out[:, place] = circle
    if column["missing"]:
        out[:, -1] = gaps
    return int(gaps.sum()), 0
