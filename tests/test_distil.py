"""``ensemble --mode distill`` and the ladder's healing, as a person uses them."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner

from cli import main
from ensemble import combine, distill_runs, predictor
from ensemble.members import members
from zoo import Registry, load_model, parse, plan, train_many
from zoo.data import load
from zoo.sections import DataConfig

SHORT = ["--set", "train.epochs=4", "--set", "students=2"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A registry with five members on iris, with their pool, and what else tests make there."""
    folder = tmp_path_factory.mktemp("iris")
    environment = {
        "ZOO_REGISTRY": f"sqlite:///{folder}/registry.db",
        "ZOO_BLOBS": str(folder / "blobs"),
    }
    runner = CliRunner(env=environment)

    def run(*arguments, code=0):
        result = runner.invoke(main, list(arguments))
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == code, result.output
        return result

    run("train-many", "--data", "iris", "--seeds", "5", "--set", "train.epochs=40", "--set",
        "optim.lr=0.01")  # fmt: skip
    run("ensemble", "iris-mlp", "--mode", "predictions", "--method", "geometric", "--save", "pool")
    run("ensemble", "iris-mlp", "--mode", "distill", *SHORT, "--set", "model.hidden=[6]",
        "--save", "small")  # fmt: skip
    return run


def answer(result):
    return json.loads(result.stdout)


def test_a_student_is_published_with_its_teachers_and_beside_it_labels_alone(place):
    told = answer(place("show", "small", "--format", "json"))
    run = told["run"]
    assert run["kind"] == "distilled"
    teachers = [row["id"] for row in answer(place("list", "iris-mlp", "--format", "json"))["rows"]]
    assert sorted(run["parents"]) == sorted(teachers)
    assert run["config"]["model"]["hidden"] == [6]
    assert run["config"]["arguments"]["students"] == 2
    assert len(told["history"]) <= 4
    assert {"seconds", "val_loss"} <= told["history"][0].keys()
    alone = answer(place("show", "small-labels", "--format", "json"))["run"]
    assert alone["config"]["method"] == "labels"
    assert alone["epochs"] <= 8  # two students of four epochs, and no teacher's
    assert run["epochs"] > 5 * 30  # the teachers' too
    assert 0 < told["history"][-1]["seconds"] <= run["seconds"]
    assert alone["seconds"] > 0
    assert alone["config"]["model"] == run["config"]["model"]


def test_compare_predict_and_export_take_it_like_any_model(place, tmp_path):
    rows = answer(place("compare", "iris-mlp", "small", "small-labels", "--format", "json"))["rows"]
    kinds = {row["name"]: (row["kind"], row["method"]) for row in rows}
    assert kinds["small"] == ("distilled", "mean")
    assert kinds["small-labels"] == ("distilled", "labels")
    for name in ("small", "small-labels"):  # teachers count once, and labels alone need none
        (row,) = (row for row in rows if row["name"] == name)
        run = answer(place("show", name, "--format", "json"))["run"]
        assert row["trained_epochs"] == run["epochs"]
    small = next(row for row in rows if row["name"] == "small")
    assert small["params"] == 4 * 6 + 6 + 6 * 3 + 3
    assert "small" in place("compare").stdout  # it is made of the latest models
    table = load(DataConfig(ref="iris")).preprocessing["features"]
    pd.DataFrame(np.full((3, 4), 2.0), columns=table).to_csv(tmp_path / "new.csv", index=False)
    predicted = place("predict", "small", str(tmp_path / "new.csv")).stdout
    assert predicted.splitlines()[0].startswith("prediction,p_setosa")
    place("export", "small", "-o", str(tmp_path / "out"))
    (folder,) = (tmp_path / "out").iterdir()
    assert load_model(folder)(torch.zeros(2, 4)).shape == (2, 3)
    place("export", "small-labels", "-o", str(tmp_path / "labels"))


def test_the_same_again_is_the_same_run(place):
    before = answer(place("list", "small", "--format", "json"))["rows"]
    told = answer(
        place("ensemble", "iris-mlp", "--mode", "distill", *SHORT, "--set", "model.hidden=[6]",
              "--save", "small", "--format", "json")
    )  # fmt: skip
    after = answer(place("list", "small", "--format", "json"))["rows"]
    assert [row["id"] for row in before] == [row["id"] for row in after] == [told["id"]]
    assert before[0]["val_loss"] == after[0]["val_loss"] == told["val_loss"]


def test_a_pool_teaches_what_it_predicts(place):
    told = answer(
        place("ensemble", "pool", "--mode", "distill", *SHORT, "--set", "start=fresh",
              "--save", "of-pool", "--format", "json")
    )  # fmt: skip
    run = answer(place("show", "of-pool", "--format", "json"))["run"]
    assert run["config"]["method"] == "geometric"
    pool = answer(place("show", "pool", "--format", "json"))["run"]
    assert told["pooled"]["val_loss"] == pytest.approx(pool["metrics"]["val_loss"])
    assert sorted(run["parents"]) == sorted(pool["parents"])


def test_a_student_starts_from_the_average_where_there_is_one(place):
    told = place("ensemble", "iris-mlp", "--mode", "distill", *SHORT, "--save", "same").stdout
    assert "student, seed=1, from the average" in told
    assert "5 teachers, pooled" in told
    assert max(map(len, told.splitlines())) <= 80
    told = place("ensemble", "iris-mlp", "--mode", "distill", *SHORT, "--set", "start=average",
                 "--save", "from-average").stdout  # fmt: skip
    assert told.count("from the average") == 2
    place("ensemble", "iris-mlp", "--mode", "distill", "--set", "start=average", "--set",
          "model.hidden=[3]", code=2)  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--set", "temprature=2"], "no option 'temprature'; did you mean 'temperature'?"),
        (["--set", "temperature=0"], "a teacher has a positive temperature"),
        (["--set", "temperature=hot"], "must be of type float"),
        (["--set", "start=here"], "start must be auto, average, fresh, however it is 'here'"),
        (["--set", "students=0"], "students must be 1 or more, however they are 0"),
        (["--set", "data.ref=wine"], "--set data.ref: a student has the data and seeds"),
        (["--set", "model.hiden=[3]"], "model.hiden: mlp has no such option; did you mean"),
        (["--set", "model.name=cnn"], "model.name: cnn takes images"),
        (["--method", "mean"], "--mode distill takes no method"),
        (["--save", "pool"], "--save takes a new name"),
    ],
)
def test_mistakes_are_answered_in_a_line_before_anything_is_trained(place, arguments, told):
    result = place("ensemble", "iris-mlp", "--mode", "distill", *arguments, code=2)
    (line,) = result.stderr.splitlines()
    assert told in line
    assert not result.stdout


def test_students_that_all_diverge_leave_nothing_behind(place):
    before = place("list", "--format", "json").stdout
    result = place("ensemble", "iris-mlp", "--mode", "distill", "--set", "optim.name=sgd", "--set",
                   "optim.lr=1e30", "--set", "start=fresh", code=3)  # fmt: skip
    assert "a student must learn, however all 4 diverged" in result.stderr
    assert place("list", "--format", "json").stdout == before


def test_teachers_of_other_data_are_refused(place):
    place("train-many", "--data", "wine", "--seeds", "1", "--set", "train.epochs=2")
    result = place("ensemble", "iris-mlp", "wine-mlp", "--mode", "distill", code=2)
    assert "members must share their data and test rows" in result.stderr
    result = place("ensemble", "pool", "iris-mlp", "--mode", "distill", *SHORT)
    assert result.exit_code == 0  # a pool beside models is what was made of them
    one = place("ensemble", "wine-mlp", "--mode", "distill", *SHORT).stdout
    assert "There is one teacher" in one


def test_teachers_in_other_folds_are_refused(place):
    place("train-many", "--data", "iris", "--seeds", "2", "--set", "train.epochs=2", "--set",
          "data.folds=2", "--name", "folded")  # fmt: skip
    result = place("ensemble", "folded", "--mode", "distill", code=2)
    assert "fold=0,seed=0 and folded/fold=1,seed=1 are in different folds" in result.stderr
    place("ensemble", "folded/seed=0", "--mode", "distill", *SHORT)


def test_the_ladder_is_told_what_to_do(place):
    told = answer(
        place("ensemble", "iris-mlp", "--mode", "weights", "--set", "heal=true", "--save", "healed",
              "--format", "json")
    )  # fmt: skip
    rungs = {rung["rung"]: rung for rung in told["ladder"]["rungs"]}
    assert list(rungs)[:4] == ["best single", "naive", "aligned", "repaired"]
    assert list(rungs)[-1] == "healed"
    rest = [rungs[name]["val_loss"] for name in rungs if name not in ("best single", "healed")]
    assert rungs["healed"]["val_loss"] <= min(rest) + 1e-6
    teachers = answer(place("list", "iris-mlp", "--format", "json"))["rows"]
    spent = sum(row["epochs"] for row in teachers)
    healed = answer(place("show", "healed", "--format", "json"))["run"]
    assert 0 < healed["epochs"] - spent <= spent / 5 / 4
    plain = answer(
        place("ensemble", "iris-mlp", "--mode", "weights", "--set", "align=false", "--set",
              "repair=false", "--format", "json")
    )  # fmt: skip
    assert {rung["rung"] for rung in plain["ladder"]["rungs"]} <= {"best single", "naive", "soup"}
    for option, what in (
        ("align=maybe", "align must be auto, true or false, however it is 'maybe'"),
        ("heal=1", "heal must be false or true, however it is 1"),
        ("heel=true", "did you mean 'heal'? (known: align, heal, repair)"),
    ):
        result = place("ensemble", "iris-mlp", "--mode", "weights", "--set", option, code=2)
        assert what in result.stderr
    result = place("ensemble", "folded/seed=0", "--mode", "weights", "--set", "heal=true", code=2)
    assert "heal=true trains for a quarter of a member's epochs" in result.stderr


def test_methods_tell_of_the_ladder_and_of_distilling(place):
    told = place("methods").stdout
    assert "options: align=auto|true|false, repair=true|false, heal=false|true" in told
    assert "--mode distill" in told
    assert max(map(len, told.splitlines())) <= 80


@pytest.mark.parametrize("kind", ["regression", "several", "log", "labels"])
def test_every_task_can_be_distilled(kind, tmp_path):
    drawn = np.random.default_rng(0)
    x = drawn.normal(size=(160, 3))
    frame = pd.DataFrame(x, columns=["u", "v", "w"])
    asked = {"ref": "frame"}
    match kind:
        case "regression" | "log":
            frame["p"] = np.exp(x[:, 0] + 0.1 * x[:, 1]) * 100
            asked |= {"target": "p"}
            asked |= {"target_transform": "log1p"} if kind == "log" else {}
        case "several":
            frame["p"], frame["q"] = 5 + x[:, 0] * 2, x[:, 1] * 100
            asked |= {"target": ["p", "q"]}
        case "labels":
            frame["a"], frame["b"] = x[:, 0] > 0, x[:, 1] > 0.5
            asked |= {"target": ["a", "b"]}
    short = {"epochs": 30, "batch_size": 32}
    settings = {"data": asked, "seeds": 3, "train": short, "optim": {"lr": 0.02}}
    with Registry(f"sqlite:///{tmp_path}/r.db", tmp_path / "blobs") as registry:
        teachers = train_many(plan(parse(settings), frame=frame), registry)
        options = {"students": 2, "labels": 0.2, "noise": 0.05, "train.epochs": 60}
        done = distill_runs(registry, teachers, options=options, frame=frame)
        again = predictor(registry, done.run)(frame)
        pooled = combine(registry, teachers, "predictions", frame=frame)
        theirs = predictor(registry, pooled.run)(frame)
    names = [name for name in again.columns if name in theirs.columns and name != "uncertainty"]
    ours, goal = again[names].to_numpy(float), theirs[names].to_numpy(float)
    spread = np.abs(goal - goal.mean(0)).mean(0)
    assert (np.abs(ours - goal).mean(0) < 0.5 * spread).all()
    assert done.run.metrics["val_loss"] == pytest.approx(done.best.val_loss)


def test_test_rows_are_never_looked_at(tmp_path, monkeypatch):
    from ensemble.members import Bench

    asked = {"data": {"ref": "iris"}, "seeds": 2, "train": {"epochs": 3}}
    looked = []
    real = Bench.predict
    monkeypatch.setattr(
        Bench, "predict", lambda self, runs, name: looked.append(name) or real(self, runs, name)
    )
    with Registry(f"sqlite:///{tmp_path}/r.db", tmp_path / "blobs") as registry:
        train_many(plan(parse(asked)), registry)
        distill_runs(registry, members(registry, []), options={"students": 2, "train.epochs": 2})
    assert set(looked) == {"val"}


def test_checkpoints_that_teach_are_told_as_those_of_their_training(tmp_path):
    """A pool of three epochs of one run is one parent, whose epochs count once."""
    asked = {"data": {"ref": "iris"}, "seeds": 1, "train": {"epochs": 6}, "keep": {"every": 2}}
    with Registry(f"sqlite:///{tmp_path}/registry.db", tmp_path / "blobs") as registry:
        (run,) = train_many(plan(parse(asked)), registry)
        pool = combine(registry, [run], "predictions", options={"snapshots": "epoch"}).run
        short = {"students": 1, "train.epochs": 2}
        student = distill_runs(registry, [pool], options=short).run
        assert student.parents == (run.id,)
        assert set(student.config["used"]) == {run.id}
        assert [kind for kind, _ in student.config["checkpoints"]] == ["epoch"] * 3
        assert student.epochs == run.epochs + 2
        assert student.id in {made.id for made in registry.made_of([run.id])}
