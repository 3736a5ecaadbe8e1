"""Models that learnt nothing are named at the end of a training, and no others."""

import math

import pytest
import torch

from zoo import Registry, parse, plan, train_many
from zoo.constant import NAMED, constant, no_better, warning
from zoo.data.dataset import Part, of_tensors


def trained(folder, **settings):
    """Train three models on built-in data; return the plan and the runs."""
    planned = plan(parse({"seeds": 3, "train": {"epochs": 30}, **settings}))
    with Registry(f"sqlite:///{folder}/r.db", folder / "b") as registry:
        return planned, train_many(planned, registry)


def random_table(path, rows=300):
    """Write a table whose targets no column tells, of which nine in ten are alike."""
    draw = torch.Generator().manual_seed(0)
    x_N2, y_N = torch.randn(rows, 2, generator=draw), torch.rand(rows, generator=draw) < 0.1
    lines = [f"{a},{b},{'rare' if y else 'usual'}" for (a, b), y in zip(x_N2, y_N, strict=True)]
    path.write_text("\n".join(["a,b,y", *lines]))
    return {"ref": str(path), "target": "y"}


@pytest.mark.parametrize(
    ("ref", "lr", "what"),
    [("digits", 1e6, "the most frequent class"), ("diabetes", 10.0, "the mean")],
)
def test_a_hopeless_learning_rate_is_told_with_its_remedy(tmp_path, ref, lr, what):
    planned, runs = trained(tmp_path, data={"ref": ref}, optim={"lr": lr})
    assert {run.status for run in runs} == {"finished"}
    assert warning(planned, runs) == (
        f"3 of 3 models are no better than always predicting {what}: {ref}-mlp/seed=0, "
        f"{ref}-mlp/seed=1, {ref}-mlp/seed=2; try another optim.lr or a larger model, or "
        "train for more epochs"
    )


def test_only_the_hopeless_ones_of_a_grid_are_named(tmp_path):
    grid = {"optim.lr": [1e-3, 1e6]}
    planned, runs = trained(tmp_path, data={"ref": "digits"}, grid=grid)
    assert no_better(planned, runs) == [run for run in runs if run.varied["optim.lr"] == 1e6]


def test_what_cannot_be_learnt_is_told_though_most_rows_are_right(tmp_path):
    data = random_table(tmp_path / "t.csv")
    planned, runs = trained(tmp_path, data=data, optim={"lr": 1e3}, seeds=NAMED + 2)
    assert all(run.metrics["val_accuracy"] > 0.8 for run in runs)
    told = warning(planned, runs)
    assert told.count("seed=") == NAMED
    assert "and 2 more; try" in told


@pytest.mark.parametrize("ref", ["digits", "iris", "breast_cancer", "diabetes"])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"data": {"folds": 3}},
        {"optim": {"lr": 0.1}},
        {"optim": {"name": "sgd"}},
        {"model": {"hidden": [256, 256]}, "stop": {"patience": 100}},
    ],
)
def test_ordinary_runs_are_no_false_alarm(tmp_path, ref, settings):
    data = {"ref": ref, **settings.get("data", {})}
    assert warning(*trained(tmp_path, **{**settings, "data": data})) == ""


def test_folds_are_judged_on_their_own_rows(tmp_path):
    data = {"ref": "diabetes", "folds": 3}
    planned, runs = trained(tmp_path, data=data, optim={"lr": 10.0})
    assert no_better(planned, runs) == runs


def test_class_weights_are_judged_by_balanced_accuracy_alone(tmp_path):
    train = {"epochs": 20, "class_weights": "balanced"}
    asked = {"data": random_table(tmp_path / "t.csv"), "optim": {"lr": 0.3}, "train": train}
    assert warning(*trained(tmp_path, **asked)) == ""
    stop = {"metric": "balanced_accuracy"}
    assert "always predicting" in warning(*trained(tmp_path, **asked, stop=stop, name="watched"))


def test_no_constant_output_has_a_lower_loss():
    y_NL = torch.tensor([[1.0, 0.0, 0.0], [1.0, 0.0, 1.0], [1.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
    part = Part(torch.zeros(4, 1), y_NL)
    found = constant(of_tensors(part, part, "multilabel", 3))
    share_L = y_NL.mean(0).clamp(1e-7, 1 - 1e-7)
    loss = torch.nn.functional.binary_cross_entropy(share_L.expand(4, 3), y_NL)
    assert math.isclose(found.loss, loss, rel_tol=1e-5)
    assert 0.5 < found.accuracies["accuracy"] <= 1
