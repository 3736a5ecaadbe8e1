"""Members of different folds: pooled on the test rows, chosen by rows they did not train on."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from ensemble import combine, compare, out_of_fold
from ensemble.heldout import assemble, pooling
from ensemble.members import MembersError, bench
from ensemble.metrics import find
from ensemble.predictions import mean, weighted
from ensemble.scoreboard import comparison_text
from ensemble.text import product_text
from zoo import Registry, parse, plan, train_many
from zoo.data import load
from zoo.models import restore
from zoo.sections import DataConfig

QUICK = {"model": {"hidden": [8]}, "train": {"epochs": 6, "batch_size": 32}, "optim": {"lr": 0.02}}


def trained(registry, data, seeds=4, **others):
    asked = {"data": data, "seeds": seeds, **QUICK, **others}
    return train_many(plan(parse(asked)), registry, engine="stacked")


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    folder = tmp_path_factory.mktemp("folds")
    with Registry(f"sqlite:///{folder}/registry.db", folder / "blobs") as opened:
        yield opened


KINDS = [
    {"ref": "iris", "folds": 3},
    {"ref": "diabetes", "folds": 3},
    {"ref": "digits", "folds": 3},
    {"ref": "iris", "bootstrap": True},
    {"ref": "diabetes", "bootstrap": True},
]


@pytest.fixture(scope="module", params=KINDS, ids=lambda kind: "-".join(map(str, kind.values())))
def runs(request, registry):
    name = "-".join(key for key in request.param)
    return trained(registry, request.param, name=f"{request.param['ref']}-{name}")


def predicted(table, run):
    """What a run predicts for its own validation rows, by a plain module."""
    data = load(DataConfig.model_validate(run.config["data"]))
    module = table.module(run)
    restore(module, table.state(run))
    with torch.no_grad():
        outputs = module.eval()(data.prepare(data.val.x))
    if data.task == "classification":
        return data, outputs
    return data, data.units().restore(outputs[:, 0])


def test_the_matrix_holds_what_each_member_predicts_for_rows_it_did_not_train_on(registry, runs):
    table, told = bench(registry, runs), out_of_fold(registry, runs)
    rows = told.rows_N.tolist()
    assert rows == sorted(rows)
    for k, run in enumerate(runs):
        data, expected = predicted(table, run)
        unseen = told.rows_N[told.unseen_KN[k]].tolist()
        assert unseen == data.rows[1].tolist()
        assert not set(unseen) & set(data.rows[0].tolist())
        assert set(rows) == set(data.rows[0].tolist()) | set(unseen)
        told_here = told.outputs_K[k, told.unseen_KN[k]]
        torch.testing.assert_close(told_here, expected, rtol=2e-6, atol=1e-5)
        assert told.outputs_K[k, ~told.unseen_KN[k]].isnan().all()
        key = f"val_{table.metric.name}"
        predictions, targets = table.validation([run], pooling(mean, {}))
        assert table.figures(predictions, targets)[key] == pytest.approx(run.metrics[key])
    assert not set(rows) & set(table.data.rows[2].tolist())
    if table.data.task == "classification":
        assert told.targets_N.dtype == torch.int64


def test_pooled_rows_are_those_of_the_members_that_may_speak(registry, runs):
    told = out_of_fold(registry, runs)
    pooled = told.pooled()
    for row, unseen in enumerate(told.unseen_KN.T):
        some = told.outputs_K[unseen, row]
        if len(some) == 0:
            assert pooled[row].isnan().all()
        else:
            torch.testing.assert_close(pooled[row], mean(some[:, None])[0])


@pytest.mark.parametrize("method", ["mean", "weighted"])
def test_a_product_is_validated_by_out_of_fold_predictions(registry, runs, method):
    product = combine(registry, runs, "predictions", method=method)
    told, table = out_of_fold(registry, runs), bench(registry, runs)
    arguments = product.run.config["arguments"]
    order = [next(k for k, run in enumerate(runs) if run.id == m.id) for m in product.members]
    there = replace(told, outputs_K=told.outputs_K[order], unseen_KN=told.unseen_KN[order])
    pooled = there.pooled(pooling({"mean": mean, "weighted": weighted}[method], arguments))
    known = told.counts_N > 0
    assert product.val == pytest.approx(table.metric(pooled[known], told.targets_N[known]))
    assert "each row predicted by those that did not train on it" in product_text(product, "table")


def test_a_comparison_has_every_member_prepare_the_test_rows_in_its_own_way(registry, runs):
    product = combine(registry, runs, "predictions", method="mean")
    table = bench(registry, runs)
    comparison = compare(registry, [*runs, product.run])
    assert comparison.validated_on == len({run.split_hash for run in runs})
    outputs = []
    for run in runs:
        data = load(DataConfig.model_validate(run.config["data"]))
        module = table.module(run)
        restore(module, table.state(run))
        with torch.no_grad():
            told = module.eval()(data.prepare(data.test.x))
        if data.task == "regression":
            told = data.units().restore(told[:, 0])
        outputs.append(told)
    metric = find(table.data.task, comparison.metric)
    expected = metric(mean(torch.stack(outputs)), table.targets("test"))
    rows = {row.name: row for row in comparison.rows}
    assert rows[product.run.label].test == pytest.approx(expected)
    best = (max if metric.direction == "max" else min)(
        run.metrics[f"val_{comparison.metric}"] for run in runs
    )
    assert rows[comparison.baseline].val == pytest.approx(best)
    assert registry.runs([f"{runs[0].name}@best"])[0].metrics[f"val_{metric.name}"] == best
    assert "val: of each single on its own validation rows" in comparison_text(comparison, "table")


def test_weights_of_different_folds_are_not_averaged_those_of_one_are(registry, tmp_path):
    runs = trained(registry, {"ref": "iris", "folds": 2}, name="halves")
    with pytest.raises(MembersError, match=r"same rows .* are in different folds or draws; --"):
        combine(registry, runs, "weights")
    product = combine(registry, runs[::2], "weights", method="greedy-soup")
    assert product.run.split_hash == runs[0].split_hash
    assert compare(registry, [*runs, product.run]).rows[-1].name == product.run.label


def test_members_of_other_test_rows_are_refused_with_what_differs(registry):
    data = {"ref": "iris", "folds": 2}
    one = trained(registry, data, seeds=1, name="one")
    for other, says in (
        (
            trained(registry, {**data, "split_seed": 1}, seeds=1, name="two"),
            "(split_seed 1) and one/",
        ),
        (
            trained(registry, {"ref": "iris"}, seeds=1, name="three"),
            "(folds None, fold None) and one/",
        ),
        (trained(registry, {**data, "ref": "wine"}, seeds=1, name="four"), "has data wine"),
    ):
        with pytest.raises(
            MembersError, match="members must share their data and test rows"
        ) as caught:
            out_of_fold(registry, [*one, *other])
        assert says in str(caught.value)
    ten = trained(registry, {**data, "folds": 10}, seeds=2, name="ten")
    assert out_of_fold(registry, [*one, *ten]).unseen_KN.shape == (3, 120)


def test_without_folds_only_validation_rows_are_predicted(registry):
    runs = trained(registry, {"ref": "iris"}, seeds=2, name="plain")
    told = out_of_fold(registry, runs)
    assert told.counts_N.bincount().tolist() == [90, 0, 30]
    assert compare(registry, runs).validated_on == 1


def test_rows_whose_members_all_weigh_nothing_are_left_out():
    first = torch.tensor([0, 1]), torch.tensor([5.0, 6.0])
    second = torch.tensor([1]), torch.tensor([8.0])
    told = assemble(
        torch.tensor([0, 1, 2]), torch.tensor([1.0, 2.0, 3.0]), [first, second], "regression"
    )
    pooled = told.pooled(pooling(weighted, {"weights": [0.0, 1.0]}))
    assert pooled[[0, 2]].isnan().all()
    assert pooled[1] == 8


@pytest.fixture(scope="module")
def frame():
    state = np.random.RandomState(0)
    x = state.randn(120, 2)
    return pd.DataFrame(
        {
            "x": x[:, 0] + 0.3 * state.randn(120),
            "z": x[:, 1] + 0.3 * state.randn(120),
            "price": np.exp(x[:, 0]),
            "rent": 1000 * x[:, 1],
            "warm": x[:, 0] > 0,
            "dry": x[:, 1] > 0.3,
        }
    )


def planned(registry, frame, name, seeds, target, **data):
    """Train on a table from Python, of which two columns and the targets are used."""
    dropped = {"price", "rent", "warm", "dry"}.difference(
        [target] if isinstance(target, str) else target
    )
    data |= {"ref": "t", "target": target, "columns": dict.fromkeys(sorted(dropped), "drop")}
    asked = parse({"data": data, "seeds": seeds, "name": name, **QUICK})
    return train_many(plan(asked, frame=frame), registry, engine="stacked")


@pytest.mark.parametrize("own", [{"folds": 4}, {"bootstrap": True}], ids=["folds", "bootstrap"])
@pytest.mark.parametrize("target", [["price", "rent"], ["warm", "dry"]], ids=["values", "labels"])
def test_several_targets_and_labels_are_pooled_out_of_fold(registry, frame, target, own):
    runs = planned(registry, frame, f"{target[0]}-{next(iter(own))}", 4, target, **own)
    told = out_of_fold(registry, runs, frame)
    assert told.outputs_K.shape == (4, 96, 2)
    raw = frame[target].to_numpy(float)[told.rows_N.numpy()]
    np.testing.assert_allclose(told.targets_N.numpy(), raw, rtol=1e-4, atol=1e-4)
    pooled = told.pooled()
    for row in range(len(pooled)):
        some = told.outputs_K[told.unseen_KN[:, row], row].double()
        odds = target[0] == "warm"
        expected = some.sigmoid().mean(dim=0).logit() if odds else some.mean(dim=0)
        if len(some):
            torch.testing.assert_close(pooled[row].double(), expected, rtol=1e-4, atol=1e-4)
    product = combine(registry, runs, "predictions", frame=frame)
    comparison = compare(registry, [*runs, product.run], frame=frame)
    known = told.counts_N > 0
    metric = find(comparison.task, comparison.metric)
    assert product.val == pytest.approx(metric(pooled[known], told.targets_N[known]), rel=1e-5)
    assert comparison.rows[-1].val == pytest.approx(product.val)


def test_members_of_different_scaling_are_pooled_each_prepared_in_its_own_way(registry, frame):
    runs = planned(registry, frame, "standard", 2, "price")
    runs += planned(registry, frame, "quantile", 2, "price", scaling="quantile")
    product = combine(registry, runs, "predictions", frame=frame)
    table = bench(registry, runs, frame)
    for run in runs:
        alone = table.figures(*table.validation([run], pooling(mean, {})))
        assert alone["val_rmse"] == pytest.approx(run.metrics["val_rmse"], rel=1e-5)
    expected = table.figures(table.outputs(runs, "val").mean(0), table.targets("val"))
    assert product.val == pytest.approx(expected["val_rmse"])
    with pytest.raises(MembersError, match=r"data\.scaling is (standard|quantile)"):
        combine(registry, runs, "weights", frame=frame)
