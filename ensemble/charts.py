"""Figures of the candidates of a comparison, each with its numbers."""

import math
from collections.abc import Sequence
from statistics import median

from ensemble.figures import chance, figure, interval, large
from ensemble.metrics import rank
from ensemble.plots import (
    BOTTOM,
    HEIGHT,
    TOP,
    Plot,
    Scale,
    Shape,
    area,
    captions,
    dot,
    horizontal,
    line,
    stroke,
    vertical,
    words,
)
from ensemble.scoreboard import brief, named
from ensemble.standings import Comparison, Row

NAMES = 144.0  # where the field begins when names stand before it
NAME = 19  # characters of a name there
ROW = 24.0  # at least, between two rows
NOISE = 0.1  # of a time, that says nothing
FAR = 4.0  # times the usual difference, beyond which a candidate is drawn at the edge
KINDS = {
    "single": "best single model",
    "predictions": "pooled predictions",
    "weights": "averaged weights",
    "distilled": "distilled",
    "baseline": "for reference",
}


def near(rows: Sequence[Row]) -> list[Row]:
    """Leave out candidates so far from the baseline that they would hide the others' differences.

    Half of all differ from it by less than the usual difference, so that some always stay.
    """
    told = [row for row in rows if math.isfinite(row.test)]
    usual = median([_reach(row) for row in told[1:]] or [0.0])
    return [row for row in told if abs(row.delta) <= FAR * usual] or told[:1]


def intervals_plot(comparison: Comparison) -> Plot:
    """Draw the test metric of every candidate, with the interval of its difference."""
    rows, base = comparison.rows, comparison.rows[0]
    shown = near(rows)
    ends = [base.test + end for row in shown for end in _ends(row)]
    x = horizontal([*(row.test for row in shown), *ends], left=NAMES)
    step = max(ROW, min(2 * ROW, (HEIGHT - TOP - BOTTOM) / len(rows)))
    height = TOP + step * len(rows) + BOTTOM
    shapes = [stroke(x(base.test), TOP, x(base.test), height - BOTTOM, "reference")]
    for place, row in enumerate(rows):
        y = TOP + step * (place + 0.5)
        name = brief(row, comparison, NAME)
        shapes.append(words(NAMES - 10, y + 4, name, "label", "end"))
        told = f"{named(row, comparison)}: {figure(row.test)}"
        if row not in shown:
            shapes += _beyond(row, x, y)
            continue
        if _ends(row) and row is not base:
            low, high = (x(base.test + end) for end in _ends(row))
            shapes.append(stroke(low, y, high, y, f"whisker {row.kind}"))
            told += f", {interval(row.delta, row.ci_low, row.ci_high)}"
        shapes.append(dot(x(row.test), y, f"dot {row.kind}", told))
    kinds = dict.fromkeys(row.kind for row in rows)
    return Plot(
        key="test",
        title=f"Test {comparison.metric}, {comparison.n_test} rows",
        says=f"The test {comparison.metric} of {len(rows)} candidates; the best single model has "
        f"{figure(base.test)}.",
        note="Whiskers: 95 % interval of the difference from the best single model, whose figure "
        "is the vertical line. One that crosses the line shows no difference.",
        shapes=shapes,
        columns=["candidate", "test", "delta [95 % interval]", "p", "p, corrected"],
        rows=[
            [
                named(row, comparison),
                figure(row.test),
                interval(row.delta, row.ci_low, row.ci_high) if row is not base else "",
                chance(row.p_value) if row is not base else "",
                chance(row.p_holm),
            ]
            for row in rows
        ],
        x_label=x.named(comparison.metric),
        x_ticks=x.ticks,
        legend=[(f"dot {kind}", KINDS[kind]) for kind in kinds],
        height=height,
        left=NAMES,
    )


def growth_plot(comparison: Comparison) -> Plot:
    """Draw what pools of 1, 2, ... members are worth."""
    sizes, metric = comparison.growth, comparison.growth_metric
    base = sizes[0].value
    single = [comparison.rows[0].test] if metric == comparison.metric else []
    known = [size for size in sizes if math.isfinite(size.low) and math.isfinite(size.high)]
    bounds = [base + end for size in known for end in (size.low, size.high)]
    values = [*(size.value for size in sizes), *bounds, *single]
    x = horizontal([size.members for size in sizes], logarithmic=len(sizes) < sizes[-1].members)
    y = vertical(values)
    places = [(x(size.members), y(size.value)) for size in sizes]
    above = [(x(size.members), y(base + size.high)) for size in known]
    below = [(x(size.members), y(base + size.low)) for size in known]
    shapes, legend = [area(above, below, "band predictions")], []
    if single:
        shapes.append(stroke(x.start, y(single[0]), x.end, y(single[0]), "reference"))
        legend = [("reference", "best single model")]
    shapes.append(line(places, "curve predictions"))
    shapes += [
        dot(*place, "dot predictions", f"{size.members}: {figure(size.value)}", 3.5)
        for place, size in zip(places, sizes, strict=True)
    ]
    ticks = x.ticks if x.logarithmic else [(x(s.members), str(s.members)) for s in sizes]
    return Plot(
        key="growth",
        title=f"Pools of 1 to {sizes[-1].members} members",
        says=f"Pools of one member have {metric} {figure(base)} on average, the pool of all "
        f"{sizes[-1].members} has {figure(sizes[-1].value)}.",
        note="The mean over several choices of as many members. Band: 95 % interval of the gain "
        "over one member.",
        shapes=shapes,
        columns=["members", metric, "change [95 % interval]"],
        rows=[
            [
                str(size.members),
                figure(size.value),
                interval(size.gain, size.low, size.high) if size.members > 1 else "",
            ]
            for size in sizes
        ],
        x_label="members in the pool",
        y_label=y.named(metric),
        x_ticks=ticks,
        y_ticks=y.ticks,
        legend=[("curve predictions", "pool of members"), *legend],
    )


def reliability_plot(comparison: Comparison) -> Plot:
    """Draw how often candidates are right against how sure they are: the best single and pool."""
    pools = [row for row in comparison.rows if row.members > 1]
    pools.sort(key=lambda row: rank(row.val, comparison.direction))
    drawn = [(row, comparison.reliability[row.name]) for row in [comparison.rows[0], *pools[:1]]]
    every = [bin for _, bins in drawn for bin in bins]
    lowest = min(min(bin.confidence for bin in every), min(bin.low for bin in every))
    x, y = horizontal([lowest, 1.0]), vertical([lowest, 1.0])
    ends = max(x.low, y.low), min(x.high, y.high)
    shapes = [stroke(x(ends[0]), y(ends[0]), x(ends[1]), y(ends[1]), "reference")]
    for row, bins in drawn:
        places = [(x(bin.confidence), y(bin.accuracy)) for bin in bins]
        shapes += [
            stroke(place[0], y(bin.low), place[0], y(bin.high), f"whisker thin {row.kind}")
            for place, bin in zip(places, bins, strict=True)
        ]
        shapes.append(line(places, f"curve {row.kind}"))
        shapes += [
            dot(*place, f"dot {row.kind}", f"{bin.confidence:.3f}: {bin.accuracy:.3f}", 3.5)
            for place, bin in zip(places, bins, strict=True)
        ]
    asked = "has the label" if comparison.task == "multilabel" else "is right"
    return Plot(
        key="reliability",
        title="Are probabilities true?",
        says=f"How often a prediction {asked} against its probability, in bins of equally many "
        "rows.",
        note="On the diagonal they are; below it the model is too sure, above it not sure enough. "
        "Whiskers: 95 % interval of a bin (Wilson).",
        shapes=shapes,
        columns=["candidate", "mean probability", f"{asked} [95 % interval]", "rows"],
        rows=[
            [
                named(row, comparison),
                f"{bin.confidence:.4f}",
                f"{bin.accuracy:.4f} [{bin.low:.4f}, {bin.high:.4f}]",
                str(bin.count),
            ]
            for row, bins in drawn
            for bin in bins
        ],
        x_label="predicted probability",
        y_label=f"share that {asked}",
        x_ticks=x.ticks,
        y_ticks=y.ticks,
        legend=[
            *((f"curve {row.kind}", brief(row, comparison, 28)) for row, _ in drawn),
            ("reference", "as predicted"),
        ],
    )


def cost_plot(comparison: Comparison) -> Plot:
    """Draw what candidates are worth against the time that a prediction takes."""
    priced = [row for row in comparison.rows if row.inference_ms_256 is not None]
    shown = near(priced)
    times = [_ms(row) for row in priced]
    x = horizontal([*times, min(times) / 1.2, max(times) * 1.2], logarithmic=True)
    tests = [row.test for row in shown]
    room = 0.3 * (max(tests) - min(tests)) * (len(shown) < len(priced))  # for those beyond
    y = vertical([*tests, min(tests) - room, max(tests) + room / 3])
    front = pareto(shown, 1 if comparison.direction == "max" else -1)
    steps: list[tuple[float, float]] = []
    for row in front:
        here = x(_ms(row))
        steps += [(here, steps[-1][1])] if steps else []
        steps.append((here, y(row.test)))
    steps.append((x.end, steps[-1][1]))
    shapes, marks = [line(steps, "front")], []
    for row in reversed(priced):  # so that the best single model lies on top
        here, name = x(_ms(row)), brief(row, comparison, 22)
        told = f"{name}: {figure(row.test)}, {row.inference_ms_256:.2f} ms"
        if row in shown:
            marks.append((here, y(row.test), name))
            shapes.append(dot(here, y(row.test), f"dot {row.kind}", told))
        else:
            low = y.start - 4 if row.test < y.low else y.end + 12
            marks.append((here, low - 4, f"{name} {figure(row.test)}"))
            mark = "\u25be" if row.test < y.low else "\u25b4"
            shapes.append(words(here, low, mark, f"beyond {row.kind}", "middle"))
    shapes += captions(marks[::-1], x, y)
    return Plot(
        key="cost",
        title="Quality against cost",
        says=f"Test {comparison.metric} of {len(priced)} candidates against the time to predict "
        f"256 rows; on the front are {', '.join(named(row, comparison) for row in front)}.",
        note="Line: the Pareto front, those that nothing else beats in both, times within a tenth "
        "being equal. Time on one thread of the machine that made this report.",
        shapes=shapes,
        columns=["candidate", comparison.metric, "ms for 256 rows", "ms for 1", "flops", "front"],
        rows=[
            [
                named(row, comparison),
                figure(row.test),
                f"{row.inference_ms_256:.3g}",
                f"{row.inference_ms:.3g}",
                large(row.flops),
                "yes" if row in front else "",
            ]
            for row in priced
        ],
        x_label="ms for 256 rows (logarithmic)",
        y_label=y.named(comparison.metric),
        x_ticks=x.ticks,
        y_ticks=y.ticks,
        legend=[(f"dot {kind}", KINDS[kind]) for kind in dict.fromkeys(row.kind for row in priced)],
    )


def pareto(rows: Sequence[Row], sign: int) -> list[Row]:
    """Return those that no other beats in both, the fastest first.

    Times within a tenth are equal, or noise would put the worse of two models of one architecture
    on the front; ``sign`` is 1 where a higher figure is better, else -1.
    """

    def beats(one: Row, other: Row) -> bool:
        if sign * one.test > sign * other.test:
            return _ms(one) <= (1 + NOISE) * _ms(other)
        return one.test == other.test and _ms(one) < _ms(other)

    return sorted(
        (row for row in rows if not any(beats(other, row) for other in rows)),
        key=_ms,
    )


def _ms(row: Row) -> float:
    return row.inference_ms_256 or 0.0


def _beyond(row: Row, x: Scale, y: float) -> list[Shape]:
    """Point to where a candidate is that is far off, or say that it is nowhere."""
    if row.test != row.test:
        return [words(x.start + 8, y + 4, "undefined", "label small")]
    low = row.test < x.low
    at, anchor = (x.start + 4, "start") if low else (x.end - 4, "end")
    text = f"\u25c2 {figure(row.test)}" if low else f"{figure(row.test)} \u25b8"
    return [words(at, y + 4, text, f"beyond {row.kind}", anchor)]


def _reach(row: Row) -> float:
    return max(abs(end) for end in [row.delta, *_ends(row)])


def _ends(row: Row) -> list[float]:
    """The ends of a candidate's interval, where it has one."""
    ends = [end for end in (row.ci_low, row.ci_high) if end is not None and math.isfinite(end)]
    return ends if len(ends) == 2 else []
