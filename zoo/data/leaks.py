"""Features that give the target away: a column that is the target by another name."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from zoo.data import times
from zoo.data.cells import IntArray

SAMPLE = 400_000  # cells that are looked at
MOST_ROWS = 10_000
LEAST_ROWS = 500
FEWEST = 20  # rows below which nothing can be said
PER_GROUP = 5  # rows of a group below which it tells its target by chance
MOST_GROUPS = 64
SUSPICIOUS = 0.999


def suspects(
    features: pd.DataFrame, target: npt.NDArray[Any], is_class: bool, rows: IntArray
) -> dict[str, float]:
    """Find single columns that nearly determine the target.

    For quantities, the rank correlation, or the share of variance between the groups of a
    categorical column; for classes, the share of rows whose class is the most frequent one in their
    group, groups being equal values or, of many, neighbouring ones.

    Args:
        features: as :mod:`zoo.data.cells` keeps them.
        target: (N,) class indices or quantities.
        is_class: which of both.
        rows: the training rows.

    Returns:
        column -> that share, where it is at least 0.999.

    >>> frame = pd.DataFrame({"grams": [float(i % 9) for i in range(90)], "other": [1.0, 2.0] * 45})
    >>> suspects(frame, frame["grams"].to_numpy() / 1000, False, np.arange(90))
    {'grams': 1.0}
    """
    most = min(MOST_ROWS, max(LEAST_ROWS, SAMPLE // max(len(features.columns), 1)))
    chosen = rows[:: max(1, -(-len(rows) // most))]
    wanted = target[chosen]
    if len(chosen) < FEWEST:
        return {}
    by_chance = np.bincount(wanted).max() / len(wanted) if is_class else 0.0
    if by_chance >= SUSPICIOUS:
        return {}
    ranks = None if is_class else _ranks(wanted)
    found = {}
    for name in features.columns:
        told = _told(features[name].iloc[chosen], wanted, ranks)
        if told >= SUSPICIOUS:
            found[name] = told
    return found


def _told(
    column: pd.Series, target: npt.NDArray[Any], ranks: npt.NDArray[np.float64] | None
) -> float:
    """Return how much of the target a column tells, from 0 to 1; quantities have ranks."""
    if isinstance(column.dtype, pd.CategoricalDtype):
        groups = np.unique(column.cat.codes.to_numpy(), return_inverse=True)[1]
        return _by_group(groups, target, ranks is None)
    values = _values(column)
    if ranks is not None:
        return abs(_correlation(_ranks(values), ranks))
    order = np.unique(values, return_inverse=True)[1]  # NaN, the largest, is a group too
    if order.max() >= len(order) // PER_GROUP:
        count = min(MOST_GROUPS, len(order) // PER_GROUP)
        order = np.argsort(np.argsort(values, kind="stable"), kind="stable") * count // len(order)
    return _by_group(order, target, is_class=True)


def _values(column: pd.Series) -> npt.NDArray[np.float64]:
    if column.dtype.kind == "M":
        return times.days(times.microseconds(column))
    return np.asarray(column.to_numpy(dtype=np.float64, na_value=np.nan))


def _by_group(groups: IntArray, target: npt.NDArray[Any], is_class: bool) -> float:
    count = int(groups.max()) + 1
    if not 1 < count <= len(groups) // PER_GROUP:
        return 0.0
    if is_class:
        pairs = groups.astype(np.int64) * (int(target.max()) + 1) + target
        table = np.bincount(pairs, minlength=count * (int(target.max()) + 1))
        return float(table.reshape(count, -1).max(axis=1).sum() / len(target))
    sizes = np.bincount(groups)
    means = np.bincount(groups, target) / sizes
    total = float(np.square(target - target.mean()).sum())
    return float((sizes * np.square(means - target.mean())).sum() / total) if total else 0.0


def _ranks(values: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Rank values, equal ones alike, by the mean of their places."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    ranks: npt.NDArray[np.float64] = (ends - (counts - 1) / 2)[place]
    return ranks


def _correlation(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> float:
    a, b = a - a.mean(), b - b.mean()
    size = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / size if size else 0.0
