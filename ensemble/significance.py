"""Is a difference real, when right and wrong are counted, and when several are asked about?

* McNemar's exact test compares two models by the rows on which one is right and the other wrong.
  If both are equally good, each such row is a toss of a coin:
  p = min(1, 2 P(X <= min(b, c))) with X ~ Binomial(b + c, 1/2).
  Q. McNemar, Note on the Sampling Error of the Difference between Correlated Proportions,
  Psychometrika 12, 1947.
* Holm's correction keeps the probability of any false claim among several below the level: the
  i-th smallest of m p-values is multiplied by m - i + 1, and none may be below a smaller one.
  S. Holm, A Simple Sequentially Rejective Multiple Test Procedure, Scand. J. Statist. 6, 1979.
"""

from collections.abc import Sequence

from torch import Tensor

from ensemble.errors import EmptyError, EnsembleError


def mcnemar(right_a_N: Tensor, right_b_N: Tensor) -> float:
    """Return the two-sided exact p-value that two models are right equally often.

    Args:
        right_a_N: (N,), 1 where the first model is right, else 0, of any real type.
        right_b_N: the same of the second, on the same rows.

    Raises:
        EnsembleError: where the rows differ in number, or hold something else.
        EmptyError: without rows.

    >>> import torch
    >>> ten_to_two = torch.tensor([1] * 10 + [0] * 2), torch.tensor([0] * 10 + [1] * 2)
    >>> round(mcnemar(*ten_to_two), 4)
    0.0386
    """
    from scipy.special import bdtr

    if right_a_N.ndim != 1 or right_a_N.shape != right_b_N.shape:
        raise EnsembleError(
            "McNemar's test needs two vectors of the same rows, however: "
            f"{tuple(right_a_N.shape)} and {tuple(right_b_N.shape)}"
        )
    if right_a_N.numel() == 0:
        raise EmptyError("McNemar's test needs at least one row, however: there is none")
    for rows_N in (right_a_N, right_b_N):
        if not bool(((rows_N == 0) | (rows_N == 1)).all()):
            raise EnsembleError("McNemar's test needs rows of 0 and 1, however: there are others")
    only_a = int(((right_a_N == 1) & (right_b_N == 0)).sum())
    only_b = int(((right_a_N == 0) & (right_b_N == 1)).sum())
    return min(1.0, 2 * float(bdtr(min(only_a, only_b), only_a + only_b, 0.5)))


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p-values for their number; nan stays nan, and is not counted.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    order = sorted((p, place) for place, p in enumerate(p_values) if p == p)
    corrected, most = list(p_values), 0.0
    for rank, (p, place) in enumerate(order):
        most = max(most, min(1.0, (len(order) - rank) * p))
        corrected[place] = most
    return corrected
