"""Which tensors of a checkpoint are the weights, and what they are called."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.errors import UsageError
from zoo.exchange.claims import Claim

if TYPE_CHECKING:
    from torch import Tensor

PREFIXES = ("module.", "_orig_mod.", "model.", "net.")  # what wrappers put before every name
DEPTH = 4  # dictionaries within each other in which weights are looked for
LISTED = 10


def candidates(told: Any) -> dict[tuple[str, ...], int]:
    """Find dictionaries of nothing but named tensors; return how many each holds, by its keys.

    What an optimiser keeps is numbered, not named, and so is left out.

    Args:
        told: what :func:`zoo.exchange.symbols.read` returned.

    >>> tensor = Claim(4)
    >>> candidates({"model": {"w": tensor}, "optim": {"state": {0: {"step": tensor}}}, "epoch": 3})
    {('model',): 1}
    """
    found: dict[tuple[str, ...], int] = {}
    seen: set[int] = set()
    waiting: list[tuple[tuple[str, ...], Any]] = [((), told)]
    for keys, value in waiting:  # grows by what is in it
        if not isinstance(value, dict) or id(value) in seen or len(keys) > DEPTH:
            continue
        seen.add(id(value))
        if not all(isinstance(name, str) for name in value):
            continue
        if value and all(isinstance(item, Claim) for item in value.values()):
            found[keys] = len(value)
        else:
            waiting += [((*keys, name), item) for name, item in value.items()]
    return found


def choose(found: Mapping[tuple[str, ...], int], key: str | None, path: Path) -> tuple[str, ...]:
    """Choose among several sets of weights: the one at ``key``, or the only one.

    Raises:
        UsageError: where there is none, or several and no key.
    """
    listed = ", ".join(
        f"{'.'.join(keys)[:100]} ({count} tensors)" for keys, count in list(found.items())[:LISTED]
    )
    if key is not None:
        matching = [keys for keys in found if ".".join(keys) == key]
        if matching:
            return matching[0]
        raise UsageError(f"{path}: has no weights at {key!r}; there are {listed or 'none'}")
    if not found:
        raise UsageError(
            f"{path}: must hold a dictionary of nothing but named tensors, however there is none"
        )
    if len(found) > 1:
        raise UsageError(f"{path}: holds several sets of weights: {listed}; choose one by --key")
    return next(iter(found))


def stripped(
    state: Mapping[str, "Tensor"], strip: Sequence[str], path: Path
) -> tuple[dict[str, "Tensor"], tuple[str, ...]]:
    """Take prefixes off, one after another; point out one that all names still have.

    Raises:
        UsageError: where a prefix fits no name, or two names would become one.
    """
    for prefix in strip:
        if not prefix or not any(name.startswith(prefix) for name in state):
            raise UsageError(
                f"{path}: --strip-prefix takes off what names begin with, however none begins with "
                f"{prefix!r}, such as {next(iter(state), '')!r}"
            )
        names = [name.removeprefix(prefix) for name in state]
        (twice, count), *_ = Counter(names).most_common(1)
        if count > 1:
            raise UsageError(
                f"{path}: without {prefix!r} names must still differ, however {twice!r} is there "
                "twice"
            )
        state = dict(zip(names, state.values(), strict=True))
    notes = tuple(
        f"all names begin with {prefix!r}; --strip-prefix {prefix} takes it off"
        for prefix in PREFIXES
        if state and all(name.startswith(prefix) for name in state)
    )
    return dict(state), notes
