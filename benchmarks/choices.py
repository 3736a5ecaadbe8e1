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
        ways = [
            (engine, lanes, threads)
            for engine in ENGINES
            for lanes, threads in dict.fromkeys([(1, 1), (1, cores), (cores, 1)])
        ]
        trainings = {
            way: iter(Fit(members, data, choice=Choice(*way, len(members)), device="cpu"))
            for way in ways
        }
        for training in trainings.values():
            next(training)  # records
        epochs = {way: partial(next, training) for way, training in trainings.items()}
        least, _ = in_turns(epochs, min(asked.rounds, CASES[name].epochs - 1))
        best = min(least, key=least.__getitem__)
        for way, count in taken.most_common():
            lines.append(
                [
                    name,
                    described(Choice(*way, 0), torch.device("cpu")),
                    f"{count} of {asked.races}",
                    f"{least[way] * 1e3:.0f}",
                    described(Choice(*best, 0), torch.device("cpu")),
                    f"{least[best] * 1e3:.0f}",
                    f"{least[way] / least[best] - 1:+.0%}",
                    f"{min(seconds):.2f}",
                ]
            )
    headers = ["model", "taken", "races", "epoch, ms", "best", "epoch, ms", "regret", "race, s"]
    print(tabulate(lines, headers, tablefmt="github", disable_numparse=True))


if __name__ == "__main__":
    main()
