"""Files that appear under their names in full or not at all, several of them together."""

import os
import secrets
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from zoo.errors import UsageError, ZooError
from zoo.registry.places import sync_folder

Write = Callable[[BinaryIO], None]


def write_all(files: Mapping[Path, Write], *, force: bool) -> None:
    """Write files beside their names first, each flushed to the disk; then rename them.

    Args:
        files: what to write where; folders are made.
        force: whether to replace files that are there.

    Raises:
        UsageError: where one is there, before anything is written.
        ZooError: where one cannot be written; none of them is there then.
    """
    for path in files:
        if path.is_dir() or (os.path.lexists(path) and not force):
            hint = "name another place" if path.is_dir() else "--force replaces it"
            raise UsageError(f"{path}: is there already; {hint}")
    written: dict[Path, Path] = {}
    made: list[Path] = []
    path = Path()
    try:
        for path, write in files.items():
            made += _make(path.parent)
            temporary = path.with_name(f".{secrets.token_hex(8)}.tmp")
            written[path] = temporary
            with temporary.open("xb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
        for path, temporary in written.items():
            os.replace(temporary, path)  # noqa: PTH105 - as in zoo.registry.blobs
        for folder in {path.parent for path in written}:
            sync_folder(folder)
    except OSError as error:
        raise ZooError(
            f"{path}: cannot be written: {error.strerror}; make room there, or name another place"
        ) from error
    finally:
        for temporary in written.values():
            with suppress(OSError):  # such as where it has its name already
                temporary.unlink()
        for folder in reversed(made):
            with suppress(OSError):  # there is something in it
                folder.rmdir()


def _make(folder: Path) -> list[Path]:
    """Make a folder and those above it; return the ones that were not there."""
    missing = [one for one in (folder, *folder.parents) if not one.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    return missing[::-1]
