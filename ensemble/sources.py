"""Members as files: which tensors are where, and their bytes on demand.

A file's header is checked before anything else is read of it (:mod:`zoo.registry.layout`).  Bytes
come by positioned reads into memory that is used again, not through a memory map: a file that is
cut short meanwhile is an error here, and would end the process there.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from io import BufferedReader
from pathlib import Path

import numpy as np

from ensemble.differing import missing, unlike
from ensemble.dtypes import NAMES, Array
from zoo.errors import UnsafeFileError, UsageError
from zoo.exchange.opening import INDEX, opened, shards
from zoo.registry import layout

MOST_BYTES = 1 << 46  # of a file, of which only a piece is held at a time


@dataclass(frozen=True)
class Leaf:
    """A tensor of a member.

    Attributes:
        dtype: as safetensors calls it.
        shape: its axes.
        size: in bytes.
        read: fills an array of bytes with those from an offset on.
    """

    dtype: str
    shape: tuple[int, ...]
    size: int
    read: Callable[[Array, int], None]


@dataclass
class Source:
    """A member that was opened.

    Attributes:
        name: how messages call it.
        path: its file or folder.
        leaves: its tensors.
        files: the tensors of each of its files, in the order of their bytes.
        watched: the files, and what they were like when they were opened.
    """

    name: str
    path: Path
    leaves: dict[str, Leaf] = field(default_factory=dict)
    files: dict[str, list[str]] = field(default_factory=dict)
    watched: list[tuple[Path, BufferedReader, tuple[int, int]]] = field(default_factory=list)

    def check_unchanged(self) -> None:
        """Raise :class:`UnsafeFileError` where somebody wrote into a file meanwhile."""
        for path, file, before in self.watched:
            if _state(file) != before:
                raise UnsafeFileError(f"{path}: was changed while it was read; average once more")


def open_source(path: Path, key: str | None, stack: ExitStack) -> Source:
    """Open a member; ``stack`` closes it.

    A file of ``torch.save`` is loaded into memory as a whole, by
    :func:`zoo.exchange.reading.read_weights`; ``key`` says where in it the weights are.

    Raises:
        UsageError: where there is no such file, or a folder without an index holds several.
        UnsafeFileError: where a file is damaged, claims what it does not hold, or holds code.
    """
    source = Source(str(path), path)
    for file, expected in _files(path).items():
        _open_file(source, file, key, stack)
        if expected and expected != set(source.files[file.name]):
            odd = min(expected ^ set(source.files[file.name]))
            raise UnsafeFileError(
                f"{file}: must hold the tensors that {INDEX} names, however they differ in {odd!r}"
            )
    if not source.leaves:
        raise UsageError(f"{path}: weights must hold tensors, however there are none")
    return source


def differences(sources: Sequence[Source], *, any_float: bool) -> list[str]:
    """Say where members differ in keys, shapes or dtypes; floats may be of ``any_float``."""
    facts = []
    for key in dict.fromkeys(key for source in sources for key in source.leaves):
        holding = [(s.name, s.leaves[key]) for s in sources if key in s.leaves]
        names = [name for name, _ in holding]
        facts += missing(key, names, [s.name for s in sources if key not in s.leaves])
        facts += unlike(key, [(name, leaf.shape) for name, leaf in holding])
        dtypes = [(name, NAMES[leaf.dtype]) for name, leaf in holding]
        if not (any_float and all("float" in dtype for _, dtype in dtypes)):
            facts += unlike(key, dtypes)
    return facts


def _files(path: Path) -> Mapping[Path, set[str]]:
    """Return the files of a member, each with the tensors that an index names."""
    if not os.path.isdir(path):  # noqa: PTH112 - which does not raise, whatever the name
        return {path: set()}
    if (path / INDEX).exists():
        return {path / name: names for name, names in shards(path / INDEX).items()}
    found = sorted(path.glob("*.safetensors"))
    if len(found) != 1:
        raise UsageError(
            f"{path}: must hold {INDEX} or one .safetensors file, however it has {len(found)}; "
            "name a file"
        )
    return {found[0]: set()}


def _open_file(source: Source, path: Path, key: str | None, stack: ExitStack) -> None:
    """Enter the tensors of one file."""
    file, size = stack.enter_context(opened(path, MOST_BYTES))
    if file.read(9)[8:] != b"{":  # which every header of safetensors begins with
        leaves = _loaded(path, key)
    else:
        source.watched.append((path, file, _state(file)))
        fetch = partial(_fetch, file.fileno(), path)
        leaves = {
            name: Leaf(
                entry.dtype,
                entry.shape,
                entry.stop - entry.start,
                partial(_fill, file.fileno(), path, entry.start),
            )
            for name, entry in sorted(
                layout.parse(fetch, size, str(path)).tensors.items(), key=lambda item: item[1].start
            )
        }
    source.leaves |= leaves
    source.files[path.name] = list(leaves)


def _loaded(path: Path, key: str | None) -> dict[str, Leaf]:
    """Load what is not safetensors, or hear from its reader what is wrong with it."""
    import torch

    from zoo.exchange.reading import read_weights

    names = {name: dtype for dtype, name in NAMES.items()}
    leaves = {}
    for name, tensor in read_weights(path, key=key).state.items():
        data = tensor.contiguous().reshape(-1).view(torch.uint8).numpy()
        dtype = names[str(tensor.dtype).removeprefix("torch.")]
        leaves[name] = Leaf(dtype, tuple(tensor.shape), data.size, partial(_copy, data))
    return leaves


def _copy(data: Array, buffer: Array, offset: int) -> None:
    buffer[:] = data[offset : offset + buffer.size]


def _fill(descriptor: int, path: Path, start: int, buffer: Array, offset: int) -> None:
    view, done = buffer.data, 0
    while done < len(view):
        try:
            count = os.preadv(descriptor, [view[done:]], start + offset + done)
        except OSError as error:
            raise UnsafeFileError(f"{path}: cannot be read: {error.strerror}") from error
        if not count:
            raise UnsafeFileError(f"{path}: was cut short while it was read; average once more")
        done += count


def _fetch(descriptor: int, path: Path, start: int, count: int) -> bytes:
    buffer = np.empty(count, np.uint8)
    _fill(descriptor, path, start, buffer, 0)
    return buffer.tobytes()


def _state(file: BufferedReader) -> tuple[int, int]:
    """Return size and time of change of an open file."""
    found = os.fstat(file.fileno())
    return found.st_size, found.st_mtime_ns
