"""The housing exercise: a table with missing values and a category, from file to predictions.

    python examples/housing.py

It writes ``houses.csv`` (420 rows; some numbers are missing, one column is text), trains with early
stopping, saves, predicts in another process, trains the model on for at most 50 epochs with
patience 5, and keeps the best.  From the shell the same is

    zoo train-many --data houses.csv --target price --seeds 1 --set stop.patience=10
    zoo predict houses-mlp houses.csv -o before.csv
    zoo continue houses-mlp --epochs 50 --set stop.patience=5
    zoo predict houses-mlp-continued houses.csv -o after.csv
"""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd

from ensemble import compare
from ensemble.serving import predictor
from zoo import Registry, Run, continuation, parse, plan, train_many

PLACES = ("sqlite:///housing/registry.db", "housing/blobs")
AGAIN = """
import sys
import pandas as pd
from ensemble.serving import predictor
from zoo import Registry

with Registry(sys.argv[1], sys.argv[2], create=False) as registry:
    predict = predictor(registry, registry.run(sys.argv[3]))
    predict(pd.read_csv("houses.csv")).to_csv(sys.stdout, index=False, float_format="%.17g")
"""


def houses() -> pd.DataFrame:
    """Draw houses whose price depends on size, age, distance to the sea and town."""
    draw = np.random.default_rng(7)
    rows = 420
    area, age = draw.gamma(6, 18, rows), draw.uniform(0, 80, rows)
    town = draw.choice(
        ["inland", "near bay", "island", "near ocean"], rows, p=[0.4, 0.2, 0.05, 0.35]
    )
    premium = pd.Series(town).map({"inland": 0, "near bay": 60, "island": 150, "near ocean": 90})
    price = 1.8 * area * (1 - age / 250) + premium + draw.normal(0, 12, rows)
    frame = pd.DataFrame({"area": area.round(1), "age": age.round(), "town": town, "price": price})
    frame.loc[draw.random(rows) < 0.1, "age"] = np.nan
    frame.loc[draw.random(rows) < 0.05, "town"] = None
    return frame.assign(price=(1000 * frame["price"]).round())


def told(run: Run) -> str:
    """Say what a run came to."""
    return f"rmse {run.metrics['val_rmse']:.0f} on the validation rows"


def main() -> None:
    """Train, save, load elsewhere, train on, keep the best."""
    frame = houses()
    frame.to_csv("houses.csv", index=False)
    asked = {
        "data": {"ref": "houses.csv", "target": "price"},
        "seeds": 1,
        "train": {"epochs": 60},
        "stop": {"patience": 10},
    }
    with Registry(*PLACES) as registry:
        (run,) = train_many(plan(parse(asked)), registry)
        print(f"{run.label}: best epoch {run.best_epoch} of {run.epochs}, {told(run)}")
        here = predictor(registry, run)(frame)["prediction"]
        there = subprocess.run(
            [sys.executable, "-c", AGAIN, *PLACES, run.id],
            capture_output=True,
            text=True,
            check=True,
        )
        Path("elsewhere.csv").write_text(there.stdout)
        same = pd.read_csv("elsewhere.csv", dtype=str)["prediction"].astype(float).equals(here)
        again = continuation(registry, [run.id], 50, {"stop.patience": 5}, None)
        (best,) = train_many(again, registry)
        print(f"{best.label}: best epoch {best.best_epoch} of {best.epochs}, {told(best)}")
        rows = compare(registry, [best]).rows
        figures = {
            "val_rmse": run.metrics["val_rmse"],
            "continued_val_rmse": best.metrics["val_rmse"],
            "test_rmse": rows[0].test,
            "deviation": float(frame["price"].std()),
            "same_in_another_process": bool(same),
        }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
