"""Rows of a member's own: a fold of several, or a bootstrap draw.

What may not be torn apart comes as one unit: the copies of a row, or all rows of a group.

B. Efron & R. Tibshirani, An Introduction to the Bootstrap, 1993; L. Breiman, Bagging Predictors,
Machine Learning 24, 1996.
"""

from collections.abc import Sequence

import numpy as np

from zoo.data.split import IntArray
from zoo.errors import DataError

DRAWS = 100  # how often a draw that cannot be learnt from is drawn again


def kfold(units: IntArray, strata: IntArray, folds: int, seed: Sequence[int]) -> IntArray:
    """Deal the units of every stratum to folds in turns.

    Args:
        units: (N,) which unit each row belongs to.
        strata: (N,) alike for all rows of a unit; every stratum is dealt evenly.
        folds: how many.
        seed: decides the shuffle, alike on every machine.

    Returns:
        int64 (N,), the fold of each row, from 0 to ``folds - 1``; each has a unit at least.

    Raises:
        DataError: there are fewer units than folds.

    >>> kfold(np.array([0, 0, 1, 2, 3]), np.zeros(5, int), folds=2, seed=[0])
    array([1, 1, 1, 0, 0])
    """
    distinct, first = np.unique(units, return_index=True)
    if len(distinct) < folds:
        raise DataError(
            f"data.folds must be at most the {len(distinct)} distinct rows or groups that are left "
            f"beside the test part, however it is {folds}"
        )
    shuffled = np.random.RandomState(seed).permutation(len(distinct))
    dealt = shuffled[np.argsort(strata[first][shuffled], kind="stable")]
    fold = np.empty(len(distinct), dtype=np.int64)
    fold[dealt] = np.arange(len(distinct)) % folds
    fold_of_row: IntArray = fold[np.searchsorted(distinct, units)]
    return fold_of_row


def bootstrap(
    units: IntArray, strata: IntArray, labels: IntArray, seed: Sequence[int]
) -> tuple[IntArray, IntArray]:
    """Draw as many units of every stratum as it has, with replacement.

    A draw without any unit out of bag, or without a row of some class, is drawn again.

    Args:
        units: (N,) which unit each row belongs to; its rows are drawn together.
        strata: (N,) alike for all rows of a unit.
        labels: (N,) the classes that must all be drawn, all equal where there are no classes.
        seed: decides the draw, alike on every machine.

    Returns:
        the rows drawn, ascending, one that is drawn twice there twice; and those out of bag.

    Raises:
        DataError: no draw will do.

    >>> bootstrap(np.array([0, 0, 1, 2]), np.zeros(4, int), np.zeros(4, int), seed=[1])
    (array([0, 1, 2, 2]), array([3]))
    """
    distinct, first, unit_of_row = np.unique(units, return_index=True, return_inverse=True)
    stratum_of = strata[first]
    bags = [np.flatnonzero(stratum_of == stratum) for stratum in np.unique(stratum_of)]
    for attempt in range(DRAWS):
        state = np.random.RandomState([*seed, attempt])
        drawn = [bag[state.randint(len(bag), size=len(bag))] for bag in bags]
        times = np.bincount(np.concatenate(drawn), minlength=len(distinct))[unit_of_row]
        rows = np.repeat(np.arange(len(units)), times)
        out = np.flatnonzero(times == 0)
        if len(out) and len(np.unique(labels[rows])) == len(np.unique(labels)):
            return rows, out
    raise DataError(
        f"a bootstrap draw needs rows of every class in the bag and rows out of it, however "
        f"{DRAWS} draws of {len(distinct)} distinct rows or groups had none; add rows"
    )
