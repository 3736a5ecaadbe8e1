"""What a prediction is worth: one number per test row, whose mean becomes the figure reported.

    figure = finish(mean(rows_N))

Accuracy, NLL and Brier finish with the mean itself, RMSE with its square root, R2 with one minus
it.  Because every figure is a function of a mean of rows, the paired bootstrap of
:mod:`ensemble.statistics` and the loop of ``compare`` need to know nothing else about a metric.

=============  =========================================================  ======================
metric         row                                                        source
=============  =========================================================  ======================
accuracy       1 where the most probable class is the label               --
nll            -log p(label), in nats                                     Good 1952
brier          sum over classes of (p - onehot)^2, from 0 to 2            Brier 1950
ece            +-(confidence - correct), the sign that of its bin's mean  Guo et al. 2017
rmse, mae, r2  squared or absolute error; squared error over variance     --
=============  =========================================================  ======================

Shapes: N sample, C class.  Rows are float64, whatever the type of the predictions.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ensemble.errors import EmptyError, EnsembleError

BINS = 15  # of top-label confidence, as in Guo et al. 2017
SLACK = 1e-2  # how far from 1 a row of probabilities may sum: rounding passes, raw logits do not


def accuracy(log_probabilities_NC: Tensor, labels_N: Tensor) -> Tensor:
    """1.0 where the most probable class (the first of several) is the label, else 0.0; (N,).

    Raises :class:`EnsembleError` for shapes, labels or probabilities that cannot be scored, as do
    all the metrics of this module.

    >>> accuracy(torch.tensor([[0.9, 0.1], [0.2, 0.8]]).log(), torch.tensor([0, 0]))
    tensor([1., 0.], dtype=torch.float64)
    """
    log_NC = _checked(log_probabilities_NC, labels_N)
    return (log_NC.argmax(dim=1) == labels_N).double()


def nll(log_probabilities_NC: Tensor, labels_N: Tensor) -> Tensor:
    """Minus the log-probability of the label, in nats; inf where that probability is 0; (N,).

    >>> nll(torch.tensor([[0.5, 0.5], [1.0, 0.0]]).log(), torch.tensor([1, 0]))
    tensor([0.6931, -0.0000], dtype=torch.float64)
    """
    log_NC = _checked(log_probabilities_NC, labels_N)
    return -log_NC.gather(1, labels_N[:, None].long()).squeeze(1)


def brier(log_probabilities_NC: Tensor, labels_N: Tensor) -> Tensor:
    """Squared distance of the probabilities from the one-hot label, from 0 to 2; (N,).

    G. W. Brier, Verification of forecasts expressed in terms of probability, 1950.  For two
    classes this original definition is twice the one-column form.

    >>> brier(torch.tensor([[0.5, 0.5], [1.0, 0.0]]).log(), torch.tensor([1, 0]))
    tensor([0.5000, 0.0000], dtype=torch.float64)
    """
    error_NC = _checked(log_probabilities_NC, labels_N).exp()
    rows = torch.arange(labels_N.shape[0], device=labels_N.device)
    error_NC[rows, labels_N.long()] -= 1
    return error_NC.square().sum(dim=1)


def ece(log_probabilities_NC: Tensor, labels_N: Tensor) -> Tensor:
    """Rows (N,) whose mean is the expected calibration error of the top label, 15 equal bins.

    C. Guo et al., On Calibration of Modern Neural Networks, ICML 2017:
    ECE = sum over bins of n_bin / N * |mean confidence - mean accuracy|, which is the mean of
    (confidence - correct) taken with the sign of its bin's sum.  A bootstrap of these rows holds
    the signs as they are.  Bins are half-open, (lower, upper].

    >>> ece(torch.tensor([[0.8, 0.2], [0.8, 0.2]]).log(), torch.tensor([0, 1])).mean()
    tensor(0.3000, dtype=torch.float64)
    """
    log_NC = _checked(log_probabilities_NC, labels_N)
    confidence_N, predicted_N = log_NC.exp().max(dim=1)
    gap_N = confidence_N - (predicted_N == labels_N).double()
    edges = torch.linspace(0, 1, BINS + 1, dtype=torch.float64, device=log_NC.device)
    bin_N = torch.bucketize(confidence_N, edges[1:-1])
    total_B = gap_N.new_zeros(BINS).index_add_(0, bin_N, gap_N)
    return gap_N * total_B.sign()[bin_N]


def squared_error(values_N: Tensor, targets_N: Tensor) -> Tensor:
    """(prediction - target)^2; (N,).

    >>> squared_error(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 4.0]))
    tensor([0., 4.], dtype=torch.float64)
    """
    return _difference(values_N, targets_N).square()


def absolute_error(values_N: Tensor, targets_N: Tensor) -> Tensor:
    """|prediction - target|; (N,).

    >>> absolute_error(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 4.0]))
    tensor([0., 2.], dtype=torch.float64)
    """
    return _difference(values_N, targets_N).abs()


def unexplained(values_N: Tensor, targets_N: Tensor) -> Tensor:
    """Squared error in units of the targets' variance; nan where all targets are equal; (N,).

    One minus its mean is R2.  A bootstrap of these rows holds the variance as it is.

    >>> unexplained(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 4.0]))
    tensor([0.0000, 1.7778], dtype=torch.float64)
    """
    error_N = squared_error(values_N, targets_N)
    variance = targets_N.double().var(correction=0)
    # Equal targets may leave a variance of rounding errors, so equality itself is asked.
    constant = bool((targets_N == targets_N[0]).all())
    return torch.full_like(error_N, torch.nan) if constant else error_N / variance


def _itself(means: Tensor) -> Tensor:
    return means


@dataclass(frozen=True)
class Metric:
    """A metric as data: ``figure = finish(mean(rows(predictions, targets)))``.

    ``finish`` is monotone and works on tensors of any shape, one mean per element.  ``affine``
    tells whether it keeps means, so that the mean of several figures is the figure of mean rows.

    >>> round(METRICS["rmse"](torch.tensor([1.0, 2.0]), torch.tensor([1.0, 4.0])), 6)
    1.414214
    """

    name: str
    task: Literal["classification", "regression"]
    direction: Literal["min", "max"]
    rows: Callable[[Tensor, Tensor], Tensor]
    finish: Callable[[Tensor], Tensor] = _itself
    affine: bool = True

    def __call__(self, predictions: Tensor, targets: Tensor) -> float:
        """Score log-probabilities (N, C) against labels (N,), or values (N,) against targets."""
        return float(self.finish(self.rows(predictions, targets).mean()))


METRICS = {
    metric.name: metric
    for metric in (
        Metric("accuracy", "classification", "max", accuracy),
        Metric("nll", "classification", "min", nll),
        Metric("brier", "classification", "min", brier),
        Metric("ece", "classification", "min", ece),
        Metric("rmse", "regression", "min", squared_error, torch.sqrt, affine=False),
        Metric("mae", "regression", "min", absolute_error),
        Metric("r2", "regression", "max", unexplained, lambda means: 1 - means),
    )
}


def _checked(log_probabilities_NC: Tensor, labels_N: Tensor) -> Tensor:
    """The log-probabilities in float64, once they and the labels can be scored."""
    if log_probabilities_NC.ndim != 2 or labels_N.shape != log_probabilities_NC.shape[:1]:
        raise EnsembleError(
            "scores need log-probabilities (N, C) and labels (N,), however: "
            f"{tuple(log_probabilities_NC.shape)} and {tuple(labels_N.shape)}"
        )
    if labels_N.numel() == 0:
        raise EmptyError("scores need at least one row, however: there is none")
    if labels_N.is_floating_point():
        raise EnsembleError(f"labels are integers, however: {labels_N.dtype}")
    classes = log_probabilities_NC.shape[1]
    if bool((bad := (labels_N < 0) | (labels_N >= classes)).any()):
        row = int(bad.nonzero()[0])
        raise EnsembleError(
            f"labels lie in 0..{classes - 1}, however: {labels_N[row]} in row {row}"
        )
    log_NC = log_probabilities_NC.double()
    total_N = log_NC.logsumexp(dim=1).exp()
    if bool((bad := ~((total_N - 1).abs() <= SLACK)).any()):  # nan is bad too
        row = int(bad.nonzero()[0])
        raise EnsembleError(f"probabilities sum to 1, however: {total_N[row]:.4g} in row {row}")
    return log_NC


def _difference(values_N: Tensor, targets_N: Tensor) -> Tensor:
    """Prediction minus target in float64; unequal shapes are refused, never broadcast."""
    if values_N.ndim != 1 or values_N.shape != targets_N.shape:
        raise EnsembleError(
            "scores need values (N,) and targets (N,), however: "
            f"{tuple(values_N.shape)} and {tuple(targets_N.shape)}"
        )
    if values_N.numel() == 0:
        raise EmptyError("scores need at least one row, however: there is none")
    return values_N.double() - targets_N.double()
