"""Weights in an object store: S3 and what speaks like it, Google Cloud Storage, Azure.

An upload is one request, or parts that appear together: nobody sees half an object.  Names are
digests, so that two writers of one name write the same bytes, and a store need not offer more than
that.  Credentials and endpoints come from the environment.
"""

import hashlib
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING, NoReturn
from urllib.parse import urlsplit

from zoo.errors import IntegrityError, UnreachableError, UsageError, ZooError
from zoo.registry.blobs import NAME, Blobs, Entry, Stray, name_of

if TYPE_CHECKING:
    from obstore import ObjectMeta
    from obstore.store import ClientConfig, ObjectStore, RetryConfig

# Scheme of the URL: how its environment variables begin, and those that hold the credentials.
CLOUDS = {
    "s3": ("AWS", "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"),
    "gs": ("GOOGLE", "GOOGLE_APPLICATION_CREDENTIALS"),
    "az": ("AZURE", "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY"),
}
RETRIES: "RetryConfig" = {
    "max_retries": 6,
    "backoff": {
        "init_backoff": timedelta(milliseconds=100),
        "max_backoff": timedelta(seconds=5),
    },
    "retry_timeout": timedelta(seconds=60),
}
FRESH_S = 60.0  # an object older than this is written anew: a collector may be about to take it
NO_BUCKET = re.compile(r"NoSuchBucket|ContainerNotFound|bucket does not exist", re.IGNORECASE)
REFUSED = re.compile(
    r"AccessDenied|InvalidAccessKeyId|SignatureDoesNotMatch|(Expired|Invalid)\w*Token"
    r"|TokenRefreshRequired|AuthenticationFailed|Missing ?AccessKeyId|must be specified"
    r"|40[13] (Unauthorized|Forbidden)",
    re.IGNORECASE,
)


_processes: dict[str, int] = {}  # the one in which the client has its threads


class RemoteBlobs(Blobs):
    """What lies below a prefix in a bucket.

    Raises:
        UsageError: where the URL is of an unknown kind, or holds what belongs into the environment.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in CLOUDS or not parts.hostname:
            kind = f"{parts.scheme}://..."
            raise UsageError(
                "blobs are kept in a folder, or at s3://BUCKET/PREFIX, gs://BUCKET/PREFIX or"
                f" az://CONTAINER/PREFIX, however this is {kind!r}"
            )
        variables = CLOUDS[parts.scheme][1]
        self.place = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}".rstrip("/")
        if "@" in parts.netloc or parts.query or parts.fragment:
            raise UsageError(
                f"{self.place}: the URL must hold the place alone, however there is more;"
                f" put credentials into {variables}"
            )
        self._hint = f"check {variables}"
        self._http = f"{CLOUDS[parts.scheme][0]}_ALLOW_HTTP"

    @cached_property
    def _store(self) -> "ObjectStore":
        """The client; made when it is first needed, because looking at runs needs none."""
        from obstore.store import from_url

        client: ClientConfig = {
            "allow_http": os.environ.get(self._http, "").lower() in ("1", "true", "yes"),
            "connect_timeout": "5s",
            "read_timeout": "30s",  # without an answer
            "timeout": "1h",
        }
        if self.place.startswith("s3:"):  # the server refuses what arrived altered
            return from_url(
                self.place,
                config={"checksum_algorithm": "SHA256"},
                client_options=client,
                retry_config=RETRIES,
            )
        return from_url(self.place, client_options=client, retry_config=RETRIES)

    def create(self) -> None:
        """Ask for the first of the objects: a bucket is not made, it must be there."""
        with self._explained():
            from obstore import list as listed

            next(iter(listed(self._store)), None)

    def put(self, data: bytes) -> str:
        """Upload bytes, unless they were uploaded just now."""
        sha256 = hashlib.sha256(data).hexdigest()
        with self._explained():
            from obstore import head, put

            try:
                found = head(self._store, name_of(sha256))
                fresh = time.time() - _written(found) < FRESH_S
                if fresh and found["size"] == len(data):
                    return sha256
            except FileNotFoundError:
                pass
            put(self._store, name_of(sha256), data)
        return sha256

    def get(self, sha256: str, size: int, owner: str) -> bytes:
        """Download bytes of the right length and digest."""
        where = f"{self.place}/{name_of(sha256)}"
        with self._explained():
            from obstore import get

            try:
                answer = get(self._store, name_of(sha256))
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
        with self._explained():
            from obstore import list as listed

            for some in listed(self._store):
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
            with self._explained(), suppress(FileNotFoundError):
                from obstore import delete, head

                name = name_of(sha256)
                if since is not None and _written(head(self._store, name)) > since:
                    return False
                delete(self._store, name)
        except ZooError:
            return False
        return True

    def child(self, name: str) -> "RemoteBlobs":
        """Return a longer prefix."""
        return RemoteBlobs(f"{self.place}/{name}")

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            from obstore.exceptions import BaseError
        except ModuleNotFoundError:
            raise UsageError(
                f"{self.place} needs obstore, however it is not installed;"
                " pip install 'zoo-ensemble[cloud]'"
            ) from None
        if _processes.setdefault("first", os.getpid()) != os.getpid():
            raise ZooError(
                f"{self.place}: an object store can be used by the process that began to, however"
                " this is a fork of it; begin after the fork, or start processes by spawn"
            )
        try:
            yield
        except (BaseError, FileNotFoundError) as error:
            self._refuse(error)

    def _refuse(self, error: Exception) -> NoReturn:
        """Raise what a failed request means to the user, without what was sent."""
        text = str(error).partition("\n\nDebug")[0]
        told = [re.search(f"<{tag}>([^<]*)", text) for tag in ("Code", "Message")]
        reason = ": ".join(found[1] for found in told if found)
        reason = reason or " ".join(text.split()).rpartition(" - ")[2]
        if NO_BUCKET.search(text):
            raise UsageError(
                f"{self.place}: there is no such bucket; make it, or choose another place with"
                " --blobs"
            ) from None
        if "builder error" in text:
            raise UsageError(
                f"{self.place}: what is sent must be encrypted, however the endpoint is plain http,"
                f" or no URL at all; allow it by {self._http}=true"
            ) from None
        if REFUSED.search(text):
            raise UsageError(f"{self.place}: access was refused: {reason}; {self._hint}") from None
        raise UnreachableError(f"{self.place}: {reason}; try again when it answers") from None


def _written(found: "ObjectMeta") -> float:
    """Say when an object was written, in seconds since 1970."""
    return found["last_modified"].timestamp()
