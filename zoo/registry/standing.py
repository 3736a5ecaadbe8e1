"""How far runs are and who works on them: what workers, displays and ``status`` ask all the time.

One query on the index of names; a run in training costs one look into the index of its epochs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from sqlalchemy import Connection, exists, func, select

from zoo.registry import tables
from zoo.registry.claims import is_gone, shown
from zoo.registry.clock import database_seconds
from zoo.registry.records import DONE, Status

_run, _history, _checkpoint = tables.run, tables.history, tables.checkpoint
_latest = select(func.max(_history.c.epoch)).where(_history.c.run_id == _run.c.id).scalar_subquery()
_saved = exists().where((_checkpoint.c.run_id == _run.c.id) & (_checkpoint.c.kind == "state"))
_query = select(
    _run.c.id,
    _run.c.name,
    _run.c.status,
    _run.c.owner,
    _run.c.heartbeat,
    _run.c.fence,
    func.coalesce(_run.c.epochs, _latest, 0).label("epochs"),
    _saved.label("saved"),
)


@dataclass(frozen=True, kw_only=True)
class Standing:
    """How far a run is at one moment.

    Attributes:
        epochs: how many it has trained, as far as they are recorded.
        holder: who works on it, as ``HOST:PID``; None where nobody does.
        silent_s: seconds since its holder's last sign of life, by the database's clock.
        is_ours: whether it is held here.
        is_free: whether it may be claimed here: it is nobody's, or ours, or its holder is gone.
        is_saved: whether the state of its training is saved.
        attempts: how many times it was claimed.
    """

    id: str
    name: str
    status: Status
    epochs: int
    holder: str | None
    silent_s: float | None
    is_ours: bool
    is_free: bool
    is_saved: bool
    attempts: int


def standings(
    connection: Connection, names: Sequence[str], owner: str, *, undone: bool
) -> list[Standing]:
    """Read how far the runs of some names are, oldest first.

    Args:
        connection: within a transaction.
        names: of zoos.
        owner: who asks.
        undone: leave out runs that finished or diverged.
    """
    query = _query.where(_run.c.name.in_(names)).order_by(_run.c.sequence)
    if undone:
        query = query.where(_run.c.status.not_in(DONE))
    now = connection.scalar(select(database_seconds())) or 0.0
    gone = cache(is_gone)  # an owner holds many runs, with one heartbeat
    return [
        Standing(
            id=row.id,
            name=row.name,
            status=row.status,
            epochs=row.epochs,
            holder=row.owner and shown(row.owner),
            silent_s=None if row.owner is None else max(now - row.heartbeat, 0.0),
            is_ours=row.owner == owner,
            is_free=row.owner in (None, owner) or gone(row.owner, row.heartbeat, now),
            is_saved=row.saved,
            attempts=row.fence,
        )
        for row in connection.execute(query)
    ]
