"""What a pickle of tensors says, read as symbols: nothing it names is imported, called or built.

Before ``torch.load(weights_only=True)`` sees a file, every instruction of its pickle is followed
here with stand-ins for all objects.  Whatever is not needed to describe tensors in dictionaries is
refused, and every tensor must lie within the bytes that its file holds.  PyTorch's own filter
allows more: functions that allocate as much as they are told, tensors of 10^12 elements over a
storage of one, keys whose hash takes years.
"""

import io
import pickletools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from zoo.errors import UnsafeFileError
from zoo.exchange.archive import ELSEWHERE
from zoo.exchange.claims import (
    CALLS,
    STORAGES,
    TYPES,
    WORD,
    Global,
    Other,
    RefusedError,
    Storage,
    expect,
)

MOST_STEPS = 2_000_000  # instructions
PLAIN = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
VALUES = {"BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE"}
LIST = Other("list")


def read(pickle: bytes, records: Mapping[str, int], place: str) -> Any:
    """Return what a pickle describes, tensors as :class:`~zoo.exchange.claims.Claim`.

    Args:
        pickle: the instructions.
        records: the sizes of the file's records, in bytes, by name.
        place: how messages name the file.

    Raises:
        UnsafeFileError: where it holds anything else than tensors in dictionaries of plain values,
            or claims more than the records hold.

    >>> import pickle
    >>> read(pickle.dumps({"epoch": 3}, protocol=2), {}, "a.pt")
    {'epoch': 3}
    >>> read(pickle.dumps(print, protocol=2), {}, "a.pt")
    Traceback (most recent call last):
    zoo.errors.UnsafeFileError: a.pt: only tensors in dictionaries of plain values are taken, \
however it names __builtin__.print; where it was made, save the state dict alone by torch.save, or \
as safetensors
    """
    try:
        return _Machine(records).run(pickle)
    except RefusedError as error:
        raise UnsafeFileError(f"{place}: {error}") from None
    except (ValueError, LookupError, TypeError):
        raise UnsafeFileError(f"{place}: its pickle is damaged") from None


@dataclass
class _Machine:
    """Follows instructions; a stack, marks in it, and a memo, as pickle's own."""

    records: Mapping[str, int]

    def __post_init__(self) -> None:
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.storages: dict[str, Storage] = {}

    def run(self, pickle: bytes) -> Any:
        """Follow all instructions and return what is left."""
        for step, (code, value, _) in enumerate(pickletools.genops(io.BytesIO(pickle))):
            if step > MOST_STEPS:
                raise RefusedError(
                    f"its pickle may have {MOST_STEPS} instructions, however it has more"
                )
            name = code.name
            if name in VALUES:
                self.stack.append(_value(value))
            elif name in PLAIN:
                self.stack.append(PLAIN[name])
            elif name == "STOP":
                return self.stack.pop()
            else:
                self._follow(name, value)
        raise ValueError("no end")

    def _follow(self, name: str, value: Any) -> None:
        stack = self.stack
        match name:
            case "PROTO":
                if value != 2:
                    raise RefusedError(f"its pickle must have protocol 2, however it has {value}")
            case "MARK":
                self.marks.append(len(stack))
            case "BINPUT" | "LONG_BINPUT":
                self.memo[value] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(self.memo[value])
            case "EMPTY_DICT":
                stack.append({})
            case "EMPTY_LIST":
                stack.append(LIST)
            case "APPEND":
                stack.pop()
                expect(stack[-1] is LIST)
            case "APPENDS":
                self._marked()
                expect(stack[-1] is LIST)
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                stack.append(tuple(self._popped(int(name[-1]))))
            case "TUPLE":
                stack.append(tuple(self._marked()))
            case "SETITEM":
                self._set(self._popped(2))
            case "SETITEMS":
                self._set(self._marked())
            case "GLOBAL":
                stack.append(_global(value))
            case "BINPERSID":
                stack.append(self._storage(stack.pop()))
            case "REDUCE":
                function, arguments = self._popped(2)
                stack.append(self._call(function, arguments))
            case "BUILD":  # the attributes of an OrderedDict, such as a state's _metadata
                target, attributes = self._popped(2)
                expect(isinstance(target, dict) and isinstance(attributes, dict))
                expect(attributes.keys() <= {"_metadata"})
                stack.append(target)
            case _:
                raise RefusedError(f"torch.save does not write {name} into a pickle; {ELSEWHERE}")

    def _popped(self, count: int) -> list[Any]:
        """Take from the stack, not from below a mark."""
        expect(len(self.stack) - (self.marks[-1] if self.marks else 0) >= count)
        taken = self.stack[-count:]
        del self.stack[-count:]
        return taken

    def _marked(self) -> list[Any]:
        """Take all above the latest mark."""
        start = self.marks.pop()
        taken = self.stack[start:]
        del self.stack[start:]
        return taken

    def _set(self, items: Sequence[Any]) -> None:
        """Enter pairs into the dictionary on the stack; keys are such that hashing is quick."""
        target = self.stack[-1]
        expect(isinstance(target, dict) and len(items) % 2 == 0)
        for key, value in zip(items[::2], items[1::2], strict=True):
            if type(key) not in (str, int):
                raise RefusedError(f"keys must be text or numbers, however one is a {_kind(key)}")
            target[key] = value

    def _storage(self, told: Any) -> Storage:
        """Check that bytes are in the file which a tensor is said to lie in."""
        match told:
            case ("storage", Global(name), str(key), str(), int(count)) if name in STORAGES:
                found = Storage(key, count * STORAGES[name], STORAGES[name])
            case _:
                raise RefusedError("what lies outside of its pickle must be storages of tensors")
        held = self.records.get(f"data/{key}")
        if held is None:
            raise RefusedError(f"storage {key!r} must be in the file, however it is not")
        if count < 0 or found.size != held:
            raise RefusedError(f"storage {key!r} claims {found.size} bytes, however it has {held}")
        if self.storages.setdefault(key, found) != found:
            raise RefusedError(f"storage {key!r} must have one type, however it has several")
        return found

    def _call(self, function: Any, arguments: Any) -> Any:
        """Return what a call would give."""
        expect(isinstance(function, Global) and isinstance(arguments, tuple))
        rebuild = CALLS.get(function.name)
        if rebuild is None:
            raise _refusal(function.name)
        return rebuild(*arguments)


NAMES = {*CALLS, *STORAGES, *(f"torch {name}" for name in TYPES)}


def _global(name: str) -> Global:
    if name not in NAMES:
        raise _refusal(name)
    return Global(name)


def _refusal(name: str) -> RefusedError:
    return RefusedError(
        "only tensors in dictionaries of plain values are taken, however it names "
        f"{name[:100].replace(' ', '.')}; {ELSEWHERE}"
    )


def _value(value: Any) -> Any:
    """Pass plain values on, and numbers that are not beyond all measure."""
    expect(not isinstance(value, int) or abs(value) < WORD)
    return value


def _kind(value: Any) -> str:
    return value.kind if isinstance(value, Other) else type(value).__name__
