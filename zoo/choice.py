"""Which engine, in how many lanes, how wide: found by a short race on the real members and data.

A lane is a thread that trains its share of the stack on one core, without a word to the others
until the epoch's end.  The alternative use of cores, many threads inside every operation, pays only
for single large models: threads that wait for each other at every operation lose most of their time
to waiting, and nearly all of it as soon as the machine has other work.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from zoo.engines import Engine, EngineName, Knobs
from zoo.errors import first_line
from zoo.memory import is_exhausted
from zoo.racing import Timer, in_turns
from zoo.stack import Stack

RACE_WIDTH = 16  # members in the first race
WIDER = 1.05  # a wider stack may be this much slower per member: it is refilled less often
MARGIN = 1.2  # by which threads inside operations must be faster than none
LONG_S = 0.02  # of a step in lanes: then operations are long enough for one thread each
RACE_S = 0.1, 2.0  # of timing, at least (or as long as training takes) and at most
SHARE = 0.03  # of the training that may be spent on timing, between these
Engines = Mapping[EngineName, Engine]


@dataclass(frozen=True)
class Choice:
    """How a stack is computed, and a sentence that says why.

    Attributes:
        engine: the name of the engine.
        lanes: Python threads that share the members, each with one thread inside operations.
        threads: threads inside operations, where there is one lane.
        width: the most members in the stack.
    """

    engine: EngineName
    lanes: int
    threads: int
    width: int
    reason: str = ""


@dataclass(frozen=True)
class Race:
    """What the contenders are timed on: one batch for each member of a stack."""

    stack: Stack
    x_KN: Tensor
    y_KN: Tensor
    knobs: Knobs

    def of(self, start: int, stop: int) -> "Race":
        """Return the race of the members from ``start`` to ``stop``, on a copy."""
        here = slice(start, stop)
        knobs = {name: value_K[here] for name, value_K in self.knobs.items()}
        return Race(self.stack.take(range(start, stop)), self.x_KN[here], self.y_KN[here], knobs)


def choose(race: Race, engines: Engines, steps: int) -> Choice:
    """Time a few training steps of each engine and each use of the cores; take the fastest.

    An engine that cannot run the model, or that does not compute what the plain module computes,
    is left out, and the reason says so.

    Args:
        race: the members, which are left as they are, and a batch for each.
        engines: by name, the one preferred at equal speed first; what they record stays with them.
        steps: that training takes at most; the longer it is, the longer they are timed.

    Raises:
        Exception: whatever the model itself raises in its plain form.
    """
    width = len(race.stack)
    cores = torch.get_num_threads()
    start = race.of(0, min(width, RACE_WIDTH))
    facts = _agree(start, engines)
    able = [engine for name, engine in engines.items() if name not in facts]
    with ThreadPoolExecutor(cores, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        timers = list(_contenders(able, start, cores, pool))
        _race(timers, steps)
        best = min(timers, key=lambda t: t.seconds * (MARGIN if t.threads > 1 else 1))
        figures = [
            f"{name} {min(t.seconds for t in timers if t.engine is engine) * 1e3:.3g} ms"
            for name, engine in engines.items()
            if name not in facts
        ]
        if len(start.stack) < width:
            wide = _Timer(best.engine, best.lanes, best.threads, race, best.pool)
            _race([best, wide], steps)
            if wide.seconds / width > WIDER * best.seconds / len(start.stack):
                width = len(start.stack)
    noted = [f"{name} {fact}" for name, fact in facts.items()]
    many = "s" * (len(start.stack) > 1)
    told = f"a step of {len(start.stack)} member{many}: {', '.join([*noted, *figures])}"
    choice = Choice(best.engine.name, best.lanes, best.threads, width)
    return replace(choice, reason=f"{described(choice, race.x_KN.device)} ({told})")


def described(choice: Choice, device: torch.device) -> str:
    """Say in a few words what computes.

    >>> described(Choice("stacked", 2, 1, 64), torch.device("cpu"))
    'stacked engine in 2 lanes'
    """
    if device.type == "cuda":
        return f"{choice.engine} engine"
    if choice.lanes > 1:
        return f"{choice.engine} engine in {choice.lanes} lanes"
    return f"{choice.engine} engine, {choice.threads} thread{'s' if choice.threads > 1 else ''}"


def bounds(members: int, lanes: int) -> list[tuple[int, int]]:
    """Share members out to lanes: where each begins and ends, none empty.

    >>> bounds(5, 2), bounds(1, 2)
    ([(0, 3), (3, 5)], [(0, 1)])
    """
    lanes = min(lanes, members)
    cuts = [-(-members * lane // lanes) for lane in range(lanes + 1)]
    return list(itertools.pairwise(cuts))


def _agree(race: Race, engines: Engines) -> dict[EngineName, str]:
    """Compare every engine with plain modules on a step; say what is wrong with those that fail."""
    facts: dict[EngineName, str] = {}
    if "sequential" not in engines:  # one engine was asked for: it may raise what it raises
        return facts
    plain = race.of(0, min(2, len(race.stack)))
    expected = _trial(engines["sequential"], plain)
    for name in (name for name in engines if name != "sequential"):
        try:
            results = _trial(engines[name], race)
        except Exception as error:  # a user's module may raise anything
            if is_exhausted(error):
                raise
            facts[name] = f"impossible: {first_line(error)}"
            continue
        pairs = zip(results, expected, strict=True)
        if not all(_close(ours[: len(theirs)], theirs) for ours, theirs in pairs):
            facts[name] = "left out: it does not compute what the plain module computes"
    return facts


def _trial(engine: Engine, race: Race) -> list[Tensor]:
    """Return losses, gradients and buffers after a step on a copy, and losses in evaluation."""
    members = race.stack.take(range(len(race.stack)))
    seed_K = torch.arange(len(members), device=race.x_KN.device)
    loss_K, _, gradient_KP = engine.step(members, race.x_KN, race.y_KN, seed_K, race.knobs)
    val_K = engine.evaluate(members, race.x_KN[0], race.y_KN[0])[0]
    return [loss_K, gradient_KP, val_K, *members.buffers.values()]


def _close(ours: Tensor, theirs: Tensor) -> bool:
    if not theirs.is_floating_point():
        return torch.equal(ours, theirs)
    if not (theirs.numel() and theirs.isfinite().all()):
        return True  # nothing to compare with
    error = (ours - theirs).abs().max()
    return bool(error <= 0.02 * theirs.abs().max() + 1e-5)


def _contenders(
    engines: Sequence[Engine], race: Race, cores: int, pool: Executor
) -> Iterator["_Timer"]:
    """Yield the ways to compute; where steps are long, lanes alone: they have nothing to lose."""
    lanes = 1 if race.x_KN.is_cuda else min(cores, len(race.stack))
    apart = [engine for engine in engines if lanes > 1 and not engine.shares_generator]
    in_lanes = [_Timer(engine, lanes, 1, race, pool) for engine in apart]
    for timer in in_lanes:
        timer.measure()
        yield timer
    if in_lanes and min(timer.seconds for timer in in_lanes) > LONG_S:
        return
    for engine in engines:
        yield _Timer(engine, 1, 1, race, None)
        if cores > 1 and not race.x_KN.is_cuda:
            yield _Timer(engine, 1, cores, race, None)


class _Timer(Timer):
    """Times steps of an engine in some lanes or threads, on a copy of the members."""

    def __init__(
        self, engine: Engine, lanes: int, threads: int, race: Race, pool: Executor | None
    ) -> None:
        """Record what the engine has to."""
        count = min(len(race.stack), engine.probe * lanes)
        super().__init__(self._run, len(race.stack) / count)
        self.engine, self.lanes, self.threads, self.pool = engine, lanes, threads, pool
        self.races = [(engine, race.of(a, b)) for a, b in bounds(count, lanes)]
        self.run()

    def _run(self) -> None:
        with threads(self.threads):
            if self.pool is None:
                _step(self.races[0])
            else:
                list(self.pool.map(_step, self.races))


@torch.no_grad()
def _step(entry: tuple[Engine, Race]) -> None:
    engine, race = entry
    seed_K = torch.zeros(len(race.stack), dtype=torch.int64, device=race.x_KN.device)
    engine.step(race.stack, race.x_KN, race.y_KN, seed_K, race.knobs)
    if race.x_KN.is_cuda:
        torch.cuda.synchronize(race.x_KN.device)


def _race(timers: Sequence[_Timer], steps: int) -> None:
    """Measure all in turns, the longer the more steps are to come; no longer than these take."""

    def enough(best: float) -> float:
        return min(max(SHARE * steps * best, min(steps * best, RACE_S[0])), RACE_S[1])

    in_turns(timers, enough)


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Let PyTorch use this many CPU threads inside operations that this thread calls."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
