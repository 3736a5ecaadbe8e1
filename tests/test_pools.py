"""Pools that are fitted: what is chosen on validation rows is what predicts and is compared."""

import json
import math
from dataclasses import fields

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from sklearn.datasets import load_breast_cancer, load_diabetes, load_wine

from cli import main
from ensemble import combine, compare, convex_weights, greedy_selection
from ensemble.calibration import KINDS, calibrate, calibrated
from ensemble.catalogue import methods
from ensemble.errors import EmptyError, EnsembleError, NonFiniteError, OptionError
from ensemble.learners import evidence
from ensemble.members import MembersError, bench
from ensemble.metrics import METRICS
from ensemble.pools import pool_of, stopwatch
from ensemble.predictions import mean, pooled, tasks, weighted
from ensemble.serving import predictor
from ensemble.snapshots import members_of, origin, snapshots
from zoo import Registry, parse, plan, train_many
from zoo.registry import NewRun

QUICK = {"model": {"hidden": [8]}, "train": {"epochs": 6}, "optim": {"lr": 0.02}}
TARGETS = {
    "kind": "kind",
    "value": "value",
    "labels": ["large", "rough"],
    "values": ["value", "other"],
}
SEEDS = 5


def table_of(name):
    """Write a table for each task, of scikit-learn's data."""
    if name == "kind":
        loaded = load_wine(as_frame=True)
        return loaded.data.assign(kind=loaded.target.map({0: "red", 1: "rosé", 2: "white"}))
    if name == "labels":
        data = load_breast_cancer(as_frame=True).data.iloc[:240]
        large, rough = data["mean area"] > 550, data["mean texture"] > 19
        return data[["mean radius", "mean smoothness", "worst texture"]].assign(
            large=large, rough=rough
        )
    loaded = load_diabetes(as_frame=True)
    frame = loaded.data[["bmi", "bp", "s5", "age"]].assign(value=loaded.target)
    return frame.assign(other=1000 * loaded.data["s1"]) if name == "values" else frame


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A registry with members for every task, on files."""
    folder = tmp_path_factory.mktemp("pools")
    with opened(folder) as registry:
        for name, target in TARGETS.items():
            table_of(name).to_csv(folder / f"{name}.csv", index=False)
            data = {"ref": str(folder / f"{name}.csv"), "target": target}
            train(registry, data, name)
        keep = {"every": 2, "top": 3}
        train(registry, {"ref": "iris"}, "kept", seeds=2, keep=keep, stop={"patience": 50})
        grid = {"model.hidden": [[4], [8]]}
        train(registry, {"ref": "iris", "folds": 3}, "folded", seeds=3, grid=grid)
    return folder


def opened(folder):
    return Registry(f"sqlite:///{folder}/registry.db", folder / "blobs")


@pytest.fixture(scope="module")
def registry(folder):
    with opened(folder) as registry:
        yield registry


def train(registry, data, name, seeds=SEEDS, **others):
    asked = {"data": data, "seeds": seeds, "name": name, **QUICK, **others}
    return train_many(plan(parse(asked)), registry, engine="stacked")


def zoo(folder, *arguments):
    places = ["--registry", f"sqlite:///{folder}/registry.db", "--blobs", str(folder / "blobs")]
    return CliRunner().invoke(main, [*map(str, arguments), *places], catch_exceptions=False)


CASES = [
    (name, method.name, calibration)
    for name, task in (
        ("kind", "classification"),
        ("value", "regression"),
        ("labels", "multilabel"),
        ("values", "regression"),
    )
    for method in methods("predictions")
    if task in tasks(method.function)
    for calibration in [None, *(KINDS if task != "regression" and method.name == "mean" else ())]
]
CASES += [("kind", "greedy", "vector"), ("kind", "weighted", "temperature")]


@pytest.mark.parametrize(("name", "method", "calibration"), CASES)
def test_what_was_chosen_predicts_new_rows_and_is_compared(
    folder, registry, name, method, calibration
):
    runs = registry.runs([f"{name}/kind=single"])
    options = {} if calibration is None else {"calibration": calibration}
    options |= {"rounds": 5} if method == "greedy" else {}
    product = combine(registry, runs, "predictions", method=method, options=options)
    table = bench(registry, runs)
    members = members_of(registry, product.run)
    assert [run.id for run in members] == [run.id for run in product.used]
    assert set(product.run.parents) == {run.id for run in runs}
    expected = pool_of(product.run)(table.outputs(members, "test"), range(len(members)))
    frame = pd.read_csv(folder / f"{name}.csv").iloc[table.data.rows[2]]
    told = predictor(registry, product.run)(frame)
    if table.data.task == "classification":
        shares = told[[f"p_{c}" for c in table.data.classes]].to_numpy()
        np.testing.assert_allclose(shares, expected.exp(), atol=1e-5)
    elif table.data.task == "multilabel":
        shares = told[[f"p_{c}" for c in table.data.classes]].to_numpy()
        np.testing.assert_allclose(shares, expected.sigmoid(), atol=1e-5)
    else:
        names = ["prediction"] if name == "value" else TARGETS[name]
        np.testing.assert_allclose(told[names].to_numpy().squeeze(), expected, rtol=1e-4)
    row = compare(registry, [*runs, product.run]).rows[-1]
    assert row.name == product.run.label
    assert row.members == len(members)
    assert row.test == pytest.approx(table.metric(expected, table.targets("test")))
    again = combine(registry, runs, "predictions", method=method, options=options)
    assert again.run.id == product.run.id


def test_weights_found_are_those_of_the_function_and_zeros_are_not_run(registry):
    runs = registry.runs(["kind/kind=single"])
    product = combine(registry, runs, "predictions", method="convex")
    table = bench(registry, runs)
    logits_KNC, labels_N = table.outputs(product.members, "val"), table.targets("val")
    expected = convex_weights(logits_KNC, labels_N, "classification")["weights"]
    there = [run for run, weight in zip(product.members, expected, strict=True) if weight]
    assert [run.id for run in product.used] == [run.id for run in there]
    found = product.run.config["found"]["weights"]
    assert found == [weight for weight in expected if weight]
    assert len(predictor(registry, product.run).members) == len(there)
    losses = [run.metrics["val_loss"] for run in product.members]
    assert losses == sorted(losses)


def test_figures_are_cross_fitted(registry):
    runs = registry.runs(["kind/kind=single"])
    options = {"calibration": "temperature"}
    product = combine(registry, runs, "predictions", method="convex", options=options)
    table = bench(registry, runs)
    logits_KNC, labels_N = table.outputs(product.members, "val"), table.targets("val")
    before = torch.zeros(logits_KNC.shape[1:], dtype=torch.float64)
    after = before.clone()
    seen = torch.zeros(len(labels_N), dtype=torch.int64)
    from ensemble.pools import _parts

    for here_N in _parts(labels_N, "classification"):
        rest_N = torch.tensor(sorted(set(range(len(labels_N))) - set(here_N.tolist())))
        found = convex_weights(logits_KNC[:, rest_N], labels_N[rest_N], "classification")
        told_NC = weighted(logits_KNC, **found)
        fitted = calibrate(told_NC[rest_N], labels_N[rest_N], "classification", "temperature")
        before[here_N] = told_NC[here_N].double()
        after[here_N] = calibrated(told_NC[here_N], "classification", fitted)
        seen[here_N] += 1
    assert seen.tolist() == [1] * len(labels_N)
    nll = METRICS["classification"]["nll"]
    assert product.pooled.before["nll"] == pytest.approx(nll(before, labels_N))
    assert product.pooled.after["nll"] == pytest.approx(nll(after, labels_N))
    assert product.run.metrics["val_loss"] == pytest.approx(nll(after, labels_N))
    assert product.val == pytest.approx(METRICS["classification"]["accuracy"](after, labels_N))
    # Compared, it is not measured on the very rows that it was fitted on.
    row = compare(registry, [product.run], metric="nll").rows[-1]
    assert row.val == pytest.approx(nll(after, labels_N))
    whole = pool_of(product.run)(table.outputs(product.used, "val"), range(len(product.used)))
    assert row.val != pytest.approx(nll(whole, labels_N), rel=1e-4)


def test_a_selection_goes_by_the_metric_asked_for(registry):
    runs = registry.runs(["kind/kind=single"])
    table = bench(registry, runs)
    for metric in ("accuracy", "nll"):
        product = combine(
            registry, runs, "predictions", method="greedy", options={"metric": metric, "rounds": 9}
        )
        logits_KNC, labels_N = table.outputs(product.members, "val"), table.targets("val")
        known = METRICS["classification"][metric]
        sign = 1 if known.direction == "max" else -1

        def score(log_NC, sign=sign, known=known, labels_N=labels_N):
            return sign * known(log_NC, labels_N)

        found = greedy_selection(
            logits_KNC,
            "classification",
            score,
            lambda log_NC, labels_N=labels_N: METRICS["classification"]["nll"](log_NC, labels_N),
            rounds=9,
        )["weights"]
        assert product.run.config["found"]["weights"] == [weight for weight in found if weight]
        assert product.run.config["arguments"]["metric"] == metric


def test_a_selection_goes_by_what_stopped_the_training(registry, folder):
    data = {"ref": str(folder / "kind.csv"), "target": "kind"}
    stopped = train(registry, data, "stopped", seeds=4, stop={"metric": "accuracy"})
    for runs, metric in ((registry.runs(["kind/kind=single"]), "loss"), (stopped, "accuracy")):
        found = [
            combine(registry, runs, "predictions", method="greedy", options=options).run.config
            for options in ({}, {"metric": metric})
        ]
        assert found[0]["found"] == found[1]["found"]
        assert found[0]["arguments"].get("metric") is None


def test_a_budget_is_measured_and_kept(registry):
    runs = registry.runs(["kind/kind=single"])
    options = {"members": 2, "ms": 500.0, "batch": 16}
    product = combine(registry, runs, "predictions", method="budget", options=options)
    assert 1 <= len(product.used) <= 2
    with pytest.raises(OptionError, match=r"must predict 64 rows in ms=1e-05, however the fastest"):
        combine(registry, runs, "predictions", method="budget", options={"ms": 1e-5})
    cost = stopwatch(bench(registry, runs), [[run] for run in runs])
    assert 0 < cost([0], 1) <= cost([0], 4096)
    assert cost([0, 1], 16) == cost([1, 3], 16), "as many models that are alike are measured once"


# Folds of their own


def test_members_of_several_folds_are_chosen_by_their_settings(registry):
    runs = registry.runs(["folded/kind=single"])
    table = bench(registry, runs)
    seen = evidence(table, runs)
    assert seen.outputs_G.shape == (2, 120, 3)
    by_hidden = [run.config["model"]["hidden"] for run in runs]
    assert [by_hidden[k] == by_hidden[0] for k in range(6)] == [g == 0 for g in seen.learner_K]
    told = table.out_of_fold(runs)
    for row in range(0, 120, 7):
        for learner in (0, 1):
            (k,) = [
                k for k in range(6) if seen.learner_K[k] == learner and bool(told.unseen_KN[k, row])
            ]
            expected = told.outputs_K[k, row].log_softmax(0)
            torch.testing.assert_close(seen.outputs_G[learner, row], expected)
    assert torch.equal(seen.targets, told.targets_N)


@pytest.mark.parametrize("method", ["greedy", "budget", "convex", "stacking"])
def test_folds_are_fitted_to_and_pooled_with_what_was_found(registry, method):
    runs = registry.runs(["folded/kind=single"])
    product = combine(registry, runs, "predictions", method=method)
    table = bench(registry, runs)
    members = members_of(registry, product.run)
    outputs_K = table.outputs(members, "test")
    found = product.run.config["found"]
    told = pool_of(product.run)(outputs_K, range(len(members)))
    if method == "stacking":
        groups = [
            [k for k, g in enumerate(found["learners"]) if g == learner] for learner in (0, 1)
        ]
        shares = torch.stack([outputs_K[group].double().softmax(-1).mean(0) for group in groups])
        logits = torch.tensor(found["intercepts"], dtype=torch.float64).repeat(30, 1)
        for g in (0, 1):
            logits += shares[g] @ torch.tensor(found["coefficients"][g], dtype=torch.float64)
        torch.testing.assert_close(told, logits.log_softmax(1))
    else:
        assert math.fsum(found["weights"]) == pytest.approx(1)
        sizes = {tuple(run.config["model"]["hidden"]) for run in members}
        assert len(members) == 3 * len(sizes), "the folds of a setting come together"
        torch.testing.assert_close(told, weighted(outputs_K, found["weights"]))
    predictions, targets = table.validation(members, pool_of(product.run))
    assert len(targets) == 120, "each row by the members that did not train on it"
    assert table.figures(predictions, targets)["val_accuracy"] > 0.5
    assert compare(registry, [*runs, product.run]).rows[-1].name == product.run.label


def test_folds_without_a_row_in_common_are_refused(registry):
    runs = [
        run
        for run in registry.runs(["folded/kind=single"])
        if (run.config["model"]["hidden"] == [4]) == (run.config["data"]["fold"] == 0)
        and run.config["data"]["fold"] < 2
    ]
    with pytest.raises(EmptyError, match="train as many seeds as there are folds"):
        combine(registry, runs, "predictions", method="convex")


# Checkpoints of one run


@pytest.mark.parametrize("kind", ["epoch", "top"])
def test_checkpoints_of_a_run_are_pooled(registry, kind):
    (run,) = registry.runs(["kept/seed=0"])
    product = combine(registry, [run], "predictions", options={"snapshots": kind})
    members = members_of(registry, product.run)
    kinds = {"epoch": ("epoch",), "top": ("best", "top")}[kind]
    kept = [c for c in registry.checkpoints(run.id) if c.kind in kinds]
    assert len(members) == len(kept) == 3
    assert product.run.parents == (run.id,)
    assert product.run.epochs == run.epochs, "one training, whatever comes of it"
    table = bench(registry, [run])
    states = [registry.load(run.id, c.kind, c.epoch) for c in kept]
    modules = [table.module(run) for _ in kept]
    expected = mean(table.forward(modules, states, table.data)(table.data.test.x))
    told = pool_of(product.run)(table.outputs(members, "test"), range(3))
    torch.testing.assert_close(told, expected)
    x = pd.DataFrame(load_iris_rows(table), columns=run.preprocessing["features"])
    shares = predictor(registry, product.run)(x).filter(like="p_").to_numpy()
    np.testing.assert_allclose(shares, expected.exp(), atol=1e-5)
    comparison = compare(registry, [run, product.run])
    assert comparison.baseline == run.label
    assert comparison.rows[-1].trained_epochs == run.epochs


def load_iris_rows(table):
    from sklearn.datasets import load_iris

    return load_iris().data[table.data.rows[2]]


def test_checkpoints_of_several_runs_are_named_by_run_and_epoch(registry):
    runs = registry.runs(["kept/kind=single"])
    found = snapshots(registry, runs, "epoch")
    assert [run.label for run in found[:2]] == [f"{runs[0].label} at epoch {k}" for k in (2, 4)]
    assert {origin(run) for run in found} == {run.id for run in runs}
    assert len({run.id for run in found}) == len(found) == 6
    for run in found:
        alone = bench(registry, runs)
        predictions, targets = alone.validation([run], lambda outputs_K, members: outputs_K[0])
        accuracy = float((predictions.argmax(1) == targets).double().mean())
        assert accuracy == pytest.approx(run.metrics["val_accuracy"])
    product = combine(
        registry, runs, "predictions", options={"snapshots": "epoch"}, method="greedy"
    )
    assert set(product.run.config["used"]) <= {run.id for run in runs}
    chosen = list(zip(product.run.config["used"], product.run.config["checkpoints"], strict=True))
    assert chosen == [(origin(run), ["epoch", run.best_epoch]) for run in product.used]


def test_weights_of_checkpoints_are_averaged_too(registry):
    (run,) = registry.runs(["kept/seed=1"])
    product = combine(registry, [run], "weights", method="uniform", options={"snapshots": "epoch"})
    kept = [c for c in registry.checkpoints(run.id) if c.kind == "epoch"]
    states = [registry.load(run.id, c.kind, c.epoch) for c in kept]
    merged = registry.load(product.run.id, "merged")
    for key, value in merged.items():
        torch.testing.assert_close(value, torch.stack([state[key] for state in states]).mean(0))


def test_runs_without_checkpoints_and_unknown_kinds_are_refused(registry):
    kept, plain = registry.runs(["kept/seed=0"]), registry.runs(["kind/seed=0"])
    with pytest.raises(OptionError, match="no snapshots are called 'epochs'; did you mean 'epoch'"):
        combine(registry, kept, "predictions", options={"snapshots": "epochs"})
    with pytest.raises(OptionError, match="no snapshots are called"):
        combine(registry, kept, "predictions", options={"snapshots": [1]})
    for kind, setting in (("epoch", r"keep\.every"), ("top", r"keep\.top")):
        with pytest.raises(EmptyError, match=f"kind/seed=0 has none of them; .* --set {setting}=5"):
            combine(registry, plain, "predictions", options={"snapshots": kind})


# Names, and what must be refused


def turned(registry, run):
    """Enter a model that does the same as a run, but has its outputs in the reverse order."""
    state = registry.load(run.id)
    for name in sorted(state)[-2:]:  # bias and weight of the last layer
        state[name] = state[name].flip(0)
    target = dict(run.preprocessing["target"])
    target |= {"classes": run.classes[::-1]}
    if run.task == "multilabel":
        target |= {"names": target["names"][::-1]}
    told = {field.name: getattr(run, field.name) for field in fields(NewRun)}
    told |= {"name": f"{run.name}-turned", "config_hash": "turned", "classes": run.classes[::-1]}
    told |= {"preprocessing": {**run.preprocessing, "target": target}}
    (other,) = registry.add([NewRun(**told)])
    outcome = {"epoch": run.best_epoch, "epochs": run.epochs, "metrics": run.metrics}
    registry.publish(other.id, state, seconds=None, **outcome)
    return registry.run(other.id)


@pytest.mark.parametrize("name", ["kind", "labels"])
def test_classes_in_another_order_are_aligned_by_name(registry, folder, name):
    run = registry.run(f"{name}/seed=1")
    other = turned(registry, run)
    frame = pd.read_csv(folder / f"{name}.csv")
    for runs in ([run, other], [other, run]):
        options = {"weights": [1, 2]}
        product = combine(registry, runs, "predictions", method="weighted", options=options)
        assert product.val == pytest.approx(run.metrics["val_accuracy"])
        told, alone = predictor(registry, product.run)(frame), predictor(registry, run)(frame)
        for label in run.classes:
            np.testing.assert_allclose(told[f"p_{label}"], alone[f"p_{label}"], atol=1e-6)
        for row in compare(registry, [*runs, product.run]).rows:
            assert row.delta == 0


def test_members_of_other_test_rows_or_classes_are_refused_and_shown(registry, folder):
    one = registry.runs(["kind/seed=0"])
    data = {"ref": str(folder / "kind.csv"), "target": "kind", "split_seed": 3}
    other = train(registry, data, "resplit", seeds=1)
    with pytest.raises(
        MembersError, match=r"resplit/seed=0 has split \w+ \(split_seed 3\) and kind/seed=0 has"
    ):
        combine(registry, [*one, *other], "predictions")


def test_a_member_whose_predictions_are_not_finite_is_named(registry, monkeypatch):
    runs = registry.runs(["kind/kind=single"])
    bad = runs[2]
    whole = registry.load

    def load(run_id, *others):
        state = whole(run_id, *others)
        return {k: v * 1e38 for k, v in state.items()} if run_id == bad.id else state

    monkeypatch.setattr(registry, "load", load)
    with pytest.raises(NonFiniteError, match=rf"member {bad.label} in \d+ of \d+ rows, first in"):
        combine(registry, runs, "predictions")
    frame = pd.DataFrame(load_wine().data, columns=load_wine().feature_names)
    with pytest.raises(NonFiniteError, match=rf"member {bad.label} in \d+ of 178 rows"):
        predictor(registry, bad)(frame)


def test_one_member_is_pooled_by_every_method(registry):
    (run,) = registry.runs(["kind/seed=0"])
    for method in methods("predictions"):
        product = combine(registry, [run], "predictions", method=method.name)
        if method.name not in ("stacking", "vote"):
            assert product.run.metrics["val_loss"] == pytest.approx(run.metrics["val_loss"])
    options = {"calibration": "temperature"}
    product = combine(registry, [run], "predictions", options=options)
    assert product.run.name.startswith("kind.predictions-mean-temperature")
    assert product.run.config["calibration"]["temperature"] > 0


def test_few_rows_are_too_few_to_fit_on(registry, tmp_path):
    frame = pd.DataFrame({"x": range(12), "y": np.linspace(0, 1, 12) ** 2})
    asked = {"data": {"ref": "few", "target": "y", "val": 0.2, "test": 0.2}, "seeds": 2, **QUICK}
    runs = train_many(plan(parse({**asked, "name": "few"}), frame=frame), registry)
    with pytest.raises(EmptyError, match="needs four validation rows at least, however there are"):
        combine(registry, runs, "predictions", method="convex", frame=frame)


@pytest.mark.parametrize(
    ("method", "options", "says"),
    [
        ("mean", {"calibration": "platt"}, "no calibration is called 'platt'"),
        ("mean", {"calibration": ["a"]}, "no calibration is called"),
        ("greedy", {"metric": "acuracy"}, "did you mean 'accuracy'"),
        ("mean", {"metric": "nll"}, "mean has no option 'metric'"),
        ("greedy", {"rounds": 0}, "rounds and bags must be at least 1"),
        ("trimmed-mean", {"trim": 0.7}, "trim must be at least 0"),
    ],
)
def test_options_that_do_not_fit_are_refused(registry, method, options, says):
    runs = registry.runs(["kind/kind=single"])
    before = len(registry.runs())
    with pytest.raises(EnsembleError, match=says):
        combine(registry, runs, "predictions", method=method, options=options)
    assert len(registry.runs()) == before, "nothing is left behind"


def test_quantities_are_not_calibrated_and_not_voted_on(registry):
    runs = registry.runs(["value/kind=single"])
    with pytest.raises(OptionError, match="vote pools predictions of classification or multilabel"):
        combine(registry, runs, "predictions", method="vote")
    with pytest.raises(OptionError, match="temperature calibrates probabilities, however"):
        combine(
            registry,
            registry.runs(["value/kind=single"]),
            "predictions",
            options={"calibration": "temperature"},
        )


def test_many_members_and_rows_are_pooled_a_portion_at_a_time():
    seen = []

    def watched(logits_KNC):
        seen.append(logits_KNC.shape[1])
        return logits_KNC[0]

    logits_KNC = torch.zeros(1, 1, 3).expand(200, 100_000, 3)  # takes no memory itself
    told = pooled(watched, logits_KNC, "classification")
    assert told.shape == (100_000, 3)
    assert max(seen) * 200 * 3 <= 1 << 24
    assert sum(seen) == 100_000


# The command line


def test_the_command_tells_weights_and_what_a_calibration_changed(folder):
    done = zoo(
        folder,
        "ensemble",
        "kind",
        "--mode",
        "predictions",
        "--method",
        "greedy",
        "--set",
        "metric=nll",
        "--set",
        "calibration=temperature",
        "--save",
        "told",
    )
    assert done.exit_code == 0, done.output
    assert "weights: seed=" in done.output
    lines = done.output.splitlines()
    head = next(line for line in lines if line.startswith("calibration"))
    assert head.split() == ["calibration", "nll", "brier", "ece"]
    place = lines.index(head)
    before, after = lines[place + 2].split(), lines[place + 3].split()
    assert before[0] == "before"
    assert after[0] == "temperature"
    assert "cross-fitted" in done.output
    assert max(map(len, lines)) <= 80
    told = json.loads(
        zoo(
            folder,
            "ensemble",
            "kind",
            "--mode",
            "predictions",
            "--method",
            "greedy",
            "--set",
            "metric=nll",
            "--set",
            "calibration=temperature",
            "--save",
            "told",
            "--format",
            "json",
        ).output
    )
    assert told["pooled"]["calibration"]["kind"] == "temperature"
    assert f"{told['pooled']['after']['nll']:.4f}" == after[2]
    assert math.fsum(told["pooled"]["found"]["weights"]) == pytest.approx(1)
    plain = zoo(folder, "ensemble", "kind", "--mode", "predictions", "--format", "json")
    assert json.loads(plain.output)["pooled"] is None


def test_predictions_of_a_pool_tell_its_doubt_and_its_disagreement(folder, tmp_path, registry):
    combine(registry, registry.runs(["kind/kind=single"]), "predictions", name="doubt")
    combine(registry, registry.runs(["labels/kind=single"]), "predictions", name="doubts")
    for ref, file in (("doubt", "kind"), ("doubts", "labels"), ("kind/seed=0", "kind")):
        out = tmp_path / f"{file}.csv"
        assert zoo(folder, "predict", ref, folder / f"{file}.csv", "-o", out).exit_code == 0
        told = pd.read_csv(out)
        if ref == "kind/seed=0":
            assert "disagreement" not in told
        else:
            assert list(told.columns)[-2:] == ["uncertainty", "disagreement"]
            assert (told["disagreement"] >= 0).all()
            assert (told["disagreement"] <= told["uncertainty"] + 1e-6).all()
            assert told["disagreement"].max() > 1e-4


def test_a_snapshot_ensemble_and_a_budget_by_the_command(folder):
    for arguments in (
        ["kept/seed=1", "--set", "snapshots=top"],
        ["kept", "--method", "budget", "--set", "members=1", "--set", "batch=8"],
        ["folded", "--method", "stacking", "--set", "penalty=0.3"],
    ):
        done = zoo(folder, "ensemble", *arguments, "--mode", "predictions")
        assert done.exit_code == 0, done.output
    done = zoo(folder, "ensemble", "kept", "--mode", "predictions", "--set", "snapshots=all")
    assert done.exit_code == 2
    assert done.output == "Error: no snapshots are called 'all' (known: epoch, top)\n"
