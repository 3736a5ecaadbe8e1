"""Members as plain state dicts: what they must share, and their linear combination.

Every merge method goes through :func:`check` and :func:`leafwise` and so inherits their rules.
Floats and complex numbers are combined in float64 and cast back.  Integers and booleans are copied
from the first member, never averaged: a counter of 1.3 would load as 1 without a word.  A storage
that two keys share in every member is combined once and stays shared.  The result owns its memory,
is contiguous, and keeps the keys, their order, the dtypes and the devices of the first member.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from ensemble.differing import missing, some, unlike
from ensemble.errors import (
    EmptyError,
    NonFiniteError,
    OptionError,
    StateMismatchError,
    listing,
)

State: TypeAlias = Mapping[str, Tensor]
Merge: TypeAlias = Callable[[str, Sequence[Tensor]], Tensor]
PIECE = 1 << 16  # elements, of all members together, that elementwise merges at a time


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


def check_base(members: Sequence[State], base: State) -> None:
    """Check that checked members can be told by their difference from ``base``.

    Raises :class:`StateMismatchError` and :class:`NonFiniteError` as :func:`check` does.

    >>> check_base([{"w": torch.zeros(2)}], {"w": torch.zeros(3)})
    Traceback (most recent call last):
    ensemble.errors.StateMismatchError: members must share keys, shapes and dtypes, \
however: 'w' is (2,) in #0 and (3,) in base
    """
    check([members[0], base], ["#0", "base"])


def check_known(
    members: Sequence[State],
    known: Sequence[State],
    what: str,
    fits: Callable[[Tensor | None, Tensor], bool],
) -> None:
    """Check what is known of each checked member by key, such as its Fisher information.

    ``fits`` tells whether that suits a leaf of the members, None where they have none of that key.
    Raises :class:`OptionError` where it is not known of every member, :class:`StateMismatchError`
    with all that does not fit, and :class:`NonFiniteError` for NaN or infinity.
    """
    if len(known) != len(members):
        raise OptionError(
            f"{len(members)} members need the {what} of each, however there is that of {len(known)}"
        )
    facts, bad = [], []
    for i, own in enumerate(known):
        for key in dict.fromkeys([*known[0], *own]):
            if key not in own or key not in known[0]:
                facts.append(f"the {what} of {key!r} is known in some members only")
            elif not fits(members[0].get(key), own[key]):
                facts.append(f"the {what} of {key!r} is {tuple(own[key].shape)} in #{i}")
            elif not is_finite(own[key]):
                bad.append(f"{key!r} in #{i}")
    if facts:
        raise StateMismatchError(f"the {what} must fit the members", list(dict.fromkeys(facts)))
    if bad:
        raise NonFiniteError(f"the {what} must be finite, however it is not for {listing(bad)}")


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


def blend(states: Sequence[State], weights: Sequence[float]) -> dict[str, Tensor]:
    """Combine checked members leaf by leaf: θ = Σ wᵢ θᵢ.

    Weights that are nonnegative and sum to one keep every element within the range of its members,
    exactly, so identical members come back bit for bit; other weights extrapolate.  Beyond the
    result, memory for one leaf in float64 is used at a time.  Raises :class:`NonFiniteError` where
    the result leaves the range of its dtype.

    >>> blend([{"w": torch.tensor([0.0, 2.0])}, {"w": torch.tensor([4.0, 2.0])}], [0.25, 0.75])
    {'w': tensor([3., 2.])}
    """
    return leafwise(states, lambda key, leaves: mix(leaves, weights))


@torch.no_grad()
def leafwise(
    states: Sequence[State], merge: Merge, *, base: State | None = None
) -> dict[str, Tensor]:
    """Combine checked members by a function of the leaves of each key.

    ``merge`` is given a key and the members' leaves there, floats on the first one's device and
    complex numbers as pairs of reals, and returns real numbers of the same shape and any dtype.
    With a ``base``, its leaf comes last; the members alone say what is tied.  Leaves that are
    integers, booleans or empty are copied, and of tied ones only the first is merged.  Raises
    :class:`NonFiniteError` where the result leaves the range of its dtype.

    >>> leafwise([{"w": torch.tensor([1, 5]), "v": torch.tensor([1.0, 5.0])}],
    ...          lambda key, leaves: leaves[0].square())
    {'w': tensor([1, 5]), 'v': tensor([ 1., 25.])}
    """
    merged = {}
    for key, leaves in float_leaves(states):
        first = states[0][key]
        if base is not None:
            leaves.append(_reals(base[key].detach()).to(first.device))
        leaf = merge(key, leaves).to(leaves[0].dtype)
        merged[key] = torch.view_as_complex(leaf) if first.is_complex() else leaf
        if not is_finite(leaf):
            kind = str(first.dtype).removeprefix("torch.")
            raise NonFiniteError(
                f"the merged state must be finite, however {key!r} leaves the range of {kind}"
            )
    result: dict[str, Tensor] = {}
    for key, owner in _owners(states).items():
        if key != owner:
            result[key] = result[owner]
        elif key in merged:
            result[key] = merged[key]
        else:
            result[key] = states[0][key].detach().clone(memory_format=torch.contiguous_format)
    return result


def float_leaves(states: Sequence[State]) -> Iterator[tuple[str, list[Tensor]]]:
    """Yield what :func:`leafwise` merges: each key with its leaves, of tied ones the first.

    >>> [key for key, _ in float_leaves([{"n": torch.tensor(3), "w": torch.zeros(2)}])]
    ['w']
    """
    for key, owner in _owners(states).items():
        first = states[0][key]
        if key == owner and _averages(first) and first.numel():
            yield key, [_reals(state[key].detach()).to(first.device) for state in states]


def mix(leaves: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Return Σ wᵢ xᵢ of real leaves, summed in float64, in their dtype; see :func:`blend`.

    >>> mix([torch.tensor([0.0, 2.0]), torch.tensor([4.0, 2.0])], [0.5, 0.5])
    tensor([2., 2.])
    """
    # Casting to a narrower dtype absorbs the rounding; float64 itself needs the clamp.
    convex = min(weights) >= 0 and abs(sum(weights) - 1) < 1e-9
    clamped = convex and leaves[0].dtype == torch.float64

    def add(values_KN: Tensor) -> Tensor:
        total_N = values_KN[0] * weights[0]
        for value_N, weight in zip(values_KN[1:], weights[1:], strict=True):
            total_N.add_(value_N, alpha=weight)
        return total_N.clamp_(values_KN.amin(0), values_KN.amax(0)) if clamped else total_N

    return elementwise(leaves, add)


def elementwise(leaves: Sequence[Tensor], merge: Callable[[Tensor], Tensor]) -> Tensor:
    """Combine real leaves by a function of each element's values, (K, n) -> (n), in float64.

    It is called with n elements at a time, in their order, so that memory beyond the result stays
    small and within the processor's cache.

    >>> elementwise([torch.tensor([0.0, 2.0]), torch.tensor([4.0, 2.0])], lambda x_KN: x_KN.amax(0))
    tensor([4., 2.])
    """
    result = torch.empty_like(leaves[0], memory_format=torch.contiguous_format)
    flat = result.view(-1)
    start = 0
    for values_KN in pieces(leaves):
        end = start + values_KN.shape[1]
        flat[start:end] = merge(values_KN)
        start = end
    return result


def within(values_KN: Tensor, mean_N: Tensor) -> Tensor:
    """Keep means within the range of what they are of: equal values come back bit for bit.

    >>> within(torch.tensor([[1.0, 2.0], [1.0, 4.0]]), torch.tensor([1.0001, 3.0]))
    tensor([1., 3.])
    """
    low_N, high_N = values_KN.amin(0), values_KN.amax(0)
    # Zeros of either sign are equal, and a sum of them need not keep their sign.
    return torch.where(low_N == high_N, values_KN[0], mean_N.clamp(low_N, high_N))


def pieces(leaves: Sequence[Tensor]) -> Iterator[Tensor]:
    """Yield some elements of every leaf at a time, in their order: (K, n), float64.

    >>> [values_KN.shape for values_KN in pieces([torch.zeros(2, 3)] * 4)]
    [torch.Size([4, 6])]
    """
    size = -(-PIECE // len(leaves))
    for part_K in zip(*(torch.split(leaf.reshape(-1), size) for leaf in leaves), strict=True):
        values_KN = part_K[0].new_empty(len(leaves), len(part_K[0]), dtype=torch.float64)
        for values_N, part in zip(values_KN, part_K, strict=True):
            values_N.copy_(part)
        yield values_KN


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


def _owners(states: Sequence[State]) -> dict[str, str]:
    """Map each key to the first one that it is tied to in every member, or else to itself."""
    owners: dict[object, str] = {}
    return {
        key: owners.setdefault(tuple(place(state[key]) for state in states), key)
        if leaf.numel()
        else key
        for key, leaf in states[0].items()
    }


def _averages(leaf: Tensor) -> bool:
    return leaf.is_floating_point() or leaf.is_complex()


def _reals(leaf: Tensor) -> Tensor:
    """View complex numbers as pairs of reals, in a last axis of two."""
    return torch.view_as_real(leaf.resolve_conj()) if leaf.is_complex() else leaf


def place(leaf: Tensor) -> tuple[object, ...]:
    """Tell where a leaf lies: two keys with equal places are tied."""
    start = leaf.untyped_storage().data_ptr()
    return leaf.dtype, leaf.device, start, leaf.storage_offset(), leaf.shape, leaf.stride()
