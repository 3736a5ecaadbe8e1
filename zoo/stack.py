"""K models of one architecture as plain tensors whose first axis is the member.

All parameters lie in one matrix ``flat_KP``, a row per member: an optimiser updates it with a few
operations however many layers there are, and a member is copied, restored or replaced by its row.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass
class Stack:
    """The values of K members.

    Attributes:
        flat_KP: float (K, P), every parameter of every member.
        params: name -> view (K, *shape) into ``flat_KP``.
        buffers: name -> (K, *shape), such as BatchNorm's running statistics.
        aliases: state-dict key -> the parameter or buffer it names; tied weights share one.
    """

    flat_KP: Tensor
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
        return Stack(flat_KP, _views(flat_KP, shapes), buffers, self.aliases)

    def copy_rows(self, source: "Stack", members_K: Tensor) -> None:
        """Overwrite the members marked in the boolean ``members_K`` with those of ``source``."""
        self.flat_KP[members_K] = source.flat_KP[members_K]
        for name, buffer in self.buffers.items():
            buffer[members_K] = source.buffers[name][members_K]


def stack(modules: Sequence[nn.Module]) -> Stack:
    """Stack modules of one architecture.

    Frozen parameters (``requires_grad=False``) are held as buffers: nothing updates them.

    Args:
        modules: K modules with the same parameters and buffers; their values are copied.

    >>> one = stack([nn.Linear(3, 2), nn.Linear(3, 2)])
    >>> len(one), one.flat_KP.shape, one.params["weight"].shape
    (2, torch.Size([2, 8]), torch.Size([2, 2, 3]))
    """
    first = modules[0]
    trained = {n: p.shape for n, p in first.named_parameters() if p.requires_grad}
    fixed = [name for name, p in first.named_parameters() if not p.requires_grad]
    fixed += [name for name, _ in first.named_buffers()]
    values = [{**dict(m.named_parameters()), **dict(m.named_buffers())} for m in modules]
    rows = [torch.cat([named[name].detach().reshape(-1) for name in trained]) for named in values]
    flat_KP = torch.stack(rows)
    buffers = {name: torch.stack([named[name].detach() for named in values]) for name in fixed}
    return Stack(flat_KP, _views(flat_KP, trained), buffers, _aliases(first))


def _views(flat_KP: Tensor, shapes: Mapping[str, torch.Size]) -> dict[str, Tensor]:
    pieces = torch.split(flat_KP, [shape.numel() for shape in shapes.values()], dim=1)
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
