"""The cells of one column as words: each distinct one once, and where it stands."""

import unicodedata
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from pandas.api.types import infer_dtype, is_object_dtype

from zoo.errors import DataError

PLAIN_OBJECTS = ("string", "empty", "integer", "floating", "boolean")


@dataclass(frozen=True)
class Words:
    """The cells of a column as text.

    Attributes:
        codes: int64 (N,) the place of each cell's word in ``words``; -1 where it is missing.
        words: distinct.
        rows: the labels of the rows, for errors.
    """

    name: str
    codes: npt.NDArray[np.int64]
    words: Sequence[str]
    rows: pd.Index

    def row_of(self, word: str) -> object:
        """Number the first row that holds a word."""
        return row_number(self.rows, self.codes == list(self.words).index(word))


def words(column: pd.Series) -> Words:
    """Return the cells as words; whole numbers are written without a fraction.

    Raises:
        DataError: a cell holds several values, or what is none of numbers, times and text.

    >>> words(pd.Series([1.0, None, 2.5, 1])).words
    ['1', '2.5']
    """
    dtype = column.dtype
    if isinstance(dtype, pd.CategoricalDtype):
        codes, values = column.cat.codes.to_numpy(np.int64), dtype.categories
    elif is_object_dtype(dtype) and infer_dtype(column, skipna=True) not in PLAIN_OBJECTS:
        for row, value in zip(column.index, column, strict=True):
            if _is_unfit(value):
                raise unfit(column.name, f"{type(value).__name__} in row {_numbered(row)}")
        # Equal values of different types (1 and True) are one in a hash table.
        written = [
            None if gap else _word(value)
            for value, gap in zip(column, pd.isna(column).to_numpy(), strict=True)
        ]
        codes, values = pd.factorize(np.array([*written, None], dtype=object)[:-1])
    elif dtype.kind == "c":
        raise unfit(column.name, str(dtype))
    else:
        codes, values = pd.factorize(column)
    return distinct(str(column.name), codes, list(map(_word, values)), column.index)


def distinct(
    name: str, codes: npt.NDArray[Any], words: Sequence[str | None], rows: pd.Index
) -> Words:
    """Return cells whose words, once written alike, may be the same or none."""
    known = dict.fromkeys(word for word in words if word is not None)
    if len(known) < len(words):
        places = {word: place for place, word in enumerate(known)}
        moved = [-1 if word is None else places[word] for word in words]
        codes = np.array([*moved, -1], dtype=np.int64)[codes]
    return Words(name, codes.astype(np.int64, copy=False), list(known), rows)


def text(column: pd.Series) -> npt.NDArray[np.object_]:
    """Return the cells as text (N,), None where missing; whole numbers without a fraction.

    >>> text(pd.Series([1.0, None, 2.5])).tolist(), text(pd.Series([" a", True])).tolist()
    (['1', None, '2.5'], ['a', 'True'])
    """
    cells = words(column)
    written: npt.NDArray[np.object_] = np.array([*cells.words, None], dtype=object)[cells.codes]
    return written


def row_number(rows: pd.Index, where: npt.NDArray[np.bool_]) -> object:
    """Number the first row where something is, from 1 below the header."""
    return _numbered(rows[int(np.argmax(where))])


def unfit(name: object, what: str) -> DataError:
    """Return the error for a column of what cannot be learnt from."""
    return DataError(
        f"column {name!r} must hold numbers, truth values, times or text, however it holds {what}; "
        f'drop it with data.columns = {{"{name}" = "drop"}}'
    )


def _is_unfit(value: object) -> bool:
    """Tell whether a value is several, such as bytes, or complex, or a signalling NaN."""
    if isinstance(value, Decimal):
        return value.is_snan()
    nested = isinstance(value, Collection) and not isinstance(value, str)
    return nested or isinstance(value, complex)


def _numbered(row: Any) -> object:
    return row + 1 if isinstance(row, int | np.integer) else row


def _word(value: Any) -> str | None:
    """Write a value as a word, or None where nothing is left of it."""
    if isinstance(value, float | np.floating):
        number = float(value)
        return str(int(number)) if number.is_integer() else repr(number)
    word = str(value)
    if not word.isascii():
        word = unicodedata.normalize("NFC", word.encode("utf-8", "backslashreplace").decode())
    return word.strip() or None
