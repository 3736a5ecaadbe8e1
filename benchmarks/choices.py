"""How far the engine that ``auto`` takes is from the best one, and what finding it costs.

For every model the race is run some times anew.  Then an epoch of each way to compute (engine x
lanes or threads) is timed, all in turns; the regret is the time of the way taken over that of the
best.

    python benchmarks/choices.py
"""

import argparse
import time
from collections import Counter
from functools import partial

import torch
from rounds import in_turns
from tabulate import tabulate
from test_training import CASES, SEEDS, data_of, settings

from zoo import Fit, Member
from zoo.choice import Choice, described
from zoo.engines import EngineName

ENGINES: tuple[EngineName, ...] = ("stacked", "sequential")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--races", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=7)
    asked = parser.parse_args()
    cores = torch.get_num_threads()
    ways = [
        (engine, lanes, threads)
        for engine in ENGINES
        for lanes, threads in dict.fromkeys([(1, 1), (1, cores), (cores, 1)])
    ]
    lines = []
    for name in CASES:
        data = data_of(name)
        members = [Member(str(seed), settings(name), seed) for seed in SEEDS]
        taken: Counter[tuple[EngineName, int, int]] = Counter()
        seconds = []
        for _ in range(asked.races):
            start = time.perf_counter()
            choice = Fit(members, data, device="cpu").choice
            seconds.append(time.perf_counter() - start)
            taken[choice.engine, choice.lanes, choice.threads] += 1
        trainings = {
            way: iter(Fit(members, data, choice=Choice(*way, len(members)), device="cpu"))
            for way in ways
        }
        for training in trainings.values():
            next(training)  # records
        epochs = {way: partial(next, training) for way, training in trainings.items()}
        least, _ = in_turns(epochs, min(asked.rounds, CASES[name].epochs - 1))
        spent = sum(count * least[way] for way, count in taken.items()) / asked.races
        lines.append(
            [
                name,
                *(f"{least[way] * 1e3:.0f}" for way in ways),
                ", ".join(f"{count} x {_short(way)}" for way, count in taken.most_common()),
                f"{spent / min(least.values()) - 1:+.0%}",
                f"{min(seconds):.2f}",
            ]
        )
    headers = ["epoch, ms", *map(_short, ways), "taken", "regret", "race, s"]
    print(tabulate(lines, headers, tablefmt="github", disable_numparse=True))


def _short(way: tuple[EngineName, int, int]) -> str:
    return described(Choice(*way, 0), torch.device("cpu")).replace(" engine", "")


if __name__ == "__main__":
    main()
