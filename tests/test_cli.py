"""The command line as a person uses it: results on stdout, one line and a code for errors."""

import csv
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from click.testing import CliRunner

from cli import main
from zoo.errors import NotFoundError
from zoo.registry import Registry

ROOT = Path(__file__).parents[1]
QUICK = ["--set", "train.epochs=3"]


@pytest.fixture
def zoo(tmp_path, monkeypatch):
    """Run a command in an empty folder; give its outcome."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ZOO_REGISTRY", raising=False)
    monkeypatch.delenv("ZOO_BLOBS", raising=False)

    def run(*arguments: str, code: int = 0):
        result = CliRunner().invoke(main, list(arguments))
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == code, result.output
        return result

    return run


def rows(result):
    """The rows of a JSON answer."""
    answer = json.loads(result.stdout)
    assert answer["schema"] == 1
    return answer["rows"]


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """A registry with 8 members trained in full on digits, and both kinds of ensembles."""
    folder = tmp_path_factory.mktemp("digits")
    environment = {
        "ZOO_REGISTRY": f"sqlite:///{folder}/registry.db",
        "ZOO_BLOBS": str(folder / "blobs"),
    }
    runner = CliRunner(env=environment)

    def run(*arguments: str):
        result = runner.invoke(main, [*arguments, "--format", "json"], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    trained = run("train-many", "--data", "digits", "--model", "mlp", "--seeds", "8")
    return {
        "trained": trained["rows"],
        "predictions": run("ensemble", "--mode", "predictions"),
        "soup": run("ensemble", "--mode", "weights"),
        "uniform": run("ensemble", "--mode", "weights", "--method", "uniform"),
        "comparison": run("compare"),
        "nll": run("compare", "--metric", "nll"),
    }


def test_every_seed_is_trained_and_stops_when_it_should(digits):
    assert [row["seed"] for row in digits["trained"]] == list(range(8))
    assert {row["status"] for row in digits["trained"]} == {"finished"}
    assert len({row["epochs"] for row in digits["trained"]}) > 1
    assert all(row["epochs"] in (row["best_epoch"] + 10, 100) for row in digits["trained"])
    assert min(row["val_accuracy"] for row in digits["trained"]) > 0.94


def test_pooled_predictions_beat_the_best_single_models_nll(digits):
    by_kind = {row["kind"]: row for row in digits["comparison"]["rows"]}
    assert by_kind["predictions"]["nll"] < by_kind["single"]["nll"]
    mean = next(row for row in digits["comparison"]["rows"] if row["name"].startswith("mean of"))
    assert by_kind["predictions"]["nll"] < mean["nll"]


def test_another_metric_changes_the_baseline_and_the_columns_compared(digits):
    losses = {row["run"]: row["val_loss"] for row in digits["trained"]}
    answer = digits["nll"]
    assert (answer["metric"], answer["direction"]) == ("nll", "min")
    assert answer["baseline"] == min(losses, key=losses.get)
    assert all(row["test"] == pytest.approx(row["nll"]) for row in answer["rows"])


def test_the_naive_average_is_said_to_collapse(digits):
    flight = digits["uniform"]["preflight"]
    assert flight["collapses"]
    assert "collapses" in flight["sentence"]
    assert digits["uniform"]["val_accuracy"] < 0.5
    assert flight["losses"][-1] > 10 * min(flight["member_losses"])


def test_the_soup_is_not_worse_on_validation_than_the_best_single(digits):
    best = max(row["val_accuracy"] for row in digits["trained"])
    assert digits["soup"]["val_accuracy"] >= best
    assert digits["soup"]["best_single"] == pytest.approx(best)


def test_the_comparison_has_the_documented_schema(digits):
    comparison = digits["comparison"]
    assert {key: comparison[key] for key in ("schema", "task", "data", "metric", "direction")} == {
        "schema": 1,
        "task": "classification",
        "data": "digits",
        "metric": "accuracy",
        "direction": "max",
    }
    assert comparison["n_test"] == 359
    kinds = [row["kind"] for row in comparison["rows"]]
    assert kinds == ["single", "baseline", "baseline", "predictions", "weights", "weights"]
    expected = (
        "name kind method members val test delta ci_low ci_high p_value p_holm nll brier ece "
        "adaptive_ece balanced_accuracy f1 roc_auc params flops weights_bytes inference_ms "
        "inference_ms_256 trained_epochs"
    )
    assert all(list(row) == expected.split() for row in comparison["rows"])
    baseline, mean, oracle, pooled, soup, naive = comparison["rows"]
    assert baseline["name"] == comparison["baseline"]
    assert (baseline["delta"], baseline["ci_low"], baseline["ci_high"]) == (0, 0, 0)
    best = max(digits["trained"], key=lambda row: (row["val_accuracy"], -row["val_loss"]))
    assert baseline["name"] == best["run"]
    assert baseline["val"] == pytest.approx(best["val_accuracy"])
    accuracies = [row["val_accuracy"] for row in digits["trained"]]
    assert mean["val"] == pytest.approx(sum(accuracies) / 8)
    assert oracle["test"] >= max(baseline["test"], mean["test"])
    assert pooled["members"] == 8
    assert pooled["params"] == 8 * baseline["params"] == 8 * soup["params"]
    assert pooled["trained_epochs"] == sum(row["epochs"] for row in digits["trained"])
    assert naive["delta"] < -0.5
    assert naive["ci_high"] < -0.5
    assert naive["p_value"] < 0.001


def test_the_same_command_again_trains_only_what_is_missing(zoo):
    command = ["train-many", "--data", "iris", *QUICK, "--format", "json"]
    first = rows(zoo(*command, "--seeds", "2"))
    again = zoo(*command, "--seeds", "0-3")
    assert "2 models to train, 2 are there already" in again.stderr
    assert [row["id"] for row in rows(again)][:2] == [row["id"] for row in first]
    assert "0 models to train, 4 are there already" in zoo(*command, "--seeds", "4").stderr


def test_flags_and_a_config_file_ask_for_the_same_runs(zoo, tmp_path):
    (tmp_path / "zoo.toml").write_text(
        'seeds = "1,2"\nname = "both"\n[data]\nref = "wine"\n[model]\nname = "mlp"\nhidden = [8]\n'
        '[optim]\nname = "sgd"\n[train]\nepochs = 2\n[grid]\n"optim.lr" = [0.1, 0.01]\n'
    )
    first = zoo("train-many", "zoo.toml", "--format", "json")
    assert len(rows(first)) == 4
    flags = "--data wine --model mlp --seeds 1,2 --name both --set model.hidden=[8]"
    flags += " --set optim.lr=0.1,0.01 --set optim.name=sgd --set train.epochs=2"
    again = zoo("train-many", *flags.split(), "--format", "json")
    assert rows(again) == rows(first)
    assert "0 models to train" in again.stderr


def test_a_csv_file_goes_from_file_to_comparison(zoo, tmp_path):
    lines = ["area,rooms,town,price"]
    lines += [
        f"{50 + i % 70}.5,{'' if i % 11 == 0 else i % 5},{'ABC'[i % 3]},{100 + 3.5 * (i % 70)}"
        for i in range(300)
    ]
    (tmp_path / "houses.csv").write_text("\n".join(lines))
    trained = zoo("train-many", "--data", "houses.csv", "--target", "price", "--seeds", "3", *QUICK)
    assert "regression" in trained.stderr
    zoo("ensemble", "--mode", "predictions", "--method", "median")
    zoo("ensemble", "--mode", "weights", "--method", "weighted", "--set", "weights=[1,2,1]")
    answer = json.loads(zoo("compare", "--format", "json").stdout)
    assert (answer["task"], answer["metric"], answer["direction"]) == ("regression", "rmse", "min")
    assert {"rmse", "mae", "r2"} <= set(answer["rows"][0])
    assert "nll" not in answer["rows"][0]


def test_a_product_remembers_its_parents_and_is_made_once(zoo):
    trained = rows(zoo("train-many", "--data", "iris", "--seeds", "3", *QUICK, "--format", "json"))
    product = json.loads(zoo("ensemble", "--mode", "predictions", "--format", "json").stdout)
    again = json.loads(zoo("ensemble", "--mode", "predictions", "--format", "json").stdout)
    assert again["id"] == product["id"]
    shown = json.loads(zoo("show", product["id"], "--format", "json").stdout)
    assert set(shown["run"]["parents"]) == {row["id"] for row in trained}
    named = zoo(
        "ensemble", "iris-mlp@top2", "--mode", "weights", "--save", "two", "--format", "json"
    )
    assert json.loads(named.stdout)["name"] == "two"


def test_show_gives_settings_figures_history_and_weights(zoo):
    zoo("train-many", "--data", "iris", "--seeds", "1", *QUICK)
    shown = json.loads(zoo("show", "iris-mlp", "--format", "json").stdout)
    assert [row["epoch"] for row in shown["history"]] == [1, 2, 3]
    assert shown["run"]["preprocessing"]["kind"] == "table"
    assert shown["checkpoints"][0]["kind"] == "best"
    table = zoo("show", "iris-mlp/seed=0").stdout
    words = [line for line in table.splitlines() if "weights (" not in line]
    assert max(map(len, words)) <= 80
    assert "optim.lr" in table
    assert "train_loss" in table


@pytest.mark.parametrize("command", [["list"], ["show", "iris-mlp"], ["compare"], ["methods"]])
def test_every_format_is_written(zoo, command):
    zoo("train-many", "--data", "iris", "--seeds", "1", *QUICK)
    assert json.loads(zoo(*command, "--format", "json").stdout)["schema"] == 1
    table = list(csv.reader(io.StringIO(zoo(*command, "--format", "csv").stdout)))
    assert len({len(line) for line in table}) == 1 < len(table)
    assert zoo(*command, "--format", "markdown").stdout.startswith("|")
    assert zoo(*command).stdout.strip()


@pytest.mark.parametrize("command", [["list"], ["compare"], ["ensemble", "--mode", "weights"]])
def test_tables_fit_a_terminal_of_80_columns(zoo, command):
    zoo("train-many", "--data", "iris", "--seeds", "2", *QUICK)
    zoo("ensemble", "--mode", "predictions")
    output = zoo(*command).stdout
    table = [line for line in output.splitlines() if not line.startswith("The average")]
    assert max(map(len, table)) <= 80


def test_a_dry_run_lists_the_runs_and_writes_nothing(zoo, tmp_path):
    done = zoo("train-many", "--data", "iris", "--seeds", "2", "--dry-run", "--format", "json")
    listed = rows(done)
    assert "iris: classification, 3 classes; 90 train, 30 validation, 30 test rows\n" in done.stderr
    assert "4 numeric columns as 4 features" in done.stderr
    folds = zoo("train-many", "--data", "iris", "--set", "data.folds=3", "--dry-run").stderr
    assert "30 test rows for the first; each member trains on rows of its own" in folds
    assert [row["run"] for row in listed] == ["iris-mlp/seed=0", "iris-mlp/seed=1"]
    assert not list(tmp_path.iterdir())


def test_an_option_that_is_a_setting_is_told_how_it_is_set(zoo):
    told = zoo("train-many", "--data", "digits", "--epochs", "10", code=2).stderr
    assert "No such option '--epochs'" in told
    assert "Did you mean --set train.epochs=?" in told


def test_the_help_fits_a_terminal_and_its_examples_work(zoo, tmp_path):
    rows = "".join(f"{i},{i * 37 % 80}\n" for i in range(60))
    (tmp_path / "houses.csv").write_text(f"area,price\n{rows}")
    overview = zoo("--help").stdout
    assert "..." not in overview.partition("\n")[2]
    examples = re.findall(r"^ +zoo (.+?)(?: {3,}.*)?$", overview, re.MULTILINE)
    for command in ("train-many", "ensemble", "compare", "predict", "export"):
        told = zoo(command, "--help").stdout
        assert max(map(len, told.splitlines())) <= 80
        examples += re.findall(r"^ +zoo (.+)$", told, re.MULTILINE)
    assert len(examples) == 11
    for example in examples:
        zoo(*example.split(), *(QUICK if example.startswith("train-many") else ()))
    assert (tmp_path / "report.html").exists()
    assert (tmp_path / "best.safetensors").exists()


def bad(*arguments: str, says: str, files: dict[str, str] | None = None, code: int = 2):
    return pytest.param(arguments, files or {}, says, code, id=says)


@pytest.mark.parametrize(
    ("arguments", "files", "says", "code"),
    [
        bad("--data", "digts", says="did you mean 'digits'"),
        bad("--data", "digits", "--model", "mpl", says="did you mean 'mlp'"),
        bad("--data", "digits", "--set", "optim.lrr=1", says="did you mean 'lr'"),
        bad(
            "--data", "digits", "--set", "optim.lr=fast", says="optim.lr: should be a valid number"
        ),
        bad(
            "--data", "digits", "--set", "optim.lr=nan", says="optim.lr: should be a finite number"
        ),
        bad("--data", "digits", "--set", "optim.lr", says="--set takes KEY=VALUE"),
        bad("--data", "digits", "--set", "optim.lr=", "0.1", says="write it without spaces"),
        bad("--data", "digits", "--set", "model.hidden=[32,", "32]", says="into single quotes"),
        bad("--data", "digits", "--set", "lr=1", says="lr: no such key; did you mean optim.lr?"),
        bad("--data", "digits", "--set", "hidden=[8]", says="did you mean model.hidden?"),
        bad("--data", "digits", "--set", "optim.epochs=1", says="did you mean train.epochs?"),
        bad("--data", "digits", "--set", "seed=1", says="did you mean 'seeds'?"),
        bad(
            "--data",
            "digits",
            "--set",
            "optim.momentum=0.9",
            says="no such key of adam, but of sgd",
        ),
        bad("--data", "digits", "--seeds", "1,1", says="seeds: a seed may be given once"),
        bad("--data", "digits", "--seeds", "-3", says="seeds: takes a count"),
        bad("--data", "digits", "--seeds", "9" * 30, says="seeds: at most 100000"),
        bad(
            "--data", "digits", "--set", "model.hidden=64", says="a valid list, such as [64], howev"
        ),
        bad("--data", "digits", "--set", "model.hidden=[999999,999999]", says="cannot be built"),
        bad("--data", "digits", "--set", "stop.mode=max", says="the mode of loss is min"),
        bad("--data", "digits", "--set", "train.batch_size=5000", says="at most the 1079 training"),
        bad("--data", "digits", "--set", "stop.metric=rmse", says="must be loss or accuracy"),
        bad("--data", "iris", "--model", "cnn", says="cnn takes images"),
        bad("--data", "digits", "--name", "../x", says="a name holds up to 100 letters"),
        bad("missing.toml", says="missing.toml"),
        bad("a.toml", files={"a.toml": "[data\n"}, says="is not TOML"),
        bad(says="data: is required; --data names them"),
        bad(
            "--data",
            "t.csv",
            files={"t.csv": "a,b\n1,2\n"},
            says="data.target must name the column",
        ),
        bad("--data", "t.csv", "--target", "c", files={"t.csv": "a,b\n1,2\n"}, says="has no 'c'"),
        bad("--data", "t.csv", "--target", "b", files={"t.csv": ""}, says="no rows"),
        bad(
            "--data",
            "t.csv",
            "--target",
            "b",
            files={"t.csv": "a,b\n" + "".join(f"{i},x\n" for i in range(30))},
            says="at least two classes",
        ),
        bad(
            "--data",
            "t.csv",
            "--target",
            "1",
            files={"t.csv": "".join(f"{i}.5,{i % 2}\n" for i in range(30))},
            says="header",
        ),
        bad("--data", "iris", "--registry", "sqlite:///file/r.db", files={"file": ""}, says="file"),
        bad("--data", "iris", "--registry", "oracle://me:secret@host/db", says="sqlite"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(zoo, tmp_path, arguments, files, says, code):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    result = zoo("train-many", *arguments, code=code)
    assert result.stdout == ""
    message = result.stderr.strip().splitlines()[-1]
    assert message.startswith("Error: ")
    assert says in message
    assert "secret" not in result.output
    assert sum(line.startswith("Error") for line in result.stderr.splitlines()) == 1
    left = {path.name for path in tmp_path.iterdir()} - set(files)
    assert left <= {"checkpoints"}
    assert not list(tmp_path.glob("checkpoints/*.db"))


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (["list", "iris-mpl"], "did you mean 'iris-mlp'"),
        (["show", "iris-mlp"], "must name one run, however it names 2"),
        (["show", "iris-mlp"], "or their best, as NAME@best"),
        (["export", "iris-mlp@best", "-o", "model.h5"], "however this ends in .h5"),
        (["ensemble", "nobody", "--mode", "weights"], "no run matches 'nobody'"),
        (["ensemble", "--mode", "weights", "--method", "unifrom"], "did you mean 'uniform'"),
        (
            ["ensemble", "--mode", "predictions", "--set", "calibration=platt"],
            "no calibration is called 'platt'",
        ),
        (
            ["ensemble", "--mode", "weights", "--set", "density=1"],
            "the ladder has no option 'density' (known: align, heal, repair)",
        ),
        (
            ["ensemble", "--mode", "weights", "--method", "uniform", "--set", "density=1"],
            "has no option 'density'",
        ),
        (
            ["ensemble", "--mode", "weights", "--method", "weighted", "--set", "weights=[1]"],
            "list of 2",
        ),
        (["compare", "--metric", "rmse"], "no metric of classification"),
    ],
)
def test_unknown_references_and_methods_are_explained(zoo, command, says):
    zoo("train-many", "--data", "iris", "--seeds", "2", *QUICK)
    result = zoo(*command, code=2)
    assert says in result.stderr
    assert result.stdout == ""


def test_members_of_other_data_or_shape_are_refused(zoo):
    zoo("train-many", "--data", "iris", "--seeds", "1", *QUICK)
    zoo("train-many", "--data", "wine", "--seeds", "1", *QUICK)
    zoo("train-many", "--data", "iris", "--name", "wide", "--set", "model.hidden=[8]", *QUICK)
    other = zoo("ensemble", "iris-mlp", "wine-mlp", "--mode", "predictions", code=2)
    assert "members must share their data and test rows" in other.stderr
    assert "alcohol" not in other.stderr  # the names of the data say enough
    shapes = zoo("ensemble", "iris-mlp", "wide", "--mode", "weights", code=2)
    assert "model.hidden is [8] in wide/seed=0 and [64, 64] in iris-mlp/seed=0" in shapes.stderr
    zoo("ensemble", "iris-mlp", "wide", "--mode", "predictions", "--save", "mixed")
    assert "mixed" in zoo("compare", "mixed").stdout


def test_continue_makes_children_that_are_never_worse(zoo):
    parents = rows(zoo("train-many", "--data", "iris", "--seeds", "2", *QUICK, "--format", "json"))
    command = ["continue", "iris-mlp", "--epochs", "5", "--set", "stop.patience=2"]
    answer = zoo(*command, "--format", "json")
    assert "2 models to train" in answer.stderr
    for parent, child in zip(parents, rows(answer), strict=True):
        assert child["run"] == f"iris-mlp-continued/seed={parent['seed']}"
        assert child["val_loss"] <= parent["val_loss"]
        shown = json.loads(zoo("show", child["id"], "--format", "json").stdout)
        assert shown["run"]["parents"] == [parent["id"]]
        assert shown["history"][0]["epoch"] == 0
    again = zoo(*command, "--format", "json")
    assert "0 models to train, 2 are there already" in again.stderr
    assert rows(again) == rows(answer)
    named = zoo("continue", "iris-mlp@best", "--epochs", "1", "--name", "more", "--format", "json")
    assert [row["run"].split("/")[0] for row in rows(named)] == ["more"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["iris-mpl", "--epochs", "5"], "did you mean 'iris-mlp'"),
        (["iris-mlp", "--epochs", "0"], "0 is not in the range x>=1"),
        (["iris-mlp"], "Missing option '--epochs'"),
        (["iris-mlp", "--epochs", "5", "--set", "stop.patienc=2"], "did you mean 'patience'"),
        (["none.safetensors", "--epochs", "5"], "cannot be read"),
    ],
)
def test_what_cannot_be_continued_is_explained(zoo, arguments, says):
    zoo("train-many", "--data", "iris", "--seeds", "1", *QUICK)
    assert says in zoo("continue", *arguments, code=2).stderr


def test_new_runs_branch_off_from_a_run_that_is_there(zoo, tmp_path):
    branch = ["train-many", "--data", "iris", "--name", "branch", "--set", "init=iris-mlp/seed=0"]
    assert "no registry" in zoo(*branch, code=2).stderr
    assert not list(tmp_path.iterdir())
    zoo("train-many", "--data", "iris", "--seeds", "1", *QUICK)
    assert len(rows(zoo(*branch, "--dry-run", "--format", "json"))) == 8
    zoo(*branch, *QUICK, "--seeds", "2")
    shown = json.loads(zoo("show", "branch/seed=1", "--format", "json").stdout)
    assert shown["history"][0]["epoch"] == 0


def test_one_name_holds_one_data_set(zoo):
    zoo("train-many", "--data", "iris", "--name", "mine", "--seeds", "1", *QUICK)
    other = zoo("train-many", "--data", "wine", "--name", "mine", "--seeds", "1", *QUICK, code=2)
    assert "'mine' was trained on other data: iris (" in other.stderr
    split = ["--set", "data.split_seed=1"]
    again = zoo("train-many", "--data", "iris", "--name", "mine", *QUICK, *split, code=2)
    assert "other split" in again.stderr


def test_a_changed_csv_file_is_not_combined(zoo, tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("a,b\n" + "".join(f"{i}.5,{i % 2}\n" for i in range(60)))
    zoo("train-many", "--data", "t.csv", "--target", "b", "--seeds", "2", *QUICK)
    path.write_text(path.read_text().replace("7.5", "7.25"))
    refused = zoo("ensemble", "--mode", "predictions", code=2)
    assert "the content of t.csv" in refused.stderr


def test_a_diverged_member_is_reported_and_left_out(zoo):
    lr = "optim.lr=0.1,1e30"
    result = zoo(
        "train-many",
        "--data",
        "iris",
        "--seeds",
        "2",
        "--set",
        "optim.name=sgd",
        "--set",
        lr,
        *QUICK,
        code=3,
    )
    assert result.stdout.count("diverged") == 2
    assert result.stdout.count("finished") == 2
    assert "2 of 4 runs did not finish" in result.stderr
    product = json.loads(zoo("ensemble", "--mode", "predictions", "--format", "json").stdout)
    assert product["members"] == 2


def test_damaged_weights_are_refused_with_code_4(zoo, tmp_path):
    zoo("train-many", "--data", "iris", "--seeds", "2", *QUICK)
    blob = next(tmp_path.glob("checkpoints/blobs/*/*.safetensors"))
    blob.write_bytes(blob.read_bytes()[:-1])
    assert "expected" in zoo("ensemble", "--mode", "predictions", code=4).stderr


def test_products_are_members_only_where_they_are_named(zoo):
    zoo("train-many", "--data", "iris", "--seeds", "2", *QUICK)
    zoo("ensemble", "--mode", "weights", "--save", "iris-soup")
    glob = zoo("ensemble", "iris-*", "--mode", "predictions", "--format", "json")
    assert json.loads(glob.stdout)["members"] == 2
    both = zoo("ensemble", "iris-mlp", "iris-soup", "--mode", "predictions", "--save", "both")
    assert "3 of 3" in both.stdout
    assert "both" in zoo("compare", "iris-*", "both").stdout
    assert "best single" in zoo("compare", "both").stdout


def test_by_default_the_latest_training_is_meant_even_if_it_was_there_already(zoo):
    zoo("train-many", "--data", "iris", "--seeds", "2", *QUICK)
    zoo("train-many", "--data", "wine", "--seeds", "2", *QUICK)
    zoo("train-many", "--data", "iris", "--seeds", "2", *QUICK)
    product = json.loads(zoo("ensemble", "--mode", "predictions", "--format", "json").stdout)
    assert product["name"] == "iris-mlp.predictions-mean"


def test_runs_of_one_name_and_seed_are_told_apart(zoo):
    zoo("train-many", "--data", "iris", "--seeds", "1", *QUICK)
    other = zoo("train-many", "--data", "iris", "--seeds", "1", "--set", "train.epochs=2")
    assert "iris-mlp/train.epochs=2,seed=0" in other.stdout
    assert "optim.lr" in zoo("show", "iris-mlp/seed=0").stdout
    assert "optim.lr" in zoo("show", "iris-mlp/train.epochs=2,seed=0").stdout
    only = json.loads(zoo("ensemble", "--mode", "predictions", "--format", "json").stdout)
    assert only["members"] == 1


def test_curves_are_drawn_and_judged(zoo):
    zoo("train-many", "--data", "iris", "--seeds", "2", "--set", "train.epochs=12")
    one = zoo("show", "iris-mlp/seed=0", "--curves").stdout
    assert "best epoch 12" in one
    assert "Still improving: " in one
    assert max(map(len, one.splitlines())) <= 80
    several = zoo("show", "iris-mlp", "--curves").stdout
    assert several.splitlines()[-1] == "2 still-improving"
    assert [row["verdict"] for row in rows(zoo("show", "iris-*", "--curves", "--format", "json"))]
    assert "Still improving: " in zoo("show", "iris-mlp/seed=1").stdout
    for extra in ([], ["--curves"]):
        answer = json.loads(zoo("show", "iris-mlp/seed=1", "--format", "json", *extra).stdout)
        assert answer["verdict"]["kind"] == "still-improving"
        assert answer["verdict"]["epochs"] == len(answer["history"]) == 12


def test_curves_are_written_as_a_picture(zoo, tmp_path):
    zoo("train-many", "--data", "iris", "--seeds", "2", *QUICK)
    assert "verdict" in zoo("show", "iris-mlp", "--output", "a.png").stdout
    zoo("show", "iris-mlp/seed=0", "--output", "b.svg", "--format", "json")
    assert {path.name for path in tmp_path.iterdir()} == {"a.png", "b.svg", "checkpoints"}
    assert "(known: pdf, png, svg)" in zoo("show", "iris-mlp", "--output", "c.gif", code=2).stderr


def test_a_product_has_no_curves(zoo):
    zoo("train-many", "--data", "iris", "--seeds", "2", *QUICK)
    zoo("ensemble", "--mode", "predictions", "--save", "both")
    assert "however both has none" in zoo("show", "both", "--curves", code=2).stderr
    assert json.loads(zoo("show", "both", "--format", "json").stdout)["verdict"] is None
    assert "verdict" not in zoo("show", "both").stdout


def test_products_have_names_of_their_own(zoo):
    zoo("train-many", "--data", "iris", "--seeds", "3", *QUICK)
    for name, says in (("a b/c@best", "letters"), ("iris-mlp", "that of another run")):
        assert says in zoo("ensemble", "--mode", "weights", "--save", name, code=2).stderr
    zoo("ensemble", "--mode", "predictions")
    more = zoo("ensemble", "iris-mlp@top2", "--mode", "predictions", "--format", "json")
    assert json.loads(more.stdout)["name"] == "iris-mlp.predictions-mean-2"


def test_brackets_in_a_file_are_shown_as_they_are(zoo, tmp_path):
    lines = ["rate [/s],weight [kg],y", *(f"{i}.5,,{i % 2}" for i in range(60))]
    (tmp_path / "t.csv").write_text("\n".join(lines))
    trained = zoo("train-many", "--data", "t.csv", "--target", "y", "--seeds", "1", *QUICK)
    assert "weight [kg]" in trained.stderr


def test_a_checkpoint_that_cannot_be_published_fails_alone(zoo, monkeypatch):
    from zoo.errors import ZooError
    from zoo.registry.blobs import LocalBlobs

    put, calls = LocalBlobs.put, []

    def full(self, data):
        calls.append(data)
        if len(calls) == 2:
            raise ZooError("no space left")
        return put(self, data)

    monkeypatch.setattr(LocalBlobs, "put", full)
    result = zoo("train-many", "--data", "iris", "--seeds", "3", *QUICK, code=3)
    assert result.stdout.count("finished") == 2
    assert "failed (no space left)" in result.stderr
    monkeypatch.setattr(LocalBlobs, "put", put)
    assert (
        "1 model to train, 2 are there"
        in zoo("train-many", "--data", "iris", "--seeds", "3", *QUICK).stderr
    )


def test_ctrl_c_anywhere_ends_with_130(zoo, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("zoo.planning.plan", interrupted)
    assert "interrupted" in zoo("train-many", "--data", "iris", code=130).stderr


@contextmanager
def command_line(*arguments: str, folder: Path):
    """Run a command in a process of its own, and leave none behind."""
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "cli.py"), *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def wait_for_finished(folder: Path, count: int, limit: float = 120) -> None:
    """Wait until some runs are published, as another process sees it."""
    url, blobs = f"sqlite:///{folder}/checkpoints/registry.db", folder / "checkpoints/blobs"
    deadline = time.monotonic() + limit
    while time.monotonic() < deadline:
        with suppress(NotFoundError), Registry(url, blobs, create=False) as registry:
            if len(registry.runs(status="finished")) >= count:
                return
        time.sleep(0.05)
    raise AssertionError(f"{count} runs were not finished within {limit} s")


LONG = ["train-many", "--data", "digits", "--seeds", "2", "--set", "stop.patience=100000"]
GRID = [*LONG, "--set", "train.epochs=2,100000"]


@pytest.mark.parametrize(("how", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupt_keeps_what_is_finished_and_says_how_to_go_on(tmp_path, how, code):
    with command_line(*GRID, folder=tmp_path) as process:
        wait_for_finished(tmp_path, 2)
        process.send_signal(how)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == code, errors
    assert "2 of 4 runs are finished" in errors
    assert "the same command again" in errors
    url, blobs = f"sqlite:///{tmp_path}/checkpoints/registry.db", tmp_path / "checkpoints/blobs"
    with Registry(url, blobs, create=False) as registry:
        statuses = sorted(run.status for run in registry.runs())
    assert statuses == ["finished", "finished", "interrupted", "interrupted"]


def test_a_killed_training_goes_on_where_the_registry_stands(tmp_path):
    with command_line(*GRID, folder=tmp_path) as process:
        wait_for_finished(tmp_path, 2)
        process.kill()
    with command_line(*LONG, "--set", "train.epochs=2", folder=tmp_path) as again:
        output, errors = again.communicate(timeout=120)
    assert again.returncode == 0, errors
    assert "0 models to train, 2 are there already" in errors
    assert output.count("finished") == 2
