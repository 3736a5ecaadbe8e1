"""Training on from what was trained: children that are never worse, and one long training."""

import shutil
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F  # noqa: N812  # its name everywhere
from safetensors.torch import save_file

from zoo import models
from zoo.config import parse
from zoo.errors import ConfigError, MismatchError, NotFoundError
from zoo.planning import continuation, plan
from zoo.registry import Registry
from zoo.training import train_many

IRIS = {
    "data": {"ref": "iris"},
    "model": {"hidden": [8]},
    "optim": {"lr": 0.005},
    "train": {"epochs": 6, "batch_size": 30},
    "seeds": 2,
}


@pytest.fixture
def registry(tmp_path):
    with Registry(f"sqlite:///{tmp_path}/registry.db", tmp_path / "blobs") as opened:
        yield opened


def train(registry, **changes):
    asked = {
        key: {**IRIS.get(key, {}), **value} if isinstance(value, dict) else value
        for key, value in changes.items()
    }
    return train_many(plan(parse(IRIS | asked), registry), registry, engine="stacked")


def further(registry, refs, epochs=4, changes=None, name=None):
    planned = continuation(registry, refs, epochs, changes or {}, name)
    return train_many(planned, registry, engine="stacked")


def blob(registry, run, kind="best", epoch=None):
    """The path of a published file."""
    (found,) = [
        c for c in registry.checkpoints(run.id) if c.kind == kind and epoch in (None, c.epoch)
    ]
    return str(registry.blobs.path(found.sha256))


def test_a_child_starts_at_its_parents_best_and_is_never_worse(registry):
    parents = train(registry, optim={"lr": 0.2})  # training on does harm
    children = further(registry, ["iris-mlp"], 5, {"stop.patience": 2})
    for parent, child in zip(parents, children, strict=True):
        assert child.name == "iris-mlp-continued"
        assert (child.parents, child.seed) == ((parent.id,), parent.seed)
        assert child.config["train"]["epochs"] == 5
        assert child.config["stop"]["patience"] == 2
        first, *later = registry.history(child.id)
        assert (first["epoch"], first["train_loss"]) == (0, None)
        assert first["val_loss"] == pytest.approx(parent.metrics["val_loss"], rel=1e-6)
        assert [row["epoch"] for row in later] == list(range(1, child.epochs + 1))
        losses = [row["val_loss"] for row in (first, *later)]
        assert losses[child.best_epoch] == child.metrics["val_loss"] == min(losses)
        assert child.metrics["val_loss"] <= first["val_loss"]


def test_a_child_that_never_improves_is_its_parent(registry):
    (parent, _) = train(registry)
    (child,) = further(registry, [parent.id], 3, {"optim.lr": 10.0})
    assert child.best_epoch == 0
    ours, theirs = registry.load(child.id), registry.load(parent.id)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def by_hand(data, seed, epochs):
    """Plain training with PyTorch's Adam; the weights at the end."""
    module = models.build("mlp", {"hidden": [8]}, data.shape, data.outputs, seed)
    optimiser = torch.optim.Adam(module.parameters(), lr=0.005)
    x, y = data.train.x, data.train.y
    for epoch in range(epochs):
        generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
        for index in torch.randperm(len(y), generator=generator).split(30):
            optimiser.zero_grad()
            F.cross_entropy(module(x[index]), y[index]).backward()
            optimiser.step()
    return module.state_dict()


def test_continuing_with_the_optimisers_state_is_training_on(registry):
    parents = train(registry, keep={"optimiser": True})
    assert [run.best_epoch for run in parents] == [6, 6]  # else the best is not the last
    children = further(registry, ["iris-mlp"], 5)
    whole = train(registry, train={"epochs": 11}, name="whole")
    data = plan(parse(IRIS)).data
    for child, long in zip(children, whole, strict=True):
        assert (child.best_epoch, long.best_epoch) == (5, 11)
        ours, theirs = registry.load(child.id), registry.load(long.id)
        expected = by_hand(data, child.seed, 11)
        for name, value in ours.items():
            assert torch.equal(value, theirs[name])
            torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-5)
    # Without that state, Adam starts anew, and comes out elsewhere.
    train(registry, name="bare")
    (bare, _) = further(registry, ["bare"], 5)
    ours, theirs = registry.load(bare.id), registry.load(whole[0].id)
    assert not torch.allclose(ours["1.weight"], theirs["1.weight"], rtol=1e-4, atol=1e-5)


def test_another_optimiser_starts_afresh(registry):
    train(registry, keep={"optimiser": True})
    planned = continuation(registry, ["iris-mlp"], 3, {"optim.name": "sgd"}, None)
    members = [planned.member(run) for run in registry.add(planned.requests)]
    assert [member.optimiser for member in members] == [None, None]
    assert members[0].config.optim.name == "sgd"
    assert members[0].config.optim.lr == 0.1  # its own default, not Adam's setting
    assert {run.status for run in train_many(planned, registry)} == {"finished"}


def test_a_file_that_a_registry_wrote_can_be_continued_here_and_elsewhere(registry, tmp_path):
    (parent, _) = train(registry, keep={"every": 2})
    path = shutil.copy(blob(registry, parent), tmp_path / "best.safetensors")
    (child,) = further(registry, [str(path)])
    assert child.parents == (parent.id,)
    assert child.config["init"]["trained"] == parent.best_epoch
    kept = blob(registry, parent, "epoch", 2)
    (early,) = further(registry, [kept], name="early")
    assert early.config["init"]["trained"] == 2
    with Registry(f"sqlite:///{tmp_path}/other.db", tmp_path / "other") as other:
        (stranger,) = further(other, [str(path)])
        assert stranger.parents == ()
        ours, theirs = registry.load(child.id), other.load(stranger.id)
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_several_references_and_files_are_continued_together(registry, tmp_path):
    first, second = train(registry)
    path = shutil.copy(blob(registry, first), tmp_path / "first.safetensors")
    children = further(registry, ["iris-mlp/seed=1", str(path)])
    assert sorted(child.seed for child in children) == [0, 1]
    for child in children:
        parent = first if child.seed == 0 else second
        assert child.parents == (parent.id,)
        start, *_ = registry.history(child.id)
        assert start["val_loss"] == pytest.approx(parent.metrics["val_loss"], rel=1e-6)


def test_the_same_continuation_again_trains_nothing(registry):
    train(registry)
    children = further(registry, ["iris-mlp"])
    begun = []
    planned = continuation(registry, ["iris-mlp"], 4, {}, None)
    again = train_many(planned, registry, watch=begun.append)
    assert [run.id for run in again] == [run.id for run in children]
    assert len(begun) == 1  # that there is nothing to train
    assert begun[0].pending == []


def test_a_child_can_be_continued_in_turn(registry):
    train(registry, keep={"optimiser": True})
    further(registry, ["iris-mlp"], 2, name="second")
    (third, _) = further(registry, ["second"], 3, name="third")
    assert third.config["init"]["trained"] == 6 + 2
    (long, _) = train(registry, train={"epochs": 11}, name="whole")
    assert (third.best_epoch, long.best_epoch) == (3, 11)
    ours, theirs = registry.load(third.id), registry.load(long.id)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_what_was_not_trained_here_is_refused(registry, tmp_path):
    plain = tmp_path / "plain.safetensors"
    save_file({"w": torch.zeros(2)}, plain)
    with pytest.raises(
        ConfigError, match=r"no settings; train-many takes it by --set init=.*plain"
    ):
        further(registry, [str(plain)])
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        further(registry, [str(tmp_path / "none.safetensors")])
    with pytest.raises(NotFoundError, match="the registry is empty"):
        further(registry, ["iris-mlp"])
    registry.add(plan(parse(IRIS)).requests)
    with pytest.raises(NotFoundError, match="only trained models can be continued"):
        further(registry, ["iris-mlp"])


def test_runs_on_different_data_or_of_different_names_are_not_continued_together(registry):
    train(registry)
    train(registry, data={"ref": "wine"})
    with pytest.raises(MismatchError, match="must share their name and data"):
        further(registry, ["iris-mlp", "wine-mlp"])


def test_changed_data_are_refused(registry, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = ["a,b", *(f"{i}.5,{i % 2}" for i in range(60))]
    Path("t.csv").write_text("\n".join(lines))
    train(registry, data={"ref": "t.csv", "target": "b"})
    Path("t.csv").write_text("\n".join(lines).replace("7.5", "7.25"))
    with pytest.raises(MismatchError, match=r"however the content of t\.csv has changed: it was"):
        further(registry, ["t-mlp"])
    Path("t.csv").write_text("\n".join(lines))
    further(registry, ["t-mlp"])
    with pytest.raises(MismatchError, match=r"however the split of t\.csv has changed: it was"):
        further(registry, ["t-mlp"], changes={"data.split_seed": 1})


def test_a_model_of_another_shape_cannot_take_the_weights(registry):
    train(registry)
    with pytest.raises(MismatchError, match=r"'1\.weight' is \(9, 4\) in the model and \(8, 4\)"):
        further(registry, ["iris-mlp"], changes={"model.hidden": [9]})


@pytest.mark.parametrize("key", ["init.epoch", "init", "seeds", "name", "train.epochs", "grid.x"])
def test_settings_without_a_meaning_are_refused(registry, key):
    with pytest.raises(ConfigError, match=rf"--set {key}: has no meaning"):
        continuation(registry, ["anything"], 3, {key: 1}, None)
