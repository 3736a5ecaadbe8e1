"""Members whose hidden units are put in one order, so that their weights can be averaged.

Every way to do it permutes units so that two networks agree as well as they can, either in their
weights or in what their layers read of the same samples.  With the units of the other layers held
fixed, the best order of one layer's is a linear assignment (Ainsworth et al. 2023, Git Re-Basin:
merging models modulo permutation symmetries, arXiv:2209.04836, algorithm 1); layers are taken in
turn until none of them improves.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from ensemble.errors import OptionError, StateMismatchError
from ensemble.responses import layouts
from ensemble.state import State, blend, check
from ensemble.symmetries import Layout, Symmetry, index_of

Strategy: TypeAlias = Literal["reference", "mean", "tree"]
Leaves: TypeAlias = Mapping[str, Tensor]
SWEEPS = 100  # over all layers, at most
ROUNDS = 30  # over all members, at most
LEAST = 1e-5  # of agreement that must be gained; less is the rounding of float32


@dataclass(frozen=True)
class _Place:
    """Where a group is: a factor of a segment of an axis of a leaf."""

    key: str
    dim: int
    start: int
    factors: tuple[int, ...]
    position: int


class Matcher:
    """Orders the units of networks of one symmetry.

    Args:
        sizes: of the groups of units.
        axes: for each leaf, the layout of its axes.
        seed: of the order in which layers are taken.
    """

    def __init__(
        self, sizes: Sequence[int], axes: Mapping[str, tuple[Layout, ...]], seed: int = 0
    ) -> None:
        self.sizes, self.axes = tuple(sizes), axes
        self.generator = torch.Generator().manual_seed(seed)
        self.places: list[list[_Place]] = [[] for _ in sizes]
        for key, each in axes.items():
            for dim, layout in enumerate(each):
                start = 0
                for segment in layout:
                    factors = tuple(size for _, size in segment)
                    for position, (group, _) in enumerate(segment):
                        if group is not None:
                            self.places[group].append(_Place(key, dim, start, factors, position))
                    start += math.prod(factors)

    def match(self, one: Leaves, other: Leaves) -> tuple[list[Tensor], float]:
        """Find the order of the other's units in which it agrees best with the one.

        Returns:
            a permutation for each group, and the agreement gained: the rise of the inner product
            of all leaves, relative to the geometric mean of their squared norms.
        """
        orders = [torch.arange(size) for size in self.sizes]
        turned = {key: other[key] for key in self.axes}
        scale = math.sqrt(_squared(one, self.axes) * _squared(other, self.axes)) or 1.0
        total = 0.0
        for _ in range(SWEEPS):
            gained = 0.0
            for group in torch.randperm(len(self.sizes), generator=self.generator).tolist():
                agreement = self._agreement(group, one, turned)
                step = _assignment(agreement)
                rows = torch.arange(len(step))
                gain = float(agreement[rows, step].sum() - agreement.diagonal().sum()) / scale
                if gain > LEAST / 10:
                    gained += gain
                    orders[group] = orders[group][step]
                    self._turn(group, orders, other, turned)
            total += gained
            if gained <= LEAST:
                break
        return orders, total

    def _agreement(self, group: int, one: Leaves, turned: Leaves) -> Tensor:
        """Return the inner products (n, n) of all that belongs to the units of a group."""
        total = torch.zeros(self.sizes[group], self.sizes[group])
        for place in self.places[group]:
            total += (_rows(one[place.key], place) @ _rows(turned[place.key], place).T).cpu()
        return total

    def _turn(
        self, group: int, orders: Sequence[Tensor], other: Leaves, turned: dict[str, Tensor]
    ) -> None:
        for key in {place.key for place in self.places[group]}:
            turned[key] = permuted(other[key], self.axes[key], orders)


def permuted(leaf: Tensor, axes: Sequence[Layout], orders: Sequence[Tensor]) -> Tensor:
    """Return a leaf with its units in other orders."""
    for dim, layout in enumerate(axes):
        if (index := index_of(layout, orders)) is not None:
            leaf = leaf.index_select(dim, index.to(leaf.device))
    return leaf


def align(
    states: Sequence[State],
    symmetry: Symmetry,
    *,
    activations: Sequence[Leaves] | None = None,
    strategy: Strategy = "reference",
    reference: int = 0,
    restarts: int = 1,
    seed: int = 0,
) -> list[dict[str, Tensor]]:
    """Put the units of all members in one order; each still computes what it did.

    Args:
        states: the members.
        symmetry: their module's, from :func:`~ensemble.symmetries.symmetry`.
        activations: what the members' layers read, from
            :func:`~ensemble.responses.activations`; the weights themselves are matched without.
        strategy: ``reference`` matches every member to one; ``mean`` each in turn to the mean of
            the others, until none moves (MergeMany, algorithm 3 of Git Re-Basin); ``tree`` pairs
            neighbours, then the means of pairs, and so on.
        reference: the member whose order all take; strategy ``reference``.
        restarts: how often matching is tried, each with the layers in another order; the best
            counts.
        seed: of those orders.

    Raises:
        OptionError: where an option is out of range.
        StateMismatchError: where members do not fit together, or not the symmetry.

    >>> import torch
    >>> from torch import nn
    >>> from ensemble import align, symmetry
    >>> net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    >>> found = symmetry(net, torch.zeros(1, 2))
    >>> turned = found.permute(net.state_dict(), [torch.tensor([2, 0, 1])])
    >>> _, back = align([net.state_dict(), turned], found)
    >>> all(torch.equal(back[key], leaf) for key, leaf in net.state_dict().items())
    True
    """
    members = check(states)
    _refuse_others(members[0], symmetry)
    if not 0 <= reference < len(members):
        raise OptionError(f"reference must be one of {len(members)} members, however {reference}")
    if restarts < 1:
        raise OptionError(f"restarts must be 1 or more, however it is {restarts}")
    if activations is None:
        axes = {key: axes for key, axes in symmetry.axes.items() if key not in symmetry.buffers}
        leaves = [{key: _floating(state[key]) for key in axes} for state in members]
    else:
        axes = layouts(symmetry)
        leaves = [dict(each) for each in activations]
    matchers = [Matcher(symmetry.sizes, axes, seed + k) for k in range(restarts)]
    found = STRATEGIES[strategy](matchers, leaves, reference)
    return [symmetry.permute(state, orders) for state, orders in zip(members, found, strict=True)]


def _refuse_others(state: State, symmetry: Symmetry) -> None:
    told = []
    for key, axes in symmetry.axes.items():
        shape = tuple(sum(math.prod(n for _, n in part) for part in layout) for layout in axes)
        if key not in state:
            told.append(f"{key!r} is not there")
        elif tuple(state[key].shape) != shape:
            told.append(f"{key!r} is {tuple(state[key].shape)} and not {shape}")
    if told:
        raise StateMismatchError("members must fit the module of the symmetry", told)


def _to_reference(
    matchers: Sequence[Matcher], leaves: Sequence[Leaves], reference: int
) -> list[list[Tensor]]:
    found = []
    for k, other in enumerate(leaves):
        if k == reference:
            found.append([torch.arange(size) for size in matchers[0].sizes])
        else:
            found.append(_best(matchers, leaves[reference], other)[0])
    return found


def _to_mean(
    matchers: Sequence[Matcher], leaves: Sequence[Leaves], reference: int
) -> list[list[Tensor]]:
    found = _to_reference(matchers, leaves, reference)
    now = [_turned(matchers[0], each, orders) for each, orders in zip(leaves, found, strict=True)]
    if len(leaves) < 3:
        return found
    waiting = set(range(len(leaves)))
    for _ in range(ROUNDS):
        for k in torch.randperm(len(leaves), generator=matchers[0].generator).tolist():
            if k not in waiting:
                continue
            waiting.discard(k)
            others = _mean([each for i, each in enumerate(now) if i != k])
            orders, gained = _best(matchers, others, now[k])
            if gained > LEAST:
                found[k] = [old[new] for old, new in zip(found[k], orders, strict=True)]
                now[k] = _turned(matchers[0], leaves[k], found[k])
                waiting = set(range(len(leaves))) - {k}
    return found


def _by_tree(
    matchers: Sequence[Matcher], leaves: Sequence[Leaves], reference: int
) -> list[list[Tensor]]:
    """The halves are put in order each by itself, then one mean to the other."""
    if len(leaves) == 1:
        return [[torch.arange(size) for size in matchers[0].sizes]]
    half = (len(leaves) + 1) // 2
    parts = [leaves[:half], leaves[half:]]
    found = [_by_tree(matchers, part, 0) for part in parts]
    means = [
        _mean([_turned(matchers[0], each, o) for each, o in zip(part, orders, strict=True)])
        for part, orders in zip(parts, found, strict=True)
    ]
    step, _ = _best(matchers, *means)
    turned = [[old[new] for old, new in zip(orders, step, strict=True)] for orders in found[1]]
    return found[0] + turned


STRATEGIES = {"reference": _to_reference, "mean": _to_mean, "tree": _by_tree}


def _best(matchers: Sequence[Matcher], one: Leaves, other: Leaves) -> tuple[list[Tensor], float]:
    return max((matcher.match(one, other) for matcher in matchers), key=lambda found: found[1])


def _turned(matcher: Matcher, leaves: Leaves, orders: Sequence[Tensor]) -> dict[str, Tensor]:
    return {key: permuted(leaves[key], axes, orders) for key, axes in matcher.axes.items()}


def _mean(leaves: Sequence[Leaves]) -> dict[str, Tensor]:
    return blend(leaves, [1 / len(leaves)] * len(leaves))


def _rows(leaf: Tensor, place: _Place) -> Tensor:
    """Return what belongs to each unit of a group as one row."""
    size = math.prod(place.factors)
    part = leaf.narrow(place.dim, place.start, size)
    shape = (*leaf.shape[: place.dim], *place.factors, *leaf.shape[place.dim + 1 :])
    part = part.reshape(shape).movedim(place.dim + place.position, 0)
    return part.reshape(part.shape[0], -1)


def _assignment(agreement: Tensor) -> Tensor:
    """Return for every row the column, each taken once, with which the sum is largest."""
    from scipy.optimize import linear_sum_assignment

    _, columns = linear_sum_assignment(agreement.numpy(), maximize=True)
    return torch.from_numpy(columns)


def _squared(leaves: Leaves, keys: Mapping[str, object]) -> float:
    return sum(float(leaves[key].square().sum()) for key in keys)


def _floating(leaf: Tensor) -> Tensor:
    leaf = leaf.detach()
    return torch.view_as_real(leaf).float() if leaf.is_complex() else leaf.float()
