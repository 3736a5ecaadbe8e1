"""How members that should be alike differ, in words."""

from collections.abc import Sequence


def missing(key: str, holding: Sequence[str], lacking: Sequence[str]) -> list[str]:
    """Say which members lack a key, or which alone have it.

    >>> missing("w", ["#0"], ["#1", "#2"]), missing("w", ["#0", "#1"], [])
    (["'w' is only in #0"], [])
    """
    if not lacking:
        return []
    if len(holding) < len(lacking):
        return [f"{key!r} is only in {some(holding)}"]
    return [f"{key!r} is missing in {some(lacking)}"]


def unlike(key: str, values: Sequence[tuple[str, object]]) -> list[str]:
    """Say what a key is in which member, where that differs.

    >>> unlike("w", [("#0", (2,)), ("#1", (2, 3)), ("#2", (2,))])
    ["'w' is (2,) in #0, #2 and (2, 3) in #1"]
    """
    groups: dict[object, list[str]] = {}
    for name, value in values:
        groups.setdefault(value, []).append(name)
    if len(groups) < 2:
        return []
    return [f"{key!r} is {' and '.join(f'{v} in {some(names)}' for v, names in groups.items())}"]


def some(names: Sequence[str]) -> str:
    """Name the first few of many members.

    >>> some(["#0", "#1", "#2", "#3", "#4"])
    '#0, #1, #2 and 2 more'
    """
    more = f" and {len(names) - 3} more" if len(names) > 4 else ""
    return ", ".join(names[:3] if more else names) + more
