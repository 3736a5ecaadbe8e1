"""Do probabilities mean what they say?  How often the answer given with confidence c is right.

Rows are sorted by confidence and cut into bins of equally many, so that no bin is nearly empty
("adaptive" bins: K. Nguyen & B. O'Connor, Posterior Calibration and Exploratory Analysis for
Natural Language Processing Models, EMNLP 2015).  The interval of a bin's accuracy is Wilson's
(E. B. Wilson, Probable Inference, 1927), which stays within 0 and 1.

Shapes: N sample, C class, L label.
"""

import math
from dataclasses import dataclass

from torch import Tensor

from ensemble.scores import checked, labelled, masses

BINS = 10
Z = 1.959964  # standard deviations of a normal variable about its mean that hold 95 %


@dataclass(frozen=True)
class Bin:
    """Rows of similar confidence.

    Attributes:
        confidence: the mean probability of their predicted class, or of the label.
        accuracy: the share of them that are right, or that have the label.
        low: of its 95 % interval.
        high: of its 95 % interval.
        count: how many there are.
    """

    confidence: float
    accuracy: float
    low: float
    high: float
    count: int


def calibration_curve(predictions: Tensor, targets: Tensor, bins: int = BINS) -> list[Bin]:
    """Return bins of equally many rows, in the order of confidence.

    Rows of equal confidence share a bin, so that there may be fewer bins.

    Args:
        predictions: log-probabilities (N, C) of classes, or log-odds (N, L) of labels, each of
            which then counts as a row.
        targets: labels (N,) or (N, L).
        bins: how many at most.

    >>> import torch
    >>> log = torch.tensor([[0.6, 0.4], [0.6, 0.4], [0.9, 0.1], [0.9, 0.1]]).log()
    >>> for bin in calibration_curve(log, torch.tensor([0, 1, 0, 0]), bins=2):
    ...     print(f"{bin.confidence:.1f} {bin.accuracy:.1f} [{bin.low:.2f}, {bin.high:.2f}]")
    0.6 0.5 [0.09, 0.91]
    0.9 1.0 [0.34, 1.00]
    """
    if targets.ndim == 1:
        confidence_N, predicted_N = checked(predictions, targets).exp().max(dim=1)
        right_N = predicted_N == targets
    else:
        log_odds_NL, there_NL = labelled(predictions, targets)
        confidence_N, right_N = log_odds_NL.sigmoid().flatten(), there_NL.flatten()
    bin_N = masses(confidence_N, bins)
    told = []
    for number in sorted(set(bin_N.tolist())):
        here_N = bin_N == number
        count, accuracy = int(here_N.sum()), float(right_N[here_N].double().mean())
        low, high = _wilson(accuracy, count)
        told.append(Bin(float(confidence_N[here_N].mean()), accuracy, low, high, count))
    return told


def _wilson(share: float, count: int) -> tuple[float, float]:
    spread = Z * math.sqrt(share * (1 - share) / count + Z**2 / (4 * count**2))
    low, high = (share + Z**2 / (2 * count) + side * spread for side in (-1, 1))
    scale = 1 + Z**2 / count
    return max(0.0, low / scale), min(1.0, high / scale)
