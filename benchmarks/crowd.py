"""What comparing many members on many rows takes: seconds, and memory beyond that of training.

    python benchmarks/crowd.py 200 100000

Members are tiny and trained for one epoch; what counts is what they predict: members x rows x 4
probabilities, which are 320 MB for these numbers, were they all held at once.
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


def peak() -> float:
    """Return the most memory that this process had, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main(members: int, rows: int) -> None:
    """Train, pool and compare; print what comparing took."""
    draw = np.random.default_rng(0)
    frame = pd.DataFrame({"x": draw.normal(size=rows + 300).astype("float32")})
    frame["y"] = np.array(list("abcd"))[np.digitize(frame["x"], [-0.7, 0.0, 0.7])]
    frame["part"] = ["train"] * 200 + ["val"] * 100 + ["test"] * rows
    with TemporaryDirectory() as folder:
        frame.to_parquet(Path(folder) / "t.parquet")
        data = {"ref": f"{folder}/t.parquet", "target": "y", "split": "column", "part": "part"}
        asked = {"data": data, "seeds": members, "model": {"hidden": [4]}, "train": {"epochs": 1}}
        with Registry(f"sqlite:///{folder}/r.db", f"{folder}/b") as registry:
            runs = train_many(plan(parse(asked)), registry, engine="stacked")
            combine(registry, runs, "predictions")
            before, start = peak(), time.perf_counter()
            comparison = compare(registry, registry.runs())
            seconds, more = time.perf_counter() - start, peak() - before
    print(
        f"{len(comparison.singles)} members, {comparison.n_test} test rows: {seconds:.0f} s, "
        f"{more:.0f} MB beyond the {before:.0f} MB before"
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(*map(int, sys.argv[1:] or ("200", "100000")))
