"""A catalogue in one SQLite file, opened so that a reader never waits and a writer never loses.

Write-ahead log, ``synchronous=FULL``, 30 s of patience; every write transaction takes the lock as
it begins, because a read that turns into a write fails at once instead of waiting.
"""

import sqlite3
import time
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.exc import DBAPIError

from zoo.errors import IntegrityError, NotFoundError, UnreachableError, UsageError
from zoo.registry.places import make_folder, network_filesystem
from zoo.registry.values import from_json, to_json

PATIENCE_S = 30
REFUSED = {sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM}
DAMAGED = {sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT}


class SQLite:
    """A file on a disk of this machine; see :class:`~zoo.registry.database.Backend`."""

    def __init__(self, path: str) -> None:
        self.path = Path(path).absolute()
        self.place = str(self.path)

    def engines(self, *, create: bool) -> tuple[Engine, Engine]:
        """Check the place, and make the folder if need be."""
        kind = network_filesystem(self.path)
        if kind:
            raise UsageError(
                f"a SQLite registry must be on a disk of this machine, however {self.place} is on"
                f" {kind}, where locks may fail; use PostgreSQL"
                " (--registry postgresql+psycopg://USER@HOST/DATABASE)"
            )
        if create:
            make_folder(self.path.parent, "--registry")
        elif not self.path.is_file():
            raise NotFoundError(f"no registry at {self.place}; train-many makes one")
        engine = create_engine(
            URL.create("sqlite", database=self.place),
            connect_args={"timeout": PATIENCE_S},
            json_serializer=to_json,
            json_deserializer=from_json,
        )
        event.listen(engine, "connect", _connected)
        event.listen(engine, "begin", _begun)
        return engine, engine.execution_options(write=True)

    def prepare(self, reader: Engine) -> None:
        """Turn on the write-ahead log; SQLite does not wait for others here, so this does."""
        deadline = time.monotonic() + PATIENCE_S
        raw = reader.raw_connection()
        try:
            while True:
                try:
                    raw.cursor().execute("PRAGMA journal_mode=WAL").close()
                    return
                except sqlite3.Error as error:
                    if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                        raise self._meaning(error) or error from error
                    time.sleep(0.01)
        finally:
            raw.close()

    def faults(self, connection: Connection) -> list[str]:
        """Let SQLite check every page, index and reference."""
        pages = connection.exec_driver_sql("PRAGMA integrity_check").scalars()
        loose = connection.exec_driver_sql("PRAGMA foreign_key_check").all()
        told = [line for line in pages if line != "ok"]
        told += [f"row {row} of {table} refers to nothing" for table, row, *_ in loose]
        return [f"{self.place}: {line}" for line in told]

    def set_aside(self) -> str:
        """Rename the file and its log."""
        aside = f"{self.place}.damaged-{time.strftime('%Y%m%d-%H%M%S')}"
        for suffix in ("", "-wal", "-shm"):
            file = Path(self.place + suffix)
            if file.exists():
                file.rename(aside + suffix)
        return aside

    def explain(self, error: DBAPIError) -> Exception | None:
        """Tell a damaged file from one that may not be used, and from what may pass."""
        return self._meaning(error.orig)

    def _meaning(self, error: BaseException | None) -> Exception | None:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code in DAMAGED:
            return IntegrityError(f"{self.place} is not a sound database: {error}")
        if code in REFUSED:
            return UsageError(f"{self.place}: {error}; choose another place with --registry")
        if isinstance(error, sqlite3.OperationalError) and code != sqlite3.SQLITE_ERROR:
            return UnreachableError(f"{self.place}: {error}")
        return None


def _connected(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # the driver begins nothing: _begun does
    for pragma in ("foreign_keys=ON", "synchronous=FULL"):
        connection.execute(f"PRAGMA {pragma}").close()


def _begun(connection: Connection) -> None:
    writing = connection.get_execution_options().get("write", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writing else "BEGIN")
