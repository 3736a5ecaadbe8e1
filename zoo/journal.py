"""What happens in training, written down: epochs together about once a second, ends at once."""

import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from typing import Any

from zoo.data import Data
from zoo.errors import ZooError
from zoo.fit import Fit
from zoo.registry import Registry
from zoo.reports import Epoch, Finished, Kept, Pass

FLUSH_S = 1.0  # how long epochs may wait to be written together: one disk synchronisation for all
STATE_S = 30.0  # how much training a crash may cost
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
            row = asdict(epoch)
            row["run_id"] = row.pop("key")
            del row["source"], row["val_balanced_accuracy"]
            self.rows.append(row)
        if happened.kept or happened.finished or time.monotonic() - self.flushed > FLUSH_S:
            self.flush()
        for key, kept in happened.kept:
            self._keep(key, kept)
        for end in happened.finished:
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
        if end.state is None or end.best is None:
            fault = "the loss was not finite in the first epoch; try a smaller optim.lr"
            self.registry.finish(
                end.key, end.status, error=fault, epochs=end.epochs, seconds=end.seconds
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
            )
        except ZooError as error:  # such as a full disk: the others may still find room
            self.registry.finish(end.key, "failed", error=str(error))

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
