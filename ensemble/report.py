"""A comparison as one HTML file that needs no network: for light, dark, paper and a phone.

Names in a registry are somebody's data.  The template escapes every value, and a policy in the page
lets the browser run and apply nothing but the script and the styles that are written here.
"""

import base64
import hashlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from ensemble.charts import cost_plot, growth_plot, intervals_plot, reliability_plot
from ensemble.figures import chance, figure, interval
from ensemble.member_charts import curves_plot, similarity_plot
from ensemble.plots import Plot
from ensemble.scoreboard import COSTS, SHOWN, cost, differing, named
from ensemble.standings import Comparison, Row
from zoo.printable import printable
from zoo.registry import Registry
from zoo.replacing import replacing

CELLS = ("delta", "ci_low", "ci_high", "p_holm")  # of each metric
FITTING = 17  # columns of a table that stand side by side on a desktop
TEMPLATES = Path(__file__).parent / "templates"
History = Sequence[Mapping[str, Any]]


class Cell(NamedTuple):
    """A cell of the table of candidates: its column, what it shows, and what it is sorted by."""

    label: str
    shown: str
    value: float | str | None
    aside: str = ""


def write(path: Path, registry: Registry, comparison: Comparison) -> None:
    """Write the report of a comparison; the file is there in full or not at all.

    Raises:
        UsageError: where it cannot be written.
    """
    histories = {run.id: registry.history(run.id) for run in comparison.singles}
    page = html(comparison, histories)
    with replacing(path) as file:
        file.write(page.encode())


def html(comparison: Comparison, histories: Mapping[str, History]) -> str:
    """Return the report of a comparison.

    Args:
        comparison: what to tell.
        histories: of the single models, by identifier.
    """
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_harmless,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style, script = ((TEMPLATES / name).read_text() for name in ("report.css", "report.js"))
    lines = [(row, _cells(row, comparison)) for row in comparison.rows]
    return environment.get_template("report.html").render(
        comparison=comparison,
        better="higher" if comparison.direction == "max" else "lower",
        plots=_plots(comparison, histories),
        lines=lines,
        columns=[cell.label for cell in lines[0][1]],
        stacked=len(lines[0][1]) > FITTING,
        differing=comparison.diversity and differing(comparison.diversity, comparison.task),
        own_rows=comparison.validated_on > 1,
        style=Markup(style),
        script=Markup(script),
        style_hash=_digest(style),
        script_hash=_digest(script),
    )


def _plots(comparison: Comparison, histories: Mapping[str, History]) -> list[Plot]:
    """Draw what there is to draw: where test rows leave the metric undefined, not what shows it."""
    defined = math.isfinite(comparison.rows[0].test)
    plots = [intervals_plot(comparison)] if defined else []
    if comparison.growth and all(math.isfinite(size.value) for size in comparison.growth):
        plots.append(growth_plot(comparison))
    if defined:
        plots.append(cost_plot(comparison))
    if comparison.reliability:
        plots.append(reliability_plot(comparison))
    if any(histories.values()):
        plots.append(curves_plot(comparison, histories))
    if comparison.diversity is not None:
        plots.append(similarity_plot(comparison))
    return plots


def _cells(row: Row, comparison: Comparison) -> list[Cell]:
    base, name = comparison.rows[0], named(row, comparison)
    cells = [
        Cell("candidate", name, name),
        Cell("k", str(row.members), row.members),
        Cell("val", figure(row.val), row.val),
        Cell("test", figure(row.test), row.test),
    ]
    for further in ("", *comparison.metrics[1:]):
        of = further and f"{further} "
        if further:
            value = row.cell("test", further)
            cells.append(Cell(further, figure(value), value))
        delta, low, high, p = (row.cell(n, further) for n in CELLS)
        shown, _, aside = ("", "", "") if row is base else interval(delta, low, high).partition(" ")
        cells.append(Cell(f"{of}delta", shown, delta, aside))
        cells.append(Cell(f"{of}p", chance(p), p))
    for name in SHOWN[comparison.task]:
        if name not in comparison.metrics:
            cells.append(Cell(name, figure(row.figures[name]), row.figures[name]))
    costs = (Cell(column, cost(row, column), row.cell(field)) for column, field in COSTS.items())
    return [*cells, *costs]


def _harmless(value: Any) -> Any:
    """Show what a browser would obey beside markup: marks that turn the direction of reading."""
    return printable(value) if type(value) is str else value


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
