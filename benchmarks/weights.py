"""What averaging weights is worth: the tables of docs/weights.md, from trained members.

    python benchmarks/weights.py -o weights.jsonl
    python benchmarks/weights.py --model mlp --data mnist5k --members 8 --repetitions 1 --quick

Members are trained with the toolkit's defaults: independently, from shared first weights, or
branched from one network after a few epochs.  Each repetition has its own split and seeds.
Averages are chosen and repaired by training and validation rows, and judged by test rows.  Results
are appended to a file, line by line, and what is there already is not done again: a long experiment
can be run in pieces.
"""

import argparse
import json
import math
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import torch
from tabulate import tabulate
from trained import CASES, Start, Trained, train

from ensemble import greedy_soup, heal, recalibrate, repairer, symmetry, uniform
from ensemble.ladder import matched
from ensemble.state import State

Figures: TypeAlias = dict[str, dict[str, float]]
STARTS: tuple[Start, ...] = ("independent", "shared", "branched")
RUNGS = (
    "mean single",
    "best single",
    "naive",
    "aligned",
    "repaired",
    "soup",
    "healed",
    "the ladder's best",
    "pooled predictions",
)


def rungs(trained: Trained) -> Figures:
    """Return the test figures of all that can be made of members."""
    module, states, batches = trained.module, trained.states, trained.batches()
    found = symmetry(module, batches[0][:2])
    orders = matched(module, states, batches, found)
    fixers = {way: repairer(module, order, batches) for way, order in orders.items()}
    repaired = {way: fixers[way](uniform(order)) for way, order in orders.items()}
    way = min(orders, key=lambda way: trained.figures(repaired[way], "val")["nll"])
    aligned, fix = orders[way], fixers[way]
    valid = [trained.figures(state, "val") for state in states]
    most = max(each["accuracy"] for each in valid)

    def worth(figures: Mapping[str, float]) -> float:
        return -figures["nll"] if figures["accuracy"] >= most else -math.inf

    known = {id(state): worth(each) for state, each in zip(aligned, valid, strict=True)}

    def score(state: State) -> float:
        if id(state) in known:
            return known[id(state)]
        return worth(trained.figures(fix(state), "val"))

    soup = greedy_soup(aligned, score)
    made = {
        "best single": states[max(range(len(states)), key=lambda k: worth(valid[k]))],
        "naive": recalibrate(module, uniform(states), batches),
        "aligned": recalibrate(module, uniform(aligned), batches),
        "repaired": repaired[way],
        "soup": fix(soup) if len(soup.members) > 1 else soup,
    }
    rows = [
        (trained.data.prepare(part.x), part.y) for part in (trained.data.train, trained.data.val)
    ]
    epochs = max(1, int(statistics.fmean(trained.epochs) / 4))
    made["healed"] = heal(module, made["repaired"], states, *rows, epochs=epochs)
    best = max(made, key=lambda name: worth(trained.figures(made[name], "val")))
    told_KNC = torch.stack([trained.logits(state, "test") for state in states]).softmax(-1)
    return {
        "mean single": mean([trained.figures(state, "test") for state in states]),
        **{name: trained.figures(state, "test") for name, state in made.items()},
        "the ladder's best": trained.figures(made[best], "test"),
        "pooled predictions": trained.judged(told_KNC.mean(0).log(), "test"),
    }


def mean(figures: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the mean of each figure."""
    return {key: statistics.fmean(each[key] for each in figures) for key in figures[0]}


def experiment(
    names: Sequence[str], starts: Sequence[Start], asked: argparse.Namespace,
    done: Iterable[Mapping[str, Any]],
) -> Iterator[dict[str, Any]]:  # fmt: skip
    """Train and combine what has not been; give a record of each."""
    there = {_key(record) for record in done}
    for repetition in range(asked.repetitions):
        for name in names:
            for start in starts:
                heads = [
                    {"case": name, "start": start, "members": count, "repetition": repetition}
                    for count in asked.members
                ]
                waiting = [head for head in heads if _key(head) not in there]
                if not waiting:
                    continue
                began = time.perf_counter()
                count = max(head["members"] for head in waiting)
                trained = train(name, start, count, repetition, 4 if asked.quick else 100)
                seconds = time.perf_counter() - began
                for head in waiting:
                    began = time.perf_counter()
                    few = replace(
                        trained,
                        states=trained.states[: head["members"]],
                        epochs=trained.epochs[: head["members"]],
                    )
                    figures = rungs(few)
                    spent = time.perf_counter() - began
                    print(f"{head}: {seconds:.0f} + {spent:.0f} s", file=sys.stderr, flush=True)
                    yield {**head, "figures": figures}


def _key(record: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(record[key] for key in ("case", "start", "members", "repetition"))


def tables(records: Iterable[Mapping[str, Any]], figure: str) -> Iterator[str]:
    """Write mean ± standard deviation over the repetitions, a table per case."""
    by_case: dict[str, dict[tuple[str, int], list[Figures]]] = defaultdict(
        lambda: defaultdict(list)
    )
    for record in records:
        row = (record["start"], record["members"])
        by_case[record["case"]][row].append(record["figures"])
    for name, rows in by_case.items():
        shown = [rung for rung in RUNGS if any(rung in each[0] for each in rows.values())]
        lines = [
            [start, count, *(_cell(each, rung, figure) for rung in shown)]
            for (start, count), each in sorted(
                rows.items(), key=lambda item: (STARTS.index(item[0][0]), item[0][1])
            )
        ]
        most = max(map(len, rows.values()))
        yield f"{name}: test {figure}, mean ± deviation of {most} repetitions\n\n" + tabulate(
            lines, ["start", "K", *shown], tablefmt="github", disable_numparse=True
        )


def _cell(each: Sequence[Figures], rung: str, figure: str) -> str:
    values = [figures[rung][figure] for figures in each if rung in figures]
    if figure == "accuracy":
        values = [100 * value for value in values]
    digits = 1 if figure == "accuracy" else 3
    spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.{digits}f}{spread}" if values else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", help="mlp, cnn or resnet; by default all")
    parser.add_argument("--data", help="digits or mnist5k; by default both")
    parser.add_argument("--start", choices=STARTS, help="by default all")
    parser.add_argument("--members", type=int, nargs="+", default=[2, 4, 8])
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="four epochs, to try this script")
    parser.add_argument("--figure", choices=("accuracy", "nll"), default="accuracy")
    parser.add_argument("-o", "--output", type=Path, help="JSON lines that results are added to")
    asked = parser.parse_args()
    names = [
        name
        for name, case in CASES.items()
        if asked.model in (None, case.model) and asked.data in (None, case.data)
    ]
    starts = STARTS if asked.start is None else (asked.start,)
    records: list[dict[str, Any]] = []
    if asked.output and asked.output.exists():
        records = [json.loads(line) for line in asked.output.read_text().splitlines()]
    for record in experiment(names, starts, asked, [*records]):
        records.append(record)
        if asked.output:
            with asked.output.open("a") as file:
                file.write(json.dumps(record) + "\n")
    print("\n\n".join(tables(records, asked.figure)))


if __name__ == "__main__":
    main()
