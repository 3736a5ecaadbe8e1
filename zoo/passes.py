"""What makes of a recorded program one for any number of rows, and one with less to do.

:func:`joined` finds the sizes that grow with the rows, :func:`split` takes out what does not need
the rows, :func:`overwriting` lets operations write where nobody will read again,
:func:`allocated` tells how much memory is needed.
"""

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from zoo.program import Line, NotRecordableError, Program, Size, Slot, aten, leaves, mutated, pruned


def _over_gradient(func: Any) -> Any:
    """Return a backward operation that writes over the gradient it is given."""

    def call(gradient: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        result: Tensor = func(gradient, *args, grad_input=gradient, **kwargs)
        return result

    return call


OVERWRITING = {  # operations that act element by element -> the same in place
    aten.relu.default: torch.relu_,
    aten.tanh.default: torch.tanh_,
    aten.sigmoid.default: torch.sigmoid_,
    aten.gelu.default: aten.gelu_.default,
    aten.silu.default: aten.silu_.default,
    aten.add.Tensor: Tensor.add_,
    aten.sub.Tensor: Tensor.sub_,
    aten.mul.Tensor: Tensor.mul_,
    aten.div.Tensor: Tensor.div_,
    aten.threshold_backward.default: _over_gradient(aten.threshold_backward.grad_input),
    aten.tanh_backward.default: _over_gradient(aten.tanh_backward.grad_input),
    aten.sigmoid_backward.default: _over_gradient(aten.sigmoid_backward.grad_input),
    aten.gelu_backward.default: _over_gradient(aten.gelu_backward.grad_input),
    aten.silu_backward.default: _over_gradient(aten.silu_backward.grad_input),
}
COMMUTES = {aten.add.Tensor, aten.mul.Tensor}


def joined(one: Program, other: Program, counts: tuple[int, int]) -> Program:
    """Make one program of two that were recorded with different numbers of rows.

    The rows are the last input.

    Raises:
        NotRecordableError: where they differ in more than sizes, or sizes do not grow evenly.
    """
    same = (
        one.inputs == other.inputs
        and one.results == other.results
        and len(one.lines) == len(other.lines)
        and one.constants.keys() == other.constants.keys()
        and all(
            tensor.shape == other.constants[n].shape and torch.equal(tensor, other.constants[n])
            for n, tensor in one.constants.items()
        )
    )
    if not same:
        raise NotRecordableError("it does something else for another number of rows")
    lines = []
    for line, twin in zip(one.lines, other.lines, strict=True):
        if line.func is not twin.func or line.targets != twin.targets or line.pure != twin.pure:
            raise NotRecordableError("it does something else for another number of rows")
        args = _sizes(line.args, twin.args, counts)
        kwargs = {
            name: _sizes(line.kwargs[name], twin.kwargs[name], counts) for name in line.kwargs
        }
        lines.append(replace(line, args=args, kwargs=kwargs))
    return replace(one, lines=lines, rows=one.inputs[-1])


def _sizes(one: Any, other: Any, counts: tuple[int, int]) -> Any:
    """Join an argument with its twin."""
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        if len(one) != len(other):
            raise NotRecordableError("it does something else for another number of rows")
        return [_sizes(a, b, counts) for a, b in zip(one, other, strict=True)]
    if one is other or one == other:
        return one
    if type(one) is int and type(other) is int:
        slope, rest = divmod(other - one, counts[1] - counts[0])
        if not rest:
            return Size(slope, one - slope * counts[0])
    raise NotRecordableError(f"it computes with {one} for one number of rows, else with {other}")


def split(program: Program) -> tuple[Program, Program]:
    """Take out what can be done before the rows are known.

    Returns:
        a program of all inputs but the rows, and one of the rows and the results of the former.

    Raises:
        NotRecordableError: where an input is written.
    """
    *values, rows = program.inputs
    given = {program.facts[number].storage for number in program.inputs}
    known = {*values, *program.constants}
    before, after = [], []
    for line in program.lines:
        written = mutated(line.func, line.args, line.kwargs, Slot) if line.mutates else []
        if given & {program.facts[slot.number].storage for slot in written}:
            raise NotRecordableError("it writes what it is given")
        needs_rows = bool(leaves((line.args, line.kwargs), Size)) or not line.reads() <= known
        if line.pure and not needs_rows:
            before.append(line)
            known |= {target for target in line.targets if target is not None}
        else:
            after.append(line)
    used = {*program.results}.union(*(line.reads() for line in after))
    prepared = sorted(used & known - program.constants.keys())
    first = replace(program, inputs=values, lines=before, results=prepared, rows=None)
    return pruned(first), pruned(replace(program, inputs=[rows, *prepared], lines=after, rows=rows))


def overwriting(program: Program) -> Program:
    """Let elementwise operations write their result over an argument that nobody reads again."""
    facts = program.facts
    theirs = {facts[number].storage for number in (*program.inputs, *program.constants)}
    theirs |= {facts[number].storage for number in program.results}
    last = {
        facts[number].storage: index
        for index, line in enumerate(program.lines)
        for number in line.reads()
    }

    def free(line: Line, index: int, over: int) -> bool:
        """Tell whether the result of a line may lie where an argument did."""
        fact = facts[over]
        return (
            {n for n in line.reads() if facts[n].storage == fact.storage} == {over}
            and fact.storage not in theirs
            and last[fact.storage] == index
            and fact.layout == facts[line.targets[0] or 0].layout
            and 0 not in fact.layout[1]  # of an expanded tensor many elements are one
        )

    lines = []
    for index, line in enumerate(program.lines):
        if line.func in OVERWRITING and line.pure:
            turned = line.func in COMMUTES and not line.kwargs
            for args in (line.args, line.args[::-1]) if turned else (line.args,):
                if isinstance(args[0], Slot) and free(line, index, args[0].number):
                    func = OVERWRITING[line.func]
                    line = replace(line, func=func, args=args, mutates=True)
                    break
        lines.append(line)
    return replace(program, lines=lines)


def allocated(program: Program) -> int:
    """Return the bytes of all that a program makes, as it was recorded."""
    given = {program.facts[number].storage for number in (*program.inputs, *program.constants)}
    sizes: dict[int, int] = {}
    for line in program.lines:
        for target in filter(None, line.targets):
            fact = program.facts[target]
            shape, _, dtype = fact.layout
            size = math.prod(shape) * dtype.itemsize
            sizes[fact.storage] = max(size, sizes.get(fact.storage, 0))
    return sum(size for storage, size in sizes.items() if storage not in given)
