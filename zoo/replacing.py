"""Files that are there in full or not at all."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from zoo.errors import UsageError


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Write a file that takes its place once it is complete; where that fails nothing has changed.

    Raises:
        UsageError: where it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with temporary.open("xb") as file:
            yield file
        os.replace(temporary, path)  # noqa: PTH105 - as in zoo.registry.blobs
    except OSError as error:
        raise UsageError(
            f"{path}: cannot be written: {error.strerror}; name another place"
        ) from error
    finally:
        with suppress(OSError):  # such as where its folder is none
            temporary.unlink()
