"""A catalogue in a PostgreSQL database, shared by machines.

Writers take an advisory lock, readers a snapshot.  A process that stops while it holds the lock
loses its connection, and with it the lock, after a minute.
"""

from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.exc import DataError, DBAPIError, OperationalError, ProgrammingError

from zoo.errors import UnreachableError, UsageError
from zoo.registry.values import from_json, to_json

PATIENCE_S = 30
STOPPED_S = 60  # how long a process may hold the lock and do nothing
LOCK = 0x7A6F6F  # "zoo"; an advisory lock is of one database
# What the URL may say otherwise.  Without them a lost network is noticed after hours.
DEFAULTS = {
    "connect_timeout": "10",
    "keepalives_idle": "30",
    "keepalives_interval": "10",
    "keepalives_count": "3",
    "tcp_user_timeout": "60000",
}
FORBIDDEN = ("25006", "42501")  # SQLSTATE: a standby server, no privilege
BUSY = "55P03"


class Postgres:
    """A database of a PostgreSQL server; see :class:`~zoo.registry.database.Backend`."""

    def __init__(self, url: URL) -> None:
        self._url = url.set(drivername="postgresql+psycopg", query={**DEFAULTS, **url.query})
        self.place = self._url.set(query={}).render_as_string(hide_password=True)

    def engines(self, *, create: bool) -> tuple[Engine, Engine]:
        """Prepare a pool that notices lost connections before it gives them away."""
        try:
            engine = create_engine(
                self._url,
                pool_pre_ping=True,
                json_serializer=to_json,
                json_deserializer=from_json,
            )
        except ModuleNotFoundError:
            raise UsageError(
                f"{self.place} needs psycopg, however it is not installed;"
                " pip install 'zoo-ensemble[postgres]'"
            ) from None
        event.listen(engine, "connect", _connected)
        event.listen(engine, "begin", _begun)
        reader = engine.execution_options(
            isolation_level="REPEATABLE READ", postgresql_readonly=True
        )
        # Not repeatable: the moment that a writer sees must come after the wait for the lock.
        writer = engine.execution_options(isolation_level="READ COMMITTED", write=True)
        return reader, writer

    def prepare(self, reader: Engine) -> None:
        """Do nothing: here tables, too, are made within a transaction."""

    def faults(self, connection: Connection) -> list[str]:
        """Find none: the server sees to its pages and references."""
        return []

    def set_aside(self) -> str:
        """Refuse: a damaged database of a server is its administrator's."""
        raise UsageError(f"{self.place}: cannot be set aside; choose another database")

    def explain(self, error: DBAPIError) -> Exception | None:
        """Tell a lost connection from a refusal and from a lock that was never free."""
        state = getattr(error.orig, "sqlstate", None)
        reason = " ".join(str(error.orig).split())
        if self._url.password:
            reason = reason.replace(str(self._url.password), "***")
        if state in FORBIDDEN or (state is None and isinstance(error, ProgrammingError)):
            return UsageError(f"{self.place}: {reason}; choose another place with --registry")
        if isinstance(error, DataError):  # such as a name with a NUL
            return UsageError(f"{self.place}: {reason}")
        if state == BUSY:
            reason = f"others have held the lock for {PATIENCE_S} s"
        if error.connection_invalidated or isinstance(error, OperationalError):
            return UnreachableError(f"{self.place}: {reason}")
        return None


def _connected(connection: Any, _record: object) -> None:
    cursor = connection.cursor()
    cursor.execute(f"SET lock_timeout = '{PATIENCE_S}s'")
    cursor.execute(f"SET idle_in_transaction_session_timeout = '{STOPPED_S}s'")
    cursor.close()
    connection.commit()


def _begun(connection: Connection) -> None:
    if connection.get_execution_options().get("write", False):
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({LOCK})")
