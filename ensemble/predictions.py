"""Pool what several models predict for the same rows into one prediction.

A function here takes the stacked outputs of K members and returns those of one model:

===============  ==============================  ==================================
task             members                         pooled
===============  ==============================  ==================================
classification   ``logits_KNC``                  log-probabilities ``(N, C)``
regression       ``values_KN``                   values ``(N,)``
===============  ==============================  ==================================

The name of the first parameter says which of them a method pools; ``outputs_K`` is either, told
apart by its number of axes.  :func:`tasks` reads it.  Rows with several labels or several values
are pooled by :func:`pooled`, each label as a choice of two classes, each value by itself.

Everything stays in log-space: the mean of probabilities is ``logsumexp(log p_k) - log K``, so a
label to which all members give 1e-60 still has a finite NLL in float32.  Halves are pooled in
float32.  One member comes back exactly as ``log_softmax`` of its logits, or as its values; only
:func:`vote` replaces it, by its decision.

Methods that look at targets first, to choose or to weigh members or to stack a model on them, are
in :mod:`ensemble.selection`, :mod:`ensemble.blending` and :mod:`ensemble.metalearner`.

Every function raises :class:`EmptyError` without members or rows, :class:`NonFiniteError` naming
the member that predicts NaN or infinity, and :class:`EnsembleError` for other shapes or integers.

Shapes: K member, N sample, C class, L label, T target.
"""

import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ensemble.catalogue import method
from ensemble.errors import EmptyError, EnsembleError, NonFiniteError, listing
from ensemble.shares import normalised, trimmed

TASKS = {
    "logits_KNC": ("classification", "multilabel"),
    "values_KN": ("regression",),
    "outputs_K": ("classification", "multilabel", "regression"),
}
AXES = {2: "values (K, N)", 3: "logits (K, N, C)"}
TIE = 1e-6  # what the mean probability weighs against the shares of votes
PORTION = 1 << 24  # numbers that are pooled at a time
REMEDY = "; leave it out, or train it anew with a smaller optim.lr"


def tasks(pool: Callable[..., Tensor]) -> tuple[str, ...]:
    """Tell the tasks whose members a function can pool.

    >>> tasks(mean), tasks(vote)
    (('classification', 'multilabel', 'regression'), ('classification', 'multilabel'))
    """
    return TASKS[next(iter(inspect.signature(pool).parameters))]


def pooled(pool: Callable[..., Tensor], outputs_K: Tensor, task: str, **arguments: Any) -> Tensor:
    """Pool members whose rows may have several labels or several values, some rows at a time.

    Args:
        pool: a function of this module; or one that takes ``task`` and all axes as they are.
        outputs_K: logits (K, N, C) of classes; log-odds (K, N, L) of labels; values (K, N) or
            (K, N, T).
        task: ``classification``, ``multilabel`` or ``regression``.
        arguments: of the function.

    Returns:
        log-probabilities (N, C), log-odds (N, L), or values (N,) or (N, T).

    >>> two = torch.tensor([[[0.9, 0.2]], [[0.5, 0.4]]]).logit()
    >>> pooled(mean, two, "multilabel").sigmoid()
    tensor([[0.7000, 0.3000]])
    >>> pooled(median, torch.tensor([[[1.0, 5.0]], [[3.0, 9.0]]]), "regression")
    tensor([[2., 7.]])
    """
    rows = max(1, PORTION // max(1, outputs_K[:, :1].numel()))
    if not torch.compiler.is_exporting() and outputs_K.shape[1] > rows:
        check_finite(outputs_K)  # here, where rows still have their numbers
        parts = torch.split(outputs_K, rows, dim=1)
        return torch.cat([pooled(pool, part, task, **arguments) for part in parts])
    if "task" in inspect.signature(pool).parameters:
        return pool(outputs_K, task=task, **arguments)
    if task == "classification" or outputs_K.ndim != 3:
        return pool(outputs_K, **arguments)
    flat_KR, shape = outputs_K.flatten(1), outputs_K.shape[1:]
    if task == "regression":
        return pool(flat_KR, **arguments).view(shape)
    log_R2 = pool(torch.stack([torch.zeros_like(flat_KR), flat_KR], dim=-1), **arguments)
    return (log_R2[:, 1] - log_R2[:, 0]).view(shape)


@method("mean", mode="predictions", paper="Lakshminarayanan et al. 2017, arXiv:1612.01474")
def mean(outputs_K: Tensor) -> Tensor:
    """Average the probabilities (K, N, C), or the values (K, N).

    B. Lakshminarayanan, A. Pritzel & C. Blundell, Simple and Scalable Predictive Uncertainty
    Estimation using Deep Ensembles, NeurIPS 2017.  Its NLL is at most the members' mean NLL.

    >>> mean(torch.tensor([[[0.9, 0.1]], [[0.3, 0.7]]]).log()).exp()
    tensor([[0.6000, 0.4000]])
    >>> mean(torch.tensor([[1.0, 2.0], [3.0, 5.0]]))
    tensor([2.0000, 3.5000])
    """
    outputs_K = _checked(outputs_K, 2, 3)
    if outputs_K.ndim == 2:
        return outputs_K.mean(dim=0)
    return outputs_K.log_softmax(dim=-1).logsumexp(dim=0) - math.log(outputs_K.shape[0])


@method("weighted", mode="predictions", paper="Stone 1961, Ann. Math. Statist. 32(4)")
def weighted(outputs_K: Tensor, weights: Sequence[float] | Tensor) -> Tensor:
    """Average probabilities or values, each member with a weight of its own.

    The K weights are finite, nonnegative and not all zero, or :class:`OptionError` is raised; they
    are divided by their sum.  M. Stone, The Opinion Pool, 1961 ("linear opinion pool").

    >>> weighted(torch.tensor([[1.0, 2.0], [3.0, 5.0]]), [3, 1])
    tensor([1.5000, 2.7500])
    """
    outputs_K = _checked(outputs_K, 2, 3)
    shares = normalised(weights, outputs_K.shape[0])
    weights_K = torch.tensor(shares, dtype=outputs_K.dtype, device=outputs_K.device)
    if outputs_K.ndim == 2:
        return weights_K @ outputs_K
    return (outputs_K.log_softmax(dim=-1) + weights_K.log()[:, None, None]).logsumexp(dim=0)


@method("geometric", mode="predictions", paper="Genest & Zidek 1986, Statist. Sci. 1(1)")
def geometric(logits_KNC: Tensor) -> Tensor:
    """Average the logits (K, N, C): the geometric mean of probabilities.

    C. Genest & J. V. Zidek, Combining Probability Distributions: A Critique and an Annotated
    Bibliography, 1986 ("logarithmic opinion pool").

    >>> geometric(torch.tensor([[[0.9, 0.1]], [[0.5, 0.5]]]).log()).exp()
    tensor([[0.7500, 0.2500]])
    """
    return _checked(logits_KNC, 3).mean(dim=0).log_softmax(dim=-1)


@method("vote", mode="predictions", paper="Hansen & Salamon 1990, IEEE TPAMI 12(10)")
def vote(logits_KNC: Tensor) -> Tensor:
    """Count the share of members that decide for each class (K, N, C); float64.

    A member decides for its most probable class, the first of several.  A millionth of the mean
    probability is added to the shares.  It breaks ties, and leaves the NLL of a class without
    votes finite, though large: a share of votes is no good estimate of a probability.

    L. K. Hansen & P. Salamon, Neural Network Ensembles, 1990.

    >>> one, two = [0.6, 0.4], [0.1, 0.9]
    >>> vote(torch.tensor([[one, one], [one, two], [two, two]]).log()).exp()
    tensor([[0.6667, 0.3333],
            [0.3333, 0.6667]], dtype=torch.float64)
    >>> vote(torch.tensor([[one], [two]]).log()).argmax(dim=1)
    tensor([1])
    """
    logits_KNC = _checked(logits_KNC, 3)
    members = logits_KNC.shape[0]
    tie_NC = mean(logits_KNC).double() + math.log(TIE)
    decided_NK = logits_KNC.argmax(dim=-1).T
    vote_NK = torch.full_like(decided_NK, 1 / members, dtype=torch.float64)
    shares_NC = torch.zeros_like(tie_NC).scatter_add_(1, decided_NK, vote_NK)
    return torch.stack([shares_NC.log(), tie_NC]).logsumexp(dim=0) - math.log1p(TIE)


@method("median", mode="predictions", paper="Tukey 1977, Exploratory Data Analysis")
def median(outputs_K: Tensor) -> Tensor:
    """Take the median of the probabilities (K, N, C), or of the values (K, N).

    Of an even number of members it is the mean of the middle two.  Probabilities are taken class by
    class, and divided by their sum.  It ignores how far off up to half of the members are.

    >>> median(torch.tensor([[1.0], [2.0], [90.0]])), median(torch.tensor([[1.0], [2.0]]))
    (tensor([2.]), tensor([1.5000]))
    >>> median(torch.tensor([[[0.8, 0.2]], [[0.6, 0.4]], [[0.1, 0.9]]]).log()).exp()
    tensor([[0.6000, 0.4000]])
    """
    return _middle(outputs_K, lambda members: (members - 1) // 2)


@method("trimmed-mean", mode="predictions", paper="Jose & Winkler 2008, Int. J. Forecasting 24(1)")
def trimmed_mean(outputs_K: Tensor, *, trim: float = 0.2) -> Tensor:
    """Average the probabilities (K, N, C) or the values (K, N) without the smallest and largest.

    ``trim`` is the share of members, below 0.5, that is left out at either end, rounded down:
    without effect among fewer than 1 / ``trim``.  Probabilities are taken class by class, and
    divided by their sum.  V. R. R. Jose & R. L. Winkler, Simple Robust Averages of Forecasts, 2008.

    >>> trimmed_mean(torch.tensor([[1.0], [2.0], [4.0], [900.0]]), trim=0.25)
    tensor([3.])
    """
    return _middle(outputs_K, lambda members: trimmed(trim, members))


def _middle(outputs_K: Tensor, cut: Callable[[int], int]) -> Tensor:
    """Average the sorted members but for some at either end."""
    outputs_K = _checked(outputs_K, 2, 3)
    members = outputs_K.shape[0]
    kept = slice(cut(members), members - cut(members))
    if outputs_K.ndim == 2:
        return outputs_K.sort(dim=0).values[kept].mean(dim=0)
    log_KNC = outputs_K.log_softmax(dim=-1)
    if members == 1:
        return log_KNC[0]
    return log_KNC.sort(dim=0).values[kept].logsumexp(dim=0).log_softmax(dim=-1)


def check_finite(
    outputs_K: Tensor, names: Sequence[str] = (), row: str = "row", first: int = 0
) -> None:
    """Refuse predictions that are not finite.

    Args:
        outputs_K: what members predict, (K, N) and more axes.
        names: of the members, by default their numbers.
        row: what a row is called.
        first: the number of the first one.

    Raises:
        NonFiniteError: naming the members and how many of their rows are not finite.

    >>> check_finite(torch.tensor([[1.0, 2.0], [3.0, torch.nan]]))
    Traceback (most recent call last):
    ensemble.errors.NonFiniteError: predictions must be finite numbers, however, they are not: \
member #1 in 1 of 2 rows, first in row 1
    """
    if torch.compiler.is_exporting() or bool(outputs_K.isfinite().all()):
        return  # a graph has no way to refuse
    bad = []
    for member, outputs_N in enumerate(outputs_K):
        finite_N = outputs_N.isfinite().reshape(len(outputs_N), -1).all(dim=-1)
        if not bool(finite_N.all()):
            bad.append(
                f"member {names[member] if names else f'#{member}'} in {int((~finite_N).sum())} of "
                f"{len(finite_N)} rows, first in {row} {first + int(finite_N.int().argmin())}"
            )
    raise NonFiniteError(
        f"predictions must be finite numbers, however, they are not: {listing(bad)}"
        f"{REMEDY if names else ''}"
    )


def _checked(outputs_K: Tensor, *axes: int) -> Tensor:
    """The outputs, in float32 or float64, once they can be pooled."""
    if outputs_K.ndim not in axes or not outputs_K.is_floating_point():
        raise EnsembleError(
            f"this method pools {' or '.join(AXES[count] for count in axes)} of a float dtype, "
            f"however: {tuple(outputs_K.shape)} of {outputs_K.dtype}"
        )
    if outputs_K.numel() == 0:
        raise EmptyError(
            f"pooling needs members, rows and classes, however: {tuple(outputs_K.shape)}"
        )
    check_finite(outputs_K)
    return outputs_K.to(torch.promote_types(outputs_K.dtype, torch.float32))
