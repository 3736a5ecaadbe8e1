"""Every candidate against the best single model, on the same test rows.

A single model is an ensemble of one, so all candidates go through one loop.  The baseline is
chosen on the validation rows; the test rows serve to report, once, and select nothing.
"""

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

import torch
from torch import Tensor

from ensemble.catalogue import find
from ensemble.errors import EmptyError, OptionError, nearest
from ensemble.heldout import Pool, pooling
from ensemble.members import Bench, alike, bench
from ensemble.predictions import mean
from ensemble.scores import METRICS, Metric
from ensemble.statistics import Interval, paired_bootstrap
from zoo.choice import threads
from zoo.registry import Registry, Run

ROWS_TIMED = 64
Kind = Literal["single", "predictions", "weights", "distilled", "baseline"]


@dataclass(frozen=True)
class Row:
    """One candidate.

    ``delta`` is the candidate's test metric minus the baseline's, ``ci_low`` and ``ci_high`` its
    95 % interval, all on paired test rows.  ``inference_ms`` is the shortest of 30
    timings of 64 rows on one CPU thread; ``trained_epochs`` what it took to train everything the
    candidate needs.
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
    nll: float | None = None
    brier: float | None = None
    ece: float | None = None
    rmse: float | None = None
    mae: float | None = None
    r2: float | None = None
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
        """Return the machine-readable form; columns of another task are left out."""
        probabilistic = ("nll", "brier", "ece")
        errors = ("rmse", "mae", "r2")
        absent = errors if self.task == "classification" else probabilistic
        rows = [
            {key: value for key, value in asdict(row).items() if key not in absent}
            for row in self.rows
        ]
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
        """Log-probabilities (N, C) or values (N,) for rows that validate it, and their targets."""
        return table.validation(self.runs, self.pool)

    def predictions(self, table: Bench) -> Tensor:
        """Log-probabilities (N, C) or values (N,) for the test rows."""
        return self.pool(table.outputs(self.runs, "test"), range(len(self.runs)))


def compare(registry: Registry, runs: Sequence[Run], *, metric: str | None = None) -> Comparison:
    """Compare single models and what was made of them.

    Args:
        registry: where the runs are.
        runs: finished runs of any kind; the members of ensembles count as single models too.
        metric: what is compared: ``accuracy`` or ``rmse`` by default, or any other of the task.

    Raises:
        EnsembleError: where the runs do not share their data, or there is no single model.
    """
    singles, products = _sorted_out(registry, runs)
    table = bench(registry, [*singles, *products])
    chosen = _metric(metric or table.metric.name, table)
    known = {run.id: run for run in registry.runs()}
    candidates = [_candidate(run, known) for run in [*singles, *products]]
    test_targets = table.targets("test")
    val = [chosen(*candidate.validation(table)) for candidate in candidates]
    rows_test = [chosen.rows(c.predictions(table), test_targets) for c in candidates]
    sign = -1 if chosen.direction == "max" else 1
    loss = METRICS["nll" if table.data.task == "classification" else "rmse"]
    best = min(
        range(len(singles)),
        key=lambda k: (sign * val[k], loss(*candidates[k].validation(table))),
    )
    base = rows_test[best]
    rows = [_row(table, candidates[best], val[best], Interval(0.0, 0.0, 0.0, 1.0), chosen)]
    if len(singles) > 1:
        rows.append(_mean_row(table, candidates[: len(singles)], val, rows_test, base, chosen))
    for k in range(len(singles), len(candidates)):
        interval = paired_bootstrap(rows_test[k], base, chosen.finish)
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
    known = {run.id: run for run in registry.runs()}
    finished = [run for run in runs if run.status == "finished"]
    everyone = list(finished)
    for run in everyone:  # grows by the parents of what is in it
        everyone += [known[parent] for parent in run.parents if known[parent] not in everyone]
    singles = [run for run in everyone if run.kind == "single"]
    if not singles:
        raise EmptyError("a comparison needs a finished single model, however there is none")
    return singles, [run for run in finished if run.kind != "single"]


def _candidate(run: Run, known: Mapping[str, Run]) -> _Candidate:
    if run.kind != "predictions":
        method = run.config.get("method") if run.kind == "weights" else None
        return _Candidate(run.label, run.kind, method, [run], pooling(mean, {}))
    function = find("predictions", run.config["method"]).function
    arguments = run.config["arguments"]
    return _Candidate(
        run.label,
        run.kind,
        run.config["method"],
        [known[parent] for parent in run.parents],
        pooling(function, arguments),
    )


def _metric(name: str, table: Bench) -> Metric:
    known = {m.name: m for m in METRICS.values() if m.task == table.data.task}
    if name not in known:
        raise OptionError(
            f"no metric of {table.data.task} is called {name!r}{nearest(name, known)}"
        )
    return known[name]


def _row(
    table: Bench, candidate: _Candidate, val: float, interval: Interval, metric: Metric
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
        **_columns(predictions, targets, metric.task),
    )


def _mean_row(
    table: Bench,
    singles: Sequence[_Candidate],
    val: Sequence[float],
    rows_test: Sequence[Tensor],
    base: Tensor,
    metric: Metric,
) -> Row:
    """The mean single model: what one gets who trains once and does not choose."""
    targets = table.targets("test")
    predictions = [single.predictions(table) for single in singles]
    columns = [_columns(prediction, targets, metric.task) for prediction in predictions]
    means: dict[str, Any] = {
        key: statistics.fmean(column[key] for column in columns) for key in columns[0]
    }
    test = statistics.fmean(metric(prediction, targets) for prediction in predictions)
    baseline = float(metric.finish(base.mean()))
    # The mean of figures is the figure of mean rows unless a root is taken of each.
    rows_N = torch.stack(list(rows_test[: len(singles)])).mean(dim=0)
    interval = paired_bootstrap(rows_N, base, metric.finish) if metric.affine else None
    return Row(
        name=f"mean of {len(singles)} singles",
        kind="baseline",
        method="mean",
        members=1,
        val=statistics.fmean(val[: len(singles)]),
        test=test,
        delta=test - baseline,
        ci_low=interval.low if interval else None,
        ci_high=interval.high if interval else None,
        p_value=interval.p_value if interval else None,
        trained_epochs=round(statistics.fmean(run.epochs or 0 for c in singles for run in c.runs)),
        **means,
    )


def _columns(predictions: Tensor, targets: Tensor, task: str) -> dict[str, Any]:
    """Measure every metric that has a column."""
    names = ("nll", "brier", "ece") if task == "classification" else ("rmse", "mae", "r2")
    return {name: METRICS[name](predictions, targets) for name in names}


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
