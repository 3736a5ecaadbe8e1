"""What a task minimises and what it reports, written for one member; the engines add the rest.

An objective's functions take one member's ``outputs`` (N, outputs) and its targets (N,) and return
scalars that are means over the rows, so that means over batches and over members follow by sums.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

Task = Literal["classification", "regression"]


@dataclass(frozen=True)
class Objective:
    """A task's loss and metric.

    Attributes:
        loss: outputs (N, C), targets (N,) -> scalar, differentiable, mean over rows; by keyword
            also what each member may set for itself (``smoothing``, ``mix`` with ``mate_N``).
        score: outputs (N, C), targets (N,) -> scalar, mean over rows of what the metric averages.
        metric: the metric's name: ``accuracy`` or ``rmse``.
        report: mean score over all rows -> the metric in the user's unit.
    """

    loss: Callable[..., Tensor]
    score: Callable[[Tensor, Tensor], Tensor]
    metric: Literal["accuracy", "rmse"]
    report: Callable[[Tensor], Tensor]


def objective(task: Task, target_scale: float = 1.0) -> Objective:
    """Return the objective of a task.

    Args:
        task: ``classification`` (cross-entropy in nats, accuracy) or ``regression`` (squared error
            of the standardised target, root mean squared error in the target's unit).
        target_scale: the unit of the standardised target, for regression.
    """
    if task == "classification":
        return Objective(cross_entropy, accuracy, "accuracy", lambda mean: mean)
    return Objective(squared_error, squared_error, "rmse", lambda mean: mean.sqrt() * target_scale)


def cross_entropy(
    logits_NC: Tensor,
    y_N: Tensor,
    *,
    smoothing: Tensor | None = None,
    mix: Tensor | None = None,
    mate_N: Tensor | None = None,
) -> Tensor:
    """Return the mean negative log-likelihood, in nats.

    Works class first: over a last axis of a few classes, kernels cannot use vector instructions,
    and ``log_softmax`` takes twenty times longer.

    Args:
        logits_NC: (N, C).
        y_N: int64 (N,).
        smoothing: (), the share of each target that is spread over all classes (Szegedy et al.
            2016, arXiv:1512.00567, section 7).
        mix: (), the share of each row where it is mixed with another one (mixup, Zhang et al. 2018,
            arXiv:1710.09412, eq. 1).
        mate_N: int64 (N,), the targets of those others.

    >>> import torch
    >>> cross_entropy(torch.zeros(3, 2), torch.tensor([0, 1, 1]))
    tensor(0.6931)
    """
    log_probabilities_CN = logits_NC.mT.contiguous().log_softmax(0)
    right_1N = log_probabilities_CN.gather(0, y_N.unsqueeze(0))
    if mix is not None:
        assert mate_N is not None  # they are given together
        other_1N = log_probabilities_CN.gather(0, mate_N.unsqueeze(0))
        right_1N = mix * right_1N + (1 - mix) * other_1N
    if smoothing is not None:
        right_1N = (1 - smoothing) * right_1N + smoothing * log_probabilities_CN.mean(0)
    return -right_1N.mean()


def accuracy(logits_NC: Tensor, y_N: Tensor) -> Tensor:
    """Return the fraction of rows whose largest logit is the target's."""
    return (logits_NC.contiguous().argmax(-1) == y_N).to(logits_NC.dtype).mean()


def squared_error(
    outputs_N1: Tensor, y_N: Tensor, *, mix: Tensor | None = None, mate_N: Tensor | None = None
) -> Tensor:
    """Return the mean squared error of a single output; mixing is as in :func:`cross_entropy`."""
    error = (outputs_N1.squeeze(-1) - y_N).square().mean()
    if mix is None:
        return error
    assert mate_N is not None  # they are given together
    return mix * error + (1 - mix) * (outputs_N1.squeeze(-1) - mate_N).square().mean()
