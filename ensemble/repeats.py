"""Comparisons on several splits of the same data: does the difference hold on other rows too?

One comparison says what its models are worth on other test rows.  Over several splits, each with
models of its own, differences vary with the training rows and the seeds too.  Splits share rows, so
their differences are not independent; the variance of their mean over J splits is taken as

    (1 / J + n_test / n_train) s^2    instead of    s^2 / J

C. Nadeau & Y. Bengio, Inference for the Generalization Error, Machine Learning 52, 2003.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ensemble.errors import OptionError
from ensemble.figures import figure, interval
from ensemble.scoreboard import named
from ensemble.standings import Comparison
from zoo.registry import Run
from zoo.render import Format, render, to_json

LEVEL = 0.95


@dataclass(frozen=True)
class Repeated:
    """A candidate on several splits.

    Attributes:
        name: what it is called on each.
        splits: on how many it is.
        test: the mean of its test figures.
        delta: the mean difference from the best single model of each split.
        ci_low: of its 95 % interval; None of one split.
        ci_high: of its 95 % interval; None of one split.
        better: on how many splits it is better than the best single model.
    """

    name: str
    splits: int
    test: float
    delta: float
    ci_low: float | None
    ci_high: float | None
    better: int


def by_split(runs: Sequence[Run]) -> list[list[Run]]:
    """Group runs by the test rows that they share, and refuse those of one split alone.

    Raises:
        OptionError: where there is one split only.
    """
    groups: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        groups.setdefault((run.data_fingerprint, run.common_split), []).append(run)
    if len(groups) < 2:
        raise OptionError(
            "--repeated takes runs on several splits, however all of these are on one; train some "
            "with another data.split_seed and --name"
        )
    if len({fingerprint for fingerprint, _ in groups}) > 1:
        raise OptionError(
            "--repeated takes splits of the same data, however these runs learnt from "
            f"{' and '.join(sorted({run.data_ref for run in runs}))} of other content"
        )
    return list(groups.values())


def repeated(comparisons: Sequence[Comparison]) -> list[Repeated]:
    """Bring comparisons of several splits together, candidate by candidate.

    Candidates are the same where they are called the same, apart from the name of their training.
    """
    rows: dict[str, list[tuple[Comparison, float, float]]] = {}
    for comparison in comparisons:
        for row in comparison.rows:
            rows.setdefault(named(row, comparison), []).append((comparison, row.test, row.delta))
    told = []
    for name, own in rows.items():
        deltas = [delta for _, _, delta in own]
        sign = 1 if own[0][0].direction == "max" else -1
        ratio = statistics.fmean(one.n_test / one.n_train for one, *_ in own)
        mean = statistics.fmean(deltas)
        low, high = _interval(deltas, mean, ratio)
        better = sum(sign * delta > 0 for delta in deltas)
        test = statistics.fmean(test for _, test, _ in own)
        told.append(Repeated(name, len(own), test, mean, low, high, better))
    return told


def repeated_text(comparisons: Sequence[Comparison], form: Format) -> str:
    """Write comparisons of several splits."""
    rows = repeated(comparisons)
    if form != "table":
        told: list[dict[str, Any]] = [vars(row) for row in rows]
        if form == "json":
            each = [comparison.to_json() for comparison in comparisons]
            return to_json({"metric": comparisons[0].metric, "rows": told, "splits": each})
        return render(told, list(told[0]), form)
    first = comparisons[0]
    lines = [
        {
            "candidate": row.name,
            "splits": row.splits,
            "test": figure(row.test),
            "delta [95% interval]": ""
            if row is rows[0]
            else interval(row.delta, row.ci_low, row.ci_high),
            "better": "" if row is rows[0] else f"{row.better} of {row.splits}",
        }
        for row in rows
    ]
    better = "higher" if first.direction == "max" else "lower"
    head = f"{first.data}: {first.metric}, {better} is better; means over {len(comparisons)} splits"
    legend = (
        "delta: from the best single of each split; its interval is over splits, whose\n"
        "       overlap is allowed for (Nadeau & Bengio 2003)"
    )
    return "\n\n".join([head, render(lines, list(lines[0]), "table"), legend])


def _interval(
    deltas: Sequence[float], mean: float, ratio: float
) -> tuple[float | None, float | None]:
    """The interval of the mean of differences on overlapping splits, by Student's distribution."""
    if len(deltas) < 2 or not math.isfinite(mean):
        return None, None
    from scipy.stats import t

    spread = math.sqrt((1 / len(deltas) + ratio) * statistics.variance(deltas))
    reach = float(t.ppf((1 + LEVEL) / 2, len(deltas) - 1)) * spread
    return mean - reach, mean + reach
