"""How sure a prediction is, row by row, and how much of the doubt is the members' disagreement.

The entropy of the pooled distribution is the mean entropy of the members', which more members do
not reduce, plus the mutual information between label and member, which is zero where all say the
same (S. Depeweg et al., ICML 2018, arXiv:1710.07283, eq. 1; N. Houlsby et al. 2011,
arXiv:1112.5745).  All are in nats.

Shapes: K member, N sample, C class, L label, T target.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import softplus

from ensemble.shares import normalised


def entropy(predictions: Tensor, task: str) -> Tensor:
    """Return the entropy of each row's distribution in nats, float64 (..., N); of labels their sum.

    Args:
        predictions: logits or log-probabilities (..., N, C) of classes, or log-odds (..., N, L).
        task: ``classification`` or ``multilabel``.

    >>> entropy(torch.tensor([[0.5, 0.5], [1.0, 0.0]]).log(), "classification")
    tensor([0.6931, 0.0000], dtype=torch.float64)
    """
    told = predictions.double()
    if task == "multilabel":
        share = told.sigmoid()
        return (share * softplus(-told) + (1 - share) * softplus(told)).sum(dim=-1)
    return _entropy(told.softmax(dim=-1))


def mutual_information(
    outputs_K: Tensor, task: str, weights: Sequence[float] | None = None
) -> Tensor:
    """Return what the members' disagreement adds to the entropy of their mean: float64 (N,), nats.

    It is never negative, and at most the entropy of the weights.

    Args:
        outputs_K: logits (K, N, C) of classes, or log-odds (K, N, L) of labels.
        task: ``classification`` or ``multilabel``.
        weights: of the members, by default equal.

    Raises:
        OptionError: for weights that are negative, not finite, all zero, or not one per member.

    >>> sure_KNC = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]]).log()
    >>> mutual_information(sure_KNC, "classification")
    tensor([0.6931], dtype=torch.float64)
    """
    weight_K = _weights(weights, outputs_K)
    told_K = outputs_K.double()
    if task == "multilabel":
        told_K = torch.stack([torch.zeros_like(told_K), told_K], dim=-1)
    share_K = told_K.softmax(dim=-1)
    mean = torch.einsum("k,k...->...", weight_K, share_K)
    gained = _entropy(mean) - torch.einsum("k,k...->...", weight_K, _entropy(share_K))
    return (gained if gained.ndim == 1 else gained.sum(dim=-1)).clamp_min(0)


def spread(values_K: Tensor, weights: Sequence[float] | None = None) -> Tensor:
    """Return the standard deviation of the members' values, float64, without an axis of members.

    It is divided by ``1 - sum w^2``: with equal weights that is the usual K - 1 instead of K.  Of
    one member it is 0.

    Args:
        values_K: (K, N) or (K, N, T).
        weights: of the members, by default equal.

    >>> spread(torch.tensor([[1.0], [3.0]]))
    tensor([1.4142], dtype=torch.float64)
    """
    weight_K = _weights(weights, values_K)
    values_K = values_K.double()
    gap_K = values_K - torch.einsum("k,k...->...", weight_K, values_K)
    left = 1 - weight_K.square().sum()
    squares = torch.einsum("k,k...->...", weight_K, gap_K.square())
    return (squares / left).sqrt() if bool(left > 0) else torch.zeros_like(squares)


def _entropy(share: Tensor) -> Tensor:
    summed: Tensor = torch.special.entr(share).sum(dim=-1)
    return summed


def _weights(weights: Sequence[float] | None, outputs_K: Tensor) -> Tensor:
    count = len(outputs_K)
    return torch.tensor(normalised(weights or [1.0] * count, count), dtype=torch.float64)
