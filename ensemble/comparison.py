"""Every candidate against the best single model, on the same test rows.

A single model is an ensemble of one, so all candidates go through one loop.  The baseline is
chosen on the validation rows; the test rows serve to report, once, and select nothing.
"""

import math
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from ensemble import catalogue
from ensemble.errors import EmptyError
from ensemble.heldout import Pool, pooling
from ensemble.members import Bench, alike, bench
from ensemble.metrics import METRICS, AnyMetric, Metric, find
from ensemble.predictions import mean
from ensemble.statistics import Interval, paired_bootstrap
from zoo.choice import threads
from zoo.registry import Registry, Run

ROWS_TIMED = 64
Kind = Literal["single", "predictions", "weights", "distilled", "baseline"]


@dataclass(frozen=True)
class Row:
    """One candidate.

    ``delta`` is the candidate's test metric minus the baseline's, ``ci_low`` and ``ci_high`` its
    95 % interval, all on paired test rows.  ``figures`` are the task's metrics but accuracy, and of
    several targets each one's own (``rmse[price]``), nan where one is undefined.
    ``inference_ms`` is the shortest of 30 timings of 64 rows on one CPU thread;
    ``trained_epochs`` what it took to train everything the candidate needs.
    """

    name: str
    kind: Kind
    method: str | None
    members: int
    val: float
    test: float
    delta: float
    ci_low: float | None
    ci_high: float | None
    p_value: float | None
    figures: Mapping[str, float]
    params: int | None = None
    inference_ms: float | None = None
    trained_epochs: int | None = None


@dataclass(frozen=True)
class Comparison:
    """All candidates, the baseline first.

    ``validated_on`` counts the different sets of validation rows that the singles have: 1, or more
    with folds or draws of their own.
    """

    task: str
    data: str
    metric: str
    direction: str
    baseline: str
    n_test: int
    validated_on: int
    rows: list[Row]

    def to_json(self) -> dict[str, Any]:
        """Return the machine-readable form, in which the figures of a row are keys like others."""
        rows = []
        for row in self.rows:
            cells = asdict(row)
            place = list(cells).index("figures")
            before, after = list(cells.items())[:place], list(cells.items())[place + 1 :]
            rows.append({**dict(before), **row.figures, **dict(after)})
        head = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "rows"}
        return {"schema": 1, **head, "rows": rows}


@dataclass(frozen=True)
class _Candidate:
    """What the loop needs of a candidate."""

    name: str
    kind: Kind
    method: str | None
    runs: list[Run]
    pool: Pool

    def validation(self, table: Bench) -> tuple[Tensor, Tensor]:
        """What it predicts for rows that validate it (:meth:`Bench.loss`), and their targets."""
        return table.validation(self.runs, self.pool)

    def predictions(self, table: Bench) -> Tensor:
        """What it predicts for the test rows (see :meth:`Bench.loss`)."""
        return self.pool(table.outputs(self.runs, "test"), range(len(self.runs)))


def compare(
    registry: Registry, runs: Sequence[Run], *, metric: str | None = None, frame: Any = None
) -> Comparison:
    """Compare single models and what was made of them.

    Args:
        registry: where the runs are.
        runs: finished runs of any kind; the members of ensembles count as single models too.
        metric: what is compared: ``accuracy`` or ``rmse`` by default, or any other of the task in
            :data:`ensemble.metrics.METRICS`.
        frame: the table that the runs learnt from, where it was not a file.

    Raises:
        EnsembleError: where the runs do not share their data, or there is no single model.
    """
    singles, products = _sorted_out(registry, runs)
    table = bench(registry, [*singles, *products], frame)
    chosen = find(table.data.task, metric or table.metric.name)
    known = registry.by_id(parent for product in products for parent in product.parents)
    candidates = [_candidate(table, run, known) for run in [*singles, *products]]
    test_targets = table.targets("test")
    val = [chosen(*candidate.validation(table)) for candidate in candidates]
    test = [candidate.predictions(table) for candidate in candidates]
    best = min(
        range(len(singles)),
        key=lambda k: (_worth(val[k], chosen), table.loss(*candidates[k].validation(table))),
    )
    rows = [_row(table, candidates[best], val[best], Interval(0.0, 0.0, 0.0, 1.0), chosen)]
    if len(singles) > 1:
        predicted = test[: len(singles)]
        rows.append(
            _mean_row(table, candidates[: len(singles)], val, predicted, test[best], chosen)
        )
    for k in range(len(singles), len(candidates)):
        interval = chosen.interval(test[k], test[best], test_targets)
        rows.append(_row(table, candidates[k], val[k], interval, chosen))
    return Comparison(
        task=table.data.task,
        data=table.data.ref,
        metric=chosen.name,
        direction=chosen.direction,
        baseline=candidates[best].name,
        n_test=len(test_targets),
        validated_on=len({run.split_hash for run in singles}),
        rows=rows,
    )


def _sorted_out(registry: Registry, runs: Sequence[Run]) -> tuple[list[Run], list[Run]]:
    """Return the single models, those that products were made of included, and the products."""
    finished = [run for run in runs if run.status == "finished"]
    everyone = {run.id: run for run in finished}
    fresh = finished
    while fresh:  # the parents of what is there, and theirs
        parents = dict.fromkeys(parent for run in fresh for parent in run.parents)
        known = registry.by_id(parents.keys() - everyone.keys())
        fresh = [known[parent] for parent in parents if parent in known]
        everyone |= {run.id: run for run in fresh}
    singles = [run for run in everyone.values() if run.kind == "single"]
    if not singles:
        raise EmptyError("a comparison needs a finished single model, however there is none")
    return singles, [run for run in finished if run.kind != "single"]


def _worth(value: float, metric: AnyMetric) -> float:
    """Return what can be sorted by, the best first and what is undefined last."""
    if value != value:
        return math.inf
    return -value if metric.direction == "max" else value


def _candidate(table: Bench, run: Run, known: Mapping[str, Run]) -> _Candidate:
    if run.kind != "predictions":
        method = run.config.get("method") if run.kind != "single" else None
        pool = pooling(partial(table.pool, mean), {})
        return _Candidate(run.label, run.kind, method, [run], pool)
    function = catalogue.find("predictions", run.config["method"]).function
    arguments = run.config["arguments"]
    return _Candidate(
        run.label,
        run.kind,
        run.config["method"],
        [known[parent] for parent in run.parents],
        pooling(partial(table.pool, function), arguments),
    )


def _row(
    table: Bench, candidate: _Candidate, val: float, interval: Interval, metric: AnyMetric
) -> Row:
    predictions, targets = candidate.predictions(table), table.targets("test")
    return Row(
        name=candidate.name,
        kind=candidate.kind,
        method=candidate.method,
        members=len(candidate.runs),
        val=val,
        test=metric(predictions, targets),
        delta=interval.delta,
        ci_low=interval.low,
        ci_high=interval.high,
        p_value=interval.p_value,
        params=sum(_parameters(table, run) for run in candidate.runs),
        inference_ms=_milliseconds(table, candidate),
        trained_epochs=sum(run.epochs or 0 for run in candidate.runs),
        figures=_figures(table, predictions, targets),
    )


def _mean_row(
    table: Bench,
    singles: Sequence[_Candidate],
    val: Sequence[float],
    predictions: Sequence[Tensor],
    base: Tensor,
    metric: AnyMetric,
) -> Row:
    """The mean single model: what one gets who trains once and does not choose."""
    targets = table.targets("test")
    figures = [_figures(table, prediction, targets) for prediction in predictions]
    test = statistics.fmean(metric(prediction, targets) for prediction in predictions)
    interval = None
    # The mean of figures is the figure of mean rows unless, say, a root is taken of each.
    if isinstance(metric, Metric) and metric.affine:
        rows_N = torch.stack([metric.rows(p, targets) for p in predictions]).mean(dim=0)
        interval = paired_bootstrap(rows_N, metric.rows(base, targets), metric.finish)
    return Row(
        name=f"mean of {len(singles)} singles",
        kind="baseline",
        method="mean",
        members=1,
        val=statistics.fmean(val[: len(singles)]),
        test=test,
        delta=test - metric(base, targets),
        ci_low=interval.low if interval else None,
        ci_high=interval.high if interval else None,
        p_value=interval.p_value if interval else None,
        trained_epochs=round(statistics.fmean(run.epochs or 0 for c in singles for run in c.runs)),
        figures={name: statistics.fmean(figure[name] for figure in figures) for name in figures[0]},
    )


def _figures(table: Bench, predictions: Tensor, targets: Tensor) -> dict[str, float]:
    """Measure every metric that is reported."""
    metrics = METRICS[table.data.task]
    figures = {n: m(predictions, targets) for n, m in metrics.items() if n != "accuracy"}
    if targets.ndim == 1 or table.data.task != "regression":
        return figures
    names = table.data.preprocessing["target"]["names"]
    own = {
        f"{n}[{target}]": m(predictions[:, t], targets[:, t])
        for t, target in enumerate(names)
        for n, m in metrics.items()
    }
    return figures | own


def _parameters(table: Bench, run: Run) -> int:
    return sum(parameter.numel() for parameter in table.module(run).parameters())


def _milliseconds(table: Bench, candidate: _Candidate) -> float:
    """Return the shortest time to predict 64 rows on one thread, members run together, pooled."""
    forwards = [
        (table.predictor(group), table.own(group[0]).test.x[:ROWS_TIMED])
        for group in alike(candidate.runs)
    ]
    everyone = range(len(candidate.runs))
    times = []
    with threads(1):  # several would measure what else the machine is doing
        for _ in range(30):
            start = time.perf_counter()
            candidate.pool(torch.cat([forward(x_N) for forward, x_N in forwards]), everyone)
            times.append(time.perf_counter() - start)
    return 1e3 * min(times)
