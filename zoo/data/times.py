"""A time becomes numbers: the days that have passed, and where in the year, week and day it is.

Month, weekday and hour go round a circle, so that December is as near to January as to November;
each is a sine and a cosine, and only there if it varies in training.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pandas as pd

from zoo.data.cells import FloatArray

DAY = 86_400_000_000  # microseconds
CYCLES = ("month", "weekday", "hour")
Times = npt.NDArray[np.int64]


def microseconds(column: pd.Series) -> Times:
    """Return times since 1970 (N,) in microseconds; the least integer where missing."""
    since: Times = column.to_numpy(dtype="datetime64[us]").astype(np.int64)
    return since


def days(times: Times) -> FloatArray:
    """Return times (N,) as days since 1970, NaN where missing.

    >>> days(microseconds(pd.to_datetime(pd.Series(["1970-01-02T12:00", None])))).tolist()
    [1.5, nan]
    """
    passed: FloatArray = np.where(times == np.iinfo(np.int64).min, np.nan, times / DAY)
    return passed


def turns(times: Times, cycle: str) -> FloatArray:
    """Return where times (N,) are in a cycle, from 0 to 1; NaN where missing.

    >>> turns(microseconds(pd.to_datetime(pd.Series(["1970-01-02T12:00"]))), "hour").tolist()
    [0.5]
    """
    gaps = times == np.iinfo(np.int64).min
    if cycle == "month":
        month = times.view("datetime64[us]").astype("datetime64[M]").astype(np.int64)
        turn = (month % 12) / 12
    elif cycle == "weekday":
        turn = (times // DAY + 3) % 7 / 7  # 1970 began on a Thursday; a week, on Monday
    else:
        turn = times % DAY / DAY
    return np.where(gaps, np.nan, turn)


def varying(times: Times) -> list[str]:
    """Name the cycles in which times (N,), some of them present, differ."""
    return [cycle for cycle in CYCLES if np.nanmin(turn := turns(times, cycle)) != np.nanmax(turn)]


def circles(times: Times, cycles: list[str]) -> Iterator[FloatArray]:
    """Yield sine and cosine (N,) of every cycle; both are 0, the middle, where missing."""
    for cycle in cycles:
        angle = 2 * np.pi * turns(times, cycle)
        yield np.nan_to_num(np.sin(angle))
        yield np.nan_to_num(np.cos(angle))
