"""A prefix in a bucket: S3 and what speaks like it, Google Cloud Storage, Azure.

Credentials and endpoints come from the environment.  What a request's failure means to the user is
told by a :class:`ZooError`.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING, NoReturn
from urllib.parse import urlsplit

from zoo.errors import UnreachableError, UsageError, ZooError

if TYPE_CHECKING:
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
NO_BUCKET = re.compile(r"NoSuchBucket|ContainerNotFound|bucket does not exist", re.IGNORECASE)
REFUSED = re.compile(
    r"AccessDenied|InvalidAccessKeyId|SignatureDoesNotMatch|(Expired|Invalid)\w*Token"
    r"|TokenRefreshRequired|AuthenticationFailed|Missing ?AccessKeyId|must be specified"
    r"|40[13] (Unauthorized|Forbidden)",
    re.IGNORECASE,
)
_processes: dict[str, int] = {}  # the one in which the client has its threads


class Bucket:
    """What lies below a prefix in a bucket.

    Attributes:
        place: its URL.

    Raises:
        UsageError: where the URL is of an unknown kind, or holds what belongs into the environment.
    """

    def __init__(self, url: str, option: str = "") -> None:
        parts = urlsplit(url)
        if parts.scheme not in CLOUDS or not parts.hostname:
            kind = f"{parts.scheme}://..."
            raise UsageError(
                "a place is a folder, s3://BUCKET/PREFIX, gs://BUCKET/PREFIX or"
                f" az://CONTAINER/PREFIX, however this is {kind!r}"
            )
        variables = CLOUDS[parts.scheme][1]
        self.place = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}".rstrip("/")
        if "@" in parts.netloc or parts.query or parts.fragment:
            raise UsageError(
                f"{self.place}: the URL must hold the place alone, however there is more;"
                f" put credentials into {variables}"
            )
        self._option = option and f", or choose another place with {option}"
        self._hint = f"check {variables}"
        self._http = f"{CLOUDS[parts.scheme][0]}_ALLOW_HTTP"

    @cached_property
    def store(self) -> "ObjectStore":
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

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Tell what failed within as a :class:`ZooError`."""
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
                f"{self.place}: there is no such bucket; make it{self._option}"
            ) from None
        if "builder error" in text:
            raise UsageError(
                f"{self.place}: what is sent must be encrypted, however the endpoint is plain http,"
                f" or no URL at all; allow it by {self._http}=true"
            ) from None
        if REFUSED.search(text):
            raise UsageError(f"{self.place}: access was refused: {reason}; {self._hint}") from None
        raise UnreachableError(f"{self.place}: {reason}; try again when it answers") from None
