"""Where first weights come from, and which seed decides what."""

import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from zoo import models
from zoo.config import parse
from zoo.errors import ConfigError, MismatchError, NotFoundError
from zoo.planning import plan
from zoo.registry import Registry
from zoo.setup import Setup
from zoo.slots import Slot, order
from zoo.training import train_many

IRIS = {
    "data": {"ref": "iris"},
    "model": {"hidden": [8]},
    "train": {"epochs": 4, "batch_size": 30},
    "seeds": 2,
}


@pytest.fixture
def registry(tmp_path):
    with Registry(f"sqlite:///{tmp_path}/registry.db", tmp_path / "blobs") as opened:
        yield opened


def planned(registry=None, **changes):
    asked = {
        key: {**IRIS.get(key, {}), **v} if isinstance(v, dict) else v for key, v in changes.items()
    }
    return plan(parse(IRIS | asked), registry)


def starts(registry, asked):
    """The state dict that each member begins with, and the order of its first epoch."""
    members = [asked.member(run) for run in registry.add(asked.requests)]
    setup = Setup(members[0], asked.data, "cpu")
    return [(setup.build(m).state_dict(), order(Slot(m), len(asked.data.train))) for m in members]


def same(ours, theirs):
    return ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


def hashes(asked):
    return {request.config_hash for request in asked.requests}


@pytest.fixture
def given(tmp_path):
    """A file of weights that fit, as anybody may have written it."""
    state = models.build("mlp", {"hidden": [8]}, (4,), 3, seed=99).state_dict()
    save_file(state, tmp_path / "given.safetensors")
    return tmp_path / "given.safetensors", state


def test_independent_members_differ_in_weights_and_order(registry):
    (first, one), (second, other) = starts(registry, planned())
    assert not same(first, second)
    assert not torch.equal(one, other)


def test_shared_members_have_the_same_first_weights_and_orders_of_their_own(registry):
    (first, one), (second, other) = starts(registry, planned(init="shared"))
    assert same(first, second)
    assert not torch.equal(one, other)
    (third, _), _ = starts(registry, planned(init={"mode": "shared", "seed": 5}))
    assert not same(first, third)
    assert same(first, models.build("mlp", {"hidden": [8]}, (4,), 3, seed=0).state_dict())
    histories = [registry.history(run.id) for run in train_many(planned(init="shared"), registry)]
    assert histories[0][0]["val_loss"] != histories[1][0]["val_loss"]


def test_the_order_seed_decides_the_order_alone(registry):
    (first, one), (second, other) = starts(registry, planned(train={"order_seed": 7}))
    assert torch.equal(one, other)
    assert not same(first, second)
    (plain, natural), _ = starts(registry, planned())
    assert same(plain, first)
    assert not torch.equal(natural, one)


def test_the_split_seed_decides_the_split_alone(registry):
    here, there = planned(), planned(data={"split_seed": 1}, name="there")
    assert here.requests[0].split_hash != there.requests[0].split_hash
    for (ours, one), (theirs, other) in zip(
        starts(registry, here), starts(registry, there), strict=True
    ):
        assert same(ours, theirs)
        assert torch.equal(one, other)


def test_all_start_from_the_weights_of_a_file(registry, given):
    path, state = given
    asked = planned(init=str(path))
    for ours, _ in starts(registry, asked):
        assert same(ours, state)
    # Epoch 0 is measured before any training.
    data, module = asked.data, models.build("mlp", {"hidden": [8]}, (4,), 3, seed=0)
    module.load_state_dict(state)
    loss = torch.nn.functional.cross_entropy(module(data.val.x), data.val.y)
    for run in train_many(asked, registry):
        first, *_ = registry.history(run.id)
        assert (first["epoch"], first["train_loss"]) == (0, None)
        assert first["val_loss"] == pytest.approx(loss.item(), rel=1e-5)


def test_the_hash_is_of_the_weights_and_not_of_where_they_lie(given, tmp_path):
    path, state = given
    here = planned(init=str(path))
    (tmp_path / "elsewhere").mkdir()
    copied = shutil.copy(path, tmp_path / "elsewhere/copy.safetensors")
    assert hashes(planned(init=str(copied))) == hashes(here) != hashes(planned())
    save_file({name: value + 1 for name, value in state.items()}, copied)
    assert hashes(planned(init=str(copied))) != hashes(here)


def test_a_run_can_be_branched_from_at_its_best_and_at_a_kept_epoch(registry):
    parent, _ = train_many(planned(keep={"every": 2}), registry)
    for init, state, epoch in (
        ("iris-mlp/seed=0", registry.load(parent.id), parent.best_epoch),
        (
            {"mode": "run", "source": parent.id, "epoch": 2},
            registry.load(parent.id, "epoch", 2),
            2,
        ),
    ):
        asked = planned(registry, init=init, name=f"branch{epoch}")
        assert asked.requests[0].config["init"]["trained"] == epoch
        for ours, _ in starts(registry, asked):
            assert same(ours, state)
        child, _ = train_many(asked, registry)
        then = next(row for row in registry.history(parent.id) if row["epoch"] == epoch)
        first, *_ = registry.history(child.id)
        assert first["epoch"] == 0
        assert first["val_loss"] == pytest.approx(then["val_loss"], rel=1e-6)


def test_a_branch_of_another_optimiser_starts_that_one_afresh(registry):
    train_many(planned(keep={"optimiser": True}), registry)
    adam = {"name": "adam", "lr": 0.01}
    sgd = {"name": "sgd", "lr": 0.01}
    for number, optim in enumerate((adam, sgd)):
        asked = planned(registry, init="iris-mlp/seed=0", name=f"b{number}", optim=optim)
        members = [asked.member(run) for run in registry.add(asked.requests)]
        assert [m.optimiser is not None for m in members] == [optim is adam] * 2
        assert {run.status for run in train_many(asked, registry)} == {"finished"}


def test_missing_runs_epochs_and_registries_are_named(registry):
    train_many(planned(keep={"every": 2}), registry)
    with pytest.raises(NotFoundError, match="no run matches 'nobody'"):
        planned(registry, init="nobody")
    three = {"mode": "run", "source": "iris-mlp/seed=0", "epoch": 3}
    with pytest.raises(
        NotFoundError, match=r"has weights of epochs 2, 4, however 3 was asked for; keep\.every=N"
    ):
        planned(registry, init=three)
    registry.add([replace(planned().requests[0], name="waiting")])
    with pytest.raises(NotFoundError, match="epochs none, however its best was asked for"):
        planned(registry, init="waiting")
    with pytest.raises(ConfigError, match=r"init\.source: .* registry, however none is open"):
        planned(init="iris-mlp/seed=0")


def test_a_file_that_is_none_of_weights_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.safetensors: cannot be read: No such file"):
        planned(init=str(tmp_path / "none.safetensors"))
    for number, content in enumerate((b"", b"PK\x03\x04 surely not", b"\xff" * 64)):
        path = tmp_path / f"{number}.safetensors"
        path.write_bytes(content)
        with pytest.raises(ConfigError, match="is not a safetensors file"):
            planned(init=str(path))


def test_weights_that_do_not_fit_are_refused_naming_every_key(given, tmp_path):
    _, state = given
    wrong = {name: value for name, value in state.items() if name != "3.bias"}
    wrong |= {"1.weight": torch.zeros(9, 4), "scale": torch.zeros(2)}
    save_file(wrong, tmp_path / "wrong.safetensors")
    with pytest.raises(MismatchError) as caught:
        planned(init=str(tmp_path / "wrong.safetensors"))
    for fact in ("'3.bias' is missing", "'1.weight' is (8, 4)", "(9, 4)", "'scale' is not in"):
        assert fact in str(caught.value)


@pytest.mark.parametrize(
    ("init", "says"),
    [
        ({"mode": "file"}, "source is required for mode file"),
        ({"mode": "shared", "epoch": 2}, "no meaning for mode shared"),
        ({"mode": "independent", "source": "x"}, "no meaning for mode independent"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(init, says):
    with pytest.raises(ConfigError, match=says):
        planned(init=init)
