"""Linear and convolutional layers of a module: which may be rescaled, and who reads them."""

from collections import Counter
from typing import TypeAlias, get_args

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._pytree import tree_leaves

Transposed: TypeAlias = nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d
Layer: TypeAlias = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d | Transposed
FORWARDS = {kind.forward for kind in get_args(Layer)}


def axis(layer: Layer, output: Tensor) -> int:
    """Return the axis of a layer's output that is its channels, from 0."""
    return output.ndim - 1 - len(getattr(layer, "kernel_size", ()))


def left(module: nn.Module, twin: nn.Module, x_N: Tensor) -> dict[str, str]:
    """Say for every layer that cannot be rescaled, or need not be, why.

    A forward pass in eval mode tells how often layers are called, and the graph that autograd makes
    of it who reads what they give.

    Args:
        module: whose layers; it is only looked at.
        twin: its copy; it is called, and must not be used again.
        x_N: some rows.

    >>> from copy import deepcopy
    >>> net = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 1))
    >>> left(net, deepcopy(net).eval(), torch.zeros(2, 2))
    {'0': 'only BatchNorm reads it'}
    """
    uses = Counter(id(p) for _, p in module.named_parameters(remove_duplicate=False))
    gave: dict[nn.Module, list[Node | None]] = {}
    for part in twin.modules():
        if isinstance(part, Layer | _BatchNorm):
            gave[part] = []
            part.register_forward_hook(lambda part, _, out: gave[part].append(out.grad_fn))
    for parameter in twin.parameters():
        parameter.requires_grad_(parameter.is_floating_point() or parameter.is_complex())
    with torch.enable_grad():
        readers = _readers(twin(x_N))
    by_norm = {
        node for part, nodes in gave.items() if isinstance(part, _BatchNorm) for node in nodes
    }
    reasons = {}
    for name, part in module.named_modules():
        if not isinstance(part, Layer):
            continue
        calls = gave[twin.get_submodule(name)]
        own = {kind: part._parameters.get(kind) for kind in ("weight", "bias")}
        if type(part).forward not in FORWARDS:
            reasons[name] = "it has a forward of its own"
        elif any(own[kind] is not getattr(part, kind) for kind in own):
            reasons[name] = "its weights are computed from others"
        elif any(uses[id(parameter)] > 1 for parameter in own.values()):
            reasons[name] = "it shares parameters with another layer"
        elif len(calls) != 1:
            reasons[name] = f"it is called {len(calls)} times for a batch"
        elif (read_by := readers.get(calls[0])) and read_by <= by_norm:
            reasons[name] = "only BatchNorm reads it"
    return reasons


def _readers(outputs: object) -> dict[Node | None, set[Node]]:
    """Return, for every node of the autograd graph of some outputs, the nodes that read it."""
    readers: dict[Node | None, set[Node]] = {}
    ahead = [leaf.grad_fn for leaf in tree_leaves(outputs) if isinstance(leaf, Tensor)]
    seen = set(ahead)
    while ahead:
        node = ahead.pop()
        for child, _ in node.next_functions if node else ():
            if child is None or node is None:
                continue
            readers.setdefault(child, set()).add(node)
            if child not in seen:
                seen.add(child)
                ahead.append(child)
    return readers
