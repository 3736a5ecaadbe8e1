"""Which rows train, which choose and which judge: stratified, seeded, copies kept together."""

import numpy as np
import numpy.typing as npt
import pandas as pd

from zoo.errors import DataError, listed

IntArray = npt.NDArray[np.int64]
FEWEST_ROWS = 10
FEWEST_PER_CLASS = 3  # one for each part


def grouped(rows: pd.DataFrame) -> IntArray:
    """Number the distinct rows by first appearance: int64 (N,), equal where rows are equal.

    >>> grouped(pd.DataFrame({"x": [1.0, None, 1.0, None], "y": ["a", "b", "a", "c"]}))
    array([0, 1, 0, 2])
    """
    codes: IntArray = pd.factorize(pd.util.hash_pandas_object(rows, index=False))[0]
    return codes.astype(np.int64)


def split(
    groups: IntArray,
    labels: IntArray,
    val: float,
    test: float,
    seed: int,
    names: tuple[str, ...] = (),
) -> tuple[IntArray, IntArray, IntArray]:
    """Share out the distinct rows of every class in the proportions asked for.

    Every class comes into every part.  Copies of a row follow it.

    Args:
        groups: (N,) which distinct row each row is, from :func:`grouped`.
        labels: (N,) the class of each row, all equal where there are no classes.
        val: fraction of the distinct rows.
        test: fraction of the distinct rows.
        seed: decides the shuffle, alike on every machine.
        names: the classes, for errors.

    Returns:
        the rows of train, val and test, each in ascending order.

    Raises:
        DataError: there are too few rows, or too few of a class.

    >>> split(np.arange(10), np.array([0, 1] * 5), val=0.2, test=0.2, seed=0)[1:]
    (array([1, 8]), array([2, 9]))
    """
    distinct, first = np.unique(groups, return_index=True)
    if len(distinct) < FEWEST_ROWS:
        raise DataError(
            f"at least {FEWEST_ROWS} distinct rows with a target are needed to train, validate "
            f"and test, however {len(distinct)} differ in what can be learnt from; add rows"
        )
    label_of = labels[first]
    classes, counts = np.unique(label_of, return_counts=True)
    rare = classes[counts < FEWEST_PER_CLASS]
    if len(rare):
        told = listed([repr(names[label]) for label in rare])
        raise DataError(
            f"every class needs at least {FEWEST_PER_CLASS} distinct rows, one for each of train, "
            f"val and test, however {len(rare)} of {len(classes)} have fewer: {told}; "
            "merge them with others, drop their rows, or, for quantities, set data.task regression"
        )
    return deal(groups, labels, val, test, seed)


def deal(
    groups: IntArray, labels: IntArray, val: float, test: float, seed: int
) -> tuple[IntArray, IntArray, IntArray]:
    """Share out as :func:`split` does, where there are enough groups of every class: 3 or more.

    >>> deal(np.array([0, 0, 1, 2]), np.zeros(4, int), val=0.2, test=0.2, seed=0)
    (array([0, 1]), array([2]), array([3]))
    """
    part = _dealt(groups, labels, (test, val), seed)
    train, chosen, judged = (np.flatnonzero(part == side) for side in (-1, 1, 0))
    return train, chosen, judged


def taken(groups: IntArray, labels: IntArray, fraction: float, seed: int) -> npt.NDArray[np.bool_]:
    """Choose a fraction of the distinct rows of every class: bool (N,), alike for copies.

    At least one row of every class is chosen, and one is left, where a class has two.

    >>> taken(np.array([0, 0, 1, 2]), np.zeros(4, int), 0.3, seed=0)
    array([False, False, False,  True])
    """
    chosen: npt.NDArray[np.bool_] = _dealt(groups, labels, (fraction,), seed) == 0
    return chosen


def _dealt(
    groups: IntArray, labels: IntArray, fractions: tuple[float, ...], seed: int
) -> npt.NDArray[np.int64]:
    """Deal the distinct rows of every class to sides of given fractions, and one for the rest.

    Every side has a row of every class that is large enough.

    Returns:
        int64 (N,), the side of each row, -1 for the rest.
    """
    distinct, first = np.unique(groups, return_index=True)
    label_of = labels[first]
    classes, counts = np.unique(label_of, return_counts=True)
    # The legacy generator's stream is frozen for ever.
    shuffled = np.random.RandomState(seed).permutation(len(distinct))
    side = np.full(len(distinct), -1)
    dealt = np.zeros_like(counts)
    numbers = []
    for place, fraction in enumerate(fractions):
        left = counts - dealt - (len(fractions) - place)  # one for each side to come
        numbers.append(np.minimum(np.maximum(_shares(counts, fraction), 1), left))
        dealt = dealt + numbers[-1]
    for k, label in enumerate(classes):
        members = shuffled[label_of[shuffled] == label]
        for place, number in enumerate(numbers):
            side[members[: number[k]]] = place
            members = members[number[k] :]
    of_row: IntArray = side[np.searchsorted(distinct, groups)]
    return of_row


def _shares(counts: IntArray, fraction: float) -> IntArray:
    """Round ``counts * fraction`` so that the sum is right: the largest remainders round up.

    >>> _shares(np.array([5, 5, 2]), 0.25)
    array([1, 1, 1])
    """
    exact = counts * fraction
    shares = np.floor(exact + 1e-9).astype(np.int64)
    left = round(float(exact.sum())) - int(shares.sum())
    shares[np.argsort(shares - exact, kind="stable")[: max(left, 0)]] += 1
    return np.asarray(shares, dtype=np.int64)
