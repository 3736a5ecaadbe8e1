"""Arrow's columns, and frames from Python, as the columns this package keeps.

Frames of polars and others hand their columns over by Arrow's interface for C; their packages are
not needed.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from zoo.data import cells
from zoo.data.cells import Kind
from zoo.data.words import Words, distinct, unfit
from zoo.errors import DataError, nearest
from zoo.settings import column_name

# What a delimited file writes for a missing value, as pandas reads it.
_HASHES = ("#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "1.#IND", "1.#QNAN")
_WORDS = ("-NaN", "-nan", "<NA>", "N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null")
NA = frozenset(_HASHES + _WORDS)
PANDAS_INDEX = re.compile(r"__index_level_\d+__")


def from_table(
    table: pa.Table,
    declared: Mapping[str, str] | None = None,
    na: Collection[str] = (),
    as_written: Collection[str] = (),
    first: int = 0,
) -> pd.DataFrame:
    """Return a table's columns as :mod:`zoo.data.cells` keeps them.

    Args:
        table: is emptied on the way where nobody else holds it.
        declared: name -> what the column holds, ``empty`` if that does not matter, or ``drop``;
            others are looked at.
        na: words that mean a missing value.
        as_written: columns in which they do not.
        first: the number of the first row, for errors.

    Raises:
        DataError: naming the column that holds something else, or the cell that is wrong.
    """
    declared = declared or {}
    names, columns = names_of(table.column_names), table.columns
    rows = pd.RangeIndex(first, first + table.num_rows)
    del table
    kept: dict[str, pd.Series] = {}
    for name in names:
        column = columns.pop(0)
        wanted: Any = declared.get(name)
        if wanted == "drop" or PANDAS_INDEX.fullmatch(name):
            continue
        if wanted == "empty":
            kept[name] = pd.Series(np.nan, rows, name=name)
            continue
        kept[name] = _series(column, name, rows, wanted, () if name in as_written else na)
    return pd.DataFrame(kept, index=rows, copy=False)


def as_table(frame: Any) -> pa.Table:
    """Return a frame with Arrow's interface, ``__arrow_c_stream__``, as a table.

    Raises:
        DataError: it is none.

    >>> as_table({"x": [1.0, None]})
    Traceback (most recent call last):
    zoo.errors.DataError: a table from Python must be a frame of pandas, polars or Arrow, however \
it is a dict
    """
    if not hasattr(frame, "__arrow_c_stream__"):
        raise DataError(
            "a table from Python must be a frame of pandas, polars or Arrow, however it is a "
            f"{type(frame).__name__}"
        )
    return pa.table(frame)


def only(table: pa.Table, names: Collection[str]) -> pa.Table:
    """Keep the columns of some names; what others hold does not matter then.

    Raises:
        DataError: one is missing.
    """
    written = names_of(table.column_names)
    check_needed(names, written)
    return table.select([place for place, name in enumerate(written) if name in names])


def from_python(
    frame: Any, declared: Mapping[str, str], ref: str, text: Collection[str] = ()
) -> pd.DataFrame:
    """Return the columns of a frame of pandas, polars or Arrow as this package keeps them.

    Rows are numbered anew.

    Args:
        frame: of pandas, or see :func:`as_table`.
        declared: see :func:`from_table`; every column must be there.
        ref: what to call the frame.
        text: other columns, whose cells are names even if they look like numbers.

    Raises:
        DataError: it is no frame; see also :func:`from_table`.
    """
    is_pandas = isinstance(frame, pd.DataFrame)
    frame = frame if is_pandas else as_table(frame)
    names = names_of(frame.columns if is_pandas else frame.column_names)
    check_declared(declared, names, ref)
    declared = {**dict.fromkeys(text, "categorical"), **declared}
    if not is_pandas:
        return from_table(frame, declared)
    rows = pd.RangeIndex(len(frame))
    kept = {}
    for place, name in enumerate(names):
        if declared.get(name) == "drop":
            continue
        wanted: Any = declared.get(name)
        kept[name] = series(frame.iloc[:, place].set_axis(rows).rename(name), wanted)
    return pd.DataFrame(kept, index=rows, copy=False)


def series(column: pd.Series, wanted: Kind | None = None) -> pd.Series:
    """Return a column of any type of pandas as this package keeps it.

    >>> series(pd.Series([1, None], dtype="int64[pyarrow]")).tolist()
    [1, <NA>]
    """
    if isinstance(column.dtype, pd.ArrowDtype):
        values = pa.chunked_array(column.array.__arrow_array__())
        return _series(values, str(column.name), column.index, wanted, ())
    if isinstance(column.dtype, pd.SparseDtype):
        column = column.sparse.to_dense()
    return cells.canonical(column, wanted)


def names_of(names: Iterable[object]) -> list[str]:
    """Return column names as :func:`zoo.settings.column_name` writes them, blank ones numbered.

    Raises:
        DataError: two are the same.
    """
    written = [column_name(str(name)) or f"Unnamed: {i}" for i, name in enumerate(names)]
    twice = [name for name, count in Counter(written).items() if count > 1]
    if twice:
        raise DataError(
            f"every column must have a name of its own, however {', '.join(map(repr, twice))} "
            "comes more than once; rename it"
        )
    return written


def check_column(key: str, name: str, names: Collection[str], ref: object) -> None:
    """Refuse a setting that names a column which is not there.

    Raises:
        DataError: naming the setting, the column, and the one that was probably meant.
    """
    if name not in names:
        raise DataError(
            f"data.{key} must be a column of {ref}, however it has no {name!r}"
            f"{nearest(name, names)}"
        )


def check_declared(declared: Mapping[str, str], names: Collection[str], ref: str) -> None:
    """Refuse declarations of columns that are not there.

    Raises:
        DataError: naming the first such column, and the one that was probably meant.
    """
    for name in declared:
        if name not in names:
            raise DataError(
                f"data.columns must name columns of {ref}, however it has no {name!r}"
                f"{nearest(name, names)}"
            )


def check_needed(needed: Iterable[str], names: Collection[str]) -> None:
    """Refuse new rows that lack a column that was learnt from.

    Raises:
        DataError: naming the first such column, and the one that was probably meant.
    """
    for name in needed:
        if name not in names:
            raise DataError(
                f"every column that was learnt from is needed, however {name!r} is missing"
                f"{nearest(name, names, 'there are')}; add it"
            )


def _series(
    column: pa.ChunkedArray, name: str, rows: pd.Index, wanted: Kind | None, na: Collection[str]
) -> pd.Series:
    kind = column.type
    if pa.types.is_dictionary(kind) and not _is_text(kind.value_type):
        return _series(column.cast(kind.value_type), name, rows, wanted, na)
    if pa.types.is_dictionary(kind) or _is_text(kind):
        return cells.from_words(_words(column, name, rows, na), wanted)
    if pa.types.is_time(kind):
        return _series(column.cast(pa.string()), name, rows, wanted, na)
    values: Any
    if pa.types.is_null(kind):
        values = np.full(len(column), np.nan)
    elif pa.types.is_integer(kind):
        gaps = column.is_null().to_numpy()
        values = column.fill_null(0).to_numpy()  # float64 does not tell large ones apart
        values = pd.arrays.IntegerArray(values, gaps) if gaps.any() else values
    elif pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        values = column.cast(pa.float64(), safe=False).to_numpy()
    elif pa.types.is_boolean(kind):
        gaps = column.is_null().to_numpy()
        values = column.fill_null(False).to_numpy()
        values = pd.arrays.BooleanArray(values, gaps) if gaps.any() else values
    elif pa.types.is_date(kind) or pa.types.is_timestamp(kind):
        zone = getattr(kind, "tz", None)
        is_finer = getattr(kind, "unit", "") == "ns"  # and is cut; all others must fit
        try:
            exact = column.cast(pa.timestamp("us", zone), safe=not is_finer)
        except pa.ArrowInvalid:
            raise cells.too_far(name) from None
        values = exact.cast(pa.timestamp("us")).to_numpy()
        values = pd.Series(values).dt.tz_localize("UTC").array if zone else values
    elif pa.types.is_duration(kind):
        seconds = {"s": 1.0, "ms": 1e3, "us": 1e6, "ns": 1e9}[kind.unit]
        values = column.cast(pa.int64()).cast(pa.float64(), safe=False).to_numpy() / seconds
    else:
        raise unfit(name, str(kind))
    return cells.canonical(pd.Series(values, rows, name=name, copy=False), wanted)


def _is_text(kind: pa.DataType) -> bool:
    return kind in (pa.string(), pa.large_string(), pa.string_view())


def _words(column: pa.ChunkedArray, name: str, rows: pd.Index, na: Collection[str]) -> Words:
    """Return text cells, each distinct word looked at once."""
    if column.type == pa.string_view():
        column = column.cast(pa.large_string())
    coded = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
    coded = coded.unify_dictionaries()
    if not coded.num_chunks:
        return Words(name, np.empty(0, np.int64), [], rows)
    codes = np.concatenate(
        [chunk.indices.fill_null(-1).to_numpy(zero_copy_only=False) for chunk in coded.chunks]
    )
    words = coded.chunk(0).dictionary.to_pylist()
    if "".join(word or "" for word in words).isascii():
        words = [word and word.strip() for word in words]
    else:
        words = [word and unicodedata.normalize("NFC", word).strip() for word in words]
    known = [None if not word or word in na else word for word in words]
    return distinct(name, codes, known, rows)
