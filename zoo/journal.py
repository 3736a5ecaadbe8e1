"""What happens in training, written down: epochs together about once a second, ends at once.

The epochs of a member that ends, which nobody has written yet, go into the very transaction that
publishes it.
"""

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

from zoo.data import Data
from zoo.errors import ZooError
from zoo.fit import Fit
from zoo.registry import Registry
from zoo.reports import Epoch, Finished, Kept, Pass

FLUSH_S = 1.0  # how long epochs may wait to be written together: one disk synchronisation for all
STATE_S = 30.0  # how much training a crash may cost
UNRECORDED = (
    "key",
    "source",
    "val_balanced_accuracy",
)  # what a row of the history has no column for
SHARE = 0.02  # of the time, at most, that goes into saving the state of training


@dataclass
class Journal:
    """Writes the passes of a :class:`~zoo.fit.Fit` to the registry.

    Attributes:
        begun: members that have trained before, whose histories go on.
        ended: members that have ended, whatever became of them; nothing more is written of them.
    """

    registry: Registry
    data: Data
    begun: set[str] = field(default_factory=set)
    ended: set[str] = field(default_factory=set)
    rows: list[dict[str, Any]] = field(default_factory=list)
    started: list[str] = field(default_factory=list)
    flushed: float = field(default_factory=time.monotonic)
    saved: float = field(default_factory=time.monotonic)
    cost: float = 0.0

    def keep(self, happened: Pass) -> None:
        """Take note of a pass, in which nobody had ended before; publish what has ended."""
        for epoch in happened.epochs:
            if epoch.key not in self.begun:
                self.started.append(epoch.key)
                self.begun.add(epoch.key)
            row = {"run_id": epoch.key, **vars(epoch)}  # asdict would copy every value
            self.rows.append({key: row[key] for key in row if key not in UNRECORDED})
        named = {*(key for key, _ in happened.kept), *(end.key for end in happened.finished)}
        if named.intersection(self.started) or time.monotonic() - self.flushed > FLUSH_S:
            self.flush()
        for key, kept in happened.kept:
            if key not in self.ended:
                self._keep_or_fail(key, kept)
        for end in happened.finished:
            if end.key not in self.ended:
                self._publish(end)

    def flush(self) -> None:
        """Write what has been noted."""
        if self.started:
            self.registry.start(self.started)
        self.registry.record(self.rows)
        self.rows, self.started, self.flushed = [], [], time.monotonic()

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
        self.flush()
        tensors, note = fit.snapshot()
        self.registry.save_state(keys, tensors, note | {"torch": version("torch")})
        self.saved = time.monotonic()
        self.cost = self.saved - start

    def fail(self, keys: Iterable[str], fault: str) -> None:
        """Let members that have not ended be failed."""
        for key in keys:
            if key not in self.ended:
                self.ended.add(key)
                self.registry.finish(key, "failed", error=fault)

    def _publish(self, end: Finished) -> None:
        self.ended.add(end.key)
        history = [row for row in self.rows if row["run_id"] == end.key]
        self.rows = [row for row in self.rows if row["run_id"] != end.key]
        if end.state is None or end.best is None:
            self.registry.record(history)
            self.registry.finish(
                end.key, end.status, error=end.fault, epochs=end.epochs, seconds=end.seconds
            )
            return
        try:
            for kept in end.kept:
                self._keep(end.key, kept)
            self.registry.publish(
                end.key,
                end.state,
                status=end.status,
                epoch=end.best.epoch,
                epochs=end.epochs,
                metrics=self._metrics(end.best),
                seconds=end.seconds,
                source=end.best.source,
                history=history,
            )
        except ZooError as error:  # such as a full disk: the others may still find room
            self.registry.record(history)
            self.registry.finish(end.key, "failed", error=str(error))

    def _keep_or_fail(self, key: str, kept: Kept) -> None:
        try:
            self._keep(key, kept)
        except ZooError as error:  # such as a full disk: the others may still find room
            self.fail([key], str(error))

    def _keep(self, key: str, kept: Kept) -> None:
        self.registry.keep(
            key,
            kept.state,
            kind=kept.kind,
            epoch=kept.epoch.epoch,
            metrics=self._metrics(kept.epoch),
            source=kept.epoch.source,
        )

    def _metrics(self, epoch: Epoch) -> dict[str, float]:
        name = "rmse" if self.data.task == "regression" else "accuracy"
        balanced = epoch.val_balanced_accuracy
        return {
            "train_loss": epoch.train_loss,
            f"train_{name}": epoch.train_metric,
            "val_loss": epoch.val_loss,
            f"val_{name}": epoch.val_metric,
            **({} if balanced is None else {"val_balanced_accuracy": balanced}),
        }
