"""Who works on a run: one process at a time, and never one that was taken for dead.

A claim names its owner and raises the run's fence.  The owner gives a sign of life every few
seconds, by the clock of the database; once none has come for a while, or the owner is known to be
dead, anybody may claim the run anew.  Whatever its former owner then still writes carries the old
fence and is refused.
"""

import os
import secrets
import socket
import threading
from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Connection, bindparam, select, update

from zoo.errors import LostClaimError, NotFoundError, ZooError, listed
from zoo.registry import tables
from zoo.registry.clock import database_seconds
from zoo.registry.database import Database
from zoo.registry.records import DONE

LEASE_S = 60.0  # how long a silent owner is taken to be alive
BEAT_S = 10.0  # how often an owner gives a sign of life
NAMED = 3  # runs in a message

_run = tables.run
_these = _run.c.id.in_(bindparam("ids", expanding=True))
_all = select(_run.c.id, _run.c.name, _run.c.owner, _run.c.fence, _run.c.heartbeat)
_found, _held = _all.where(_these), _all.where(_run.c.owner.is_not(None))
_open = _found.where(_run.c.status.not_in(DONE))
_take = (
    update(_run)
    .where(_these)
    .values(owner=bindparam("me"), fence=_run.c.fence + 1, heartbeat=database_seconds())
)
_mine = update(_run).where(_run.c.owner == bindparam("me"))
_beat = _mine.values(heartbeat=database_seconds())
_free = _mine.values(owner=None)


@dataclass(frozen=True)
class Holder:
    """Who holds a run, as ``HOST:PID``, and whether the run may be claimed nevertheless."""

    name: str
    is_gone: bool


class Claims:
    """The claims of one open registry.

    Attributes:
        owner: this process, ``HOST:PID:SPACE:START:RANDOM``; no other has ever the same name.
        held: the fence of every run that was claimed here.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._closed = threading.Event()
        self._beating: threading.Thread | None = None
        pid = os.getpid()
        self.owner = f"{_host()}:{pid}:{_space()}:{_start(pid)}:{secrets.token_hex(4)}"
        self.held: dict[str, int] = {}

    def take(self, run_ids: Collection[str]) -> set[str]:
        """Claim those of the runs that are neither done nor held by somebody alive."""
        with self._database.write() as connection:
            now = connection.scalar(select(database_seconds()))
            free = {
                row.id: row.fence + 1
                for row in connection.execute(_open, {"ids": list(run_ids)})
                if row.owner in (None, self.owner) or is_gone(row.owner, row.heartbeat, now)
            }
            if free:
                connection.execute(_take, {"ids": list(free), "me": self.owner})
        self.held |= free
        if free and self._beating is None:
            self._beating = threading.Thread(target=self._beat, name="claims", daemon=True)
            self._beating.start()
        return set(free)

    def holders(self, run_ids: Collection[str] | None = None) -> dict[str, Holder]:
        """Tell who holds runs, by default any, of those that somebody else holds."""
        with self._database.read() as connection:
            now = connection.scalar(select(database_seconds()))
            query, these = (_held, None) if run_ids is None else (_found, {"ids": list(run_ids)})
            return {
                row.id: Holder(shown(row.owner), is_gone(row.owner, row.heartbeat, now))
                for row in connection.execute(query, these)
                if row.owner not in (None, self.owner)
            }

    def check(self, connection: Connection, run_ids: Iterable[str]) -> None:
        """Check, within a writing transaction, that runs may be written to here.

        Raises:
            NotFoundError: where a run is unknown.
            LostClaimError: where a run is somebody else's; it names all of those.
        """
        wanted = set(run_ids)
        rows = {row.id: row for row in connection.execute(_found, {"ids": list(wanted)})}
        for missing in sorted(wanted.difference(rows)):
            raise NotFoundError(f"no run has the id {missing!r}")
        lost = {
            row.id: f"{row.id} of {row.name!r} was taken over by {shown(row.owner)}"
            for row in rows.values()
            if not self._may_write(row.id, row.fence, row.owner)
        }
        if lost:
            raise LostClaimError(
                f"only the process that holds a run writes to it, however "
                f"{listed([*lost.values()], NAMED)}; nothing of it was written",
                frozenset(lost),
            )

    def close(self) -> None:
        """Let go of all that is held, where the database can be reached."""
        self._closed.set()
        if self._beating is not None:
            self._beating.join()
            with suppress(ZooError), self._database.write() as connection:
                connection.execute(_free, {"me": self.owner})

    def _may_write(self, run_id: str, fence: int, owner: str | None) -> bool:
        """The owner does not count where this process has claimed: an end has released the run."""
        if run_id in self.held:
            return self.held[run_id] == fence
        return owner is None

    def _beat(self) -> None:
        while not self._closed.wait(BEAT_S):
            with suppress(ZooError), self._database.write() as connection:
                connection.execute(_beat, {"me": self.owner})


def is_gone(owner: str, heartbeat: float, now: float | None) -> bool:
    """Say whether an owner may be taken for dead: it is, or has been silent for too long."""
    return heartbeat < (now or 0.0) - LEASE_S or is_dead(owner)


def is_dead(owner: str) -> bool:
    """Say whether an owner is known to be dead: a process of this machine that is no more."""
    host, pid, space, start, _ = owner.split(":")
    if not space or (host, space) != (_host(), _space()):
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except PermissionError:  # somebody else's, and alive
        return False
    return _start(int(pid)) not in ("", start)


def _host() -> str:
    return socket.gethostname().replace(":", "-")


def _space() -> str:
    """Name what process numbers count in: this boot and namespace; empty without a ``/proc``."""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")[:8]
        return f"{boot}-{Path('/proc/self/ns/pid').stat().st_ino}"
    return ""


def _start(pid: int) -> str:
    """Tell when a process began, in ticks since the boot; "dead" of one that is only not reaped."""
    with suppress(OSError):
        status = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        state, *fields = status.rpartition(")")[2].split()  # its name, before, may hold anything
        return "dead" if state in "ZX" else fields[18]
    return ""


def shown(owner: str | None) -> str:
    """Name an owner as ``HOST:PID``."""
    return "another process" if owner is None else ":".join(owner.split(":")[:2])
