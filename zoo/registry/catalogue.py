"""The catalogue: every run and its history, in a database."""

from collections.abc import Collection, Iterable, Sequence
from typing import Any, Self

from sqlalchemy import func, select, update

from zoo.errors import NotFoundError, UsageError
from zoo.registry import rows as sql
from zoo.registry import tables
from zoo.registry.claims import Claims, Holder
from zoo.registry.database import Database
from zoo.registry.records import NO_DATA, Checkpoint, NewRun, Run, Status
from zoo.registry.references import resolve
from zoo.registry.standing import Standing, standings


class Catalogue:
    """What is known of every run, apart from weights.

    Attributes:
        url: of the database, as it was given.
        database: where it is kept.
    """

    def __init__(self, url: str, *, create: bool) -> None:
        self.url = url
        self.database = Database(url, create=create)
        self._claims = Claims(self.database)
        self._facts: dict[str, Run] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of what is claimed, and close the database."""
        self._claims.close()
        self.database.close()

    def add(self, runs: Sequence[NewRun]) -> list[Run]:
        """Queue runs, all or none; one that is there already is returned as it is.

        Two requests are the same run where name, kind, config hash, data, split, seed and parents
        agree.  The answer has the order of the request.

        Raises:
            NotFoundError: where a parent is unknown.
        """
        identities = [run.identity for run in runs]
        table = tables.run
        with self.database.write() as connection:
            sql.require(connection, {parent for run in runs for parent in run.parents})
            requested = dict(zip(identities, runs, strict=True))
            query = select(table.c.identity, table.c.id).where(table.c.identity.in_(requested))
            ids = {row.identity: row.id for row in connection.execute(query)}
            ids |= sql.insert_runs(
                connection, {key: run for key, run in requested.items() if key not in ids}
            )
            these = table.c.id.in_(ids.values())
            last = connection.scalar(select(func.max(table.c.requested_at)))
            connection.execute(update(table).where(these).values(requested_at=sql.after(last)))
            known = {run.id: run for run in sql.select_runs(connection, these)}
        return [known[ids[identity]] for identity in identities]

    def claim(self, run_ids: Collection[str]) -> set[str]:
        """Take on runs, so that no other process does, until they end or this registry is closed.

        Returns:
            Those that are claimed now.  Not the others: they are finished or diverged, or somebody
            else works on them, see :meth:`holders`.
        """
        mine = self._claims.take(run_ids)
        with self.database.read() as connection:
            found = sql.select_runs(connection, tables.run.c.id.in_(mine))
        self._facts |= {run.id: run for run in found}
        return mine

    def holders(self, run_ids: Collection[str] | None = None) -> dict[str, Holder]:
        """Tell who works on runs, by default on any, of those that another process has claimed."""
        return self._claims.holders(run_ids)

    def standings(self, *names: str, undone: bool = False) -> list[Standing]:
        """Tell how far the runs of some names are and who works on them, oldest first.

        ``undone`` leaves out those that finished or diverged.
        """
        with self.database.read() as connection:
            return standings(connection, names, self._claims.owner, undone=undone)

    def runs(self, refs: Sequence[str] = (), *, status: Status | None = None) -> list[Run]:
        """Find runs by :mod:`references <zoo.registry.references>`; all, oldest first, by default.

        ``status`` narrows what the references found, perhaps to nothing.

        Raises:
            NotFoundError: where a reference matches nothing.
            MismatchError: where ``@best`` would compare runs on different data.
            UsageError: where a reference cannot be read or is ambiguous.
        """
        refs = [refs] if isinstance(refs, str) else refs
        with self.database.read() as connection:
            found = sql.select_runs(connection, sql.narrowed(refs))
            if refs:
                try:
                    found = resolve(found, refs)
                except NotFoundError:  # what is near may be anything
                    found = resolve(sql.select_runs(connection), refs)
        return [run for run in found if status in (None, run.status)]

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
                f"as {found[0].label} or {found[0].id}, or their best, as NAME@best"
            )
        return found[0]

    def by_id(self, run_ids: Iterable[str]) -> dict[str, Run]:
        """Return runs by their full identifiers, those that exist."""
        with self.database.read() as connection:
            found = sql.select_runs(connection, tables.run.c.id.in_(list(run_ids)))
        return {run.id: run for run in found}

    def named(self, name: str) -> list[Run]:
        """Return the runs of a name, oldest first; none where there are none."""
        with self.database.read() as connection:
            return sql.select_runs(connection, tables.run.c.name == name)

    def names(self, prefix: str = "") -> list[str]:
        """Return the names of runs that begin so, sorted."""
        name = tables.run.c.name
        query = select(name).where(func.substr(name, 1, len(prefix)) == prefix).distinct()
        with self.database.read() as connection:
            return sorted(connection.scalars(query))

    def latest(self) -> list[Run]:
        """Return the models that the latest training asked for, whenever they were trained."""
        table = tables.run
        with_data = select(tables.dataset.c.id).where(tables.dataset.c.task != NO_DATA)
        single = (table.c.kind == "single") & table.c.dataset_id.in_(with_data)
        last = select(func.max(table.c.requested_at)).where(single).scalar_subquery()
        with self.database.read() as connection:
            return sql.select_runs(connection, single & (table.c.requested_at == last))

    def made_of(self, run_ids: Collection[str]) -> list[Run]:
        """Return what was made of these runs alone, oldest first."""
        edge = tables.parent.c
        related = select(edge.run_id).where(edge.parent_id.in_(run_ids))
        with self.database.read() as connection:
            found = sql.select_runs(connection, tables.run.c.id.in_(related))
        return [run for run in found if set(run_ids).issuperset(run.parents)]

    def history(self, run_id: str) -> list[dict[str, Any]]:
        """Return a run's epochs in order; what was not measured, or was NaN, is None.

        Raises:
            NotFoundError: where the run is unknown.
        """
        table = tables.history
        query = select(table).where(table.c.run_id == run_id).order_by(table.c.epoch)
        with self.database.read() as connection:
            sql.require(connection, [run_id])
            return [dict(row) for row in connection.execute(query).mappings()]

    def checkpoints(self, run_id: str) -> list[Checkpoint]:
        """Return a run's checkpoints, oldest first; the state of training is not one of them.

        Raises:
            NotFoundError: where the run is unknown.
        """
        table = tables.checkpoint.c
        these = (table.run_id == run_id) & (table.kind != "state")
        with self.database.read() as connection:
            sql.require(connection, [run_id])
            return sql.select_checkpoints(connection, these)

    def every_checkpoint(self) -> list[Checkpoint]:
        """Return the checkpoints of all runs, those that hold states of training too."""
        with self.database.read() as connection:
            return sql.select_checkpoints(connection)

    def everything(self) -> tuple[list[Run], list[Checkpoint]]:
        """Return all runs and :meth:`every_checkpoint`, as they are at one moment."""
        with self.database.read() as connection:
            return sql.select_runs(connection), sql.select_checkpoints(connection)

    def look(self, run: Run) -> int:
        """Count a look at the test rows of a run; return how many there were, this one included.

        Runs of the same content and split share their test rows, and the count.
        """
        table = tables.look
        key = {"data_fingerprint": run.data_fingerprint, "common_split": run.common_split}
        query = select(table.c.count).filter_by(**key)
        with self.database.write() as connection:
            count = (connection.scalar(query) or 0) + 1
            sql.upsert(connection, table, [{**key, "count": count, "last_at": sql.now()}])
        return count

    def _known(self, run_id: str) -> Run:
        """Return what never changes of a run; of those worked on here it is read but once."""
        if run_id not in self._facts:
            with self.database.read() as connection:
                self._facts[run_id] = sql.one_run(connection, run_id)
        return self._facts[run_id]
