"""What combining is worth: test figures over several splits against the best single model.

    python benchmarks/quality.py digits breast_cancer mnist5k diabetes

For every split 8 members are trained, combined in every way and compared; the best single model,
selections, weights, stacks and calibrations are chosen on validation rows, nothing on test rows.

The interval of a mean difference is that of Nadeau & Bengio (Inference for the Generalization
Error, Machine Learning 52, 2003): splits share rows, so the variance is taken times
1 / J + test / train instead of 1 / J.
"""

import math
import statistics
import sys
from collections import defaultdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from scipy.stats import t
from tabulate import tabulate

from ensemble import combine, compare
from zoo import Registry, parse, plan, train_many

SETS = ("digits", "breast_cancer", "mnist5k", "diabetes")
SPLITS = range(5)
TEST_PER_TRAIN = 1 / 3  # rows are split 60/20/20
CLASSES = ("geometric", "vote")  # have no meaning for quantities
KINDS = ("temperature", "vector", "isotonic")
PRODUCTS: list[tuple[str, str, str | None, dict[str, Any]]] = [
    ("mean", "predictions", "mean", {}),
    ("geometric", "predictions", "geometric", {}),
    ("vote", "predictions", "vote", {}),
    ("median", "predictions", "median", {}),
    ("trimmed-mean", "predictions", "trimmed-mean", {}),
    ("weighted", "predictions", "weighted", {}),
    ("greedy, accuracy", "predictions", "greedy", {"metric": "accuracy"}),
    ("greedy", "predictions", "greedy", {}),
    ("budget, members=4", "predictions", "budget", {}),
    ("convex", "predictions", "convex", {}),
    ("stacking", "predictions", "stacking", {}),
    *((f"mean, {kind}", "predictions", "mean", {"calibration": kind}) for kind in KINDS),
    ("weights", "weights", None, {}),
    ("weights, uniform", "weights", "uniform", {}),
]


def figures(data: str, split: int, folder: Path) -> tuple[list[str], dict[str, tuple[float, ...]]]:
    """Return the two metrics' names, and the test figures of each candidate on one split."""
    asked = plan(parse({"data": {"ref": data, "split_seed": split}, "seeds": 8}))
    regression = asked.data.task == "regression"
    names = ["rmse", "mae"] if regression else ["accuracy", "nll"]
    called: dict[str, str] = {}
    with Registry(f"sqlite:///{folder}/registry.db", folder / "blobs") as registry:
        runs = train_many(asked, registry)
        for name, mode, method, options in PRODUCTS:
            if regression and (method in CLASSES or options.keys() & {"metric", "calibration"}):
                continue
            product = combine(registry, runs, mode, method=method, options=options)  # type: ignore[arg-type]
            called[product.run.name] = name
        comparison = compare(registry, registry.runs())
    called[comparison.baseline] = "best single"
    told = {}
    for row in comparison.rows:
        name = called.get(
            row.name, "mean single" if row.method == "mean" and row.kind == "baseline" else ""
        )
        if name:
            told[name] = (row.test, row.figures[names[1]])
    return names, told


def interval(differences: list[float]) -> str:
    """Write the mean of paired differences with its 95 % interval."""
    count = len(differences)
    spread = statistics.stdev(differences) * math.sqrt(1 / count + TEST_PER_TRAIN)
    reach = float(t.ppf(0.975, count - 1)) * spread
    mean = statistics.fmean(differences)
    return f"{mean:+.4f} [{mean - reach:+.4f}, {mean + reach:+.4f}]"


def main(sets: list[str]) -> None:
    """Print a table per data set."""
    for data in sets:
        gathered: dict[str, list[tuple[float, ...]]] = defaultdict(list)
        names: list[str] = []
        for split in SPLITS:
            with TemporaryDirectory() as folder:
                names, told = figures(data, split, Path(folder))
            for name, pair in told.items():
                gathered[name].append(pair)
        lines = []
        for name, pairs in gathered.items():
            cells = [name]
            for place, values in enumerate(zip(*pairs, strict=True)):
                cells.append(f"{statistics.fmean(values):.4f} ± {statistics.stdev(values):.4f}")
                base = [pair[place] for pair in gathered["best single"]]
                differences = [value - b for value, b in zip(values, base, strict=True)]
                cells.append("" if name == "best single" else interval(differences))
                if place and name != "best single":
                    cells.append(f"{sum(d < 0 for d in differences)} of {len(pairs)}")
            lines.append(cells)
        first, second = names
        head = ["", f"test {first}", "- best single", f"test {second}", "- best single"]
        print(f"\n{data}: 8 members, {len(SPLITS)} splits, mean ± standard deviation\n")
        print(tabulate(lines, [*head, f"lower {second}"], tablefmt="github"), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:] or list(SETS))
