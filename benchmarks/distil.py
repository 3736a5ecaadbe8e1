"""What a distilled model keeps of an ensemble's gain: test figures over several splits.

    python benchmarks/distil.py digits breast_cancer mnist5k diabetes --first 30

The first defaults were chosen with splits 0 and 1, the rule of stopping with splits 10 to 19; the
figures of other splits are free of both choices.  For every split 8 members are trained and
pooled, and students are taught by them; nothing is chosen on test rows.  Rows of figures are
appended to a file, so that a long experiment can be run in pieces: what is there already is not
computed again.
"""

import argparse
import json
import statistics
from collections import defaultdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tabulate import tabulate

from ensemble import combine, compare, distill_runs
from zoo import Registry, parse, plan, train_many
from zoo.settings import assigned

NAMES = {"predictions-mean": "pooled"}


def figures(data: str, split: int, options: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return the test figures of each candidate on one split."""
    asked = {"data": {"ref": data, "split_seed": split}, "seeds": 8}
    with Registry(f"sqlite:///{folder}/registry.db", folder / "blobs") as registry:
        runs = train_many(plan(parse(asked)), registry)
        combine(registry, runs, "predictions")
        done = distill_runs(registry, runs, options=options, name="distilled")
        told = compare(registry, registry.runs())
        names = {
            told.baseline: "best single",
            f"mean of {len(runs)} singles": "mean single",
            done.baseline.name: "labels alone",
        }
        found = {}
        for row in told.rows:
            name = names.get(row.name, row.name.partition(".")[2] or row.name)
            kept = {told.metric: row.test}
            kept |= {key: row.figures[key] for key in ("nll",) if key in row.figures}
            found[NAMES.get(name, name)] = kept
    return found


def main() -> None:
    """Print a table per data set."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "data", nargs="*", default=["digits", "breast_cancer", "mnist5k", "diabetes"]
    )
    parser.add_argument("--splits", type=int, default=5, help="how many")
    parser.add_argument("--first", type=int, default=0, help="split_seed of the first")
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("-o", "--output", type=Path, help="JSON lines, appended to")
    asked = parser.parse_args()
    options = assigned(asked.settings)
    known = {}
    if asked.output and asked.output.exists():
        rows = map(json.loads, asked.output.read_text().splitlines())
        known = {(row["data"], row["split"], json.dumps(row["options"])): row for row in rows}
    for data in asked.data:
        gathered = []
        for split in range(asked.first, asked.first + asked.splits):
            key = (data, split, json.dumps(options))
            if key not in known:
                with TemporaryDirectory() as folder:
                    found = figures(data, split, options, Path(folder))
                known[key] = {"data": data, "split": split, "options": options, "figures": found}
                if asked.output:
                    with asked.output.open("a") as file:
                        file.write(json.dumps(known[key]) + "\n")
            gathered.append(known[key]["figures"])
        print(f"\n{data}: 8 members, {asked.splits} splits, mean ± standard deviation\n")
        print(table(gathered))


def table(gathered: list[dict[str, Any]]) -> str:
    """Write the figures of several splits; the share is of the pooled predictions' gain."""
    lines: dict[str, list[str]] = defaultdict(list)
    heads = ["test rows"]
    for metric in gathered[0]["pooled"]:
        mean = {name: [found[name][metric] for found in gathered] for name in gathered[0]}
        heads += [metric, "gain kept"]
        start = statistics.fmean(mean["mean single"])
        gain = statistics.fmean(mean["pooled"]) - start
        for name, values in mean.items():
            spread = statistics.stdev(values) if len(values) > 1 else 0.0
            share = (statistics.fmean(values) - start) / gain if gain else float("nan")
            lines[name] += [f"{statistics.fmean(values):.4f} ± {spread:.4f}", f"{share:.0%}"]
    return tabulate([[name, *cells] for name, cells in lines.items()], heads, tablefmt="github")


if __name__ == "__main__":
    main()
