"""What tests of several workers share: a model slow enough to be killed at, and its plan."""

import time

from test_resume import opened

from zoo.config import parse
from zoo.executors import _context
from zoo.planning import plan
from zoo.usercode import EVERYTHING, trusting

# A worker imports this: it saves its state in every epoch, and an epoch takes a while.
SLOW = """
import time

from torch import nn

from zoo import journal

journal.STATE_S, journal.SHARE, journal.FLUSH_S = 0.0, 1.0, 0.0


class Slow(nn.Linear):
    def forward(self, x):
        time.sleep({pause})
        return super().forward(x)


def slow(shape, outputs):
    return nn.Sequential(nn.Linear(*shape, 8), nn.ReLU(), Slow(8, outputs))
"""
ONE_BY_ONE = {"engine": "sequential", "width": 1}  # nobody's bits depend on who is beside


def slow_settings(folder, seeds, epochs, pause=0.004):
    """Write the slow model; return settings that train it on iris, 4 steps an epoch."""
    path = folder / "slow.py"
    path.write_text(SLOW.format(pause=pause))
    return {
        "data": {"ref": "iris"},
        "model": {"name": f"{path}:slow"},
        "seeds": seeds,
        "train": {"epochs": epochs, "batch_size": 32},
        "name": "fleet",
    }


def planned(asked):
    with trusting(EVERYTHING):
        return plan(parse(asked))


def started(target, *arguments):
    """Start a process that does something, as a fork of one that has imported all."""
    process = _context().Process(target=target, args=arguments)
    process.start()
    return process


def waited_for(condition, seconds=240.0):
    """Wait until something is so, and return what it is."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


def in_training(places, epochs=2, processes=2):
    """Return the processes that train, once there are so many and each has done some epochs."""

    def found():
        with opened(places) as registry:
            runs = [run for run in registry.standings("fleet") if run.status == "running"]
        pids = {run.holder.rpartition(":")[2] for run in runs if run.holder and run.epochs > epochs}
        return sorted(map(int, pids)) if len(pids) >= processes else None

    return waited_for(found)
