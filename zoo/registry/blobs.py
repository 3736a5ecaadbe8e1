"""Files named by the SHA-256 of their bytes: written whole or not at all, checked when read."""

import hashlib
import os
import re
import secrets
from contextlib import suppress
from pathlib import Path

from zoo.errors import IntegrityError, UsageError, ZooError
from zoo.registry.database import make_folder


class Blobs:
    """A folder of weights, ``<first two digits>/<sha256>.safetensors``; it may be moved at will."""

    def __init__(self, folder: str | Path) -> None:
        if "://" in str(folder):
            raise UsageError(f"blobs are kept in a local folder for now, however it is {folder!r}")
        self.folder = Path(folder).absolute()

    def create(self) -> None:
        """Make the folder.

        Raises:
            UsageError: where it cannot be made or written.
        """
        make_folder(self.folder / "tmp", "--blobs")
        if not os.access(self.folder / "tmp", os.W_OK | os.X_OK):
            raise UsageError(f"{self.folder}: cannot be written; choose another place with --blobs")

    def path(self, sha256: str) -> Path:
        """Say where the bytes of that digest are.

        Raises:
            IntegrityError: where it is no digest, as in a catalogue that somebody tampered with.
        """
        if not re.fullmatch(r"[0-9a-f]{64}", sha256):
            raise IntegrityError(f"{self.folder}: files are named by SHA-256, not {sha256[:80]!r}")
        return self.folder / sha256[:2] / f"{sha256}.safetensors"

    def put(self, data: bytes) -> str:
        """Keep bytes and return their SHA-256; after a crash they are there in full or not at all.

        Raises:
            ZooError: where they cannot be written (disk full, no permission); nothing is left.
        """
        sha256 = hashlib.sha256(data).hexdigest()
        final = self.path(sha256)
        temporary = self.folder / "tmp" / secrets.token_hex(16)
        try:
            temporary.parent.mkdir(parents=True, exist_ok=True)
            try:
                _write(temporary, data)
                if not final.parent.is_dir():
                    final.parent.mkdir(exist_ok=True)
                    _sync_folder(self.folder)
                os.replace(temporary, final)  # noqa: PTH105 - one seam for all of the protocol
                _sync_folder(final.parent)
            finally:
                temporary.unlink(missing_ok=True)
        except OSError as error:
            raise ZooError(
                f"{final}: cannot be written: {error.strerror}; make room there,"
                " or choose another place with --blobs"
            ) from error
        return sha256

    def remove(self, sha256: str) -> None:
        """Remove a file; one that cannot be removed stays, as nobody needs it gone."""
        with suppress(OSError):
            self.path(sha256).unlink(missing_ok=True)

    def get(self, sha256: str, size: int, owner: str) -> bytes:
        """Return the bytes that were published, or nothing.

        Raises:
            IntegrityError: where they are missing, of another length, or altered; ``owner`` leads
                the message.
            ZooError: where they cannot be read.
        """
        path = self.path(sha256)
        try:
            found = path.stat().st_size
            if found != size:
                raise IntegrityError(f"{owner}: expected {size} bytes, found {found}: {path}")
            data = path.read_bytes()
        except FileNotFoundError:
            raise IntegrityError(f"{owner}: expected {size} bytes, found no file: {path}") from None
        except OSError as error:
            raise ZooError(f"{owner}: cannot be read: {error.strerror}: {path}") from error
        if hashlib.sha256(data).hexdigest() != sha256:
            raise IntegrityError(f"{owner}: SHA-256 mismatch, the file was altered: {path}")
        return data


def _write(path: Path, data: bytes) -> None:
    """Write and flush to the disk, with the permissions the umask gives."""
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    """Make the names in a folder survive a loss of power."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
