"""What a safetensors file claims to hold, checked before anything is allocated for it.

``8 bytes: length n of the header | n bytes: JSON | the tensors, end to end``

A header is small beside the weights, and parsing it costs time and memory that grow with it, so
its length is limited.  What it says of the tensors must be exactly what the file holds.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from zoo.errors import UnsafeFileError

MOST_HEADER = 16 << 20  # bytes
MOST_TENSORS = 100_000
MOST_DEPTH = 50  # of JSON
MOST_BRACKETS = 1_000_000  # that open a list or an object: each costs more than its character
MOST_AXES = 64  # PyTorch has no more
LARGEST = 1 << 48  # elements along all axes, those of an empty tensor too
SIZES = {  # bytes per element; these are what PyTorch reads
    **dict.fromkeys(["F64", "I64", "U64", "C64"], 8),
    **dict.fromkeys(["F32", "I32", "U32"], 4),
    **dict.fromkeys(["F16", "BF16", "I16", "U16"], 2),
    **dict.fromkeys(["I8", "U8", "BOOL", "F8_E4M3", "F8_E5M2"], 1),
    **dict.fromkeys(["F8_E4M3FNUZ", "F8_E5M2FNUZ"], 1),
}


@dataclass(frozen=True, slots=True)
class Entry:
    """Where a tensor lies in its file.

    Attributes:
        dtype: one of :data:`SIZES`.
        shape: its axes.
        start: its first byte, counted from the beginning of the file.
        stop: the byte after its last.
    """

    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


@dataclass(frozen=True)
class Layout:
    """A header that was checked.

    Attributes:
        tensors: by name, in the order of the header.
        metadata: what the writer noted.
    """

    tensors: Mapping[str, Entry]
    metadata: Mapping[str, str]


def read(data: bytes, place: str) -> Layout:
    """Check the header of a whole file in memory.

    Raises:
        UnsafeFileError: where it is damaged, or claims what the file does not hold; ``place``
            leads the message.

    >>> read(b"\\x02" + 7 * b"\\0" + b"{}", "a.safetensors").tensors
    {}
    >>> read(b"\\xff" * 16, "a.safetensors")
    Traceback (most recent call last):
    zoo.errors.UnsafeFileError: a.safetensors: is not sound safetensors: the header must fit into \
the file and have at most 16777216 bytes, however it has 18446744073709551615
    """
    return parse(lambda start, count: data[start : start + count], len(data), place)


def parse(fetch: Callable[[int, int], bytes], size: int, place: str) -> Layout:
    """Check the header of a file of ``size`` bytes.

    Args:
        fetch: (start, count) -> those bytes of the file.
        size: of the file, in bytes.
        place: how messages name the file.

    Raises:
        UnsafeFileError: as :func:`read` does.
    """
    try:
        length = int.from_bytes(fetch(0, 8), "little")
        if size < 8:
            raise ValueError("it is cut short")
        if length > min(MOST_HEADER, size - 8):
            raise ValueError(
                f"the header must fit into the file and have at most {MOST_HEADER} bytes, however "
                f"it has {length}"
            )
        text = fetch(8, length)
        if text.count(b'"dtype"') > MOST_TENSORS:  # quick, where parsing is not
            raise ValueError(f"at most {MOST_TENSORS} tensors, however there are more")
        header = _object(parse_json(text), "the header")
        metadata = _object(header.pop("__metadata__", {}), "__metadata__")
        if not all(isinstance(value, str) for value in metadata.values()):
            raise ValueError("__metadata__ must hold text, however it holds something else")
        "".join([*header, *metadata, *metadata.values()]).encode()  # no lone surrogates
        if len(header) > MOST_TENSORS:
            raise ValueError(f"at most {MOST_TENSORS} tensors, however there are {len(header)}")
        begin = 8 + length
        tensors = {name: _entry(name, claim, begin) for name, claim in header.items()}
        end = begin
        for name, entry in sorted(tensors.items(), key=lambda item: (item[1].start, item[1].stop)):
            if entry.start != end:
                raise ValueError(
                    f"tensors must lie end to end, however {name!r} begins at "
                    f"{entry.start - begin} and what comes before it ends at {end - begin}"
                )
            end = entry.stop
        if end != size:
            raise ValueError(
                f"the file must hold its tensors and nothing else, however these take "
                f"{end - begin} bytes of {size - begin}"
            )
    except ValueError as error:
        raise UnsafeFileError(f"{place}: is not sound safetensors: {error}") from None
    return Layout(tensors, metadata)


def parse_json(text: bytes) -> Any:
    """Parse JSON from outside; a key may come once, and lists and objects nest a little.

    Raises:
        ValueError: where it is not JSON, too deep, or repeats a key.

    >>> parse_json(b'{"a": 1, "a": 2}')
    Traceback (most recent call last):
    ValueError: JSON may hold a key once, however one comes twice
    """

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            raise ValueError("JSON may hold a key once, however one comes twice")
        return found

    if text.count(b"[") + text.count(b"{") > MOST_BRACKETS:
        raise ValueError(f"JSON may have {MOST_BRACKETS} lists and objects, however it has more")
    try:
        value = json.loads(text.decode("utf-8"), object_pairs_hook=once)
    except RecursionError:
        value = None
    else:
        if shallow(value):
            return value
    raise ValueError(f"JSON may nest {MOST_DEPTH} deep, however it nests deeper")


def shallow(value: Any) -> bool:
    """Tell whether lists and dictionaries nest no deeper than functions may call themselves.

    >>> shallow({"a": [1]}), shallow(eval("[" * 99 + "]" * 99))
    (True, False)
    """
    level = [value]
    for _ in range(MOST_DEPTH):
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list | tuple)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not level:
            return True
    return False


def _object(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{what} must be an object, however it is a {type(value).__name__}")
    return value


def _entry(name: str, claim: Any, begin: int) -> Entry:
    """Return where a tensor lies, once that is as long as its shape says."""
    fields = _object(claim, repr(name))
    dtype, shape, offsets = (fields.get(key) for key in ("dtype", "shape", "data_offsets"))
    if not isinstance(dtype, str) or dtype not in SIZES or len(fields) != 3:
        raise ValueError(
            f"a tensor has one of the types {', '.join(SIZES)}, a shape and offsets, however "
            f"{name!r} does not"
        )
    axes, ends = _counts(shape), _counts(offsets)
    if axes is None or ends is None or len(ends) != 2 or len(axes) > MOST_AXES:
        raise ValueError(f"shape and offsets are lists of counts, however not those of {name!r}")
    count, extent = SIZES[dtype], 1
    for axis in axes:
        count *= axis
        extent *= max(axis, 1)
        if extent > LARGEST:
            raise ValueError(f"{name!r} claims more than {LARGEST} elements")
    if ends[1] - ends[0] != count:
        raise ValueError(
            f"the shape of {name!r} takes {count} bytes, however it has {ends[1] - ends[0]}"
        )
    return Entry(dtype, tuple(axes), begin + ends[0], begin + ends[1])


def _counts(value: Any) -> list[int] | None:
    """Return a list of counts as it is, anything else as None."""
    if isinstance(value, list) and all(type(item) is int and item >= 0 for item in value):
        return value
    return None
