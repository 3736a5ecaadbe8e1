"""What a person sees while many models train: a live panel on a terminal, lines elsewhere.

Everything goes to standard error; results alone go to standard output.
"""

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.text import Text

from zoo.data import Data
from zoo.figures import short
from zoo.printable import printable, wrapped
from zoo.registry.records import UNDONE, metric_of
from zoo.reports import Epoch, Finished, Pass
from zoo.sections import Task
from zoo.training import Begun, Event, Surveyed, Teaching
from zoo.working import Noted

LINE_S = 5.0  # seconds between two plain lines while nobody ends


class Progress:
    """Follows the events of :func:`zoo.training.train_many`; use it in a ``with`` statement."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True, highlight=False, markup=False, emoji=False)
        self.live = Live(console=self.console, refresh_per_second=4, transient=True)
        self.labels: dict[str, str] = {}
        self.limits: dict[str, int] = {}
        self.epochs: dict[str, int] = {}
        self.ended: dict[str, int] = {}
        self.best: tuple[float, str, str] | None = None
        self.metric, self.sign = "accuracy", -1
        self.resumed: int | None = None  # epochs that were trained before this command
        self.workers = 0  # besides this process
        self.started = self.printed = time.monotonic()

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            self.live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.live.stop()

    def __call__(self, event: Event) -> None:
        """Show an event."""
        match event:
            case Begun():
                self._begin(event)
            case Teaching(title, task, limits):
                self._say(f"{title}: {_count(len(limits), 'model')} to train")
                self._expect(task, {key: key for key in limits}, dict(limits))
            case Noted(text):
                self._say(text)
            case Pass():
                self._advance(event)
            case Surveyed():
                self._survey(event)

    def _say(self, text: str) -> None:
        width = self.console.width if self.console.is_terminal else None
        self.console.print(wrapped(printable(text), width), soft_wrap=True)

    def _begin(self, event: Begun) -> None:
        data = event.plan.data
        there = len(event.runs) - len(event.pending)
        self._say(
            f"{event.plan.title}: {_count(len(event.pending), 'model')} to train"
            + (f", {there} are there already" if there else "")
        )
        for line in introduced(data):
            self._say(line)
        self._expect(
            data.task,
            {run.id: run.label for run in event.pending},
            {run.id: run.config["train"]["epochs"] for run in event.pending},
        )

    def _expect(self, task: Task, labels: dict[str, str], limits: dict[str, int]) -> None:
        """Be ready to follow models with these keys."""
        self.metric, self.sign = metric_of(task), 1 if task == "regression" else -1
        self.labels, self.limits = labels, limits
        self.epochs, self.ended, self.best, self.resumed = {}, {}, None, None
        self.started = self.printed = time.monotonic()

    def _advance(self, event: Pass) -> None:
        for epoch in event.epochs:
            if epoch.key not in self.epochs:
                self.resumed = (self.resumed or 0) + max(epoch.epoch - 1, 0)
            self.epochs[epoch.key] = epoch.epoch
            name, value = _watched(epoch, self.metric)
            score = (self.sign * value, self.labels[epoch.key], name)
            if value == value and (self.best is None or score < self.best):
                self.best = score
        for end in event.finished:
            self.ended[end.key] = end.epochs
            if not self.console.is_terminal or end.status == "diverged":
                line = f"{self.labels[end.key]} {_outcome(end, self.metric)}"
                self._say(line)
        self._show()

    def _survey(self, event: Surveyed) -> None:
        self.workers = event.workers
        self.epochs = {run.id: run.epochs for run in event.standings if run.status != "queued"}
        if self.resumed is None:
            self.resumed = sum(self.epochs.values())
        ended = [run for run in event.standings if run.status not in UNDONE]
        for run in ended:
            quiet = self.console.is_terminal and run.status == "finished"
            if not (quiet or run.id in self.ended):
                count = _count(run.epochs, "epoch")
                self._say(f"{self.labels[run.id]} {run.status} after {count}")
        self.ended = {run.id: run.epochs for run in ended}
        self._show()

    def _show(self) -> None:
        if self.console.is_terminal:
            self.live.update(Text(self._line(), no_wrap=True, overflow="ellipsis"))
        elif time.monotonic() - self.printed > LINE_S:
            self.printed = time.monotonic()
            self._say(self._line())

    def _line(self) -> str:
        running = len(self.epochs) - len(self.ended)
        waiting = len(self.labels) - len(self.epochs)
        epochs = sum(self.epochs.values())
        parts = [f"{len(self.ended)} done, {running} training"]
        parts += [f"{waiting} waiting"] if waiting else []
        parts += [_count(self.workers, "worker")] if self.workers else []
        parts += [_count(epochs, "epoch")]
        if self.best is not None:
            parts.append(f"best {self.best[2]} {short(abs(self.best[0]))}")
        parts.append(f"at most {self._left(epochs)} left")
        return " | ".join(parts)

    def _left(self, epochs: int) -> str:
        """Estimate the time until all are done if nobody stopped early from here on."""
        limit = sum(self.limits.values())
        for key, trained in self.ended.items():
            limit -= self.limits[key] - trained
        elapsed = time.monotonic() - self.started
        seconds = round(elapsed * (limit - epochs) / max(epochs - (self.resumed or 0), 1))
        return f"{seconds // 60}:{seconds % 60:02d}"


def introduced(data: Data) -> list[str]:
    """Say what is learnt from, a line each: the task and the rows, then what should be known."""
    rows = f"{len(data.train)} train, {len(data.val)} validation, {len(data.test)} test rows"
    if data.has_own_rows:
        rows += (
            " for the first; each member trains on rows of its own, and all have these test rows"
        )
    noun = "labels" if data.task == "multilabel" else "classes"
    classes = f", {len(data.classes)} {noun}" if data.classes else ""
    return [f"{data.ref}: {data.task}{classes}; {rows}", *(f"  {note}" for note in data.notes)]


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _outcome(end: Finished, metric: str) -> str:
    """Say in a few words how a member ended.

    >>> _outcome(Finished("a", "diverged", None, None, [], 1, 0.1, "no loss"), "accuracy")
    'diverged in epoch 1: no loss'
    """
    if end.best is None:
        return f"diverged in epoch {end.epochs}: {end.fault}"
    name, value = _watched(end.best, metric)
    best = f"best epoch {end.best.epoch}: val {name} {short(value)}"
    return (
        f"{end.status} after {_count(end.epochs, 'epoch')}; {best}, loss {short(end.best.val_loss)}"
    )


def _watched(epoch: Epoch, metric: str) -> tuple[str, float]:
    """Return the figure that says how good an epoch is, and its name."""
    if epoch.val_balanced_accuracy is None:
        return metric, epoch.val_metric
    return "balanced_accuracy", epoch.val_balanced_accuracy
