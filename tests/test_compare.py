"""A comparison: its baselines, its corrections, its words, and what it does with bad input."""

import json
import math
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from scipy import stats
from sklearn import metrics as sk

from cli import main
from ensemble import combine, compare
from ensemble.errors import EnsembleError, NonFiniteError
from ensemble.members import Bench, MembersError, bench
from ensemble.metrics import METRICS, find
from ensemble.predictions import mean
from ensemble.repeats import by_split
from ensemble.scoreboard import comparison_text, shortened
from ensemble.significance import holm
from zoo import Registry, parse, plan, train_many
from zoo.choice import threads
from zoo.registry import NewRun
from zoo.render import describe

QUICK = {"model": {"hidden": [8]}, "train": {"epochs": 6}, "optim": {"lr": 0.02}}


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """Six members on digits, barely trained, pooled and averaged; and by three metrics."""
    folder = tmp_path_factory.mktemp("digits")
    asked = {
        "data": {"ref": "digits"},
        "seeds": 6,
        "train": {"epochs": 4},
        "model": {"hidden": [16]},
    }
    with Registry(f"sqlite:///{folder}/r.db", folder / "b") as registry:
        runs = train_many(plan(parse(asked)), registry)
        combine(registry, runs, "predictions")
        combine(registry, runs, "predictions", method="vote")
        combine(registry, runs, "weights", method="uniform")
        comparison = compare(registry, registry.runs(), metric=["accuracy", "nll", "roc_auc"])
        yield registry, runs, comparison


@pytest.fixture
def registry(tmp_path):
    with Registry(f"sqlite:///{tmp_path}/r.db", tmp_path / "b") as opened:
        yield opened


def trained(registry, ref="iris", seeds=3, **others):
    data = {"ref": str(ref)} if not isinstance(ref, dict) else ref
    return train_many(plan(parse({"data": data, "seeds": seeds, **QUICK, **others})), registry)


def alone(registry, runs):
    """What each single model predicts for the test rows, and the targets."""
    table = bench(registry, runs)
    told = [table.pool(mean, outputs[None]) for outputs in table.outputs(runs, "test")]
    return told, table.targets("test")


def test_the_mean_and_the_oracle_are_those_of_the_single_models(shared):
    registry, runs, comparison = shared
    told, targets = alone(registry, runs)
    tests = [float((log_NC.argmax(1) == targets).double().mean()) for log_NC in told]
    base, average, oracle = comparison.rows[:3]
    assert (average.name, average.method, average.kind) == ("mean of 6 singles", "mean", "baseline")
    assert average.test == pytest.approx(np.mean(tests))
    assert average.delta == pytest.approx(np.mean(tests) - base.test)
    assert average.ci_low < average.delta < average.ci_high
    assert (oracle.name, oracle.method, oracle.kind) == ("oracle single", "oracle", "baseline")
    assert oracle.test == max(tests)
    assert oracle.ci_low is oracle.p_value is oracle.p_holm is None
    assert oracle.test >= base.test


def test_the_interval_of_the_mean_single_is_a_bootstrap_of_rows(shared):
    registry, runs, comparison = shared
    told, targets = alone(registry, runs)
    right_KN = torch.stack([(log_NC.argmax(1) == targets).double() for log_NC in told])
    base = runs[[run.label for run in runs].index(comparison.baseline)]
    difference_N = (right_KN.mean(0) - right_KN[runs.index(base)]).numpy()
    oracle = stats.bootstrap(
        (difference_N,),
        np.mean,
        n_resamples=5000,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    row = comparison.rows[1]
    assert (row.ci_low, row.ci_high) == pytest.approx((oracle.low, oracle.high), abs=0.003)


def test_the_single_models_seen_alone_are_what_they_predict_together(shared):
    """The best single model's figures agree with scikit-learn on what it predicts."""
    registry, runs, comparison = shared
    told, targets = alone(registry, runs)
    place = [run.label for run in runs].index(comparison.baseline)
    probabilities = told[place].double().softmax(1).numpy()
    row = comparison.rows[0]
    assert row.test == sk.accuracy_score(targets, probabilities.argmax(1))
    assert row.figures["nll"] == pytest.approx(sk.log_loss(targets, probabilities), rel=1e-6)
    area = sk.roc_auc_score(targets, probabilities, multi_class="ovr")
    assert row.figures["roc_auc"] == row.others["test[roc_auc]"] == pytest.approx(area)


def test_p_values_of_accuracies_are_mcnemars_and_corrected_by_holm(shared):
    registry, runs, comparison = shared
    told, targets = alone(registry, runs)
    base = told[[run.label for run in runs].index(comparison.baseline)].argmax(1) == targets
    table = bench(registry, runs)
    pool = table.pool(mean, table.outputs(runs, "test")).argmax(1) == targets
    only, other = int((pool & ~base).sum()), int((base & ~pool).sum())
    row = next(row for row in comparison.rows if row.method == "mean" and row.members == 6)
    assert row.p_value == pytest.approx(stats.binomtest(only, only + other).pvalue)
    compared = [row for row in comparison.rows[1:] if row.p_value is not None]
    assert len(compared) == 4  # the mean single, two pools and the average
    cells = [vars(row) | row.others for row in compared]
    names = ("", "[nll]", "[roc_auc]")  # one family: any of them may be called real
    p, corrected = (
        [cell[f"{key}{name}"] for cell in cells for name in names] for key in ("p_value", "p_holm")
    )
    assert corrected == holm(p)


def test_every_metric_has_its_own_differences(shared):
    _, _, comparison = shared
    assert comparison.metrics == ["accuracy", "nll", "roc_auc"]
    base = comparison.rows[0]
    for row in comparison.rows:
        for name in ("nll", "roc_auc"):
            value = row.others[f"test[{name}]"]
            assert value == pytest.approx(row.figures[name])
            assert row.others[f"delta[{name}]"] == pytest.approx(
                value - base.figures[name], abs=1e-12
            )
        if row.kind in ("predictions", "weights"):
            assert (
                row.others["ci_low[nll]"] <= row.others["delta[nll]"] <= row.others["ci_high[nll]"]
            )
            assert row.others["p_holm[nll]"] >= row.others["p_value[nll]"]
    flat = comparison.to_json()["rows"][3]
    assert {"delta", "delta[nll]", "ci_high[roc_auc]", "adaptive_ece", "flops"} <= flat.keys()


def test_costs_are_counted(shared):
    _, _, comparison = shared
    base, pool = comparison.rows[0], comparison.rows[3]
    assert base.params == 64 * 16 + 16 + 16 * 10 + 10
    assert base.flops == 2 * (64 * 16 + 16 * 10)
    assert base.weights_bytes == 4 * base.params
    for name in ("params", "flops", "weights_bytes", "trained_epochs"):
        assert getattr(pool, name) == 6 * getattr(base, name)
    assert 0 < base.inference_ms < 1000
    assert 0 < base.inference_ms_256 < 1000


def test_growth_ends_at_the_pool_and_begins_at_the_mean_single(shared):
    _, _, comparison = shared
    assert comparison.growth_metric == "accuracy"
    assert [size.members for size in comparison.growth] == [1, 2, 3, 4, 5, 6]
    assert comparison.growth[0].value == pytest.approx(comparison.rows[1].test)
    assert comparison.growth[-1].value == pytest.approx(comparison.rows[3].test)


def test_growth_is_of_the_loss_where_a_metric_is_no_mean_of_rows(shared):
    registry, runs, _ = shared
    comparison = compare(registry, runs, metric="roc_auc")
    assert comparison.growth_metric == "nll"
    assert comparison.growth[0].value == pytest.approx(comparison.rows[1].figures["nll"])


def test_members_that_differ_are_told_of(shared):
    _, _, comparison = shared
    found = comparison.diversity
    assert found.disagreement_KK.shape == (6, 6)
    assert found.member_error == pytest.approx(comparison.rows[1].figures["brier"])
    assert found.member_error - found.ambiguity == pytest.approx(
        comparison.rows[3].figures["brier"]
    )
    told = comparison_text(comparison, "table")
    assert "(ambiguity)" in told
    assert f"disagree on {found.disagreement:.1%} of the rows" in told.replace("\n", " ")


def test_reliability_covers_all_test_rows(shared):
    _, _, comparison = shared
    assert comparison.reliability.keys() == {
        row.name for row in comparison.rows if row.kind != "baseline"
    }
    for bins in comparison.reliability.values():
        assert sum(bin.count for bin in bins) == comparison.n_test


def test_the_verdict_names_what_to_ship_and_proves_it_on_test_rows(shared):
    _, _, comparison = shared
    one, many = comparison.verdict
    assert one.startswith(f"For the cost of one model, ship {comparison.baseline}, the best single")
    best = max(comparison.rows[3:5], key=lambda row: row.val)
    assert f"For the cost of 6 models, ship {best.name}." in many
    assert "really better (p" in many
    assert f"nll {best.figures['nll']:.4f} against" in many


def test_the_table_fits_80_columns_and_explains_its_columns(shared):
    _, _, comparison = shared
    told = comparison_text(comparison, "table")
    assert max(map(len, told.splitlines())) <= 80
    for word in ("k:", "delta:", "p:", "oracle single:", "flops, ms 1:", "epochs:"):
        assert word in told
    for size in (120, 200):
        assert 80 < max(map(len, comparison_text(comparison, "table", size).splitlines())) <= size


def test_long_names_lose_their_middle(shared):
    _, _, comparison = shared
    rows = [replace(row, name=f"{row.name}{'x' * 90}{k}") for k, row in enumerate(comparison.rows)]
    told = comparison_text(replace(comparison, rows=rows, baseline=rows[0].name), "table")
    assert max(len(line) for line in told.splitlines() if ".." in line) <= 80
    assert all(len(shortened("a" * 50, most)) == most for most in range(4, 30))


def test_names_that_differ_at_their_ends_are_told_apart(shared):
    """What all have in common, their kind, is left out before what is their own."""
    _, _, comparison = shared
    base, pool = comparison.rows[0], comparison.rows[-1]
    fitted = [f"{method}-temperature" for method in ("stacking", "greedy", "convex")]
    rows = [
        replace(pool, name=f"digits-mlp.predictions-{name}", kind="predictions") for name in fitted
    ]
    told = comparison_text(replace(comparison, rows=[base, *rows]), "table")
    first, *_ = told.split("candidate")[1:]
    assert [name for name in fitted if f"\n{name} " in first] == fitted


def test_json_has_no_nan_and_csv_a_line_for_each_candidate(shared):
    _, _, comparison = shared
    answer = json.loads(comparison_text(comparison, "json"), parse_constant=pytest.fail)
    assert answer["looks"] >= 1
    assert answer["growth"]["sizes"][0]["members"] == 1
    assert len(comparison_text(comparison, "csv").splitlines()) == len(comparison.rows) + 1


def test_looks_at_test_rows_are_counted_by_what_these_are(registry):
    runs = trained(registry)
    assert [compare(registry, some).looks for some in (runs, runs[:1], runs)] == [1, 2, 3]
    other = trained(registry, {"ref": "iris", "split_seed": 1}, name="other")
    assert compare(registry, other).looks == 1
    told = comparison_text(compare(registry, other), "table")
    assert "30 test rows, looked at twice" in told


def test_a_refused_comparison_is_no_look(registry):
    runs = trained(registry)
    with pytest.raises(EnsembleError, match="no metric"):
        compare(registry, runs, metric="rmse")
    assert compare(registry, runs).looks == 1


def test_other_test_rows_are_refused_with_what_differs(registry):
    runs = trained(registry) + trained(registry, {"ref": "iris", "split_seed": 1}, name="other")
    with pytest.raises(MembersError) as caught:
        compare(registry, runs)
    assert "other/seed=0 has split" in str(caught.value)
    assert runs[0].split_hash in str(caught.value)


def test_one_model_trained_as_long_as_all_is_trained_once_and_stays(registry):
    runs = trained(registry, stop={"patience": 2})
    comparison = compare(registry, runs, equal_compute=True)
    row = comparison.rows[-1]
    longer = registry.run("iris-mlp.longer")
    assert (row.name, row.kind, row.method, row.members) == (longer.label, "baseline", "longer", 1)
    assert longer.epochs == row.trained_epochs == sum(run.epochs for run in runs)
    best = next(run for run in runs if run.label == comparison.baseline)
    assert (longer.seed, longer.config["optim"]) == (best.seed, best.config["optim"])
    assert row.ci_low <= row.delta <= row.ci_high
    assert comparison.verdict[-1].startswith(
        "One model trained as long as all members together has"
    )
    again = compare(registry, runs, equal_compute=True)
    assert again.rows[-1].test == row.test
    assert len(registry.runs(["iris-mlp.longer"])) == 1
    named = compare(registry, [*runs, longer], equal_compute=True)  # it is not shown twice
    assert [row.name for row in named.rows] == [row.name for row in again.rows]
    assert [run.id for run in registry.latest()] == [run.id for run in runs]


def test_members_of_folds_have_a_rival_that_trained_longer_too(registry):
    runs = trained(registry, {"ref": "iris", "folds": 2}, seeds=2)
    comparison = compare(registry, runs, equal_compute=True)
    assert comparison.rows[-1].method == "longer"
    assert comparison.rows[-1].trained_epochs == sum(run.epochs for run in runs)


def test_one_model_is_compared_with_nobody(registry):
    comparison = compare(registry, trained(registry, seeds=1))
    assert [row.kind for row in comparison.rows] == ["single"]
    assert comparison.diversity is None
    assert comparison.growth == []
    assert comparison.verdict == [
        "For the cost of one model, ship iris-mlp/seed=0, the best single model."
    ]
    assert "oracle" not in comparison_text(comparison, "table")


def test_ties_go_to_the_lower_loss_and_a_copy_differs_by_nothing(registry):
    """A pool of one member, and members that predict alike."""
    runs = trained(registry, seeds=1)
    pool = combine(registry, runs, "predictions")
    comparison = compare(registry, [*runs, pool.run])
    row = comparison.rows[-1]
    assert (row.delta, row.ci_low, row.ci_high, row.p_value, row.p_holm) == (0, 0, 0, 1, 1)
    assert comparison.verdict[0].startswith("For the cost of one model, ship iris-mlp/seed=0")


def test_predictions_that_are_no_numbers_name_the_member(registry):
    runs = trained(registry)
    state = {name: value.clone() for name, value in registry.load(runs[1].id).items()}
    for value in state.values():
        value.fill_(3e38)
    new = NewRun(
        **{
            name: getattr(runs[1], name)
            for name in ("config", "config_hash", "task", "classes", "data_ref", "preprocessing",
                         "data_fingerprint", "split_hash")
        },
        name="burst",
        seed=9,
    )  # fmt: skip
    (burst,) = registry.add([new])
    registry.publish(burst.id, state, epoch=1, epochs=1, metrics={"val_loss": 1.0}, seconds=1.0)
    with pytest.raises(
        NonFiniteError,
        match=r"member burst/seed=9 in \d+ of \d+ rows, first in validation row \d+; leave it out",
    ):
        compare(registry, registry.runs())
    assert compare(registry, runs).looks == 2


def test_one_class_among_the_test_rows_leaves_an_area_undefined(registry, tmp_path):
    draw = np.random.default_rng(0)
    frame = pd.DataFrame({"x": draw.normal(size=120), "kind": "ab" * 0})
    frame["kind"] = np.where(frame["x"] > 0, "a", "b")
    frame["part"] = ["train"] * 60 + ["val"] * 30 + ["test"] * 30
    frame = frame[(frame["part"] != "test") | (frame["kind"] == "a")]
    frame.to_csv(tmp_path / "t.csv", index=False)
    data = {"ref": str(tmp_path / "t.csv"), "target": "kind", "split": "column", "part": "part"}
    runs = trained(registry, data)
    combine(registry, runs, "predictions")
    comparison = compare(registry, registry.runs(), metric=["accuracy", "roc_auc"])
    assert all(math.isnan(row.figures["roc_auc"]) for row in comparison.rows)
    assert math.isnan(comparison.rows[-1].others["p_holm[roc_auc]"])
    told = comparison_text(comparison, "table")
    assert "undefined" in told
    assert "nan" not in told
    assert "no interval can be given" in told.replace("\n", " ")
    json.loads(comparison_text(comparison, "json"), parse_constant=pytest.fail)


def test_targets_without_variance_leave_r2_undefined(registry, tmp_path):
    draw = np.random.default_rng(0)
    frame = pd.DataFrame({"x": draw.normal(size=90)})
    frame["part"] = ["train"] * 50 + ["val"] * 20 + ["test"] * 20
    frame["y"] = np.where(frame["part"] == "test", 1.0, frame["x"])
    frame.to_csv(tmp_path / "t.csv", index=False)
    data = {"ref": str(tmp_path / "t.csv"), "target": "y", "split": "column", "part": "part"}
    comparison = compare(registry, trained(registry, data), metric="r2")
    assert math.isnan(comparison.rows[0].test)
    assert comparison.growth_metric == "rmse"
    assert "undefined" in comparison_text(comparison, "table")


def test_a_target_without_variance_does_not_hide_how_others_differ(registry, tmp_path):
    draw = np.random.default_rng(0)
    frame = pd.DataFrame({"x": draw.normal(size=90)})
    frame["part"] = ["train"] * 50 + ["val"] * 20 + ["test"] * 20
    frame["y"] = frame["x"]
    frame["held"] = np.where(frame["part"] == "test", 1.0, frame["x"])
    frame.to_csv(tmp_path / "t.csv", index=False)
    data = {"ref": str(tmp_path / "t.csv"), "target": ["y", "held"], "split": "column"}
    found = compare(registry, trained(registry, data | {"part": "part"})).diversity
    assert found.disagreement > 0
    assert found.ambiguity > 0


def test_regression_has_a_mean_single_with_an_interval(registry):
    runs = trained(registry, "diabetes", seeds=4)
    combine(registry, runs, "predictions")
    comparison = compare(registry, registry.runs())
    told, targets = alone(registry, runs)
    tests = [sk.root_mean_squared_error(targets, values) for values in told]
    row = comparison.rows[1]
    assert row.test == pytest.approx(np.mean(tests))
    assert row.ci_low < row.delta < row.ci_high
    assert comparison.rows[2].test == pytest.approx(min(tests))
    assert comparison.growth[-1].value == pytest.approx(comparison.rows[3].test)
    assert "root mean square" in comparison_text(comparison, "table")
    assert comparison.reliability == {}


def test_portions_are_as_the_whole(shared, monkeypatch):
    registry, _, comparison = shared
    for name in ("CELLS", "PORTION"):
        monkeypatch.setattr(f"ensemble.entrants.{name}", 20_000)
    portioned = compare(registry, registry.runs(), metric=["accuracy", "nll", "roc_auc"])
    for one, other in zip(comparison.rows, portioned.rows, strict=True):
        assert one.test == other.test
        assert one.figures == pytest.approx(other.figures, rel=1e-6)
    assert [size.value for size in comparison.growth] == pytest.approx(
        [size.value for size in portioned.growth]
    )


def test_the_commands_metrics_may_be_repeated(registry, tmp_path):
    trained(registry, seeds=2)
    places = ["--registry", f"sqlite:///{tmp_path}/r.db", "--blobs", str(tmp_path / "b")]
    result = CliRunner().invoke(
        main, ["compare", *places, "--metric", "nll", "--metric", "log_loss", "--metric", "f1"]
    )
    assert result.exit_code == 0, result.output
    assert "iris: nll, lower is better; 30 test rows" in result.stdout
    assert re.search(r"^candidate +f1  delta", result.stdout, re.MULTILINE)


def test_metrics_are_found_by_name():
    assert find("classification", "adaptive_ece") is METRICS["classification"]["adaptive_ece"]


def test_several_splits_are_compared_each_and_then_together(registry, tmp_path):
    for split in range(2):
        runs = trained(
            registry, {"ref": "iris", "split_seed": split}, seeds=2, name=f"iris-{split}"
        )
        combine(registry, runs, "predictions")
    told = [compare(registry, some) for some in by_split(registry.runs())]
    places = ["--registry", f"sqlite:///{tmp_path}/r.db", "--blobs", str(tmp_path / "b")]

    def run(*arguments):
        return CliRunner().invoke(main, ["compare", *arguments, *places])

    result = run("iris-*", "--repeated", "--format", "json")
    assert result.exit_code == 0, result.output
    answer = json.loads(result.stdout)
    assert [split["baseline"] for split in answer["splits"]] == [one.baseline for one in told]
    pool = next(row for row in answer["rows"] if row["name"] == "predictions-mean")
    deltas = [one.rows[-1].delta for one in told]
    spread = np.std(deltas, ddof=1) * math.sqrt(1 / 2 + 30 / 90)
    low, high = stats.t.interval(0.95, 1, np.mean(deltas), spread)
    assert (pool["splits"], pool["delta"]) == (2, pytest.approx(np.mean(deltas)))
    if spread:
        assert (pool["ci_low"], pool["ci_high"]) == pytest.approx((low, high))
    assert pool["better"] == sum(delta > 0 for delta in deltas)
    table = run("iris-*", "--repeated").stdout
    assert "means over 2 splits" in table
    assert f"{pool['better']} of 2" in table
    assert "on one; train some with another data.split_seed" in run("iris-0", "--repeated").stderr
    assert run("iris-*", "--repeated", "--html", "x.html").exit_code == 2
    assert run("iris-*").exit_code == 2


def test_no_more_is_predicted_at_once_than_memory_is_meant_for(shared, monkeypatch):
    """What 200 members and 100,000 rows take as a whole: ``python benchmarks/crowd.py``."""
    registry, runs, _ = shared
    most, sizes, predictor = 12_000, [], Bench.predictor

    def watched(self, some):
        forward = predictor(self, some)

        def predict(x_N):
            outputs_K = forward(x_N)
            sizes.append(outputs_K.numel())
            return outputs_K

        return predict

    for name in ("CELLS", "PORTION"):
        monkeypatch.setattr(f"ensemble.entrants.{name}", most)
    monkeypatch.setattr("ensemble.costs.TIMINGS", 1)
    monkeypatch.setattr(Bench, "predictor", watched)
    compare(registry, registry.runs())
    assert len(runs) * 359 * 10 > most
    assert most / 2 < max(sizes) <= most * 1.3  # 256 rows of six are timed at once


@pytest.mark.parametrize("cores", [2, 5])
def test_lanes_compare_and_pool_as_one_thread_does_to_the_last_bit(registry, monkeypatch, cores):
    monkeypatch.setattr("zoo.inference.PAYS_S", math.inf)  # what is the fastest way is no question
    for name in ("CELLS", "PORTION"):
        monkeypatch.setattr(f"ensemble.entrants.{name}", 5_000)
    runs = trained(registry, "digits", seeds=7)
    runs += trained(registry, "digits", seeds=6, name="other", model={"hidden": [12]})

    def told():
        found = [combine(registry, runs, "predictions", method=how) for how in ("mean", "greedy")]
        comparison = compare(registry, [*runs, *(one.run for one in found)])
        rows = [
            {name: cell for name, cell in row.to_json().items() if "inference_ms" not in name}
            for row in comparison.rows
        ]
        pools = [(one.val, one.best, one.mean, one.run.metrics, one.run.config) for one in found]
        return repr((pools, rows, comparison.growth, comparison.reliability)), comparison.diversity

    with threads(1):
        expected, differ = told()
    with threads(cores):
        again, differ_again = told()
    assert again == expected
    assert torch.equal(differ_again.disagreement_KK, differ.disagreement_KK)
    assert torch.equal(differ_again.correlation_KK, differ.correlation_KK)


def test_200_members_are_compared(registry):
    runs = trained(registry, seeds=200, train={"epochs": 1})
    comparison = compare(registry, runs)
    assert len(comparison.singles) == 200
    assert comparison.growth[-1].members == 200
    assert comparison.diversity.disagreement_KK.shape == (200, 200)
    assert max(map(len, comparison_text(comparison, "table").splitlines())) <= 80


def test_targets_in_a_small_unit_are_told_in_digits_that_count(registry, tmp_path):
    draw = np.random.default_rng(0)
    frame = pd.DataFrame(draw.normal(size=(120, 3)), columns=["a", "b", "t"])
    frame.assign(t=1e-6 * (frame["a"] + frame["t"])).to_csv(tmp_path / "t.csv", index=False)
    runs = trained(registry, {"ref": str(tmp_path / "t.csv"), "target": "t"})
    assert re.fullmatch(r"rmse \d\.\d\de-0[67]", describe(runs[0])["val"])
    combine(registry, runs, "predictions")
    told = comparison_text(compare(registry, registry.runs()), "table")
    lines = [line for line in told.splitlines() if "/" not in line]  # the path has its length
    first = next(line.split() for line in lines if line.startswith("best single  "))
    assert re.fullmatch(r"\d\.\d\de-0[67]", first[3])
    assert "0.0000  " not in told
    assert max(map(len, lines)) <= 80
