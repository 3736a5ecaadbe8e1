"""Members as plain state dicts: what they must share, and their linear combination.

Every merge method goes through :func:`check` and :func:`blend` and so inherits their rules.
Floats and complex numbers are combined in float64 and cast back.  Integers and booleans are copied
from the first member, never averaged: a counter of 1.3 would load as 1 without a word.  A storage
that two keys share in every member is combined once and stays shared.  The result owns its memory,
is contiguous, and keeps the keys, their order, the dtypes and the devices of the first member.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from ensemble.differing import missing, some, unlike
from ensemble.errors import EmptyError, NonFiniteError, StateMismatchError, listing

State: TypeAlias = Mapping[str, Tensor]


def check(states: Iterable[State], names: Sequence[str] = ()) -> tuple[State, ...]:
    """Return the members as a tuple, once they are known to be combinable.

    ``names`` say how errors call the members; by default ``#0``, ``#1`` and so on.

    Raises :class:`EmptyError` without members, :class:`StateMismatchError` with every difference
    in keys, shapes and dtypes, and :class:`NonFiniteError` naming every leaf with NaN or infinity.

    >>> len(check([{"w": torch.zeros(2)}, {"w": torch.ones(2)}]))
    2
    >>> check([{"w": torch.zeros(2)}, {"w": torch.zeros(2, 3)}])
    Traceback (most recent call last):
    ensemble.errors.StateMismatchError: members must share keys, shapes and dtypes, \
however: 'w' is (2,) in #0 and (2, 3) in #1
    """
    members = tuple(states)
    if not members:
        raise EmptyError("there must be at least one member, however none was given")
    names = names or [f"#{i}" for i in range(len(members))]
    if found := differences(members, names):
        raise StateMismatchError("members must share keys, shapes and dtypes", found)
    bad = [
        f"{key!r} holds NaN or infinity in {some(where)}"
        for key in members[0]
        if (where := [n for n, s in zip(names, members, strict=True) if not is_finite(s[key])])
    ]
    if bad:
        raise NonFiniteError(f"members must be finite, however: {listing(bad)}")
    return members


def differences(states: Sequence[State], names: Sequence[str]) -> list[str]:
    """Say, in one or two facts per key, where members differ in keys, shapes or dtypes.

    >>> differences([{"a": torch.zeros(2)}, {"b": torch.zeros(2)}], ["old", "new"])
    ["'a' is missing in new", "'b' is missing in old"]
    """
    named = list(zip(names, states, strict=True))
    strangers = [(n, type(s).__name__) for n, s in named if not isinstance(s, Mapping)]
    if strangers:
        return [f"{name} is a {kind}, not a state dict" for name, kind in strangers]
    facts = []
    for key in dict.fromkeys(key for state in states for key in state):
        holding = [(name, state[key]) for name, state in named if key in state]
        facts += missing(
            key, [n for n, _ in holding], [name for name, state in named if key not in state]
        )
        others = [(n, type(x).__name__) for n, x in holding if not isinstance(x, Tensor)]
        if others:
            facts += [f"{key!r} is a {kind}, not a tensor, in {name}" for name, kind in others]
            continue
        facts += unlike(key, [(n, tuple(leaf.shape)) for n, leaf in holding])
        facts += unlike(key, [(n, str(leaf.dtype).removeprefix("torch.")) for n, leaf in holding])
    return facts


@torch.no_grad()
def blend(states: Sequence[State], weights: Sequence[float]) -> dict[str, Tensor]:
    """Combine checked members leaf by leaf: θ = Σ wᵢ θᵢ.

    Weights that are nonnegative and sum to one keep every element within the range of its members,
    exactly, so identical members come back bit for bit; other weights extrapolate.  Beyond the
    result, memory for one leaf in float64 is used at a time.

    >>> blend([{"w": torch.tensor([0.0, 2.0])}, {"w": torch.tensor([4.0, 2.0])}], [0.25, 0.75])
    {'w': tensor([3., 2.])}
    """
    convex = min(weights) >= 0 and abs(sum(weights) - 1) < 1e-9
    done: dict[object, Tensor] = {}
    result = {}
    for key in states[0]:
        leaves = [state[key] for state in states]
        place = tuple(_place(leaf) for leaf in leaves) if leaves[0].numel() else key
        if place not in done:
            done[place] = _blend_leaf(leaves, weights, convex)
        result[key] = done[place]
    return result


def is_finite(leaf: Tensor) -> bool:
    """Say whether a leaf of any dtype is free of NaN and infinity.

    >>> is_finite(torch.tensor([1.0, float("nan")])), is_finite(torch.tensor(3))
    (False, True)
    """
    if not _averages(leaf):
        return True
    if leaf.itemsize == 1:  # PyTorch has neither sum nor isfinite for some of the 8-bit floats
        leaf = leaf.float()
    # A finite sum proves finite terms, at a fraction of the time; a sum can also overflow.
    return bool(torch.isfinite(leaf.sum())) or bool(torch.isfinite(leaf).all())


def _blend_leaf(leaves: Sequence[Tensor], weights: Sequence[float], convex: bool) -> Tensor:
    first = leaves[0].detach()
    if not _averages(first):
        return first.clone(memory_format=torch.contiguous_format)
    parts = (_reals(leaf.detach()).to(first.device) for leaf in leaves)
    start = next(parts)
    total = start.to(torch.float64, copy=True, memory_format=torch.contiguous_format)
    total *= weights[0]
    low = high = start
    # Casting to a narrower dtype absorbs the rounding; float64 itself needs the clamp.
    clamped = convex and start.dtype == torch.float64
    for part, weight in zip(parts, weights[1:], strict=True):
        total.add_(part.to(torch.float64), alpha=weight)
        if clamped:
            low, high = torch.minimum(low, part), torch.maximum(high, part)
    if clamped:
        total.clamp_(low, high)
    cast = total.to(start.dtype)
    return torch.view_as_complex(cast) if first.is_complex() else cast


def _averages(leaf: Tensor) -> bool:
    return leaf.is_floating_point() or leaf.is_complex()


def _reals(leaf: Tensor) -> Tensor:
    """View complex numbers as pairs of reals, in a last axis of two."""
    return torch.view_as_real(leaf.resolve_conj()) if leaf.is_complex() else leaf


def _place(leaf: Tensor) -> tuple[object, ...]:
    """Tell where a leaf lies: two keys with equal places are tied."""
    start = leaf.untyped_storage().data_ptr()
    return leaf.dtype, leaf.device, start, leaf.storage_offset(), leaf.shape, leaf.stride()
