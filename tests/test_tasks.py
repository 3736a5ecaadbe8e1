"""Every task from a file through training and combining to the comparison and the user's terms."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from sklearn import metrics as sk

from cli import main
from ensemble import combine, compare
from ensemble.catalogue import methods
from ensemble.members import bench
from ensemble.predictions import mean, tasks
from zoo import Registry, parse, plan, terms, train_many

ROWS = 160


@pytest.fixture
def table(tmp_path, monkeypatch):
    """Write a table of several tasks' targets."""
    monkeypatch.chdir(tmp_path)
    drawn = np.random.default_rng(0)
    x = drawn.normal(size=(ROWS, 3))
    noisy = x + 0.5 * drawn.normal(size=x.shape)
    features = {"u": x[:, 0], "v": x[:, 1], "w": x[:, 2]}

    def write(**targets):
        pd.DataFrame({**features, **targets}).to_csv("table.csv", index=False)

    return write, noisy


@pytest.fixture
def registry(tmp_path):
    with Registry(f"sqlite:///{tmp_path}/registry.db", tmp_path / "blobs") as opened:
        yield opened


def trained(registry, target, **asked):
    data = {"ref": "table.csv", "target": target, **asked.pop("data", {})}
    asked = {"train": {"epochs": 4}, "seeds": 3, **asked, "data": data}
    return train_many(plan(parse(asked)), registry)


def pools(registry, runs, task):
    """Pool by every method of a task."""
    names = [m.name for m in methods("predictions") if task in tasks(m.function)]
    return [combine(registry, runs, "predictions", method=name) for name in names]


def test_labels_are_trained_pooled_averaged_and_compared(table, registry):
    write, noisy = table
    write(
        tags=[";".join(n for n, v in zip("abc", row, strict=True) if v > 0) + ";" for row in noisy]
    )
    runs = trained(registry, "tags", data={"task": "multilabel"}, stop={"metric": "accuracy"})
    assert all(0 < run.metrics["val_accuracy"] <= 1 for run in runs)
    made = pools(registry, runs, "multilabel")
    assert {p.run.config["method"] for p in made} == {m.name for m in methods("predictions")}
    combine(registry, runs, "weights")
    answer = compare(registry, registry.runs()).to_json()
    assert (answer["task"], answer["metric"], answer["direction"]) == (
        "multilabel",
        "accuracy",
        "max",
    )
    row = answer["rows"][0]
    figures = ["nll", "brier", "hamming", "f1", "f1_micro", "roc_auc"]
    assert list(row)[11:-6] == figures
    table_ = bench(registry, runs)
    best = next(run for run in runs if run.label == answer["baseline"])
    odds_NL = table_.pool(mean, table_.outputs([best], "test"))
    labels = table_.targets("test").numpy()
    assert row["test"] == pytest.approx(sk.accuracy_score(labels, (odds_NL > 0).numpy()))
    assert row["roc_auc"] == pytest.approx(sk.roc_auc_score(labels, odds_NL.sigmoid().numpy()))
    assert best.metrics["val_loss"] == pytest.approx(
        table_.loss(table_.pool(mean, table_.outputs([best], "val")), table_.targets("val")),
        rel=1e-5,
    )
    for metric in ("f1", "f1_macro", "roc_auc", "hamming", "log_loss"):
        told = compare(registry, registry.runs(), metric=metric).rows
        assert all(row.ci_low <= row.delta <= row.ci_high for row in told if row.kind != "baseline")


@pytest.mark.parametrize("transform", ["none", "yeo-johnson"])
def test_several_targets_are_trained_pooled_averaged_and_compared(table, registry, transform):
    write, noisy = table
    write(price=np.exp(3 + noisy[:, 0]), rent=1000 * noisy[:, 1])
    runs = trained(registry, ["price", "rent"], data={"target_transform": transform})
    made = pools(registry, runs, "regression")
    told = {p.run.config["method"] for p in made}
    assert told == {m.name for m in methods("predictions")} - {"geometric", "vote"}
    combine(registry, runs, "weights")
    answer = compare(registry, registry.runs()).to_json()
    row = answer["rows"][0]
    table_ = bench(registry, runs)
    best = next(run for run in runs if run.label == answer["baseline"])
    values = table_.pool(mean, table_.outputs([best], "test")).numpy()
    targets = table_.targets("test").numpy()
    assert row["test"] == pytest.approx(np.sqrt(sk.mean_squared_error(targets, values)))
    assert row["r2"] == pytest.approx(sk.r2_score(targets, values))
    assert row["mae[rent]"] == pytest.approx(sk.mean_absolute_error(targets[:, 1], values[:, 1]))
    assert best.metrics["val_rmse"] == pytest.approx(row["val"], rel=1e-4)
    raw = pd.read_csv("table.csv")["rent"].to_numpy()
    assert np.abs(targets[:, 1:] - raw).min(axis=1).max() < 0.01


def test_models_of_different_transforms_are_pooled_in_the_users_unit_but_not_averaged(
    table, registry
):
    write, noisy = table
    write(price=np.exp(3 + noisy[:, 0]))
    runs = trained(registry, "price", name="plain", seeds=2)
    runs += trained(registry, "price", name="log", seeds=2, data={"target_transform": "log1p"})
    product = combine(registry, runs, "predictions")
    table_ = bench(registry, runs)
    outputs_KN = table_.outputs(runs, "val")
    expected = sk.root_mean_squared_error(table_.targets("val"), outputs_KN.mean(0))
    assert product.val == pytest.approx(expected)
    for run, outputs_N in zip(runs, outputs_KN, strict=True):
        alone = sk.root_mean_squared_error(table_.targets("val"), outputs_N)
        assert run.metrics["val_rmse"] == pytest.approx(alone, rel=1e-4)
    with pytest.raises(Exception, match=r"data\.target_transform is (log1p|none)"):
        combine(registry, runs, "weights")


def test_classes_with_weights_are_compared_by_every_metric(table, registry):
    write, noisy = table
    write(kind=np.where(noisy[:, 0] > 1, "rare", np.where(noisy[:, 1] > 0, "y", "z")))
    runs = trained(
        registry,
        "kind",
        train={"epochs": 4, "class_weights": "balanced"},
        stop={"metric": "balanced_accuracy"},
    )
    assert all("val_balanced_accuracy" in run.metrics for run in runs)
    combine(registry, runs, "predictions")
    for metric in ("balanced_accuracy", "f1", "roc_auc", "brier", "ece"):
        answer = compare(registry, registry.runs(), metric=metric)
        pooled = answer.rows[-1]
        assert answer.metric == metric
        assert pooled.ci_low <= pooled.delta <= pooled.ci_high
        assert pooled.figures[metric] == pytest.approx(pooled.test)


def test_an_undefined_figure_is_said_to_be_so(table):
    write, noisy = table
    rare = np.zeros(ROWS, int)
    rare[:4] = 1
    write(common=(noisy[:, 0] > 0).astype(int), rare=rare)

    def run(*arguments):
        result = CliRunner().invoke(main, list(arguments), catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.stdout

    flags = ["--target", "common", "--target", "rare", "--set", "train.epochs=2", "--seeds", "2"]
    for seed in range(20):  # some split has all four rows in training or validation
        name = f"split{seed}"
        run("train-many", "--data", "table.csv", *flags, "--name", name, "--set",
            f"data.split_seed={seed}")  # fmt: skip
        answer = json.loads(run("compare", name, "--metric", "roc_auc", "--format", "json"))
        if answer["rows"][0]["test"] is None:
            break
    assert answer["rows"][0]["test"] is None
    assert "undefined" in run("compare", name, "--metric", "roc_auc")
    assert "nan" not in run("compare", name, "--metric", "roc_auc")


def test_outputs_are_told_in_the_users_terms(table, registry):
    write, noisy = table
    write(kind=np.where(noisy[:, 0] > 0, "up", "down"))
    run, *_ = trained(registry, "kind", seeds=1)
    table_ = bench(registry, [run])
    logits_NC = table_.outputs([run], "test")[0]
    told = terms.columns(run.preprocessing["target"], logits_NC)
    again = terms.columns(run.preprocessing["target"], table_.pool(mean, logits_NC[None]))
    assert list(told) == ["prediction", "p_down", "p_up"]
    np.testing.assert_allclose(told["p_down"] + told["p_up"], 1)
    np.testing.assert_allclose(told["p_up"], again["p_up"], rtol=1e-6)
    assert (told["prediction"] == np.where(told["p_up"] > 0.5, "up", "down")).all()


def test_labels_and_values_are_told_in_the_users_terms():
    labels = {"names": ["tags"], "task": "multilabel", "classes": ["a", "b"], "units": None}
    told = terms.columns(labels, torch.tensor([[0.0, 2.0], [-2.0, 800.0]]))
    assert {name: cells.tolist() for name, cells in told.items() if "p_" not in name} == {
        "a": [0, 0],
        "b": [1, 1],
    }
    assert told["p_a"][0] == 0.5
    assert told["p_b"][1] == 1.0
    units = {"transform": "log1p", "offsets": [1.0, 2.0], "scales": [1.0, 2.0]}
    units |= {"powers": [1.0, 1.0], "lows": [-1.0, -1.0], "highs": [1.0, 1.0]}
    target = {"names": ["p", "q"], "task": "regression", "classes": [], "units": units}
    predicted = terms.predictions(target, torch.tensor([[[0.5, -0.5]], [[9.0, 0.0]]]))
    assert predicted.shape == (2, 1, 2)
    told = terms.columns(target, predicted[1])
    assert told["p"][0] == pytest.approx(np.expm1(3.0))
    assert told["q"][0] == pytest.approx(np.expm1(2.0))
