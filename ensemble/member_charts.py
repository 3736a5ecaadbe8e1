"""Figures of the members of a comparison, each with its numbers."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ensemble.figures import figure, shortened
from ensemble.plots import (
    BOTTOM,
    HEIGHT,
    TOP,
    WIDTH,
    Plot,
    Shape,
    dot,
    horizontal,
    line,
    vertical,
    words,
)
from ensemble.standings import Comparison

MOST = 40  # members of whom a figure shows each


def curves_plot(
    comparison: Comparison, histories: Mapping[str, Sequence[Mapping[str, Any]]]
) -> Plot:
    """Draw the validation loss of members over the epochs, with the best epoch of each."""
    runs = [run for run in comparison.singles if histories.get(run.id)][:MOST]
    best = [run for run in runs if run.label == comparison.baseline]
    courses = {
        run.id: [
            (row["epoch"], row["val_loss"])
            for row in histories[run.id]
            if row["val_loss"] is not None and math.isfinite(row["val_loss"])
        ]
        for run in runs
    }
    losses = [loss for course in courses.values() for _, loss in course]
    epochs = [epoch for course in courses.values() for epoch, _ in course]
    logarithmic = min(losses) > 0 and max(losses) / min(losses) > 20
    x, y = horizontal(epochs, whole=True), vertical(losses, logarithmic=logarithmic)
    shapes: list[Shape] = []
    ordered = sorted(runs, key=lambda run: run in best)  # drawn last, it lies on top
    for run in ordered:
        look = "single" if run in best else "member"
        course = courses[run.id][:: max(1, len(courses[run.id]) // 200)]
        shapes.append(line([(x(e), y(v)) for e, v in course], f"curve {look}", run.label))
    for run in ordered:
        look = "single" if run in best else "member"
        at = dict(courses[run.id])
        if courses[run.id]:
            epoch, loss = courses[run.id][-1]
            shapes.append(dot(x(epoch), y(loss), f"end {look}", f"{run.label} ends", 2.5))
        if run.best_epoch is not None and run.best_epoch in at:
            told = f"{run.label}: best epoch {run.best_epoch}"
            shapes.append(dot(x(run.best_epoch), y(at[run.best_epoch]), f"dot {look}", told, 3.5))
    return Plot(
        key="curves",
        title="Validation loss while training",
        says=f"The validation loss of {len(runs)} members over their epochs.",
        note="Filled dots: the epoch whose weights were kept. Rings: where training ended."
        f"{_some(comparison)}",
        shapes=shapes,
        columns=["member", "best epoch", "epochs", "validation loss at best", "at the end"],
        rows=[
            [
                run.label,
                "" if run.best_epoch is None else str(run.best_epoch),
                "" if run.epochs is None else str(run.epochs),
                figure(dict(courses[run.id]).get(run.best_epoch or 0)),
                figure(courses[run.id][-1][1]) if courses[run.id] else "",
            ]
            for run in runs
        ],
        x_label="epoch",
        y_label=y.named("validation loss") + (" (logarithmic)" if logarithmic else ""),
        x_ticks=x.ticks,
        y_ticks=y.ticks,
        legend=[("curve single", "best single model"), ("curve member", "other members")],
    )


def similarity_plot(comparison: Comparison) -> Plot:
    """Draw by how much every two members differ."""
    assert comparison.diversity is not None  # there are several members
    runs = comparison.singles[:MOST]
    cells_KK = comparison.diversity.disagreement_KK[: len(runs), : len(runs)].tolist()
    pairs = [cells_KK[i][j] for i in range(len(runs)) for j in range(i)]
    low, high = min(pairs), max(pairs)
    shares = comparison.task != "regression"
    names = [_member(run.label, comparison) for run in runs]
    few = len(runs) <= 12
    left = 96.0 if few else 24.0
    size = min((WIDTH - left - 14) / len(runs), (HEIGHT - TOP - BOTTOM) / len(runs))
    left += (WIDTH - left - 14 - size * len(runs)) / 2
    shapes = []
    for i, row in enumerate(cells_KK):
        y = TOP + i * size
        if few:
            numbered = f"{shortened(names[i], 10)} · {i + 1}"  # as the column is called
            shapes.append(words(left - 6, y + size / 2 + 4, numbered, "label", "end"))
        for j, value in enumerate(row):
            if i == j:
                continue
            share = (value - low) / (high - low) if high > low else 0.5
            told = f"{runs[i].label} and {runs[j].label}: {_apart(value, shares)}"
            at = {"x": round(left + j * size, 2), "y": round(y, 2)}
            at |= {"width": round(size - 1, 2), "height": round(size - 1, 2)}
            at["fill-opacity"] = round(0.08 + 0.87 * share, 3)
            shapes.append(Shape("rect", "heat", at, told))
            if len(runs) <= 8:
                middle = left + (j + 0.5) * size
                told = f"{100 * value:.1f}" if shares else f"{value:.2g}"
                shapes.append(words(middle, y + size / 2 + 4, told, "cell", "middle"))
    base = TOP + size * len(runs)
    if few:
        shapes += [
            words(left + (j + 0.5) * size, base + 14, str(j + 1), "label", "middle")
            for j in range(len(runs))
        ]
    what = "rows decided differently" if shares else "root mean squared difference"
    what = what.replace("rows", "labels") if comparison.task == "multilabel" else what
    unit = ", %" if shares else ""
    correlation_KK = comparison.diversity.correlation_KK.tolist()
    return Plot(
        key="similarity",
        title="How different members are",
        says=f"{what} for every two of {len(runs)} members, from {_apart(low, shares)} to "
        f"{_apart(high, shares)}.",
        note=f"Each cell: {what}{unit}, between two members; a stronger colour is more. Pooling "
        f"gains where members differ.{_some(comparison)}",
        shapes=shapes,
        columns=["members", "", what, "correlation of their errors"],
        rows=[
            [names[j], names[i], _apart(cells_KK[i][j], shares), figure(correlation_KK[i][j])]
            for i in range(len(runs))
            for j in range(i)
        ],
        height=base + (BOTTOM - 10 if few else 10),
        left=left,
    )


def _apart(value: float, shares: bool) -> str:
    return f"{value:.1%}" if shares else figure(value)


def _member(label: str, comparison: Comparison) -> str:
    """Name a member by what it does not share with the others."""
    return label.removeprefix(f"{comparison.baseline.partition('/')[0]}/")


def _some(comparison: Comparison) -> str:
    count = len(comparison.singles)
    return f" The first {MOST} of {count}." if count > MOST else ""
