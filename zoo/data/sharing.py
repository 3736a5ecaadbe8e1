"""Where the rows go: at random, by groups, by time, or as a column says; then to folds.

The test part is held out once for all.  What is left is one training and one validation part, or,
with ``folds`` and ``bootstrap``, shared out anew for every member.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
from pandas.api.types import is_bool_dtype, is_datetime64_any_dtype, is_numeric_dtype

from zoo.data import cells
from zoo.data.arrow import check_column
from zoo.data.folds import bootstrap, kfold
from zoo.data.split import FEWEST_ROWS, IntArray, deal, grouped, split, taken
from zoo.data.targets import Target
from zoo.data.words import row_number, text
from zoo.errors import DataError
from zoo.sections import DataConfig

Parts = tuple[IntArray, IntArray, IntArray]
PARTS = ("train", "val", "test")
PART_OF_WORD = {name: place for place, name in enumerate(PARTS)} | {
    "validation": 1,
    "valid": 1,
    "dev": 1,
}


@dataclass(frozen=True)
class Sharing:
    """Which rows go where.

    Attributes:
        config: what was asked for.
        parts: the rows of train, val and test, ascending.
        units: (N,) which indivisible unit each row belongs to: copies of a row, or a group.
        labels: (N,) the class of each row, all equal where there are no classes.
        notes: what a user should know of it.
    """

    config: DataConfig
    parts: Parts
    units: IntArray
    labels: IntArray
    notes: tuple[str, ...]

    def of(self, fold: int | None) -> Parts:
        """Return the rows of train, val and test of a member.

        Args:
            fold: the member's own fold, or its draw; None where all have the same rows.

        Raises:
            DataError: where there are too few rows or groups.
        """
        config = self.config
        if not config.own:
            return self.parts
        if fold is None:
            raise DataError(
                "with data.folds or data.bootstrap every member has rows of its own, however "
                "data.fold does not say whose are to be loaded; set it"
            )
        rest = np.sort(np.concatenate(self.parts[:2]))
        units, labels = self.units[rest], self.labels[rest]
        # A unit that holds a group has no class of its own.
        strata = np.zeros_like(labels) if config.split == "group" else labels
        if config.folds is None:
            drawn, out = bootstrap(units, strata, labels, [config.split_seed, 2, fold])
            return rest[drawn], rest[out], self.parts[2]
        repeat, number = divmod(fold, config.folds)
        fold_of_row = kfold(units, strata, config.folds, [config.split_seed, 1, repeat])
        train, val = rest[fold_of_row != number], rest[fold_of_row == number]
        return train, val, self.parts[2]


def columns(config: DataConfig) -> list[str]:
    """Name the columns that only say where rows go: nothing is learnt from them.

    >>> columns(DataConfig(ref="x.csv", split="group", group="patient"))
    ['patient']
    """
    return [name for name in (config.group, config.part) if name is not None]


def share_out(config: DataConfig, frame: pd.DataFrame, target: Target) -> Sharing:
    """Share out rows as the settings ask.

    Args:
        config: the settings.
        frame: the raw rows, without columns that name them; those that are equal are copies.
        target: of these rows.

    Raises:
        DataError: where a column is missing or wrong, or rows are too few.
    """
    for key in ("group", "time", "part"):
        name = getattr(config, key)
        if name in target.names:
            raise DataError(
                f"data.{key} must be another column than the target, however both are {name!r}"
            )
        if config.columns.get(name) == "drop":
            raise DataError(
                f"data.{key} must be a column that is kept, however data.columns drops {name!r}; "
                "leave it out there"
            )
    labels = target.strata
    match config.split:
        case "group":
            units, parts, notes = _by_group(config, frame)
        case "time":
            units, parts, notes = _by_time(config, frame)
        case "column":
            units, parts, notes = _by_column(config, frame, labels)
        case _:
            units, parts, notes = _at_random(config, frame, labels, target.classes)
    notes += _about_folds(config)
    return Sharing(config, parts, units, labels, tuple(notes))


Shared = tuple[IntArray, Parts, list[str]]


def _at_random(
    config: DataConfig, frame: pd.DataFrame, labels: IntArray, classes: tuple[str, ...]
) -> Shared:
    units = grouped(frame)
    parts = split(units, labels, config.val, config.test, config.split_seed, names=classes)
    return units, parts, _about_copies(units)


def _by_group(config: DataConfig, frame: pd.DataFrame) -> Shared:
    from scipy.sparse import coo_array  # slow, and of use here alone
    from scipy.sparse.csgraph import connected_components

    name = config.group or ""
    groups = pd.factorize(_named(config, "group", frame))[0].astype(np.int64)
    copies = grouped(frame.drop(columns=name))
    count = int(groups.max()) + 1
    # Groups that hold copies of each other's rows are one.
    graph = coo_array(
        (np.ones(len(frame)), (groups, count + copies)), shape=(count + len(frame),) * 2
    )
    units = connected_components(graph, directed=False)[1][groups].astype(np.int64)
    left = len(np.unique(units))
    joined = f", of {count} before those that share copies of rows were joined" * (left < count)
    if left < len(PARTS):
        raise DataError(
            f"at least 3 groups are needed to train, validate and test, however column {name!r} "
            f"has {left}{joined}; choose another column or data.split"
        )
    parts = deal(units, np.zeros_like(units), config.val, config.test, config.split_seed)
    counts = [len(np.unique(units[rows])) for rows in parts]
    told = ", ".join(f"{n} {part}" for n, part in zip(counts, PARTS, strict=True))
    notes = [f"split by {name!r}, whose groups stay whole: {told}"]
    if joined:
        notes.append(
            f"{count} groups of {name!r} share copies of rows, and became {left} that share none"
        )
    return units, parts, [*notes, *_about_copies(copies)]


def _by_time(config: DataConfig, frame: pd.DataFrame) -> Shared:
    name = config.time or ""
    moments = _moments(_named(config, "time", frame), name)
    distinct, counts = np.unique(moments, return_counts=True)
    if len(distinct) < len(PARTS):
        raise DataError(
            f"at least 3 moments are needed to train, validate and test, however column {name!r} "
            f"has {len(distinct)}; choose another column or data.split"
        )
    until = counts.cumsum()
    first = _nearest(until, (1 - config.val - config.test) * len(frame), 0, len(distinct) - 3)
    second = _nearest(until, (1 - config.test) * len(frame), first + 1, len(distinct) - 2)
    part = np.searchsorted(distinct[[first, second]], moments)  # the moment itself is before
    train, val, test = (np.flatnonzero(part == place) for place in range(3))
    written = [word.removesuffix(" 00:00:00") for word in text(frame[name])]
    spans = [
        f"{told} from {written[rows[moments[rows].argmin()]]} to "
        f"{written[rows[moments[rows].argmax()]]}"
        for told, rows in zip(PARTS, (train, val, test), strict=True)
    ]
    units = grouped(frame.drop(columns=name))
    notes = [f"split in the order of {name!r}: {', '.join(spans)}"]
    return units, (train, val, test), [*notes, *_about_straddling(units, part, name)]


def _by_column(config: DataConfig, frame: pd.DataFrame, labels: IntArray) -> Shared:
    name = config.part or ""
    column = _named(config, "part", frame)
    words = text(column)
    part = np.array([PART_OF_WORD.get(word.lower(), -1) for word in words.tolist()], dtype=np.int64)
    if (part < 0).any():
        raise DataError(
            f"column {name!r} must hold train, val (or validation, valid, dev) or test, however "
            f"row {row_number(column.index, part < 0)} holds {words[part < 0][0]!r}; write one of "
            "these"
        )
    units = grouped(frame.drop(columns=name))
    notes = []
    for place in (0, 2):
        if not (part == place).any():
            raise DataError(
                f"column {name!r} must give rows to train and test, however none is for "
                f"{PARTS[place]}; add some, or choose another data.split"
            )
    if not (part == 1).any() and not config.own:
        train = np.flatnonzero(part == 0)
        if len(np.unique(units[train])) < FEWEST_ROWS:
            raise DataError(
                f"column {name!r} gives no rows to val, and at least {FEWEST_ROWS} distinct rows "
                f"of train are needed to take some, however there are "
                f"{len(np.unique(units[train]))}; add rows"
            )
        chosen = taken(units[train], labels[train], config.val, config.split_seed)
        part[train[chosen]] = 1
        notes.append(
            f"column {name!r} gives no rows to val, so {chosen.sum()} of the {len(train)} training "
            "rows were taken at random"
        )
    if (part == 1).any() and config.own:
        notes.append(
            f"the {(part == 1).sum()} rows that {name!r} gives to val are shared out together with "
            "those of train"
        )
    train, val, test = (np.flatnonzero(part == place) for place in range(3))
    seen = np.where(part == 2, 1, 0) if config.own else part
    return units, (train, val, test), [*notes, *_about_straddling(units, seen, name)]


def _named(config: DataConfig, key: str, frame: pd.DataFrame) -> pd.Series:
    """Return the column that a setting names, in which no cell is missing."""
    name = getattr(config, key)
    check_column(key, name, frame.columns, config.ref)
    missing = cells.missing(frame[name])
    if missing.any():
        raise DataError(
            f"column {name!r} must tell the {key} of every row, however {missing.sum()} rows, "
            f"first row {row_number(frame.index, missing)}, have none; fill them or leave them out"
        )
    return frame[name]


def _moments(column: pd.Series, name: str) -> npt.NDArray[np.float64] | IntArray:
    """Return times as numbers (N,) that have their order."""
    if is_numeric_dtype(column.dtype) and not is_bool_dtype(column.dtype):
        return cells.numbers(column)
    raw = column if is_datetime64_any_dtype(column.dtype) else pd.Series(text(column))
    times = pd.to_datetime(raw, format="ISO8601", utc=True, errors="coerce")
    strange = times.isna().to_numpy()
    if strange.any():
        raise DataError(
            f"column {name!r} must hold numbers or times such as 2024-03-31 or "
            f"2024-03-31T18:00:00+01:00, however row {row_number(column.index, strange)} "
            f"holds {text(column)[strange][0]!r}; write it so"
        )
    moments: IntArray = times.dt.as_unit("us").astype(np.int64).to_numpy()
    return moments


def _nearest(until: IntArray, wanted: float, low: int, high: int) -> int:
    """Choose the last moment of a part, so that it ends as near as may be to the wanted row."""
    return int(np.clip(np.abs(until - wanted).argmin(), low, high))


def _about_copies(units: IntArray) -> list[str]:
    copies = len(units) - len(np.unique(units))
    note = (
        f"{copies} row{' repeats' if copies == 1 else 's repeat'} another row in all that can be "
        "learnt from; copies were kept in the same part"
    )
    return [note] if copies else []


def _about_straddling(units: IntArray, part: IntArray, name: str) -> list[str]:
    """Count the rows that repeat one of an earlier part; ``part`` is (N,), each row's own."""
    earliest = np.full(units.max() + 1, len(PARTS))
    np.minimum.at(earliest, units, part)
    copies = int((earliest[units] < part).sum())
    note = (
        f"{copies} rows repeat a row of an earlier part in all but {name!r}; they stay where that "
        "puts them, and their figures flatter"
    )
    return [note] if copies else []


def _about_folds(config: DataConfig) -> list[str]:
    """Say how members come by rows of their own."""
    if config.folds:
        cycle = config.folds * config.repeats
        times = f", shared out {config.repeats} times" if config.repeats > 1 else ""
        return [f"{config.folds} folds{times}: seed s is validated on fold s mod {cycle}"]
    if config.bootstrap:
        return ["each seed draws its training rows with replacement; the others validate it"]
    return []
