"""Learning curves as a picture for a report: one run in full, or many laid over each other."""

import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.curves import finite, judge, planned, tally
from zoo.drawing import spans_decades
from zoo.errors import MismatchError, UsageError, nearest
from zoo.registry import Run
from zoo.replacing import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

# Okabe and Ito's colours, which colour-blind people tell apart; yellow is too pale for print.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
GREY = "#666666"
# The same runs give the same bytes, so nothing is dated.
FORMS: dict[str, dict[str, Any]] = {
    "pdf": {"CreationDate": None},
    "png": {},
    "svg": {"Date": None},
}
BEST: dict[str, Any] = {"marker": "o", "markersize": 6, "markeredgecolor": "white"}
STOPPED: dict[str, Any] = {"color": GREY, "linestyle": ":", "linewidth": 1.2}
STYLE: dict[Any, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": GREY,
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "figure.constrained_layout.use": True,
    "font.size": 9.0,
    "grid.color": "#E5E5E5",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "lines.linewidth": 1.3,
    "pdf.fonttype": 42,  # embeds letters as such, which can be searched
    "savefig.dpi": 200,
    "svg.fonttype": "none",  # the same
    "svg.hashsalt": "zoo",
    "text.parse_math": False,  # a dollar in a label is a dollar
}

Curve = tuple[Run, Sequence[Mapping[str, Any]]]


def picture(path: Path, curves: Sequence[Curve]) -> None:
    """Write the losses and metrics of runs, in two panels; the file is there in full or not at all.

    One run shows its best epoch, where it stopped early, and its verdict.  Several are told apart
    by colour as long as there are colours; of more, one sees the spread.

    Args:
        path: its suffix says the form: ``.pdf``, ``.png`` or ``.svg``.
        curves: runs with their histories, at least one run, and of each at least one epoch.

    Raises:
        UsageError: where the suffix is another one, or the file cannot be written.
        MismatchError: where the runs' metrics differ.
    """
    form = path.suffix.removeprefix(".").lower()
    if form not in FORMS:
        raise UsageError(
            f"a picture's name ends in its form, however it is {path.name!r}{nearest(form, FORMS)}"
        )
    metrics = {run.metric: run.label for run, _ in curves}
    if len(metrics) > 1:
        told = " and ".join(f"{name} for {label}" for name, label in metrics.items())
        raise MismatchError(f"the runs of a picture must share their metric, however it is {told}")
    import matplotlib as mpl

    with mpl.rc_context(STYLE):
        figure = _figure(curves, *metrics)
        with replacing(path) as file:
            figure.savefig(file, format=form, metadata=FORMS[form])


def _figure(curves: Sequence[Curve], metric: str) -> "Figure":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 4.0))
    loss, score = figure.subplots(1, 2)
    loss.set_title("loss")
    score.set_title(metric)
    _panel(loss, "loss", curves)
    _panel(score, "metric", curves)
    figure.legend(
        handles=_legend(curves),
        title=_title(curves),
        title_fontproperties={"weight": "bold", "size": "large"},
        alignment="left",
        loc="outside upper left",
        ncols=4 if len(curves) == 1 else 3,
    )
    figure.supxlabel(_caption(curves), x=0.01, ha="left", fontsize="medium")
    return figure


def _panel(axes: "Axes", key: str, curves: Sequence[Curve]) -> None:
    """Draw every run's ``train_KEY`` and ``val_KEY``."""
    from matplotlib.ticker import MaxNLocator, NullFormatter

    known: list[float] = []
    for number, (run, history) in enumerate(curves):
        epochs = [row["epoch"] for row in history]
        colours = _colours(number, len(curves))
        for part, style, colour in zip(("val", "train"), ("-", "--"), colours, strict=True):
            values = [finite(row[f"{part}_{key}"]) for row in history]
            known += [value for value in values if value is not None]
            shown = [math.nan if value is None else value for value in values]
            dot = "." if len(values) == 1 else "None"  # one epoch makes no line
            alpha = 1.0 if _told_apart(curves) else 0.4
            axes.plot(epochs, shown, marker=dot, linestyle=style, color=colour, alpha=alpha)
            if part == "val" and run.best_epoch in epochs and _told_apart(curves):
                best = epochs.index(run.best_epoch)
                axes.plot(epochs[best], shown[best], color=colour, zorder=3, **BEST)
        if len(curves) == 1 and _stopped(run, history):
            axes.axvline(epochs[-1], **STOPPED)
    if known and spans_decades(known):
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10], min_n_ticks=1))


def _legend(curves: Sequence[Curve]) -> list["Line2D"]:
    from matplotlib.lines import Line2D

    many = len(curves) > 1
    named = many and _told_apart(curves)
    val, train = (GREY, GREY) if named else COLOURS[:2]
    entries = [
        Line2D([], [], color=val, label="validation"),
        Line2D([], [], color=train, linestyle="--", label="training"),
    ]
    best = {run.best_epoch for run, _ in curves} - {None}
    if best and _told_apart(curves):
        label = "best epoch" if many else f"best epoch {best.pop()}"
        entries.append(Line2D([], [], color=val, linestyle="", label=label, **BEST))
    if not many and (stopped := _stopped(*curves[0])):
        entries.append(Line2D([], [], label=stopped, **STOPPED))
    if named:
        common = f"{curves[0][0].name}/" if len({run.name for run, _ in curves}) == 1 else ""
        for number, (run, _) in enumerate(curves):
            label = textwrap.shorten(run.label.removeprefix(common), 34)
            entries.append(Line2D([], [], color=COLOURS[number], label=label))
    return entries


def _title(curves: Sequence[Curve]) -> str:
    names = sorted({run.name for run, _ in curves})
    title = curves[0][0].label if len(curves) == 1 else f"{', '.join(names)}: {len(curves)} runs"
    return textwrap.shorten(title, 90)


def _caption(curves: Sequence[Curve]) -> str:
    """Write the verdict, or of several runs how many have which."""
    verdicts = [judge(run, history) for run, history in curves]
    if len(verdicts) == 1:
        return textwrap.fill(verdicts[0].sentence, 108)
    return tally(verdicts)


def _stopped(run: Run, history: Sequence[Mapping[str, Any]]) -> str:
    """Say that a run ended before the epochs asked for, if it did."""
    last, asked = history[-1]["epoch"], planned(run)
    return f"stopped at {last} of {asked}" if last < asked else ""


def _told_apart(curves: Sequence[Curve]) -> bool:
    return len(curves) <= len(COLOURS)


def _colours(number: int, count: int) -> tuple[str, str]:
    """Return the colours of validation and training: each run's own, where there are some runs."""
    return (COLOURS[number],) * 2 if 1 < count <= len(COLOURS) else COLOURS[:2]
