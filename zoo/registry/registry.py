"""The registry: a catalogue in a database beside a folder of weights.

The order of publishing makes a crash harmless: the weights are on the disk in full, under their
final name, before one transaction mentions them.  Readers see what is mentioned.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from sqlalchemy import delete, select, update

from zoo.errors import NotFoundError, UsageError
from zoo.registry import rows as sql
from zoo.registry import tables
from zoo.registry.blobs import Blobs
from zoo.registry.database import Database, sqlite_path
from zoo.registry.records import Checkpoint, CheckpointKind, Kind, NewRun, Run, Status, finite
from zoo.registry.references import resolve
from zoo.registry.weights import decode, encode

if TYPE_CHECKING:
    from torch import Tensor


class Registry:
    """Every run, its history and its weights.  Close it, or use it in a ``with`` statement.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder, Registry(f"sqlite:///{folder}/r.db", folder) as zoo:
    ...     zoo.runs()
    []

    Raises:
        NotFoundError: where there is no registry and ``create`` is false.
        UsageError: where the place cannot be used: not writable, not a registry, a newer one.
        IntegrityError: where the file is not a database, or is damaged.
    """

    def __init__(
        self,
        url: str = "sqlite:///checkpoints/registry.db",
        blobs: str | Path = "checkpoints/blobs",
        *,
        create: bool = True,
    ) -> None:
        self._blobs = Blobs(blobs)
        path = sqlite_path(url)
        if create:
            self._blobs.create()
        self._database = Database(path, create=create)

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

    def start(self, run_ids: Sequence[str]) -> None:
        """Mark runs as running; what an earlier, unfinished attempt recorded is removed.

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
                raise UsageError(f"{_owner(finished[0])} is finished already")
            connection.execute(delete(history).where(history.c.run_id.in_(run_ids)))
            fresh: dict[str, Any] = {"status": "running", "started_at": sql.now(), "metrics": {}}
            fresh |= dict.fromkeys(("finished_at", "best_epoch", "epochs", "seconds", "error"))
            connection.execute(update(table).where(these).values(fresh))

    def record(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Keep epochs of runs; a row replaces an earlier one of the same run and epoch.

        A row holds ``run_id``, ``epoch`` and any of ``train_loss``, ``train_metric``,
        ``val_loss``, ``val_metric`` and ``seconds`` since the run's start.

        Raises:
            NotFoundError: where a run is unknown.
        """
        if not rows:
            return
        with self._database.write() as connection:
            sql.require(connection, {row["run_id"] for row in rows})
            sql.upsert(connection, tables.history, [sql.history_row(row) for row in rows])

    def publish(
        self,
        run_id: str,
        state: Mapping[str, "Tensor"],
        *,
        kind: CheckpointKind = "best",
        status: Status = "finished",
        epoch: int | None,
        epochs: int | None,
        metrics: Mapping[str, float],
        seconds: float | None,
    ) -> Checkpoint:
        """Keep a run's weights and then, in one transaction, its outcome.

        A checkpoint of the same kind is replaced.  ``metrics`` and ``epoch`` become the run's own
        unless ``kind`` is ``last``.

        Raises:
            NotFoundError: where the run is unknown.
            ZooError: where weights are not finite or cannot be written; nothing has changed then.
        """
        with self._database.read() as connection:
            run = sql.one_run(connection, run_id)
        outcome: dict[str, Any] = {"status": status, "finished_at": sql.ended(status)}
        outcome |= {"epochs": epochs, "seconds": seconds}
        if kind != "last":
            outcome |= {"best_epoch": epoch, "metrics": finite(metrics)}
        card = {"schema": tables.SCHEMA, "checkpoint": kind, "epoch": epoch} | asdict(run) | outcome
        data = encode(state, card, _owner(run))
        checkpoint = Checkpoint(
            run_id=run_id,
            kind=kind,
            sha256=self._blobs.put(data),
            size=len(data),
            epoch=epoch,
            metrics=finite(metrics),
            created_at=sql.now(),
        )
        with self._database.write() as connection:
            sql.upsert(connection, tables.checkpoint, [asdict(checkpoint)])
            connection.execute(update(tables.run).where(tables.run.c.id == run_id).values(outcome))
        return checkpoint

    def finish(
        self,
        run_id: str,
        status: Status,
        *,
        error: str | None = None,
        epochs: int | None = None,
        metrics: Mapping[str, float] | None = None,
        seconds: float | None = None,
    ) -> None:
        """End a run that publishes no weights: it failed, or is a prediction ensemble.

        Raises:
            NotFoundError: where the run is unknown.
        """
        measured = None if metrics is None else finite(metrics)
        given = {"epochs": epochs, "metrics": measured, "seconds": seconds}
        outcome = {key: value for key, value in given.items() if value is not None}
        with self._database.write() as connection:
            sql.require(connection, [run_id])
            connection.execute(
                update(tables.run)
                .where(tables.run.c.id == run_id)
                .values(status=status, finished_at=sql.ended(status), error=error, **outcome)
            )

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

    def checkpoints(self, run_id: str) -> list[Checkpoint]:
        """Return a run's checkpoints, oldest first.

        Raises:
            NotFoundError: where the run is unknown.
        """
        table = tables.checkpoint
        query = select(table).where(table.c.run_id == run_id).order_by(table.c.created_at)
        with self._database.read() as connection:
            sql.require(connection, [run_id])
            return [Checkpoint(**row) for row in connection.execute(query).mappings()]

    def load(self, run_id: str, kind: CheckpointKind = "best") -> dict[str, "Tensor"]:
        """Return published weights, on the CPU, once their size and SHA-256 are verified.

        Raises:
            NotFoundError: where the run, or such a checkpoint of it, does not exist.
            IntegrityError: where the stored bytes are not what was published.
        """
        with self._database.read() as connection:
            run = sql.one_run(connection, run_id)
        for checkpoint in self.checkpoints(run_id):
            if checkpoint.kind == kind:
                return decode(self._blobs.get(checkpoint.sha256, checkpoint.size, _owner(run)))
        raise NotFoundError(f"{_owner(run)} has no {kind!r} weights; its status is {run.status}")


def _owner(run: Run) -> str:
    return f"run {run.label} ({run.id})"
