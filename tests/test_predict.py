"""New rows are predicted as the rows of the test part were, by a file and by the command."""

import csv
import json
import os
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner

import ensemble.serving as serving
from cli import main
from ensemble import combine
from ensemble.members import bench
from ensemble.serving import predictor
from zoo import Registry, parse, plan, train_many
from zoo.data import load
from zoo.sections import DataConfig

ROOT = Path(__file__).parents[1]


def homes(path, rows=240, seed=0):
    """Write a table of houses with missing rooms, a town and a price."""
    draw = np.random.default_rng(seed)
    area, rooms = draw.uniform(40, 200, rows).round(1), draw.integers(1, 6, rows).astype(float)
    town = draw.choice(["Aix", "Bonn", "Cork"], rows)
    price = 1000 * area + 5000 * rooms + draw.normal(0, 3000, rows)
    rooms[::7] = np.nan
    frame = pd.DataFrame({"area": area, "rooms": rooms, "town": town, "price": price.round()})
    frame.to_csv(path, index=False)
    return frame


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Members of three kinds of tasks, pools and an average of them, in one registry."""
    folder = tmp_path_factory.mktemp("predict")
    homes(folder / "homes.csv")
    asked = [
        {"data": {"ref": str(folder / "homes.csv"), "target": "price"}, "name": "homes"},
        {"data": {"ref": "iris"}, "name": "iris"},
        {"data": {"ref": "digits"}, "name": "digits"},
    ]
    with opened(folder) as registry:
        for settings in asked:
            settings |= {"seeds": 3, "train": {"epochs": 3}}
            runs = train_many(plan(parse(settings)), registry)
            combine(registry, runs, "predictions", name=f"{settings['name']}-pool")
            combine(registry, runs, "weights", name=f"{settings['name']}-soup")
    return folder


def opened(folder):
    return Registry(f"sqlite:///{folder}/registry.db", folder / "blobs")


def zoo(folder, *arguments):
    places = ["--registry", f"sqlite:///{folder}/registry.db", "--blobs", str(folder / "blobs")]
    return CliRunner().invoke(main, [*map(str, arguments), *places], catch_exceptions=False)


@pytest.mark.parametrize("ref", ["homes/seed=1", "homes-pool", "homes-soup"])
def test_values_of_a_file_are_those_of_the_comparison(folder, ref):
    with opened(folder) as registry:
        run = registry.run(ref)
        table = bench(registry, registry.runs(["homes"]))
        members = registry.runs(["homes"]) if ref == "homes-pool" else [run]
        order = {one.id: one for one in members}
        members = [order[key] for key in run.parents] if ref == "homes-pool" else members
        expected = table.outputs(members, "train").mean(0)
        rows = pd.read_csv(folder / "homes.csv")
        predicted = predictor(registry, run)(rows)
    trained = table.data.train.x
    found = torch.tensor(predicted["prediction"].to_numpy())
    assert len(found) == len(rows)
    # Every training row is among the rows of the file.
    for value in expected[:20]:
        assert (found - value).abs().min() < 1e-2
    assert len(trained) < len(rows)
    assert ("uncertainty" in predicted) == (ref == "homes-pool")


def test_classes_have_names_probabilities_and_an_entropy(folder):
    from sklearn.datasets import load_iris

    rows = load_iris(as_frame=True).data
    with opened(folder) as registry:
        predicted = predictor(registry, registry.run("iris-pool"))(rows)
    shares = predicted.filter(like="p_").to_numpy()
    assert list(predicted.columns) == [
        "prediction",
        "p_setosa",
        "p_versicolor",
        "p_virginica",
        "uncertainty",
        "disagreement",
    ]
    np.testing.assert_allclose(shares.sum(1), 1, rtol=1e-6)
    names = np.array(["setosa", "versicolor", "virginica"])
    assert (predicted["prediction"] == names[shares.argmax(1)]).all()
    np.testing.assert_allclose(
        predicted["uncertainty"], -(shares * np.log(shares)).sum(1), rtol=1e-4
    )


def test_images_of_an_array_are_predicted(folder, tmp_path):
    from sklearn.datasets import load_digits

    pixels = load_digits().images
    np.savez(tmp_path / "new.npz", x=pixels)
    done = zoo(folder, "predict", "digits/seed=0", tmp_path / "new.npz", "-o", tmp_path / "o.csv")
    assert done.exit_code == 0, done.output
    predicted = pd.read_csv(tmp_path / "o.csv", dtype={"prediction": str})
    assert (predicted["prediction"] == load_digits().target.astype(str)).mean() > 0.7


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_portions_make_one_file_that_another_process_writes_alike(
    folder, tmp_path, suffix, monkeypatch
):
    new = homes(tmp_path / "new.csv", rows=301, seed=5)
    new.drop(columns="price").iloc[:, ::-1].to_csv(tmp_path / "new.csv", index=False)
    monkeypatch.setattr(serving, "ROWS", 64)
    done = zoo(folder, "predict", "homes-pool", tmp_path / "new.csv", "-o", tmp_path / f"a{suffix}")
    assert done.exit_code == 0, done.output
    assert "301 rows predicted" in done.stderr
    program = [sys.executable, str(ROOT / "cli.py"), "predict", "homes-pool"]
    places = ["--registry", f"sqlite:///{folder}/registry.db", "--blobs", str(folder / "blobs")]
    subprocess.run(
        [*program, str(tmp_path / "new.csv"), "-o", str(tmp_path / f"b{suffix}"), *places],
        check=True,
        capture_output=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )
    read = pd.read_csv if suffix == ".csv" else pd.read_parquet
    ours, theirs = read(tmp_path / f"a{suffix}"), read(tmp_path / f"b{suffix}")
    assert len(ours) == 301
    pd.testing.assert_frame_equal(ours, theirs, rtol=1e-6)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"a{suffix}",
        f"b{suffix}",
        "new.csv",
    ]


def test_predictions_of_files_have_their_names(folder, tmp_path):
    from PIL import Image
    from sklearn.datasets import load_digits

    (tmp_path / "new").mkdir()
    for number, pixels in enumerate(load_digits().images[:3]):
        Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "new" / f"{2 - number}.png")
    (tmp_path / "new.csv").write_text("n,path\n1,new/1.png\n2,new/0.png\n")
    names = {"new": ["0.png", "1.png", "2.png"], "new.csv": ["new/1.png", "new/0.png"]}
    for source, files in names.items():
        done = zoo(folder, "predict", "digits/seed=0", tmp_path / source)
        lines = list(csv.DictReader(done.stdout.splitlines()))
        assert [line["file"] for line in lines] == files
        assert next(iter(lines[0])) == "file"


def test_predictions_never_take_the_place_of_what_they_are_of(folder, tmp_path):
    (tmp_path / "new.csv").write_text("town,area,rooms\nBonn,50,3\n")
    (tmp_path / "link.csv").symlink_to(tmp_path / "new.csv")
    before = (tmp_path / "new.csv").read_text()
    for output in ("new.csv", "link.csv"):
        done = zoo(folder, "predict", "homes/seed=0", tmp_path / "new.csv", "-o", tmp_path / output)
        assert done.exit_code == 2
        assert "predictions need a file of their own" in done.stderr
    assert (tmp_path / "new.csv").read_text() == before


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_folder_that_is_not_there_is_named(folder, tmp_path, suffix):
    (tmp_path / "new.csv").write_text("town,area,rooms\nBonn,50,3\n")
    output = tmp_path / "nowhere" / f"out{suffix}"
    done = zoo(folder, "predict", "homes/seed=0", tmp_path / "new.csv", "-o", output)
    assert done.exit_code == 2
    assert "cannot be written: " in done.stderr
    assert "None" not in done.stderr


def test_what_is_missing_or_unseen_is_predicted_and_counted(folder, tmp_path):
    (tmp_path / "new.csv").write_text("town,area,rooms\nBonn,,3\nDelft,90,\n")
    done = zoo(folder, "predict", "homes/seed=0", tmp_path / "new.csv")
    assert done.exit_code == 0, done.output
    lines = list(csv.reader(done.stdout.splitlines()))
    assert lines[0] == ["prediction"]
    assert len(lines) == 3
    assert all(float(line[0]) > 0 for line in lines[1:])
    assert "column 'town': 1 cells hold values unseen in training" in done.stderr
    assert "column 'area': 1 cells are missing" in done.stderr
    assert "column 'rooms': 1 cells are missing" in done.stderr


@pytest.mark.parametrize(
    ("content", "arguments", "says"),
    [
        ("area,town\n1,Aix\n", [], "'rooms' is missing (there are: area, town); add it"),
        ("area,rooms,town\n", [], "no rows"),
        ("area,rooms,town\nbig,1,Aix\n", [], "new.csv: column 'area' must hold numbers, however"),
        ("area,rooms,town\nbig,1,Aix\n", [], "holds 'big'; mend it, or leave a missing cell empty"),
        ("area,rooms,town\n1,1,Aix\n", ["-o", "out.xlsx"], "written as .csv or .parquet"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(folder, tmp_path, content, arguments, says):
    (tmp_path / "new.csv").write_text(content)
    arguments = arguments or ["-o", tmp_path / "out.csv"]
    done = zoo(folder, "predict", "homes-pool", tmp_path / "new.csv", *arguments)
    assert done.exit_code == 2
    assert says in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["new.csv"]


def test_what_has_no_weights_cannot_predict(folder, tmp_path):
    (tmp_path / "new.csv").write_text("area\n1\n")
    done = zoo(folder, "predict", "homes", tmp_path / "new.csv")
    assert done.exit_code == 2
    assert "must name one run" in done.stderr
    asked = {"data": {"ref": "iris"}, "name": "queued", "seeds": 1}
    with opened(folder) as registry:
        registry.add(plan(parse(asked)).requests)
    done = zoo(folder, "predict", "queued", tmp_path / "new.csv")
    assert "only trained models predict" in done.stderr


def test_the_housing_example_runs_and_both_ways_agree(tmp_path):
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / "housing.py")],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["continued_val_rmse"] <= told["val_rmse"]
    assert told["same_in_another_process"] is True
    # The target's deviation is far larger: the model has learnt something.
    assert told["test_rmse"] < 0.7 * told["deviation"]


def test_the_housing_example_runs_from_the_shell_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ZOO_REGISTRY", raising=False)
    monkeypatch.delenv("ZOO_BLOBS", raising=False)
    example = runpy.run_path(str(ROOT / "examples" / "housing.py"))
    example["houses"]().to_csv("houses.csv", index=False)
    lines = [line.strip() for line in example["__doc__"].splitlines()]
    commands = [shlex.split(line)[1:] for line in lines if line.startswith("zoo ")]
    assert [command[0] for command in commands] == ["train-many", "predict", "continue", "predict"]
    for command in commands:
        done = CliRunner().invoke(main, command, catch_exceptions=False)
        assert done.exit_code == 0, done.output
    price = pd.read_csv("houses.csv")["price"]
    before, after = (pd.read_csv(f"{name}.csv")["prediction"] for name in ("before", "after"))
    assert len(before) == len(after) == len(price)
    assert (after - price).abs().mean() <= 1.05 * (before - price).abs().mean()


def test_members_of_a_pool_read_the_columns_that_each_learnt_from(tmp_path):
    count = 80
    frame = pd.DataFrame({"x": np.random.default_rng(0).normal(size=count), "code": "007"})
    frame["y"] = frame["x"]
    asked = {"ref": "any", "target": "y", "folds": 2, "columns": {"code": "categorical"}}
    val = load(DataConfig(**asked, fold=0), frame).rows[1]
    frame.loc[val[::2], "code"] = "008"  # so that the member of fold 0 knows one code alone
    frame.loc[~frame.index.isin(val), "y"] *= 10  # and is the best
    frame.loc[val[::2], "y"] += 5
    frame.to_csv(tmp_path / "t.csv", index=False)
    asked["ref"] = str(tmp_path / "t.csv")
    frame.loc[0, "code"] = "9"
    frame.to_csv(tmp_path / "new.csv", index=False)
    with opened(tmp_path) as registry:
        settings = {"data": asked, "seeds": 2, "train": {"epochs": 20}}
        runs = train_many(plan(parse(settings)), registry)
        learnt = [run.preprocessing["features"] for run in runs]
        assert sorted(learnt, key=len) == [["x"], ["x", "code=007", "code=008"]]
        combine(registry, runs, "predictions", name="pool")
        pool = registry.run("pool")
        assert pool.preprocessing["features"] == ["x"]
        of_frame = predictor(registry, pool)(frame)
        ((of_file, gaps),) = serving.predict_file(registry, pool, tmp_path / "new.csv", None)
        assert len(predictor(registry, pool).members) == 2
    pd.testing.assert_frame_equal(of_file, of_frame)
    assert gaps == {("code", "unseen"): 1}
