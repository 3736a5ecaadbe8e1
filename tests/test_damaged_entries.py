"""Whatever an entry of a registry says, using it ends well or in a line: it may be anybody's."""

import copy
import json
import sqlite3
from contextlib import suppress
from dataclasses import replace

import hypothesis.strategies as st
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from effort import EXAMPLES
from hypothesis import HealthCheck, given, settings

from cli import main
from ensemble import combine, predictor
from ensemble.errors import EnsembleError
from ensemble.members import bench
from zoo import Registry, parse, plan, train_many
from zoo.errors import UnsafeFileError, ZooError
from zoo.exchange.leaving import export_runs
from zoo.registry.checking import check_usable

JUNK = (None, True, "x", -1, 0, 0.5, float("inf"), [], {}, [[]], ["x"], {"x": 1})
MANY = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
READ = ("data", "model", "method", "arguments", "used", "checkpoints")
KINDS = ("numbers", "classes", "images", "pool")


def table():
    """Columns of every kind, and two quantities with a transform."""
    draw, rows = np.random.default_rng(0), 60
    x = draw.normal(size=rows)
    return pd.DataFrame({
        "number": np.where(x > 1.5, np.nan, x),
        "word": np.where(x > 0, "a", "b"),
        "truth": x > 0.5,
        "moment": pd.date_range("2024-01-01", periods=rows, freq="31h"),
        "low": x + draw.normal(size=rows),
        "high": np.exp(x),
    })  # fmt: skip


def asked(name, data):
    return parse({"name": name, "data": data, "model": {"hidden": [4]}, "seeds": 2,
                  "train": {"epochs": 1}})  # fmt: skip


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    """Two models of each kind and a pool, and rows that they predict."""
    folder, frame = tmp_path_factory.mktemp("zoo"), table()
    targets = {"target": ["low", "high"], "target_transform": "yeo-johnson"}
    with Registry(f"sqlite:///{folder}/registry.db", folder / "blobs") as registry:
        numbers = asked("numbers", {"ref": "frame", "scaling": "quantile", **targets})
        runs = {"numbers": train_many(plan(numbers, frame=frame), registry)[0]}
        classes = train_many(plan(asked("classes", {"ref": "iris"})), registry)
        runs |= {"classes": classes[0], "pool": combine(registry, classes, "predictions").run}
        images = plan(asked("images", {"ref": "digits", "test": 0.8, "val": 0.05}))
        runs["images"] = train_many(images, registry)[0]
        iris = pd.DataFrame(1.0, index=range(3), columns=classes[0].preprocessing["features"])
        rows = {"numbers": frame, "classes": iris, "pool": iris}
        rows["images"] = np.zeros((3, 1, 8, 8), np.uint8)
        yield folder, registry, runs, rows


def places(value, path=()):
    """Where in a JSON value anything can be altered."""
    if isinstance(value, dict | list):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield (*path, key)
            yield from places(item, (*path, key))


def altered(value, path, junk, *, gone):
    """Return a copy in which one place holds something else, or is gone."""
    value = copy.deepcopy(value)
    inner = value
    for key in path[:-1]:
        inner = inner[key]
    if gone:
        del inner[path[-1]]
    else:
        inner[path[-1]] = junk
    return value


def used(registry, run, rows, folder):
    """Use a run in every way but training; an expected error is one way to end."""
    frame = rows if run.name == "numbers" else None
    ways = [
        lambda: predictor(registry, run)(rows),
        lambda: export_runs(registry, [run], folder / "out", force=True),
    ]
    if run.kind == "single":
        ways.append(lambda: bench(registry, [run], frame).outputs([run], "test"))
    for way in ways:
        with suppress(ZooError, EnsembleError):
            way()


@pytest.mark.parametrize("kind", KINDS)
@MANY
@given(draw=st.data())
def test_whatever_prepares_rows_they_are_prepared_or_it_is_refused(zoo, kind, draw):
    folder, registry, runs, rows = zoo
    run = runs[kind]
    path = draw.draw(st.sampled_from(list(places(run.preprocessing))))
    told = altered(run.preprocessing, path, draw.draw(st.sampled_from(JUNK)),
                   gone=draw.draw(st.booleans()))  # fmt: skip
    used(registry, replace(run, preprocessing=told), rows[kind], folder)


@pytest.mark.parametrize("kind", KINDS)
@MANY
@given(draw=st.data())
def test_whatever_settings_say_a_model_is_built_or_they_are_refused(zoo, kind, draw):
    folder, registry, runs, rows = zoo
    run = runs[kind]
    config = {key: run.config[key] for key in READ if key in run.config}
    path = draw.draw(st.sampled_from(list(places(config))))
    told = altered(run.config, path, draw.draw(st.sampled_from(JUNK)),
                   gone=draw.draw(st.booleans()))  # fmt: skip
    used(registry, replace(run, config=told), rows[kind], folder)


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_fitted_is_as_it_should_be(zoo, kind):
    check_usable(zoo[2][kind])


@pytest.mark.parametrize(
    ("path", "junk", "said"),
    [
        (("columns", 0, "quantiles"), None, "columns.0.numeric: needs centre and scale, or qua"),
        (("columns", 1, "categories"), ["a"], "columns become "),
        (("columns", 3, "cycles"), ["x"], "columns.3.datetime.cycles.0: Input should be 'month'"),
        (("target", "units", "scales"), [1.0, 0.0], "target.units.scales.1: Input should be great"),
        (("target", "units", "lows"), [1.0], "target: each target has a unit"),
        (("target", "task"), "classification", "target: classes and labels have names and no"),
        (("kind",), "x", "kind must be 'table' or 'images'"),
        (("schema",), 1, "schema: Input should be a valid dictionary"),
    ],
)
def test_a_refusal_says_where_the_damage_is(zoo, path, junk, said):
    run = zoo[2]["numbers"]
    told = altered(run.preprocessing, path, junk, gone=False)
    with pytest.raises(UnsafeFileError, match="what prepares its rows is damaged: ") as refusal:
        check_usable(replace(run, preprocessing=told))
    assert said in str(refusal.value)
    assert run.owner in str(refusal.value)


@pytest.mark.parametrize(
    ("column", "path", "junk"),
    [
        ("preprocessing", ("columns",), 5),
        ("preprocessing", ("schema",), "x"),
        ("preprocessing", ("target", "names"), None),
        ("config", ("data",), None),
        ("config", ("model",), 7),
    ],
)
def test_every_command_ends_in_a_line(zoo, tmp_path, monkeypatch, column, path, junk):
    folder, _, runs, _ = zoo
    monkeypatch.chdir(tmp_path)
    with sqlite3.connect(folder / "registry.db") as database:
        database.backup(sqlite3.connect(tmp_path / "registry.db"))
    table, key = ("dataset", "data_ref") if column == "preprocessing" else ("run", "name")
    with sqlite3.connect(tmp_path / "registry.db") as database:
        for row, text in database.execute(
            f"SELECT rowid, {column} FROM {table} WHERE {key} IN ('iris', 'classes')"
        ).fetchall():
            told = json.dumps(altered(json.loads(text), path, junk, gone=False))
            database.execute(f"UPDATE {table} SET {column} = ? WHERE rowid = ?", (told, row))
    pd.DataFrame(1.0, index=range(3), columns=runs["classes"].preprocessing["features"]).to_csv(
        "rows.csv"
    )
    environment = {"ZOO_REGISTRY": "sqlite:///registry.db", "ZOO_BLOBS": f"{folder}/blobs"}
    pool = runs["pool"].name
    predicts = 0 if path == ("data",) else 4  # which needs no data
    for command, code in {
        "list classes": 0,
        "show classes/seed=0": 0,
        "predict classes@best rows.csv": predicts,
        f"predict {pool} rows.csv": predicts,
        f"compare classes {pool}": 4,
        "ensemble classes --mode predictions": 4,
        "ensemble classes --mode weights": 4,
        "continue classes --epochs 1": 4 if column == "preprocessing" else 2,
    }.items():
        done = CliRunner(env=environment).invoke(main, command.split(), catch_exceptions=False)
        assert done.exit_code == code, f"{command}\n{done.output}"
        assert not code or len(done.stderr.splitlines()) == 1, command
