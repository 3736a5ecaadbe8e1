"""Weights as files or objects named by the SHA-256 of their bytes: whole or not at all.

``<first two digits>/<sha256>.safetensors`` below one place, which may be moved or copied at will:
a folder (this module) or an object store (:mod:`zoo.registry.remote`).
"""

import hashlib
import os
import re
import secrets
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from zoo.errors import IntegrityError, UsageError, ZooError
from zoo.registry.places import make_folder, sync_folder

NAME = re.compile(r"([0-9a-f]{2})/(\1[0-9a-f]{62})\.safetensors")
SETTLED_NS = 1_000_000_000  # a file this old has another time if it is written once more


@dataclass(frozen=True)
class Entry:
    """What is stored under a digest: its length in bytes, and when, in seconds since 1970."""

    sha256: str
    size: int
    modified: float


@dataclass(frozen=True)
class Stray:
    """A file that somebody is writing, or that a crash has left."""

    path: Path
    size: int
    modified: float


class Blobs(Protocol):
    """A place where bytes are kept.

    Attributes:
        place: how messages name it.
    """

    place: str

    def create(self) -> None:
        """Make the place, or check that it is there.

        Raises:
            UsageError: where it cannot be made or used.
            UnreachableError: where it does not answer.
        """

    def put(self, data: bytes) -> str:
        """Keep bytes and return their SHA-256; after a crash they are there in full or not at all.

        Raises:
            ZooError: where they cannot be written, or not as they were given.
        """

    def get(self, sha256: str, size: int, owner: str) -> bytes:
        """Return the bytes that were published, or nothing.

        Raises:
            IntegrityError: where they are missing, of another length, or altered; ``owner`` leads
                the message.
            ZooError: where they cannot be read.
        """

    def entries(self) -> Iterator[Entry]:
        """Tell all that is stored, in no order; what has another kind of name is passed over."""

    def strays(self) -> Iterator[Stray]:
        """Tell the files that are not stored yet, or never will be."""

    def remove(self, sha256: str, since: float | None = None) -> bool:
        """Remove what is stored under a digest; say whether nothing is there now.

        Where ``since`` is given, what was written after that time, in seconds since 1970, stays.
        """

    def child(self, name: str) -> "Blobs":
        """Return the place of that name within this one; neither tells what the other keeps."""


def open_blobs(place: str | Path) -> Blobs:
    """Choose what keeps bytes at a place: a folder, or the URL of an object store.

    >>> open_blobs("s3://bucket/zoo").child("states").place
    's3://bucket/zoo/states'

    Raises:
        UsageError: where it is a URL of another kind.
    """
    if "://" not in str(place):
        return LocalBlobs(place)
    from zoo.registry.remote import RemoteBlobs

    return RemoteBlobs(str(place))


def name_of(sha256: str) -> str:
    """Say where below its place a digest is kept.

    Raises:
        IntegrityError: where it is no digest, as in a catalogue that somebody tampered with.
    """
    if not re.fullmatch(r"[0-9a-f]{64}", sha256):
        raise IntegrityError(f"files are named by their SHA-256, not {sha256[:80]!r}")
    return f"{sha256[:2]}/{sha256}.safetensors"


class LocalBlobs(Blobs):
    """A folder; unfinished files are in its ``tmp``."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder).absolute()
        self.place = str(self.folder)
        self._verified: dict[str, tuple[int, int, int]] = {}

    def create(self) -> None:
        """Make the folder."""
        make_folder(self.folder / "tmp", "--blobs")
        if not os.access(self.folder / "tmp", os.W_OK | os.X_OK):
            raise UsageError(f"{self.folder}: cannot be written; choose another place with --blobs")

    def path(self, sha256: str) -> Path:
        """Say where the bytes of that digest are."""
        return self.folder / name_of(sha256)

    def put(self, data: bytes) -> str:
        """Write a temporary file, flush it, read it again, rename it, flush the folder."""
        sha256 = hashlib.sha256(data).hexdigest()
        final = self.path(sha256)
        temporary = self.folder / "tmp" / secrets.token_hex(16)
        try:
            temporary.parent.mkdir(parents=True, exist_ok=True)
            try:
                _write(temporary, data)
                if _digest(temporary) != sha256:
                    raise ZooError(
                        f"{final}: was read otherwise than it was written; the disk or the memory"
                        " may be failing; choose another place with --blobs"
                    )
                if not final.parent.is_dir():
                    final.parent.mkdir(exist_ok=True)
                    sync_folder(self.folder)
                os.replace(temporary, final)  # noqa: PTH105 - one seam for all of the protocol
                sync_folder(final.parent)
            finally:
                temporary.unlink(missing_ok=True)
        except OSError as error:
            raise ZooError(
                f"{final}: cannot be written: {error.strerror}; make room there,"
                " or choose another place with --blobs"
            ) from error
        return sha256

    def get(self, sha256: str, size: int, owner: str) -> bytes:
        """Read a file; its digest is not computed twice while nobody writes it."""
        path = self.path(sha256)
        try:
            found = path.stat()
            if found.st_size != size:
                raise IntegrityError(
                    f"{owner}: expected {size} bytes, found {found.st_size}: {path}"
                )
            data = path.read_bytes()
        except FileNotFoundError:
            raise IntegrityError(f"{owner}: expected {size} bytes, found no file: {path}") from None
        except OSError as error:
            raise ZooError(f"{owner}: cannot be read: {error.strerror}: {path}") from error
        stamp = (found.st_ino, found.st_size, found.st_mtime_ns)
        if self._verified.get(sha256) != stamp:
            if hashlib.sha256(data).hexdigest() != sha256:
                raise IntegrityError(f"{owner}: SHA-256 mismatch, the file was altered: {path}")
            if time.time_ns() - found.st_mtime_ns > SETTLED_NS:
                self._verified[sha256] = stamp
        return data

    def entries(self) -> Iterator[Entry]:
        """Look into the folders of two digits."""
        for path in self.folder.glob("[0-9a-f][0-9a-f]/*.safetensors"):
            name = NAME.fullmatch(path.relative_to(self.folder).as_posix())
            with suppress(FileNotFoundError):  # it was removed meanwhile
                if name and path.is_file():
                    found = path.stat()
                    yield Entry(name[2], found.st_size, found.st_mtime)

    def strays(self) -> Iterator[Stray]:
        """Look into ``tmp``."""
        for path in (self.folder / "tmp").glob("*"):
            with suppress(FileNotFoundError):  # it was finished meanwhile
                found = path.stat()
                yield Stray(path, found.st_size, found.st_mtime)

    def remove(self, sha256: str, since: float | None = None) -> bool:
        """Remove a file."""
        path = self.path(sha256)
        try:
            if since is not None and path.stat().st_mtime > since:
                return False
            path.unlink()
        except FileNotFoundError:
            return True
        except OSError:
            return False
        return True

    def child(self, name: str) -> "LocalBlobs":
        """Return a folder within this one."""
        return LocalBlobs(self.folder / name)


def _write(path: Path, data: bytes) -> None:
    """Write and flush to the disk, with the permissions the umask gives."""
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
        if hasattr(os, "posix_fadvise"):  # so that it is read from the disk, not from memory
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
