"""What pooling and averaging are worth: test figures over several splits, mean and spread.

    python benchmarks/quality.py digits breast_cancer mnist5k

For every split 8 members are trained, combined and compared; nothing is chosen on test rows.
"""

import statistics
import sys
from collections import defaultdict
from pathlib import Path
from tempfile import TemporaryDirectory

from tabulate import tabulate

from ensemble import combine, compare
from zoo import Registry, parse, plan, train_many

SPLITS = range(5)


def figures(data: str, split: int, folder: Path) -> dict[str, tuple[float, float]]:
    """Return test accuracy and NLL of each candidate on one split."""
    asked = plan(parse({"data": {"ref": data, "split_seed": split}, "seeds": 8}))
    with Registry(f"sqlite:///{folder}/registry.db", folder / "blobs") as registry:
        runs = train_many(asked, registry)
        combine(registry, runs, "predictions")
        combine(registry, runs, "weights")
        combine(registry, runs, "weights", method="uniform")
        comparison = compare(registry, registry.runs())
    names = {row.name: f"{row.method} single" for row in comparison.rows if row.kind == "baseline"}
    names[comparison.baseline] = "best single"
    return {
        names.get(row.name, row.name.partition(".")[2]): (row.test, row.figures.get("nll", 0.0))
        for row in comparison.rows
    }


def main(sets: list[str]) -> None:
    """Print a table per data set."""
    for data in sets:
        gathered = defaultdict(list)
        for split in SPLITS:
            with TemporaryDirectory() as folder:
                for name, pair in figures(data, split, Path(folder)).items():
                    gathered[name].append(pair)
        lines = []
        for name, pairs in gathered.items():
            cells = []
            for values in zip(*pairs, strict=True):
                cells.append(f"{statistics.fmean(values):.4f} ± {statistics.stdev(values):.4f}")
            against = [
                nll - base
                for (_, nll), (_, base) in zip(pairs, gathered["best single"], strict=True)
            ]
            cells.append(f"{sum(difference < 0 for difference in against)} of {len(pairs)}")
            lines.append([name, *cells])
        print(f"\n{data}: 8 members, {len(SPLITS)} splits, mean ± standard deviation\n")
        print(tabulate(lines, ["", "test accuracy", "test NLL", "NLL below best single"]))


if __name__ == "__main__":
    main(sys.argv[1:] or ["digits", "breast_cancer", "mnist5k"])
