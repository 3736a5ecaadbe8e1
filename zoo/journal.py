"""What happens in training, written down about once a second, all of it in one transaction.

Weights go to their place at once, but nobody sees them before the transaction that mentions them.
Where that place or the catalogue cannot be reached, what happened waits here and training goes on.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

from zoo.data import Data
from zoo.errors import LostClaimError, UnreachableError, ZooError
from zoo.fit import Fit
from zoo.registry import Registry
from zoo.registry.records import Batch, Outcome, finite, metric_of
from zoo.reports import Epoch, Finished, Kept, Pass

FLUSH_S = 1.0  # how long anything may wait to be written with the rest
STATE_S = 30.0  # how much training a crash may cost
SHARE = 0.02  # of the time, at most, that goes into saving the state of training
PATIENCE_S = 300.0  # how long the end of training waits for a catalogue that cannot be reached
RETRY_S = 5.0  # and how long it waits between two tries
PAUSE = 10  # how much longer training goes on between two writes than one of them takes
# What a row of the history has no column for.
UNRECORDED = ("key", "source", "val_balanced_accuracy")


@dataclass(frozen=True)
class _Parcel:
    """Weights on their way to the registry; with the best of an ended member, its outcome."""

    key: str
    kept: Kept
    outcome: Outcome | None = None
    history: Sequence[dict[str, Any]] = ()


@dataclass
class Journal:
    """Writes the passes of a :class:`~zoo.fit.Fit` to the registry.

    Attributes:
        say: is told what the user should know.
        histories: the epochs of members that have begun, those of earlier attempts too.
        ended: members that have ended, whatever became of them; nothing more is written of them.
        failed: those of them whose weights could not be stored, or who failed otherwise.
        batch: what is not written yet.
        parcels: weights that could not be stored yet, and the outcomes that follow them.
    """

    registry: Registry
    data: Data
    say: Callable[[str], None] = lambda text: None
    histories: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    ended: set[str] = field(default_factory=set)
    failed: set[str] = field(default_factory=set)
    batch: Batch = field(default_factory=Batch)
    parcels: deque[_Parcel] = field(default_factory=deque)
    due: float = 0.0
    saved: float = field(default_factory=time.monotonic)
    cost: float = 0.0

    def keep(self, happened: Pass) -> None:
        """Take note of a pass, in which nobody had ended before; store weights."""
        for epoch in happened.epochs:
            if epoch.key not in self.histories:
                self.histories[epoch.key] = []
                self.batch.started.append(epoch.key)
            row = history_row(epoch.key, epoch)
            self.histories[epoch.key].append(row)
            self.batch.history.append(row)
        for key, kept in happened.kept:
            if key not in self.ended:
                self._send(_Parcel(key, kept))
        for end in happened.finished:
            if end.key not in self.ended:
                self._end(end)
        if time.monotonic() > self.due:
            self.flush()

    def flush(self, *, last: bool = False) -> None:
        """Write what has been noted; the ``last`` time patiently.

        Raises:
            UnreachableError: the last time, where the catalogue cannot be reached for long.
        """
        deadline = time.monotonic() + PATIENCE_S
        while True:
            start = time.monotonic()
            try:
                self._write()
                return
            except UnreachableError as error:
                now = time.monotonic()
                if last and now > deadline:
                    raise
                self.say(f"{error}; what happens is kept in memory until it can be")
                self.due = now + max(RETRY_S, PAUSE * (now - start))
                if not last:
                    return
                time.sleep(RETRY_S)

    def save(self, fit: Fit, *, now: bool = False) -> None:
        """Save the state of training where it is time to, so that a crash costs little.

        Raises:
            ZooError: where it cannot be, and nothing has begun; later training goes on without.
        """
        wait = max(STATE_S, self.cost / SHARE)
        if not now and time.monotonic() - self.saved < wait:
            return
        members = [*(slot.member for slot in fit.slots if slot), *fit.waiting]
        keys = [member.key for member in members if member.key not in self.ended]
        if not keys:
            return
        start = time.monotonic()
        try:
            self._write()
            tensors, note = fit.snapshot()
            self.registry.save_state(keys, tensors, note | {"torch": version("torch")})
        except ZooError as error:
            passing = isinstance(error, UnreachableError | LostClaimError)
            if not (passing or self.histories or self.ended):
                raise  # such as a full disk, before anything has begun: no weights would fit either
            self.say(f"the state of training is not saved: {error}")
        self.saved = time.monotonic()
        self.cost = self.saved - start

    def fail(self, keys: Iterable[str], fault: str) -> None:
        """Let members that have not ended be failed."""
        for key in keys:
            if key not in self.ended:
                self._fail(key, fault)

    def _write(self) -> None:
        """Write the batch, but nothing of runs that another process has taken over.

        Raises:
            UnreachableError: where weights or the batch have to wait; the rest is written.
        """
        start = time.monotonic()
        try:
            while self.parcels:
                self._store(self.parcels[0])
                self.parcels.popleft()
        finally:  # what is stored is written, even if other weights have to wait
            self._enter()
        # Where many write to one catalogue, each waits for the others: then less often.
        now = time.monotonic()
        self.due = now + max(FLUSH_S, PAUSE * (now - start))

    def _enter(self) -> None:
        """Write the batch, once nothing is in it of runs that others have taken over."""
        while True:
            try:
                self.registry.write(self.batch)
                break
            except LostClaimError as error:
                self.say(str(error))
                self.ended |= error.run_ids
                self.batch = self.batch.without(error.run_ids)
        self.batch = Batch()

    def _end(self, end: Finished) -> None:
        best = end.best
        outcome = Outcome(
            run_id=end.key,
            status=end.status,
            error=end.fault or None,
            epochs=end.epochs,
            best_epoch=best.epoch if best else None,
            metrics=metrics_of(best, self.data.task) if best else None,
            seconds=end.seconds,
        )
        self.ended.add(end.key)
        history = self.histories.pop(end.key, [])
        if best is None or end.state is None:
            self.batch.outcomes.append(outcome)
            return
        for kept in end.kept:
            self._send(_Parcel(end.key, kept))
        self._send(_Parcel(end.key, Kept("best", best, end.state), outcome, history))

    def _send(self, parcel: _Parcel) -> None:
        """Store weights, or let them wait where the place cannot be reached."""
        if not self.parcels:  # they are stored in their order
            try:
                self._store(parcel)
                return
            except UnreachableError:
                self.due = 0.0  # the next flush tries once more, and says so
        self.parcels.append(parcel)

    def _store(self, parcel: _Parcel) -> None:
        """Store weights and note them; a run whose weights cannot be stored has failed.

        Raises:
            UnreachableError: where the place cannot be reached now.
        """
        if parcel.key in self.failed:
            return
        epoch = parcel.kept.epoch
        try:
            checkpoint = self.registry.put(
                parcel.key,
                parcel.kept.state,
                kind=parcel.kept.kind,
                epoch=epoch.epoch,
                metrics=metrics_of(epoch, self.data.task),
                source=epoch.source,
                outcome=parcel.outcome,
                history=parcel.history,
            )
        except UnreachableError:
            raise
        except ZooError as error:  # such as a full disk: the others may still find room
            self._fail(parcel.key, str(error))
            return
        self.batch.checkpoints.append(checkpoint)
        if parcel.outcome is not None:
            self.batch.outcomes.append(parcel.outcome)

    def _fail(self, key: str, fault: str) -> None:
        self.ended.add(key)
        self.failed.add(key)
        self.batch.outcomes.append(Outcome(run_id=key, status="failed", error=fault))


def history_row(run_id: str, epoch: Epoch) -> dict[str, Any]:
    """Write an epoch as a row of a run's history."""
    row = {"run_id": run_id, **vars(epoch)}  # asdict would copy every value
    return {key: value for key, value in row.items() if key not in UNRECORDED}


def metrics_of(epoch: Epoch, task: str) -> dict[str, float]:
    """Return the figures of an epoch by which a run is listed and ranked."""
    name = metric_of(task)
    figures = {
        "train_loss": epoch.train_loss,
        f"train_{name}": epoch.train_metric,
        "val_loss": epoch.val_loss,
        f"val_{name}": epoch.val_metric,
        "val_balanced_accuracy": epoch.val_balanced_accuracy,
    }
    return finite({key: value for key, value in figures.items() if value is not None})
