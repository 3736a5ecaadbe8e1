"""Metrics that are no mean of rows: of predictions as a whole, for any weights of their rows.

Each takes predictions and targets of N rows once, and returns a function from weights (S, N) to S
figures (S,).  Weights of one give the figure; how often a resample drew each row gives the figure
of the resample.  So the bootstrap of :mod:`ensemble.statistics` costs S sums over rows, not S
sorts.  A figure is nan where it is undefined, such as the area of a class that no row has.

=================  ======================================================  =====================
metric             figure                                                  source
=================  ======================================================  =====================
balanced_accuracy  mean over classes of the share of their rows found      Brodersen et al. 2010
f1                 2 TP / (2 TP + FP + FN), the mean over classes          van Rijsbergen 1979
f1_micro           the same of the sums over labels
roc_auc            share of pairs in which the row of the class has the    Hanley & McNeil 1982
                   higher probability, ties being half; the mean over
                   classes against the rest, of two classes the second
=================  ======================================================  =====================

Shapes: N sample, C class or label, S resample.  Figures are float64.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F  # noqa: N812  # the name that PyTorch's documentation uses
from torch import Tensor

from ensemble.scores import checked, labelled

Figure = Callable[[Tensor], Tensor]


def balanced_accuracy(log_probabilities_NC: Tensor, labels_N: Tensor) -> Figure:
    """The mean over the classes that are there of the share of their rows that are right.

    >>> log = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3]]).log()
    >>> balanced_accuracy(log, torch.tensor([0, 0, 1]))(torch.ones(1, 3))
    tensor([0.5000], dtype=torch.float64)
    """
    log_NC = checked(log_probabilities_NC, labels_N)
    there_NC = F.one_hot(labels_N.long(), log_NC.shape[1]).double()
    return _mean_ratio(there_NC * (log_NC.argmax(dim=1) == labels_N)[:, None], there_NC)


def f1(log_probabilities_NC: Tensor, labels_N: Tensor) -> Figure:
    """The mean of F1 over the classes that are there or predicted.

    >>> log = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7]]).log()
    >>> f1(log, torch.tensor([0, 1, 1]))(torch.ones(1, 3))
    tensor([0.6667], dtype=torch.float64)
    """
    log_NC = checked(log_probabilities_NC, labels_N)
    classes = log_NC.shape[1]
    there_NC = F.one_hot(labels_N.long(), classes).double()
    return _f1(there_NC, F.one_hot(log_NC.argmax(dim=1), classes).double(), micro=False)


def label_f1(log_odds_NC: Tensor, labels_NC: Tensor) -> Figure:
    """The mean of F1 over the labels that are there or predicted.

    >>> label_f1(torch.tensor([[1.0, -1.0], [1.0, 1.0]]), torch.tensor([[1, 1], [0, 1]]))(
    ...     torch.ones(1, 2))
    tensor([0.6667], dtype=torch.float64)
    """
    log_odds_NC, there_NC = labelled(log_odds_NC, labels_NC)
    return _f1(there_NC.double(), (log_odds_NC > 0).double(), micro=False)


def label_f1_micro(log_odds_NC: Tensor, labels_NC: Tensor) -> Figure:
    """F1 of all labels of all rows together.

    >>> label_f1_micro(torch.tensor([[1.0, -1.0], [1.0, 1.0]]), torch.tensor([[1, 1], [0, 1]]))(
    ...     torch.ones(1, 2))
    tensor([0.6667], dtype=torch.float64)
    """
    log_odds_NC, there_NC = labelled(log_odds_NC, labels_NC)
    return _f1(there_NC.double(), (log_odds_NC > 0).double(), micro=True)


def roc_auc(log_probabilities_NC: Tensor, labels_N: Tensor) -> Figure:
    """The area under the ROC curve of the second of two classes, or of each against the rest.

    J. A. Hanley & B. J. McNeil, The Meaning and Use of the Area under a ROC Curve, 1982.  It is nan
    unless every class is there.

    >>> log = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7]]).log()
    >>> roc_auc(log, torch.tensor([0, 1, 0]))(torch.ones(1, 3))
    tensor([0.5000], dtype=torch.float64)
    """
    log_NC = checked(log_probabilities_NC, labels_N)
    there_NC = F.one_hot(labels_N.long(), log_NC.shape[1]).bool()
    if log_NC.shape[1] == 2:  # both classes have the same area
        log_NC, there_NC = (log_NC[:, 1:] - log_NC[:, :1]), there_NC[:, 1:]
    return _mean_area(log_NC, there_NC)


def label_roc_auc(log_odds_NC: Tensor, labels_NC: Tensor) -> Figure:
    """The mean over labels of the area under the ROC curve; nan if a label is in all rows or none.

    >>> label_roc_auc(torch.tensor([[1.0], [2.0]]), torch.tensor([[0], [1]]))(torch.ones(1, 2))
    tensor([1.], dtype=torch.float64)
    """
    return _mean_area(*labelled(log_odds_NC, labels_NC))


def _f1(there_NC: Tensor, predicted_NC: Tensor, *, micro: bool) -> Figure:
    both_NC, either_NC = 2 * there_NC * predicted_NC, there_NC + predicted_NC
    if micro:
        both_NC, either_NC = (cells.sum(dim=1, keepdim=True) for cells in (both_NC, either_NC))
    return _mean_ratio(both_NC, either_NC)


def _mean_area(score_NC: Tensor, there_NC: Tensor) -> Figure:
    areas = [
        _area(score_N, there_N) for score_N, there_N in zip(score_NC.T, there_NC.T, strict=True)
    ]
    return lambda weight_SN: torch.stack([area(weight_SN) for area in areas]).mean(dim=0)


def _area(score_N: Tensor, there_N: Tensor) -> Figure:
    """The area of one score: of rows in its order, how many below each row are of the others."""
    order_N = score_N.argsort()
    ordered_N, positive_N = score_N[order_N], there_N[order_N].double()
    _, tie_N = torch.unique_consecutive(ordered_N, return_inverse=True)
    ties = int(tie_N[-1]) + 1
    distinct = ties == len(tie_N)

    def figure(weight_SN: Tensor) -> Tensor:
        weight_SN = weight_SN.double()[:, order_N]
        positive_SG, negative_SG = weight_SN * positive_N, weight_SN * (1 - positive_N)
        if not distinct:
            zeros_SG = weight_SN.new_zeros(len(weight_SN), ties)
            positive_SG = zeros_SG.index_add(1, tie_N, positive_SG)
            negative_SG = zeros_SG.index_add(1, tie_N, negative_SG)
        below_SG = negative_SG.cumsum(dim=1) - negative_SG / 2
        pairs_S = positive_SG.sum(dim=1) * negative_SG.sum(dim=1)
        return (positive_SG * below_SG).sum(dim=1) / pairs_S  # 0 / 0 is nan

    return figure


def _mean_ratio(top_NC: Tensor, bottom_NC: Tensor) -> Figure:
    """The mean over classes of ratios of sums over rows, without those that are 0 / 0."""

    def figure(weight_SN: Tensor) -> Tensor:
        weight_SN = weight_SN.double()
        return ((weight_SN @ top_NC) / (weight_SN @ bottom_NC)).nanmean(dim=1)

    return figure
