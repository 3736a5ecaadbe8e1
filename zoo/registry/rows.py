"""From rows to values and back, within a transaction that the caller holds."""

import platform
import re
import secrets
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

from sqlalchemy import ColumnElement, Connection, Insert, Table, func, or_, select, true
from sqlalchemy.dialects import sqlite

from zoo.errors import NotFoundError
from zoo.registry import tables
from zoo.registry.records import Checkpoint, NewRun, Run, digest

COLUMNS = [tables.run.c[field.name] for field in fields(Run) if field.name in tables.run.c]
GIVEN = [field.name for field in fields(NewRun) if field.name in tables.run.c]
KEPT = [column for column in tables.checkpoint.c if column.name != "sequence"]
SHARED = [column for column in tables.dataset.c if column.name != "id"]


def select_runs(connection: Connection, where: ColumnElement[bool] | None = None) -> list[Run]:
    """Read runs, oldest first, by three queries however many there are."""
    run, dataset, parent = tables.run, tables.dataset, tables.parent
    where = true() if where is None else where
    query = select(*COLUMNS, run.c.dataset_id).where(where).order_by(run.c.sequence)
    rows = [dict(row) for row in connection.execute(query).mappings()]
    used = dataset.c.id.in_(select(run.c.dataset_id).where(where))
    shared = {
        row["id"]: {column.name: row[column.name] for column in SHARED}
        for row in connection.execute(select(dataset).where(used)).mappings()
    }
    edges = select(parent.c.run_id, parent.c.parent_id).order_by(parent.c.position)
    parents: dict[str, tuple[str, ...]] = defaultdict(tuple)
    chosen = parent.c.run_id.in_(select(run.c.id).where(where))
    for edge in connection.execute(edges.where(chosen)):
        parents[edge.run_id] += (edge.parent_id,)
    return [
        Run(**(shared[row.pop("dataset_id")] | row), parents=parents.get(row["id"], ()))
        for row in rows
    ]


def select_checkpoints(
    connection: Connection, where: ColumnElement[bool] | None = None
) -> list[Checkpoint]:
    """Read checkpoints, oldest first."""
    query = select(*KEPT).where(true() if where is None else where)
    rows = connection.execute(query.order_by(tables.checkpoint.c.sequence)).mappings()
    return [Checkpoint(**row) for row in rows]


def narrowed(refs: Sequence[str]) -> ColumnElement[bool]:
    """Say which runs references may name at most; ``resolve`` then picks among these."""
    run = tables.run.c
    some: list[ColumnElement[bool]] = [] if refs else [true()]
    for ref in refs:
        rest = re.sub(r"@(best|top\d+)\Z", "", ref).partition("/")[0]
        literal = re.split(r"[*?\[]", rest, maxsplit=1)[0]
        if literal != rest or not rest:
            some.append(func.substr(run.name, 1, len(literal)) == literal)
        some.append(func.substr(ref, 1, func.length(run.name)) == run.name)
        if re.fullmatch(r"[0-9a-f]{4,12}", rest):
            some.append(func.substr(run.id, 1, len(rest)) == rest)
    return or_(*some)


def one_run(connection: Connection, run_id: str) -> Run:
    """Read a run by its full identifier.

    Raises:
        NotFoundError: where there is none.
    """
    for run in select_runs(connection, tables.run.c.id == run_id):
        return run
    raise NotFoundError(f"no run has the id {run_id!r}")


def require(connection: Connection, run_ids: Iterable[str]) -> None:
    """Check that runs exist.

    Raises:
        NotFoundError: naming one that does not.
    """
    wanted = set(run_ids)
    query = select(tables.run.c.id).where(tables.run.c.id.in_(wanted))
    for missing in sorted(wanted.difference(connection.scalars(query))):
        raise NotFoundError(f"no run has the id {missing!r}")


def insert_runs(connection: Connection, fresh: Mapping[str, NewRun]) -> dict[str, str]:
    """Queue runs, given by their identity; return their new identifiers by the same key."""
    versions = {"python": platform.python_version(), "platform": platform.platform()}
    shared: list[dict[str, Any]] = []
    rows: list[dict[str, Any]] = []
    parents: list[dict[str, Any]] = []
    for identity, new in fresh.items():
        content = {column.name: getattr(new, column.name) for column in SHARED}
        if content not in shared:  # quick: members of a zoo hold the same objects
            shared.append(content)
        row = {name: getattr(new, name) for name in GIVEN}
        row |= {"id": secrets.token_hex(6), "identity": identity}
        row |= {"created_at": now(), "requested_at": ""}  # the caller says when
        row |= {"status": "queued", "metrics": {}, "environment": versions | dict(new.environment)}
        rows.append(row | {"dataset_id": shared.index(content)})
        parents += edges(row["id"], new.parents)
    datasets = [{"id": digest(content), **content} for content in shared]
    for row in rows:
        row["dataset_id"] = datasets[row["dataset_id"]]["id"]
    for table, values in ((tables.dataset, datasets), (tables.run, rows), (tables.parent, parents)):
        if values:
            upsert(connection, table, values)
    return {row["identity"]: row["id"] for row in rows}


def edges(run_id: str, parents: Sequence[str]) -> list[dict[str, Any]]:
    """Write the parents of a run as rows."""
    return [
        {"run_id": run_id, "position": position, "parent_id": parent}
        for position, parent in enumerate(parents)
    ]


def upsert(connection: Connection, table: Table, rows: list[dict[str, Any]]) -> None:
    """Insert rows, each replacing the one with the same primary key."""
    connection.execute(_upsert(connection.dialect.name, table), rows)


@cache
def _upsert(dialect: str, table: Table) -> Insert:
    into: Any = sqlite.insert
    if dialect == "postgresql":
        from sqlalchemy.dialects import postgresql

        into = postgresql.insert
    query = into(table)
    # Not the key itself: SQLite would look for rows that refer to it, all over their table.
    fresh = {
        column.name: query.excluded[column.name] for column in table.c if not column.primary_key
    }
    upserting: Insert = query.on_conflict_do_update(index_elements=table.primary_key, set_=fresh)
    return upserting


def now() -> str:
    """Say the time, UTC, ISO 8601."""
    return _written(datetime.now(UTC))


def after(last: str | None) -> str:
    """Say the time, but where a clock was put back, the moment after ``last``.

    >>> after("2999-01-01T00:00:00.000+00:00")
    '2999-01-01T00:00:00.001+00:00'
    """
    told = now()
    if last and last >= told:
        with suppress(ValueError, OverflowError):  # somebody else's idea of a time
            told = _written(datetime.fromisoformat(last) + timedelta(milliseconds=1))
    return told


def _written(time: datetime) -> str:
    return time.isoformat(timespec="milliseconds")
