"""The order of one network's units in which it agrees best with another.

Two networks agree by the inner product of all their leaves, be it weights or what their layers
read.  With the units of the other layers held fixed, the best order of one layer's is a linear
assignment (Ainsworth et al. 2023, Git Re-Basin: merging models modulo permutation symmetries,
arXiv:2209.04836, algorithm 1); layers are taken in turn until none of them improves.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import TypeAlias

import torch
from torch import Tensor

from ensemble.symmetries import Layout, permuted

Leaves: TypeAlias = Mapping[str, Tensor]
SWEEPS = 100  # over all layers, at most
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
        self.sizes, self.axes, self.seed = tuple(sizes), axes, seed
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
        self.squared = {
            group
            for group, places in enumerate(self.places)
            if len({place.key for place in places}) < len(places)
        }

    def identity(self) -> list[Tensor]:
        """Return the order in which all units stay where they are."""
        return [torch.arange(size) for size in self.sizes]

    def match(
        self,
        one: Leaves,
        other: Leaves,
        orders: Sequence[Tensor] | None = None,
        sweeps: int = SWEEPS,
    ) -> tuple[list[Tensor], float]:
        """Find the order of the other's units in which it agrees best with the one.

        Args:
            one: stays as it is.
            other: is put in order.
            orders: to begin with; by default its own.
            sweeps: over all layers, at most.

        Returns:
            a permutation for each group, and the agreement gained: the rise of the inner product
            of all leaves, relative to the geometric mean of their squared norms.
        """
        orders = self.identity() if orders is None else list(orders)
        scale = math.sqrt(_squared(one, self.axes) * _squared(other, self.axes)) or 1.0
        generator = torch.Generator().manual_seed(self.seed)
        products: dict[_Place, Tensor] = {}  # those that no move has changed since
        waiting = {group for group, places in enumerate(self.places) if places}
        total = 0.0
        for _ in range(sweeps):
            gained = 0.0
            for group in torch.randperm(len(self.sizes), generator=generator).tolist():
                if group not in waiting:
                    continue
                waiting.discard(group)
                agreement = self._agreement(group, one, other, orders, products)
                moved = [*orders]
                moved[group] = assignment(agreement)
                gain = _sum_at(agreement, moved[group]) - _sum_at(agreement, orders[group])
                if group in self.squared:  # what other units of its own they meet has changed too
                    gain = self._inner(group, one, other, moved)
                    gain -= self._inner(group, one, other, orders)
                if gain > scale * LEAST / 10:
                    gained += gain / scale
                    orders = moved
                    waiting |= self._disturb(group, products)
            total += gained
            if gained <= LEAST:
                break
        return orders, total

    def turned(self, leaves: Leaves, orders: Sequence[Tensor]) -> dict[str, Tensor]:
        """Return leaves with their units in other orders."""
        return {key: permuted(leaves[key], axes, orders) for key, axes in self.axes.items()}

    def _agreement(
        self,
        group: int,
        one: Leaves,
        other: Leaves,
        orders: Sequence[Tensor],
        products: dict[_Place, Tensor],
    ) -> Tensor:
        """Return the inner products (n, n) of all that belongs to the units of a group."""
        for place in self.places[group]:
            if place not in products:
                axes = list(self.axes[place.key])
                axes[place.dim] = _frozen(axes[place.dim], group)
                turned = permuted(other[place.key], axes, orders)
                products[place] = (_rows(one[place.key], place) @ _rows(turned, place).T).cpu()
        return reduce(torch.add, [products[place] for place in self.places[group]])

    def _inner(self, group: int, one: Leaves, other: Leaves, orders: Sequence[Tensor]) -> float:
        """Return the inner product of all leaves that a group is in."""
        keys = {place.key for place in self.places[group]}
        pairs = [(one[key], permuted(other[key], self.axes[key], orders)) for key in sorted(keys)]
        return sum(float((a * b).sum()) for a, b in pairs)

    def _disturb(self, moved: int, products: dict[_Place, Tensor]) -> set[int]:
        """Forget the products that a group has part in; return the groups whose they are."""
        keys = {place.key for place in self.places[moved]}
        disturbed = set()
        for group, places in enumerate(self.places):
            if group != moved or group in self.squared:
                for place in places:
                    if place.key in keys:
                        products.pop(place, None)
                        disturbed.add(group)
        return disturbed


def assignment(agreement: Tensor) -> Tensor:
    """Return for every row the column, each taken once, with which the sum is largest.

    >>> assignment(torch.tensor([[1.0, 5.0], [4.0, 7.0]]))
    tensor([1, 0])
    """
    from scipy.optimize import linear_sum_assignment

    costs = agreement.amax(1, keepdim=True) - agreement
    costs -= costs.amin(0)  # the solver is faster where the least of every row and column is zero
    _, columns = linear_sum_assignment(costs.numpy())
    return torch.from_numpy(columns)


def _sum_at(agreement: Tensor, order: Tensor) -> float:
    return float(agreement[torch.arange(len(order)), order].sum())


def _frozen(layout: Layout, group: int) -> Layout:
    return tuple(
        tuple((None if each == group else each, size) for each, size in segment)
        for segment in layout
    )


def _rows(leaf: Tensor, place: _Place) -> Tensor:
    """Return what belongs to each unit of a group as one row."""
    size = math.prod(place.factors)
    part = leaf.narrow(place.dim, place.start, size)
    shape = (*leaf.shape[: place.dim], *place.factors, *leaf.shape[place.dim + 1 :])
    part = part.reshape(shape).movedim(place.dim + place.position, 0)
    return part.reshape(part.shape[0], -1)


def _squared(leaves: Leaves, keys: Mapping[str, object]) -> float:
    return sum(float(torch.linalg.vector_norm(leaves[key])) ** 2 for key in keys)
