"""Rows as text: a table for people, json, csv or markdown for programs."""

import csv
import html
import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from textwrap import TextWrapper, fill
from typing import Any, Literal

from tabulate import tabulate

from zoo.curves import judge
from zoo.figures import figure, short
from zoo.printable import escaped, printable, terminal_width
from zoo.registry import Checkpoint, Run
from zoo.registry.records import SEVERAL, schema
from zoo.registry.values import finite_or_null
from zoo.settings import flatten

Format = Literal["table", "json", "csv", "markdown"]
FORMULAS = tuple("=+-@\uff1d\uff0b\uff0d\uff20")  # how one begins, in full width too
GAP, NARROWEST = 2, 10  # between columns; of one whose text is wrapped
LISTED = ("run", "id", "status", "best_epoch", "val")


class _Breaker(TextWrapper):
    """Breaks text between words, and a name after a hyphen, a slash or a comma."""

    wordsep_simple_re = re.compile(r"(\s+|(?<=[-/,])(?=.))")


def render(
    rows: Sequence[Mapping[str, Any]],
    columns: Sequence[str],
    form: Format,
    width: int | None = None,
) -> str:
    """Write rows in a format.

    Args:
        rows: one mapping per line.
        columns: which keys to show, in this order; JSON always holds every key.
        form: ``json`` is an object with ``"schema": 1`` and ``"rows"``.
        width: characters that lines of a table should have at most, for which text is wrapped in
            its cells; by default those of the terminal, where standard output is one.

    >>> print(render([{"name": "a", "seed": 1}], ["name", "seed"], "table"))
    name      seed
    ------  ------
    a            1
    """
    if form == "json":
        return to_json({"rows": list(rows)})
    cells = [[_cell(row.get(column), form) for column in columns] for row in rows]
    heads = [_cell(column, form) for column in columns]
    if form == "csv":
        lines = io.StringIO()
        csv.writer(lines, lineterminator="\n").writerows([heads, *cells])
        return lines.getvalue().rstrip("\n")
    sides = [_side(column) for column in zip(*cells, strict=True)]
    width = width or terminal_width()
    if form == "table" and width is not None:
        cells = _fitted(cells, heads, sides, width)
    text: str = tabulate(
        cells,
        headers=heads,
        tablefmt="github" if form == "markdown" else "simple",
        disable_numparse=True,  # figures keep the digits they were given
        colalign=sides or None,
    )
    return text


def to_json(answer: Mapping[str, Any]) -> str:
    """Write an answer as JSON with its schema; NaN and infinity, which JSON lacks, become null."""
    return escaped(
        json.dumps(finite_or_null({"schema": 1, **answer}), indent=2, ensure_ascii=False)
    )


def describe(run: Run) -> dict[str, Any]:
    """Return a run as one row of a list."""
    metric = run.watched
    value = run.metrics.get(f"val_{metric}")
    return {
        "run": run.label,
        "name": run.name,
        "id": run.id,
        "kind": run.kind,
        "seed": run.seed,
        "status": run.status,
        "best_epoch": run.best_epoch,
        "epochs": run.epochs,
        "val": None if value is None else f"{metric} {figure(value)}",
        f"val_{metric}": value,
        "val_loss": run.metrics.get("val_loss"),
        "seconds": run.seconds,
        "error": run.error,
    }


def card(
    run: Run,
    checkpoints: Sequence[Checkpoint],
    history: Sequence[Mapping[str, Any]],
    form: Format,
    width: int,
) -> str:
    """Write all that is known of one run; csv and markdown hold its epochs.

    Args:
        run: which.
        checkpoints: of it.
        history: of it, an epoch each.
        form: see :func:`render`.
        width: characters that lines of the table of facts should have at most.
    """
    judged = judge(run, history) if history else None
    columns = ("epoch", "train_loss", "train_metric", "val_loss", "val_metric", "seconds")
    if form == "json":
        about = asdict(run) | {"label": run.label}
        return to_json(
            {
                "run": about,
                "verdict": judged and asdict(judged),
                "checkpoints": [asdict(c) for c in checkpoints],
                "history": history,
            }
        )
    epochs = render(history, columns, form)
    if form != "table":
        return epochs
    facts: dict[str, Any] = {
        "run": run.label,
        "id": run.id,
        "kind": run.kind,
        "status": run.status + (f": {run.error}" if run.error else ""),
        "task": run.task,
        "data content": run.data_fingerprint,
        "data schema": schema(run)[0],
        "data split": run.split_hash,
        "parents": ", ".join(run.parents),
        "trained": f"{run.epochs} epoch{'s' * (run.epochs != 1)} in {run.seconds:.1f} s"
        if run.seconds
        else "",
        "best epoch": run.best_epoch,
        "verdict": judged and judged.sentence,
        "val - train loss, best epoch": judged and judged.gap_best,
        "val - train loss, last epoch": judged and judged.gap_end,
        **run.metrics,
    }
    facts |= flatten(run.config)
    for checkpoint in checkpoints:
        which = f"{checkpoint.kind}{f' {checkpoint.epoch}' * (checkpoint.kind in SEVERAL)}"
        facts[f"weights ({which})"] = f"{checkpoint.sha256} ({checkpoint.size} bytes)"
    lines = [
        (_cell(key, form), _cell(value, form))
        for key, value in facts.items()
        if value not in (None, "")
    ]
    room = max(width - max(len(key) for key, _ in lines) - 2, 20)
    cut = terminal_width() is not None  # names of files stay whole for programs
    told = [(key, fill(str(value), room, break_long_words=cut)) for key, value in lines]
    text = tabulate(told, tablefmt="plain", disable_numparse=True)
    return f"{text}\n\n{epochs}" if history else text


def _cell(value: Any, form: Format) -> Any:
    """Make a value fit for a cell: short floats, and nothing that a program takes for its own.

    That is control characters for a terminal, formulas for a spreadsheet, HTML for a browser.
    """
    if value is None:
        return ""
    if isinstance(value, float):
        return value if form == "csv" else short(value)
    if not isinstance(value, str):
        return value
    text = printable(value)
    if form == "csv" and text.lstrip()[:1] in FORMULAS:
        return f"'{text}"
    return html.escape(text, quote=False).replace("|", "\\|") if form == "markdown" else text


def _side(cells: Sequence[Any]) -> str:
    """Align numbers to the right."""
    numbers = all(re.fullmatch(r"|[+-]?\d+(\.\d+)?(e[+-]?\d+)?", str(cell)) for cell in cells)
    return "right" if numbers else "left"


def _fitted(
    cells: Sequence[Sequence[Any]], heads: Sequence[str], sides: Sequence[str], width: int
) -> list[list[Any]]:
    """Wrap text in the widest columns until lines have so many characters, if they can."""
    needed = [len(head) + GAP for head in heads]
    widths = [
        max(least, *(len(str(cell)) for cell in column))
        for least, column in zip(needed, zip(*cells, strict=True), strict=False)
    ]
    text = [place for place, side in enumerate(sides) if side == "left"]
    while text and sum(widths) + GAP * (len(widths) - 1) > width:
        widest = max(text, key=widths.__getitem__)
        if widths[widest] <= max(needed[widest], NARROWEST):
            break
        widths[widest] -= 1
    breakers = [_Breaker(most, break_on_hyphens=False) for most in widths]
    return [
        [
            by.fill(cell) if isinstance(cell, str) and len(cell) > by.width else cell
            for cell, by in zip(row, breakers, strict=True)
        ]
        for row in cells
    ]
