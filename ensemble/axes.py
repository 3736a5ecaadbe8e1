"""What an axis of a tensor is made of: the algebra behind :mod:`ensemble.symmetries`.

An axis is a sum (concatenation) of segments, and a segment is a product (flattening, row by row)
of atoms.  Channels flattened with positions are one segment of two atoms, two concatenated blocks
of channels are two segments.  An atom may be permuted, unless it is frozen.

Where an operation needs two axes to agree, :func:`unify` makes them the same: atoms are joined, or
bound to the finer structure that the other axis shows.  Where they cannot be made to agree, both
are frozen; that is never wrong, it only loses freedom.
"""

import math
from collections.abc import Sequence
from typing import TypeAlias


class Atom:
    """Something of a size that is permuted as a whole, until it is bound to something finer."""

    __slots__ = ("bound", "frozen", "size")

    def __init__(self, size: int, *, frozen: bool = False) -> None:
        self.size = size
        self.frozen = frozen
        self.bound: Axis | None = None


Segment: TypeAlias = tuple[Atom, ...]
Axis: TypeAlias = tuple[Segment, ...]


def fresh(size: int, *, frozen: bool = False) -> Axis:
    """Make an axis of one new atom; an axis of size one has nothing to permute."""
    return ((),) if size == 1 else ((Atom(size, frozen=frozen),),)


def length(axis: Axis) -> int:
    """Return the size of an axis."""
    return sum(math.prod(atom.size for atom in segment) for segment in axis)


def resolve(axis: Axis) -> Axis:
    """Replace bound atoms by what they are bound to."""
    return tuple(segment for each in axis for segment in _expand(each))


def freeze(axis: Axis) -> None:
    """Let an axis be permuted by nothing."""
    for segment in resolve(axis):
        for atom in segment:
            atom.frozen = True


def unify(one: Axis, other: Axis) -> None:
    """Make two axes of one size the same."""
    left, right = resolve(one), resolve(other)
    if not left or not right:
        return
    a, b = length(left[:1]), length(right[:1])
    if a > b:
        head, tail = _cut_segment(left[0], b)
        unify((head,), right[:1])
        unify((tail, *left[1:]), right[1:])
    elif a < b:
        unify(right, left)
    else:
        _unify_products(left[0], right[0])
        unify(left[1:], right[1:])


def cut(axis: Axis, start: int, stop: int) -> Axis:
    """Return what lies from ``start`` to ``stop``; atoms across a border are cut in two."""
    found: list[Segment] = []
    here = 0
    waiting = list(resolve(axis))
    while waiting:
        segment = waiting.pop(0)
        end = here + length((segment,))
        for border in (start, stop):
            if here < border < end:
                waiting[:0] = _cut_segment(segment, border - here)
                waiting = list(resolve(tuple(waiting)))
                break
        else:
            if start <= here and end <= stop:
                found.append(segment)
            here = end
    return tuple(found)


def reshape(axes: Sequence[Axis], shape: Sequence[int]) -> list[Axis]:
    """Follow a view in row-major order from axes to axes of other sizes."""
    if 0 in shape:  # there is nothing in it
        for axis in axes:
            freeze(axis)
        return [fresh(size, frozen=True) for size in shape]
    waiting, wanted, found = list(axes), list(shape), list[Axis]()
    while wanted or waiting:
        sources, sizes = _together(waiting, wanted)
        found += _factored(_merged(sources), sizes)
    return found


def _together(waiting: list[Axis], wanted: list[int]) -> tuple[list[Axis], list[int]]:
    """Take the fewest leading axes and sizes that hold equally many elements."""
    sources, sizes = list[Axis](), list[int]()
    have, need = 1, 1
    while not (sources or sizes) or have != need:
        if wanted and need <= have:
            sizes.append(wanted.pop(0))
            need *= sizes[-1]
        else:
            sources.append(waiting.pop(0))
            have *= length(sources[-1])
    return sources, sizes


def _merged(axes: Sequence[Axis]) -> Axis:
    """Flatten axes into one; only the first may be a sum, which then is one of products."""
    resolved = [resolve(axis) for axis in axes] or [((),)]
    first, *others = [axis for axis in resolved if axis != ((),)] or [((),)]
    if any(len(axis) != 1 for axis in others):
        for axis in resolved:
            freeze(axis)
        return fresh(math.prod(map(length, axes)), frozen=True)
    rest = tuple(atom for axis in others for atom in axis[0])
    return tuple((*segment, *rest) for segment in first)


def _factored(axis: Axis, sizes: Sequence[int]) -> list[Axis]:
    """Split an axis into several, the last one varying the fastest."""
    axis = resolve(axis)
    if len(sizes) <= 1:
        return [axis for _ in sizes]
    found: list[Axis] = []
    atoms = list(axis[0]) if len(axis) == 1 else None
    for size in reversed(sizes):
        taken: list[Atom] = []
        while atoms is not None and math.prod(atom.size for atom in taken) < size:
            missing = size // math.prod(atom.size for atom in taken)
            if missing % atoms[-1].size == 0:
                taken.insert(0, atoms.pop())
            elif atoms[-1].size % missing == 0:
                _factor(atoms[-1], missing)
                return _factored(axis, sizes)
            else:
                atoms = None
        found.insert(0, (tuple(taken),))
    if atoms is None:
        freeze(axis)
        return [fresh(size, frozen=True) for size in sizes]
    return found


def _expand(segment: Segment) -> Axis:
    """Replace the bound atoms of a product; a sum in its first place makes it a sum of products."""
    for place, atom in enumerate(segment):
        if atom.bound is None:
            continue
        inner = resolve(atom.bound)
        before, after = segment[:place], segment[place + 1 :]
        if len(inner) > 1 and before:  # every row would be a concatenation of its own
            freeze(inner)
            inner = fresh(atom.size, frozen=True)
        return tuple(part for each in inner for part in _expand((*before, *each, *after)))
    return (segment,)


def _unify_products(one: Segment, other: Segment) -> None:
    """Make two products of one size the same, from the factor that varies the fastest."""
    if not one or not other:
        return
    a, b = one[-1], other[-1]
    if a is not b and a.size == b.size:
        b.frozen |= a.frozen
        a.bound = ((b,),)
    elif a.size > b.size:
        if a.size % b.size:
            freeze((one, other))
        else:
            _factor(a, b.size)
            unify((one,), (other,))
        return
    elif a.size < b.size:
        _unify_products(other, one)
        return
    unify((one[:-1],), (other[:-1],))


def _factor(atom: Atom, inner: int) -> None:
    """Bind an atom to a product whose second factor has the given size."""
    pair = (atom.size // inner, inner)
    atom.bound = (tuple(Atom(size, frozen=atom.frozen) for size in pair),)


def _cut_segment(segment: Segment, size: int) -> tuple[Segment, Segment]:
    """Cut a product in two after so many elements, where that is between rows."""
    first, rest = segment[0], segment[1:]
    row = math.prod(atom.size for atom in rest)
    if size % row:
        freeze((segment,))
        return (Atom(size, frozen=True),), (Atom(first.size * row - size, frozen=True),)
    rows = size // row
    parts = [fresh(part, frozen=first.frozen)[0] for part in (rows, first.size - rows)]
    first.bound = tuple(parts)
    return (*parts[0], *rest), (*parts[1], *rest)
