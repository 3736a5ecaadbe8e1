"""The permutations of a module's hidden units that leave its function as it is.

Units of a hidden layer have no order of their own: if the rows of one weight, and with them the
columns of all that read them, are permuted together, the network computes the same.  Members that
were trained from different seeds differ by such permutations first of all, and so their weights
cannot be averaged as they are (Entezari et al. 2022, The role of permutation invariance in linear
mode connectivity of neural networks, arXiv:2110.06296).

:func:`symmetry` finds, for a module of any kind, which axes of which parameters and buffers are
permuted together, and proves it before it says so.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ensemble.axes import Atom, Axis, freeze, resolve
from ensemble.errors import SymmetryError
from ensemble.state import State, place
from ensemble.tracing import Made, Tracer, step_by_step

Part: TypeAlias = tuple[int | None, int]  # which group permutes it, or none does; and its size
Layout: TypeAlias = tuple[tuple[Part, ...], ...]  # concatenated segments, each a flattened product
TOLERANCE = 1e-6  # of outputs in float64, relative to their size


@dataclass(frozen=True)
class Symmetry:
    """What permutes together.

    Attributes:
        sizes: how many units each group of permutable axes has.
        axes: for each key, the layout of every axis; keys that nothing permutes are left out.
        unknown: operations that were not understood, and whose operands are therefore frozen.
        buffers: keys that are no parameters, such as running statistics.
        sites: what layers read, see :mod:`ensemble.responses`: where in the computation it comes
            about, and the layout of its axes.
    """

    sizes: tuple[int, ...]
    axes: Mapping[str, tuple[Layout, ...]]
    unknown: tuple[str, ...] = ()
    buffers: frozenset[str] = frozenset()
    sites: Mapping[Made, tuple[Layout, ...]] = field(default_factory=dict)

    def permute(self, state: State, permutations: Sequence[Tensor]) -> dict[str, Tensor]:
        """Return a state of the same function, its units in another order.

        Args:
            state: one that fits the module.
            permutations: for each group, int64 indices (size,): unit i of the result is unit
                ``permutations[group][i]`` of ``state``.

        >>> net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
        >>> found = symmetry(net, torch.zeros(1, 2))
        >>> turned = found.permute(net.state_dict(), [torch.tensor([2, 0, 1])])
        >>> bool((turned["0.bias"] == net[0].bias[[2, 0, 1]]).all())
        True
        """
        done: dict[object, Tensor] = {}  # tied weights stay tied
        result = {}
        for key, leaf in state.items():
            if key not in self.axes:
                result[key] = leaf
                continue
            where = place(leaf)
            if where not in done:
                done[where] = permuted(leaf, self.axes[key], permutations)
            result[key] = done[where]
        return result

    def random(self, generator: torch.Generator | None = None) -> list[Tensor]:
        """Draw a permutation for every group."""
        return [torch.randperm(size, generator=generator) for size in self.sizes]


def symmetry(module: nn.Module, example: Tensor | Sequence[Tensor]) -> Symmetry:
    """Find which axes of a module's parameters and buffers permute together.

    The module computes the example once, in evaluation mode, on a copy of itself in float64; the
    order of its inputs and outputs is fixed.  Then random permutations are tried: the outputs must
    stay what they were.

    Args:
        module: of any kind; it is left as it was.
        example: the module's inputs, a tensor or several, with rows first.

    Raises:
        SymmetryError: where the module cannot compute the example, or where what was found does
            not leave the function as it is.

    >>> net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    >>> symmetry(net, torch.zeros(1, 2)).sizes
    (3,)
    """
    inputs = tuple(pytree.tree_map_only(Tensor, _double, _tuple(example)))
    twin = copy.deepcopy(module).cpu().double().eval().requires_grad_(False)
    named: dict[str, Tensor] = dict(twin.named_parameters(remove_duplicate=False))
    named |= dict(twin.named_buffers(remove_duplicate=False))
    named = {key: named[key] for key in twin.state_dict() if key in named}
    tracer = Tracer(named, [x for x in inputs if isinstance(x, Tensor)])
    try:
        with torch.no_grad(), step_by_step(), tracer:
            outputs = twin(*inputs)
    except (RuntimeError, TypeError, ValueError, AttributeError, IndexError) as error:
        line = next(iter(str(error).splitlines()), type(error).__name__)
        raise SymmetryError(
            f"the module must compute the example, however: {line}; merge without alignment"
        ) from error
    for leaf in pytree.tree_leaves(outputs):
        if isinstance(leaf, Tensor):
            for axis in tracer.of(leaf):
                freeze(axis)
    buffers = frozenset(dict(twin.named_buffers(remove_duplicate=False)))
    found = _summary(named, tracer, buffers)
    _prove(found, twin, inputs)
    return found


def _summary(named: Mapping[str, Tensor], tracer: Tracer, buffers: frozenset[str]) -> Symmetry:
    """Number the atoms that are left free, and say where they are."""
    groups: dict[Atom, int] = {}

    def layouts(tensor: Tensor) -> tuple[Layout, ...]:
        return tuple(_layout(resolve(axis), groups) for axis in tracer.of(tensor))

    axes = {key: found for key, leaf in named.items() if _moves(found := layouts(leaf))}
    count = len(groups)
    sites = {made: found for made, x in tracer.read.items() if _moves(found := layouts(x))}
    for atom in [*groups][count:]:  # of activations alone: whatever permutes them is no matter
        atom.frozen = True
    sites = {made: found for made in sites if _moves(found := layouts(tracer.read[made]))}
    sizes = tuple(atom.size for atom in [*groups][:count])
    return Symmetry(sizes, axes, tuple(sorted(tracer.unknown)), buffers, sites)


def _moves(layouts: tuple[Layout, ...]) -> bool:
    return any(group is not None for layout in layouts for part in layout for group, _ in part)


def _layout(axis: Axis, groups: dict[Atom, int]) -> Layout:
    return tuple(
        tuple(
            (None if atom.frozen else groups.setdefault(atom, len(groups)), atom.size)
            for atom in segment
        )
        for segment in axis
    )


def permuted(leaf: Tensor, axes: Sequence[Layout], permutations: Sequence[Tensor]) -> Tensor:
    """Return a leaf with its units in another order."""
    for dim, layout in enumerate(axes):
        if (index := index_of(layout, permutations)) is not None:
            leaf = leaf.index_select(dim, index.to(leaf.device))
    return leaf


def index_of(layout: Layout, permutations: Sequence[Tensor]) -> Tensor | None:
    """Return which positions of an axis go where, None where all stay."""
    if all(group is None for segment in layout for group, _ in segment):
        return None
    parts, offset = [], 0
    for segment in layout:
        index = torch.zeros(1, dtype=torch.int64)
        for group, size in segment:
            inner = torch.arange(size) if group is None else permutations[group].cpu()
            index = (index[:, None] * size + inner).reshape(-1)
        parts.append(index + offset)
        offset += len(index)
    return torch.cat(parts)


@torch.no_grad()
def _prove(found: Symmetry, twin: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    """Try random permutations on a module whose numbers are all different from each other."""
    generator = torch.Generator().manual_seed(0)
    state = twin.state_dict()
    noise = {place(leaf): _noisy(leaf, generator) for leaf in state.values()}
    state = {key: noise[place(leaf)] for key, leaf in state.items()}
    noisy = pytree.tree_map_only(Tensor, lambda x: _noisy(x, generator), inputs)
    before = _call(twin, state, noisy)
    turned = found.permute(state, found.random(generator))
    after = _call(twin, turned, noisy)
    for one, other in zip(pytree.tree_leaves(before), pytree.tree_leaves(after), strict=True):
        if isinstance(one, Tensor) and one.is_floating_point():
            apart = float((one - other).abs().max()) if one.numel() else 0.0
            if not apart <= TOLERANCE * (1 + float(one.abs().max() if one.numel() else 0)):
                raise SymmetryError(
                    "permutations must leave the function as it is, however those found change the "
                    f"output by {apart:.3g}; merge without alignment"
                )


def _call(module: nn.Module, state: State, inputs: tuple[Tensor, ...]) -> object:
    return torch.func.functional_call(module, dict(state), inputs, tie_weights=False)


def _noisy(x: Tensor, generator: torch.Generator) -> Tensor:
    """Make numbers differ; variances stay positive."""
    if not x.is_floating_point():
        return x
    return x + 0.3 * torch.rand(x.shape, generator=generator, dtype=x.dtype)


def _double(x: Tensor) -> Tensor:
    return x.detach().cpu().double() if x.is_floating_point() else x.detach().cpu()


def _tuple(example: Tensor | Sequence[Tensor]) -> Sequence[Tensor]:
    return (example,) if isinstance(example, Tensor) else example
