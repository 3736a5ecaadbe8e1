"""One SQLite file, opened so that a reader never waits and a writer never loses.

Write-ahead log, ``synchronous=FULL``, 30 s of patience; every write transaction takes the lock as
it begins, because a read that turns into a write fails at once instead of waiting.
"""

import json
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, insert, inspect, select
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError

from zoo.errors import IntegrityError, NotFoundError, UnreachableError, UsageError
from zoo.registry.tables import SCHEMA, meta, metadata

PATIENCE_S = 30
# Members of a zoo share most of what is written of them: it is parsed once, and never altered.
parse_json = lru_cache(maxsize=4096)(json.loads)
REFUSED = {sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM}
DAMAGED = {sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT}


def sqlite_path(url: str) -> Path:
    """Return the file that a database URL names.

    >>> sqlite_path("sqlite:////data/registry.db").as_posix()
    '/data/registry.db'

    Raises:
        UsageError: where it is no URL, or not one of a SQLite file.
    """
    try:
        parts = make_url(url)
        backend = parts.get_backend_name()
    except (ArgumentError, ValueError):
        raise UsageError(
            "a registry is named by a URL such as sqlite:///checkpoints/registry.db,"
            " however this one cannot be parsed"
        ) from None
    if backend != "sqlite" or parts.database in (None, "", ":memory:"):
        shown = parts.render_as_string(hide_password=True)
        raise UsageError(
            f"a registry is a SQLite file for now (sqlite:///PATH), however it is {shown!r}"
        )
    return Path(str(parts.database)).absolute()


class Database:
    """Transactions on a registry's file; expected failures come out as :class:`ZooError`.

    Raises:
        NotFoundError: where there is no registry and none is to be made.
        UsageError: where it cannot be made there, belongs to something else, or has newer tables.
        IntegrityError: where the file is not a database, or is damaged.
    """

    def __init__(self, path: Path, *, create: bool) -> None:
        self.path = path
        if create:
            make_folder(path.parent, "--registry")
        elif not path.is_file():
            raise NotFoundError(f"no registry at {path}; train-many makes one")
        self._engine = _engine(path)
        self._writer = self._engine.execution_options(write=True)
        try:
            self._open(create)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close every connection."""
        self._engine.dispose()

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """Open a transaction that sees one moment of the registry."""
        with self._explained(), self._engine.begin() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """Open a transaction that holds the lock; all of it is kept, or nothing."""
        with self._explained(), self._writer.begin() as connection:
            yield connection

    def _open(self, create: bool) -> None:
        with self.read() as connection:
            empty = self._check(connection)
        if not empty:
            return
        if not create:
            raise NotFoundError(f"no registry at {self.path}; train-many makes one")
        with self._explained():
            self._write_ahead()
        with self.write() as connection:
            if self._check(connection):  # nobody else was quicker
                metadata.create_all(connection)
                connection.execute(insert(meta).values(key="schema", value=str(SCHEMA)))

    def _write_ahead(self) -> None:
        """Turn on the write-ahead log; SQLite does not wait for others here, so this does."""
        deadline = time.monotonic() + PATIENCE_S
        raw = self._engine.raw_connection()
        try:
            while True:
                try:
                    raw.cursor().execute("PRAGMA journal_mode=WAL").close()
                    return
                except sqlite3.OperationalError as error:
                    if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                        raise
                    time.sleep(0.01)
        finally:
            raw.close()

    def _check(self, connection: Connection) -> bool:
        """Say whether the file is still empty; refuse one that is not ours to read."""
        tables = set(inspect(connection).get_table_names())
        if not tables:
            return True
        found = None
        if meta.name in tables:
            found = connection.scalar(select(meta.c.value).where(meta.c.key == "schema"))
        if found is None:
            raise UsageError(f"{self.path} is a database of something else, not a registry")
        if int(found) > SCHEMA:
            raise UsageError(
                f"{self.path} has schema {found}, however this version knows up to {SCHEMA};"
                " upgrade zoo-ensemble"
            )
        return False

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except DBAPIError as error:
            code = getattr(error.orig, "sqlite_errorcode", 0) & 0xFF
            if code in DAMAGED:
                raise IntegrityError(
                    f"{self.path} is not a sound database: {error.orig}"
                ) from error
            if code in REFUSED:
                raise UsageError(
                    f"{self.path}: {error.orig}; choose another place with --registry"
                ) from error
            if isinstance(error.orig, sqlite3.OperationalError) and code != sqlite3.SQLITE_ERROR:
                raise UnreachableError(f"{self.path}: {error.orig}") from error
            raise


def make_folder(folder: Path, option: str) -> None:
    """Make a folder and its parents.

    Raises:
        UsageError: where that fails, naming the path and the option that chooses another.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"{folder}: cannot be made: {error.strerror}; choose another place with {option}"
        ) from error


def _engine(path: Path) -> Engine:
    engine = create_engine(
        URL.create("sqlite", database=str(path)),
        connect_args={"timeout": PATIENCE_S},
        json_deserializer=parse_json,
    )

    @event.listens_for(engine, "connect")
    def connected(connection: Any, _record: object) -> None:
        connection.isolation_level = None  # the driver begins nothing: "begun" below does
        for pragma in ("foreign_keys=ON", "synchronous=FULL"):
            connection.execute(f"PRAGMA {pragma}").close()

    @event.listens_for(engine, "begin")
    def begun(connection: Connection) -> None:
        writing = connection.get_execution_options().get("write", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writing else "BEGIN")

    return engine
