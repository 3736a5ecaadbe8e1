"""Every candidate against the best single model, on the same test rows.

A single model is a pool of one, so all candidates go through one loop.  The baseline is
chosen on the validation rows; the test rows serve to report, once, and select nothing.
"""

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from ensemble.costs import cost
from ensemble.crowd import Score, figures_of, meet, together
from ensemble.entrants import Entrant, entrants, found
from ensemble.longer import train_longer
from ensemble.members import bench
from ensemble.metrics import AnyMetric, find, rank
from ensemble.reliability import Bin, calibration_curve
from ensemble.significance import holm
from ensemble.standings import Comparison, Row
from ensemble.statistics import Interval, interval_of
from ensemble.verdicts import verdict
from zoo.registry import Registry, Run
from zoo.training import Event

SAME = Interval(0.0, 0.0, 0.0, 1.0)


def compare(
    registry: Registry,
    runs: Sequence[Run],
    *,
    metric: str | Sequence[str] | None = None,
    equal_compute: bool = False,
    frame: Any = None,
    watch: Callable[[Event], None] = lambda event: None,
) -> Comparison:
    """Compare single models and what was made of them.

    Args:
        registry: where the runs are; it counts how often their test rows were looked at.
        runs: finished runs of any kind; the members of ensembles count as single models too.
        metric: what is compared: ``accuracy`` or ``rmse`` by default, or any other of the task in
            :data:`ensemble.metrics.METRICS`; of several the first decides.
        equal_compute: train one model for as many epochs as all single models took together (see
            :func:`ensemble.longer.train_longer`), unless it is there already.
        frame: the table that the runs learnt from, where it was not a file.
        watch: is told what happens where a model is trained.

    Raises:
        EnsembleError: where the runs do not share their data, or there is no single model, or one
            predicts what is no number.
    """
    singles, products = found(registry, runs)
    table = bench(registry, [*singles, *products], frame)
    task, asked = table.data.task, [metric] if isinstance(metric, str) else [*(metric or ())]
    metrics = [find(task, name) for name in asked] or [table.metric]
    metrics = list({one.name: one for one in metrics}.values())
    alone, made = entrants(registry, table, singles, products)
    looks = registry.look(singles[0])
    scores, resamples = meet(table, alone, metrics)
    best = min(scores, key=lambda score: (rank(score.val[0], metrics[0].direction), score.loss))
    base, targets = best.entrant.predictions("test"), table.targets("test")
    if equal_compute:
        longer = train_longer(registry, best.entrant.run, singles, frame=frame, watch=watch)
        if longer.id not in {run.id for run in products}:
            made += entrants(registry, table, [], [longer])[1]
    same = [SAME for _ in metrics]
    rows = [_row(best.entrant, best.val[0], base, targets, same, metrics)]
    reliability = {best.entrant.name: _bins(base, targets, task)}
    if len(alone) > 1:
        rows += _baselines(scores, resamples, base, targets, metrics)
    for entrant in made:
        val = entrant.validated(metrics[0])
        told = entrant.predictions("test")
        intervals = [one.interval(told, base, targets) for one in metrics]
        rows.append(_row(entrant, val, told, targets, intervals, metrics))
        reliability[entrant.name] = _bins(told, targets, task)
    rows = _corrected(rows, metrics)
    differ, grown, by = together(table, alone, metrics[0]) if len(alone) > 1 else (None, [], "")
    return Comparison(
        task=task,
        data=table.data.ref,
        metric=metrics[0].name,
        direction=metrics[0].direction,
        baseline=rows[0].name,
        n_train=len(table.data.train.y),
        n_test=len(targets),
        looks=looks,
        validated_on=len({run.split_hash for run in singles}),
        metrics=[one.name for one in metrics],
        verdict=verdict(rows, metrics),
        rows=rows,
        diversity=differ,
        growth=grown,
        growth_metric=by,
        reliability={name: bins for name, bins in reliability.items() if bins},
        singles=[entrant.run for entrant in alone],
    )


def _baselines(
    scores: Sequence[Score],
    resamples: Sequence[Tensor],
    predictions: Tensor,
    targets: Tensor,
    metrics: Sequence[AnyMetric],
) -> list[Row]:
    """The mean single model, what one gets who does not choose; and the best on the test rows."""
    epochs = [score.entrant.trained_epochs for score in scores]
    means = [statistics.fmean(values) for values in zip(*(s.test for s in scores), strict=True)]
    base = [one(predictions, targets) for one in metrics]
    intervals = [
        interval_of(
            mean - own,
            mean_S - one.resamples(predictions, targets),
            len(targets),
            scale=abs(mean) + abs(own),
        )
        for mean, own, mean_S, one in zip(means, base, resamples, metrics, strict=True)
    ]
    mean = Row(
        name=f"mean of {len(scores)} singles",
        kind="baseline",
        method="mean",
        members=1,
        val=statistics.fmean(score.val[0] for score in scores),
        **_compared(means, intervals, metrics),
        figures={
            name: statistics.fmean(score.figures[name] for score in scores)
            for name in scores[0].figures
        },
        trained_epochs=round(statistics.fmean(epochs)),
    )
    luckiest = min(scores, key=lambda score: rank(score.test[0], metrics[0].direction))
    chosen = [(test - own, None, None, None) for test, own in zip(luckiest.test, base, strict=True)]
    oracle = Row(
        name="oracle single",
        kind="baseline",
        method="oracle",
        members=1,
        val=luckiest.val[0],
        **_compared(luckiest.test, chosen, metrics),
        figures=luckiest.figures,
        trained_epochs=sum(epochs),
    )
    return [mean, oracle]


def _row(
    entrant: Entrant,
    val: float,
    predictions: Tensor,
    targets: Tensor,
    intervals: Sequence[Interval],
    metrics: Sequence[AnyMetric],
) -> Row:
    run = entrant.run
    tests = [one(predictions, targets) for one in metrics]
    return Row(
        name=entrant.name,
        kind=run.kind,
        method="longer" if run.kind == "baseline" else run.config.get("method"),
        members=len(entrant.runs),
        val=val,
        **_compared(tests, intervals, metrics),
        figures=figures_of(entrant.table, predictions, targets),
        **vars(cost(entrant)),
        trained_epochs=entrant.trained_epochs,
    )


def _compared(
    tests: Sequence[float],
    intervals: Sequence[tuple[float | None, ...]],
    metrics: Sequence[AnyMetric],
) -> dict[str, Any]:
    """The cells of the first metric, and those of the others, named by their metric."""
    names = ("test", "delta", "ci_low", "ci_high", "p_value", "p_holm")
    cells = [
        dict(zip(names, (test, *interval, None), strict=True))
        for test, interval in zip(tests, intervals, strict=True)
    ]
    others = {
        f"{name}[{one.name}]": value
        for one, more in zip(metrics[1:], cells[1:], strict=True)
        for name, value in more.items()
    }
    return {**cells[0], "others": others}


def _corrected(rows: Sequence[Row], metrics: Sequence[AnyMetric]) -> list[Row]:
    """Correct the p-values for how many there are: of every row beside the first, by every metric.

    So that any of them may be called real: to ask for more metrics finds no more by chance.
    """
    names = ["", *(one.name for one in metrics[1:])]
    cells = [row.cell("p_value", name) for row in rows[1:] for name in names]
    known = holm([math.nan if cell is None else cell for cell in cells])
    corrected = iter(None if cell is None else p for cell, p in zip(cells, known, strict=True))
    told = [rows[0]]
    for row in rows[1:]:
        first, *others = (next(corrected) for _ in names)
        more = {f"p_holm[{name}]": p for name, p in zip(names[1:], others, strict=True)}
        told.append(replace(row, p_holm=first, others={**row.others, **more}))
    return told


def _bins(predictions: Tensor, targets: Tensor, task: str) -> list[Bin]:
    return [] if task == "regression" else calibration_curve(predictions, targets)
