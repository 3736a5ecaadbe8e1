"""A registry of many runs: listing some of them, adding one, publishing from many processes.

Listing is timed as a whole process; the time a process takes to do nothing is given beside it.

    python benchmarks/registry.py --runs 10000 --epochs 50
"""

import argparse
import multiprocessing
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import torch
from tabulate import tabulate

from zoo import Registry
from zoo.config import RunConfig
from zoo.registry import NewRun
from zoo.registry.records import Batch, Outcome, finite

ROOT = Path(__file__).parents[1]
SEEDS = 50  # runs of one name
PROCESSES, EACH = 8, 25  # publishing at once


def new_run(name: str, seed: int, config: dict[str, Any]) -> NewRun:
    return NewRun(
        name=name,
        seed=seed,
        config=config,
        config_hash="c",
        task="classification",
        classes=[str(digit) for digit in range(10)],
        data_ref="digits",
        data_fingerprint="f",
        split_hash="s",
        preprocessing={"mean": [0.5] * 64, "std": [1.0] * 64},
        environment={"torch": torch.__version__},
    )


def fill(registry: Registry, runs: int, epochs: int) -> None:
    """Add finished runs with histories, a name's runs at a time."""
    config = RunConfig.model_validate({"data": {"ref": "digits"}}).model_dump(mode="json")
    state = {"w": torch.zeros(10)}
    for number in range(runs // SEEDS):
        asked = [new_run(f"zoo-{number}", seed, config) for seed in range(SEEDS)]
        batch = Batch()
        for run in registry.add(asked):
            figures = {"val_loss": 0.1, "val_accuracy": 0.9 + (run.seed or 0) / 1000}
            batch.started.append(run.id)
            batch.history += [
                {"run_id": run.id, "epoch": epoch, "train_loss": 1 / epoch, "val_loss": 1 / epoch}
                for epoch in range(1, epochs + 1)
            ]
            batch.outcomes.append(
                Outcome(run_id=run.id, status="finished", best_epoch=9, metrics=finite(figures))
            )
            if run.seed == 0:
                batch.checkpoints.append(
                    registry.put(run.id, state, kind="best", epoch=9, metrics=figures)
                )
        registry.write(batch)


def median_seconds(work: Callable[[], object], rounds: int = 5) -> float:
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return median(times)


def command(folder: str, *arguments: str) -> Callable[[], object]:
    places = ["--registry", f"sqlite:///{folder}/registry.db", "--blobs", f"{folder}/blobs"]
    words = [sys.executable, str(ROOT / "cli.py"), *arguments, *(places if arguments else ())]
    return lambda: subprocess.run(words, check=True, stdout=subprocess.DEVNULL)


def publish(folder: str, number: int) -> list[float]:
    """Add, claim, start and publish runs as one of many processes; return the seconds of each."""
    torch.set_num_threads(1)
    times = []
    with Registry(f"sqlite:///{folder}/registry.db", f"{folder}/blobs") as registry:
        for seed in range(EACH):
            start = time.perf_counter()
            (run,) = registry.add([new_run(f"crowd-{number}", seed, {})])
            registry.claim([run.id])
            registry.start([run.id])
            registry.publish(
                run.id, {"w": torch.ones(1000)}, epoch=1, epochs=1, metrics={}, seconds=0.0
            )
            times.append(time.perf_counter() - start)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--epochs", type=int, default=50)
    given = parser.parse_args()
    with TemporaryDirectory(dir=Path.cwd()) as folder:
        url = f"sqlite:///{folder}/registry.db"
        with Registry(url, f"{folder}/blobs") as registry:
            start = time.perf_counter()
            fill(registry, given.runs, given.epochs)
            rows = [("fill", time.perf_counter() - start)]
            seeds = iter(range(1000, 2000))
            rows += [
                (
                    "add a run",
                    median_seconds(lambda: registry.add([new_run("zoo-7", next(seeds), {})]), 50),
                ),
                (
                    "add one that is there",
                    median_seconds(lambda: registry.add([new_run("zoo-7", 3, {})])),
                ),
                ("runs of one name", median_seconds(lambda: registry.runs(["zoo-7"]))),
                ("the best of one name", median_seconds(lambda: registry.runs(["zoo-7@best"]))),
                ("runs of a glob", median_seconds(lambda: registry.runs(["zoo-1?"]))),
                ("all runs", median_seconds(registry.runs)),
            ]
        rows += [
            ("process: --help", median_seconds(command(folder, "list", "--help"))),
            ("process: list zoo-7", median_seconds(command(folder, "list", "zoo-7"))),
            ("process: list zoo-7/seed=3", median_seconds(command(folder, "list", "zoo-7/seed=3"))),
            ("process: list zoo-1?", median_seconds(command(folder, "list", "zoo-1?"))),
            ("process: list", median_seconds(command(folder, "list"), 3)),
        ]
        with multiprocessing.get_context("spawn").Pool(PROCESSES) as pool:
            times = pool.starmap(publish, [(folder, number) for number in range(PROCESSES)])
        rows.append(
            (f"publish, {PROCESSES} processes at once", median(t for each in times for t in each))
        )
        with Registry(url, f"{folder}/blobs") as registry:
            published = registry.runs(["crowd-*"], status="finished")
            assert len(published) == PROCESSES * EACH
    table = [(name, f"{seconds * 1000:,.1f}") for name, seconds in rows]
    print(tabulate(table, [f"{given.runs:,} runs", "ms"], "github", disable_numparse=True))


if __name__ == "__main__":
    main()
