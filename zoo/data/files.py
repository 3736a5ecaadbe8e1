"""A delimited text file becomes a frame, or an error that names the line.

pandas alone would shift columns where the first row is too long, rename duplicate headers, and fill
short rows; so the structure is checked first.
"""

import csv
import io
import re
import unicodedata
from collections import Counter
from collections.abc import Collection
from pathlib import Path

import pandas as pd

from zoo.errors import DataError

NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")


def read(path: Path, text: Collection[str] = ()) -> pd.DataFrame:
    """Read a file with a header row, its cells separated by commas, semicolons or tabs.

    Names are in Unicode's NFC form, any white space in them one space.  Empty cells and pandas'
    words for them (``NA``, ``nan``, ``null`` ...) are missing.

    Args:
        path: a UTF-8 file, with or without a byte-order mark.
        text: columns to leave as they are written (``007`` stays ``007``).

    Raises:
        DataError: naming the file, the line and the fault.
    """
    content = _content(path)
    delimiter = _delimiter(content)
    names = _checked_header(path, content, delimiter)
    try:
        frame: pd.DataFrame = pd.read_csv(
            io.StringIO(content),
            sep=delimiter,
            skipinitialspace=True,
            header=0,
            names=names,
            index_col=False,
            dtype={name: str for name in names if name in text},
            low_memory=False,
        )
    except (pd.errors.ParserError, pd.errors.EmptyDataError, OverflowError) as error:
        raise DataError(f"{path}: is not a CSV file: {' '.join(str(error).split())}") from None
    return frame


def row_numbers(frame: pd.DataFrame) -> str | None:
    """Name the unnamed first column if it counts the rows, as ``DataFrame.to_csv`` writes it.

    >>> row_numbers(pd.DataFrame({"Unnamed: 0": [0, 1, 2], "x": [5, 5, 7]}))
    'Unnamed: 0'
    """
    if frame.columns[0] != "Unnamed: 0":
        return None
    first = frame.iloc[:, 0]
    counts = any(first.equals(pd.Series(range(s, s + len(first)))) for s in (0, 1))
    return str(first.name) if counts else None


def _content(path: Path) -> str:
    """Return the text of a regular file."""
    try:
        if path.is_dir():
            raise DataError(f"data.ref must be a file, however {path} is a directory; name a CSV")
        if path.exists() and not path.is_file():
            raise DataError(f"data.ref must be a regular file, however {path} is none")
        content = path.read_bytes().decode("utf-8-sig")
        # pandas misreads a lone carriage return before an empty cell.
        content = content.replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        raise _encoding(path, f"byte {error.start} is not") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise DataError(f"{str(path)!r}: cannot be read: {error}") from None
    if "\0" in content:
        raise _encoding(path, "it holds a zero byte")
    if not content.strip():
        raise DataError(f"{path}: has no rows: the file is empty; it needs a header and data")
    return content


def _encoding(path: Path, fact: str) -> DataError:
    return DataError(
        f"{path}: must be UTF-8 text, however {fact}; save it as UTF-8, "
        f"such as by: iconv -f latin1 -t utf-8 {path.name} > utf8.csv"
    )


def _delimiter(content: str) -> str:
    """Find what separates the cells of the first line: the first it holds of ``, ; tab``."""
    first = content.lstrip("\n ").split("\n", 1)[0]
    return next((mark for mark in ",;\t" if mark in first), ",")


def _checked_header(path: Path, content: str, delimiter: str) -> list[str]:
    """Return the column names, once every row is known to have as many cells."""
    reader = csv.reader(
        io.StringIO(content, newline=""), delimiter=delimiter, skipinitialspace=True
    )
    header: list[str] | None = None
    rows = 0
    try:
        for cells in reader:
            if len(cells) <= 1 and not "".join(cells).strip():
                continue
            if header is None:
                header = _names(path, cells)
                continue
            rows += 1
            if len(cells) != len(header):
                raise DataError(
                    f"{path}: every row must have as many cells as the header ({len(header)}), "
                    f"however line {reader.line_num} has {len(cells)}; mend it, or quote cells "
                    f"that hold {delimiter!r}"
                )
    except csv.Error as error:
        raise DataError(f"{path}: line {reader.line_num} is not CSV: {error}") from None
    if header is None or not rows:
        raise DataError(f"{path}: has no rows: nothing is below the header; add data")
    return header


def _names(path: Path, cells: list[str]) -> list[str]:
    """Return the column names of a header row, or say that it is none."""
    names = [" ".join(unicodedata.normalize("NFC", cell).split()) for cell in cells]
    # Frames without names of their own are written with 0, 1, 2, ...: these are names.
    numbers = [name for name in names if NUMBER.fullmatch(name)]
    counted = names == [str(i) for i in range(len(names))]
    if (len(numbers) == len(names) and not counted) or any("." in name for name in numbers):
        raise DataError(
            f"{path}: needs a header row that names the columns, however its first row holds "
            f"numbers ({', '.join(numbers[:5])}{', ...' if len(numbers) > 5 else ''}); add one"
        )
    names = [name or f"Unnamed: {i}" for i, name in enumerate(names)]
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise DataError(
            f"{path}: the header must name each column once, however "
            f"{', '.join(map(repr, twice))} comes more than once; rename it"
        )
    return names
