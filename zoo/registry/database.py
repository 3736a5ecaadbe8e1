"""The catalogue's database, whichever it is: readers see one moment, writers take turns.

A write transaction takes one lock for the whole registry as it begins, so that what it reads still
holds when it writes; none of them fails because of another, and each is short.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from sqlalchemy import Connection, Engine, inspect, select
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError

from zoo.errors import NotFoundError, UsageError
from zoo.registry.tables import SCHEMA, meta

EXAMPLES = "sqlite:///checkpoints/registry.db or postgresql+psycopg://USER@HOST/DATABASE"


class Backend(Protocol):
    """A kind of database.

    Attributes:
        place: how messages name it, without a password.
    """

    place: str

    def engines(self, *, create: bool) -> tuple[Engine, Engine]:
        """Prepare to connect; return how readers and how writers begin, with one pool.

        Raises:
            NotFoundError: where there is no such database and none is to be made.
            UsageError: where the place cannot be used.
        """

    def prepare(self, reader: Engine) -> None:
        """Do what must be done once before there are tables, and cannot be within a transaction."""

    def faults(self, connection: Connection) -> list[str]:
        """Look for damage within the database, one line each."""

    def set_aside(self) -> str:
        """Rename a damaged database, so that a new one can be made; return its new name."""

    def explain(self, error: DBAPIError) -> Exception | None:
        """Say what an error of the driver means to the user; None where it is a defect of ours."""


def backend(url: str) -> Backend:
    """Choose what answers for a URL.

    >>> backend("sqlite:////data/registry.db").place
    '/data/registry.db'
    >>> backend("postgresql://ann:secret@db.example/zoo").place
    'postgresql+psycopg://ann:***@db.example/zoo'

    Raises:
        UsageError: where it cannot be parsed, or names another kind of database.
    """
    try:
        parts = make_url(url)
        kind = parts.get_backend_name()
    except (ArgumentError, ValueError):
        raise UsageError(
            f"a registry is named by a URL such as {EXAMPLES}, however this one cannot be parsed"
        ) from None
    if kind == "postgresql" and parts.drivername in (kind, "postgresql+psycopg"):
        from zoo.registry.postgres import Postgres

        return Postgres(parts)
    if kind == "sqlite" and parts.database not in (None, "", ":memory:"):
        from zoo.registry.sqlite import SQLite

        return SQLite(str(parts.database))
    shown = parts.set(query={}).render_as_string(hide_password=True)
    raise UsageError(f"a registry is named by {EXAMPLES}, however by {shown!r}")


class Database:
    """Transactions on a registry; expected failures come out as :class:`~zoo.errors.ZooError`.

    Tables are made, or brought from an older schema to ours, as it is opened.

    Raises:
        NotFoundError: where there is no registry and none is to be made.
        UsageError: where it cannot be made there, belongs to something else, or has newer tables.
        UnreachableError: where no connection can be had.
        IntegrityError: where the file is not a database, or is damaged.
    """

    def __init__(self, url: str, *, create: bool) -> None:
        self._backend = backend(url)
        self._reader, self._writer = self._backend.engines(create=create)
        try:
            self._open(create)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close every connection."""
        self._reader.dispose()

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """Open a transaction that sees one moment of the registry.

        Raises:
            UnreachableError: where the connection is refused, or lost on the way.
        """
        with self._explained(), self._reader.begin() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """Open a transaction that holds the lock; all of it is kept, or nothing.

        Raises:
            UnreachableError: where the connection is refused, or lost on the way; where that
                happens as the transaction is committed, all of it may have been kept.
        """
        with self._explained(), self._writer.begin() as connection:
            yield connection

    def faults(self) -> list[str]:
        """Look for damage, one line each."""
        with self.read() as connection:
            return self._backend.faults(connection)

    def _open(self, create: bool) -> None:
        with self.read() as connection:
            found = self._schema(connection)
        if found == SCHEMA:
            return
        if not found and not create:
            raise NotFoundError(f"no registry at {self._backend.place}; train-many makes one")
        with self._explained():
            self._backend.prepare(self._reader)
        with self.write() as connection:
            found = self._schema(connection)
            if found < SCHEMA:  # nobody else was quicker
                from zoo.registry.migrations import upgrade

                upgrade(connection, found)

    def _schema(self, connection: Connection) -> int:
        """Return the version of the tables, 0 where there are none; refuse what is not ours."""
        tables = set(inspect(connection).get_table_names())
        if not tables:
            return 0
        found = None
        if meta.name in tables:
            found = connection.scalar(select(meta.c.value).where(meta.c.key == "schema"))
        if found is None:
            raise UsageError(
                f"{self._backend.place} is a database of something else, not a registry"
            )
        if int(found) > SCHEMA:
            raise UsageError(
                f"{self._backend.place} has schema {found}, however this version knows up to"
                f" {SCHEMA}; upgrade zoo-ensemble"
            )
        return int(found)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except DBAPIError as error:
            told = self._backend.explain(error)
            if told is None:
                raise
            raise told from error
