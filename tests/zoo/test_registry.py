"""The registry keeps what it is given, once, and gives back exactly that or says why not."""

import json
from dataclasses import FrozenInstanceError, replace

import pytest
import torch
from safetensors.torch import save

from zoo.errors import (
    IntegrityError,
    NotFoundError,
    UnsafeFileError,
    UsageError,
    ZooError,
)
from zoo.registry import NewRun, layout
from zoo.registry.records import Batch
from zoo.registry.tables import SCHEMA
from zoo.registry.weights import decode, encode, header


def new_run(seed=0, **changes):
    fields = {
        "name": "digits-mlp",
        "seed": seed,
        "config": {"optim": {"lr": 0.001}},
        "config_hash": "c0",
        "task": "classification",
        "classes": ["0", "1"],
        "data_ref": "digits",
        "data_fingerprint": "f0",
        "split_hash": "s0",
        "preprocessing": {"mean": [0.5]},
        "environment": {"torch": "2"},
    }
    return NewRun(**(fields | changes))


def state(value=1.0):
    return {"weight": torch.full((4, 3), value), "steps": torch.tensor(7)}


def publish(registry, run, value=1.0, **changes):
    given = {"epoch": 3, "epochs": 5, "metrics": {"val_accuracy": 0.9}, "seconds": 1.5}
    return registry.publish(run.id, state(value), **(given | changes))


@pytest.fixture
def registry(places):
    with places.open() as opened:
        yield opened


def test_a_run_comes_back_as_it_was_added(registry):
    (run,) = registry.add([new_run(3, varied={"optim.lr": 0.001})])
    assert registry.runs() == [run]
    assert (run.status, run.seed, run.classes, run.metrics) == ("queued", 3, ["0", "1"], {})
    assert run.preprocessing == {"mean": [0.5]}
    assert run.environment.keys() == {"torch", "python", "platform"}
    assert len(run.id) == 12
    assert int(run.id, 16) >= 0
    assert run.label == "digits-mlp/optim.lr=0.001,seed=3"
    assert registry.runs([run.label]) == [run]
    with pytest.raises(FrozenInstanceError):
        run.name = "other"


def test_the_same_request_twice_is_one_run(registry):
    first = registry.add([new_run(1), new_run(0), new_run(1)])
    assert [run.seed for run in first] == [1, 0, 1]
    publish(registry, first[0])
    again = registry.add([new_run(0), new_run(2), new_run(1)])
    assert [run.seed for run in again] == [0, 2, 1]
    assert replace(again[0], requested_at="") == replace(first[1], requested_at="")
    assert len({run.requested_at for run in again}) == 1
    assert (again[2].id, again[2].status) == (first[0].id, "finished")
    assert len(registry.runs()) == 3
    assert registry.add([]) == []


@pytest.mark.parametrize(
    "change",
    [
        {"name": "other"},
        {"kind": "distilled"},
        {"config_hash": "c1"},
        {"data_fingerprint": "f1"},
        {"split_hash": "s1"},
        {"seed": 1},
        {"seed": None},
    ],
)
def test_every_part_of_the_identity_counts(registry, change):
    registry.add([new_run(), replace(new_run(), **change)])
    assert len(registry.runs()) == 2


def test_preprocessing_is_kept_once_for_all_members(registry, places):
    registry.add([new_run(seed) for seed in range(5)])
    registry.add([new_run(9), new_run(9, preprocessing={"mean": [0.6]}, name="other")])
    assert places.execute("SELECT count(*) FROM dataset") == [(2,)]
    assert registry.runs(["other"])[0].preprocessing == {"mean": [0.6]}


def test_parents_keep_their_order_and_must_exist(registry):
    members = registry.add([new_run(0), new_run(1)])
    ids = (members[1].id, members[0].id)
    (soup,) = registry.add([new_run(None, name="soup", kind="weights", parents=ids)])
    assert registry.runs(["soup"])[0].parents == soup.parents == ids
    with pytest.raises(NotFoundError, match="no run has the id 'ffffffffffff'"):
        registry.add([new_run(5), new_run(None, name="bad", parents=("ffffffffffff",))])
    assert len(registry.runs()) == 3  # all or none


def test_a_life_from_queue_to_finish(registry):
    (run,) = registry.add([new_run()])
    registry.start([run.id])
    assert registry.runs(status="running")[0].started_at is not None
    rows = [
        {"run_id": run.id, "epoch": epoch, "train_loss": 1 / epoch, "val_loss": float("nan")}
        for epoch in (2, 1)
    ]
    registry.record(rows)
    registry.record([*rows[:1], rows[0] | {"seconds": 2}])
    history = registry.history(run.id)
    assert [(row["epoch"], row["train_loss"], row["val_loss"]) for row in history] == [
        (1, 1.0, None),
        (2, 0.5, None),
    ]
    assert history[1]["seconds"] == 2.0
    published = publish(registry, run, metrics={"val_accuracy": 0.9, "val_loss": float("nan")})
    (done,) = registry.runs()
    assert (done.status, done.best_epoch, done.epochs, done.seconds) == ("finished", 3, 5, 1.5)
    assert done.metrics == published.metrics == {"val_accuracy": 0.9}
    assert done.created_at <= done.started_at <= done.finished_at
    assert registry.checkpoints(run.id) == [published]
    assert all(torch.equal(registry.load(run.id)[key], state()[key]) for key in state())
    with pytest.raises(UsageError, match=r"seed=0 .* is finished already"):
        registry.start([run.id])


def test_starting_again_forgets_the_failed_attempt(registry):
    (run,) = registry.add([new_run()])
    registry.start([run.id])
    registry.record([{"run_id": run.id, "epoch": 1, "train_loss": 9.0}])
    registry.finish(run.id, "failed", error="out of memory", epochs=1, metrics={"val_loss": 9.0})
    (failed,) = registry.runs(status="failed")
    assert (failed.error, failed.epochs, failed.metrics) == ("out of memory", 1, {"val_loss": 9.0})
    registry.start([run.id])
    (run,) = registry.runs()
    assert (run.status, run.error, run.finished_at, run.epochs) == ("running", None, None, None)
    assert registry.history(run.id) == []


def test_last_weights_leave_the_best_outcome_alone(registry):
    (run,) = registry.add([new_run()])
    publish(registry, run, 1.0)
    for value in (1.5, 2.0):  # the second supersedes the first, within one batch too
        last = registry.put(run.id, state(value), kind="last", epoch=5, metrics={"val_accuracy": 0})
        several = [
            registry.put(run.id, state(value), kind="top", epoch=epoch, metrics={})
            for epoch in (2, 4)
        ]
        registry.write(Batch(checkpoints=[last, *several]))
        registry.write(Batch(checkpoints=[*several, last, last]))
    (run,) = registry.runs()
    assert (run.best_epoch, run.metrics) == (3, {"val_accuracy": 0.9})
    kinds = [found.kind for found in registry.checkpoints(run.id)]
    assert sorted(kinds) == ["best", "last", "top", "top"]
    assert registry.load(run.id, "last")["weight"][0, 0] == 2.0


def test_unknown_runs_and_missing_weights_are_named(registry):
    (run,) = registry.add([new_run()])
    for call in (
        lambda: registry.start(["nope"]),
        lambda: registry.record([{"run_id": "nope", "epoch": 1}]),
        lambda: registry.finish("nope", "failed"),
        lambda: registry.history("nope"),
        lambda: registry.checkpoints("nope"),
        lambda: registry.load("nope"),
        lambda: registry.publish("nope", {}, epoch=1, epochs=1, metrics={}, seconds=None),
    ):
        with pytest.raises(NotFoundError, match="'nope'"):
            call()
    with pytest.raises(NotFoundError, match="has no 'best' weights; its status is queued"):
        registry.load(run.id)
    with pytest.raises(ValueError, match="surprise"):
        registry.record([{"run_id": run.id, "epoch": 1, "surprise": 1.0}])


@pytest.mark.parametrize("name", ["../../x", "/etc/passwd", "a\nb", "CON", "--flag", "é" * 300])
def test_names_are_data_never_paths(registry, places, name):
    (run,) = registry.add([new_run(name=name)])
    assert places.bytes_of(publish(registry, run))
    assert registry.runs([name])[0].name == name
    assert registry.load(run.id).keys() == state().keys()


def test_tied_sliced_and_strided_weights_survive(registry):
    (run,) = registry.add([new_run()])
    stack = torch.arange(24.0).reshape(2, 3, 4)
    tied = torch.ones(2, 2)
    given = {"slice": stack[1], "turned": stack[0].T, "a": tied, "b": tied, "none": torch.empty(0)}
    registry.publish(run.id, given, epoch=1, epochs=1, metrics={}, seconds=None)
    loaded = registry.load(run.id)
    assert loaded.keys() == given.keys()
    assert all(torch.equal(loaded[key], given[key]) for key in given)
    loaded["a"].zero_()
    assert loaded["b"].sum() == 4


def test_the_header_tells_the_whole_story(registry, places, tmp_path):
    from safetensors import safe_open

    (run,) = registry.add([new_run()])
    path = tmp_path / "copy.safetensors"
    path.write_bytes(places.bytes_of(publish(registry, run)))
    with safe_open(path, "pt") as file:
        card = json.loads(file.metadata()["zoo"])
    (run,) = registry.runs()
    told = {"config", "name", "seed", "kind", "metrics", "data_fingerprint", "classes", "id"}
    assert {key: card[key] for key in told} == {key: getattr(run, key) for key in told}
    assert card["preprocessing"] == run.preprocessing
    assert (card["checkpoint"], card["schema"]) == ("best", SCHEMA)


def test_damaged_weights_are_refused_before_use(registry, places):
    (run,) = registry.add([new_run(3)])
    checkpoint = publish(registry, run)
    whole = places.bytes_of(checkpoint)
    size = len(whole)
    places.damage(checkpoint, whole[:-5])
    who = rf"run digits-mlp/seed=3 \({run.id}\)"
    with pytest.raises(IntegrityError, match=f"{who}: expected {size} bytes, found {size - 5}"):
        registry.load(run.id)
    places.damage(checkpoint, whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(IntegrityError, match=f"{who}: SHA-256 mismatch"):
        registry.load(run.id)
    places.damage(checkpoint, None)
    with pytest.raises(IntegrityError, match=f"{who}: expected {size} bytes, found no (file|obj)"):
        registry.load(run.id)
    publish(registry, run)
    assert registry.load(run.id).keys() == state().keys()


def test_the_same_weights_are_the_same_file_whenever_they_are_written(registry):
    (run,) = registry.add([new_run()])
    written = {
        registry.put(run.id, state(), kind="best", epoch=1, metrics={"val_loss": 0.5}).sha256
        for _ in range(12)
    }
    assert len(written) == 1
    assert len(list(registry.blobs.entries())) == 1


def test_what_succeeds_at_last_carries_no_error_of_an_earlier_attempt(registry):
    (run,) = registry.add([new_run()])
    registry.claim([run.id])
    registry.finish(run.id, "failed", error="no room")
    assert registry.run(run.id).error == "no room"
    registry.claim([run.id])
    kept = publish(registry, run)
    assert registry.run(run.id).error is None
    assert header(registry.content(kept, "it"))["error"] is None


# Weights as bytes


def test_weights_must_be_finite_in_their_own_type():
    large = {"w": torch.tensor([1e300], dtype=torch.float64), "n": torch.tensor([1 << 62])}
    small = {"w": torch.tensor([448.0, -448.0]).to(torch.float8_e4m3fn)}
    for plain in (large, small):
        found = decode(encode(plain, {}, "run"))
        assert all(torch.equal(found[name].double(), x.double()) for name, x in plain.items())
    for kind in (torch.float8_e5m2, torch.float16, torch.float64):
        bad = {"w": torch.tensor([1.0, torch.nan, torch.inf]).to(kind)}
        with pytest.raises(ZooError, match="run: weights must be finite, however 2 of 3 values"):
            encode(bad, {}, "run")
        assert len(decode(encode(bad, {}, "run", finite=False))["w"]) == 3


def test_names_that_share_memory_are_written_in_full():
    shared = torch.arange(6.0)
    tied = {"a": shared, "b": shared, "c": shared[2:], "d": shared.view(2, 3)}
    found = decode(encode(tied, {}, "run"))
    assert all(torch.equal(found[name], value) for name, value in tied.items())


def test_tensors_are_aligned_whatever_the_card_takes():
    for length in range(9):
        data = encode(state(), {"note": "x" * length}, "run")
        assert int.from_bytes(data[:8], "little") % 8 == 0
        assert header(data) == {"note": "x" * length}


def test_what_could_not_be_read_back_is_not_written(monkeypatch):
    with pytest.raises(UnsafeFileError, match="run: is not sound safetensors: it is cut short"):
        decode(b"short", "run")
    monkeypatch.setattr(layout, "MOST_TENSORS", 1)
    with pytest.raises(UnsafeFileError, match="run: is not sound safetensors: at most 1 tensors"):
        encode(state(), {}, "run")


@pytest.mark.parametrize("card", ["[1]", "{", "null", '"text"'])
def test_a_card_that_is_no_object_is_refused(card):
    written = save(state(), metadata={"zoo": card})
    with pytest.raises(UnsafeFileError, match="it: the key 'zoo' of its header must be a JSON ob"):
        header(written, "it")
    assert header(save(state())) == {}
