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
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from zoo import noise

aten = torch.ops.aten
Operation = tuple[Any, tuple[Any, ...], dict[str, Any], Any]

CREATES = {
    aten.zeros.default,
    aten.ones.default,
    aten.full.default,
    aten.scalar_tensor.default,
    aten.arange.default,
    aten.zeros_like.default,
    aten.ones_like.default,
    aten.full_like.default,
    aten.new_zeros.default,
    aten.new_ones.default,
    aten.new_full.default,
}


class NotRecordableError(RuntimeError):
    """The function cannot be replayed as a straight line of tensor operations."""


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
        if self.turn and func is aten.bmm.default and _better_transposed(*args):
            with self:
                left, right = args[1].mT, args[0].mT
            product = self._carry_out(func, (left, right), {})
            with self:
                return product.mT
        return self._carry_out(func, args, kwargs)

    def _carry_out(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        result = func(*args, **kwargs)
        self.operations.append((func, args, kwargs, result))
        return result


def record(
    function: Callable[..., Any], inputs: Sequence[Tensor], seed_K: Tensor
) -> Callable[..., list[Tensor]]:
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
    try:
        with Recorder(seed_K, turn=True) as recorder:
            results = pytree.tree_leaves(function(*inputs))
    except NotRecordableError:
        raise
    except RuntimeError:  # a view that the turned products do not allow, or a true error
        with Recorder(seed_K, turn=False) as recorder:
            results = pytree.tree_leaves(function(*inputs))
    return _compile(_simplify(recorder.operations, [*inputs, seed_K], results))


class _Program:
    """A straight line of operations over numbered tensors; constants are kept by number."""

    def __init__(self, inputs: list[int], constants: dict[int, Tensor]) -> None:
        self.inputs = inputs
        self.constants = constants
        self.lines: list[tuple[Any, Any, Any, list[int | None], bool]] = []
        self.results: list[int] = []


def _simplify(operations: list[Operation], inputs: list[Tensor], results: list[Tensor]) -> _Program:
    """Number the tensors, merge those that are the same, and drop what nobody uses."""
    written = {
        _storage(tensor)
        for func, args, kwargs, _ in operations
        for tensor in _mutated(func, args, kwargs)
    }
    number: dict[int, int] = {}  # id of a tensor -> its number
    place: dict[Any, int] = {}  # where a tensor lies -> the first number that lies there
    known: dict[Any, int] = {}  # an operation and its arguments -> its result
    program = _Program([], {})
    count = 0

    def new(tensor: Tensor) -> int:
        nonlocal count
        count += 1
        number[id(tensor)] = count
        place.setdefault(_place(tensor), count)
        return count

    def find(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        if id(value) not in number:
            program.constants[new(value)] = value
        return _Slot(number[id(value)])

    program.inputs = [new(tensor) for tensor in inputs]
    for func, args, kwargs, result in operations:
        outputs = pytree.tree_leaves(result)
        mutates = bool(_mutated(func, args, kwargs))
        leaves = pytree.tree_leaves((args, kwargs, result))
        touched = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        slots = pytree.tree_map(find, (args, kwargs))
        key = None
        if len(outputs) == 1 and isinstance(outputs[0], Tensor):
            (only,) = outputs
            if not mutates and _place(only) in place:  # a view of what is there
                number[id(only)] = place[_place(only)]
                continue
            if not any(_storage(tensor) in written for tensor in touched):
                if func is aten.mul.Scalar and args[1] == 1 and _layout(only) == _layout(args[0]):
                    number[id(only)] = slots[0][0].number
                    continue
                if func in CREATES:
                    program.constants[new(only)] = only
                    continue
                key = (func, repr(slots))
                if key in known:
                    number[id(only)] = known[key]
                    continue
        targets = [
            (number.get(id(output)) or new(output)) if isinstance(output, Tensor) else None
            for output in outputs
        ]
        if key is not None and targets[0] is not None:
            known[key] = targets[0]
        program.lines.append((func, *slots, targets, mutates))
    for result in results:
        slot = find(result)
        own = slot.number not in {*program.inputs, *program.constants}
        if not own and not any(result is tensor for tensor in inputs):  # not the caller's to share
            count += 1
            program.lines.append((aten.clone.default, (slot,), {}, [count], False))
            slot = _Slot(count)
        program.results.append(slot.number)
    return _prune(program)


def _prune(program: _Program) -> _Program:
    """Drop the operations whose results nobody uses."""
    needed = set(program.results)
    kept = []
    for line in reversed(program.lines):
        _, args, kwargs, targets, mutates = line
        if mutates or any(target in needed for target in targets):
            kept.append(line)
            needed |= {leaf.number for leaf in _slots((args, kwargs))}
    program.lines = kept[::-1]
    program.constants = {n: t for n, t in program.constants.items() if n in needed}
    return program


def _compile(program: _Program) -> Callable[..., list[Tensor]]:
    """Write the program as one Python function that frees each tensor after its last use."""
    last: dict[int, int] = {}
    for index, (_, args, kwargs, targets, _) in enumerate(program.lines):
        for used in [*(leaf.number for leaf in _slots((args, kwargs))), *filter(None, targets)]:
            last[used] = index
    keep = {*program.results, *program.constants, *program.inputs}
    scope: dict[str, Any] = {f"t{n}": t for n, t in program.constants.items()}
    text = [f"def replay({', '.join(f't{n}' for n in program.inputs)}):"]
    for index, (func, args, kwargs, targets, _) in enumerate(program.lines):
        scope[f"f{index}"] = _quick(func)
        values = [_source(arg, scope) for arg in args]
        values += [f"{key}={_source(value, scope)}" for key, value in kwargs.items()]
        names = ", ".join("_" if target is None else f"t{target}" for target in targets)
        text.append(f"    {f'{names} = ' if names else ''}f{index}({', '.join(values)})")
        dead = [n for n, at in last.items() if at == index and n not in keep]
        if dead:
            text.append(f"    del {', '.join(f't{n}' for n in dead)}")
    text.append(f"    return [{', '.join(f't{n}' for n in program.results)}]")
    exec("\n".join(text), scope)
    replay: Callable[..., list[Tensor]] = scope["replay"]
    return replay


class _Slot:
    """Stands for a numbered tensor among the arguments of an operation."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __repr__(self) -> str:
        return f"t{self.number}"


def _slots(tree: Any) -> list[_Slot]:
    return [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, _Slot)]


def _source(value: Any, scope: dict[str, Any]) -> str:
    """Write an argument as source text; what has no literal goes into the scope."""
    if isinstance(value, list | tuple):
        inner = "".join(f"{_source(item, scope)}, " for item in value)
        return f"[{inner}]"
    if value is None or isinstance(value, bool | int | _Slot):
        return repr(value)
    name = f"c{len(scope)}"
    scope[name] = value
    return name


def _quick(func: Any) -> Any:
    """Return the shortest way into the operation: ``torch.bmm`` rather than ``aten.bmm.default``.

    The functions in ``torch`` parse their arguments in C++, in half the time of ``torch.ops``.
    """
    return QUICK.get(func, func._op)


QUICK = {
    aten.bmm.default: torch.bmm,
    aten.mm.default: torch.mm,
    aten.relu.default: torch.relu,
    aten.add.Tensor: torch.add,
    aten.sub.Tensor: torch.sub,
    aten.mul.Tensor: torch.mul,
    aten.div.Tensor: torch.div,
    aten.neg.default: torch.neg,
    aten.transpose.int: torch.transpose,
    aten.unsqueeze.default: torch.unsqueeze,
    aten.view.default: Tensor.view,
    aten._unsafe_view.default: Tensor.view,
    aten.expand.default: Tensor.expand,
    aten.permute.default: torch.permute,
    aten.sum.dim_IntList: torch.sum,
    aten.mean.dim: torch.mean,
    aten.cat.default: torch.cat,
    aten.gather.default: torch.gather,
}


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


def _mutated(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor]:
    """List the tensors that an operation writes."""
    hidden = STATISTICS if func in WRITE_STATISTICS and args[5] else ()
    values = [
        args[position] if position < len(args) else kwargs.get(argument.name)
        for position, argument in enumerate(func._schema.arguments)
        if position in hidden or (argument.alias_info is not None and argument.alias_info.is_write)
    ]
    return [leaf for leaf in pytree.tree_leaves(values) if isinstance(leaf, Tensor)]


# Batch norm writes its running statistics in training, which its schema does not say.
WRITE_STATISTICS = {
    getattr(aten, name).default
    for name in ("native_batch_norm", "cudnn_batch_norm", "miopen_batch_norm")
}
STATISTICS = (3, 4)


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _layout(tensor: Tensor) -> Any:
    return tuple(tensor.shape), tensor.stride(), tensor.dtype


def _place(tensor: Tensor) -> Any:
    return _storage(tensor), tensor.storage_offset(), _layout(tensor)
