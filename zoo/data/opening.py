"""The bytes of a file: unpacked, whole, and as UTF-8 where they are text."""

import bz2
import codecs
import gzip
import io
import lzma
import os
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa

from zoo.errors import DataError

PORTION = 1 << 24  # bytes
ENCODINGS = {
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}
COMPRESSED: dict[bytes, Callable[[Any], Any]] = {
    b"\x1f\x8b": lambda raw: gzip.GzipFile(fileobj=raw),
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ\0": lzma.LZMAFile,
    b"\x28\xb5\x2f\xfd": lambda raw: pa.CompressedInputStream(pa.PythonFile(raw), "zstd"),
}
DAMAGED = (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile)


@contextmanager
def opened(path: Path) -> Iterator[io.BufferedReader]:
    """Open a regular file, unpacked, and see that nobody writes it meanwhile."""
    try:
        if path.is_dir():
            raise DataError(f"data.ref must be a file, however {path} is a directory; name a file")
        if path.exists() and not path.is_file():
            raise DataError(f"data.ref must be a regular file, however {path} is none")
        raw = path.open("rb")
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}; check the path") from None
    except ValueError as error:
        raise DataError(f"{str(path)!r}: cannot be read: {error}") from None
    with raw:
        before = _stamp(raw)
        head = raw.peek(8)
        unpack = next((u for magic, u in COMPRESSED.items() if head.startswith(magic)), None)
        try:
            yield raw if unpack is None else io.BufferedReader(unpack(raw))
        except DAMAGED as error:
            raise DataError(
                f"{path}: cannot be unpacked: {error}; it is damaged, or not written to its end"
            ) from None
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{path}: cannot be read: {' '.join(str(error).split())}") from None
        if _stamp(raw) != before:
            raise DataError(
                f"{path}: must stay as it is while it is read, however it was changed; wait until "
                "it is written to its end"
            )


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Name the file in errors that do not.

    >>> with naming(Path("t.csv")):
    ...     raise DataError("column 'x' is empty")
    Traceback (most recent call last):
    zoo.errors.DataError: t.csv: column 'x' is empty
    """
    try:
        yield
    except DataError as error:
        if path.name in str(error):
            raise
        raise DataError(f"{path}: {error}") from None


def portions(path: Path, stream: io.BufferedReader, size: int) -> Iterator[bytes]:
    """Yield text as UTF-8 whose lines end in ``\\n``, cut where a line ends.

    Args:
        path: for errors.
        stream: of the file, at its beginning.
        size: bytes of a portion, or -1 for all at once.
    """
    head = stream.peek(4)
    mark, encoding = next(
        ((mark, name) for mark, name in ENCODINGS.items() if head.startswith(mark)), (b"", "utf-8")
    )
    stream.read(len(mark))
    decoder = codecs.getincrementaldecoder(encoding)()
    rest, ended = b"", False
    while not ended:
        piece = stream.read(size)
        ended = size < 0 or not piece
        block = rest + _utf8(path, decoder, piece, ended, encoding == "utf-8")
        rest = b""
        if b"\0" in block:
            raise _not_utf8(path, "it holds a zero byte")
        if not ended:
            # A line may end in \r alone, but a last \r may be the first half of an end.
            cut = block.rfind(b"\n") + 1 or block.rfind(b"\r", 0, -1) + 1
            block, rest = block[:cut], block[cut:]
        if b"\r" in block:
            block = block.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        if block:
            yield block


def _utf8(path: Path, decoder: Any, piece: bytes, ended: bool, is_utf8: bool) -> bytes:
    """Return text in UTF-8, a little at a time: as characters it may be four times as large."""
    written = []
    for start in range(0, len(piece) or 1, PORTION):
        last = ended and start + PORTION >= len(piece)
        try:
            text = decoder.decode(piece[start : start + PORTION], last)
        except UnicodeDecodeError as error:
            raise _not_utf8(path, f"byte {start + error.start} is not") from None
        if not is_utf8:
            written.append(text.encode())
    return piece if is_utf8 else b"".join(written)


def _not_utf8(path: Path, fact: str) -> DataError:
    return DataError(
        f"{path}: must be UTF-8 text, however {fact}; save it as UTF-8, "
        f"such as by: iconv -f latin1 -t utf-8 {path.name} > utf8.csv"
    )


def _stamp(raw: io.BufferedReader) -> tuple[int, int]:
    """Return what changes when a file is written: its size and its time."""
    told = os.fstat(raw.fileno())
    return told.st_size, told.st_mtime_ns
