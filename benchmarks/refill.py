"""What it is worth that a member which stops hands its slot to the next one waiting.

64 runs of one MLP (64-64, batch 128) on digits end at epochs spread evenly from 5 to 100, in an
order of no meaning.  They are trained

- by stacks of 16 slots that are refilled,
- by four stacks of 16 that are not: each narrows when half of its members have ended,
- by four fixed stacks of 16, which compute all members until the last one has ended,
- by the sequential engine, and by the plain loop of :mod:`plain`, one after another.

    python benchmarks/refill.py

All lanes and threads are one, so that only the work counts.
"""

import argparse
import random
from collections.abc import Callable

import torch
from plain import Task, train
from rounds import in_turns
from tabulate import tabulate

from zoo import Fit, Member, load, models
from zoo.choice import Choice
from zoo.config import RunConfig
from zoo.engines import EngineName
from zoo.sections import DataConfig

RUNS, WIDTH, SHORTEST, LONGEST, BATCH, LR = 64, 16, 5, 100, 128, 1e-3
DATA = load(DataConfig(ref="digits"))


def members(epochs: list[int]) -> list[Member]:
    return [
        Member(
            str(seed),
            RunConfig.model_validate(
                {
                    "data": {"ref": "digits"},
                    "model": {"name": "mlp"},
                    "optim": {"name": "adam", "lr": LR},
                    "train": {"epochs": count, "batch_size": BATCH},
                    "stop": {"patience": LONGEST},
                }
            ),
            seed,
        )
        for seed, count in enumerate(epochs)
    ]


def fitted(epochs: list[int], engine: EngineName = "stacked") -> int:
    """Train; return how many epochs were computed, those of empty slots too."""
    choice = Choice(engine, 1, 1, WIDTH)
    fit = Fit(members(epochs), DATA, choice=choice, device="cpu")
    training, computed = iter(fit), 0
    while any(fit.slots):
        computed += len(fit.slots)
        next(training)
    return computed


def plain(epochs: list[int]) -> int:
    for seed, count in enumerate(epochs):
        task = Task(
            lambda seed: models.build("mlp", {}, DATA.shape, DATA.outputs, seed),
            DATA.train.x,
            DATA.train.y,
            DATA.val.x,
            DATA.val.y,
            BATCH,
            count,
            LR,
        )
        train(task, [seed])
    return sum(epochs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    step = (LONGEST - SHORTEST) / (RUNS - 1)
    epochs = [round(SHORTEST + step * number) for number in range(RUNS)]
    random.Random(0).shuffle(epochs)
    groups = [epochs[start : start + WIDTH] for start in range(0, RUNS, WIDTH)]
    contenders: dict[str, Callable[[], int]] = {
        "stack of 16, refilled": lambda: fitted(epochs),
        "4 stacks of 16, narrowed": lambda: sum(map(fitted, groups)),
        "4 stacks of 16, fixed": lambda: sum(fitted([max(g)] * WIDTH) for g in groups),
        "sequential engine": lambda: fitted(epochs, "sequential"),
        "plain loop": lambda: plain(epochs),
    }
    seconds, computed = in_turns(contenders, asked.rounds)
    fastest = seconds["stack of 16, refilled"]
    rows = [
        (name, count, f"{seconds[name]:.2f}", f"{seconds[name] / fastest:.2f}x")
        for name, count in computed.items()
    ]
    headers = ["", "epochs computed", "seconds", "refilled is faster by"]
    print(tabulate(rows, headers, tablefmt="github", disable_numparse=True))


if __name__ == "__main__":
    main()
