"""What folds and draws cost: members with rows of their own train in stacks of their own.

``python benchmarks/folds.py`` trains 8 members on digits for the same epochs: on common rows in one
stack, in 2 folds (two stacks of 4), in 8 folds, and with bootstrap draws (8 stacks of 1).
"""

import argparse
import time
from tempfile import TemporaryDirectory

from zoo import Registry, parse, plan, train_many

WAYS = {
    "common rows, 1 stack of 8": {},
    "2 folds, 2 stacks of 4": {"folds": 2},
    "8 folds, 8 stacks of 1": {"folds": 8},
    "bootstrap, 8 stacks of 1": {"bootstrap": True},
}


def seconds(own: dict[str, object], hidden: list[int], epochs: int) -> tuple[float, float, float]:
    """Time planning and training; count the rows trained on, in thousands, over all epochs."""
    asked = {
        "data": {"ref": "digits", **own},
        "model": {"hidden": hidden},
        "train": {"epochs": epochs, "batch_size": 128},
        "stop": {"patience": epochs},
    }
    with TemporaryDirectory() as folder, Registry(f"sqlite:///{folder}/r.db", folder) as registry:
        start = time.perf_counter()
        planned = plan(parse(asked))
        middle = time.perf_counter()
        runs = train_many(planned, registry)
        end = time.perf_counter()
        members = [planned.member(run) for run in runs]
        rows = sum(len(planned.data_of(member).train) for member in members) * epochs
    return middle - start, end - middle, rows / 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--hidden", type=int, nargs="+", default=[64, 64])
    asked = parser.parse_args()
    seconds({}, asked.hidden, 1)  # imports
    base = None
    for way, own in WAYS.items():
        timed = [seconds(own, asked.hidden, asked.epochs) for _ in range(3)]
        planning, training, rows = min(timed, key=lambda taken: taken[1])
        rate = training / rows
        base = base or rate
        print(
            f"{way:27} plan {planning:5.2f} s, train {training:5.2f} s, "
            f"{rate / base:4.1f} x the time per row"
        )


if __name__ == "__main__":
    main()
