"""What the layers of a network read, as the other side of its weights.

Units correspond where they say the same of the same samples: their correlations do not depend on
the order of either network's units, nor on how other layers are permuted (Li et al. 2015,
Convergent learning, arXiv:1511.07543; Ainsworth et al. 2023, Git Re-Basin, arXiv:2209.04836,
section 3.1).
"""

import copy
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ensemble.errors import NonFiniteError, SymmetryError, listing
from ensemble.functional import Batch, inputs_of, refuse_misfit
from ensemble.state import State, check
from ensemble.symmetries import Layout, Symmetry
from ensemble.tracing import Made, Watcher, step_by_step

POSITIONS = 16_384  # samples times places in them that are looked at, at most, in all batches


class _Recorder(Watcher):
    """Keeps the results of operations, by their numbers."""

    def __init__(self, wanted: Iterable[Made]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.wanted = {made[:2]: made for made in wanted}
        self.found: dict[Made, Tensor] = {}
        self.count = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        leaves = [leaf for leaf in pytree.tree_leaves(result) if isinstance(leaf, Tensor)]
        for number, leaf in enumerate(leaves):
            made = self.wanted.get((self.count, number))
            if made and made[2] == func.overloadpacket.__name__.rstrip("_"):
                self.found[made] = leaf.clone()  # it may be changed in place
        self.count += 1
        return result


@torch.no_grad()
def activations(
    module: nn.Module, states: Sequence[State], batches: Iterable[Batch], symmetry: Symmetry
) -> list[dict[str, Tensor]]:
    """Return what the layers of each member read of the batches, standardised.

    Args:
        module: lends its architecture, and is left as it was.
        states: the members, on the device of the batches.
        batches: as for :func:`~ensemble.recalibration.recalibrate`; a few thousand rows will do.
        symmetry: the module's.

    Returns:
        for each member, name of the site -> (samples and places, units): every unit with mean 0
        and, unless it is constant, squares that sum to 1.

    Raises:
        StateMismatchError: for states that do not fit each other or the module.
        NonFiniteError: for states, or activations, that hold NaN or infinity.
        EmptyError: without members or batches.
        SymmetryError: where the computation is not the one that was traced.

    >>> from ensemble import symmetry
    >>> net, x = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1)), torch.randn(5, 2)
    >>> (read,) = activations(net, [net.state_dict()], [x], symmetry(net, x))
    >>> [units.shape for units in read.values()]
    [torch.Size([5, 3])]
    """
    members = check(states)
    refuse_misfit(module, members[:1])
    given = list(inputs_of(batches, "activations need"))
    most = max(1, POSITIONS // len(given))
    twin = copy.deepcopy(module).eval()
    told = []
    for k, state in enumerate(members):
        read: dict[Made, list[Tensor]] = {made: [] for made in symmetry.sites}
        for x in given:
            with step_by_step(), _Recorder(symmetry.sites) as recorder:
                torch.func.functional_call(twin, dict(state), (x,), tie_weights=False)
            missing = symmetry.sites.keys() - recorder.found.keys()
            if missing:
                raise SymmetryError(
                    "activations are found by the order of operations, however the module computes "
                    f"otherwise than it was traced, such as at {min(missing)}; align by weights"
                )
            for made, axes in symmetry.sites.items():
                read[made].append(_rows(recorder.found[made], axes, most))
        told.append({name(made): _standardised(torch.cat(rows)) for made, rows in read.items()})
        if bad := [repr(site) for site, leaf in told[k].items() if not bool(leaf.isfinite().all())]:
            raise NonFiniteError(
                f"activations must be finite, however, in member #{k}, they are not: {listing(bad)}"
            )
    return told


def layouts(symmetry: Symmetry) -> dict[str, tuple[Layout, ...]]:
    """Return the layouts of :func:`activations`, as those of the leaves of a state."""
    rows: Layout = ()
    return {name(made): (rows, _units(axes)[1]) for made, axes in symmetry.sites.items()}


def name(made: Made) -> str:
    """Name a site."""
    number, output, operation = made
    return f"{operation} {number}.{output}"


def _units(axes: tuple[Layout, ...]) -> tuple[int, Layout]:
    """Say which axis of an activation holds units: the last one that anything permutes."""
    for dim in reversed(range(len(axes))):
        if any(group is not None for part in axes[dim] for group, _ in part):
            return dim, axes[dim]
    raise AssertionError("sites have units")


def _rows(x: Tensor, axes: tuple[Layout, ...], most: int) -> Tensor:
    """Return samples and places (at most so many, the same of every member) by units."""
    dim, _ = _units(axes)
    flat = x.movedim(dim, -1).reshape(-1, x.shape[dim]).float()
    if len(flat) <= most:
        return flat
    generator = torch.Generator().manual_seed(len(flat))
    return flat[torch.randperm(len(flat), generator=generator)[:most].to(flat.device)]


def _standardised(flat: Tensor) -> Tensor:
    flat = flat - flat.mean(0)
    norms = flat.norm(dim=0)
    return flat / torch.where(norms > 1e-6 * (1 + norms.max()), norms, torch.inf)
