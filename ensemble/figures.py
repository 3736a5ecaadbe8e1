"""How differences, counts and names are written, in the terminal and in the report."""

from zoo.figures import figure as figure

UNITS = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def interval(delta: float | None, low: float | None, high: float | None) -> str:
    """Write a difference with its interval, where that is known and defined.

    >>> interval(-0.0005, -0.0028, 0.0014), interval(-2e-7, -3e-7, 0.0)
    ('-0.0005 [-0.0028, +0.0014]', '-2.00e-07 [-3.00e-07, +0.0000]')
    """
    if low is None or high is None:
        return figure(delta, "+")
    if low != low:
        return f"{figure(delta, '+')} [undefined]"
    most = max(abs(low), abs(high))
    return f"{figure(delta, '+', most)} [{figure(low, '+', most)}, {figure(high, '+', most)}]"


def chance(p_value: float | None) -> str:
    """Write a p-value.

    >>> chance(0.0004), chance(0.0456), chance(None)
    ('<0.001', '0.046', '')
    """
    if p_value is None:
        return ""
    if p_value != p_value:
        return "undefined"
    return "<0.001" if p_value < 0.001 else f"{p_value:.3f}"


def large(value: float | None) -> str:
    """Write a count in three digits.

    >>> large(55050), large(640), large(None)
    ('55.0k', '640', '')
    """
    if value is None:
        return ""
    for unit, letter in UNITS:
        if value >= unit:
            return f"{value / unit:#.3g}".rstrip(".") + letter
    return str(value)


def shortened(name: str, most: int) -> str:
    """Leave out the middle of a name that is longer than so many characters.

    >>> shortened("predictions-mean-of-many", 15)
    'predict..f-many'
    """
    if len(name) <= most:
        return name
    head = (most - 1) // 2
    return f"{name[:head]}..{name[len(name) - (most - head - 2) :]}"
