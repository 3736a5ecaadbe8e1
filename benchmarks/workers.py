"""How the cost of a training grows: members, width of the stack, workers, rows of the catalogue.

    python benchmarks/workers.py training             # seconds per member and epoch
    python benchmarks/workers.py catalogue            # of what workers ask and write
    python benchmarks/workers.py catalogue --url postgresql+psycopg://ann@localhost/empty

``training`` pins the stacked engine and gives every worker one core, so that only the width and the
number of workers count, and fits seconds = a + b / width.
"""

import argparse
import multiprocessing
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np
import torch
from sqlalchemy import insert
from tabulate import tabulate

from zoo import Registry, parse, plan, train_many
from zoo.executors import Processes
from zoo.registry import NewRun, tables
from zoo.registry.records import Batch, Outcome

WIDTHS = (1, 4, 16, 64, 256)
EPOCHS = 6  # of each member
SECONDS = 6.0  # that each training should take, about
ROWS = (1_000, 10_000, 100_000, 1_000_000)
SWEEP = 10_000  # runs of the name that is asked for
ROUNDS = 20


def seconds_each(width: int, workers: int, members: int) -> float:
    """Train; return the seconds of one core for each member and epoch, start-up left out."""
    asked = {
        "data": {"ref": "digits"},
        "model": {"name": "mlp"},
        "seeds": members * workers,
        "train": {"epochs": EPOCHS, "batch_size": 128},
        "stop": {"patience": EPOCHS},
    }
    with TemporaryDirectory(dir=Path.cwd()) as folder:
        place = f"sqlite:///{folder}/registry.db", f"{folder}/blobs"
        with Registry(*place) as registry:
            executor = Processes(workers)
            runs = train_many(
                plan(parse(asked)), registry, engine="stacked", width=width, executor=executor
            )
    begun = [np.datetime64(run.started_at.partition("+")[0]) for run in runs]
    ended = [np.datetime64(run.finished_at.partition("+")[0]) for run in runs]
    elapsed = (max(ended) - min(begun)) / np.timedelta64(1, "s")
    return elapsed * workers / (len(runs) * EPOCHS)


def training() -> None:
    """Time stacks of every width in one and in two workers; fit what a wide stack saves."""
    torch.set_num_threads(1)
    costs = {(width, workers): [] for width in WIDTHS for workers in (1, 2)}
    for _ in range(3):
        for width, workers in costs:
            members = max(width, 32)
            costs[width, workers].append(seconds_each(width, workers, members) * 1000)
    best = {key: min(times) for key, times in costs.items()}
    rows = [
        (width, f"{best[width, 1]:.2f}", f"{best[width, 2]:.2f}",
         f"{best[width, 1] / best[width, 2]:.2f}")
        for width in WIDTHS
    ]  # fmt: skip
    heads = ["width", "ms, 1 worker", "ms, 2 workers", "of twice the speed"]
    print(tabulate(rows, heads, "github", disable_numparse=True))
    fitted = np.linalg.lstsq(
        np.array([[1, 1 / width] for width in WIDTHS]),
        np.array([best[width, 1] for width in WIDTHS]),
        rcond=None,
    )[0]
    print(f"milliseconds of a core = {fitted[0]:.3f} + {fitted[1]:.3f} / width")


def fill(registry: Registry, rows: int) -> list[str]:
    """Add finished runs of other names until there are so many, and a sweep of queued ones."""
    asked = [
        NewRun(
            name="sweep", seed=seed, config={}, config_hash="c", task="regression", data_ref="d",
            data_fingerprint="f", split_hash="s",
        )
        for seed in range(min(SWEEP, rows))
    ]  # fmt: skip
    sweep = [run.id for run in registry.add(asked)]
    with registry.database.write() as connection:
        (row,) = connection.execute(tables.run.select().limit(1)).mappings()
        common = {key: value for key, value in row.items() if key != "sequence"}
        for start in range(len(sweep), rows, 10_000):
            connection.execute(
                insert(tables.run),
                [
                    {
                        **common,
                        "id": f"f{number:011x}",
                        "identity": f"f{number}",
                        "name": f"zoo-{number // 100}",
                        "status": "finished",
                    }
                    for number in range(start, min(start + 10_000, rows))
                ],
            )
    return sweep


def milliseconds(work: Callable[[], object]) -> float:
    times = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return median(times) * 1000


def costs_of(url: str, folder: str, rows: int) -> dict[str, float]:
    """Time what workers ask of a catalogue of so many runs, in milliseconds."""
    with Registry(url, f"{folder}/blobs") as registry, Registry(url, f"{folder}/blobs") as other:
        sweep = fill(registry, rows)
        other.claim(sweep[:64])
        epochs = iter(range(1, 1_000_000))
        running = sweep[64:128]
        registry.claim(running)
        registry.write(Batch(started=running))

        def flush() -> None:
            epoch = next(epochs)
            told = [{"run_id": key, "epoch": epoch, "val_loss": 0.5} for key in running]
            registry.write(Batch(history=told))

        def end() -> None:
            (key,) = registry.claim([free.pop()])
            registry.write(Batch([key], [], [], [Outcome(run_id=key, status="finished")]))

        free = sweep[128:]
        return {
            "what is free (one query)": milliseconds(
                lambda: registry.standings("sweep", undone=True)
            ),
            "claim a run": milliseconds(lambda: registry.claim([free.pop()])),
            "claim, begin and end a run": milliseconds(end),
            "write an epoch of 64 runs": milliseconds(flush),
        }


def beaten(url: str, folder: str, keys: list[str], seconds: float) -> int:
    """Write epochs as fast as can be, as one of several processes; return how many times."""
    with Registry(url, f"{folder}/blobs") as registry:
        registry.claim(keys)
        start, count = time.perf_counter(), 0
        while time.perf_counter() - start < seconds:
            count += 1
            told = [{"run_id": key, "epoch": count, "val_loss": 0.5} for key in keys]
            registry.write(Batch(history=told))
        return count


def catalogue(url: str | None, most: int) -> None:
    """Time what workers ask, in catalogues of more and more rows."""
    columns = {}
    for rows in ROWS if url is None else ROWS[1:2]:
        if rows > most:
            continue
        with TemporaryDirectory(dir=Path.cwd()) as folder:
            place = url or f"sqlite:///{folder}/registry.db"
            columns[rows] = costs_of(place, folder, rows)
            if rows == SWEEP:
                with Registry(place, f"{folder}/blobs") as registry:
                    keys = [run.id for run in registry.standings("sweep") if run.is_free][:512]
                together = {}
                for count in (1, 2, 4, 8):
                    parts = [(place, folder, keys[64 * k : 64 * k + 64], 3.0) for k in range(count)]
                    with multiprocessing.get_context("spawn").Pool(count) as pool:
                        together[count] = sum(pool.starmap(beaten, parts)) / 3.0
    names = list(next(iter(columns.values())))
    table = [(name, *(f"{columns[rows][name]:.1f}" for rows in columns)) for name in names]
    heads = ["milliseconds", *(f"{rows:,} runs" for rows in columns)]
    print(tabulate(table, heads, "github", disable_numparse=True))
    print("epochs of 64 runs written per second by 1, 2, 4, 8 processes at once:")
    print(", ".join(f"{count:.0f}" for count in together.values()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("what", choices=["training", "catalogue"])
    parser.add_argument("--url", help="of an empty PostgreSQL database")
    parser.add_argument("--most", type=int, default=ROWS[-1], help="rows of the catalogue")
    given = parser.parse_args()
    training() if given.what == "training" else catalogue(given.url, given.most)


if __name__ == "__main__":
    main()
