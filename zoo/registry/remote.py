"""Weights in an object store, below a prefix of a bucket.

An upload is one request, or parts that appear together: nobody sees half an object.  Names are
digests, so that two writers of one name write the same bytes, and a store need not offer more than
that.
"""

import hashlib
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

from zoo.errors import IntegrityError, ZooError
from zoo.registry.blobs import NAME, Blobs, Entry, Stray, name_of
from zoo.registry.bucket import NO_BUCKET, Bucket

if TYPE_CHECKING:
    from obstore import ObjectMeta

FRESH_S = 60.0  # an object older than this is written anew: a collector may be about to take it


class RemoteBlobs(Blobs):
    """What lies below a prefix in a bucket.

    Raises:
        UsageError: where the URL is of an unknown kind, or holds what belongs into the environment.
    """

    def __init__(self, url: str) -> None:
        self._bucket = Bucket(url, "--blobs")
        self.place = self._bucket.place

    def create(self) -> None:
        """Ask for the first of the objects: a bucket is not made, it must be there."""
        with self._bucket.explained():
            from obstore import list as listed

            next(iter(listed(self._bucket.store)), None)

    def put(self, data: bytes) -> str:
        """Upload bytes, unless they were uploaded just now."""
        sha256 = hashlib.sha256(data).hexdigest()
        with self._bucket.explained():
            from obstore import head, put

            try:
                found = head(self._bucket.store, name_of(sha256))
                fresh = time.time() - _written(found) < FRESH_S
                if fresh and found["size"] == len(data):
                    return sha256
            except FileNotFoundError:
                pass
            put(self._bucket.store, name_of(sha256), data)
        return sha256

    def get(self, sha256: str, size: int, owner: str) -> bytes:
        """Download bytes of the right length and digest."""
        where = f"{self.place}/{name_of(sha256)}"
        with self._bucket.explained():
            from obstore import get

            try:
                answer = get(self._bucket.store, name_of(sha256))
            except FileNotFoundError as error:
                if NO_BUCKET.search(str(error)):
                    raise
                raise IntegrityError(
                    f"{owner}: expected {size} bytes, found no object: {where}"
                ) from None
            found = answer.meta["size"]
            if found != size:
                raise IntegrityError(f"{owner}: expected {size} bytes, found {found}: {where}")
            data = bytes(answer.bytes())
        if hashlib.sha256(data).hexdigest() != sha256:
            raise IntegrityError(f"{owner}: SHA-256 mismatch, the object was altered: {where}")
        return data

    def entries(self) -> Iterator[Entry]:
        """List the objects, a thousand with each request."""
        with self._bucket.explained():
            from obstore import list as listed

            for some in listed(self._bucket.store):
                for found in some:
                    name = NAME.fullmatch(found["path"])
                    if name:
                        yield Entry(name[2], found["size"], _written(found))

    def strays(self) -> Iterator[Stray]:
        """Tell none: the parts of unfinished uploads are no objects, and the store's to expire."""
        return iter(())

    def remove(self, sha256: str, since: float | None = None) -> bool:
        """Delete an object."""
        try:
            with self._bucket.explained(), suppress(FileNotFoundError):
                from obstore import delete, head

                name = name_of(sha256)
                if since is not None and _written(head(self._bucket.store, name)) > since:
                    return False
                delete(self._bucket.store, name)
        except ZooError:
            return False
        return True

    def child(self, name: str) -> "RemoteBlobs":
        """Return a longer prefix."""
        return RemoteBlobs(f"{self.place}/{name}")


def _written(found: "ObjectMeta") -> float:
    """Say when an object was written, in seconds since 1970."""
    return found["last_modified"].timestamp()
