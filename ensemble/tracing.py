"""Which axes of a module's tensors go together, found by watching it compute once.

The module runs on an example, and every operation that reaches the kernels says how the axes of
its results follow from those of its operands.  Control flow, functional calls and modules of any
kind are thereby seen as they are.  What an operation does that is not known here freezes the axes
that it touches.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from ensemble.axes import freeze, fresh
from ensemble.operations import RULES, Axes, broadcast

Made: TypeAlias = tuple[int, int, str]
APPLIED = {"mm", "addmm", "bmm", "baddbmm", "convolution"}  # what applies weights


class Watcher(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch has no types here
    """Sees every operation that reaches the kernels."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Keep PyTorch from importing its compiler, a second or more, at the first operation."""
        return False


class Tracer(Watcher):
    """Follows axes through all that is computed while it is entered.

    Attributes:
        unknown: the operations that froze what they touched.
        read: the results that weights were applied to, by the number of the operation that they
            came from, the number among its results, and its name.
    """

    def __init__(self, named: Mapping[str, Tensor], data: Sequence[Tensor] = ()) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._axes: dict[int, Axes] = {}
        self._alive: list[Tensor] = []  # so that no other tensor gets the identity of a former one
        self._made: dict[int, Made] = {}
        self._count = 0
        self._data = {id(tensor) for tensor in data}  # what follows from the example
        self.unknown: set[str] = set()
        self.read: dict[Made, Tensor] = {}
        for tensor in named.values():
            if id(tensor) not in self._axes:
                self.set(tensor, [fresh(size) for size in tensor.shape])

    def of(self, tensor: Tensor) -> Axes:
        """Return a tensor's axes; those of one that comes from elsewhere are frozen."""
        if id(tensor) not in self._axes:
            self.set(tensor, [fresh(size, frozen=True) for size in tensor.shape])
        return self._axes[id(tensor)]

    def set(self, tensor: Tensor, axes: Axes) -> None:
        """Note a tensor's axes."""
        self._axes[id(tensor)] = axes
        self._alive.append(tensor)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        seen = pytree.tree_map_only(Tensor, self.of, (args, kwargs))
        result = func(*args, **kwargs)
        name = func.overloadpacket.__name__.rstrip("_")
        outputs = [leaf for leaf in pytree.tree_leaves(result) if isinstance(leaf, Tensor)]
        inputs = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        rule = RULES.get(name)
        if name in APPLIED:
            self._note(inputs)
        if rule is not None:
            found = rule(*seen[0], **seen[1], shapes=[tuple(out.shape) for out in outputs])
        elif torch.Tag.pointwise in func.tags or torch.Tag.pointwise in _functional(func):
            found = [broadcast(*map(self.of, inputs))] * len(outputs)
        else:
            if inputs:
                self.unknown.add(name)
            for tensor in inputs:
                for axis in self.of(tensor):
                    freeze(axis)
            found = [[fresh(size, frozen=True) for size in out.shape] for out in outputs]
        follows = any(id(tensor) in self._data for tensor in inputs)
        for number, (out, axes) in enumerate(zip(outputs, found, strict=True)):
            self.set(out, axes)
            self._made[id(out)] = (self._count, number, name)
            self._data |= {id(out)} if follows else set()
        self._count += 1
        return result

    def _note(self, inputs: Sequence[Tensor]) -> None:
        for tensor in inputs:
            if id(tensor) in self._made and id(tensor) in self._data:
                self.read[self._made[id(tensor)]] = tensor


@contextmanager
def step_by_step() -> Iterator[None]:
    """Let PyTorch's attention compute by operations that tell, not by one that does it all."""
    fast = torch.backends.mha.get_fastpath_enabled()
    try:
        torch.backends.mha.set_fastpath_enabled(False)
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def _functional(func: Any) -> Sequence[Any]:
    """Return the tags of the operation that an in-place one is the in-place form of."""
    packet = func.overloadpacket.__name__
    if not packet.endswith("_"):
        return ()
    plain = getattr(getattr(torch.ops.aten, packet.rstrip("_"), None), func._overloadname, None)
    return plain.tags if plain is not None else ()
