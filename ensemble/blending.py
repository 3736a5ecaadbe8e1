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
    from scipy.optimize import minimize

    check_finite(outputs_K)
    members = len(outputs_K)
    if task == "regression":
        scale = labels.double().std(dim=0, correction=0)
        scale = torch.where(scale > 0, scale, 1.0)
        gap_KM = ((outputs_K.double() - labels) / scale).flatten(1)
        products_KK = gap_KM @ gap_KM.T / gap_KM.shape[1]  # the weights sum to one

        def loss(weights: Tensor) -> tuple[Tensor, Tensor]:
            slope_K = products_KK @ weights
            return weights @ slope_K, 2 * slope_K

    else:
        log_KM = _log_likelihood(outputs_K.double(), labels, task)
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
    kept = [float(weight) if weight > NEGLIGIBLE else 0.0 for weight in found.x]
    return {"weights": [weight / sum(kept) for weight in kept]}


def _log_likelihood(outputs_K: Tensor, labels: Tensor, task: str) -> Tensor:
    """Return the log-probability (K, M) that each member gives to what is true."""
    if task == "multilabel":
        signed_K = torch.where(labels == 1, outputs_K, -outputs_K)
        return torch.nn.functional.logsigmoid(signed_K).flatten(1)
    rows_N = torch.arange(len(labels))
    return outputs_K.log_softmax(dim=-1)[:, rows_N, labels]
