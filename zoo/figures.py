"""How figures are written, in the terminal and in the report."""

SMALL = 1e-3  # below, four digits after the point leave too little of a figure
WHOLE = 9999.5, 1e7  # between these, a whole number is read sooner than a power of ten


def short(value: float, digits: int = 4) -> str:
    """Write a figure with so many digits at most, or whole up to ten millions.

    >>> short(0.25), short(14262.7), short(2.5e9), short(-1e-5), short(14262.7, 6)
    ('0.25', '14263', '2.5e+09', '-1e-05', '14262.7')
    """
    return f"{value:.0f}" if _is_whole(value, digits) else f"{value:.{digits}g}"


def figure(value: float | None, sign: str = "", beside: float = 0.0) -> str:
    """Write a figure with four digits after the point, or three or four in all out of that range.

    Up to ten millions it is whole.

    Args:
        value: the figure; None is nothing.
        sign: ``+`` where a positive one has its sign too.
        beside: the size of what it stands beside: it is written as small only where that is.

    >>> figure(0.5), figure(52.6), figure(3301.0), figure(14262.7), figure(0.0000161)
    ('0.5000', '52.60', '3301', '14263', '1.61e-05')
    >>> figure(-0.0002, "+"), figure(-0.0002, "+", beside=0.01)
    ('-2.00e-04', '-0.0002')
    """
    if value is None:
        return ""
    if value != value:
        return "undefined"
    if 0 < abs(value) < SMALL and beside < SMALL:
        return f"{value:{sign}.2e}"
    if _is_whole(value):
        return f"{value:{sign}.0f}"
    return f"{value:{sign}.4f}" if abs(value) < 10 else f"{value:{sign}#.4g}".rstrip(".")


def _is_whole(value: float, digits: int = 4) -> bool:
    return max(WHOLE[0], 10.0**digits - 0.5) <= abs(value) < WHOLE[1]
