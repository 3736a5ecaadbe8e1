"""Members whose hidden units are put in one order, so that their weights can be averaged.

Every way to do it permutes units so that networks agree as well as they can, either in their
weights or in what their layers read of the same samples (:mod:`ensemble.matching`).
"""

import math
from collections.abc import Callable, Sequence
from functools import partial, reduce
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from ensemble.differing import some
from ensemble.errors import OptionError, StateMismatchError, nearest
from ensemble.lanes import in_lanes
from ensemble.matching import Leaves, Matcher
from ensemble.responses import layouts
from ensemble.state import State, check
from ensemble.symmetries import Symmetry

Strategy: TypeAlias = Literal["reference", "mean", "tree"]
ROUNDS = 30  # over all members, at most
LEAST = 1e-3  # of agreement that a member must gain by moving again; 1e-5 is no better


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
    if strategy not in STRATEGIES:
        raise OptionError(f"there is no strategy {strategy!r}{nearest(strategy, STRATEGIES)}")
    if activations is None:
        axes = {key: axes for key, axes in symmetry.axes.items() if key not in symmetry.buffers}
        leaves = [{key: _floating(state[key]) for key in axes} for state in members]
    else:
        axes = layouts(symmetry)
        leaves = [dict(each) for each in activations]
        if len(leaves) != len(members):
            raise OptionError(
                f"activations must be of all {len(members)} members, however they are of "
                f"{len(leaves)}"
            )
        if strange := [f"#{k}" for k, each in enumerate(leaves) if each.keys() != axes.keys()]:
            raise OptionError(
                "activations must have been read by this symmetry, however they were not in "
                f"{some(strange)}"
            )
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
    """Members wait for nobody, so as many are matched at once as there are threads."""
    others = [k for k in range(len(leaves)) if k != reference]
    told = in_lanes(lambda k: _best(matchers, leaves[reference], leaves[k]), others)
    found = dict(zip(others, told, strict=True))
    return [found.get(k, matchers[0].identity()) for k in range(len(leaves))]


def _to_mean(
    matchers: Sequence[Matcher], leaves: Sequence[Leaves], reference: int
) -> list[list[Tensor]]:
    def worth(found: list[list[Tensor]]) -> float:
        total = _sum([matchers[0].turned(*pair) for pair in zip(leaves, found, strict=True)])
        return sum(float(leaf.square().sum()) for leaf in total.values())

    tried = [_one_by_one(matcher, leaves, reference) for matcher in matchers]
    return max(tried, key=worth)


def _one_by_one(matcher: Matcher, leaves: Sequence[Leaves], reference: int) -> list[list[Tensor]]:
    """Match each member to the sum of those before it, then each in turn to that of all others.

    Later visits take every layer but once: the others will have moved before a second time.
    """
    generator = torch.Generator().manual_seed(matcher.seed)
    everyone = [reference, *(k for k in range(len(leaves)) if k != reference)]
    found = [matcher.identity() for _ in leaves]
    now = {reference: leaves[reference]}
    total = now[reference]
    for k in everyone[1:]:
        found[k], _ = matcher.match(total, leaves[k])
        now[k] = matcher.turned(leaves[k], found[k])
        total = _combined(torch.add, total, now[k])
    waiting = set(everyone if len(leaves) > 2 else ())
    for _ in range(ROUNDS):
        for k in torch.randperm(len(leaves), generator=generator).tolist():
            if k not in waiting:
                continue
            waiting.discard(k)
            others = _combined(torch.sub, total, now[k])
            orders, gained = matcher.match(others, leaves[k], found[k], sweeps=1)
            if gained > LEAST:
                found[k] = orders
                now[k] = matcher.turned(leaves[k], found[k])
                total = _combined(torch.add, others, now[k])
                waiting = set(everyone)
    return found


def _by_tree(
    matchers: Sequence[Matcher], leaves: Sequence[Leaves], reference: int
) -> list[list[Tensor]]:
    """The halves are put in order each by itself, then the sum of one to that of the other."""
    if len(leaves) == 1:
        return [matchers[0].identity()]
    half = (len(leaves) + 1) // 2
    parts = [leaves[:half], leaves[half:]]
    found = [_by_tree(matchers, part, 0) for part in parts]
    sums = [
        _sum([matchers[0].turned(*pair) for pair in zip(part, orders, strict=True)])
        for part, orders in zip(parts, found, strict=True)
    ]
    step = _best(matchers, *sums)
    turned = [[old[new] for old, new in zip(orders, step, strict=True)] for orders in found[1]]
    return found[0] + turned


STRATEGIES = {"reference": _to_reference, "mean": _to_mean, "tree": _by_tree}


def _best(matchers: Sequence[Matcher], one: Leaves, other: Leaves) -> list[Tensor]:
    return max((matcher.match(one, other) for matcher in matchers), key=lambda found: found[1])[0]


def _sum(leaves: Sequence[Leaves]) -> Leaves:
    return reduce(partial(_combined, torch.add), leaves)


def _combined(
    operation: Callable[[Tensor, Tensor], Tensor], one: Leaves, other: Leaves
) -> dict[str, Tensor]:
    return {key: operation(leaf, other[key]) for key, leaf in one.items()}


def _floating(leaf: Tensor) -> Tensor:
    leaf = leaf.detach()
    return torch.view_as_real(leaf).float() if leaf.is_complex() else leaf.float()
