"""What a task minimises and what it reports, written for one member; the engines add the rest.

An objective's functions take one member's ``outputs`` (N, outputs) and its targets and return
scalars that are means over the rows, so that means over batches and over members follow by sums.

Targets are int64 (N,) for classification, float (N, L) of zeros and ones for L labels, float (N,)
for one quantity and float (N, T) for several.

Axes: N sample, C class or label, T target.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch.nn.functional as F  # noqa: N812  # the name that PyTorch's documentation uses
from torch import Tensor

from zoo.sections import Task
from zoo.units import Units


@dataclass(frozen=True)
class Objective:
    """A task's loss and metric.

    Attributes:
        loss: outputs (N, C), targets -> scalar, differentiable, mean over rows; by keyword also
            what each member may set for itself (``smoothing``, ``weight_C``, ``mix`` with
            ``mate_N``).
        score: outputs (N, C), targets -> scalar, mean over rows of what the metric averages.
        report: mean score over all rows -> the metric in the user's unit.
        extra: outputs (N, C), targets -> scalar, mean over the validation rows: one more metric
            that is watched, in its own unit; None where none is.
    """

    loss: Callable[..., Tensor]
    score: Callable[[Tensor, Tensor], Tensor]
    report: Callable[[Tensor], Tensor]
    extra: Callable[[Tensor, Tensor], Tensor] | None = None

    def figures(
        self, outputs_NC: Tensor, y_N: Tensor, taught_N: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """Return loss, score and, where there is one, the extra metric of rows: scalars.

        The loss counts what a teacher says of the rows, where that is given.
        """
        told = {} if taught_N is None else {"taught_N": taught_N}
        figures = self.loss(outputs_NC, y_N, **told), self.score(outputs_NC, y_N)
        return figures if self.extra is None else (*figures, self.extra(outputs_NC, y_N))


def objective(task: Task, units: Units | None = None, balance_C: Tensor | None = None) -> Objective:
    """Return the objective of a task.

    Args:
        task: ``classification`` (cross-entropy in nats, accuracy), ``multilabel`` (mean binary
            cross-entropy in nats, the share of rows whose labels are all right) or ``regression``
            (squared error of the standardised targets, root of the mean squared error in their own
            unit).
        units: of the targets, for regression; by default they are in their unit already.
        balance_C: what a right row of each class adds to the balanced accuracy, times the rows
            (see :func:`balance`), where that is watched.
    """
    if task == "multilabel":
        return Objective(binary_cross_entropy, subset_accuracy, lambda mean: mean)
    if task == "classification":
        extra = None if balance_C is None else _balanced(balance_C)
        return Objective(cross_entropy, accuracy, lambda mean: mean, extra)
    if units is None:
        return Objective(squared_error, squared_error, lambda mean: mean.sqrt())
    spread = units.spread
    score = squared_error if units.linear and len(units) == 1 else _in_unit(units, spread)
    return Objective(squared_error, score, lambda mean: mean.sqrt() * spread)


def cross_entropy(
    logits_NC: Tensor,
    y_N: Tensor,
    *,
    smoothing: Tensor | None = None,
    weight_C: Tensor | None = None,
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
        weight_C: (C,), what the log-likelihood of each class is multiplied by; the mean is over
            the rows, not over their weights, so that it does not depend on what is in a batch.
        mix: (), the share of each row where it is mixed with another one (mixup, Zhang et al. 2018,
            arXiv:1710.09412, eq. 1).
        mate_N: int64 (N,), the targets of those others.

    >>> import torch
    >>> cross_entropy(torch.zeros(3, 2), torch.tensor([0, 1, 1]))
    tensor(0.6931)
    """
    log_probabilities_CN = logits_NC.mT.contiguous().log_softmax(0)
    if weight_C is not None:
        log_probabilities_CN = log_probabilities_CN * weight_C.unsqueeze(1)
    right_1N = log_probabilities_CN.gather(0, y_N.unsqueeze(0))
    if mix is not None:
        assert mate_N is not None  # they are given together
        other_1N = log_probabilities_CN.gather(0, mate_N.unsqueeze(0))
        right_1N = mix * right_1N + (1 - mix) * other_1N
    if smoothing is not None:
        right_1N = (1 - smoothing) * right_1N + smoothing * log_probabilities_CN.mean(0)
    return -right_1N.mean()


def binary_cross_entropy(
    logits_NC: Tensor,
    y_NC: Tensor,
    *,
    smoothing: Tensor | None = None,
    weight_C: Tensor | None = None,
    mix: Tensor | None = None,
    mate_N: Tensor | None = None,
) -> Tensor:
    """Return the negative log-likelihood of labels, in nats, the mean over rows and labels.

    It is computed from the logits, so that no probability can round to 0 or 1.

    Args:
        logits_NC: (N, C), the log-odds of each label.
        y_NC: float (N, C), 1 where a label is there, else 0.
        smoothing: (), what moves each target towards 1/2.
        weight_C: (C,), what the log-likelihood of a label that is there is multiplied by.
        mix: (), as in :func:`cross_entropy`.
        mate_N: float (N, C), the targets of those others.

    >>> import torch
    >>> binary_cross_entropy(torch.tensor([[0.0, 200.0]]), torch.tensor([[1.0, 1.0]]))
    tensor(0.3466)
    """
    if mix is not None:
        assert mate_N is not None  # they are given together
        y_NC = mix * y_NC + (1 - mix) * mate_N
    if smoothing is not None:
        y_NC = (1 - smoothing) * y_NC + 0.5 * smoothing
    there_NC = y_NC if weight_C is None else y_NC * weight_C
    return (there_NC * F.softplus(-logits_NC) + (1 - y_NC) * F.softplus(logits_NC)).mean()


def accuracy(logits_NC: Tensor, y_N: Tensor) -> Tensor:
    """Return the fraction of rows whose largest logit is the target's."""
    return (logits_NC.contiguous().argmax(-1) == y_N).to(logits_NC.dtype).mean()


def subset_accuracy(logits_NC: Tensor, y_NC: Tensor) -> Tensor:
    """Return the fraction of rows all of whose labels are right."""
    return ((logits_NC > 0) == (y_NC > 0.5)).all(-1).to(logits_NC.dtype).mean()


def squared_error(
    outputs_NT: Tensor, y_N: Tensor, *, mix: Tensor | None = None, mate_N: Tensor | None = None
) -> Tensor:
    """Return the squared error, the mean over rows and targets.

    Args:
        outputs_NT: (N, T).
        y_N: (N,) where T is 1, or (N, T).
        mix: (), as in :func:`cross_entropy`.
        mate_N: like ``y_N``.
    """
    outputs_N = outputs_NT.squeeze(-1) if y_N.ndim == 1 else outputs_NT
    error = (outputs_N - y_N).square().mean()
    if mix is None:
        return error
    assert mate_N is not None  # they are given together
    return mix * error + (1 - mix) * (outputs_N - mate_N).square().mean()


def balance(count_C: Tensor) -> Tensor:
    """Return what a right row of each class adds to balanced accuracy, times the number of rows.

    Balanced accuracy is the mean over classes of the share of their rows that are right, and so the
    mean over rows of ``balance(count_C)[y]`` where the row is right.

    Args:
        count_C: int64 (C,), rows of each class; a class without rows does not take part.

    >>> import torch
    >>> balance(torch.tensor([1, 3, 0]))
    tensor([2.0000, 0.6667, 0.0000])
    """
    share_C = count_C.sum() / (count_C.clamp(min=1) * (count_C > 0).sum())
    return share_C * (count_C > 0)


def _balanced(balance_C: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    def balanced_accuracy(logits_NC: Tensor, y_N: Tensor) -> Tensor:
        right_N = logits_NC.contiguous().argmax(-1) == y_N
        return (right_N * balance_C.gather(0, y_N)).mean()

    return balanced_accuracy


def _in_unit(units: Units, spread: float) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the squared error in the user's unit, divided by ``spread`` squared to be of size 1.

    Of standardised targets it is computed in float64: an exponential may be on the way back.
    """

    def score(outputs_NT: Tensor, y_N: Tensor) -> Tensor:
        outputs_N = outputs_NT.squeeze(-1) if y_N.ndim == 1 else outputs_NT
        error_N = units.restore(outputs_N) - units.restore(y_N, predicted=False)
        return (error_N / spread).square().mean().to(outputs_NT.dtype)

    return score
