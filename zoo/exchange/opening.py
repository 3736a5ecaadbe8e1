"""Files from outside, opened without trust: regular, of a limited size, never waited for.

Nothing here is heavy to import.
"""

import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Any

from zoo.errors import UnsafeFileError, UsageError
from zoo.registry import layout

MOST_BYTES = 64 << 30  # of a file
MOST_JSON = 16 << 20  # of an index
INDEX, CONFIG = "model.safetensors.index.json", "config.json"


@contextmanager
def opened(path: Path, most: int | None = None) -> Iterator[tuple[BufferedReader, int]]:
    """Open a regular file that is not larger than ``most``; give it and its size in bytes.

    Raises:
        UsageError: where there is none, or it cannot be read.
        UnsafeFileError: where it is too large.
    """
    most = MOST_BYTES if most is None else most
    try:
        # Without waiting: a pipe would be waited for, perhaps for ever.
        file = os.fdopen(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)), "rb")
    except (OSError, ValueError) as error:  # the latter for a zero byte in the name
        told = error.strerror if isinstance(error, OSError) else error
        raise UsageError(f"{path}: cannot be read: {told}") from None
    with file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode):
            raise UsageError(f"{path}: must be a file, however it is none")
        if found.st_size > most:
            raise UnsafeFileError(f"{path}: may have {most} bytes, however it has {found.st_size}")
        yield file, found.st_size


def read_json(path: Path, most: int = MOST_JSON) -> dict[str, Any]:
    """Read a JSON object of at most so many bytes.

    Raises:
        UsageError: where there is no such file.
        UnsafeFileError: where it is too large, or is no JSON object.
    """
    with opened(path, most) as (file, _):
        return parse_object(file.read(most + 1), str(path))


def parse_object(content: bytes, place: str) -> dict[str, Any]:
    """Parse a JSON object; messages name its place.

    Raises:
        UnsafeFileError: where it is none.
    """
    try:
        value = layout.parse_json(content)
    except ValueError as error:
        raise UnsafeFileError(f"{place}: is not sound JSON: {error}") from None
    if not isinstance(value, dict):
        raise UnsafeFileError(f"{place}: must be a JSON object, however it is not")
    return value


def shards(content: bytes, index: str) -> dict[str, set[str]]:
    """Return the files that an index names, each with its tensors; messages name its place."""
    names = parse_object(content, index).get("weight_map")
    if not isinstance(names, dict) or not names:
        raise UnsafeFileError(f"{index}: must hold a weight_map, however it does not")
    files: dict[str, set[str]] = {}
    for tensor, name in names.items():
        if not isinstance(name, str) or not re.fullmatch(r"[\w-][\w.-]{0,200}\.safetensors", name):
            raise UnsafeFileError(
                f"{index}: names files beside it, such as model-00001-of-00002.safetensors, "
                f"however one is {str(name)[:100]!r}"
            )
        files.setdefault(name, set()).add(tensor)
    return files
