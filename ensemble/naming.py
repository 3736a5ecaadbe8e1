"""Classes, labels and targets that are alike by name but not in order, put into one order.

Shapes: N sample, C class or label, T target; other axes may come before.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor


def names(preprocessing: Mapping[str, Any]) -> list[str]:
    """Return what the last axis of predictions is, by what a run learnt or the data are."""
    target = preprocessing["target"]
    told: list[str] = target["classes"] or target["names"]
    return told


def reordered(outputs: Tensor, theirs: Sequence[str], ours: Sequence[str]) -> Tensor:
    """Put the last axis of outputs into our order of names.

    >>> reordered(torch.tensor([[1.0, 2.0, 3.0]]), ["a", "b", "c"], ["c", "a", "b"])
    tensor([[3., 1., 2.]])
    """
    if list(theirs) == list(ours):
        return outputs
    return outputs[..., [theirs.index(name) for name in ours]]


def renumbered(labels_N: Tensor, theirs: Sequence[str], ours: Sequence[str]) -> Tensor:
    """Give classes our numbers.

    >>> renumbered(torch.tensor([0, 1, 2]), ["a", "b", "c"], ["c", "a", "b"])
    tensor([1, 2, 0])
    """
    if list(theirs) == list(ours):
        return labels_N
    return torch.tensor([ours.index(name) for name in theirs])[labels_N]
