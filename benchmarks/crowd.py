"""What comparing many members on many rows takes, on one core and on all of them.

    python benchmarks/crowd.py 200 100000

Members are tiny and trained for one epoch; what counts is what they predict: members x rows x 4
probabilities, which are 320 MB for these numbers, were they all held at once.  Told are seconds of
the clock, those of all cores together, and memory.
"""

import resource
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
import torch

from ensemble import combine, compare
from zoo import Registry, parse, plan, train_many

CORES = torch.get_num_threads()


def peak() -> float:
    """Return the most memory that this process had, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main(members: int, rows: int) -> None:
    """Train, pool and compare; print what pooling and comparing took."""
    draw = np.random.default_rng(0)
    frame = pd.DataFrame({"x": draw.normal(size=2 * rows + 200).astype("float32")})
    frame["y"] = np.array(list("abcd"))[np.digitize(frame["x"], [-0.7, 0.0, 0.7])]
    frame["part"] = ["train"] * 200 + ["val"] * rows + ["test"] * rows
    with TemporaryDirectory() as folder:
        frame.to_parquet(Path(folder) / "t.parquet")
        data = {"ref": f"{folder}/t.parquet", "target": "y", "split": "column", "part": "part"}
        asked = {"data": data, "seeds": members, "model": {"hidden": [4]}, "train": {"epochs": 1}}
        with Registry(f"sqlite:///{folder}/r.db", f"{folder}/b") as registry:
            runs = train_many(plan(parse(asked)), registry, engine="stacked")
            for cores in (1, CORES):
                torch.set_num_threads(cores)
                took(f"mean, {cores} cores", lambda: combine(registry, runs, "predictions"))
                took(f"compare, {cores} cores", lambda: compare(registry, registry.runs()))


def took(what: str, work) -> None:
    """Print what it took."""
    before, start, spent = peak(), time.perf_counter(), time.process_time()
    work()
    seconds, of_cores = time.perf_counter() - start, time.process_time() - spent
    print(
        f"{what}: {seconds:.1f} s, {of_cores:.1f} of all cores, {peak() - before:.0f} MB more "
        f"than the {before:.0f} MB before",
        flush=True,
    )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:] or ("200", "100000")))
