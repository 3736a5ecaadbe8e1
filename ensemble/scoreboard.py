"""A comparison as text: tables of 80 columns, each of which is said to mean something."""

import textwrap
from collections.abc import Mapping, Sequence

from ensemble.diversity import Diversity
from ensemble.figures import chance, figure, interval, large, shortened
from ensemble.growth import Growth
from ensemble.standings import Comparison, Row
from zoo.render import Format, render, to_json

DELTA = "delta [95% interval]"
SHOWN = {  # figures that have a column in the table; the other formats have all
    "classification": ("nll", "brier", "ece"),
    "multilabel": ("nll", "hamming", "f1"),
    "regression": ("mae", "r2"),
}
COSTS = {  # column -> field of a row
    "params": "params",
    "flops": "flops",
    "bytes": "weights_bytes",
    "ms 1": "inference_ms",
    "ms 256": "inference_ms_256",
    "epochs": "trained_epochs",
}
LEGEND = """\
k: models run for each prediction
delta: test minus that of the best single, with a paired bootstrap interval
p: of a difference as large by chance, corrected for the number of p-values"""
ORACLE = "oracle single: chosen on the test rows, so that nobody attains it"
PRICES = """\
flops, ms 1: for one row; ms 256: for 256, on one thread; epochs: of training"""
OWN_ROWS = """\
val: of each single on its own validation rows; of several on all of these,
     each row predicted by those that did not train on it"""


def comparison_text(comparison: Comparison, form: Format, width: int = 80) -> str:
    """Write a comparison; tables are no wider than ``width``, of which there must be 80."""
    if form == "json":
        return to_json(comparison.to_json())
    if form != "table":
        rows = comparison.to_json()["rows"]
        return render(rows, list(rows[0]), form)
    room = max(width, 80)
    better = "higher" if comparison.direction == "max" else "lower"
    looks = {1: "once", 2: "twice"}.get(comparison.looks, f"{comparison.looks} times")
    head = (
        f"{comparison.data}: {comparison.metric}, {better} is better; {comparison.n_test} test "
        f"rows, looked at {looks}",
        f"best single by validation: {comparison.baseline}",
    )
    lines = ["\n".join(_filled(sentence, room) for sentence in head)]
    lines += _tables(comparison, room)
    if comparison.diversity is not None:
        lines.append(_pools(comparison.growth, comparison.growth_metric))
        lines.append(textwrap.fill(differing(comparison.diversity, comparison.task), room))
    legend = [LEGEND] if comparison.validated_on == 1 else [LEGEND, OWN_ROWS]
    legend += [ORACLE] if any(row.method == "oracle" for row in comparison.rows) else []
    lines.append("\n".join([*legend, PRICES]))
    lines += [_filled(sentence, room) for sentence in comparison.verdict]
    return "\n\n".join(lines)


def _filled(sentence: str, room: int) -> str:
    """Break lines between words, names of files and runs staying whole."""
    return textwrap.fill(sentence, room, break_on_hyphens=False, break_long_words=False)


def _tables(comparison: Comparison, room: int) -> list[str]:
    """Put columns of one kind into one table, and tables side by side where there is room."""
    groups = [
        [_compared(row, comparison, further) for row in comparison.rows]
        for further in ("", *comparison.metrics[1:])
    ]
    shown = [name for name in SHOWN[comparison.task] if name not in comparison.metrics]
    groups.append([{name: figure(row.figures[name]) for name in shown} for row in comparison.rows])
    groups.append([{column: cost(row, column) for column in COSTS} for row in comparison.rows])
    longest = max(len(named(row, comparison)) for row in comparison.rows)
    tables = []
    while groups:
        lines = groups.pop(0)
        while groups:
            if lines[0].keys() & groups[0][0].keys():  # another metric has a table of its own
                break
            wider = [one | other for one, other in zip(lines, groups[0], strict=True)]
            if _width(wider) + 2 + longest > room:
                break
            lines = wider
            groups.pop(0)
        most = max(room - _width(lines) - 2, len("candidate"))
        whole = [
            {"candidate": brief(row, comparison, most), **line}
            for row, line in zip(comparison.rows, lines, strict=True)
        ]
        tables.append(render(whole, list(whole[0]), "table"))
    return tables


def _width(lines: Sequence[Mapping[str, str]]) -> int:
    """How wide a table of these cells is."""
    widest = [max(len(key) + 2, *(len(line[key]) for line in lines)) for key in lines[0]]
    return sum(widest) + 2 * (len(widest) - 1)


def named(row: Row, comparison: Comparison) -> str:
    """Say who a row is; names lose what the training is called, which is in all of them."""
    if row.name == comparison.baseline:
        return "best single"
    return row.name.removeprefix(f"{comparison.baseline.partition('/')[0]}.")


def brief(row: Row, comparison: Comparison, most: int) -> str:
    """Say who a row is in so many characters: without its kind, or else without its middle."""
    name = named(row, comparison)
    return shortened(name if len(name) <= most else name.removeprefix(f"{row.kind}-"), most)


def _compared(row: Row, comparison: Comparison, further: str) -> dict[str, str]:
    """The cells of the metric that decides, or of a further one, which has a column so called."""
    best = row.name == comparison.baseline
    ends = (row.cell(name, further) for name in ("delta", "ci_low", "ci_high"))
    first = {} if further else {"k": str(row.members), "val": figure(row.val)}
    return {
        **first,
        further or "test": figure(row.cell("test", further)),
        DELTA: "" if best else interval(*ends),
        "p": "" if best else chance(row.cell("p_holm", further)),
    }


def cost(row: Row, column: str) -> str:
    """Write what a candidate costs: a column of :data:`COSTS`."""
    value = row.cell(COSTS[column])
    if value is None:
        return ""
    if column.startswith("ms"):
        return f"{value:.2f}" if value < 100 else f"{value:.0f}"
    return str(value) if column == "epochs" else large(value)


def _pools(sizes: Sequence[Growth], metric: str) -> str:
    lines = [
        {
            "members": size.members,
            metric: figure(size.value),
            "change [95% interval]": ""
            if size.members == 1
            else interval(size.gain, size.low, size.high),
        }
        for size in sizes
    ]
    head = "pools of so many members, whichever they are:"
    return f"{head}\n\n{render(lines, list(lines[0]), 'table')}"


def differing(diversity: Diversity, task: str) -> str:
    """Say in sentences how different the members are, and what that is worth."""
    apart = figure(diversity.disagreement)
    if task == "regression":
        apart, error = f"Two members differ by {apart} (root mean square)", "squared error"
    else:
        apart, error = (
            f"Two members disagree on {diversity.disagreement:.1%} of the rows",
            "Brier score",
        )
        if task == "multilabel":
            apart = apart.replace("rows", "labels")
    errors = (
        "their errors are all the same"
        if diversity.correlation != diversity.correlation
        else f"their errors correlate by {diversity.correlation:.2f}"
    )
    return (
        f"{apart}; {errors}. Of the members' mean {error}, {figure(diversity.member_error)}, the "
        f"mean of all removes {figure(diversity.ambiguity)} (ambiguity)."
    )
