"""Delimited text becomes an Arrow table, or an error that names the line.

Arrow's reader is fast and holds every row to the width of the header, but it does not number the
lines, skip lines of spaces, or see a quote that is never closed.  Text that it refuses or might
misread is gone through again row by row, which finds the fault or writes the rows out plainly.
"""

import csv
import io
import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv

from zoo.data.arrow import NA, names_of
from zoo.data.cells import NUMBER
from zoo.errors import DataError, listed

MARKS = ",;\t|"
HEAD = 1 << 22  # bytes within which the header must end
LONGEST = 1 << 24  # bytes; a row that seems longer has a quote that is not closed
MOST_WORDS = 2**31 - 1
TEXT = pa.dictionary(pa.int32(), pa.string())


@dataclass(frozen=True)
class Layout:
    """What the first lines tell.

    Attributes:
        names: of the columns.
        mark: what separates the cells.
        start: the first byte below the header.
        line: the number of lines above it.
    """

    path: Path
    names: list[str]
    mark: str
    start: int
    line: int


def layout(path: Path, content: bytes) -> Layout:
    """Read the header, and what separates its cells.

    Args:
        path: for errors.
        content: UTF-8 whose lines end in ``\\n``; as much as holds the header.

    Raises:
        DataError: there is none, or it does not name every column once.
    """
    head = content[:HEAD].decode("utf-8", "ignore")
    mark = delimiter(head)
    reader = csv.reader(io.StringIO(head, newline=""), delimiter=mark, skipinitialspace=True)
    try:
        cells = next((row for row in reader if not _is_blank(row)), None)
    except csv.Error as error:
        raise DataError(f"{path}: line {reader.line_num} is not CSV: {error}") from None
    if cells is None:
        raise DataError(f"{path}: has no rows: the file is empty; it needs a header and data")
    start = 0
    for _ in range(reader.line_num):
        start = content.find(b"\n", start) + 1 or len(content)
    return Layout(path, _names(path, cells), mark, start, reader.line_num)


def delimiter(head: str) -> str:
    """Find what separates cells: ``,``, ``;``, tab or ``|``.

    The one that comes equally often in each of the first lines, outside of quotes; of several such,
    or where there is none, the one that comes most often in the first.

    >>> delimiter("a;b\\n1,5;2,5\\n"), delimiter("a|b, c|d\\n"), delimiter("a\\n1,5\\n")
    (';', '|', ',')
    """
    plain = re.sub(r'"[^"]*"', "", head[: 1 << 16])
    lines = [line for line in plain.split("\n")[:21] if line.strip()]
    lines = lines[:-1] if len(lines) > 1 else lines  # the last may be cut
    counts = {mark: [line.count(mark) for line in lines] for mark in MARKS}
    even = {m: c for m, c in counts.items() if c and c[0] and len(set(c)) == 1}
    best = {mark: found[0] for mark, found in (even or counts).items() if found}
    return max(best, key=lambda mark: best[mark], default=",")


def whole_rows(path: Path, blocks: Iterable[bytes]) -> Iterator[bytes]:
    """Cut text where rows end: within quotes, a line may end and the row go on.

    Args:
        path: for errors.
        blocks: UTF-8, whole lines that end in ``\\n``, from the header on.

    Raises:
        DataError: a row does not end.

    >>> list(whole_rows(Path("t.csv"), [b'a,b\\n1,"x\\n', b'y"\\n2,5" pipe\\n']))
    [b'a,b\\n', b'1,"x\\ny"\\n2,5" pipe\\n']
    """
    rows, rest, line = None, b"", 1
    for block in blocks:
        block = rest + block
        rows = rows or _rows(delimiter(block[:HEAD].decode("utf-8", "ignore")))
        end = rows.match(block).end() if b'"' in block else len(block)
        whole, rest = block[:end], block[end:]
        line += whole.count(b"\n")
        if len(rest) > LONGEST:
            raise DataError(
                f"{path}: line {line} is not CSV: a quote is opened there and not closed within "
                f"{LONGEST >> 20} MiB"
            )
        if whole:
            yield whole
    if rest:
        yield rest


def _rows(mark: str) -> Any:
    """Return the pattern of as many whole rows as there are; it never goes back a step.

    Only a quote at the beginning of a cell, perhaps after spaces, opens one.
    """
    cell = rf' *+(?:"(?:[^"]++|"")*+"|(?!"))[^{re.escape(mark)}\n]*+'
    return re.compile(rf"(?:{cell}(?:{re.escape(mark)}{cell})*+\n)*+".encode())


def parse(
    form: Layout,
    block: bytes,
    start: int = 0,
    *,
    text: Collection[str] | None = (),
    numbers: Collection[str] = (),
    dropped: Collection[str] = (),
    line: int = 0,
) -> pa.Table:
    """Read rows below the header.

    Args:
        form: of the file.
        block: whole rows, from the byte ``start`` on.
        start: where they begin, which is the beginning of a line.
        text: columns to leave as they are written; None means all.
        numbers: columns that shall hold numbers, where ``text`` is None; left as they are written
            where some cells are none.
        dropped: columns to leave out.
        line: the number of lines above the block.

    Raises:
        DataError: naming the line and the fault.
    """
    kept = [name for name in form.names if name not in dropped]
    written = [name for name in kept if text is None or name in text]
    types = dict.fromkeys(written, TEXT) | dict.fromkeys(numbers, pa.float64())
    if not re.compile(rb"\S").search(block, start):
        raise DataError(f"{form.path}: has no rows: nothing is below the header; add data")
    if _is_doubtful(block, start, form.mark):
        block, start = _mended(form, block, start, line), 0
    try:
        table = _read(form, block, start, types, kept)
    except pa.ArrowInvalid:
        block, start = _mended(form, block, start, line), 0
        types = dict.fromkeys(written, TEXT)
        try:
            table = _read(form, block, start, types, kept)
        except pa.ArrowInvalid as error:
            fault = str(error).split("\n")[0][:200]
            raise DataError(f"{form.path}: is not a CSV file: {fault}") from None
    # A time of day would not be written as it was, and 0x1F would be a number.
    has_hex = block.find(b"0x", start) >= 0 or block.find(b"0X", start) >= 0
    again = [
        field.name
        for field in table.schema
        if pa.types.is_time(field.type) or (has_hex and pa.types.is_integer(field.type))
    ]
    if again:
        words = _read(form, block, start, dict.fromkeys(again, TEXT), again)
        for name in again:
            place = table.column_names.index(name)
            table = table.set_column(place, name, words.column(name))
    return table


def _read(
    form: Layout, block: bytes, start: int, types: dict[str, pa.DataType], kept: list[str]
) -> pa.Table:
    return pyarrow.csv.read_csv(
        pa.BufferReader(pa.py_buffer(block).slice(start)),
        pyarrow.csv.ReadOptions(column_names=form.names, block_size=_block_size(len(block))),
        pyarrow.csv.ParseOptions(
            delimiter=form.mark, newlines_in_values=block.find(b'"', start) >= 0
        ),
        pyarrow.csv.ConvertOptions(
            column_types=types,
            include_columns=kept,
            null_values=["", *NA],
            strings_can_be_null=False,
            true_values=["true", "True", "TRUE"],
            false_values=["false", "False", "FALSE"],
            auto_dict_encode=True,
            auto_dict_max_cardinality=MOST_WORDS,
        ),
    )


def _block_size(length: int) -> int:
    """Return bytes per portion: a few portions per core, and no more than fits into caches."""
    return min(max(length // 16, 1 << 20), 1 << 23)


def _is_doubtful(block: bytes, start: int, mark: str) -> bool:
    """Tell whether quotes may be read wrongly: one is open, or follows a space."""
    if block.find(b'"', start) < 0:
        return False
    after_space = re.compile(rb"(?:^|\n|" + re.escape(mark.encode()) + rb') +"')
    return _is_open(block, start) or after_space.search(block, max(start - 1, 0)) is not None


def _is_open(block: bytes, start: int) -> bool:
    return block.count(b'"', start) % 2 == 1


def _mended(form: Layout, block: bytes, start: int, line: int) -> bytes:
    """Write the rows out plainly, once every one is known to have as many cells as the header."""
    lines = io.StringIO(block[start:].decode(), newline="")
    reader = csv.reader(
        lines, delimiter=form.mark, skipinitialspace=True, strict=_is_open(block, start)
    )
    out = io.StringIO(newline="")
    try:
        csv.writer(out, delimiter=form.mark, lineterminator="\n").writerows(
            _checked(form, reader, line)
        )
    except csv.Error as error:
        raise DataError(f"{form.path}: line {line + reader.line_num} is not CSV: {error}") from None
    return out.getvalue().encode()


def _checked(form: Layout, reader: Any, line: int) -> Iterator[list[str]]:
    width = len(form.names)
    for cells in reader:
        if _is_blank(cells):
            continue
        if len(cells) != width:
            raise DataError(
                f"{form.path}: every row must have as many cells as the header ({width}), however "
                f"line {line + reader.line_num} has {len(cells)}; mend it, or quote cells that "
                f"hold {form.mark!r}"
            )
        yield cells


def _is_blank(cells: list[str]) -> bool:
    return len(cells) <= 1 and not "".join(cells).strip()


def _names(path: Path, cells: list[str]) -> list[str]:
    """Return the column names of a header row, or say that it is none."""
    names = [" ".join(cell.split()) for cell in cells]
    # Frames without names of their own are written with 0, 1, 2, ...: these are names.
    numbers = [name for name in names if NUMBER.fullmatch(name)]
    counted = names == [str(i) for i in range(len(names))]
    if (len(numbers) == len(names) and not counted) or any("." in name for name in numbers):
        raise DataError(
            f"{path}: needs a header row that names the columns, however its first row holds "
            f"numbers ({listed(numbers)}); add one"
        )
    try:
        return names_of(names)
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
