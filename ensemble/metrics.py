"""The table of metrics, by task: what ``compare`` reports and may compare by.

A metric is one row: of rows whose mean is finished (:mod:`ensemble.scores`), or of predictions as a
whole (:mod:`ensemble.whole`).  Predictions are log-probabilities (N, C) of classes, log-odds (N, L)
of labels, or values (N,) or (N, T); targets are labels (N,) or (N, L), or values.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from ensemble import scores, whole
from ensemble.errors import OptionError, nearest
from ensemble.significance import mcnemar
from ensemble.statistics import (
    Interval,
    paired_bootstrap,
    resampled_figures,
    resampled_means,
    weighted_bootstrap,
)

Direction: TypeAlias = Literal["min", "max"]
FEWEST = 5  # of a class: of one or two rows, 95 % intervals of areas held 43 and 87 %


def _itself(means: Tensor) -> Tensor:
    return means


@dataclass(frozen=True)
class Metric:
    """A metric as data: ``figure = finish(mean(rows(predictions, targets)))``.

    ``finish`` is monotone and works on tensors of any shape, one mean per element.  ``binary``
    rows are 0 or 1, and are compared by McNemar's test.  ``joint`` ones depend on each other, so
    that they cannot be computed portion by portion.

    >>> round(METRICS["regression"]["rmse"](torch.tensor([1.0, 2.0]), torch.tensor([1.0, 4.0])), 6)
    1.414214
    """

    name: str
    direction: Direction
    rows: Callable[[Tensor, Tensor], Tensor]
    finish: Callable[[Tensor], Tensor] = _itself
    binary: bool = False
    joint: bool = False

    def __call__(self, predictions: Tensor, targets: Tensor) -> float:
        """Score predictions; nan where the figure is undefined."""
        return float(self.finish(self.rows(predictions, targets).mean()))

    def interval(self, candidate: Tensor, baseline: Tensor, targets: Tensor) -> Interval:
        """Compare a candidate's predictions with a baseline's, on the same rows."""
        pair = self.rows(candidate, targets), self.rows(baseline, targets)
        interval = paired_bootstrap(*pair, self.finish)
        return interval._replace(p_value=mcnemar(*pair)) if self.binary else interval

    def resamples(self, predictions: Tensor, targets: Tensor) -> Tensor:
        """Return the figure of resampled rows, (S,), which are the same for all predictions."""
        return self.finish(resampled_means(self.rows(predictions, targets)))


@dataclass(frozen=True)
class WholeMetric:
    """A metric of predictions as a whole: ``figure = whole(predictions, targets)(weights)``.

    Where some class, or label, or its absence, has fewer than ``fewest`` rows, resamples say too
    little of others like them: intervals are nan.

    >>> log = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7]]).log()
    >>> METRICS["classification"]["roc_auc"](log, torch.tensor([0, 1, 1]))
    1.0
    """

    name: str
    direction: Direction
    whole: Callable[[Tensor, Tensor], whole.Figure]
    fewest: int = 0

    def __call__(self, predictions: Tensor, targets: Tensor) -> float:
        """Score predictions; nan where the figure is undefined."""
        return float(self.whole(predictions, targets)(torch.ones(1, len(targets))))

    def interval(self, candidate: Tensor, baseline: Tensor, targets: Tensor) -> Interval:
        """Compare a candidate's predictions with a baseline's, on the same rows."""
        pair = self.whole(candidate, targets), self.whole(baseline, targets)
        told = weighted_bootstrap(*pair, len(targets))
        if _rarest(targets) < self.fewest:
            return told._replace(low=math.nan, high=math.nan, p_value=math.nan)
        return told

    def resamples(self, predictions: Tensor, targets: Tensor) -> Tensor:
        """Return the figure of resampled rows, (S,), which are the same for all predictions."""
        told_S = resampled_figures(self.whole(predictions, targets), len(targets))
        return told_S if _rarest(targets) >= self.fewest else torch.full_like(told_S, math.nan)


def _rarest(targets: Tensor) -> int:
    """Return how many rows the rarest class has, or the rarest label or absence of one."""
    if targets.ndim == 1:
        return int(targets.bincount().min())
    there_L = (targets > 0).sum(dim=0)
    return int(torch.minimum(there_L, len(targets) - there_L).min())


AnyMetric: TypeAlias = Metric | WholeMetric

# The first of a task is the one that members are ranked by; the others are reported in this order.
_ROWS: Mapping[str, tuple[AnyMetric, ...]] = {
    "classification": (
        Metric("accuracy", "max", scores.accuracy, binary=True),
        Metric("nll", "min", scores.nll),
        Metric("brier", "min", scores.brier),
        Metric("ece", "min", scores.ece, joint=True),
        Metric("adaptive_ece", "min", scores.adaptive_ece, joint=True),
        WholeMetric("balanced_accuracy", "max", whole.balanced_accuracy),
        WholeMetric("f1", "max", whole.f1),
        WholeMetric("roc_auc", "max", whole.roc_auc, FEWEST),
    ),
    "multilabel": (
        Metric("accuracy", "max", scores.subset_accuracy, binary=True),
        Metric("nll", "min", scores.label_nll),
        Metric("brier", "min", scores.label_brier),
        Metric("hamming", "min", scores.hamming),
        WholeMetric("f1", "max", whole.label_f1),
        WholeMetric("f1_micro", "max", whole.label_f1_micro),
        WholeMetric("roc_auc", "max", whole.label_roc_auc, FEWEST),
    ),
    "regression": (
        Metric("rmse", "min", scores.squared_error, torch.sqrt),
        Metric("mae", "min", scores.absolute_error),
        Metric("r2", "max", scores.unexplained, lambda means: 1 - means, joint=True),
    ),
}
METRICS: Mapping[str, Mapping[str, AnyMetric]] = {
    task: {metric.name: metric for metric in rows} for task, rows in _ROWS.items()
}
ALIASES = {"log_loss": "nll", "f1_macro": "f1", "hamming_loss": "hamming"}


def find(task: str, name: str) -> AnyMetric:
    """Return a metric of a task, or raise :class:`OptionError` with the nearest one.

    >>> find("classification", "log_loss").name
    'nll'
    """
    known = METRICS[task]
    name = ALIASES.get(name, name)
    if name not in known:
        raise OptionError(f"no metric of {task} is called {name!r}{nearest(name, known)}")
    return known[name]


def rank(value: float, direction: str) -> float:
    """Return what figures are sorted by: the best first, what is undefined last.

    >>> sorted([0.9, math.nan, 0.95], key=lambda value: rank(value, "max"))
    [0.95, 0.9, nan]
    """
    if value != value:
        return math.inf
    return -value if direction == "max" else value


def ranking(task: str) -> AnyMetric:
    """Return the metric by which the members of a task are ranked.

    >>> ranking("regression").name
    'rmse'
    """
    return next(iter(METRICS[task].values()))
