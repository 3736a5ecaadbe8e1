"""Straight lines of tensor operations: simplified, and written as one Python function.

:mod:`zoo.tape` records them.  A :class:`Program` numbers its tensors, and keeps of each where it
lay and how, so that views, copies and writes can be told apart after the tensors are gone.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

aten = torch.ops.aten
Operation = tuple[Any, tuple[Any, ...], dict[str, Any], Any]
Replay = Callable[..., list[Tensor]]
T = TypeVar("T")

CREATES = {  # whose results depend on no value
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


@dataclass(frozen=True)
class Slot:
    """Stands for a numbered tensor among the arguments of an operation."""

    number: int

    def __repr__(self) -> str:
        return f"t{self.number}"


@dataclass(frozen=True)
class Size:
    """Stands for ``slope * rows + offset`` among them: another number for other rows."""

    slope: int
    offset: int

    def __repr__(self) -> str:
        return f"{self.slope} * rows + {self.offset}"


@dataclass(frozen=True)
class Line:
    """One operation.

    Attributes:
        func: the operation.
        args: its arguments, tensors as slots.
        kwargs: those by name.
        targets: the numbers of its results, None for what is no tensor.
        mutates: whether it writes any of its arguments.
        pure: whether nobody writes what it reads or returns, ever.
    """

    func: Any
    args: Any
    kwargs: Any
    targets: list[int | None]
    mutates: bool
    pure: bool

    def reads(self) -> set[int]:
        """Return the numbers of its arguments."""
        return {slot.number for slot in leaves((self.args, self.kwargs), Slot)}


@dataclass(frozen=True)
class Fact:
    """Which memory a tensor was, and its shape, strides and dtype."""

    storage: int
    layout: Any


@dataclass
class Program:
    """Operations over numbered tensors.

    Attributes:
        inputs: what it is given.
        constants: what it keeps.
        lines: what it does, in this order.
        results: what it returns.
        facts: of every tensor, as it was recorded.
        rows: the input whose length is the number of rows that sizes depend on.
    """

    inputs: list[int]
    constants: dict[int, Tensor] = field(default_factory=dict)
    lines: list[Line] = field(default_factory=list)
    results: list[int] = field(default_factory=list)
    facts: dict[int, Fact] = field(default_factory=dict)
    rows: int | None = None


def simplified(
    operations: Sequence[Operation],
    inputs: Sequence[Tensor],
    results: Sequence[Tensor],
    *,
    fold: bool,
) -> Program:
    """Number the tensors, merge those that are the same, and drop what nobody uses.

    Args:
        operations: with their results.
        inputs: what the program will be given.
        results: what it will return.
        fold: whether to keep what is made of nothing as constants, which have the sizes of now.
    """
    written = {
        storage(tensor)
        for func, args, kwargs, _ in operations
        for tensor in mutated(func, args, kwargs, Tensor)
    }
    number: dict[int, int] = {}  # id of a tensor -> its number
    place: dict[Any, int] = {}  # where a tensor lies -> the first number that lies there
    known: dict[Any, int] = {}  # an operation and its arguments -> its result
    made: set[int] = set()  # of nothing
    program = Program([])

    def new(tensor: Tensor) -> int:
        number[id(tensor)] = count = len(program.facts) + 1
        program.facts[count] = Fact(storage(tensor), _layout(tensor))
        place.setdefault(_place(tensor), count)
        return count

    def find(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        if id(value) not in number:
            program.constants[new(value)] = value
        return Slot(number[id(value)])

    program.inputs = [new(tensor) for tensor in inputs]
    for func, args, kwargs, result in operations:
        outputs = pytree.tree_leaves(result)
        mutates = bool(mutated(func, args, kwargs, Tensor))
        touched = leaves((args, kwargs, result), Tensor)
        pure = not mutates and not any(storage(tensor) in written for tensor in touched)
        slots: Any = pytree.tree_map(find, (args, kwargs))
        key = None
        if len(outputs) == 1 and isinstance(outputs[0], Tensor):
            (only,) = outputs
            if not mutates and _place(only) in place:  # a view of what is there
                number[id(only)] = place[_place(only)]
                continue
            if pure:
                if func is aten.mul.Scalar and args[1] == 1 and _layout(only) == _layout(args[0]):
                    number[id(only)] = slots[0][0].number
                    continue
                reads = {slot.number for slot in leaves(slots, Slot)}
                if fold and (func in CREATES or (reads and reads <= made)):
                    made.add(new(only))
                    program.constants[number[id(only)]] = only
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
        program.lines.append(Line(func, slots[0], slots[1], targets, mutates, pure))
    for result in results:
        slot = find(result)
        own = slot.number not in {*program.inputs, *program.constants}
        if not own and not any(result is tensor for tensor in inputs):  # not the caller's to share
            copy = len(program.facts) + 1
            program.facts[copy] = program.facts[slot.number]
            program.lines.append(Line(aten.clone.default, (slot,), {}, [copy], False, False))
            slot = Slot(copy)
        program.results.append(slot.number)
    return pruned(program)


def pruned(program: Program) -> Program:
    """Drop the operations whose results nobody uses."""
    needed = set(program.results)
    kept = []
    for line in reversed(program.lines):
        if line.mutates or any(target in needed for target in line.targets):
            kept.append(line)
            needed |= line.reads()
    constants = {n: tensor for n, tensor in program.constants.items() if n in needed}
    return replace(program, lines=kept[::-1], constants=constants)


def compiled(program: Program) -> Replay:
    """Write the program as one Python function that frees each tensor after its last use."""
    last: dict[int, int] = {}
    for index, line in enumerate(program.lines):
        for used in [*line.reads(), *filter(None, line.targets)]:
            last[used] = index
    keep = {*program.results, *program.constants, *program.inputs}
    scope: dict[str, Any] = {f"t{n}": t for n, t in program.constants.items()}
    text = [f"def replay({', '.join(f't{n}' for n in program.inputs)}):"]
    if program.rows is not None:
        text.append(f"    rows = t{program.rows}.shape[0]")
    for index, line in enumerate(program.lines):
        scope[f"f{index}"] = _quick(line.func)
        values = [_source(arg, scope) for arg in line.args]
        values += [f"{key}={_source(value, scope)}" for key, value in line.kwargs.items()]
        names = ", ".join("_" if target is None else f"t{target}" for target in line.targets)
        text.append(f"    {f'{names} = ' if names else ''}f{index}({', '.join(values)})")
        dead = [n for n, at in last.items() if at == index and n not in keep]
        if dead:
            text.append(f"    del {', '.join(f't{n}' for n in dead)}")
    text.append(f"    return [{', '.join(f't{n}' for n in program.results)}]")
    exec("\n".join(text), scope)
    replay: Replay = scope["replay"]
    return replay


def leaves(tree: Any, kind: type[T]) -> list[T]:
    """List what is of a kind in a tree."""
    return [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, kind)]


def _source(value: Any, scope: dict[str, Any]) -> str:
    """Write an argument as source text; what has no literal goes into the scope."""
    if isinstance(value, list | tuple):
        inner = "".join(f"{_source(item, scope)}, " for item in value)
        return f"[{inner}]"
    if value is None or isinstance(value, bool | int | Slot | Size):
        return repr(value)
    name = f"c{len(scope)}"
    scope[name] = value
    return name


def _quick(func: Any) -> Any:
    """Return the shortest way into the operation: ``torch.bmm`` rather than ``aten.bmm.default``.

    The functions in ``torch`` parse their arguments in C++, in half the time of ``torch.ops``.
    """
    return QUICK.get(func) or getattr(func, "_op", func)


QUICK = {
    aten.addmm.default: torch.addmm,
    aten.baddbmm.default: torch.baddbmm,
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


def mutated(func: Any, args: Any, kwargs: Any, kind: type[T]) -> list[T]:
    """List the tensors, or their slots, that an operation writes."""
    hidden = STATISTICS if func in WRITE_STATISTICS and args[5] else ()
    values = [
        args[position] if position < len(args) else kwargs.get(argument.name)
        for position, argument in enumerate(func._schema.arguments)
        if position in hidden or (argument.alias_info is not None and argument.alias_info.is_write)
    ]
    return leaves(values, kind)


# Batch norm writes its running statistics in training, which its schema does not say.
WRITE_STATISTICS = {
    getattr(aten, name).default
    for name in ("native_batch_norm", "cudnn_batch_norm", "miopen_batch_norm")
}
STATISTICS = (3, 4)


def storage(tensor: Tensor) -> int:
    """Tell which memory a tensor is."""
    return tensor.untyped_storage().data_ptr()


def _layout(tensor: Tensor) -> Any:
    return tuple(tensor.shape), tensor.stride(), tensor.dtype


def _place(tensor: Tensor) -> Any:
    return storage(tensor), tensor.storage_offset(), _layout(tensor)
