"""Members as files or objects: which tensors are where, and their bytes on demand.

A file's header is checked before anything else is read of it (:mod:`zoo.registry.layout`).  Bytes
come by positioned reads into memory that is used again, not through a memory map: a file that is
cut short meanwhile is an error here, and would end the process there.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from io import BufferedReader
from pathlib import Path

import numpy as np

from ensemble.differing import missing, unlike
from ensemble.dtypes import NAMES, Array
from zoo.errors import UnsafeFileError, UsageError
from zoo.exchange.opening import INDEX, MOST_JSON, opened, shards
from zoo.registry import layout

ENDING = ".safetensors"
KEPT = (".json", ".txt", ".model", ".jinja", ".tiktoken")  # of a folder: config and tokenizer
MOST_KEPT = 64 << 20  # bytes of such a file
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
        name: how messages call it: its file, folder or URL.
        place: the same, whatever name it goes by.
        is_folder: whether it may be cut into shards.
        is_indexed: whether an index tells of these.
        leaves: its tensors.
        files: the tensors of each of its files, in the order of their bytes.
        beside: what else is in its folder, config and tokenizer, and what reads it.
        is_pickled: whether PyTorch wrote it.
        watched: the files, and what they were like when they were opened.
    """

    name: str
    place: str
    is_folder: bool
    is_indexed: bool = False
    leaves: dict[str, Leaf] = field(default_factory=dict)
    files: dict[str, list[str]] = field(default_factory=dict)
    beside: dict[str, Callable[[], bytes]] = field(default_factory=dict)
    is_pickled: bool = False
    watched: list[tuple[Path, BufferedReader, tuple[int, int]]] = field(default_factory=list)

    @property
    def places(self) -> set[str]:
        """Where its bytes are, and its folder."""
        within = [within_place(self.place, name) for name in self.files] if self.is_folder else []
        return {self.place, *within}

    def enter(self, name: str, leaves: Mapping[str, Leaf], expected: set[str]) -> None:
        """Add the tensors of one of its files, which are those that an index names."""
        if expected and expected != set(leaves):
            odd = min(expected ^ set(leaves))
            raise UnsafeFileError(
                f"{within_place(self.name, name)}: must hold the tensors that {INDEX} names, "
                f"however they differ in {odd!r}"
            )
        self.leaves |= leaves
        self.files[name] = list(leaves)

    def check_unchanged(self) -> None:
        """Raise :class:`UnsafeFileError` where somebody wrote into a file meanwhile."""
        for path, file, before in self.watched:
            if _state(file) != before:
                raise UnsafeFileError(f"{path}: was changed while it was read; average once more")


def is_url(place: str | Path) -> bool:
    """Tell objects in a store from files."""
    return "://" in str(place)


def place_of(place: str | Path) -> str:
    """Return the one name of a place that may go by several."""
    return str(place).rstrip("/") if is_url(place) else os.path.realpath(place)


def within_place(folder: str, name: str) -> str:
    """Return the place of that name in a folder."""
    return f"{folder}/{name}" if is_url(folder) else str(Path(folder) / name)


def open_source(path: str | Path, key: str | None, stack: ExitStack) -> Source:
    """Open a member; ``stack`` closes it.

    A file of ``torch.save`` is loaded into memory as a whole, by
    :func:`zoo.exchange.reading.read_weights`; ``key`` says where in it the weights are.

    Raises:
        UsageError: where there is no such file, or a folder without an index holds several.
        UnsafeFileError: where a file is damaged, claims what it does not hold, or holds code.
    """
    source = _objects(str(path), stack) if is_url(path) else _paths(Path(path), key, stack)
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


def _objects(url: str, stack: ExitStack) -> Source:
    """Open what is in an object store."""
    from ensemble.objects import REQUESTS, Object, content, names_in
    from zoo.registry.bucket import Bucket

    url = place_of(url)
    folder, _, name = url.rpartition("/") if url.endswith(ENDING) else (url, "", "")
    bucket = Bucket(folder)
    source = Source(url, url, is_folder=not name)
    files: Mapping[str, set[str]] = {name: set()}
    if not name:
        names = names_in(bucket)
        files = _files(url, names, lambda: content(bucket, INDEX, MOST_JSON))
        source.is_indexed = INDEX in names
        source.beside = {each: partial(content, bucket, each, MOST_KEPT) for each in kept(names)}
    pool = ThreadPoolExecutor(REQUESTS)
    stack.callback(pool.shutdown, cancel_futures=True)
    for each, expected in files.items():
        found = Object(bucket, each, pool)
        claims = layout.parse(found.fetch, found.size, found.url)
        source.enter(each, _leaves(claims, found.fill), expected)
    return source


def _paths(path: Path, key: str | None, stack: ExitStack) -> Source:
    """Open a file, or the files in a folder."""
    folder = os.path.isdir(path)  # noqa: PTH112 - which does not raise, whatever the name
    source = Source(str(path), place_of(path), is_folder=folder)
    if not folder:
        source.enter(path.name, _open_file(source, path, key, stack), set())
        return source
    names = sorted(each.name for each in path.iterdir())
    source.is_indexed = INDEX in names
    source.beside = {name: partial(_read, path / name, MOST_KEPT) for name in kept(names)}
    for name, expected in _files(path, names, partial(_read, path / INDEX, MOST_JSON)).items():
        source.enter(name, _open_file(source, path / name, key, stack), expected)
    return source


def kept(names: Sequence[str]) -> list[str]:
    """Return what is copied beside weights: config and tokenizer."""
    return [name for name in names if name.endswith(KEPT) and not name.endswith(".index.json")]


def _files(
    place: str | Path, names: Sequence[str], index: Callable[[], bytes]
) -> Mapping[str, set[str]]:
    """Return the files of a folder, each with the tensors that an index names."""
    if INDEX in names:
        return shards(index(), within_place(str(place), INDEX))
    found = [name for name in names if name.endswith(ENDING)]
    if len(found) != 1:
        raise UsageError(
            f"{place}: must hold {INDEX} or one {ENDING} file, however it has {len(found)}; "
            "name a file"
        )
    return {found[0]: set()}


def _read(path: Path, most: int) -> bytes:
    with opened(path, most) as (file, _):
        return file.read()


def _open_file(source: Source, path: Path, key: str | None, stack: ExitStack) -> dict[str, Leaf]:
    """Return the tensors of one file."""
    file, size = stack.enter_context(opened(path, MOST_BYTES))
    if file.read(9)[8:] != b"{":  # which every header of safetensors begins with
        source.is_pickled = True
        return _loaded(path, key)
    source.watched.append((path, file, _state(file)))
    claims = layout.parse(partial(_fetch, file.fileno(), path), size, str(path))
    return _leaves(claims, partial(_fill, file.fileno(), path))


def _leaves(claims: layout.Layout, fill: Callable[[int, Array, int], None]) -> dict[str, Leaf]:
    """Return the tensors of a file, in the order of their bytes."""
    ordered = sorted(claims.tensors.items(), key=lambda item: item[1].start)
    return {
        name: Leaf(entry.dtype, entry.shape, entry.stop - entry.start, partial(fill, entry.start))
        for name, entry in ordered
    }


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
