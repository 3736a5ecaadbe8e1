"""From rows to values and back, within a transaction that the caller holds."""

import platform
import secrets
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, fields
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Table, delete, insert, select, true
from sqlalchemy.dialects import sqlite

from zoo.errors import NotFoundError
from zoo.registry import tables
from zoo.registry.records import SEVERAL, Checkpoint, NewRun, Run, Status, digest

COLUMNS = [tables.run.c[field.name] for field in fields(Run) if field.name in tables.run.c]
GIVEN = [field.name for field in fields(NewRun) if field.name in tables.run.c]
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
    edges: list[dict[str, Any]] = []
    for identity, new in fresh.items():
        content = {column.name: getattr(new, column.name) for column in SHARED}
        if content not in shared:  # quick: members of a zoo hold the same objects
            shared.append(content)
        row = {name: getattr(new, name) for name in GIVEN}
        row |= {
            "id": secrets.token_hex(6),
            "identity": identity,
            "created_at": now(),
            "requested_at": now(),
        }
        row |= {"status": "queued", "metrics": {}, "environment": versions | dict(new.environment)}
        rows.append(row | {"dataset_id": shared.index(content)})
        edges += [
            {"run_id": row["id"], "position": position, "parent_id": parent}
            for position, parent in enumerate(new.parents)
        ]
    datasets = [{"id": digest(content), **content} for content in shared]
    for row in rows:
        row["dataset_id"] = datasets[row["dataset_id"]]["id"]
    for table, values in ((tables.dataset, datasets), (tables.run, rows), (tables.parent, edges)):
        if values:
            upsert(connection, table, values)
    return {row["identity"]: row["id"] for row in rows}


def upsert(connection: Connection, table: Table, rows: list[dict[str, Any]]) -> None:
    """Insert rows, each replacing the one with the same primary key."""
    query = sqlite.insert(table)
    fresh = {column.name: query.excluded[column.name] for column in table.c}
    connection.execute(
        query.on_conflict_do_update(index_elements=table.primary_key, set_=fresh), rows
    )


def put_checkpoints(connection: Connection, checkpoints: Iterable[Checkpoint]) -> None:
    """Insert checkpoints, each in place of the one it supersedes."""
    table = tables.checkpoint
    for checkpoint in checkpoints:
        same = (table.c.run_id == checkpoint.run_id) & (table.c.kind == checkpoint.kind)
        if checkpoint.kind in SEVERAL:
            same &= table.c.epoch == checkpoint.epoch
        connection.execute(delete(table).where(same))
        connection.execute(insert(table).values(asdict(checkpoint)))


def drop_states(connection: Connection, run_ids: Iterable[str]) -> bool:
    """Forget the saved states of runs; say whether there is one now that no run is part of."""
    table = tables.checkpoint
    these = table.c.run_id.in_(list(run_ids)) & (table.c.kind == "state")
    found = set(connection.scalars(select(table.c.sha256).where(these)))
    if not found:
        return False
    connection.execute(delete(table).where(these))
    still = connection.scalars(select(table.c.sha256).where(table.c.sha256.in_(found)))
    return bool(found.difference(still))


def put_history(connection: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert epochs, each in place of an earlier one of the same run and epoch.

    Raises:
        ValueError: where one holds something that the history does not.
    """
    if rows:
        upsert(connection, tables.history, [_history_row(row) for row in rows])


def _history_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """Complete an epoch, as plain numbers."""
    columns: dict[str, Callable[[Any], Any]] = dict.fromkeys(tables.history.c.keys(), float)
    columns |= {"run_id": str, "epoch": int, "averages": dict}
    if unknown := sorted(set(row) - set(columns)):
        raise ValueError(f"an epoch holds {', '.join(columns)}, however also {unknown}")
    return {
        name: None if row.get(name) is None else convert(row[name])
        for name, convert in columns.items()
    }


def now() -> str:
    """Say the time, UTC, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def ended(status: Status) -> str | None:
    """Say when a run of that status ended: now, or not yet."""
    return None if status in ("queued", "running") else now()
