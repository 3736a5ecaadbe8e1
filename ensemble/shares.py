"""What each member counts for."""

import math
from collections.abc import Iterable
from typing import Any

from ensemble.errors import OptionError


def listed(given: Any, count: int, each: str) -> list[float]:
    """Return weights that a user gave, once they are ``count`` numbers, one per ``each``.

    >>> listed([2, 1], 2, "file")
    [2.0, 1.0]
    """
    numbers = isinstance(given, list | tuple) and all(
        isinstance(weight, int | float) and not isinstance(weight, bool) for weight in given
    )
    if not numbers or len(given) != count:
        raise OptionError(
            f"weights must be a list of {count} numbers, one per {each}, however it is {given!r}"
        )
    return [float(weight) for weight in given]


def normalised(weights: Iterable[float], count: int) -> list[float]:
    """Return ``count`` nonnegative weights that sum to one, or raise :class:`OptionError`.

    >>> normalised([2, 6], 2)
    [0.25, 0.75]
    """
    numbers = [float(weight) for weight in weights]
    if len(numbers) != count:
        raise OptionError(
            f"{count} members need {count} weights, however {len(numbers)} were given"
        )
    for i, number in enumerate(numbers):
        if not (math.isfinite(number) and number >= 0):
            raise OptionError(f"weights must be finite and nonnegative, however #{i} is {number}")
    largest = max(numbers)
    if largest == 0:
        raise OptionError("weights must not all be zero, however they are")
    shares = [number / largest for number in numbers]
    total = math.fsum(shares)
    return [share / total for share in shares]


def whole(share: float, count: int) -> int:
    """Return a share of a count, rounded down, by what it should be: 0.29 * 100 is 28.999….

    >>> whole(0.29, 100)
    29
    """
    return int(share * count + 1e-9)


def trimmed(trim: float, members: int) -> int:
    """Return how many members a share of them is at either end, or raise :class:`OptionError`."""
    if not 0 <= trim < 0.5:
        raise OptionError(f"trim must be at least 0 and below 0.5, however it is {trim}")
    return whole(trim, members)
