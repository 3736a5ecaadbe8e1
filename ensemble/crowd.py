"""Single models together: what each scores, how they differ, what pools of them are worth."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ensemble.diversity import Diversity, Tally, diversity, tally
from ensemble.entrants import Entrant, told_alone
from ensemble.growth import Growth, growth, pool_sizes, subset_rows
from ensemble.members import Bench
from ensemble.metrics import METRICS, AnyMetric, Metric


@dataclass(frozen=True)
class Score:
    """What a single model scores.

    Attributes:
        entrant: the model.
        val: of the validation rows, a figure per metric that is compared.
        test: the same of the test rows.
        loss: of the validation rows.
        figures: of the test rows, all that are reported.
    """

    entrant: Entrant
    val: list[float]
    test: list[float]
    loss: float
    figures: dict[str, float]


def meet(
    table: Bench, singles: Sequence[Entrant], metrics: Sequence[AnyMetric]
) -> tuple[list[Score], list[Tensor]]:
    """Score single models one by one.

    Returns:
        scores in the order of the models; and, per metric, the mean over models of the figures of
        resampled test rows, (S,).
    """
    targets = table.targets("test")
    scores: dict[str, Score] = {}
    means = [torch.zeros(()) for _ in metrics]

    def score(entrant: Entrant, val: Tensor, test: Tensor) -> tuple[Score, list[Tensor]]:
        own = val, table.targets("val", table.own(entrant.run))
        scored = Score(
            entrant,
            [one(*own) for one in metrics],
            [one(test, targets) for one in metrics],
            table.loss(*own),
            figures_of(table, test, targets),
        )
        return scored, [one.resamples(test, targets) / len(singles) for one in metrics]

    for scored, resamples in told_alone(table, singles, score):
        scores[scored.entrant.run.id] = scored
        means = [mean + one for mean, one in zip(means, resamples, strict=True)]
    return [scores[entrant.run.id] for entrant in singles], means


def together(
    table: Bench, singles: Sequence[Entrant], metric: AnyMetric
) -> tuple[Diversity, list[Growth], str]:
    """Say how different single models are, and what pools of 1, 2, ... of them are worth."""
    task, targets = table.data.task, table.targets("test")
    if not isinstance(metric, Metric) or metric.joint:
        metric = METRICS[task]["rmse" if task == "regression" else "nll"]
        assert isinstance(metric, Metric)
    # Targets in several units are set in relation to their spread.
    several = task == "regression" and targets.ndim == 2
    scale = targets.std(dim=0) if several else torch.ones(())
    scale = scale.where(scale > 0, 1.0)
    crowd = replace(singles[0], runs=[entrant.run for entrant in singles])
    counted, rows = None, []

    def look(outputs_K: Tensor, here: slice) -> tuple[Tally, Tensor]:
        own = targets[here]
        pair = (outputs_K / scale, own / scale) if several else (outputs_K, own)
        return tally(*pair, task), subset_rows(outputs_K, own, metric, task)

    for one, some in crowd.portions("test", look):
        counted = one if counted is None else counted + one
        rows.append(some)
    assert counted is not None
    grown = growth(torch.cat(rows, dim=1), pool_sizes(len(singles)), metric)
    return diversity(counted, task), grown, metric.name


def figures_of(table: Bench, predictions: Tensor, targets: Tensor) -> dict[str, float]:
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
