"""Learning curves in a terminal: characters alone, no colour, so that a pipe keeps everything."""

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import pairwise
from statistics import fmean
from typing import Any

from zoo.curves import finite, judge, planned, tally
from zoo.figures import short
from zoo.registry import Run
from zoo.render import Format, render

HEIGHT = 9  # rows of a panel's field; title, axis and epochs take three more
MARGIN = 9  # columns for the figures on the left
NARROWEST = 60  # columns of a panel whose title and epochs do not run into each other
DECADES = 2.0  # figures that span more get a logarithmic scale
LEGEND = "── validation  ·· training"
PLAIN = str.maketrans("─│╭╮╰╯┤└▲·", "-|....|+^:")

Series = Sequence[float | None]
History = Sequence[Mapping[str, Any]]


def curves_text(curves: Sequence[tuple[Run, History]], form: Format, width: int = 80) -> str:
    """Draw the curves of one run over its verdict; list the verdicts of several and count them.

    Args:
        curves: runs with their histories, at least one run, and of each at least one epoch.
        form: only as a ``table`` is anything drawn; the others hold the verdicts.
        width: of the terminal, in columns.
    """
    verdicts = [judge(run, history) for run, history in curves]
    if len(curves) == 1 and form == "table":
        run, history = curves[0]
        size = max(width, NARROWEST)
        panels = [
            panel(name, history, key, run.best_epoch, planned(run), size)
            for name, key in (("loss", "loss"), (run.metric, "metric"))
        ]
        return "\n\n".join([run.label, *panels, textwrap.fill(verdicts[0].sentence, size)])
    rows = []
    for (run, _), found in zip(curves, verdicts, strict=True):
        figures = asdict(found)
        about = {"run": run.label, "id": run.id, "verdict": figures.pop("kind")}
        rows.append({**about, "best_epoch": run.best_epoch, **figures})
    text = render(rows, ("run", "epochs", "best_epoch", "verdict"), form)
    return f"{text}\n\n{tally(verdicts)}" if form == "table" else text


def legible(text: str, encoding: str) -> str:
    """Replace what is drawn by ASCII where the encoding of a terminal lacks it.

    >>> legible("├──", "utf-8"), legible("╰─╮ ··", "ascii")
    ('├──', '.-. ::')
    """
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return text.translate(PLAIN)
    return text


def panel(
    title: str, history: History, key: str, best_epoch: int | None, planned: int, width: int = 80
) -> str:
    """Draw ``train_KEY`` and ``val_KEY`` over the epochs, in 12 lines.

    Args:
        title: what is drawn.
        history: at least one epoch, in order; what is missing or no number is left out.
        key: ``loss`` or ``metric``.
        best_epoch: the epoch to mark, if there is one.
        planned: how many epochs were asked for; 0 where it is not known.
        width: how many columns to fill, at least ``NARROWEST``.

    >>> rows = [{"epoch": i, "train_loss": 4 / i, "val_loss": 1 + abs(i - 9)} for i in range(1, 20)]
    >>> print(panel("loss", rows, "loss", 9, 50, width=60))
    loss                              ── validation  ·· training
           11 ┤                                               ╭─
              ┤─╮                                         ╭───╯
              ┤ ╰──╮                                   ╭──╯
              ┤    ╰───╮                           ╭───╯
         5.61 ┤        ╰──╮                    ╭───╯
              ┤·          ╰───╮             ╭──╯
              ┤ ··            ╰───╮     ╭───╯
              ┤   ·······         ╰─────╯
        0.211 ┤          ·······································
              └─────────────────────▲───────────────────────────
        epoch  1                ▲ best epoch 9          19 of 50
    """
    train, val = (
        [finite(row.get(f"{part}_{key}")) for row in history] for part in ("train", "val")
    )
    known = [value for value in (*train, *val) if value is not None]
    if not known:
        return f"{title}: not measured"
    logarithmic = spans_decades(known)
    scale = math.log10 if logarithmic else float
    low, high = scale(min(known)), scale(max(known))
    columns = width - MARGIN - 2

    def rows(series: Series) -> list[int | None]:
        fitted = _fit([None if value is None else scale(value) for value in series], columns)
        share = (HEIGHT - 1) / ((high - low) or 1.0)
        return [None if value is None else round((value - low) * share) for value in fitted]

    field = [[" "] * columns for _ in range(HEIGHT)]
    _dots(field, rows(train))
    _line(field, rows(val))
    lines = [f"{title}{' (logarithmic)' if logarithmic else ''}"]
    lines[0] += LEGEND.rjust(width - len(lines[0]))
    for row in reversed(range(HEIGHT)):
        value = low + (high - low) * row / (HEIGHT - 1)
        figure = short(10**value if logarithmic else value, 3) if row % 4 == 0 else ""
        lines.append(f"{figure:>{MARGIN}} ┤{''.join(field[row])}".rstrip())
    return "\n".join([*lines, *_axis(history, best_epoch, planned, columns)])


def spans_decades(values: Sequence[float]) -> bool:
    """Say whether figures need a logarithmic scale."""
    return min(values) > 0 and math.log10(max(values) / min(values)) > DECADES


def _fit(series: Series, columns: int) -> list[float | None]:
    """Bring a series to a number of columns: where it is longer by means, else by interpolation."""
    count = len(series)
    if count > columns:
        edges = [column * count // columns for column in range(columns + 1)]
        bins = ([v for v in series[a:b] if v is not None] for a, b in pairwise(edges))
        return [fmean(known) if known else None for known in bins]
    fitted: list[float | None] = []
    for column in range(columns):
        place = column * (count - 1) / (columns - 1)
        left, right = series[math.floor(place)], series[math.ceil(place)]
        if left is None or right is None:
            fitted.append(None)
        else:
            fitted.append(left + (right - left) * (place % 1))
    return fitted


def _dots(field: list[list[str]], rows: Sequence[int | None]) -> None:
    """Dot a course; a steep part is dotted downwards too."""
    before = None
    for column, row in enumerate(rows):
        if row is not None:
            start = row if before is None else before + (row > before) - (row < before)
            for between in range(min(start, row), max(start, row) + 1):
                field[between][column] = "·"
        before = row


def _line(field: list[list[str]], rows: Sequence[int | None]) -> None:
    """Draw a course as a line that turns corners."""
    before = None
    for column, row in enumerate(rows):
        if row is not None and before is not None and row != before:
            rising = row > before
            for between in range(min(row, before) + 1, max(row, before)):
                field[between][column] = "│"
            field[before][column] = "╯" if rising else "╮"
            field[row][column] = "╭" if rising else "╰"
        elif row is not None:
            field[row][column] = "─"
        before = row


def _axis(history: History, best_epoch: int | None, planned: int, columns: int) -> list[str]:
    """Draw the axis of epochs with the best one marked, and a line that names them."""
    epochs = [int(row["epoch"]) for row in history]
    line, best = "─" * columns, ""
    if best_epoch in epochs:
        index, count = epochs.index(best_epoch), len(epochs)
        steps = max(count - 1, 1)
        at = index * columns // count if count > columns else round(index * (columns - 1) / steps)
        line, best = f"{line[:at]}▲{line[at + 1 :]}", f"▲ best epoch {best_epoch}"
    last = f"{epochs[-1]} of {planned}" if epochs[-1] < planned else f"{epochs[-1]}"
    side = max(len(last), len(str(epochs[0])))
    labels = f"{epochs[0]:<{side}}{best:^{columns - 2 * side}}{last:>{side}}"
    return [f"{'':{MARGIN}} └{line}", f"{'epoch':>{MARGIN}}  {labels}"]
