"""What tests of several workers share: a model that trains as slowly as they like, and its plan."""

import time
from contextlib import contextmanager
from pathlib import Path

from test_resume import opened

from zoo.config import parse
from zoo.executors import _context
from zoo.planning import plan
from zoo.usercode import EVERYTHING, trusting

# A worker imports this: it saves its state in every epoch.  While training is held, a step takes so
# long that nothing ends, but for the first ones of a process, which are about six epochs.
SLOW = """
import time
from itertools import count
from pathlib import Path

from torch import nn

from zoo import journal

journal.STATE_S, journal.SHARE, journal.FLUSH_S = 0.0, 1.0, 0.0
HOLD, steps = Path(__file__).with_suffix(".hold"), count()


class Slow(nn.Linear):
    def forward(self, x):
        if next(steps) > 30 and HOLD.exists():
            time.sleep(0.2)
        return super().forward(x)


def slow(shape, outputs):
    return nn.Sequential(nn.Linear(*shape, 8), nn.ReLU(), Slow(8, outputs))
"""
ONE_BY_ONE = {"engine": "sequential", "width": 1}  # nobody's bits depend on who is beside


def slow_settings(folder, seeds, epochs):
    """Write the slow model; return settings that train it on iris, 4 steps an epoch."""
    path = folder / "slow.py"
    path.write_text(SLOW)
    return {
        "data": {"ref": "iris"},
        "model": {"name": f"{path}:slow"},
        "seeds": seeds,
        "train": {"epochs": epochs, "batch_size": 32},
        "name": "fleet",
    }


@contextmanager
def held(asked):
    """Let nothing end; give the file by whose removal training goes on at full speed."""
    hold = Path(asked["model"]["name"].rpartition(":")[0]).with_suffix(".hold")
    hold.touch()
    try:
        yield hold
    finally:
        hold.unlink(missing_ok=True)


def planned(asked):
    with trusting(EVERYTHING):
        return plan(parse(asked))


def started(target, *arguments):
    """Start a process that does something, as a fork of one that has imported all."""
    process = _context().Process(target=target, args=arguments)
    process.start()
    return process


def waited_for(condition, seconds=600.0):
    """Wait until something is so, and return what it is."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return found


def in_training(places, epochs=2, processes=2):
    """Return the processes that train, once there are so many and each has done some epochs.

    They come only if training is held: the first might be done before the last has begun.
    """

    def found():
        runs = [run for run in registry.standings("fleet") if run.status == "running"]
        pids = {run.holder.rpartition(":")[2] for run in runs if run.holder and run.epochs > epochs}
        return sorted(map(int, pids)) if len(pids) >= processes else None

    with opened(places) as registry:
        return waited_for(found)
