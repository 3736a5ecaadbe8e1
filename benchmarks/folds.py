"""What folds and draws cost: members with rows of their own train in stacks of their own.

8 MLPs on digits train for the same epochs: on common rows in one stack, in 2 folds (two stacks of
4), in 8 folds and with bootstrap draws (eight stacks of 1).

    python benchmarks/folds.py
"""

import argparse
from collections.abc import Callable
from functools import partial
from tempfile import TemporaryDirectory

from rounds import in_turns
from tabulate import tabulate

from zoo import Registry, parse, plan, train_many
from zoo.planning import Plan

WAYS: dict[str, dict[str, object]] = {
    "common rows: 1 stack of 8": {},
    "2 folds: 2 stacks of 4": {"folds": 2},
    "8 folds: 8 stacks of 1": {"folds": 8},
    "bootstrap: 8 stacks of 1": {"bootstrap": True},
}


def planned(own: dict[str, object], hidden: list[int], epochs: int) -> Plan:
    asked = {
        "data": {"ref": "digits", **own},
        "model": {"hidden": hidden},
        "train": {"epochs": epochs, "batch_size": 128},
        "stop": {"patience": epochs},
    }
    return plan(parse(asked))


def trained(asked: Plan) -> int:
    """Train; return how many rows were trained on."""
    with TemporaryDirectory() as folder, Registry(f"sqlite:///{folder}/r.db", folder) as registry:
        members = [asked.member(run) for run in train_many(asked, registry)]
    rows = [len(asked.data_of(m).train) * m.config.train.epochs for m in members]
    return sum(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--hidden", type=int, nargs="+", default=[64, 64])
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    contenders: dict[str, Callable[[], int]] = {
        way: partial(trained, planned(own, asked.hidden, asked.epochs)) for way, own in WAYS.items()
    }
    seconds, rows = in_turns(contenders, asked.rounds)
    rates = {way: seconds[way] / rows[way] for way in WAYS}
    base = rates["common rows: 1 stack of 8"]
    table = [(way, f"{seconds[way]:.2f}", f"{rates[way] / base:.1f}x") for way in WAYS]
    headers = ["", "seconds", "time per training row"]
    print(tabulate(table, headers, tablefmt="github", disable_numparse=True))


if __name__ == "__main__":
    main()
