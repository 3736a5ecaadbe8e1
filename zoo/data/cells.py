"""What the cells of one column are: numbers, truth values, times, or text.

A column comes in as anything pandas can hold, and is kept as one of four: numbers (float64, or
integers of any width, with gaps too), truth values (``bool``, or ``boolean`` with gaps), times
(``datetime64[us]``, with UTC where they had a zone), or text (``category`` of words in Unicode's
NFC form, without space around them).
"""

import re
from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
from pandas.api.types import is_bool_dtype, is_numeric_dtype

from zoo.data.words import Words, row_number, words
from zoo.errors import DataError

Kind = Literal["numeric", "boolean", "datetime", "categorical"]
FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")
TIME = re.compile(
    r"\d{4}-\d\d-\d\d([ T]\d\d(:\d\d(:\d\d(\.\d{1,9})?)?)?(?P<zone>Z|[-+]\d\d(:?\d\d)?)?)?"
)
# What most likely is a time or a number, but can be read in two ways; and what to write instead.
AMBIGUOUS = {
    re.compile(r"(\d\d?([./-])\d\d?\2\d{4}|\d{4}([./])\d\d?\3\d\d?)([ T].*)?"): (
        "times are written as 2024-02-29 or 2024-02-29T12:30"
    ),
    re.compile(r"[-+]?(\d+(\.\d{3})*(,\d+)?|\d{1,3}(,\d{3})+(\.\d+)?|\d+\.\d+)"): (
        "numbers are written with a decimal point and no other mark, as 1234.5"
    ),
}
LARGEST = 1e100  # squares of larger numbers leave double precision
CONSTANT = 1e-13  # a smaller deviation, relative to the values, is rounding
TRUTH = {"true": 1.0, "false": 0.0}
SPELLINGS = TRUTH | {"1": 1.0, "0": 0.0, "yes": 1.0, "no": 0.0, "y": 1.0, "n": 0.0}
FEW = 0.1  # a smaller share of other words among numbers is a fault and not a category


def kind(column: pd.Series) -> Kind:
    """Tell what a column holds, by all of its cells that are not missing.

    Raises:
        DataError: it holds many numbers and a few cells that are none, such as ``?``; or numbers
            and times that can be read in two ways, such as ``1,5`` and ``3/4/2024``.

    >>> kind(pd.Series([1, 2, None])), kind(pd.Series(["a", "1"])), kind(pd.Series([True, None]))
    ('numeric', 'categorical', 'boolean')
    >>> kind(pd.Series(["2024-02-29", "2024-03-01T12:30Z", None]))
    'datetime'
    """
    return _kind_of_type(column) or kind_of_words(words(column))


def kind_of_words(cells: Words) -> Kind:
    """Tell what text cells hold: see :func:`kind`."""
    if cells.words and all(word.lower() in TRUTH for word in cells.words):
        return "boolean"
    count = len(cells.words)
    strays: list[str] = []
    for word in cells.words:
        if not NUMBER.fullmatch(word):
            strays.append(word)
            if len(strays) > max(FEW * count, count - 20):
                break
    if not strays:
        return "numeric"
    for pattern, rule in AMBIGUOUS.items():
        if all(map(pattern.fullmatch, cells.words)):
            raise DataError(
                f"column {cells.name!r}: {rule}, however row {cells.row_of(strays[0])} holds "
                f"{strays[0]!r}; write it so, or declare it categorical or drop in data.columns"
            )
    if count - len(strays) > 20 and len(strays) < FEW * count:
        stray = min(strays)
        raise DataError(
            f"column {cells.name!r}: a column holds numbers or text, however row "
            f"{cells.row_of(stray)} holds {stray!r} among numbers; leave a missing cell empty, or "
            "say in data.columns that it is categorical (of a target, data.task = classification)"
        )
    return "datetime" if all(map(TIME.fullmatch, cells.words)) else "categorical"


def canonical(column: pd.Series, wanted: Kind | None = None) -> pd.Series:
    """Return a column as this package keeps it.

    Args:
        column: of any type.
        wanted: what it shall hold; by default what is found in it.

    Raises:
        DataError: naming the column and the row of a cell that is no such value.

    >>> canonical(pd.Series(["1.5", None])).tolist(), canonical(pd.Series(["a", ""])).tolist()
    ([1.5, nan], ['a', nan])
    """
    found = _kind_of_type(column)
    if found is None:
        return from_words(words(column), wanted)
    chosen = wanted or found
    if chosen == "numeric":
        if column.dtype == np.float64 or column.dtype.kind in "iu":
            return column
        return pd.Series(numbers(column), column.index, name=column.name)
    if chosen == "boolean":
        return column if column.dtype == np.bool_ else _truths(words(column))
    if chosen == "datetime":
        return times(column)
    return _text(words(column))


def from_words(cells: Words, wanted: Kind | None = None) -> pd.Series:
    """Return text cells as what they hold: see :func:`canonical`."""
    match wanted or kind_of_words(cells):
        case "numeric":
            values = _valued(cells, "numeric")
            return pd.Series(_finite(cells.name, values, cells.rows), cells.rows, name=cells.name)
        case "boolean":
            return _truths(cells)
        case "datetime":
            return _timed(cells)
        case _:
            return _text(cells)


def missing(column: pd.Series) -> npt.NDArray[np.bool_]:
    """Tell which cells (N,) are missing: no value, or nothing but space."""
    if _kind_of_type(column) in ("numeric", "boolean", "datetime"):
        return np.asarray(pd.isna(column), dtype=np.bool_)
    return words(column).codes < 0


def numbers(column: pd.Series, kind: Kind = "numeric") -> FloatArray:
    """Return the cells as float64 (N,), NaN where missing; truth values are 1 and 0.

    Raises:
        DataError: naming the column and the row of a cell that is infinite or no such value.
    """
    if kind == "boolean" and isinstance(column.dtype, pd.BooleanDtype | np.dtypes.BoolDType):
        return np.asarray(column.to_numpy(dtype=np.float64, na_value=np.nan))
    if kind == "numeric" and _kind_of_type(column) == "numeric":
        if column.dtype.kind == "m":
            values: FloatArray = column.dt.total_seconds().to_numpy()
        else:
            values = column.to_numpy(dtype=np.float64, na_value=np.nan)
        return values if column.dtype.kind in "iu" else _finite(column.name, values, column.index)
    cells = words(column)
    return _finite(column.name, _valued(cells, kind), column.index)


def times(column: pd.Series) -> pd.Series:
    """Return the cells as ``datetime64[us]``, in UTC where they have a time zone.

    Text is in ISO 8601, such as ``2024-02-29``, ``2024-02-29 12:30`` or ``2024-02-29T12:30:00Z``.

    Raises:
        DataError: naming the column and the row of a cell that is no time; some have a zone and
            some have none.

    >>> times(pd.Series(["2024-02-29T12:30+02:00"]))[0].isoformat()
    '2024-02-29T10:30:00+00:00'
    """
    if column.dtype.kind != "M":
        return _timed(words(column))
    zoned = getattr(column.dtype, "tz", None) is not None
    try:
        return (column.dt.tz_convert("UTC") if zoned else column).dt.as_unit("us")
    except pd.errors.OutOfBoundsDatetime:
        raise too_far(column.name) from None


def too_far(name: object) -> DataError:
    """Return the error for a column of times that microseconds cannot count."""
    return DataError(
        f"column {name!r} must hold times from the year -290,307 to 294,246, however some are "
        "beyond; leave these cells empty"
    )


def _kind_of_type(column: pd.Series) -> Kind | None:
    """Tell what a column holds by its type alone, or that it must be looked at."""
    if isinstance(column.dtype, pd.CategoricalDtype):
        return "categorical"
    if is_bool_dtype(column.dtype):
        return "boolean"
    if column.dtype.kind == "M":
        return "datetime"
    numeric = is_numeric_dtype(column.dtype) and column.dtype.kind != "c"
    return "numeric" if numeric or column.dtype.kind == "m" else None


def _valued(cells: Words, kind: Kind) -> FloatArray:
    """Return the number or the truth value of every cell."""
    values = np.full(len(cells.words) + 1, np.nan)
    for place, word in enumerate(cells.words):
        value = SPELLINGS.get(word.lower()) if kind == "boolean" else _number(word)
        if value is None:
            wanted = "True or False" if kind == "boolean" else "numbers"
            raise DataError(
                f"column {cells.name!r} must hold {wanted}, however row {cells.row_of(word)} "
                f"holds {word!r}; mend it, or leave a missing cell empty"
            )
        values[place] = value
    return values[cells.codes]


def _number(word: str) -> float | None:
    return float(word) if NUMBER.fullmatch(word) else None


def _finite(name: object, values: FloatArray, rows: pd.Index) -> FloatArray:
    """Return the numbers, or refuse one that is infinite or as good as that."""
    with np.errstate(invalid="ignore"):
        beyond = np.abs(values) > LARGEST
    if beyond.any():
        raise DataError(
            f"column {name!r} must hold finite numbers (up to {LARGEST:g}), however row "
            f"{row_number(rows, beyond)} holds {values[beyond][0]:g}; leave a missing cell empty"
        )
    return values


def _truths(cells: Words) -> pd.Series:
    values = _valued(cells, "boolean")
    gaps = np.isnan(values)
    truths = np.where(gaps, 0.0, values).astype(np.bool_)
    whole = truths if not gaps.any() else pd.arrays.BooleanArray(truths, gaps)
    return pd.Series(whole, cells.rows, name=cells.name)


def _text(cells: Words) -> pd.Series:
    categories = pd.Index(cells.words, dtype=object)
    coded = pd.Categorical.from_codes(cells.codes, dtype=pd.CategoricalDtype(categories))
    return pd.Series(coded, cells.rows, name=cells.name)


def _timed(cells: Words) -> pd.Series:
    """Return the time of every cell."""
    found = [TIME.fullmatch(word) for word in cells.words]
    both = zip(cells.words, found, strict=True)
    by_zone = {bool(time["zone"]): word for word, time in both if time}
    if len(by_zone) == 2:
        zoned, plain = by_zone[True], by_zone[False]
        raise DataError(
            f"column {cells.name!r} must hold times that all have a time zone or all have none, "
            f"however row {cells.row_of(zoned)} holds {zoned!r} and row {cells.row_of(plain)} "
            f"holds {plain!r}; write them alike"
        )
    # A microsecond is the finest that is kept.
    exact = [re.sub(r"(\.\d{6})\d+", r"\1", word) for word in cells.words]
    target = pa.timestamp("us", "UTC" if True in by_zone else None)
    try:
        values = pa.array([*exact, None], pa.string()).cast(target)
    except pa.ArrowInvalid:
        word = next(word for word in cells.words if not _is_time(word))
        raise DataError(
            f"column {cells.name!r} must hold times such as 2024-02-29 or 2024-02-29T12:30:00Z, "
            f"however row {cells.row_of(word)} holds {word!r}; mend or empty it"
        ) from None
    taken = values.cast(pa.timestamp("us")).to_numpy(zero_copy_only=False)[cells.codes]
    column = pd.Series(taken, cells.rows, name=cells.name)
    return column.dt.tz_localize("UTC") if True in by_zone else column


def _is_time(word: str) -> bool:
    found = TIME.fullmatch(word)
    try:
        pa.array([re.sub(r"(\.\d{6})\d+", r"\1", word)]).cast(
            pa.timestamp("us", "UTC" if found and found["zone"] else None)
        )
    except pa.ArrowInvalid:
        return False
    return found is not None
