"""What it costs to load and prepare a large table, against reading and scikit-learn alone.

The table has 40 mixed columns: 16 quantities, 4 of them with gaps, 8 counts, 8 categories of 5 to
47 words, 4 truth values, 2 times, an identifier, and the target.  The baseline reads the file and
fits and applies the same transforms (median and indicator, standardisation, one-hot) to the same
rows; it does not look for what columns hold, split, find copies, or take a fingerprint.

    python benchmarks/tables.py [ROWS]

Every measurement is a process of its own.  Memory is the most that is resident, less what is
resident before the file is opened.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
from tabulate import tabulate

QUANTITIES = [f"q{i}" for i in range(16)]
COUNTS = [f"n{i}" for i in range(8)]
WORDS = [f"c{i}" for i in range(8)]
TRUTHS = [f"b{i}" for i in range(4)]
TIMES = ["begun", "ended"]


def table(rows: int) -> pd.DataFrame:
    random = np.random.default_rng(0)
    columns: dict[str, object] = {"row_id": np.arange(rows) + 10_000}
    for i, name in enumerate(QUANTITIES):
        values = random.lognormal(3, 1, rows).round(4)
        columns[name] = np.where(random.random(rows) < 0.05, np.nan, values) if i < 4 else values
    for name in COUNTS:
        columns[name] = random.integers(0, 1000, rows)
    for i, name in enumerate(WORDS):
        words = np.array([f"word{k}" for k in range(5 + i * 6)])
        columns[name] = words[random.integers(0, len(words), rows)]
    for name in TRUTHS:
        columns[name] = random.random(rows) < 0.5
    for name in TIMES:
        columns[name] = pd.Timestamp("2020-01-01") + pd.to_timedelta(
            random.integers(0, 10**8, rows), unit="s"
        )
    columns["y"] = random.normal(size=rows).round(4)
    return pd.DataFrame(columns)


def ours(path: Path) -> int:
    from zoo.data import load
    from zoo.sections import DataConfig

    data = load(DataConfig(ref=str(path), target="y"))
    return sum(part.x.nbytes for part in (data.train, data.val, data.test))


def baseline(path: Path, reader: str) -> int:
    import pyarrow.csv
    from sklearn.compose import ColumnTransformer
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    if reader == "pyarrow":
        frame = pyarrow.csv.read_csv(path).to_pandas()
    else:
        frame = pd.read_csv(path, parse_dates=TIMES)
    for name in TIMES:
        column = frame.pop(name)
        when = column.dt
        frame[f"{name} days"] = (column - pd.Timestamp(0)) / pd.Timedelta(days=1)
        for cycle, turn in (
            ("month", when.month / 12),
            ("weekday", when.day_of_week / 7),
            ("hour", when.hour / 24),
        ):
            frame[f"{name} sin {cycle}"] = np.sin(2 * np.pi * turn)
            frame[f"{name} cos {cycle}"] = np.cos(2 * np.pi * turn)
    dates = [name for name in frame.columns if name.split(" ")[0] in TIMES]
    scaled = [*QUANTITIES, *COUNTS, *TRUTHS, *(name for name in dates if name.endswith("days"))]
    frame[TRUTHS] = frame[TRUTHS].astype(float)
    impute = SimpleImputer(strategy="median", add_indicator=True)
    transform = ColumnTransformer(
        [
            ("numbers", make_pipeline(impute, StandardScaler()), scaled),
            ("words", OneHotEncoder(handle_unknown="ignore", sparse_output=False), WORDS),
            ("dates", "passthrough", [name for name in dates if name not in scaled]),
        ]
    )
    order = np.random.RandomState(0).permutation(len(frame))
    cuts = [int(len(frame) * 0.6), int(len(frame) * 0.8)]
    train, val, test = np.split(order, cuts)
    out = [transform.fit_transform(frame.iloc[train])]
    out += [transform.transform(frame.iloc[rows]) for rows in (val, test)]
    return sum(part.astype(np.float32).nbytes for part in out)


def resident() -> int:
    """Return the bytes resident now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def measure(what: str, path: Path) -> dict[str, float]:
    import pyarrow.csv  # noqa: F401 - imported before the clock starts, for all contenders alike
    import sklearn.compose  # noqa: F401 - the same

    import zoo.data

    assert zoo.data.load
    before, start, begun = resident(), time.perf_counter(), time.process_time()
    held = ours(path) if what == "zoo" else baseline(path, what)
    seconds, cpu = time.perf_counter() - start, time.process_time() - begun
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    return {"seconds": seconds, "cpu": cpu, "peak": peak, "held": held}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("rows", nargs="?", type=int, default=1_000_000)
    parser.add_argument("--only", help=argparse.SUPPRESS)
    parser.add_argument("--path", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.only:
        print(json.dumps(measure(asked.only, asked.path)))
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "table.csv"
        table(asked.rows).to_csv(path, index=False)
        found = {}
        for what in ("zoo", "pyarrow", "pandas"):
            command = [sys.executable, __file__, "--only", what, "--path", str(path)]
            run = subprocess.run(command, stdout=subprocess.PIPE, check=True)
            found[what] = json.loads(run.stdout)
        size = path.stat().st_size
    ours, rows = found["zoo"], []
    for what, run in found.items():
        rows.append(
            [
                what if what == "zoo" else f"{what} + scikit-learn",
                f"{run['seconds']:.1f} s",
                f"{ours['seconds'] / run['seconds']:.2f}",
                f"{run['cpu']:.1f} s",
                f"{ours['cpu'] / run['cpu']:.2f}",
                f"{run['peak'] / 2**20:.0f} MiB",
                f"{run['peak'] / ours['held']:.2f}",
            ]
        )
    print(f"{asked.rows:,} rows, {size / 2**20:.0f} MiB; tensors {ours['held'] / 2**20:.0f} MiB")
    print(tabulate(rows, ["", "time", "ratio", "of all cores", "ratio", "peak", "peak / tensors"]))


if __name__ == "__main__":
    main()
