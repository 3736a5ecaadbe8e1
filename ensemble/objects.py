"""Members and results in object stores: read in chunks, ahead of who asks; written as a stream."""

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import PurePosixPath
from threading import Lock

import numpy as np

from ensemble.dtypes import Array
from zoo.errors import UnsafeFileError, UsageError
from zoo.registry.bucket import Bucket

CHUNK = 8 << 20  # bytes of a request
AHEAD = 2  # chunks that are asked for before they are needed
HELD = 4  # chunks of an object
PART = 32 << 20  # bytes of a part of an upload; S3 takes 10,000
REQUESTS = 16  # at once, of all objects together


class Object:
    """An object, as it was when it was opened.

    Attributes:
        url: where it is.
        size: in bytes.

    Raises:
        UsageError: where there is none.
    """

    def __init__(self, bucket: Bucket, name: str, pool: ThreadPoolExecutor) -> None:
        from obstore import head

        self.url = f"{bucket.place}/{name}"
        self._bucket, self._name, self._pool = bucket, name, pool
        self._chunks: OrderedDict[int, Future[Array]] = OrderedDict()
        self._lock = Lock()
        with bucket.explained():
            try:
                found = head(bucket.store, name)
            except FileNotFoundError:
                raise UsageError(f"{self.url}: cannot be read: there is no such object") from None
        self.size, self._tag = found["size"], found["e_tag"]

    def fill(self, start: int, buffer: Array, offset: int) -> None:
        """Fill an array of bytes with those from ``start`` + ``offset`` on."""
        place, done = start + offset, 0
        while done < buffer.size:
            number, skip = divmod(place + done, CHUNK)
            part = self._chunk(number)[skip : skip + buffer.size - done]
            if not part.size:
                raise UnsafeFileError(f"{self.url}: ends before its header says it does")
            buffer[done : done + part.size] = part
            done += part.size

    def fetch(self, start: int, count: int) -> bytes:
        """Return bytes."""
        buffer = np.empty(count, np.uint8)
        self.fill(start, buffer, 0)
        return buffer.tobytes()

    def _chunk(self, number: int) -> Array:
        """Return a chunk; ask for the next ones."""
        with self._lock:
            for each in range(number, number + AHEAD + 1):
                if each not in self._chunks and each * CHUNK < self.size:
                    self._chunks[each] = self._pool.submit(self._get, each)
            if number not in self._chunks:
                return np.empty(0, np.uint8)
            self._chunks.move_to_end(number)
            asked = self._chunks[number]
            while len(self._chunks) > HELD:
                self._chunks.popitem(last=False)
        return asked.result()

    def _get(self, number: int) -> Array:
        from obstore import get
        from obstore.exceptions import PreconditionError

        stop = min((number + 1) * CHUNK, self.size)
        with self._bucket.explained():
            try:
                answer = get(
                    self._bucket.store,
                    self._name,
                    options={"range": (number * CHUNK, stop), "if_match": self._tag},
                )
                return np.frombuffer(memoryview(answer.bytes()), np.uint8)
            except PreconditionError:
                raise UnsafeFileError(
                    f"{self.url}: was changed while it was read; average once more"
                ) from None


def names_in(bucket: Bucket) -> list[str]:
    """Return the names of the objects directly below the prefix."""
    from obstore import list_with_delimiter

    with bucket.explained():
        listed = list_with_delimiter(bucket.store)["objects"]
    return sorted(PurePosixPath(found["path"]).name for found in listed)


def content(bucket: Bucket, name: str, most: int) -> bytes:
    """Return an object of at most so many bytes."""
    with ThreadPoolExecutor(AHEAD) as pool:
        found = Object(bucket, name, pool)
        if found.size > most:
            raise UnsafeFileError(
                f"{found.url}: may have {most} bytes, however it has {found.size}"
            )
        return found.fetch(0, found.size)


def put_all(bucket: Bucket, objects: Mapping[str, Iterable[bytes]], *, force: bool) -> None:
    """Upload objects one after another; each appears as a whole, once all of it has arrived.

    Raises:
        UsageError: where one is there, before anything is made, unless ``force``.
    """
    from obstore import head, put

    for name in objects if not force else ():
        with bucket.explained():
            try:
                head(bucket.store, name)
            except FileNotFoundError:
                continue
        raise UsageError(f"{bucket.place}/{name}: is there already; --force replaces it")
    for name, parts in objects.items():
        with bucket.explained():
            # Parts are asked for by a thread of obstore's own, which must not ask obstore itself.
            put(bucket.store, name, iter(parts), chunk_size=PART, max_concurrency=4)
