"""A small model on top of the members, which learns from validation rows how to read them.

D. H. Wolpert, Stacked Generalization, Neural Networks 5, 1992.  Its inputs are the probabilities
that the members give (K. M. Ting & I. H. Witten, Issues in Stacked Generalization, JAIR 10, 1999),
or their values; what it learnt are plain numbers.

Shapes: K member, G learner (one member, or several that count as one), N sample, C class, L label,
T target.
"""

from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from ensemble.catalogue import method
from ensemble.errors import EnsembleError, OptionError
from ensemble.expectations import expectation
from ensemble.predictions import check_finite

ROUNDS = 10_000  # of the solver, at most
Fitted: TypeAlias = tuple[Tensor, Tensor]  # coefficients and intercepts
Fit: TypeAlias = Callable[[Tensor, Tensor, float], Fitted]


def stacked(
    outputs_K: Tensor,
    task: str,
    coefficients: Sequence[object],
    intercepts: Sequence[float] | float,
    learners: Sequence[int] | None = None,
) -> Tensor:
    """Pool by a fitted model: ``intercept + sum_g coefficient_g expectation_g``.

    Args:
        outputs_K: logits (K, N, C) of classes; log-odds (K, N, L) of labels; values (K, N) or
            (K, N, T).
        task: ``classification``, ``multilabel`` or ``regression``.
        coefficients: (G, C, C), from the probability of each class to the logit of each; of labels
            and targets (G, L) or (G, T), each for its own; of one quantity (G,).
        intercepts: (C,), (L,) or (T,); of one quantity a number.
        learners: K numbers from 0 to G - 1: which learner each member is of; the mean of its
            members' expectations is read.  By default each member is one.

    Returns:
        log-probabilities (N, C), log-odds (N, L), or values (N,) or (N, T); NaN where a learner
        has no member.

    Raises:
        NonFiniteError: a member predicts NaN or infinity.

    >>> values_KN = torch.tensor([[1.0, 2.0], [3.0, 5.0]])
    >>> stacked(values_KN, "regression", coefficients=[1.0, 0.5], intercepts=0.5)
    tensor([3., 5.], dtype=torch.float64)
    """
    check_finite(outputs_K)
    coefficients_G = torch.tensor(coefficients, dtype=torch.float64)
    intercept = torch.tensor(intercepts, dtype=torch.float64)
    expected_G = expectation(outputs_K, task).double()
    if learners is not None:
        of_K = torch.tensor(learners)
        groups = [expected_G[of_K == g].mean(dim=0) for g in range(len(coefficients_G))]
        expected_G = torch.stack(groups)
    if task == "classification":
        logits_NC = torch.einsum("gnd,gdc->nc", expected_G, coefficients_G) + intercept
        return logits_NC.log_softmax(dim=-1)
    axes = "gn,g->n" if expected_G.ndim == 2 else "gnt,gt->nt"
    return torch.einsum(axes, expected_G, coefficients_G) + intercept


@method("stacking", mode="predictions", paper="Wolpert 1992, Neural Networks 5(2)", applies=stacked)
def stacking(
    outputs_K: Tensor, labels: Tensor, task: str, *, penalty: float = 1.0
) -> dict[str, list[object] | float]:
    """Fit logistic or ridge regression on what the members predict for rows they did not learn.

    The loss is scikit-learn's: the sum of the NLL or of the squared errors, these in units of the
    targets' variance, plus ``penalty`` times the squared coefficients (half of them for NLL).  Each
    label and each target has a regression of its own on the members' word on it.

    Args:
        outputs_K: logits (K, N, C) of classes; log-odds (K, N, L) of labels; values (K, N) or
            (K, N, T), for validation rows.
        labels: int64 classes (N,), labels (N, L) of 0 and 1, or values (N,) or (N, T).
        task: ``classification``, ``multilabel`` or ``regression``.
        penalty: against large coefficients.

    Returns:
        ``coefficients`` and ``intercepts`` of :func:`stacked`, as lists.

    Raises:
        OptionError: a penalty that is not positive.
        EnsembleError: a class or label that no row has, or a label that all have.
        NonFiniteError: a member predicts NaN or infinity.

    >>> values_KN = torch.tensor([[1.0, 2.0, 3.0, 4.0], [1.0, 0.0, 0.0, 1.0]])
    >>> truth_N = 2 * values_KN[0] + 5
    >>> found = stacking(values_KN, truth_N, "regression", penalty=1e-6)
    >>> stacked(values_KN, "regression", **found).round(decimals=3)
    tensor([ 7.,  9., 11., 13.], dtype=torch.float64)
    """
    if not penalty > 0:
        raise OptionError(f"penalty must be above 0, however it is {penalty}")
    check_finite(outputs_K)
    expected_K = expectation(outputs_K, task).double()
    if task == "classification":
        coefficients, intercepts = _classes(expected_K, labels, penalty)
    elif task == "multilabel":
        coefficients, intercepts = _columns(expected_K, labels, penalty, _label)
    elif expected_K.ndim == 2:
        coefficients, intercepts = _quantity(expected_K, labels, penalty)
    else:
        coefficients, intercepts = _columns(expected_K, labels, penalty, _quantity)
    return {"coefficients": coefficients.tolist(), "intercepts": intercepts.tolist()}


def _classes(expected_KNC: Tensor, labels_N: Tensor, penalty: float) -> Fitted:
    members, rows, classes = expected_KNC.shape
    absent = [c for c, count in enumerate(labels_N.bincount(minlength=classes)) if not count]
    if absent:
        raise EnsembleError(
            f"stacking learns from rows of every class, however none is of class #{absent[0]}; "
            "another split, or another method, is needed"
        )
    from sklearn.linear_model import LogisticRegression

    features_NF = expected_KNC.transpose(0, 1).reshape(rows, members * classes)
    solver = LogisticRegression(C=1 / penalty, max_iter=ROUNDS)
    solver.fit(features_NF.numpy(), labels_N.numpy())
    weights_CF, intercept_C = torch.from_numpy(solver.coef_), torch.from_numpy(solver.intercept_)
    if classes == 2:  # of which scikit-learn tells the second one's log-odds
        weights_CF = torch.cat([torch.zeros_like(weights_CF), weights_CF])
        intercept_C = torch.cat([torch.zeros_like(intercept_C), intercept_C])
    return weights_CF.T.reshape(members, classes, classes), intercept_C


def _label(expected_KN: Tensor, labels_N: Tensor, penalty: float) -> Fitted:
    if bool((labels_N == labels_N[0]).all()):
        raise EnsembleError(
            "stacking learns from rows with and without every label, however all are alike in one; "
            "another split, or another method, is needed"
        )
    from sklearn.linear_model import LogisticRegression

    solver = LogisticRegression(C=1 / penalty, max_iter=ROUNDS)
    solver.fit(expected_KN.T.numpy(), labels_N.numpy())
    return torch.from_numpy(solver.coef_[0]), torch.tensor(solver.intercept_[0])


def _quantity(values_KN: Tensor, targets_N: Tensor, penalty: float) -> Fitted:
    from sklearn.linear_model import Ridge

    targets_N = targets_N.double()
    centre, spread = targets_N.mean(), targets_N.std(correction=0)
    spread = torch.where(spread > 0, spread, 1.0)
    solver = Ridge(alpha=penalty)
    solver.fit(((values_KN.T - centre) / spread).numpy(), ((targets_N - centre) / spread).numpy())
    weights_K = torch.from_numpy(solver.coef_)
    return weights_K, centre * (1 - weights_K.sum()) + spread * float(solver.intercept_)


def _columns(expected_K: Tensor, labels: Tensor, penalty: float, fit: Fit) -> Fitted:
    """Fit each label or target by itself."""
    columns = zip(expected_K.unbind(-1), labels.unbind(-1), strict=True)
    weights, intercepts = zip(*(fit(*column, penalty) for column in columns), strict=True)
    return torch.stack(weights, dim=-1), torch.stack(intercepts)
