"""Record a function's tensor operations once, then replay them without Python's layers.

A training step is the same straight line of tensor operations every time, yet PyTorch finds it
anew at each step: modules, ``vmap`` and autograd together take several times longer than the
arithmetic of a small network.  :func:`record` runs the function once below all of these, where
only plain operations on plain tensors remain, drops those that do nothing, and writes the rest as
one Python function.

The recording holds for inputs of the same shapes, strides and dtypes.  What cannot be recorded
(a branch on a tensor's value, random numbers of unknown kind) raises :class:`NotRecordableError`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from zoo import noise
from zoo.passes import allocated, joined, overwriting, split
from zoo.program import NotRecordableError, Operation, Replay, compiled, simplified

aten = torch.ops.aten


class Recorder(noise.Watcher):
    """Notes every operation that reaches the kernels; draws random numbers from ``seed_K``."""

    def __init__(self, seed_K: Tensor, *, turn: bool) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch has no types here
        self.operations: list[Operation] = []
        self.turn = turn
        self.stream = noise.Stream(seed_K)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if torch.Tag.data_dependent_output in func.tags:
            raise NotRecordableError("it branches on, or reads out, the value of a tensor")
        if torch.Tag.dynamic_output_shape in func.tags:
            raise NotRecordableError(f"the shape of the result of {func} depends on values")
        if noise.is_random(func, args):
            with self:  # the replacement is made of operations that are recorded in turn
                drawn = self.stream.draw(func, args, kwargs)
            if drawn is None:
                raise NotRecordableError(f"it draws random numbers by {func}")
            return drawn
        if func is aten.lift_fresh.default:  # a tensor of numbers, made anew at each call
            return self._carry_out(aten.clone.default, (args[0].clone(),), {})
        if self.turn and func in PRODUCTS and not kwargs and _better_transposed(*args[-2:]):
            with self:
                bias = [_column(bias) for bias in args[:-2]]
                left, right = args[-1].mT, args[-2].mT
            product = self._carry_out(func, (*bias, left, right), {})
            with self:
                return product.mT
        return self._carry_out(func, args, kwargs)

    def _carry_out(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        result = func(*args, **kwargs)
        self.operations.append((func, args, kwargs, result))
        return result


def record(function: Callable[..., Any], inputs: Sequence[Tensor], seed_K: Tensor) -> Replay:
    """Record ``function(*inputs)`` and return a fast function of the same tensors.

    The function returned takes ``(*inputs, seed_K)`` and returns the flat list of the tensors
    that ``function`` returned.  Inputs that ``function`` writes in place are written in place.

    Args:
        function: maps tensors to a tree of tensors; may run autograd and ``vmap`` inside.
        inputs: example tensors; their shapes, strides and dtypes are built into the recording.
        seed_K: int64 (K,), one seed per member, from which all random numbers are derived.

    Raises:
        NotRecordableError: where the function branches on values, or draws random numbers of a kind
            that :mod:`zoo.noise` does not know.

    >>> x = torch.tensor([1.0, -2.0])
    >>> double = record(lambda x: (x * 2).relu(), [x], torch.zeros(1, dtype=torch.int64))
    >>> double(torch.tensor([-3.0, 4.0]), torch.zeros(1, dtype=torch.int64))
    [tensor([0., 8.])]
    """
    operations, results = _watched(function, inputs, seed_K, turn=True)
    program = simplified(operations, [*inputs, seed_K], results, fold=True)
    return compiled(overwriting(program))


@dataclass(frozen=True)
class Forward:
    """A function of values and any number of rows, in two parts.

    Attributes:
        prepare: takes the values, such as weights, and returns what ``run`` needs of them.
        run: takes ``(x_N, *prepared)``, and returns the flat list of the function's results.
        row_bytes: what ``run`` allocates for each row, at most.
    """

    prepare: Replay
    run: Replay
    row_bytes: int


def record_rows(
    function: Callable[..., Any], values: Sequence[Tensor], x_N: Tensor, counts: tuple[int, int]
) -> Forward:
    """Record ``function(*values, x_N)`` for any number of rows, apart from what needs no rows.

    It is recorded twice, with so many rows each; sizes that differ between the two grow with the
    rows.

    Args:
        function: maps tensors to a tree of tensors, and writes none of those it is given.
        values: example values.
        x_N: example rows, at least one.
        counts: two numbers of rows, each at least 2, such as it will be used with: products are
            turned round where both are at least 16.

    Raises:
        NotRecordableError: where the function branches on values, draws random numbers, does
            something else for other numbers of rows, or writes what it is given.

    >>> w, x = torch.tensor([0.0]), torch.ones(1, 3)
    >>> forward = record_rows(lambda w, x: x.sum(1) * w.exp(), [w], x, (2, 3))
    >>> forward.prepare(w), forward.run(torch.ones(4, 3), *forward.prepare(w))
    ([tensor([1.])], [tensor([3., 3., 3., 3.])])
    """
    programs = []
    no_seeds = torch.zeros(0, dtype=torch.int64)
    for count in counts:
        inputs = [*values, x_N[torch.arange(count, device=x_N.device) % len(x_N)]]
        operations, results = _watched(function, inputs, no_seeds, turn=min(counts) >= NARROW)
        programs.append(simplified(operations, inputs, results, fold=False))
    prepare, run = split(joined(programs[0], programs[1], counts))
    row_bytes = -(-allocated(run) // counts[0])
    return Forward(compiled(prepare), compiled(overwriting(run)), row_bytes)


def _watched(
    function: Callable[..., Any], inputs: Sequence[Tensor], seed_K: Tensor, *, turn: bool
) -> tuple[list[Operation], list[Tensor]]:
    """Run the function; return its operations and its results."""
    try:
        with Recorder(seed_K, turn=turn) as recorder:
            results = pytree.tree_leaves(function(*inputs))
    except NotRecordableError:
        raise
    except RuntimeError:  # a view that the turned products do not allow, or a true error
        if not turn:
            raise
        return _watched(function, inputs, seed_K, turn=False)
    return recorder.operations, results


def _column(bias: Tensor) -> Tensor:
    """Turn what is added to a product round, as the product is."""
    return bias.unsqueeze(-1) if bias.ndim == 1 else bias.mT


def _better_transposed(a: Tensor, b: Tensor) -> bool:
    """Tell whether ``b.T @ a.T`` is the faster way to the product of ``a`` and ``b``.

    Narrow results (10 classes, say) are computed up to ten times faster as short fat ones.  And
    the gradient of a weight, ``x.T @ g``, is wanted transposed by autograd, which then copies it.
    Not so the gradient of what came into a narrow layer: its few outputs are the inner axis, and
    a result laid out otherwise than the activations would slow everything that meets them.
    """
    rows, columns = a.shape[-2], b.shape[-1]
    if min(rows, columns) < NARROW:
        return columns < rows
    return a.stride(-1) != 1 and b.stride(-1) == 1 and a.shape[-1] >= NARROW


NARROW = 16
PRODUCTS = {aten.mm.default, aten.bmm.default, aten.addmm.default, aten.baddbmm.default}
