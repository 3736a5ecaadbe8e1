"""Sorting a few values per element, for many elements at once."""

from functools import lru_cache


@lru_cache
def network(count: int) -> tuple[tuple[int, int], ...]:
    """Return the comparisons that sort ``count`` values, whatever they are.

    Batcher 1968, Sorting networks and their applications, AFIPS 32: odd-even merge sort.  Each is
    a minimum and a maximum of whole arrays, many times faster than sorting along an axis.

    >>> network(3)
    ((0, 1), (0, 2), (1, 2))
    """
    pairs = []
    size = 1
    while size < count:
        step = size
        while step:
            for start in range(step % size, count - step, 2 * step):
                for low in range(start, min(start + step, count - step)):
                    if low // (2 * size) == (low + step) // (2 * size):
                        pairs.append((low, low + step))
            step //= 2
        size *= 2
    return tuple(pairs)
