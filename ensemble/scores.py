"""What a prediction is worth: one number per test row, whose mean becomes the figure reported.

    figure = finish(mean(rows_N))

Accuracy, NLL and Brier finish with the mean itself, RMSE with its square root, R2 with one minus
it.  :mod:`ensemble.metrics` has the table of all metrics, :mod:`ensemble.whole` those that are no
mean of rows.

=============  =========================================================  ======================
metric         row                                                        source
=============  =========================================================  ======================
accuracy       1 where the most probable class is the label               --
nll            -log p(label), in nats                                     Good 1952
brier          sum over classes of (p - onehot)^2, from 0 to 2            Brier 1950
ece            +-(confidence - correct), the sign that of its bin's mean  Guo et al. 2017
adaptive_ece   the same, in bins of equally many rows                     Nguyen & O'Connor 2015
rmse, mae, r2  squared or absolute error; squared error over variance     --
=============  =========================================================  ======================

The row of several labels or several values is the mean of theirs, but for the accuracy of labels,
which must all be right.

Shapes: N sample, C class, L label, T target.  Rows are float64, whatever the predictions are.
"""

import torch
import torch.nn.functional as F  # noqa: N812  # the name that PyTorch's documentation uses
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
    log_NC = checked(log_probabilities_NC, labels_N)
    return (log_NC.argmax(dim=1) == labels_N).double()


def nll(log_probabilities_NC: Tensor, labels_N: Tensor) -> Tensor:
    """Minus the log-probability of the label, in nats; inf where that probability is 0; (N,).

    >>> nll(torch.tensor([[0.5, 0.5], [1.0, 0.0]]).log(), torch.tensor([1, 0]))
    tensor([0.6931, -0.0000], dtype=torch.float64)
    """
    log_NC = checked(log_probabilities_NC, labels_N)
    return -log_NC.gather(1, labels_N[:, None].long()).squeeze(1)


def brier(log_probabilities_NC: Tensor, labels_N: Tensor) -> Tensor:
    """Squared distance of the probabilities from the one-hot label, from 0 to 2; (N,).

    G. W. Brier, Verification of forecasts expressed in terms of probability, 1950.  For two
    classes this original definition is twice the one-column form.

    >>> brier(torch.tensor([[0.5, 0.5], [1.0, 0.0]]).log(), torch.tensor([1, 0]))
    tensor([0.5000, 0.0000], dtype=torch.float64)
    """
    error_NC = checked(log_probabilities_NC, labels_N).exp()
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
    log_NC = checked(log_probabilities_NC, labels_N)
    confidence_N, predicted_N = log_NC.exp().max(dim=1)
    gap_N = confidence_N - (predicted_N == labels_N).double()
    edges = torch.linspace(0, 1, BINS + 1, dtype=torch.float64, device=log_NC.device)
    return _signed(gap_N, torch.bucketize(confidence_N, edges[1:-1]))


def adaptive_ece(log_probabilities_NC: Tensor, labels_N: Tensor) -> Tensor:
    """Rows (N,) as those of :func:`ece`, in 15 bins of equally many rows.

    K. Nguyen & B. O'Connor, Posterior Calibration and Exploratory Analysis for Natural Language
    Processing Models, EMNLP 2015.  Where nearly all rows are confident, equal bins hold them in one
    and miss what these tell apart.

    >>> adaptive_ece(torch.tensor([[0.8, 0.2], [0.9, 0.1]]).log(), torch.tensor([0, 1])).mean()
    tensor(0.5500, dtype=torch.float64)
    """
    log_NC = checked(log_probabilities_NC, labels_N)
    confidence_N, predicted_N = log_NC.exp().max(dim=1)
    gap_N = confidence_N - (predicted_N == labels_N).double()
    return _signed(gap_N, masses(confidence_N, BINS))


def subset_accuracy(log_odds_NL: Tensor, labels_NL: Tensor) -> Tensor:
    """1.0 where every label is right, those with a positive log-odds being predicted; (N,).

    >>> subset_accuracy(torch.tensor([[1.0, -1.0], [1.0, 1.0]]), torch.tensor([[1, 0], [1, 0]]))
    tensor([1., 0.], dtype=torch.float64)
    """
    log_odds_NL, there_NL = labelled(log_odds_NL, labels_NL)
    return ((log_odds_NL > 0) == there_NL).all(dim=1).double()


def hamming(log_odds_NL: Tensor, labels_NL: Tensor) -> Tensor:
    """The share of labels that are wrong; (N,).

    >>> hamming(torch.tensor([[1.0, -1.0], [1.0, 1.0]]), torch.tensor([[1, 0], [1, 0]]))
    tensor([0.0000, 0.5000], dtype=torch.float64)
    """
    log_odds_NL, there_NL = labelled(log_odds_NL, labels_NL)
    return ((log_odds_NL > 0) != there_NL).double().mean(dim=1)


def label_nll(log_odds_NL: Tensor, labels_NL: Tensor) -> Tensor:
    """Minus the log-probability of what each label is, in nats, the mean over labels; (N,).

    >>> label_nll(torch.tensor([[0.0, 800.0]]), torch.tensor([[1, 0]]))
    tensor([400.3466], dtype=torch.float64)
    """
    log_odds_NL, there_NL = labelled(log_odds_NL, labels_NL)
    return -F.logsigmoid(torch.where(there_NL, log_odds_NL, -log_odds_NL)).mean(dim=1)


def label_brier(log_odds_NL: Tensor, labels_NL: Tensor) -> Tensor:
    """Squared distance of each label's probability from 0 or 1, the mean over labels; (N,).

    >>> label_brier(torch.tensor([[0.0, 800.0]]), torch.tensor([[1, 0]]))
    tensor([0.6250], dtype=torch.float64)
    """
    log_odds_NL, there_NL = labelled(log_odds_NL, labels_NL)
    return (log_odds_NL.sigmoid() - there_NL.double()).square().mean(dim=1)


def squared_error(values_N: Tensor, targets_N: Tensor) -> Tensor:
    """(prediction - target)^2; (N,).

    >>> squared_error(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 4.0]))
    tensor([0., 4.], dtype=torch.float64)
    """
    return _rowwise(_difference(values_N, targets_N).square())


def absolute_error(values_N: Tensor, targets_N: Tensor) -> Tensor:
    """|prediction - target|; (N,).

    >>> absolute_error(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 4.0]))
    tensor([0., 2.], dtype=torch.float64)
    """
    return _rowwise(_difference(values_N, targets_N).abs())


def unexplained(values_N: Tensor, targets_N: Tensor) -> Tensor:
    """Squared error in units of the targets' variance; nan where all targets are equal; (N,).

    One minus its mean is R2.  A bootstrap of these rows holds the variance as it is.

    >>> unexplained(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 4.0]))
    tensor([0.0000, 1.7778], dtype=torch.float64)
    """
    error_N = _difference(values_N, targets_N).square()
    variance = targets_N.double().var(dim=0, correction=0)
    # Equal targets may leave a variance of rounding errors, so equality itself is asked.
    constant = (targets_N == targets_N[0]).all(dim=0)
    return _rowwise(torch.where(constant, torch.nan, error_N / variance))


def checked(log_probabilities_NC: Tensor, labels_N: Tensor) -> Tensor:
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


def labelled(log_odds_NL: Tensor, labels_NL: Tensor) -> tuple[Tensor, Tensor]:
    """The log-odds in float64 and the labels as truth values, once they can be scored."""
    if log_odds_NL.ndim != 2 or labels_NL.shape != log_odds_NL.shape:
        raise EnsembleError(
            "scores need log-odds (N, L) and labels (N, L), however: "
            f"{tuple(log_odds_NL.shape)} and {tuple(labels_NL.shape)}"
        )
    if labels_NL.numel() == 0:
        raise EmptyError("scores need at least one row, however: there is none")
    if bool((bad_N := ~((labels_NL == 0) | (labels_NL == 1)).all(dim=1)).any()):
        raise EnsembleError(f"labels are 0 or 1, however: not in row {int(bad_N.nonzero()[0])}")
    if bool((bad_N := log_odds_NL.isnan().any(dim=1)).any()):
        raise EnsembleError(f"log-odds are numbers, however: nan in row {int(bad_N.nonzero()[0])}")
    return log_odds_NL.double(), labels_NL == 1


def masses(confidence_N: Tensor, bins: int) -> Tensor:
    """The bin of each row, int64 (N,), when rows in order are cut into bins of equally many.

    Rows that are equal share the bin of the first of them.

    >>> masses(torch.tensor([0.9, 0.5, 0.7, 0.7]), 2)
    tensor([1, 0, 0, 0])
    """
    ordered_N = confidence_N.sort().values
    return torch.searchsorted(ordered_N, confidence_N) * bins // len(confidence_N)


def _signed(gap_N: Tensor, bin_N: Tensor) -> Tensor:
    """Give each gap the sign of the sum of its bin's."""
    total_B = gap_N.new_zeros(BINS).index_add_(0, bin_N, gap_N)
    return gap_N * total_B.sign()[bin_N]


def _rowwise(cells: Tensor) -> Tensor:
    """Average what there are of several targets, (N,) or (N, T), to one number per row."""
    return cells if cells.ndim == 1 else cells.mean(dim=1)


def _difference(values_N: Tensor, targets_N: Tensor) -> Tensor:
    """Prediction minus target in float64; unequal shapes are refused, never broadcast."""
    if values_N.ndim not in (1, 2) or values_N.shape != targets_N.shape:
        raise EnsembleError(
            "scores need values (N,) and targets (N,), or both (N, T), however: "
            f"{tuple(values_N.shape)} and {tuple(targets_N.shape)}"
        )
    if values_N.numel() == 0:
        raise EmptyError("scores need at least one row, however: there is none")
    return values_N.double() - targets_N.double()
