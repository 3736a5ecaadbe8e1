"""A file becomes a frame: delimited text, JSON lines, Parquet or Arrow, compressed or not.

What a file is, is told by its first bytes.  Text is UTF-8, or UTF-16 with its mark.  A file is read
at once by :func:`read`, and portion by portion by :func:`chunks`; the cells are the same.
"""

import io
from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import chain, pairwise
from pathlib import Path
from typing import Literal

import pandas as pd
import pyarrow as pa
import pyarrow.json
import pyarrow.parquet

from zoo.data import arrow, delimited
from zoo.data.arrow import NA
from zoo.data.opening import PORTION, opened, portions
from zoo.errors import DataError
from zoo.settings import PACKED

Format = Literal["text", "json", "parquet", "arrow", "stream"]
JSON = (".json", ".jsonl", ".ndjson")
MAGIC: dict[bytes, Format] = {
    b"PAR1": "parquet",
    b"ARROW1": "arrow",
    b"\xff\xff\xff\xff": "stream",
}


def read(path: Path, declared: Mapping[str, str], text: Collection[str] = ()) -> pd.DataFrame:
    """Read a table with named columns, each kept as :mod:`zoo.data.cells` says.

    Names are in Unicode's NFC form, any white space in them one space.  In delimited text, empty
    cells and pandas' words for them (``NA``, ``nan``, ``null`` ...) are missing.

    Args:
        path: of delimited text with a header row (commas, semicolons, tabs or bars), JSON lines,
            Parquet, Arrow or Feather; also compressed by gzip, bzip2, xz or zstd.
        declared: column -> ``numeric``, ``categorical``, ``boolean``, ``datetime`` or ``drop``;
            a categorical one is left as it is written (``007`` stays ``007``, ``NA`` stays ``NA``).
        text: other columns, whose cells are names even if they look like numbers; ``NA`` is none.

    Raises:
        DataError: naming the file, the line and the fault.
    """
    kinds = {**dict.fromkeys(text, "categorical"), **declared}
    words = [name for name, kind in kinds.items() if kind == "categorical"]
    with opened(path) as stream:
        form = _format(path, stream)
        if form == "text":
            content = b"".join(portions(path, stream, -1))
            outline = delimited.layout(path, content)
            names = outline.names
            dropped = [name for name, kind in declared.items() if kind == "drop"]
            table = delimited.parse(
                outline, content, outline.start, text=words, dropped=dropped, line=outline.line
            )
            del content
        else:
            table = next(_tables(path, stream, form, words, None), pa.table({}))
            names = arrow.names_of(table.column_names)
    arrow.check_declared(declared, names, str(path))
    _refuse_empty(path, table.num_rows)
    kept = [table]
    del table
    as_written = [name for name in words if name in declared]
    return arrow.from_table(kept.pop(), kinds, NA if form == "text" else (), as_written)


def chunks(
    path: Path, kinds: Mapping[str, str], as_written: Collection[str], rows: int
) -> Iterator[pd.DataFrame]:
    """Read a table portion by portion, however large it is.

    Args:
        path: see :func:`read`.
        kinds: column -> what it holds, or ``empty`` if that does not matter; other columns are
            ignored.
        as_written: those of them in which ``NA`` and the like are no missing values.
        rows: the most rows of a portion.

    Raises:
        DataError: naming the file, the line and the fault.
    """
    first = 0
    text = [name for name, kind in kinds.items() if kind == "categorical"]
    with opened(path) as stream:
        form = _format(path, stream)
        if form == "text":
            tables, na = _rows_of_text(path, stream, kinds), NA
        else:
            tables, na = _tables(path, stream, form, text, rows), frozenset()
        for table in _completed(tables, kinds) if form == "json" else tables:
            frame = arrow.from_table(arrow.only(table, kinds), kinds, na, as_written, first)
            first += len(frame)
            yield from (frame.iloc[i : i + rows] for i in range(0, len(frame), rows))
    _refuse_empty(path, first)


def _rows_of_text(
    path: Path, stream: io.BufferedReader, kinds: Mapping[str, str]
) -> Iterator[pa.Table]:
    """Read delimited text portion by portion, every cell as it is written but for numbers."""
    blocks = delimited.whole_rows(path, portions(path, stream, PORTION))
    first = next(blocks, b"")
    outline = delimited.layout(path, first)
    start, line = outline.start, outline.line
    arrow.check_needed(kinds, outline.names)
    numbers = [name for name in outline.names if kinds.get(name) == "numeric"]
    ignored = [name for name in outline.names if name not in kinds]
    for block in chain([first], blocks):
        if block[start:].strip():
            yield delimited.parse(
                outline, block, start, text=None, numbers=numbers, dropped=ignored, line=line
            )
        line += block.count(b"\n", start)
        start = 0


def _tables(
    path: Path, stream: io.BufferedReader, form: Format, text: Collection[str], rows: int | None
) -> Iterator[pa.Table]:
    """Read other formats, at once or so many rows at a time.

    Args:
        path: for errors.
        stream: of the file, at its beginning.
        form: what it is.
        text: columns that JSON shall leave as they are written.
        rows: None for all.
    """
    if form == "json":
        size = -1 if rows is None else PORTION
        yield from (_json(path, block, text) for block in portions(path, stream, size))
        return
    plain = isinstance(stream.raw, io.FileIO)
    source = pa.OSFile(str(path)) if plain else pa.BufferReader(stream.read())
    if form == "parquet":
        file = pyarrow.parquet.ParquetFile(source)
        if rows is None:
            yield file.read()
        else:
            yield from (pa.Table.from_batches([batch]) for batch in file.iter_batches(rows))
    elif form == "arrow":
        reader = pa.ipc.open_file(source)
        if rows is None:
            yield reader.read_all()
        else:
            for place in range(reader.num_record_batches):
                yield pa.Table.from_batches([reader.get_batch(place)])
    else:
        reader = pa.ipc.open_stream(source)
        if rows is None:
            yield reader.read_all()
        else:
            yield from (pa.Table.from_batches([batch]) for batch in reader)


def _completed(tables: Iterable[pa.Table], names: Collection[str]) -> Iterator[pa.Table]:
    """Fill up the columns of JSON lines that only other portions have."""
    absent = set(names)
    for table, following in pairwise(chain(tables, [None])):
        present = set(arrow.names_of(table.column_names))
        absent -= present
        # What no portion has stays away, so that whoever needs it says so.
        lacking = set(names) - present - (set() if following else absent)
        for name in lacking:
            table = table.append_column(name, pa.nulls(table.num_rows))
        yield table


def _json(path: Path, block: bytes, text: Collection[str]) -> pa.Table:
    """Read JSON lines; columns named by ``text`` keep their text as it is written."""
    if block.lstrip()[:1] == b"[":
        raise DataError(
            f"{path}: must hold JSON lines, one object per row, however it is one array; write it "
            'such as by pandas: frame.to_json(path, orient="records", lines=True)'
        )
    if not block.strip():
        raise DataError(f"{path}: has no rows: the file is empty; it needs one object per row")
    table = _parsed(block, None)
    # Text that looks like a time would not be left as it was written.
    times = {name for name in text if name in table.column_names} & {
        field.name for field in table.schema if pa.types.is_timestamp(field.type)
    }
    return _parsed(block, pa.schema([(name, pa.string()) for name in times])) if times else table


def _parsed(block: bytes, schema: pa.Schema | None) -> pa.Table:
    return pyarrow.json.read_json(
        pa.BufferReader(block),
        pyarrow.json.ReadOptions(block_size=PORTION),
        pyarrow.json.ParseOptions(explicit_schema=schema),
    )


def _refuse_empty(path: Path, rows: int) -> None:
    if not rows:
        raise DataError(f"{path}: has no rows: nothing is below the header; add data")


def _format(path: Path, stream: io.BufferedReader) -> Format:
    """Tell what a file is by its first bytes; JSON also by its name."""
    head = stream.peek(8)
    for magic, form in MAGIC.items():
        if head.startswith(magic):
            return form
    if head.startswith(b"PK\3\4"):
        raise DataError(
            f"{path}: must be a table, however it is an archive or a workbook; unpack it, or save "
            "the sheet as CSV"
        )
    name = path.name.lower()
    for ending in PACKED:
        name = name.removesuffix(ending)
    return "json" if name.endswith(JSON) or head.startswith(b'{"') else "text"
