"""A run of another registry is entered as it is, under its own identifier."""

from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any

from sqlalchemy import Connection, insert, select

from zoo.registry import tables
from zoo.registry.records import Batch, Checkpoint, NewRun, Run, digest
from zoo.registry.rows import COLUMNS, SHARED, edges, require, upsert
from zoo.registry.writing import write


def identity(run: Run) -> str:
    """See :attr:`~zoo.registry.NewRun.identity`."""
    return NewRun(**{field.name: getattr(run, field.name) for field in fields(NewRun)}).identity


def adopt(
    connection: Connection,
    run: Run,
    checkpoints: Iterable[Checkpoint],
    history: Iterable[Mapping[str, Any]],
) -> bool:
    """Enter a run with its epochs and weights; say whether none of its identity was there.

    Raises:
        NotFoundError: where a parent is unknown.
    """
    require(connection, run.parents)
    key = identity(run)
    if connection.scalar(select(tables.run.c.id).where(tables.run.c.identity == key)) is not None:
        return False
    shared = {column.name: getattr(run, column.name) for column in SHARED}
    dataset = {"id": digest(shared), **shared}
    upsert(connection, tables.dataset, [dataset])
    row = {column.name: getattr(run, column.name) for column in COLUMNS}
    connection.execute(insert(tables.run), row | {"identity": key, "dataset_id": dataset["id"]})
    if run.parents:
        connection.execute(insert(tables.parent), edges(run.id, run.parents))
    write(connection, Batch(history=[*history], checkpoints=[*checkpoints]))
    return True
