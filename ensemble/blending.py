"""The weights that pool best, found by convex optimisation.

Shapes: K member, N sample, C class, L label, T target, M all cells of the rows.
"""

import torch
from torch import Tensor

from ensemble.catalogue import method
from ensemble.errors import EnsembleError
from ensemble.predictions import check_finite, weighted

FLOOR = 1e-12  # of a member's likelihood, as a share of the best member's
NEGLIGIBLE = 1e-5  # a weight below is 0
AT_REST = 8  # what scipy answers where rounding leaves no lower point to go to


@method(
    "convex", mode="predictions", paper="Breiman 1996, Machine Learning 24(1)", applies=weighted
)
def convex_weights(outputs_K: Tensor, labels: Tensor, task: str) -> dict[str, list[float]]:
    """Weigh members so that the loss of the pooled validation predictions is lowest.

    The mean NLL of ``sum w_k p_k`` and the mean squared error of ``sum w_k v_k`` are convex in the
    weights, which are nonnegative and sum to one: there is one minimum.  L. Breiman, Stacked
    Regressions, 1996, found nonnegative weights to generalise best.  The squared errors of several
    targets are added up in units of their variance.

    Args:
        outputs_K: logits (K, N, C) of classes; log-odds (K, N, L) of labels; values (K, N) or
            (K, N, T), for validation rows.
        labels: int64 classes (N,), labels (N, L) of 0 and 1, or values (N,) or (N, T).
        task: ``classification``, ``multilabel`` or ``regression``.

    Returns:
        ``weights``: K numbers that sum to one; those below 1e-5 are 0.

    Raises:
        NonFiniteError: a member predicts NaN or infinity.
        EnsembleError: no minimum is found.

    >>> values_KN = torch.tensor([[1.0, 5.0], [3.0, 1.0], [9.0, 9.0]])
    >>> found = convex_weights(values_KN, torch.tensor([1.5, 4.0]), "regression")
    >>> [round(weight, 3) for weight in found["weights"]]
    [0.75, 0.25, 0.0]
    """
    check_finite(outputs_K)
    if task == "regression":
        scale = labels.double().std(dim=0, correction=0)
        scale = torch.where(scale > 0, scale, 1.0)
        found = _of_least_squares(((outputs_K.double() - labels) / scale).flatten(1))
    else:
        found = _of_likelihood(_log_likelihood(outputs_K.double(), labels, task))
    kept = [weight if weight > NEGLIGIBLE else 0.0 for weight in found]
    return {"weights": [weight / sum(kept) for weight in kept]}


def _of_least_squares(gap_KM: Tensor) -> list[float]:
    """Return the weights whose mean of the members' errors has the least square.

    Whatever the sum t of weights, ``|sum w_k gap_k|^2 + (t - 1)^2`` is lowest where their shares
    w / t are those asked for.  That is a problem of nonnegative least squares, which is solved
    exactly, however far off a member is (C. L. Lawson & R. J. Hanson, Solving Least Squares
    Problems, 1974, chapter 23).
    """
    from scipy.optimize import nnls

    members, cells = gap_KM.shape
    rows_KM = torch.cat([gap_KM / cells**0.5, gap_KM.new_ones(members, 1)], dim=1)
    length_K = rows_KM.norm(dim=1)
    wanted_1M = torch.eye(1, cells + 1, dtype=torch.float64).flip(1)
    system_M = torch.cat([rows_KM / length_K[:, None], wanted_1M]).T
    small = torch.linalg.qr(system_M, mode="r").R.numpy()  # the same lengths in K + 1 rows
    scaled_K, _ = nnls(small[:, :-1], small[:, -1])
    weights_K = torch.from_numpy(scaled_K) / length_K
    weights_K /= weights_K.sum()
    kept_K = weights_K > NEGLIGIBLE
    if bool(weights_K[~kept_K].any()):  # the others' weights have made up for what is left out
        weights_K[~kept_K] = 0
        weights_K[kept_K] = gap_KM.new_tensor(_of_least_squares(gap_KM[kept_K]))
    shares: list[float] = weights_K.tolist()
    return shares


def _of_likelihood(log_KM: Tensor) -> list[float]:
    """Return the weights whose mean of the members' likelihoods has the greatest mean logarithm."""
    from scipy.optimize import minimize

    members = len(log_KM)
    ratio_KM = (log_KM - log_KM.max(dim=0).values).exp().clamp_min(FLOOR)

    def loss(weights: Tensor) -> tuple[Tensor, Tensor]:
        pooled_M = weights @ ratio_KM
        return -pooled_M.log().mean(), -(ratio_KM / pooled_M).mean(dim=1)

    found = minimize(
        lambda w: tuple(part.numpy() for part in loss(torch.from_numpy(w).clamp_min(0))),
        [1 / members] * members,
        jac=True,
        method="SLSQP",
        bounds=[(0, 1)] * members,
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1, "jac": lambda w: w * 0 + 1},
        options={"ftol": 1e-10, "maxiter": 1000},
    )
    if found.status not in (0, AT_REST):
        raise EnsembleError(f"weights must have a minimum of the loss, however: {found.message}")
    weights: list[float] = found.x.tolist()
    return weights


def _log_likelihood(outputs_K: Tensor, labels: Tensor, task: str) -> Tensor:
    """Return the log-probability (K, M) that each member gives to what is true."""
    if task == "multilabel":
        signed_K = torch.where(labels == 1, outputs_K, -outputs_K)
        return torch.nn.functional.logsigmoid(signed_K).flatten(1)
    rows_N = torch.arange(len(labels))
    return outputs_K.log_softmax(dim=-1)[:, rows_N, labels]
