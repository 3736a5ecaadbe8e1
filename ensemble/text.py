"""What the combining commands print."""

import json
import textwrap
from dataclasses import asdict
from typing import Any, get_args

from ensemble.catalogue import Method, Mode, methods
from ensemble.comparison import Comparison, Row
from ensemble.ladder import Ladder
from ensemble.products import Product
from zoo.render import Format, describe, render, to_json

LEGEND = """\
k: models run for each prediction; ms: for 64 rows; epochs: of training
delta: test minus that of the best single, with a paired bootstrap interval;
       an interval that holds 0 shows no difference"""
OWN_ROWS = """\
val: of each single on its own validation rows; of several on all of these,
     each row predicted by those that did not train on it"""
NEEDED = """\
needs: found from the models and their data; --set weights=[2,1,1] and
       --set base=REF give other ones.  Options: --set KEY=VALUE"""
METHOD_COLUMNS = ("mode", "method", "needs", "options", "ordered", "summary", "paper")
SHOWN = {  # figures that have a column in the table; the other formats have all
    "classification": ("nll", "brier", "ece"),
    "multilabel": ("nll", "hamming", "f1"),
    "regression": ("mae", "r2"),
}


def methods_text(form: Format) -> str:
    """List the catalogue of methods; people get a paragraph for each, in 80 columns."""
    known = methods()
    if form != "table":
        return render([_method(method) for method in known], METHOD_COLUMNS, form)
    lines = []
    for mode in get_args(Mode):
        lines += [f"--mode {mode}", ""]
        lines += [line for method in known if method.mode == mode for line in _entry(method)]
        lines.append("")
    return "\n".join([*lines, NEEDED])


def _entry(method: Method) -> list[str]:
    told = _method(method)
    facts = [f"{what}: {told[what]}" for what in ("needs", "options") if told[what]]
    if method.ordered:
        facts.append("the order of the members counts")
    lines = (method.summary, "; ".join(facts), method.paper)
    wrapped = [
        textwrap.indent(textwrap.fill(line, 76, break_on_hyphens=False), "    ")
        for line in lines
        if line
    ]
    return [f"  {method.name}", *wrapped]


def _method(method: Method) -> dict[str, Any]:
    return {
        "mode": method.mode,
        "method": method.name,
        "options": ", ".join(f"{o.name}={json.dumps(o.default)}" for o in method.options),
        "needs": ", ".join(method.needs),
        "ordered": method.ordered,
        "summary": method.summary,
        "paper": method.paper,
    }


def product_text(product: Product, form: Format) -> str:
    """Say what a product is worth on the validation rows, and what to do where it is not much."""
    flight = product.flight
    row = describe(product.run) | {
        "members": len(product.members),
        "used": [run.label for run in product.used],
        "best_single": product.best,
        "mean_single": product.mean,
    }
    if form == "json":
        measured = flight and asdict(flight) | {
            "barrier": flight.barrier,
            "collapses": flight.collapses,
            "verdict": flight.verdict,
            "sentence": flight.sentence,
        }
        climbed = product.ladder and {
            "rungs": [
                {"rung": rung.name, **rung.figures, "members": len(rung.used)}
                for rung in product.ladder.rungs
            ],
            "best": product.ladder.best.name,
            "notes": list(product.ladder.notes),
        }
        return to_json({**row, "preflight": measured, "ladder": climbed})
    shown = {
        "product": product.run.name,
        "used": f"{len(product.used)} of {len(product.members)}",
        f"val {product.metric}": _figure(product.val),
        "best": _figure(product.best),
        "mean": _figure(product.mean),
    }
    table = render([shown], list(shown), form)
    if form != "table":
        return table
    legend = "best, mean: of the single models, on the validation rows"
    if len({run.split_hash for run in product.members}) > 1:
        legend += f"\n{OWN_ROWS}"
    return "\n\n".join([table, legend, *_advice(product)])


def _climbed(product: Product, ladder: Ladder) -> list[str]:
    """Show the rungs of the ladder, and say in sentences what could not be done."""
    rows = [
        {
            "rung": rung.name + (" *" if rung is ladder.best else ""),
            f"val {product.metric}": _figure(rung.figures[f"val_{product.metric}"]),
            "val loss": _figure(rung.figures["val_loss"]),
            "members": len(rung.used),
        }
        for rung in ladder.rungs
    ]
    legend = "* the product: the lowest loss of those no worse than the best single model"
    lines = [render(rows, list(rows[0]), "table"), legend]
    if ladder.best is ladder.rungs[0] and len(product.members) > 1:
        lines.append("No average is better; these members work together as --mode predictions.")
    return [*lines, *(textwrap.fill(note, 80) for note in ladder.notes)]


def _advice(product: Product) -> list[str]:
    """Tell in sentences what the preflight found and what the method made of it."""
    if product.ladder is not None:
        return _climbed(product, product.ladder)
    if product.flight is None:
        return []
    lines = [textwrap.fill(product.flight.sentence, 80)]
    if len(product.used) == 1 and len(product.members) > 1:
        lines.append(
            f"No average improved on {product.used[0].label}, so the product is that model."
        )
    if product.flight.verdict != "holds":
        lines.append("Without --method they are aligned; as --mode predictions they work as is.")
    return lines


def comparison_text(comparison: Comparison, form: Format, width: int = 80) -> str:
    """Write a comparison; as a table it is split in two where it would be wider than ``width``."""
    if form == "json":
        return to_json(comparison.to_json())
    if form != "table":
        rows = comparison.to_json()["rows"]
        return render(rows, list(rows[0]), form)
    lines = [_line(row, comparison) for row in comparison.rows]
    columns = list(lines[0])
    whole = render(lines, columns, form)
    tables = [whole]
    if max(map(len, whole.splitlines())) > width:
        split = columns.index("delta [95% interval]") + 1
        tables = [
            render(lines, columns[:split], form),
            render(lines, ["candidate", *columns[split:]], form),
        ]
    better = "higher" if comparison.direction == "max" else "lower"
    head = (
        f"{comparison.data}: {comparison.metric}, {better} is better; {comparison.n_test} test "
        f"rows\nbest single by validation: {comparison.baseline}"
    )
    legend = LEGEND if comparison.validated_on == 1 else f"{LEGEND}\n{OWN_ROWS}"
    return "\n\n".join([head, *tables, legend])


def _line(row: Row, comparison: Comparison) -> dict[str, Any]:
    """Write one candidate's cells; names are shortened by the zoo that all have in common."""
    zoo = comparison.baseline.partition("/")[0]
    best = row.name == comparison.baseline
    scores = SHOWN[comparison.task]
    return {
        "candidate": "best single" if best else row.name.removeprefix(f"{zoo}."),
        "k": row.members,
        "val": _figure(row.val),
        "test": _figure(row.test),
        "delta [95% interval]": "" if best else _interval(row),
        **{score: _figure(row.figures[score]) for score in scores},
        "params": row.params,
        "ms": None if row.inference_ms is None else f"{row.inference_ms:.2f}",
        "epochs": row.trained_epochs,
    }


def _figure(value: float | None, sign: str = "") -> str:
    """Write a figure with four digits after the point, or four in all where it is large."""
    if value is None:
        return ""
    if value != value:
        return "undefined"
    return f"{value:{sign}.4f}" if abs(value) < 10 else f"{value:{sign}.4g}"


def _interval(row: Row) -> str:
    if row.ci_low is None or row.ci_high is None:
        return _figure(row.delta, "+")
    if row.ci_low != row.ci_low:
        return f"{_figure(row.delta, '+')} [undefined]"
    low, high = _figure(row.ci_low, "+"), _figure(row.ci_high, "+")
    return f"{_figure(row.delta, '+')} [{low}, {high}]"
