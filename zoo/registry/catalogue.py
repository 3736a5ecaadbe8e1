"""The catalogue: every run and its history, in a database."""

from collections.abc import Mapping, Sequence
from typing import Any, Self

from sqlalchemy import delete, select, true, update

from zoo.errors import UsageError
from zoo.registry import rows as sql
from zoo.registry import tables
from zoo.registry.database import Database, sqlite_path
from zoo.registry.records import Kind, NewRun, Run, Status
from zoo.registry.references import resolve


class Catalogue:
    """What is known of every run, apart from weights."""

    def __init__(self, url: str, *, create: bool) -> None:
        self._database = Database(sqlite_path(url), create=create)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the database."""
        self._database.close()

    def add(self, runs: Sequence[NewRun]) -> list[Run]:
        """Queue runs, all or none; one that is there already is returned as it is.

        Two requests are the same run where name, kind, config hash, data, split, seed and parents
        agree.  The answer has the order of the request.

        Raises:
            NotFoundError: where a parent is unknown.
        """
        identities = [run.identity for run in runs]
        table = tables.run
        named = table.c.name.in_({run.name for run in runs})
        with self._database.write() as connection:
            sql.require(connection, {parent for run in runs for parent in run.parents})
            query = select(table.c.identity, table.c.id).where(named)
            ids = {row.identity: row.id for row in connection.execute(query)}
            requested = dict(zip(identities, runs, strict=True))
            ids |= sql.insert_runs(
                connection, {key: run for key, run in requested.items() if key not in ids}
            )
            asked = {"requested_at": sql.now()}
            these = table.c.id.in_([ids[identity] for identity in identities])
            connection.execute(update(table).where(these).values(asked))
            known = {run.id: run for run in sql.select_runs(connection, named)}
        return [known[ids[identity]] for identity in identities]

    def start(self, run_ids: Sequence[str], *, anew: bool = True) -> None:
        """Mark runs as running; what an earlier attempt recorded is removed, if they begin anew.

        Raises:
            NotFoundError: where a run is unknown.
            UsageError: where a run is finished already.
        """
        table, history = tables.run, tables.history
        with self._database.write() as connection:
            sql.require(connection, run_ids)
            these = table.c.id.in_(run_ids)
            finished = sql.select_runs(connection, these & (table.c.status == "finished"))
            if finished:
                raise UsageError(f"{finished[0].owner} is finished already")
            fresh: dict[str, Any] = {"status": "running", "finished_at": None, "error": None}
            if anew:
                # Not the state of training: a run that begins may be part of it, as one waiting.
                weights = tables.checkpoint.c.kind != "state"
                for kept, where in ((history, true()), (tables.checkpoint, weights)):
                    connection.execute(delete(kept).where(kept.c.run_id.in_(run_ids) & where))
                fresh |= {"started_at": sql.now(), "metrics": {}}
                fresh |= dict.fromkeys(("best_epoch", "epochs", "seconds"))
            connection.execute(update(table).where(these).values(fresh))

    def record(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Keep epochs of runs; a row replaces an earlier one of the same run and epoch.

        A row holds ``run_id``, ``epoch`` and any of the figures of :class:`zoo.reports.Epoch`.

        Raises:
            NotFoundError: where a run is unknown.
        """
        if not rows:
            return
        with self._database.write() as connection:
            sql.require(connection, {row["run_id"] for row in rows})
            sql.put_history(connection, rows)

    def runs(
        self, refs: Sequence[str] = (), *, kind: Kind | None = None, status: Status | None = None
    ) -> list[Run]:
        """Find runs by :mod:`references <zoo.registry.references>`; all, oldest first, by default.

        ``kind`` and ``status`` narrow what the references found, perhaps to nothing.

        Raises:
            NotFoundError: where a reference matches nothing.
            MismatchError: where ``@best`` would compare runs on different data.
            UsageError: where a reference cannot be read or is ambiguous.
        """
        with self._database.read() as connection:
            found = sql.select_runs(connection)
        if refs:
            found = resolve(found, [refs] if isinstance(refs, str) else refs)
        return [run for run in found if kind in (None, run.kind) and status in (None, run.status)]

    def run(self, ref: str) -> Run:
        """Find the one run that a reference names.

        Raises:
            NotFoundError: where it names none.
            UsageError: where it names several.
        """
        found = self.runs([ref])
        if len(found) > 1:
            raise UsageError(
                f"{ref!r} must name one run, however it names {len(found)}; take one of them, such "
                f"as {found[0].label} or {found[0].id}"
            )
        return found[0]

    def history(self, run_id: str) -> list[dict[str, Any]]:
        """Return a run's epochs in order; what was not measured, or was NaN, is None.

        Raises:
            NotFoundError: where the run is unknown.
        """
        table = tables.history
        query = select(table).where(table.c.run_id == run_id).order_by(table.c.epoch)
        with self._database.read() as connection:
            sql.require(connection, [run_id])
            return [dict(row) for row in connection.execute(query).mappings()]
