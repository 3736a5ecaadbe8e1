"""How different members are, and what their differences are worth.

Averaging pays as far as members err on different rows.  With the probabilities, or values, f_k of
member k, their mean f and the truth y, the squared error falls apart exactly:

    mean_k (f_k - y)^2  =  (f - y)^2  +  mean_k (f_k - f)^2
    error of a member      pooled error  ambiguity

A. Krogh & J. Vedelsby, Neural Network Ensembles, Cross Validation, and Active Learning, NIPS 1995.
Of probabilities the squared error is the Brier score.

A :class:`Tally` holds sums over rows, so that many rows are counted portion by portion.

Shapes: K member, N sample, C class, L label, T target, D any of the three.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812  # the name that PyTorch's documentation uses
from torch import Tensor


@dataclass(frozen=True)
class Tally:
    """Sums over some rows; those of several portions add up."""

    cells: int
    rows: int
    apart_KK: Tensor
    wrong_K: Tensor
    wrong_KK: Tensor
    error_K: Tensor
    ambiguity: Tensor

    def __add__(self, other: "Tally") -> "Tally":
        mine, theirs = vars(self), vars(other)
        return Tally(**{name: mine[name] + theirs[name] for name in mine})


@dataclass(frozen=True)
class Diversity:
    """How different members are on the same rows.

    Attributes:
        disagreement_KK: the share of rows (of labels) for which two members decide differently; of
            values the root of their mean squared difference.
        correlation_KK: of two members' errors, wrong or not, or of their residuals; nan where a
            member's are all the same.
        member_error: the members' mean squared error, of probabilities the Brier score.
        ambiguity: what of it the mean of all members removes.
    """

    disagreement_KK: Tensor
    correlation_KK: Tensor
    member_error: float
    ambiguity: float

    @property
    def disagreement(self) -> float:
        """The mean over pairs of members; nan of one."""
        return _mean_of_pairs(self.disagreement_KK)

    @property
    def correlation(self) -> float:
        """The mean over pairs of members where it is defined."""
        return _mean_of_pairs(self.correlation_KK)


def tally(outputs_K: Tensor, targets: Tensor, task: str) -> Tally:
    """Count what rows tell of members.

    Args:
        outputs_K: logits (K, N, C), log-odds (K, N, L), or values (K, N) or (K, N, T), the latter
            in units that can be compared.
        targets: labels (N,) or (N, L), or values.
        task: ``classification``, ``multilabel`` or ``regression``.
    """
    outputs_K = outputs_K.double()
    if task == "classification":
        guess_KND = outputs_K.softmax(dim=-1)
        truth_ND = F.one_hot(targets.long(), outputs_K.shape[-1]).double()
        choice_KN = outputs_K.argmax(dim=-1)
        decided_KR = F.one_hot(choice_KN, outputs_K.shape[-1]).double().flatten(1)
        wrong_KR, share, scale = (choice_KN != targets).double(), 0.5, 1.0
    elif task == "multilabel":
        guess_KND, truth_ND = outputs_K.sigmoid(), targets.double()
        decided_KR = (outputs_K > 0).double().flatten(1)
        wrong_KR = ((outputs_K > 0) != (targets > 0)).double().flatten(1)
        share, scale = 1.0, 1 / targets.shape[1]
    else:
        width = targets[0].numel()
        guess_KND = outputs_K.reshape(*outputs_K.shape[:2], width)
        truth_ND = targets.double().reshape(-1, width)
        decided_KR = (guess_KND - guess_KND.mean(dim=0)).flatten(1)
        wrong_KR, share, scale = (guess_KND - truth_ND).flatten(1), 1.0, 1 / width
    product_KK = decided_KR @ decided_KR.T
    square_K = product_KK.diagonal()
    spread_KND = guess_KND - guess_KND.mean(dim=0)
    return Tally(
        cells=wrong_KR.shape[1],
        rows=len(targets),
        apart_KK=share * (square_K[:, None] + square_K - 2 * product_KK).clamp(min=0),
        wrong_K=wrong_KR.sum(dim=1),
        wrong_KK=wrong_KR @ wrong_KR.T,
        error_K=scale * (guess_KND - truth_ND).square().sum(dim=(1, 2)),
        ambiguity=scale * spread_KND.square().sum(dim=(1, 2)).mean(),
    )


def diversity(counted: Tally, task: str) -> Diversity:
    """Say how different the members are whose rows were counted.

    >>> logits = torch.tensor([[[0.8, 0.2], [0.6, 0.4]], [[0.6, 0.4], [0.2, 0.8]]]).log()
    >>> told = diversity(tally(logits, torch.tensor([0, 0]), "classification"), "classification")
    >>> told.disagreement, round(told.member_error, 2), round(told.ambiguity, 2)
    (0.5, 0.5, 0.05)
    >>> told.correlation_KK
    tensor([[nan, nan],
            [nan, 1.]], dtype=torch.float64)
    """
    apart_KK = counted.apart_KK / counted.cells
    mean_K = counted.wrong_K / counted.cells
    covariance_KK = counted.wrong_KK / counted.cells - mean_K[:, None] * mean_K
    variance_K = covariance_KK.diagonal()
    # What is left by rounding is no variance.
    known_K = variance_K > 1e-12 * counted.wrong_KK.diagonal() / counted.cells
    deviation_K = variance_K.where(known_K, torch.nan).sqrt()
    correlation_KK = (covariance_KK / (deviation_K[:, None] * deviation_K)).clamp(-1, 1)
    return Diversity(
        disagreement_KK=apart_KK.sqrt() if task == "regression" else apart_KK,
        correlation_KK=correlation_KK,
        member_error=float(counted.error_K.mean() / counted.rows),
        ambiguity=float(counted.ambiguity / counted.rows),
    )


def _mean_of_pairs(cells_KK: Tensor) -> float:
    first, second = torch.triu_indices(len(cells_KK), len(cells_KK), offset=1)
    return float(cells_KK[first, second].nanmean())
