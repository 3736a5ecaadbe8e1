"""Tensors as a pickle describes them, each checked against the bytes that its file holds."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from zoo.registry.layout import MOST_AXES

WORD = 1 << 63  # what numbers stay below
TYPES = {  # bytes per element; these are what safetensors can hold and read back
    **dict.fromkeys(["float64", "int64", "uint64", "complex64"], 8),
    **dict.fromkeys(["float32", "int32", "uint32"], 4),
    **dict.fromkeys(["float16", "bfloat16", "int16", "uint16"], 2),
    **dict.fromkeys(["int8", "uint8", "bool", "float8_e4m3fn", "float8_e4m3fnuz"], 1),
    **dict.fromkeys(["float8_e5m2", "float8_e5m2fnuz"], 1),
}
STORAGES = {
    **dict.fromkeys(["torch DoubleStorage", "torch LongStorage", "torch ComplexFloatStorage"], 8),
    **dict.fromkeys(["torch FloatStorage", "torch IntStorage"], 4),
    **dict.fromkeys(["torch HalfStorage", "torch BFloat16Storage", "torch ShortStorage"], 2),
    **dict.fromkeys(["torch CharStorage", "torch ByteStorage", "torch BoolStorage"], 1),
    "torch.storage UntypedStorage": 1,
}


class RefusedError(ValueError):
    """What a pickle asks for and does not get."""


@dataclass(frozen=True)
class Global:
    """A name that a pickle refers to."""

    name: str


@dataclass(frozen=True)
class Storage:
    """Bytes of the file."""

    key: str
    size: int
    itemsize: int


@dataclass(frozen=True)
class Claim:
    """A tensor, as the pickle describes it."""

    size: int


@dataclass(frozen=True)
class Other:
    """Something that takes no part, such as a list."""

    kind: str


def _dictionary(*pairs: Any) -> dict[Any, Any]:
    expect(not pairs)
    return {}


def _tensor(
    storage: Any, offset: Any, shape: Any, stride: Any, grad: Any, hooks: Any, meta: Any = None
) -> Claim:
    """Check a tensor over a storage of its own type."""
    expect(isinstance(storage, Storage) and isinstance(grad, bool))
    expect(isinstance(hooks, dict) and not hooks and not meta)
    return _claim(storage, offset, shape, stride, storage.itemsize)


def _untyped_tensor(
    storage: Any,
    offset: Any,
    shape: Any,
    stride: Any,
    grad: Any,
    hooks: Any,
    dtype: Any,
    meta: Any = None,
) -> Claim:
    """Check a tensor of a type that has no storage of its own."""
    expect(isinstance(storage, Storage) and isinstance(grad, bool))
    expect(isinstance(hooks, dict) and not hooks and not meta)
    expect(isinstance(dtype, Global) and dtype.name.startswith("torch "))
    return _claim(storage, offset, shape, stride, TYPES[dtype.name.removeprefix("torch ")])


def _claim(storage: Storage, offset: Any, shape: Any, stride: Any, itemsize: int) -> Claim:
    expect(type(offset) is int and offset >= 0)
    expect(isinstance(shape, tuple) and isinstance(stride, tuple) and len(shape) == len(stride))
    expect(len(shape) <= MOST_AXES)
    expect(all(type(number) is int and number >= 0 for number in (*shape, *stride)))
    size, held = math.prod(shape) * itemsize, storage.size
    extent = sum((axis - 1) * step for axis, step in zip(shape, stride, strict=True)) + 1
    if size > held or (size and (offset + extent) * itemsize > held):
        raise RefusedError(
            f"a tensor of shape {shape} takes {size} bytes, however its storage has {held}"
        )
    expect(math.prod(axis or 1 for axis in shape) < WORD)
    return Claim(size)


def _parameter(data: Any, grad: Any, hooks: Any) -> Claim:
    expect(isinstance(data, Claim) and isinstance(grad, bool))
    expect(isinstance(hooks, dict) and not hooks)
    return cast(Claim, data)


def _size(shape: Any) -> Other:
    expect(isinstance(shape, tuple) and all(type(axis) is int for axis in shape))
    return Other("torch.Size")


CALLS: Mapping[str, Callable[..., Any]] = {
    "collections OrderedDict": _dictionary,
    "torch._utils _rebuild_tensor_v2": _tensor,
    "torch._utils _rebuild_tensor_v3": _untyped_tensor,
    "torch._utils _rebuild_parameter": _parameter,
    "torch Size": _size,
}


def expect(rule: bool) -> None:
    """Refuse what torch.save does not write, without a word of its own.

    Raises:
        ValueError: where the rule does not hold.
    """
    if not rule:
        raise ValueError
