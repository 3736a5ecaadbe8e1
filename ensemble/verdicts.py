"""What to ship, in words: the choice by validation, the proof by test."""

import math
from collections.abc import Sequence

from ensemble.figures import figure, interval
from ensemble.metrics import AnyMetric, rank
from ensemble.standings import Row

LEVEL = 0.05  # of the corrected p-value below which a difference is called real


def verdict(rows: Sequence[Row], metrics: Sequence[AnyMetric]) -> list[str]:
    """Say what to ship for the cost of one model, and of several.

    What is shipped is chosen by the validation rows.  Whether it differs from the best single
    model is said by the test rows, which choose nothing; of several models it must, by any of the
    metrics, to be worth its cost.

    Args:
        rows: of a comparison, the baseline first.
        metrics: that they are compared by, the one that decides first.
    """
    best, candidates = rows[0], [row for row in rows if row.kind != "baseline"]
    cheap = [row for row in candidates if row.members == 1]
    dear = [row for row in candidates if row.members > 1]
    one, told = _first(cheap, metrics[0]), []
    if one is best:
        reason = "; nothing else of that cost is better on the validation rows"
        told.append(
            f"For the cost of one model, ship {best.name}, the best single model"
            f"{reason if len(cheap) > 1 else ''}."
        )
    else:
        choice = best if min(_signs(one, metrics)) < 0 else one
        told.append(
            f"For the cost of one model, ship {choice.name}. On the test rows {one.name} has "
            f"{_proof(one, best, metrics)}."
        )
    if dear:
        many = _first(dear, metrics[0])
        signs = _signs(many, metrics)
        better = max(signs) > 0 and min(signs) >= 0
        told.append(
            f"For the cost of {many.members} models, "
            f"{f'ship {many.name}' if better else 'nothing is proven to be better'}. On the test "
            f"rows {many.name} has {_proof(many, best, metrics)}."
        )
    told += [
        f"One model trained as long as all members together has {_proof(row, best, metrics)}."
        for row in rows
        if row.method == "longer"
    ]
    return told


def _proof(row: Row, best: Row, metrics: Sequence[AnyMetric]) -> str:
    """Say by how much a candidate differs from the best single model, and whether that is real."""
    facts = []
    for metric, sign in zip(metrics, _signs(row, metrics), strict=True):
        delta, low, high, p = (
            _cell(row, name, metric, metrics) for name in ("delta", "ci_low", "ci_high", "p_holm")
        )
        pair = [figure(_cell(one, "test", metric, metrics)) for one in (row, best)]
        fact = f"{metric.name} {pair[0]} against {pair[1]}"
        if not math.isfinite(low):
            facts.append(f"{fact} (no interval can be given)")
        elif delta == low == high == 0:
            facts.append(f"{fact} (no difference)")
        else:
            judged = {1: "really better", 0: "which may be chance", -1: "really worse"}[sign]
            chance = "p < 0.001" if p < 0.001 else f"p = {p:.2g}"
            facts.append(f"{fact}, {interval(delta, low, high)}, {judged} ({chance})")
    return "; ".join(facts)


def _signs(row: Row, metrics: Sequence[AnyMetric]) -> list[int]:
    """Tell for each metric whether a candidate is really better (1), really worse (-1) or not."""
    signs = []
    for metric in metrics:
        delta = _cell(row, "delta", metric, metrics)
        real = _cell(row, "p_holm", metric, metrics) < LEVEL  # nan is not
        better = (delta > 0) == (metric.direction == "max")
        signs.append((1 if better else -1) if real else 0)
    return signs


def _cell(row: Row, name: str, metric: AnyMetric, metrics: Sequence[AnyMetric]) -> float:
    """Return what a row tells by a metric, nan where it tells nothing."""
    value = row.cell(name, "" if metric is metrics[0] else metric.name)
    return math.nan if value is None else float(value)


def _first(rows: Sequence[Row], metric: AnyMetric) -> Row:
    """Return the best by validation, of several the cheapest and then the first."""
    return min(rows, key=lambda row: (rank(row.val, metric.direction), row.members))
