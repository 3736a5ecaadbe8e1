"""What the learning curve of a run says: one word, one sentence, and the figures they rest on.

Everything is read from the two losses of each epoch.  The validation loss is smoothed by a moving
median before anything is called a turn.  Each threshold was set on real runs: they, and what was
said of them, are in ``docs/curves.md``.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from statistics import median
from typing import Any, Literal

from zoo.errors import UsageError
from zoo.registry import Registry, Run

LOSSES = ("train_loss", "val_loss")
WINDOW = 5  # epochs in a moving median
MIN_EPOCHS = 2 * WINDOW  # a window to begin with and one to end with
FLOOR = 0.01  # a smaller loss counts as this one where a change is set in relation to it
NOISY = 0.12  # noise of the validation loss, relative to it, that hides its course
JUMP = 0.1  # rise of the training loss within one epoch, relative to the first epoch's loss
GUESS = 0.95  # training loss, relative to that of guessing, of a model that has learnt nothing
RISE = 0.05  # relative rise of the validation loss that is overfitting
FALL = 0.02  # relative fall of the validation loss in the last part that promises more
SIGMAS = 3.0  # standard deviations of the noise that a rise or a fall must exceed too
PARTS = 5  # the last part is one of so many, and at least a window

REMEDY = "try another optim.lr or a larger model"  # of a model that has learnt nothing

Kind = Literal[
    "diverged", "too-short", "unstable", "overfitting", "still-improving", "underfitting", "healthy"
]

SAYINGS: dict[str, tuple[Kind, str]] = {
    "nan": ("diverged", "the loss was not a number in epoch {last}; try a smaller optim.lr"),
    "short": ("too-short", "{epochs} of the {needed} epochs that a verdict takes"),
    "jump": (
        "unstable",
        "the training loss jumped from {before:.4g} to {after:.4g} in epoch {jump}; try a smaller "
        "optim.lr",
    ),
    "noise": (
        "unstable",
        "the validation loss goes up and down by {noise:.0%} from epoch to epoch; try a smaller "
        "optim.lr or more validation rows",
    ),
    "both": (
        "unstable",
        "both losses have risen since about epoch {turn}, that of validation by {rise:.0%}; try a "
        "smaller optim.lr",
    ),
    "turn": (
        "overfitting",
        "the validation loss turned around epoch {turn} and has risen by {rise:.0%} ({low:.4g} to "
        "{end:.4g}), while the training loss went on falling ({train_low:.4g} to {train_end:.4g})",
    ),
    "fall": (
        "still-improving",
        "the validation loss fell by {fall:.0%} in the last {part} epochs, to {end:.4g}; train "
        "for more epochs",
    ),
    "guess": (
        "underfitting",
        "the training loss of {train_end:.4g} is no better than that of guessing ({guess:.4g}); "
        + REMEDY,
    ),
    "level": (
        "healthy",
        "the validation loss came down to {low:.4g} around epoch {turn} and is {end:.4g} "
        "at the end",
    ),
}


@dataclass(frozen=True)
class Verdict:
    """A judgement of one run; figures are None where the history is too short for them.

    Attributes:
        kind: the judgement in a word.
        sentence: the judgement with its figures and, where there is one, the remedy.
        epochs: how many epochs have both losses.
        turn: the epoch in which the smoothed validation loss is lowest.
        rise: of the validation loss from there to the end, relative to what it was there.
        noise: standard deviation of the validation loss about its course, relative to it.
        gap_best: validation minus training loss in the best epoch.  It may be negative: the
            training loss is averaged while an epoch learns, with dropout and the like at work.
        gap_end: the same in the last epoch.
    """

    kind: Kind
    sentence: str
    epochs: int
    turn: int | None = None
    rise: float | None = None
    noise: float | None = None
    gap_best: float | None = None
    gap_end: float | None = None


def verdict(
    history: Sequence[Mapping[str, Any]],
    best_epoch: int | None = None,
    *,
    guess: float = math.inf,
) -> Verdict:
    """Judge a run by its losses.

    Args:
        history: a row per epoch, in order, with ``epoch``, ``train_loss`` and ``val_loss``, which
            are not negative, or None where they were not a number; other keys do not matter.
        best_epoch: the epoch whose weights are kept, if any are.
        guess: the loss of a model that ignores its input, where that is known.

    >>> train = [0.9**epoch for epoch in range(40)]
    >>> val = [max(loss, 0.4 - loss / 3) for loss in train]
    >>> rows = [{"epoch": i + 1, "train_loss": train[i], "val_loss": val[i]} for i in range(40)]
    >>> found = verdict(rows, best_epoch=13)
    >>> found.kind, found.turn, round(found.rise, 2), round(found.gap_end, 2)
    ('overfitting', 12, 0.25, 0.38)
    >>> verdict(rows[:12]).kind, verdict(rows[:9]).kind
    ('still-improving', 'too-short')
    """
    since = [row for row in history if row["epoch"]]  # epoch 0 is what a run started from
    rows = [row for row in since if all(finite(row[key]) is not None for key in LOSSES)]
    # Training ends with the first epoch whose loss is no number; elsewhere it was not measured.
    if since and rows == since[:-1]:
        return _say("nan", best_epoch, epochs=len(rows), last=since[-1]["epoch"])
    if len(rows) < MIN_EPOCHS:
        return _say("short", best_epoch, epochs=len(rows), needed=MIN_EPOCHS)
    epochs = [int(row["epoch"]) for row in rows]
    train, val = ([float(row[key]) for row in rows] for key in LOSSES)
    train_smooth, val_smooth = _smooth(train), _smooth(val)
    low = val_smooth.index(min(val_smooth))
    part = max(WINDOW, len(rows) // PARTS)
    jump = max(range(1, len(rows)), key=lambda i: train[i] - train[i - 1])
    gaps = {row["epoch"]: row["val_loss"] - row["train_loss"] for row in rows}
    noise = _noise(val)
    rise = _change(val_smooth[low], val_smooth[-1])
    fall = -_change(val_smooth[-1 - part], val_smooth[-1])
    guessing = train_smooth[-1] > GUESS * guess
    if train[jump] - train[jump - 1] > JUMP * max(train[0], FLOOR):
        finding = "jump"
    elif noise > NOISY:
        finding = "noise"
    elif rise > max(RISE, SIGMAS * noise):
        falling = train_smooth[-1] < train_smooth[low]
        finding = "both" if not falling else "guess" if guessing else "turn"
    elif fall > max(FALL, SIGMAS * noise):
        finding = "fall"
    elif guessing:
        finding = "guess"
    else:
        finding = "level"
    return _say(
        finding,
        best_epoch,
        epochs=len(rows),
        turn=epochs[low + WINDOW // 2],
        rise=rise,
        noise=noise,
        gap_best=gaps.get(best_epoch),
        gap_end=gaps[epochs[-1]],
        low=val_smooth[low],
        end=val_smooth[-1],
        train_low=train_smooth[low],
        train_end=train_smooth[-1],
        jump=epochs[jump],
        before=train[jump - 1],
        after=train[jump],
        part=part,
        fall=fall,
        guess=guess,
    )


def judge(run: Run, history: Sequence[Mapping[str, Any]]) -> Verdict:
    """Judge a run of the registry.

    Guessing costs the logarithm of the number of classes, of 2 for labels, or the variance of a
    standardised target; where classes have weights, it is not known.  Nor is it of a run that was
    trained elsewhere, where an epoch without both losses tells nothing.
    """
    if not run.known_data:
        told = [row for row in history if all(finite(row[key]) is not None for key in LOSSES)]
        return verdict(told, run.best_epoch)
    guess = {"regression": 1.0, "multilabel": math.log(2)}.get(run.task)
    guess = math.log(len(run.classes)) if guess is None else guess
    guess = math.inf if run.config.get("train", {}).get("class_weights") else guess
    return verdict(history, run.best_epoch, guess=guess)


def planned(run: Run) -> int:
    """Return how many epochs were asked for; 0 where a run was trained elsewhere."""
    return int(run.config["train"]["epochs"]) if run.known_data else 0


def trained(registry: Registry, ref: str) -> list[tuple[Run, list[dict[str, Any]]]]:
    """Find the runs that a reference names and that have epochs to draw.

    Raises:
        NotFoundError, UsageError: as :meth:`Registry.runs`, and where none of them has any.
    """
    found = [(run, registry.history(run.id)) for run in registry.runs([ref])]
    curves = [(run, history) for run, history in found if history]
    if not curves:
        run, _ = found[0]
        raise UsageError(
            f"curves are drawn of runs that have trained an epoch, however {run.label} has none: "
            f"its kind is {run.kind}, its status {run.status}"
        )
    return curves


def tally(verdicts: Sequence[Verdict]) -> str:
    """Count the kinds of verdicts, the most frequent first.

    >>> tally([Verdict("healthy", "", 20), Verdict("unstable", "", 20), Verdict("healthy", "", 20)])
    '2 healthy, 1 unstable'
    """
    counts = Counter(found.kind for found in verdicts).most_common()
    return ", ".join(f"{count} {kind}" for kind, count in counts)


def finite(value: float | None) -> float | None:
    """Return a figure, or None for what is no number."""
    return value if value is not None and math.isfinite(value) else None


def _say(finding: str, best_epoch: int | None, **figures: Any) -> Verdict:
    """Put a finding into words; say which weights survive one that sounds like a loss."""
    kind, text = SAYINGS[finding]
    sentence = f"{kind.replace('-', ' ').capitalize()}: {text.format(**figures)}."
    if best_epoch is not None and kind in ("diverged", "unstable", "overfitting"):
        sentence += f" The weights kept are those of epoch {best_epoch}."
    known = {field.name for field in fields(Verdict)}
    return Verdict(kind, sentence, **{key: figures[key] for key in figures.keys() & known})


def _change(before: float, after: float) -> float:
    return (after - before) / max(before, FLOOR)


def _smooth(values: Sequence[float]) -> list[float]:
    """Return the medians of all whole windows; the first is that of epoch ``WINDOW // 2 + 1``."""
    return [median(values[i : i + WINDOW]) for i in range(len(values) - WINDOW + 1)]


def _noise(values: Sequence[float]) -> float:
    """Estimate the relative standard deviation about a smooth course.

    It comes from second differences of the logarithm: those of white noise have 6 times its
    variance, those of exponential growth or decay are 0.  The median absolute value of a standard
    normal variable is 0.6745.
    """
    logs = [math.log(max(value, FLOOR)) for value in values]
    triples = zip(logs, logs[1:], logs[2:], strict=False)
    return median(abs(a - 2 * b + c) for a, b, c in triples) / (0.6745 * math.sqrt(6))
