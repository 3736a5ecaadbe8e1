"""A GPU: what many members cost beside one, and each engine beside the plain loop.

    python benchmarks/gpu.py

Times are of whole epochs, the evaluation included, the least of some; the loop's are its training
over its epochs.
"""

import argparse
import time
from dataclasses import replace

import torch
from plain import train
from tabulate import tabulate
from test_training import CASES, data_of, settings, task_of

from zoo import Fit, Member
from zoo.choice import Choice
from zoo.engines import EngineName

WIDTHS = (1, 16, 64, 256, 1024)
LOOP_SEEDS = range(2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=4)
    asked = parser.parse_args()
    lines, engines = [], []
    for name in CASES:
        times = [epoch_ms(name, "stacked", count, asked.rounds) for count in WIDTHS]
        lines.append([name, *(f"{t:.1f}" for t in times), f"{times[2] / times[0]:.2f}"])
        one = epoch_ms(name, "sequential", 1, asked.rounds)
        loop = loop_ms(name)
        members = [Member(str(seed), settings(name), seed) for seed in range(16)]
        start = time.perf_counter()
        choice = Fit(members, data_of(name), device="cuda").choice
        race = time.perf_counter() - start
        best = 16 * min(loop, one)
        engines.append(
            [
                name,
                *(f"{t:.1f}" for t in (times[1], 16 * one, 16 * loop)),
                f"{best / times[1]:.1f}",
                choice.engine,
                f"{race:.2f}",
            ]
        )
    print(torch.cuda.get_device_name(), "PyTorch", torch.__version__)
    widths = [f"{count} members" for count in WIDTHS]
    print(tabulate(lines, ["epoch, ms", *widths, "64 / 1"], "github", disable_numparse=True))
    headers = ["16 members, epoch, ms", "stacked", "sequential", "plain loop", "faster by"]
    print(tabulate(engines, [*headers, "auto", "race, s"], "github", disable_numparse=True))


def epoch_ms(name: str, engine: EngineName, count: int, rounds: int) -> float:
    """Return the least time of an epoch of so many members."""
    members = [Member(str(seed), settings(name), seed) for seed in range(count)]
    training = iter(Fit(members, data_of(name), choice=Choice(engine, 1, 1, count), device="cuda"))
    next(training)  # records
    taken = []
    for _ in range(min(rounds, CASES[name].epochs - 2)):
        torch.cuda.synchronize()
        start = time.perf_counter()
        next(training)
        torch.cuda.synchronize()
        taken.append(time.perf_counter() - start)
    return min(taken) * 1e3


def loop_ms(name: str) -> float:
    """Return the time of an epoch of one model in the plain loop."""
    task = task_of(name)
    rows = (task.x, task.y, task.val_x, task.val_y)
    x, y, val_x, val_y = (tensor.cuda() for tensor in rows)
    there = replace(task, x=x, y=y, val_x=val_x, val_y=val_y)
    train(replace(there, epochs=1), [0])
    start = time.perf_counter()
    train(there, LOOP_SEEDS)
    return (time.perf_counter() - start) / len(LOOP_SEEDS) / task.epochs * 1e3


if __name__ == "__main__":
    main()
