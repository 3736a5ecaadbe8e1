"""What settings keep besides the best weights is what they say, and scores what was written."""

import math

import pytest
import torch
from torch.optim.swa_utils import update_bn

from zoo import models
from zoo.config import parse
from zoo.data import load
from zoo.objective import objective
from zoo.planning import plan
from zoo.registry import Registry
from zoo.render import card
from zoo.sections import DataConfig
from zoo.stack import LINE
from zoo.training import train_many

IRIS = {
    "data": {"ref": "iris"},
    "model": {"hidden": [16], "norm": "batch"},
    "optim": {"lr": 0.02},
    "train": {"epochs": 9, "batch_size": 30},
    "seeds": 2,
}


@pytest.fixture
def registry(tmp_path):
    with Registry(f"sqlite:///{tmp_path}/registry.db", tmp_path / "blobs") as opened:
        yield opened


def train(registry, engine="stacked", **changes):
    asked = {key: {**IRIS.get(key, {}), **values} for key, values in changes.items()}
    return train_many(plan(parse(IRIS | asked)), registry, engine=engine)


def module_of(run, state):
    data = load(DataConfig.model_validate(run.config["data"]))
    options = {key: value for key, value in run.config["model"].items() if key != "name"}
    module = models.build(run.config["model"]["name"], options, data.shape, data.outputs, 0)
    module.load_state_dict(state)
    return module, data


def scored(run, state):
    """Validation loss and metric of weights, computed by a plain module."""
    module, data = module_of(run, state)
    aim = objective(data.task, data.units())
    with torch.no_grad():
        outputs_NC = module.eval()(data.val.x)
        score = aim.score(outputs_NC, data.val.y)
        return float(aim.loss(outputs_NC, data.val.y)), float(aim.report(score))


def kept(registry, run, kind):
    found = [c for c in registry.checkpoints(run.id) if c.kind == kind]
    return sorted(found, key=lambda c: c.epoch)


def val_losses(registry, run):
    return {row["epoch"]: row["val_loss"] for row in registry.history(run.id)}


def assert_scores_what_was_written(registry, run):
    metric = "val_rmse" if run.task == "regression" else "val_accuracy"
    for c in registry.checkpoints(run.id):
        if c.kind != "optimiser":
            loss, score = scored(run, registry.load(run.id, c.kind, c.epoch))
            assert c.metrics["val_loss"] == pytest.approx(loss, rel=1e-4), c.kind
            assert c.metrics[metric] == pytest.approx(score, rel=1e-4), c.kind


def test_by_default_the_best_weights_alone_are_kept(registry):
    for run in train(registry):
        (only,) = registry.checkpoints(run.id)
        assert (only.kind, only.epoch, only.source) == ("best", run.best_epoch, "weights")
        losses = val_losses(registry, run)
        assert min(losses, key=losses.get) == run.best_epoch
        assert only.metrics == run.metrics
        assert_scores_what_was_written(registry, run)


@pytest.mark.parametrize("engine", ["stacked", "sequential"])
@pytest.mark.parametrize("ref", ["iris", "diabetes"])
def test_every_kind_is_kept_at_its_epoch_and_scores_what_was_written(registry, engine, ref):
    keep = {"last": True, "top": 3, "every": 4, "optimiser": True}
    keep |= {"ema": 0.9, "swa": 0.5, "lawa": 3}
    for run in train(registry, engine, data={"ref": ref}, keep=keep, stop={"patience": 20}):
        assert run.epochs == 9
        epochs = {
            kind: [c.epoch for c in kept(registry, run, kind)]
            for kind in ("best", "last", "epoch", "optimiser", "ema", "swa", "lawa")
        }
        best = [run.best_epoch]
        averages = {"ema": [9], "swa": [9], "lawa": [9]}
        assert epochs == {"best": best, "last": [9], "epoch": [4, 8], "optimiser": best} | averages
        assert {c.source for c in kept(registry, run, "ema")} == {"ema"}
        assert_scores_what_was_written(registry, run)


def test_the_best_is_the_best_of_the_weights_and_of_their_averages(registry):
    # At this learning rate the weights jump about, and averages are better.
    keep = {"ema": 0.8, "swa": 0.3, "lawa": 3}
    runs = train(registry, optim={"lr": 0.3}, keep=keep, stop={"patience": 20})
    sources = set()
    for run in runs:
        scores = {}
        for row in registry.history(run.id):
            scores[row["epoch"], "weights"] = row["val_loss"]
            for name, (loss, _) in row["averages"].items():
                # Of swa, nothing is averaged in the first 0.3 * 9 epochs.
                if name != "swa" or row["epoch"] > 0.3 * 9:
                    scores[row["epoch"], name] = loss
        (best,) = kept(registry, run, "best")
        assert scores[best.epoch, best.source] == min(scores.values())
        assert best.metrics["val_loss"] == min(scores.values())
        assert_scores_what_was_written(registry, run)
        sources.add(best.source)
    assert sources - {"weights"}, "no average was the best: the test says nothing"


def test_the_top_epochs_are_the_best_ones_and_hold_their_own_weights(registry):
    for run in train(registry, optim={"lr": 0.1}, keep={"top": 3, "every": 1}):
        losses = val_losses(registry, run)
        ranked = sorted(losses, key=losses.get)
        assert run.best_epoch == ranked[0]
        assert [c.epoch for c in kept(registry, run, "top")] == sorted(ranked[1:3])
        for epoch in ranked[1:3]:
            top = registry.load(run.id, "top", epoch)
            same = registry.load(run.id, "epoch", epoch)
            assert all(torch.equal(top[name], same[name]) for name in same)


def test_the_top_epochs_follow_the_monitored_metric(registry):
    (run, _) = train(registry, stop={"metric": "accuracy", "patience": 20}, keep={"top": 4})
    scores = {row["epoch"]: row["val_metric"] for row in registry.history(run.id)}
    best = sorted(scores.values(), reverse=True)[:4]
    found = [run.best_epoch, *(c.epoch for c in kept(registry, run, "top"))]
    assert sorted((scores[epoch] for epoch in found), reverse=True) == best


def test_training_on_leaves_the_best_weights_as_they_were(registry):
    # The best epoch comes early; then the learning rate ruins the weights.
    (run, _) = train(registry, optim={"lr": 0.5}, keep={"every": 1, "last": True})
    assert run.best_epoch < run.epochs
    best = registry.load(run.id)
    then = registry.load(run.id, "epoch", run.best_epoch)
    last = registry.load(run.id, "last")
    assert all(torch.equal(best[name], then[name]) for name in best)
    assert any(not torch.equal(best[name], last[name]) for name in best)


def plain_averages(registry, run, decay):
    """EMA needs every step; SWA and LAWA are means of what was kept after each epoch."""
    after = [registry.load(run.id, "epoch", e) for e in range(1, run.epochs + 1)]
    names = [name for name, value in after[0].items() if value.is_floating_point()]
    names = [name for name in names if "running" not in name]
    return {
        kind: {name: torch.stack([state[name] for state in states]).mean(0) for name in names}
        for kind, states in (("swa", after[math.floor(decay * run.epochs) :]), ("lawa", after[-3:]))
    }


def test_averages_are_those_of_the_epochs_with_batchnorm_statistics_of_their_own(registry):
    keep = {"every": 1, "swa": 0.5, "lawa": 3}
    for run in train(registry, keep=keep, stop={"patience": 20}):
        data = load(DataConfig(ref="iris"))
        for kind, expected in plain_averages(registry, run, 0.5).items():
            state = registry.load(run.id, kind)
            for name, value in expected.items():
                torch.testing.assert_close(state[name], value)
            module, _ = module_of(run, state)
            update_bn([data.train.x], module)  # PyTorch's own, of all rows at once
            for name, value in module.state_dict().items():
                if "running" in name:
                    torch.testing.assert_close(state[name], value, rtol=1e-4, atol=1e-5)


def test_an_exponential_average_is_that_of_every_step(registry):
    # One step per epoch, so that the steps can be seen.
    keep = {"every": 1, "ema": 0.75}
    (run, _) = train(registry, train={"epochs": 6, "batch_size": 90}, keep=keep)
    data = load(DataConfig(ref="iris"))
    assert len(data.train) == 90
    average = dict(module_of(run, registry.load(run.id))[0].named_parameters())
    start = models.build("mlp", {"hidden": [16], "norm": "batch"}, data.shape, data.outputs, 0)
    average = {name: value.detach().clone() for name, value in start.named_parameters()}
    for epoch in range(1, 7):
        state = registry.load(run.id, "epoch", epoch)
        average = {name: 0.75 * value + 0.25 * state[name] for name, value in average.items()}
    ema = registry.load(run.id, "ema")
    for name, value in average.items():
        torch.testing.assert_close(ema[name], value)


def test_a_diverged_member_keeps_its_best_and_no_last(registry):
    keep = {"last": True, "every": 1, "ema": 0.9}
    sgd = {"name": "sgd", "lr": 1e30}
    (bad, _) = train(registry, model={"hidden": [16], "norm": "none"}, optim=sgd, keep=keep)
    assert bad.status == "diverged"
    assert not {c.kind for c in registry.checkpoints(bad.id)} & {"last", "ema"}


def test_the_optimisers_state_of_the_best_epoch_is_kept(registry):
    (run, _) = train(registry, keep={"optimiser": True})
    state = registry.load(run.id, "optimiser")
    steps = run.best_epoch * math.ceil(90 / 30)
    assert float(state["step"]) == steps
    parameters = sum(p.numel() for p in module_of(run, registry.load(run.id))[0].parameters())
    columns = parameters + -parameters % LINE
    assert {name: value.numel() for name, value in state.items()} == {
        "step": 1,
        "0": columns,
        "1": columns,
    }


def test_a_card_lists_all_weights_of_a_kind(registry):
    run, _ = train(registry, keep={"every": 4})
    checkpoints = registry.checkpoints(run.id)
    told = card(run, checkpoints, registry.history(run.id), "table", 200)
    assert all(checkpoint.sha256 in told for checkpoint in checkpoints)
    assert "weights (epoch 4)" in told
    assert "weights (best)" in told
