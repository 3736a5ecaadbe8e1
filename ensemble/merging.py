"""A file of weights made of many, tensor by tensor, in the memory of a few pieces.

What treats every element alike goes piece by piece, several pieces at once; other methods are given
one whole tensor of every member at a time.
"""

import json
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias, TypeVar

import numpy as np

from ensemble.differing import some
from ensemble.dtypes import FLOATS, NAMES, Array, decode, encode, largest
from ensemble.elementwise import PIECE, Space
from ensemble.errors import NonFiniteError
from ensemble.sources import Leaf, Source
from ensemble.workers import Room, flushed, run, worker_count
from zoo.registry import layout

if TYPE_CHECKING:
    from torch import Tensor

ALIGNED = 8  # bytes: where the tensors begin

Stretch: TypeAlias = Callable[[Iterator[Array], Space], Array]
Whole: TypeAlias = Callable[[str, "list[Tensor]"], "Tensor"]
Piece: TypeAlias = tuple[str, int, int]
Job = TypeVar("Job")


@dataclass(frozen=True)
class Plan:
    """How tensors are combined: by ``stretch``, or by ``whole`` where there is that.

    Attributes:
        members: opened and compared.
        dtype: what floats become, as safetensors calls it; none where they stay what they are.
        stretch: combines pieces of the members into float64.
        whole: combines tensors of that key, of the members and of ``base``.
        base: what else ``whole`` is given, last.
        watch: is told of bytes that were read.
    """

    members: Sequence[Source]
    dtype: str | None
    stretch: Stretch | None
    whole: Whole | None
    base: Source | None
    watch: Callable[[int], object]

    @property
    def sources(self) -> list[Source]:
        """All that is read."""
        return [*self.members, *([self.base] if self.base else [])]

    def kind(self, key: str) -> str:
        """Return the dtype that a tensor of the result has."""
        own = self.members[0].leaves[key].dtype
        return self.dtype if self.dtype and own in FLOATS else own

    def size(self, key: str) -> int:
        """Return the bytes that it takes."""
        leaf = self.members[0].leaves[key]
        return leaf.size // layout.SIZES[leaf.dtype] * layout.SIZES[self.kind(key)]


def write(plan: Plan, keys: Sequence[str], metadata: Mapping[str, str], file: BinaryIO) -> None:
    """Write these tensors of the result as one safetensors file.

    Raises:
        NonFiniteError: where a member, or what comes of them, is not finite.
        EnsembleError: where the method refuses its options.
        UnsafeFileError: where a member cannot be read to its end.
        OSError: where the file cannot be written.
    """
    head, places = header(plan, keys, metadata)
    descriptor = file.fileno()
    _put(descriptor, np.frombuffer(head, np.uint8), 0)
    lock = threading.Lock()

    def do(job: Piece, space: Space) -> None:
        key, start, count = job
        data, read = _piece(plan, key, start, count, space)
        _put(descriptor, data, places[key] + start * data.size // count)
        with lock:
            plan.watch(read)

    def do_whole(key: str, space: Space) -> None:
        size = sum(source.leaves[key].size for source in plan.sources)
        with room.taken(size):
            _put(descriptor, _tensor(plan, key), places[key])
        with lock:
            plan.watch(size)

    with flushed(descriptor):
        if plan.whole is None:
            run((job for key in keys for job in _jobs(plan, key)), do)
        else:
            room = Room()
            with _one_thread_each():
                run(iter(keys), do_whole)


def stream(plan: Plan, keys: Sequence[str], metadata: Mapping[str, str]) -> Iterator[bytes]:
    """Yield the same file from its beginning to its end; raises as :func:`write` does.

    A few pieces, or tensors, are computed ahead.
    """
    head, places = header(plan, keys, metadata)
    yield head
    ordered = sorted(keys, key=places.__getitem__)
    room, spaces = Room(), threading.local()

    def piece(job: Piece) -> tuple[bytes, int]:
        spaces.own = getattr(spaces, "own", None) or Space()
        with np.errstate(all="ignore"):  # as in run
            data, read = _piece(plan, *job, spaces.own)
        return data.tobytes(), read

    def whole(key: str) -> tuple[bytes, int]:
        size = sum(source.leaves[key].size for source in plan.sources)
        with room.taken(size):
            return _tensor(plan, key).tobytes(), size

    jobs = (
        (partial(piece, job) for key in ordered for job in _jobs(plan, key))
        if plan.whole is None
        else (partial(whole, key) for key in ordered)
    )
    workers = worker_count()
    waiting: deque[Future[tuple[bytes, int]]] = deque()
    with ThreadPoolExecutor(workers) as pool, _one_thread_each() if plan.whole else nullcontext():
        try:
            while True:
                waiting.extend(map(pool.submit, islice(jobs, 2 * workers - len(waiting))))
                if not waiting:
                    return
                data, read = waiting.popleft().result()
                plan.watch(read)
                yield data
        finally:
            pool.shutdown(cancel_futures=True)


def header(
    plan: Plan, keys: Sequence[str], metadata: Mapping[str, str]
) -> tuple[bytes, dict[str, int]]:
    """Return the beginning of a file, and where in it each tensor goes.

    Larger numbers come first, so that each tensor begins at a multiple of their size.
    """
    ordered = sorted(keys, key=lambda key: -layout.SIZES[plan.kind(key)])
    claims: dict[str, Any] = {"__metadata__": dict(metadata)}
    end = 0
    for key in ordered:
        start, end = end, end + plan.size(key)
        shape = plan.members[0].leaves[key].shape
        claims[key] = {"dtype": plan.kind(key), "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(claims, separators=(",", ":")).encode()
    text += b" " * (-len(text) % ALIGNED)
    head = len(text).to_bytes(8, "little") + text
    # What could not be read back is not written.
    layout.parse(lambda start, count: head[start : start + count], len(head) + end, "the result")
    return head, {key: len(head) + claims[key]["data_offsets"][0] for key in ordered}


def _averaged(plan: Plan, key: str) -> bool:
    """Tell whether there is something to average: integers are the first member's."""
    leaf = plan.members[0].leaves[key]
    return leaf.size > 0 and leaf.dtype in (*FLOATS, "C64")


def _jobs(plan: Plan, key: str) -> Iterator[Piece]:
    """Yield the pieces of a tensor: where they begin, and how many numbers they have."""
    leaf = plan.members[0].leaves[key]
    total = leaf.size // layout.SIZES[_number(leaf)]
    for start in range(0, total, PIECE):
        yield key, start, min(PIECE, total - start)


def _number(leaf: Leaf) -> str:
    """Return the dtype of a tensor's numbers: a complex one is a pair."""
    return "F32" if leaf.dtype == "C64" else leaf.dtype


def _piece(plan: Plan, key: str, start: int, count: int, space: Space) -> tuple[Array, int]:
    """Return a piece of the result as bytes, and how many were read for it."""
    read = 0

    def raw(member: Source) -> Array:
        nonlocal read
        leaf = member.leaves[key]
        size = layout.SIZES[_number(leaf)]
        data = space.raw[: count * size]
        leaf.read(data, start * size)
        read += data.size
        return data

    first = plan.members[0]
    if not _averaged(plan, key):
        return raw(first), read
    leaves = [member.leaves[key] for member in plan.members]
    wide = any(leaf.dtype == "F64" for leaf in leaves)

    def parts() -> Iterator[Array]:
        for member in plan.members:
            numbers = decode(raw(member), _number(member.leaves[key]))
            yield numbers.astype(np.float64, copy=False) if wide else numbers

    assert plan.stretch is not None
    total = plan.stretch(parts(), space)
    if not np.isfinite(total).all():
        _blame(plan.members, key, (bool(np.isfinite(part).all()) for part in parts()))
    kind = "F32" if plan.kind(key) == "C64" else plan.kind(key)
    if plan.dtype:
        _check_range(key, float(np.abs(total).max()), kind)
    return encode(total, kind).view(np.uint8), read


def _tensor(plan: Plan, key: str) -> Array:
    """Return a whole tensor of the result as bytes."""
    import torch

    from ensemble.state import is_finite

    torch.set_num_threads(1)  # of this worker's
    tensors = [_loaded(source.leaves[key]) for source in plan.sources]
    _blame(plan.sources, key, (is_finite(tensor) for tensor in tensors))
    cast = plan.dtype and plan.members[0].leaves[key].dtype in FLOATS
    if cast:  # nothing is lost before the result is written
        wide = torch.float64 if torch.float64 in {t.dtype for t in tensors} else torch.float32
        tensors = [tensor.to(wide) for tensor in tensors]
    assert plan.whole is not None
    result = plan.whole(key, tensors)
    kind = plan.kind(key)
    if cast and result.numel():
        _check_range(key, float(result.abs().max()), kind)
    flat = result.to(getattr(torch, NAMES[kind])).contiguous().reshape(-1)
    data: Array = flat.view(torch.uint8).numpy()
    return data


def _loaded(leaf: Leaf) -> "Tensor":
    """Read a whole tensor."""
    import torch

    tensor = torch.empty(leaf.shape, dtype=getattr(torch, NAMES[leaf.dtype]))
    leaf.read(tensor.reshape(-1).view(torch.uint8).numpy(), 0)
    return tensor


def _blame(sources: Sequence[Source], key: str, finite: Iterator[bool]) -> None:
    """Refuse a tensor that is not finite everywhere."""
    bad = [source.name for source, fine in zip(sources, finite, strict=True) if not fine]
    if bad:
        raise NonFiniteError(
            f"members must be finite, however {key!r} holds NaN or infinity in {some(bad)}"
        )


def _check_range(key: str, peak: float, kind: str) -> None:
    if not peak <= largest(kind):
        raise NonFiniteError(
            f"the result must fit into its dtype, however {key!r} reaches {peak:.6g} and "
            f"{NAMES[kind]} ends at {largest(kind):.6g}; choose another one"
        )


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Let PyTorch compute in the workers alone, as many as there are cores."""
    import torch

    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _put(descriptor: int, data: Array, place: int) -> None:
    """Write bytes at a place."""
    view = data.data
    while len(view):
        count = os.pwrite(descriptor, view, place)
        view, place = view[count:], place + count
