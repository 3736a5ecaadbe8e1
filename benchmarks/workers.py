"""How the cost of a training grows: members, width of the stack, workers, rows of the catalogue.

    python benchmarks/workers.py training             # a member and an epoch, by width
    python benchmarks/workers.py pairs                # one worker against two
    python benchmarks/workers.py catalogue            # of what workers ask and write
    python benchmarks/workers.py catalogue --url postgresql+psycopg://ann@localhost/empty

``training`` pins the stacked engine and gives every worker one core, so that only the width and the
number of workers count.  What one worker spends, on the catalogue too, is CPU time.  One worker
against two is by the clock around the whole command: what the catalogue says of beginning and end
is written about once a second, which would flatter the shorter one.  Medians, with the extremes.
"""

import argparse
import multiprocessing
import time
from collections.abc import Callable
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
from zoo.training import Executor

WIDTHS = (1, 4, 16, 64, 256)
EPOCHS = 30  # of each member
ROWS = (1_000, 10_000, 100_000, 1_000_000)
SWEEP = 10_000  # runs of the name that is asked for
ROUNDS = 20


def trained(width: int, members: int, executor: Executor | None = None) -> tuple[float, float]:
    """Train; return the seconds of this process's CPU, and of the clock."""
    asked = {
        "data": {"ref": "digits"},
        "model": {"name": "mlp"},
        "seeds": members,
        "train": {"epochs": EPOCHS, "batch_size": 128},
        "stop": {"patience": EPOCHS},
    }
    with (
        TemporaryDirectory() as folder,
        Registry(f"sqlite:///{folder}/registry.db", f"{folder}/blobs") as registry,
    ):
        planned = plan(parse(asked))
        cpu, clock = time.process_time(), time.perf_counter()
        options = {"engine": "stacked", "width": width, "executor": executor}
        runs = train_many(planned, registry, **options)
        spent = time.process_time() - cpu, time.perf_counter() - clock
    assert {run.epochs for run in runs} == {EPOCHS}
    return spent


def spread(values: list[float]) -> str:
    return f"{median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def training() -> None:
    """Time stacks of every width; fit what a wide one saves."""
    torch.set_num_threads(1)
    costs: dict[int, list[float]] = {width: [] for width in WIDTHS}
    for _ in range(3):
        for width, times in costs.items():
            members = max(width, 32)
            times.append(trained(width, members)[0] / (members * EPOCHS) * 1000)
    table = [(width, spread(times)) for width, times in costs.items()]
    print(tabulate(table, ["width", "ms of a core"], "github", disable_numparse=True))
    system = np.array([[1, 1 / width] for width in WIDTHS])
    middle = np.array([median(times) for times in costs.values()])
    (each, shared), *_ = np.linalg.lstsq(system, middle, rcond=None)
    print(f"milliseconds for a member and an epoch = {each:.2f} + {shared:.2f} / width")


def pairs() -> None:
    """Time one worker against two, in turns; each has one core."""
    torch.set_num_threads(1)
    trained(1, 2, Processes(2))  # what all are forked from is there then
    for width in (1, 16):
        ratios, ones = [], []
        for _ in range(3):
            one, two = (trained(width, 128, Processes(workers))[1] for workers in (1, 2))
            ratios.append(one / two)
            ones.append(one)
        told = f"one worker {spread(ones)} s; two are {spread(ratios)} times as fast"
        print(f"width {width}: {told}", flush=True)


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
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return median(times) * 1000


def costs_of(url: str, folder: str, rows: int) -> dict[str, float]:
    """Time what workers ask of a catalogue of so many runs, in milliseconds of their CPU."""
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
        with TemporaryDirectory() as folder:
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
    heads = ["milliseconds of CPU", *(f"{rows:,} runs" for rows in columns)]
    print(tabulate(table, heads, "github", disable_numparse=True))
    print("epochs of 64 runs written per second by 1, 2, 4, 8 processes at once:")
    print(", ".join(f"{count:.0f}" for count in together.values()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("what", choices=["training", "pairs", "catalogue"])
    parser.add_argument("--url", help="of an empty PostgreSQL database")
    parser.add_argument("--most", type=int, default=ROWS[-1], help="rows of the catalogue")
    given = parser.parse_args()
    if given.what == "catalogue":
        catalogue(given.url, given.most)
    else:
        {"training": training, "pairs": pairs}[given.what]()


if __name__ == "__main__":
    main()
