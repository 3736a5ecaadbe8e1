"""How a batch becomes statements: made once, because that costs more than executing them."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict
from itertools import groupby
from typing import Any

from sqlalchemy import BindParameter, Connection, bindparam, delete, insert, select, update

from zoo.registry import tables
from zoo.registry.records import SEVERAL, Batch, Checkpoint, Status
from zoo.registry.rows import now, upsert

_run, _history, _checkpoint = tables.run, tables.history, tables.checkpoint
_ids: BindParameter[str] = bindparam("ids", expanding=True)
_is_state = _checkpoint.c.kind == "state"
_start = update(_run).where(_run.c.id.in_(_ids))
_forget = (
    delete(_history).where(_history.c.run_id.in_(_ids)),
    # Not the state of training: a run that begins may be part of it, as one waiting.
    delete(_checkpoint).where(_checkpoint.c.run_id.in_(_ids) & ~_is_state),
)
_end = update(_run).where(_run.c.id == bindparam("run"))
_same_kind = delete(_checkpoint).where(
    (_checkpoint.c.run_id == bindparam("run")) & (_checkpoint.c.kind == bindparam("kept"))
)
_same_epoch = _same_kind.where(_checkpoint.c.epoch == bindparam("at"))
_put = insert(_checkpoint)
_states = select(_checkpoint.c.sha256).where(_checkpoint.c.run_id.in_(_ids) & _is_state)
_drop = delete(_checkpoint).where(_checkpoint.c.run_id.in_(_ids) & _is_state)
_still = select(_checkpoint.c.sha256).where(_checkpoint.c.sha256.in_(_ids))
_COLUMNS: dict[str, Callable[[Any], Any]] = {
    **dict.fromkeys(_history.c.keys(), float),
    **{"run_id": str, "epoch": int, "averages": dict},
}


def write(connection: Connection, batch: Batch) -> set[str]:
    """Write a batch; return the SHA-256 of the states of training that nothing mentions now.

    Raises:
        ValueError: where an epoch holds something that the history does not.
    """
    if batch.started:
        start(connection, batch.started)
    if batch.history:
        upsert(connection, _history, [_history_row(row) for row in batch.history])
    if batch.checkpoints:
        _replace(connection, batch.checkpoints)
    for _, group in groupby(batch.outcomes, key=lambda end: end.given.keys()):
        rows = [end.given | {"run": end.run_id, "finished_at": _ended(end.status)} for end in group]
        connection.execute(_end, [row | {"owner": None} for row in rows])
    return drop_states(connection, [o.run_id for o in batch.outcomes if o.status != "interrupted"])


def start(connection: Connection, run_ids: Collection[str], *, anew: bool = True) -> None:
    """Mark runs as running; what an earlier attempt has left is removed, if they begin anew."""
    these = {"ids": list(run_ids)}
    values: dict[str, Any] = {"status": "running", "finished_at": None, "error": None}
    if anew:
        for forget in _forget:
            connection.execute(forget, these)
        values |= {"started_at": now(), "metrics": {}}
        values |= dict.fromkeys(("best_epoch", "epochs", "seconds"))
    connection.execute(_start.values(values), these)


def drop_states(connection: Connection, run_ids: Collection[str]) -> set[str]:
    """Forget the saved states of runs; return those that no run is part of now."""
    these = {"ids": list(run_ids)}
    found = set(connection.scalars(_states, these)) if run_ids else set()
    if not found:
        return found
    connection.execute(_drop, these)
    return found.difference(connection.scalars(_still, {"ids": list(found)}))


def _replace(connection: Connection, checkpoints: Iterable[Checkpoint]) -> None:
    """Insert checkpoints, each in place of the one it supersedes; of two in a batch, the later."""
    fresh = {}
    for kept in checkpoints:
        key: dict[str, Any] = {"run": kept.run_id, "kept": kept.kind}
        if kept.kind in SEVERAL:
            key["at"] = kept.epoch
        fresh[tuple(key.values())] = (key, asdict(kept))
    for delete_same, size in ((_same_kind, 2), (_same_epoch, 3)):
        if keys := [key for key, _ in fresh.values() if len(key) == size]:
            connection.execute(delete_same, keys)
    connection.execute(_put, [row for _, row in fresh.values()])


def _history_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """Complete an epoch, as plain numbers."""
    if unknown := sorted(set(row) - set(_COLUMNS)):
        raise ValueError(f"an epoch holds {', '.join(_COLUMNS)}, however also {unknown}")
    return {
        name: None if row.get(name) is None else convert(row[name])
        for name, convert in _COLUMNS.items()
    }


def _ended(status: Status) -> str | None:
    """Say when a run of that status ended: now, or not yet."""
    return None if status in ("queued", "running") else now()


def columns(history: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Write a run's epochs column by column, as the header of a file tells them.

    >>> columns([{"run_id": "a", "epoch": 1, "val_loss": 0.5}])["val_loss"]
    [0.5]
    """
    names = [name for name in _COLUMNS if name != "run_id"]
    return {name: [row.get(name) for row in history] for name in names}
