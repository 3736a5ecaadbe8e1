"""The registry: a catalogue in a database beside a folder of weights.

The order of publishing makes a crash harmless: the weights are on the disk in full, under their
final name, before one transaction mentions them.  Readers see what is mentioned.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import select

from zoo.errors import NotFoundError, UsageError
from zoo.registry import rows as sql
from zoo.registry import tables
from zoo.registry.adopting import adopt
from zoo.registry.blobs import open_blobs
from zoo.registry.catalogue import Catalogue
from zoo.registry.places import beside
from zoo.registry.records import (
    Batch,
    Checkpoint,
    CheckpointKind,
    Outcome,
    Run,
    SavedState,
    Source,
    Status,
    finite,
)
from zoo.registry.weights import decode, encode, header
from zoo.registry.writing import columns, drop_states, start, write

if TYPE_CHECKING:
    from torch import Tensor

TOLD = 20_000  # epochs of a run that go into a header at most, which has 16 MiB in all


class Registry(Catalogue):
    """Every run, its history and its weights.  Close it, or use it in a ``with`` statement.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder, Registry(f"sqlite:///{folder}/r.db", folder) as zoo:
    ...     zoo.runs()
    []

    Args:
        url: of the catalogue.
        blobs: where weights are; by default beside a SQLite catalogue.
        create: whether to make what is not there.

    Attributes:
        blobs: where weights are stored.
        states: where states of training are.

    Raises:
        NotFoundError: where there is no registry and ``create`` is false.
        UsageError: where the place cannot be used: not writable, not a registry, a newer one.
        IntegrityError: where the file is not a database, or is damaged.
    """

    def __init__(
        self,
        url: str = "sqlite:///checkpoints/registry.db",
        blobs: str | Path | None = None,
        *,
        create: bool = True,
    ) -> None:
        self.blobs = open_blobs(beside(url) if blobs is None else blobs)
        self.states = self.blobs.child("states")
        if create:
            self.blobs.create()
        super().__init__(url, create=create)

    def put(
        self,
        run_id: str,
        state: Mapping[str, "Tensor"],
        *,
        kind: CheckpointKind,
        epoch: int | None,
        metrics: Mapping[str, float],
        source: Source = "weights",
        outcome: Outcome | None = None,
        history: Sequence[Mapping[str, Any]] = (),
    ) -> Checkpoint:
        """Store weights, which nobody sees until what is returned has been written in a batch.

        The run's facts, and the outcome and history where given, go into the file's header.

        Raises:
            NotFoundError: where the run is unknown.
            ZooError: where weights are not finite or cannot be stored; nothing is left then.
        """
        run = self._known(run_id)
        card: dict[str, Any] = {"schema": tables.SCHEMA, "checkpoint": kind, "epoch": epoch}
        card |= {"source": source, "checkpoint_metrics": finite(metrics)}
        card |= {"history": columns(history)} if 0 < len(history) <= TOLD else {}
        card |= vars(run) | (outcome.given if outcome else {})
        data = encode(state, card, run.owner)
        return Checkpoint(
            run_id=run.id,
            kind=kind,
            sha256=self.blobs.put(data),
            size=len(data),
            epoch=epoch,
            source=source,
            metrics=finite(metrics),
            created_at=sql.now(),
        )

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

        A checkpoint of the same kind is replaced.  ``metrics`` and ``epoch`` become the run's own.

        Raises:
            NotFoundError: where the run is unknown.
            LostClaimError: where the run is another process's.
            ZooError: where weights are not finite or cannot be written; nothing has changed then.
        """
        end = Outcome(
            run_id=run_id,
            status=status,
            epochs=epochs,
            best_epoch=epoch,
            metrics=finite(metrics),
            seconds=seconds,
        )
        kept = self.put(run_id, state, kind=kind, epoch=epoch, metrics=metrics, outcome=end)
        self.write(Batch(checkpoints=[kept], outcomes=[end]))
        return kept

    def start(self, run_ids: Sequence[str], *, anew: bool = True) -> None:
        """Mark runs as running; what an earlier attempt recorded is removed, if they begin anew.

        Raises:
            NotFoundError: where a run is unknown.
            LostClaimError: where a run is another process's.
            UsageError: where a run is finished already.
        """
        table = tables.run
        with self.database.write() as connection:
            self._claims.check(connection, run_ids)
            these = table.c.id.in_(run_ids)
            finished = sql.select_runs(connection, these & (table.c.status == "finished"))
            if finished:
                raise UsageError(f"{finished[0].owner} is finished already")
            start(connection, run_ids, anew=anew)

    def record(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Keep epochs of runs; a row replaces an earlier one of the same run and epoch.

        A row holds ``run_id``, ``epoch`` and any of the figures of :class:`zoo.reports.Epoch`.

        Raises:
            NotFoundError: where a run is unknown.
            LostClaimError: where a run is another process's.
        """
        self.write(Batch(history=[*rows]))

    def finish(
        self,
        run_id: str,
        status: Status,
        *,
        error: str | None = None,
        epochs: int | None = None,
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        """End a run that publishes no weights: it failed, or is a prediction ensemble.

        Raises:
            NotFoundError: where the run is unknown.
            LostClaimError: where the run is another process's.
        """
        end = Outcome(
            run_id=run_id,
            status=status,
            error=error,
            epochs=epochs,
            metrics=None if metrics is None else finite(metrics),
        )
        self.write(Batch(outcomes=[end]))

    def write(self, batch: Batch) -> None:
        """Write what happened to some runs in one transaction, or nothing of it.

        Writing the same again changes nothing.  Runs whose outcome is written are released.

        Raises:
            NotFoundError: where a run is unknown.
            LostClaimError: where runs are another process's; it names them all.
            UnreachableError: where the database cannot be used now.
        """
        run_ids = batch.run_ids
        if not run_ids:
            return
        with self.database.write() as connection:
            self._claims.check(connection, run_ids)
            stale = write(connection, batch)
        for sha256 in stale:
            self.states.remove(sha256)

    def save_state(
        self, run_ids: Sequence[str], tensors: Mapping[str, "Tensor"], note: Mapping[str, Any]
    ) -> None:
        """Keep the state of runs in training in place of their former one.

        It is forgotten when its last run ends.

        Raises:
            NotFoundError: where a run is unknown.
            LostClaimError: where a run is another process's.
            ZooError: where it cannot be written; the former one is still there then.
        """
        card = {**note, "runs": list(run_ids)}
        data = encode(tensors, card, "the state of training", finite=False)
        facts: dict[str, Any] = {"kind": "state", "sha256": self.states.put(data)}
        facts |= {"size": len(data), "epoch": None, "source": "weights", "metrics": {}}
        batch = Batch(
            checkpoints=[Checkpoint(run_id=key, created_at=sql.now(), **facts) for key in run_ids]
        )
        with self.database.write() as connection:
            self._claims.check(connection, run_ids)
            stale = drop_states(connection, run_ids)
            write(connection, batch)
        for sha256 in stale - {facts["sha256"]}:
            self.states.remove(sha256)

    def saved_states(self, run_ids: Iterable[str]) -> list[SavedState]:
        """Return the states that any of these runs are part of."""
        table, wanted = tables.checkpoint, set(run_ids)
        query = select(table).where(table.c.kind == "state").order_by(table.c.sequence)
        groups: dict[tuple[str, int], list[str]] = {}
        with self.database.read() as connection:
            for row in connection.execute(query):
                if row.run_id in wanted:
                    groups.setdefault((row.sha256, row.size), []).append(row.run_id)
        return [SavedState(sha256, size, tuple(ids)) for (sha256, size), ids in groups.items()]

    def load_state(self, saved: SavedState) -> tuple[dict[str, "Tensor"], dict[str, Any]]:
        """Return the tensors and the note that were given to :meth:`save_state`.

        Raises:
            IntegrityError: where the stored bytes are not what was saved.
        """
        data = self.states.get(saved.sha256, saved.size, "the state of training")
        return decode(data), header(data)

    def load(
        self, run_id: str, kind: CheckpointKind = "best", epoch: int | None = None
    ) -> dict[str, "Tensor"]:
        """Return published weights, on the CPU, once their size and SHA-256 are verified.

        ``epoch`` chooses among several of a kind.

        Raises:
            NotFoundError: where the run, or such a checkpoint of it, does not exist.
            IntegrityError: where the stored bytes are not what was published.
        """
        with self.database.read() as connection:
            run = sql.one_run(connection, run_id)
        for checkpoint in self.checkpoints(run_id):
            if checkpoint.kind == kind and epoch in (None, checkpoint.epoch):
                return decode(self.content(checkpoint, run.owner), run.owner)
        which = kind if epoch is None else f"{kind} {epoch}"
        raise NotFoundError(f"{run.owner} has no {which!r} weights; its status is {run.status}")

    def content(self, checkpoint: Checkpoint, owner: str) -> bytes:
        """Return a checkpoint as it is stored, once its size and SHA-256 are verified.

        Raises:
            IntegrityError: where the stored bytes are not what was published; ``owner`` leads the
                message.
        """
        return self.blobs.get(checkpoint.sha256, checkpoint.size, owner)

    def receive(self, data: bytes) -> None:
        """Keep a checkpoint of another registry; nothing mentions it until :meth:`adopt`.

        Raises:
            ZooError: where it cannot be written.
        """
        self.blobs.put(data)

    def adopt(
        self, run: Run, checkpoints: Iterable[Checkpoint], history: Iterable[Mapping[str, Any]]
    ) -> bool:
        """Enter an ended run of another registry, its weights received, in one transaction.

        Returns:
            whether it was entered; not so where a run of that identity is here already.

        Raises:
            NotFoundError: where a parent is unknown.
        """
        with self.database.write() as connection:
            return adopt(connection, run, checkpoints, history)
