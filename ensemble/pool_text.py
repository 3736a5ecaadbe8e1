"""What `ensemble` prints of what it fitted to pool predictions."""

import textwrap
from typing import Any

from ensemble.figures import figure
from ensemble.pools import Pooled
from ensemble.products import Product
from zoo.render import render

NAMED = 20  # members whose weights are told
CROSS_FITTED = """\
val{also}: cross-fitted, each fifth of the rows by what the
other four give; the product is fitted on all of them"""


def pool_json(product: Product) -> dict[str, Any] | None:
    """Return what was fitted, for machines; None where nothing was."""
    made = product.pooled
    if made is None or (made.found is None and made.calibration is None):
        return None
    return {
        "found": made.found,
        "calibration": made.calibration,
        "before": made.before,
        "after": made.after,
    }


def pool_lines(product: Product, made: Pooled) -> list[str]:
    """Tell the weights, and what a calibration changed."""
    lines = []
    if made.found is not None and "weights" in made.found:
        lines.append(_weights(product, made.found["weights"]))
    if made.calibration is not None and made.before and made.after:
        rows = [{"calibration": "before"}, {"calibration": _called(made.calibration)}]
        for row, figures in zip(rows, (made.before, made.after), strict=True):
            row |= {name: figure(value) for name, value in figures.items()}
        lines.append(render(rows, list(rows[0]), "table"))
        if worse := [name for name in made.after if _worse(made.before[name], made.after[name])]:
            *most, last = worse
            all_of_them = f"{', '.join(most)} and {last}" if most else last
            lines.append(f"this calibration makes {all_of_them} worse on rows held out")
    if made.found is not None or made.calibration is not None:
        also = ", before and after" if made.calibration else ""
        lines.append(CROSS_FITTED.format(also=also))
    return lines


def _worse(before: float, after: float) -> bool:
    """Tell whether a figure has risen by as much as can be seen."""
    return after > before and figure(after) != figure(before)


def _weights(product: Product, weights: list[float]) -> str:
    pairs = sorted(zip(weights, product.used, strict=True), key=lambda pair: -pair[0])
    told = [f"{run.label.partition('/')[2] or run.label} {weight:.2f}" for weight, run in pairs]
    more = [f"and {len(told) - NAMED} more"] if len(told) > NAMED else []
    return textwrap.fill(f"weights: {', '.join([*told[:NAMED], *more])}", 80)


def _called(calibration: Any) -> str:
    temperature = calibration.get("temperature")
    return str(calibration["kind"]) if temperature is None else f"temperature {temperature:.3f}"
