"""What the commands print that combine models."""

import json
import textwrap
from dataclasses import asdict
from typing import Any, get_args

from ensemble.catalogue import Method, Mode, methods
from ensemble.figures import figure
from ensemble.ladder import STEPS, Ladder, written
from ensemble.pool_text import pool_json, pool_lines
from ensemble.products import Product
from ensemble.scoreboard import OWN_ROWS
from ensemble.students import OPTIONS
from zoo.render import Format, describe, render, to_json

NEEDED = """\
needs: found from the models and their data; --set weights=[2,1,1],
       --set base=REF and --set metric=roc_auc (for a score) give other ones.
options: --set KEY=VALUE; and around every method of predictions
       --set calibration=temperature|vector|isotonic; and of either mode
       --set snapshots=epoch|top, which pools checkpoints of each run"""
METHOD_COLUMNS = ("mode", "method", "needs", "options", "ordered", "summary", "paper")


def methods_text(form: Format) -> str:
    """List the catalogue of methods; people get a paragraph for each, in 80 columns."""
    known = methods()
    if form != "table":
        return render([_method(method) for method in known], METHOD_COLUMNS, form)
    lines = []
    for mode in get_args(Mode):
        lines += [f"--mode {mode}", ""]
        lines += _ladder() if mode == "weights" else []
        lines += [line for method in known if method.mode == mode for line in _entry(method)]
        lines.append("")
    return "\n".join([*lines, "--mode distill", "", *_distilling(), "", NEEDED])


def _ladder() -> list[str]:
    """Tell what --mode weights does without a method."""
    told = ", ".join(f"{n}={'|'.join(map(written, choices))}" for n, choices in STEPS.items())
    lines = ("Climb the ladder, and take the best rung.", f"options: {told}")
    return ["  (without --method)", *(f"    {line}" for line in lines)]


def _distilling() -> list[str]:
    """Tell what --mode distill takes."""
    told = ", ".join(f"{option.name}={json.dumps(option.default)}" for option in OPTIONS)
    lines = (
        "Teach students what the members, or one pool of them, predict.",
        f"options: {told}; and any setting of a training, such as model.hidden=[32]",
        "Hinton, Vinyals & Dean 2015, arXiv:1503.02531",
    )
    return [textwrap.indent(textwrap.fill(line, 76), "    ") for line in lines]


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
        told = {**row, "preflight": measured, "ladder": climbed, "pooled": pool_json(product)}
        return to_json(told)
    shown = {
        "product": product.run.name,
        "used": f"{len(product.used)} of {len(product.members)}",
        f"val {product.metric}": figure(product.val),
        "best": figure(product.best),
        "mean": figure(product.mean),
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
            f"val {product.metric}": figure(rung.figures[f"val_{product.metric}"]),
            "val loss": figure(rung.figures["val_loss"]),
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
    if product.pooled is not None:
        return pool_lines(product, product.pooled)
    if product.flight is None:
        return []
    lines = [textwrap.fill(product.flight.sentence, 80)]
    if len(product.used) == 1 and len(product.members) > 1:
        told = f"No average improved on {product.used[0].label}, so the product is that model."
        lines.append(textwrap.fill(told, 80, break_on_hyphens=False))
    if product.flight.verdict != "holds":
        lines.append("Without --method they are aligned; as --mode predictions they work as is.")
    return lines
