"""The registry: a catalogue in a database beside a folder of weights.

The order of publishing makes a crash harmless: the weights are on the disk in full, under their
final name, before one transaction mentions them.  Readers see what is mentioned.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import insert, select, update

from zoo.errors import NotFoundError
from zoo.registry import rows as sql
from zoo.registry import tables
from zoo.registry.blobs import Blobs
from zoo.registry.catalogue import Catalogue
from zoo.registry.records import (
    Checkpoint,
    CheckpointKind,
    Run,
    SavedState,
    Source,
    Status,
    finite,
)
from zoo.registry.weights import decode, encode, header

if TYPE_CHECKING:
    from torch import Tensor


class Registry(Catalogue):
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
        self._states = Blobs(self._blobs.folder / "states")
        if create:
            self._blobs.create()
        super().__init__(url, create=create)

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
        source: Source = "weights",
        history: Sequence[Mapping[str, Any]] = (),
    ) -> Checkpoint:
        """Keep a run's weights and then, in one transaction, its outcome and its last epochs.

        A checkpoint of the same kind is replaced.  ``metrics`` and ``epoch`` become the run's own;
        ``history`` holds rows as for :meth:`record`.

        Raises:
            NotFoundError: where the run is unknown.
            ZooError: where weights are not finite or cannot be written; nothing has changed then.
        """
        with self._database.read() as connection:
            run = sql.one_run(connection, run_id)
        outcome = {
            "status": status,
            "finished_at": sql.ended(status),
            "epochs": epochs,
            "seconds": seconds,
            "best_epoch": epoch,
            "metrics": finite(metrics),
        }
        checkpoint = self._put(run, state, outcome, kind, epoch, metrics, source)
        with self._database.write() as connection:
            sql.put_checkpoints(connection, [checkpoint])
            sql.put_history(connection, history)
            stale = sql.drop_states(connection, [run_id])
            connection.execute(update(tables.run).where(tables.run.c.id == run_id).values(outcome))
        if stale:
            self.sweep()
        return checkpoint

    def keep(
        self,
        run_id: str,
        state: Mapping[str, "Tensor"],
        *,
        kind: CheckpointKind,
        epoch: int,
        metrics: Mapping[str, float],
        source: Source = "weights",
    ) -> Checkpoint:
        """Keep weights of a run besides its best ones; the run itself stays as it is.

        A checkpoint of the same kind, and of the same epoch for ``top`` and ``epoch``, is replaced.

        Raises:
            NotFoundError: where the run is unknown.
            ZooError: where weights are not finite or cannot be written; nothing has changed then.
        """
        with self._database.read() as connection:
            run = sql.one_run(connection, run_id)
        checkpoint = self._put(run, state, {}, kind, epoch, metrics, source)
        with self._database.write() as connection:
            sql.put_checkpoints(connection, [checkpoint])
        return checkpoint

    def save_state(
        self, run_ids: Sequence[str], tensors: Mapping[str, "Tensor"], note: Mapping[str, Any]
    ) -> None:
        """Keep the state of runs in training in place of their former one.

        It is forgotten when its last run ends.

        Raises:
            NotFoundError: where a run is unknown.
            ZooError: where it cannot be written; the former one is still there then.
        """
        data = encode(tensors, note, "the state of training", finite=False)
        with self._database.write() as connection:  # held while writing: see sweep()
            sql.require(connection, run_ids)
            facts: dict[str, Any] = {"kind": "state", "sha256": self._states.put(data)}
            facts |= {"size": len(data), "epoch": None, "source": "weights", "metrics": {}}
            sql.drop_states(connection, run_ids)
            rows = [
                asdict(Checkpoint(run_id=key, created_at=sql.now(), **facts)) for key in run_ids
            ]
            connection.execute(insert(tables.checkpoint), rows)
        self.sweep()

    def saved_states(self, run_ids: Iterable[str]) -> list[SavedState]:
        """Return the states that any of these runs are part of."""
        table, wanted = tables.checkpoint, set(run_ids)
        query = select(table).where(table.c.kind == "state").order_by(table.c.sequence)
        groups: dict[tuple[str, int], list[str]] = {}
        with self._database.read() as connection:
            for row in connection.execute(query):
                if row.run_id in wanted:
                    groups.setdefault((row.sha256, row.size), []).append(row.run_id)
        return [SavedState(sha256, size, tuple(ids)) for (sha256, size), ids in groups.items()]

    def load_state(self, saved: SavedState) -> tuple[dict[str, "Tensor"], dict[str, Any]]:
        """Return the tensors and the note that were given to :meth:`save_state`.

        Raises:
            IntegrityError: where the stored bytes are not what was saved.
        """
        data = self._states.get(saved.sha256, saved.size, "the state of training")
        return decode(data), header(data)

    def sweep(self) -> None:
        """Remove files of states that no run is part of, also what a crash has left.

        Nobody is writing one meanwhile, because that takes the same lock.
        """
        with self._database.write() as connection:
            these = tables.checkpoint.c.kind == "state"
            known = connection.scalars(select(tables.checkpoint.c.sha256).where(these))
            self._states.keep_only(set(known))

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
        stale = False
        with self._database.write() as connection:
            sql.require(connection, [run_id])
            if status != "interrupted":
                stale = sql.drop_states(connection, [run_id])
            connection.execute(
                update(tables.run)
                .where(tables.run.c.id == run_id)
                .values(status=status, finished_at=sql.ended(status), error=error, **outcome)
            )
        if stale:
            self.sweep()

    def checkpoints(self, run_id: str) -> list[Checkpoint]:
        """Return a run's checkpoints, oldest first; the state of training is not one of them.

        Raises:
            NotFoundError: where the run is unknown.
        """
        table = tables.checkpoint
        columns = [column for column in table.c if column.name != "sequence"]
        these = (table.c.run_id == run_id) & (table.c.kind != "state")
        query = select(*columns).where(these).order_by(table.c.sequence)
        with self._database.read() as connection:
            sql.require(connection, [run_id])
            return [Checkpoint(**row) for row in connection.execute(query).mappings()]

    def load(
        self, run_id: str, kind: CheckpointKind = "best", epoch: int | None = None
    ) -> dict[str, "Tensor"]:
        """Return published weights, on the CPU, once their size and SHA-256 are verified.

        ``epoch`` chooses among several of a kind.

        Raises:
            NotFoundError: where the run, or such a checkpoint of it, does not exist.
            IntegrityError: where the stored bytes are not what was published.
        """
        with self._database.read() as connection:
            run = sql.one_run(connection, run_id)
        for checkpoint in self.checkpoints(run_id):
            if checkpoint.kind == kind and epoch in (None, checkpoint.epoch):
                return decode(self._blobs.get(checkpoint.sha256, checkpoint.size, run.owner))
        which = kind if epoch is None else f"{kind} {epoch}"
        raise NotFoundError(f"{run.owner} has no {which!r} weights; its status is {run.status}")

    def _put(
        self,
        run: Run,
        state: Mapping[str, "Tensor"],
        outcome: Mapping[str, Any],
        kind: CheckpointKind,
        epoch: int | None,
        metrics: Mapping[str, float],
        source: Source,
    ) -> Checkpoint:
        """Write weights; nothing mentions them yet."""
        card = {"schema": tables.SCHEMA, "checkpoint": kind, "epoch": epoch, "source": source}
        data = encode(state, card | vars(run) | dict(outcome), run.owner)
        return Checkpoint(
            run_id=run.id,
            kind=kind,
            sha256=self._blobs.put(data),
            size=len(data),
            epoch=epoch,
            source=source,
            metrics=finite(metrics),
            created_at=sql.now(),
        )
