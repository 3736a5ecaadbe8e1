"""What recording, checkpointing and publishing cost, against the same training without a registry.

Both train the same members with the same engine, chosen once.  With a registry every epoch's
figures go into SQLite, the state of training is saved as often as usual, and the best weights of
each member are published, all synchronised to the disk.  The difference of two trainings is noisy;
the time spent in the calls that record is what the last column shows, of the last round.

    python benchmarks/recording.py digits mnist5k
"""

import argparse
import time
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from rounds import in_turns
from tabulate import tabulate

from zoo import Fit, Registry, parse, plan
from zoo.choice import Choice
from zoo.config import RunConfig
from zoo.journal import Journal
from zoo.planning import Plan
from zoo.reports import Member


def bare(asked: Plan, choice: Choice) -> tuple[int, float]:
    """Train without a registry; return how many epochs, and no seconds of recording."""
    return sum(
        len(happened.epochs) for happened in Fit(members(asked), asked.data, choice=choice)
    ), 0


def recorded(asked: Plan, choice: Choice) -> tuple[int, float]:
    """Train into a registry, as ``train-many`` does; return epochs, and seconds of recording."""
    epochs, spent = 0, 0.0
    with TemporaryDirectory(dir=Path.cwd()) as folder:  # on a disk, which /tmp may not be
        start = time.perf_counter()
        with Registry(f"sqlite:///{folder}/registry.db", Path(folder) / "blobs") as registry:
            runs = registry.add(asked.requests)
            registry.claim([run.id for run in runs])
            spent += time.perf_counter() - start
            fit = Fit([asked.member(run) for run in runs], asked.data, choice=choice)
            start = time.perf_counter()
            journal = Journal(registry, asked.data)
            journal.save(fit, now=True)
            spent += time.perf_counter() - start
            for happened in fit:
                epochs += len(happened.epochs)
                start = time.perf_counter()
                journal.keep(happened)
                journal.save(fit)
                spent += time.perf_counter() - start
            start = time.perf_counter()
            journal.flush(last=True)
        spent += time.perf_counter() - start
    return epochs, spent


def members(asked: Plan) -> list[Member]:
    return [
        Member(str(number), RunConfig.model_validate(request.config), request.seed or 0)
        for number, request in enumerate(asked.requests)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("sets", nargs="*", default=["digits", "mnist5k"])
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    rows = []
    for ref in given.sets:
        asked = plan(parse({"data": {"ref": ref}, "seeds": 16}))
        choice = Fit(members(asked), asked.data).choice
        contenders = {
            "bare": partial(bare, asked, choice),
            "recorded": partial(recorded, asked, choice),
        }
        seconds, answers = in_turns(contenders, given.rounds)
        epochs, spent = answers["recorded"]
        assert epochs == answers["bare"][0]
        rows.append(
            (
                ref,
                *(f"{seconds[name]:.2f}" for name in contenders),
                f"{seconds['recorded'] / seconds['bare'] - 1:+.1%}",
                f"{spent / seconds['bare']:.1%}",
            )
        )
    headers = ["16 members on", "seconds, bare", "recorded", "difference", "spent on recording"]
    print(tabulate(rows, headers, tablefmt="github", disable_numparse=True))


if __name__ == "__main__":
    main()
