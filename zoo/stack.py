"""K models of one architecture as plain tensors whose first axis is the member.

All parameters lie in one matrix ``flat_KP``, a row per member: an optimiser updates it with a few
operations however many layers there are, and a member is copied, restored or replaced by its row.
Weights (two or more axes) come first in a row, biases and norms last, so that what penalties and
weight decay act on is the slice ``flat_KP[:, :weights]``.

A row is filled up with zeros to whole cache lines.  So no vector instruction reaches from one
member into the next, and the same kernel over one row or over many gives the same bits.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

LINE = 16  # float32 numbers in a cache line of 64 bytes, the widest vector there is


@dataclass(eq=False)
class Stack:
    """The values of K members; two stacks are equal where they are the same.

    Attributes:
        flat_KP: float (K, P), every parameter of every member, and zeros up to whole lines.
        weights: how many of the P numbers belong to weights; these lie first.
        params: name -> view (K, *shape) into ``flat_KP``.
        buffers: name -> (K, *shape), such as BatchNorm's running statistics.
        aliases: state-dict key -> the parameter or buffer it names; tied weights share one.
    """

    flat_KP: Tensor
    weights: int
    params: dict[str, Tensor]
    buffers: dict[str, Tensor]
    aliases: dict[str, str]

    def __len__(self) -> int:
        return len(self.flat_KP)

    def state(self, k: int) -> dict[str, Tensor]:
        """Return a copy of member ``k`` as a state dict; tied weights stay tied."""
        named = {**self.params, **self.buffers}
        rows = {name: named[name][k].clone() for name in set(self.aliases.values())}
        return {key: rows[name] for key, name in self.aliases.items()}

    def put(self, k: int, module: nn.Module) -> None:
        """Overwrite member ``k`` with the values of a module, all its buffers included."""
        values = {**dict(module.named_parameters()), **dict(module.named_buffers())}
        for name, rows in {**self.params, **self.buffers}.items():
            rows[k] = values[name].detach()

    def take(self, members: Sequence[int]) -> "Stack":
        """Return a copy that holds only the given members, in this order."""
        index = torch.tensor(members, device=self.flat_KP.device)
        flat_KP = self.flat_KP[index]
        buffers = {name: buffer[index] for name, buffer in self.buffers.items()}
        shapes = {name: view.shape[1:] for name, view in self.params.items()}
        return Stack(flat_KP, self.weights, _views(flat_KP, shapes), buffers, self.aliases)

    def narrow(self, start: int, stop: int) -> "Stack":
        """Return the members from ``start`` to ``stop`` as views of the same values."""
        return Stack(
            self.flat_KP[start:stop],
            self.weights,
            {name: view[start:stop] for name, view in self.params.items()},
            {name: buffer[start:stop] for name, buffer in self.buffers.items()},
            self.aliases,
        )

    def rows(self) -> dict[str, Tensor]:
        """Return all values, the member first."""
        return {"flat": self.flat_KP, **self.buffers}


def copy_rows(
    target: Mapping[str, Tensor], source: Mapping[str, Tensor], members: Sequence[int]
) -> None:
    """Copy members from some tensors, the member first, to others of the same names."""
    for name, values in target.items():
        if len(members) == len(values):
            values.copy_(source[name])
        else:
            for k in members:
                values[k].copy_(source[name][k])


def stack(modules: Sequence[nn.Module]) -> Stack:
    """Stack modules of one architecture.

    Frozen parameters (``requires_grad=False``) are held as buffers: nothing updates them.

    Args:
        modules: K modules with the same parameters and buffers; their values are copied.

    >>> one = stack([nn.Linear(3, 2), nn.Linear(3, 2)])
    >>> len(one), one.flat_KP.shape, one.params["weight"].shape
    (2, torch.Size([2, 16]), torch.Size([2, 2, 3]))
    """
    first = modules[0]
    ordered = sorted(first.named_parameters(), key=lambda item: item[1].ndim < 2)
    trained = {name: p.shape for name, p in ordered if p.requires_grad}
    fixed = [name for name, p in first.named_parameters() if not p.requires_grad]
    fixed += [name for name, _ in first.named_buffers()]
    values = [{**dict(m.named_parameters()), **dict(m.named_buffers())} for m in modules]
    flat_KP = torch.stack([flat(named[name].detach() for name in trained) for named in values])
    buffers = {name: torch.stack([named[name].detach() for named in values]) for name in fixed}
    weights = sum(shape.numel() for shape in trained.values() if len(shape) >= 2)
    return Stack(flat_KP, weights, _views(flat_KP, trained), buffers, _aliases(first))


def flat(
    tensors: Iterable[Tensor], members: int | None = None, out: Tensor | None = None
) -> Tensor:
    """Lay tensors out as a row (P,) of a stack, or as ``members`` rows of (K, ...) ones: (K, P).

    >>> flat([torch.ones(2, 3), torch.ones(4)]).shape, flat([torch.ones(2, 20)], 2).shape
    (torch.Size([16]), torch.Size([2, 32]))
    """
    lead = () if members is None else (members,)
    pieces = [tensor.reshape(*lead, -1) for tensor in tensors]
    missing = -sum(piece.shape[-1] for piece in pieces) % LINE
    return torch.cat([*pieces, pieces[0].new_zeros(*lead, missing)], dim=-1, out=out)


def _views(flat_KP: Tensor, shapes: Mapping[str, torch.Size]) -> dict[str, Tensor]:
    sizes = [shape.numel() for shape in shapes.values()]
    pieces = torch.split(flat_KP[:, : sum(sizes)], sizes, dim=1)
    return {
        name: piece.view(len(flat_KP), *shape)
        for (name, shape), piece in zip(shapes.items(), pieces, strict=True)
    }


def _aliases(module: nn.Module) -> dict[str, str]:
    """Map each key of the module's state dict to the name under which a stack holds it."""
    canonical = {
        id(tensor): name
        for named in (module.named_parameters(), module.named_buffers())
        for name, tensor in named
    }
    return {key: canonical[id(t)] for key, t in module.state_dict(keep_vars=True).items()}
