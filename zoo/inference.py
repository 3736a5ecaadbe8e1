"""K models of one architecture on the same rows, in whatever way is the fastest for so many rows.

The plain way is a loop over ordinary modules.  The other one is a recorded program
(:mod:`zoo.tape`) that computes some members at once, portion by portion of the rows.  For a few
rows all members at once are the fastest, because each operation is then called once and not K
times; for many rows it is one member and a portion that stays in the processor's cache.

Which one it is, is measured, for each doubling of the number of rows, once the loop has taken so
long that measuring can pay.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from functools import cached_property, partial
from threading import Lock

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from zoo.channels import AmongChannels, channels_last
from zoo.engines import EVALUATION_ROWS, Prepare, as_is, portions
from zoo.fusing import fused
from zoo.program import NotRecordableError
from zoo.racing import Timer, in_turns
from zoo.tape import Forward, record_rows

PAYS_S = 0.1  # that the loop has taken, before anything is measured
RACE_S = 0.03  # of timing, at least
LOOP_S = 0.1  # that the loop may take in the race, which has fewer rows else
WIDTH = 16  # members at once, at most: more of them gain nothing
PORTIONS = (EVALUATION_ROWS, 128, 32)  # rows at once
FEW = 16  # rows: below, the products are of another shape, and recorded apart
COUNTS = {True: (5, 7), False: (48, 50)}  # of rows, with which few and many are recorded
MOST_BYTES = 1 << 28  # of what a recorded program makes for the rows at once


@dataclass(frozen=True)
class Tile:
    """What is computed at once: so many members, and at most so many rows.

    ``members`` is 0 where plain modules run one after another.
    """

    members: int
    rows: int


PLAIN = Tile(0, EVALUATION_ROWS)


class Inference:
    """The function from rows (N, *shape) to what K modules return for them: (K, N, ...).

    It computes without gradients, in evaluation mode, to float tolerance what a loop over the
    modules does.  Threads may share it.

    Args:
        modules: of one architecture; they are kept, in evaluation mode, and must not be changed.
        prepare: what is done to each portion of the rows first.

    >>> models = Inference([nn.Linear(3, 2), nn.Linear(3, 2)])
    >>> models(torch.zeros(5, 3)).shape
    torch.Size([2, 5, 2])
    """

    def __init__(self, modules: Sequence[nn.Module], prepare: Prepare = as_is) -> None:
        self.modules = [module.eval() for module in modules]
        self.prepare = prepare
        self.tiles: dict[tuple[int, int], Tile] = {}  # by size of N and number of threads
        self.taken: dict[tuple[int, int], float] = defaultdict(float)  # seconds of the plain loop
        self.recorded = _Recorded(self.modules)
        self.lock = Lock()

    def __len__(self) -> int:
        return len(self.modules)

    @torch.no_grad()
    def __call__(self, x_N: Tensor) -> Tensor:
        """Return the outputs of every module."""
        size = _size(x_N)
        if size in self.tiles:
            return self._run(self.tiles[size], x_N)
        some, clock = x_N[: PLAIN.rows], _clock(x_N)
        start = clock()
        outputs = self._run(PLAIN, some)
        row_s = (clock() - start) / max(len(some), 1)
        self.taken[size] += row_s * len(x_N)
        if self.taken[size] > PAYS_S:
            self._race(size, x_N, row_s)
        if len(some) == len(x_N):
            return outputs
        return self._run(self.tiles.get(size, PLAIN), x_N)

    @torch.no_grad()
    def tune(self, x_N: Tensor) -> None:
        """Find the fastest way for about as many rows at once, rather than after some calls."""
        size = _size(x_N)
        if size not in self.tiles:
            some = x_N[: PLAIN.rows]
            timer = Timer(partial(self._run, PLAIN, some), clock=_clock(x_N))
            timer.run()  # for the first time
            timer.measure()
            self._race(size, x_N, timer.seconds / max(len(some), 1))

    def _run(self, tile: Tile, x_N: Tensor) -> Tensor:
        """Compute all tiles."""
        parts = portions(x_N, tile.rows)
        if len(parts) == 1 and tile.members in (0, len(self)):
            return self._tile(tile, 0, self.prepare(x_N))
        outputs: Tensor | None = None
        row = 0
        for x in map(self.prepare, parts):
            end = row + len(x)
            for first in _starts(len(self), tile.members or len(self)):
                part = self._tile(tile, first, x)
                if outputs is None:
                    outputs = part.new_empty(len(self), len(x_N), *part.shape[2:])
                outputs[first : first + len(part), row:end] = part
            row = end
        assert outputs is not None
        return outputs

    def _tile(self, tile: Tile, first: int, x_N: Tensor) -> Tensor:
        if tile.members:
            return self.recorded.run(tile.members, first, x_N)
        return torch.stack([module(x_N) for module in self.modules])

    def _race(self, size: tuple[int, int], x_N: Tensor, row_s: float) -> None:
        """Time the loop and what was recorded; keep what is the fastest for such sizes."""
        with self.lock:
            if size in self.tiles:
                return
            some = x_N[: min(PLAIN.rows, int(LOOP_S / row_s))]
            if len(some) < min(len(x_N), FEW):  # a call costs nothing beside its arithmetic
                self.tiles[size] = PLAIN
                return
            expected = self._run(PLAIN, some)
            tiles = [PLAIN, *self._contenders(some, expected)]
            timers = [Timer(partial(self._timed, t, some), clock=_clock(some)) for t in tiles]
            in_turns(timers, lambda best: RACE_S)
            self.tiles[size] = min(zip(timers, tiles, strict=True), key=lambda it: it[0].seconds)[1]
            self.recorded.keep({tile.members for tile in self.tiles.values()})

    def _timed(self, tile: Tile, x_N: Tensor) -> None:
        self._run(tile, x_N)
        if x_N.is_cuda:
            torch.cuda.synchronize(x_N.device)

    def _contenders(self, x_N: Tensor, expected: Tensor) -> list[Tile]:
        """Return the tiles, of those there could be, that compute what the modules do."""
        at_once = -(-len(self) // -(-len(self) // WIDTH))
        found = []
        for members in sorted({1, -(-at_once // 4), at_once}):
            with suppress(Exception):  # a user's module may raise anything
                most = self.recorded.most_rows(members, self.prepare(x_N))
                for rows in {min(most, portion, _whole(x_N)) for portion in PORTIONS}:
                    tile = Tile(members, rows)
                    if _close(self._run(tile, x_N), expected):
                        found.append(tile)
        return found


class _Recorded:
    """Programs of some of the modules at once, recorded when they are first asked for."""

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        self.modules = modules
        self.forwards: dict[tuple[int, bool], Forward | None] = {}
        self.prepared: dict[tuple[int, bool, int], list[Tensor]] = {}
        self.lock = Lock()

    @cached_property
    def skeleton(self) -> nn.Module:
        """The module whose weights are replaced."""
        return fused(self.modules[0])

    @cached_property
    def values(self) -> dict[str, Tensor]:
        """All parameters and buffers of its kind, the module first."""
        params, buffers = stack_module_state([fused(module) for module in self.modules])
        return {**params, **buffers}

    def run(self, members: int, first: int, x_N: Tensor) -> Tensor:
        """Compute so many modules, from the first one on."""
        forward, key = self._forward(members, x_N), (members, len(x_N) < FEW, first)
        prepared = self.prepared.get(key)
        if prepared is None:
            values = forward.prepare(*self._own(first, members))
            prepared = self.prepared[key] = [_laid_out(value) for value in values]
        return forward.run(x_N, *prepared)[0]

    def keep(self, members: set[int]) -> None:
        """Forget what was prepared for other tiles than of so many members."""
        self.prepared = {key: value for key, value in self.prepared.items() if key[0] in members}

    def most_rows(self, members: int, x_N: Tensor) -> int:
        """Return how many rows at once its memory allows."""
        return max(1, MOST_BYTES // max(1, self._forward(members, x_N).row_bytes))

    def _forward(self, members: int, x_N: Tensor) -> Forward:
        """Return the program for so many modules, and few or many rows.

        Raises:
            NotRecordableError: where there is none.
        """
        key = (members, len(x_N) < FEW)
        if key not in self.forwards:
            with self.lock:
                if key not in self.forwards:
                    self.forwards[key] = self._recorded(members, x_N)
        forward = self.forwards[key]
        if forward is None:
            raise NotRecordableError("the modules cannot run together")
        return forward

    def _recorded(self, members: int, x_N: Tensor) -> Forward | None:
        counts, own = COUNTS[len(x_N) < FEW], self._own(0, members)
        images = x_N.ndim == 4 and not x_N.is_cuda
        for last in (True, False) if images else (False,):
            with suppress(Exception):  # a user's module may raise anything; a loop runs it
                return record_rows(self._call(members, last), own, x_N, counts)
        return None

    def _own(self, first: int, members: int) -> list[Tensor]:
        return [value_K[first : first + members] for value_K in self.values.values()]

    def _call(self, members: int, last: bool) -> Callable[..., Tensor]:
        """Return what computes so many members, of images perhaps with the channels last."""
        names, skeleton = list(self.values), self.skeleton

        def call(values: Sequence[Tensor], x_N: Tensor) -> Tensor:
            named = dict(zip(names, values, strict=True))
            outputs: Tensor = functional_call(skeleton, named, (x_N,))
            return outputs

        def run(*tensors: Tensor) -> Tensor:
            *values, x_N = tensors
            if members == 1:
                rows = channels_last(x_N) if last else x_N
                return call([value_K[0] for value_K in values], rows).unsqueeze(0)
            with AmongChannels() if last else nullcontext():
                every: Tensor = vmap(call, in_dims=(0, None))(values, x_N)
            return every

        return run


def _laid_out(value: Tensor) -> Tensor:
    """Lay out in memory as it will be read: filters of images on a CPU with the channels last."""
    filters = value.ndim == 4 and not value.is_cuda
    return value.contiguous(
        memory_format=torch.channels_last if filters else torch.contiguous_format
    )


def _size(x_N: Tensor) -> tuple[int, int]:
    """Return what choices depend on: about how many rows, and the number of threads."""
    return len(x_N).bit_length(), torch.get_num_threads()


def _clock(x_N: Tensor) -> Callable[[], float]:
    """Return what times the work on rows: a thread alone is not charged with others' work."""
    alone = torch.get_num_threads() == 1 and not x_N.is_cuda
    return time.thread_time if alone else time.perf_counter


def _whole(x_N: Tensor) -> int:
    """Return how many rows at once are all, for every number of rows of the same size."""
    return 1 << len(x_N).bit_length()


def _starts(count: int, members: int) -> list[int]:
    """Return where tiles of so many members begin; the last ones may overlap.

    >>> _starts(5, 5), _starts(5, 2), _starts(4, 1)
    ([0], [0, 2, 3], [0, 1, 2, 3])
    """
    return [min(first, count - members) for first in range(0, count, members)]


def _close(ours: Tensor, theirs: Tensor) -> bool:
    """Tell whether outputs differ by rounding alone."""
    if ours.shape != theirs.shape or ours.dtype != theirs.dtype:
        return False
    if not theirs.is_floating_point():
        return torch.equal(ours, theirs)
    finite = theirs[theirs.isfinite()].abs()
    size = float(finite.max()) if len(finite) else 0.0
    return torch.allclose(ours, theirs, rtol=1e-3, atol=1e-4 * size + 1e-6, equal_nan=True)
