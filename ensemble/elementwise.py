"""Averages that treat every element alike, computed piece by piece on plain arrays.

Sums run in float64 whatever the members are, so the result is the average of what they hold,
rounded once.  The memory is that of one piece per worker, and is used again for the next.
"""

from collections.abc import Iterator, Sequence
from functools import cached_property

import numpy as np

from ensemble.dtypes import Array
from ensemble.sorting import network

PIECE = 1 << 17  # elements: what one worker handles, near its core


class Space:
    """The memory of one worker: bytes as they are read, and numbers to compute with."""

    @cached_property
    def raw(self) -> Array:
        """Bytes of a piece of one member."""
        return np.empty(8 * PIECE, np.uint8)

    @cached_property
    def total(self) -> Array:
        """A sum."""
        return np.empty(PIECE)

    @cached_property
    def term(self) -> Array:
        """What is added to it."""
        return np.empty(PIECE)

    @cached_property
    def rows(self) -> list[Array]:
        """Pieces of members that are needed all at once."""
        return []


def mean(parts: Iterator[Array], weights: Sequence[float], space: Space) -> Array:
    """Return Σ wᵢ θᵢ in float64, for weights that sum to one.

    Equal members come back as they are, and no element leaves the range of its members'.  NaN and
    infinity in a member make the result not finite, even at weight zero.

    >>> mean((np.array(x, np.float32) for x in ([0, 2], [4, 2])), [0.5, 0.5], Space())
    array([2., 2.])
    """
    first = next(parts)
    total, term = space.total[: len(first)], space.term[: len(first)]
    if first.dtype == np.float64:
        return _clamped(first, parts, weights, total)
    if len(set(weights)) == 1:  # summed before it is divided: mostly without any rounding
        total[:] = first
        for part in parts:
            total += part
        total /= len(weights)
        return total
    np.multiply(first, weights[0], out=total, dtype=np.float64)
    for part, weight in zip(parts, weights[1:], strict=True):
        np.multiply(part, weight, out=term, dtype=np.float64)
        total += term
    return total


def _clamped(first: Array, parts: Iterator[Array], weights: Sequence[float], total: Array) -> Array:
    """Average float64 itself, where no rounding to fewer bits absorbs that of the sum."""
    low, high = first.copy(), first.copy()
    np.multiply(first, weights[0], out=total)
    for part, weight in zip(parts, weights[1:], strict=True):
        np.minimum(low, part, out=low)
        np.maximum(high, part, out=high)
        total += weight * part
    np.clip(total, low, high, out=total)
    return total


def median(parts: Iterator[Array], space: Space) -> Array:
    """Return the median of each element in float64; of an even number, the mean of the middle two.

    NaN and infinity in a member make the result not finite.

    >>> median((np.array([x], np.float32) for x in (1, 9, 2, 4)), Space())
    array([3.])
    """
    rows = []
    for k, part in enumerate(parts):
        if k == len(space.rows) or space.rows[k].dtype != part.dtype:
            space.rows[k:] = [np.empty(PIECE, part.dtype)]
        rows.append(space.rows[k][: len(part)])
        rows[k][:] = part
    spare = space.term.view(rows[0].dtype)[: len(rows[0])]
    for i, j in network(len(rows)):
        np.minimum(rows[i], rows[j], out=spare)
        np.maximum(rows[i], rows[j], out=rows[j])
        rows[i], spare = spare, rows[i]
    low, high = rows[(len(rows) - 1) // 2], rows[len(rows) // 2]
    total = space.total[: len(low)]
    np.multiply(low, 0.5, out=total, dtype=np.float64)
    total += np.multiply(high, 0.5, dtype=np.float64)
    np.clip(total, low, high, out=total)
    if not (np.isfinite(rows[0]).all() and np.isfinite(rows[-1]).all()):  # there all of it ends up
        total[:] = np.nan
    return total
