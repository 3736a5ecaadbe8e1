"""What the cells of one raw column are: numbers, truth values, or text."""

import unicodedata
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
from pandas.api.types import is_bool_dtype, is_numeric_dtype

from zoo.data.files import NUMBER
from zoo.errors import DataError

Kind = Literal["numeric", "boolean", "categorical"]
FloatArray = npt.NDArray[np.float64]

LARGEST = 1e100  # squares of larger numbers leave double precision
CONSTANT = 1e-13  # a smaller deviation, relative to the values, is rounding
TRUTH = {"true": 1.0, "false": 0.0}


def kind(column: pd.Series) -> Kind:
    """Tell what a column holds, by all of its cells that are not missing.

    Raises:
        DataError: it holds many numbers and a few cells that are none, such as ``?``.

    >>> kind(pd.Series([1, 2, None])), kind(pd.Series(["a", "1"])), kind(pd.Series([True, None]))
    ('numeric', 'categorical', 'boolean')
    """
    if is_bool_dtype(column.dtype):
        return "boolean"
    if is_numeric_dtype(column.dtype):
        return "numeric"
    words = {word for word in text(column).tolist() if word is not None}
    if words and all(word.lower() in TRUTH for word in words):
        return "boolean"
    strays = {word for word in words if not NUMBER.fullmatch(word)}
    if not strays:
        return "numeric"
    if len(words) - len(strays) > 20 and len(strays) < 0.1 * len(words):
        stray = min(strays)
        raise DataError(
            f"column {column.name!r}: a column holds numbers or text, however row "
            f"{_row(column, text(column) == stray)} holds {stray!r} among numbers; "
            "leave a missing cell empty"
        )
    return "categorical"


def text(column: pd.Series) -> npt.NDArray[np.object_]:
    """Return the cells as text (N,), None where missing; whole numbers without a fraction.

    >>> text(pd.Series([1.0, None, 2.5])).tolist(), text(pd.Series([" a", True])).tolist()
    (['1', None, '2.5'], ['a', 'True'])
    """
    codes, values = pd.factorize(column)
    words = np.array([*map(_word, values), None], dtype=object)
    cells: npt.NDArray[np.object_] = words[codes]
    return cells


def missing(column: pd.Series) -> npt.NDArray[np.bool_]:
    """Tell which cells (N,) are missing: no value, or nothing but space."""
    cells = column if is_numeric_dtype(column.dtype) else text(column)
    return np.asarray(pd.isna(cells), dtype=np.bool_)


def numbers(column: pd.Series, kind: Kind = "numeric") -> FloatArray:
    """Return the cells as float64 (N,), NaN where missing; truth values are 1 and 0.

    Raises:
        DataError: naming the column and the row of a cell that is infinite or no such value.
    """
    if kind == "numeric" and is_numeric_dtype(column.dtype) and not is_bool_dtype(column.dtype):
        values: FloatArray = column.to_numpy(dtype=np.float64, na_value=np.nan)
    else:
        words = text(column)
        read = _truth if kind == "boolean" else _number
        known = {word: read(word) for word in set(words.tolist()) - {None}}
        for word, value in known.items():
            if value is None:
                wanted = "True or False" if kind == "boolean" else "numbers"
                raise DataError(
                    f"column {column.name!r} must hold {wanted}, however row "
                    f"{_row(column, words == word)} holds {word!r}"
                )
        values = np.array([known.get(word, np.nan) for word in words], dtype=np.float64)
    beyond = np.abs(values) > LARGEST
    if beyond.any():
        raise DataError(
            f"column {column.name!r} must hold finite numbers (up to {LARGEST:g}), however row "
            f"{_row(column, beyond)} holds {values[beyond][0]:g}; leave a missing cell empty"
        )
    return values


def _word(value: Any) -> str | None:
    if isinstance(value, float | np.floating) and float(value).is_integer():
        return str(int(value))
    if isinstance(value, float | np.floating):
        return repr(float(value))
    return unicodedata.normalize("NFC", str(value)).strip() or None


def _number(word: str) -> float | None:
    return float(word) if NUMBER.fullmatch(word) else None


def _truth(word: str) -> float | None:
    return TRUTH.get(word.lower())


def _row(column: pd.Series, where: npt.NDArray[np.bool_]) -> object:
    """Number the first row where something is, from 1 below the header."""
    label = column.index[int(np.argmax(where))]
    return label + 1 if isinstance(label, int | np.integer) else label
