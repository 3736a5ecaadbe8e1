"""Values of columns that databases would keep differently."""

import json
import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from sqlalchemy import Float, TypeDecorator
from sqlalchemy.engine import Dialect

from zoo.errors import IntegrityError


class Figure(TypeDecorator[float]):
    """A number, or nothing where it is not one: PostgreSQL would keep NaN, SQLite does not."""

    impl = Float
    cache_ok = True

    def process_bind_param(self, value: float | None, dialect: Dialect) -> float | None:
        """Turn NaN into nothing."""
        return None if value is None or math.isnan(value) else value


@lru_cache(maxsize=4096)
def from_json(text: str) -> Any:
    """Read a value; members of a zoo share most of theirs: it is parsed once, and never altered.

    Raises:
        IntegrityError: where it is no JSON, or nests without end.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise IntegrityError(
            f"the catalogue is damaged: a cell must hold JSON, however it holds {text[:40]!r}; put"
            " back a copy, or let rebuild make it anew from the files"
        ) from None


def to_json(value: Any) -> str:
    """Write a value; numbers that are not finite become null, because JSON has none.

    >>> to_json({"ema": [0.5, float("nan")]})
    '{"ema": [0.5, null]}'
    """
    try:
        return json.dumps(value, allow_nan=False)
    except ValueError:
        return json.dumps(finite_or_null(value), allow_nan=False)


def finite_or_null(value: Any) -> Any:
    """Return a value in which numbers that are not finite are None, whatever they are nested in."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: finite_or_null(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite_or_null(item) for item in value]
    return value
