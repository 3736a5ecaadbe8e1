"""What the combining commands print."""

from dataclasses import asdict
from typing import Any

from ensemble.catalogue import Method, methods
from ensemble.comparison import Comparison, Row
from ensemble.products import Product
from zoo.render import Format, describe, render, to_json

METHOD_COLUMNS = ("mode", "method", "options", "needs", "summary")


def methods_text(form: Format) -> str:
    """List the catalogue of methods."""
    return render([_method(method) for method in methods()], METHOD_COLUMNS, form)


def _method(method: Method) -> dict[str, Any]:
    return {
        "mode": method.mode,
        "method": method.name,
        "options": ", ".join(f"{o.name}={o.default}" for o in method.options),
        "needs": ", ".join(method.needs),
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
            "sentence": flight.sentence,
        }
        return to_json({**row, "preflight": measured})
    shown = {
        "product": product.run.name,
        "used": f"{len(product.used)} of {len(product.members)}",
        f"val {product.metric}": product.val,
        "best single": product.best,
        "mean single": product.mean,
    }
    table = render([shown], list(shown), form)
    if form != "table":
        return table
    return "\n".join([table, *_advice(product)])


def _advice(product: Product) -> list[str]:
    """Tell in sentences what the preflight found and what the method made of it."""
    if product.flight is None:
        return []
    lines = ["", product.flight.sentence]
    if len(product.used) == 1 and len(product.members) > 1:
        lines.append(
            f"No average improved on {product.used[0].label}, so the product is that model."
        )
    if product.flight.collapses:
        lines.append("These members work together as --mode predictions.")
    return lines


def comparison_text(comparison: Comparison, form: Format) -> str:
    """Write a comparison; the table fits 80 columns and explains its own."""
    if form == "json":
        return to_json(comparison.to_json())
    if form != "table":
        answer = comparison.to_json()
        return render(answer["rows"], list(answer["rows"][0]), form)
    rows = [_line(row, comparison) for row in comparison.rows]
    better = "higher" if comparison.direction == "max" else "lower"
    note = (
        f"{comparison.data}: {comparison.metric} ({better} is better) on {comparison.n_test} test "
        f"rows\nbest single by validation: {comparison.baseline}\n"
    )
    return note + "\n" + render(rows, list(rows[0]), form) + "\n\n" + _legend(comparison)


def _line(row: Row, comparison: Comparison) -> dict[str, Any]:
    zoo = comparison.baseline.partition("/")[0]
    name = "best single" if row.name == comparison.baseline else row.name.removeprefix(f"{zoo}.")
    scores = ("nll", "brier", "ece") if comparison.task == "classification" else ("mae", "r2")
    return {
        "candidate": name,
        "k": row.members,
        "val": f"{row.val:.4f}",
        "test": f"{row.test:.4f}",
        "delta [95% interval]": _interval(row),
        **{score: f"{getattr(row, score):.3f}" for score in scores},
        "ms": "" if row.inference_ms is None else f"{row.inference_ms:.2f}",
    }


def _interval(row: Row) -> str:
    if row.ci_low is None or row.ci_high is None:
        return f"{row.delta:+.3f}"
    return f"{row.delta:+.3f} [{row.ci_low:+.3f}, {row.ci_high:+.3f}]"


def _legend(comparison: Comparison) -> str:
    return (
        "k: models that run at each prediction; ms: time for 64 rows.  delta: test minus best "
        "single,\nwith a paired bootstrap interval; one that holds 0 shows no difference."
    )
