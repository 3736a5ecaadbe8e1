"""What happens in training, written down about once a second, all of it in one transaction.

Weights go to their place at once, but nobody sees them before the transaction that mentions them.
Where the catalogue cannot be reached, what happened waits here and training goes on.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

from zoo.data import Data
from zoo.errors import LostClaimError, UnreachableError, ZooError
from zoo.fit import Fit
from zoo.registry import Registry
from zoo.registry.records import Batch, Outcome, finite
from zoo.reports import Epoch, Finished, Kept, Pass

FLUSH_S = 1.0  # how long anything may wait to be written with the rest
STATE_S = 30.0  # how much training a crash may cost
SHARE = 0.02  # of the time, at most, that goes into saving the state of training
PATIENCE_S = 300.0  # how long the end of training waits for a catalogue that cannot be reached
RETRY_S = 5.0  # and how long it waits between two tries
# What a row of the history has no column for.
UNRECORDED = ("key", "source", "val_balanced_accuracy")


@dataclass
class Journal:
    """Writes the passes of a :class:`~zoo.fit.Fit` to the registry.

    Attributes:
        say: is told what the user should know.
        histories: the epochs of members that have begun, those of earlier attempts too.
        ended: members that have ended, whatever became of them; nothing more is written of them.
        batch: what is not written yet.
    """

    registry: Registry
    data: Data
    say: Callable[[str], None] = lambda text: None
    histories: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    ended: set[str] = field(default_factory=set)
    batch: Batch = field(default_factory=Batch)
    due: float = 0.0
    saved: float = field(default_factory=time.monotonic)
    cost: float = 0.0

    def keep(self, happened: Pass) -> None:
        """Take note of a pass, in which nobody had ended before; store weights."""
        for epoch in happened.epochs:
            if epoch.key not in self.histories:
                self.histories[epoch.key] = []
                self.batch.started.append(epoch.key)
            row = {"run_id": epoch.key, **vars(epoch)}  # asdict would copy every value
            row = {key: row[key] for key in row if key not in UNRECORDED}
            self.histories[epoch.key].append(row)
            self.batch.history.append(row)
        for key, kept in happened.kept:
            if key not in self.ended:
                self._keep_or_fail(key, kept)
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
            try:
                self._write()
                return
            except UnreachableError as error:
                if last and time.monotonic() > deadline:
                    raise
                self.say(f"{error}; what happens is kept in memory until it can be")
                self.due = time.monotonic() + RETRY_S
                if not last:
                    return
                time.sleep(RETRY_S)

    def save(self, fit: Fit, *, now: bool = False) -> None:
        """Save the state of training where it is time to, so that a crash costs little."""
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
        except (UnreachableError, LostClaimError) as error:
            self.say(f"the state of training is not saved: {error}")
        self.saved = time.monotonic()
        self.cost = self.saved - start

    def fail(self, keys: Iterable[str], fault: str) -> None:
        """Let members that have not ended be failed."""
        for key in keys:
            if key not in self.ended:
                self._note_end(Outcome(run_id=key, status="failed", error=fault))

    def _write(self) -> None:
        """Write the batch, but nothing of runs that another process has taken over."""
        try:
            self.registry.write(self.batch)
        except LostClaimError as error:
            self.say(str(error))
            self.ended |= error.run_ids
            self.registry.write(self.batch.without(error.run_ids))
        self.batch = Batch()
        self.due = time.monotonic() + FLUSH_S

    def _end(self, end: Finished) -> None:
        best = end.best
        outcome = Outcome(
            run_id=end.key,
            status=end.status,
            error=end.fault or None,
            epochs=end.epochs,
            best_epoch=best.epoch if best else None,
            metrics=self._metrics(best) if best else None,
            seconds=end.seconds,
        )
        if best is None or end.state is None:
            self._note_end(outcome)
            return
        try:
            for kept in end.kept:
                self._keep(end.key, kept)
            history = self.histories[end.key]
            self._keep(end.key, Kept("best", best, end.state), outcome, history)
            self._note_end(outcome)
        except ZooError as error:  # such as a full disk: the others may still find room
            self.fail([end.key], str(error))

    def _note_end(self, outcome: Outcome) -> None:
        self.ended.add(outcome.run_id)
        self.histories.pop(outcome.run_id, None)
        self.batch.outcomes.append(outcome)

    def _keep_or_fail(self, key: str, kept: Kept) -> None:
        try:
            self._keep(key, kept)
        except ZooError as error:  # such as a full disk: the others may still find room
            self.fail([key], str(error))

    def _keep(
        self,
        key: str,
        kept: Kept,
        outcome: Outcome | None = None,
        history: Sequence[dict[str, Any]] = (),
    ) -> None:
        checkpoint = self.registry.put(
            key,
            kept.state,
            kind=kept.kind,
            epoch=kept.epoch.epoch,
            metrics=self._metrics(kept.epoch),
            source=kept.epoch.source,
            outcome=outcome,
            history=history,
        )
        self.batch.checkpoints.append(checkpoint)

    def _metrics(self, epoch: Epoch) -> dict[str, float]:
        name = "rmse" if self.data.task == "regression" else "accuracy"
        figures = {
            "train_loss": epoch.train_loss,
            f"train_{name}": epoch.train_metric,
            "val_loss": epoch.val_loss,
            f"val_{name}": epoch.val_metric,
            "val_balanced_accuracy": epoch.val_balanced_accuracy,
        }
        return finite({key: value for key, value in figures.items() if value is not None})
