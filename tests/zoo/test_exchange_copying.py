"""Runs go from one registry into another whole, once, and on from wherever copying was cut off."""

import json
import os
import sqlite3
from dataclasses import replace

import pytest
import torch
from click.testing import CliRunner

from cli import main
from ensemble import combine, compare
from zoo import copy_runs, parse, plan, train_many
from zoo.errors import IntegrityError, MismatchError, NotFoundError, UnsafeFileError, ZooError
from zoo.registry import NewRun, Registry
from zoo.registry.blobs import LocalBlobs
from zoo.registry.upkeep import collect, verify

SETTINGS = {"data": {"ref": "iris"}, "model": {"hidden": [4]}, "seeds": 3, "train": {"epochs": 2}}


def opened(folder):
    return Registry(f"sqlite:///{folder}/registry.db", folder / "blobs")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Three trained models, an average of them, and one of two averages."""
    with opened(tmp_path_factory.mktemp("source")) as registry:
        runs = train_many(plan(parse(SETTINGS)), registry, engine="stacked")
        soup = combine(registry, runs, "weights", method="uniform", name="soup").run
        combine(registry, [soup, runs[0]], "predictions", name="pool")
        yield registry


@pytest.fixture
def target(tmp_path):
    with opened(tmp_path / "target") as registry:
        yield registry


def outcomes(told):
    return {it.run.label: it.outcome for it in told}


def small(registry, value=1.0, status="finished", **changes):
    """A run with weights that were not trained."""
    facts = dict.fromkeys(("config_hash", "data_ref", "data_fingerprint", "split_hash"), "x")
    (run,) = registry.add([NewRun(**{"name": "r", "config": {}, "task": "regression", "seed": 0}
                                  | facts | changes)])  # fmt: skip
    state = {"w": torch.full((8,), value)}
    registry.publish(
        run.id, state, status=status, epoch=1, epochs=1, metrics={"val_loss": 1.0}, seconds=0.5
    )
    return registry.run(run.id)


def test_a_run_comes_with_all_it_was_made_of_and_nothing_is_lost(source, target):
    told = copy_runs(source, target, ["pool"])
    assert list(outcomes(told)) == ["iris-mlp/seed=0", "iris-mlp/seed=1", "iris-mlp/seed=2",
                                    "soup", "pool"]  # fmt: skip
    assert set(outcomes(told).values()) == {"copied"}
    assert target.runs() == source.runs()
    for run in source.runs():
        assert target.history(run.id) == source.history(run.id)
        assert target.checkpoints(run.id) == source.checkpoints(run.id)
    ours, theirs = (compare(registry, registry.runs()) for registry in (source, target))
    assert [(row.name, row.test) for row in ours.rows] == [
        (row.name, row.test) for row in theirs.rows
    ]


def test_runs_go_to_every_kind_of_place_and_back(source, target, places):
    with places.open() as middle:
        copy_runs(source, middle, ["pool"])
        told = copy_runs(middle, target, ["*"])
        assert set(outcomes(told).values()) == {"copied"}
        assert set(outcomes(copy_runs(target, middle, ["*"])).values()) == {"there"}
    assert target.runs() == source.runs()
    for run in source.runs():
        assert target.history(run.id) == source.history(run.id)
        assert target.checkpoints(run.id) == source.checkpoints(run.id)


def test_what_is_there_stays_and_the_same_command_ends_the_same(source, target):
    copy_runs(source, target, ["iris-mlp/seed=0"])
    told = copy_runs(source, target, ["soup"])
    assert outcomes(told) == {"iris-mlp/seed=0": "there", "iris-mlp/seed=1": "copied",
                              "iris-mlp/seed=2": "copied", "soup": "copied"}  # fmt: skip
    again = copy_runs(source, target, ["soup"])
    assert set(outcomes(again).values()) == {"there"}
    back = copy_runs(target, source, ["soup"])
    assert set(outcomes(back).values()) == {"there"}


@pytest.mark.parametrize("calls", range(1, 9))
def test_copying_that_is_cut_off_anywhere_goes_on_from_there(source, target, monkeypatch, calls):
    left = iter(range(calls))
    real = {name: getattr(Registry, name) for name in ("receive", "adopt")}

    def counted(name):
        def call(self, *arguments):
            if next(left, None) is None:
                raise KeyboardInterrupt
            return real[name](self, *arguments)

        return call

    with monkeypatch.context() as patch:
        for name in real:
            patch.setattr(Registry, name, counted(name))
        with pytest.raises(KeyboardInterrupt):
            copy_runs(source, target, ["pool"])
    for run in target.runs():  # whatever is entered is whole
        for checkpoint in target.checkpoints(run.id):
            target.load(run.id, checkpoint.kind)
    fetched = []
    content = Registry.content

    def seen(self, checkpoint, owner):
        fetched.extend([owner] if self is source else [])
        return content(self, checkpoint, owner)

    monkeypatch.setattr(Registry, "content", seen)
    copy_runs(source, target, ["pool"])
    assert target.runs() == source.runs()
    assert len(fetched) == 5 - (calls + 1) // 2  # what had arrived is not fetched again


@pytest.mark.parametrize("status", ["queued", "running", "failed", "interrupted"])
def test_a_run_that_has_not_ended_is_skipped_with_a_note(tmp_path, target, status):
    with opened(tmp_path / "s") as source:
        run = small(source)
        if status == "queued":
            (run,) = source.add([replace(_new(run), seed=9)])
        elif status == "running":
            (run,) = source.add([replace(_new(run), seed=9)])
            source.start([run.id])
        else:
            source.finish(run.id, status)
        (told,) = copy_runs(source, target, [run.id])
    assert (told.outcome, told.error) == ("skipped", None)
    assert told.note == f"is {status}; only runs that have ended are copied"
    assert target.runs() == []


def test_what_arrived_is_neither_sent_again_nor_collected(source, tmp_path, monkeypatch):
    put, sent = LocalBlobs.put, []
    with opened(tmp_path / "target") as target:

        def cut(self, data):
            if len(sent) == 2:
                raise KeyboardInterrupt
            sent.append(len(data))
            return put(self, data)

        with monkeypatch.context() as patch:
            patch.setattr(LocalBlobs, "put", cut)
            patch.setattr(Registry, "adopt", lambda *_: True)  # as where the first of all is cut
            with pytest.raises(KeyboardInterrupt):
                copy_runs(source, target, ["pool"])
        for path in (tmp_path / "target/blobs").rglob("*"):
            os.utime(path, (1, 1))
        assert collect(target) == []
        monkeypatch.setattr(LocalBlobs, "put", lambda *a: sent.append(len(a[1])) or put(*a))
        copy_runs(source, target, ["pool"])
        assert target.runs() == source.runs()
        assert len(sent) == 5
        assert verify(target).faults == []


def _new(run):
    names = NewRun.__dataclass_fields__
    return NewRun(**{name: getattr(run, name) for name in names})


def test_the_same_model_trained_at_both_places_is_there_and_its_products_find_it(source, target):
    theirs = train_many(plan(parse(SETTINGS)), target, engine="stacked")
    assert {run.id for run in theirs}.isdisjoint(run.id for run in source.runs())
    told = copy_runs(source, target, ["soup"])
    assert [it.outcome for it in told] == ["there"] * 3 + ["copied"]
    ours = {run.id: run.seed for run in source.runs()}
    same = {run.seed: run.id for run in theirs}
    parents = [same[ours[key]] for key in source.run("soup").parents]
    assert list(target.run("soup").parents) == parents
    assert target.run("soup").config["used"] == parents
    assert set(outcomes(copy_runs(source, target, ["soup"])).values()) == {"there"}
    compare(target, target.runs())


def test_other_weights_of_one_identity_are_refused_and_both_are_named(tmp_path, target):
    with opened(tmp_path / "s") as source:
        mine, theirs = small(source, 1.0), small(target, 2.0)
        child = small(source, 3.0, kind="weights", parents=(mine.id,), name="child")
        told = copy_runs(source, target, [child.id])
    assert [it.outcome for it in told] == ["refused", "refused"]
    assert mine.owner in told[0].note
    assert theirs.owner in told[0].note
    assert isinstance(told[0].error, MismatchError)
    assert "needs its parent" in told[1].note
    assert target.runs() == [theirs]


def test_an_identifier_of_another_run_is_refused(tmp_path, target):
    with opened(tmp_path / "s") as source:
        mine = small(source)
        target.adopt(replace(mine, name="other"), [], [])
        (told,) = copy_runs(source, target, [mine.id])
    assert "has the identifier of another run" in told.note


def test_a_damaged_file_is_refused_and_the_others_are_copied(tmp_path, target):
    with opened(tmp_path / "s") as source:
        runs = [small(source, float(seed), seed=seed) for seed in range(3)]
        (checkpoint,) = source.checkpoints(runs[1].id)
        path = source.blobs.path(checkpoint.sha256)
        path.write_bytes(path.read_bytes()[:-1] + b"\x99")
        told = copy_runs(source, target, ["r"])
    assert [it.outcome for it in told] == ["copied", "refused", "copied"]
    assert isinstance(told[1].error, IntegrityError)
    assert len(target.runs()) == 2


def test_a_file_that_is_damaged_on_its_way_is_not_entered(tmp_path, target, monkeypatch):
    put = target.blobs.put
    monkeypatch.setattr(target.blobs, "put", lambda data: put(data[:-1] + b"\x99"))
    with opened(tmp_path / "s") as source:
        (told,) = copy_runs(source, target, [small(source).id])
    assert isinstance(told.error, IntegrityError)
    assert target.runs() == []


def test_a_target_without_room_stops_the_copying(tmp_path, target, monkeypatch):
    def full(_data):
        raise ZooError("no room")

    monkeypatch.setattr(target.blobs, "put", full)
    with opened(tmp_path / "s") as source, pytest.raises(ZooError, match="no room"):
        copy_runs(source, target, [small(source).id])


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("name", "../../x"),
        ("name", "a\x1b[2Jb"),
        ("id", "../../../etc"),
        ("config", "[1]"),
        ("config", '{"a":' * 200 + "1" + "}" * 200),
        ("metrics", '{"val_loss": "low"}'),
        ("status", "finished "),
        ("kind", "virus"),
        ("parent", "nonsense"),
    ],
)
def test_a_catalogue_that_was_tampered_with_is_refused(tmp_path, target, column, value):
    with opened(tmp_path / "s") as source:
        small(source)
    with sqlite3.connect(tmp_path / "s" / "registry.db") as database:
        if column == "parent":
            key = database.execute("SELECT id FROM run").fetchone()[0]
            database.execute("INSERT INTO parent VALUES (?, 0, ?)", (key, value))
        else:
            database.execute(f"UPDATE run SET {column} = ?", (value,))
    database.close()
    with opened(tmp_path / "s") as source:
        (told,) = copy_runs(source, target, ["*"])
    assert isinstance(told.error, UnsafeFileError | NotFoundError) or told.outcome == "skipped"
    assert target.runs() == []


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE checkpoint SET sha256 = '../../../../etc/passwd'",
        "UPDATE checkpoint SET size = 'many'",
        "UPDATE checkpoint SET kind = 'virus'",
        "INSERT INTO history (run_id, epoch, val_loss) SELECT id, 'x', 'y' FROM run",
    ],
)
def test_epochs_and_weights_that_were_tampered_with_are_refused(tmp_path, target, change):
    with opened(tmp_path / "s") as source:
        small(source)
    with sqlite3.connect(tmp_path / "s" / "registry.db") as database:
        database.execute(change)
    database.close()
    with opened(tmp_path / "s") as source:
        (told,) = copy_runs(source, target, ["r"])
    assert isinstance(told.error, UnsafeFileError | IntegrityError)
    assert target.runs() == []


def test_a_header_that_lies_is_refused_where_it_arrives_and_where_it_is_loaded(tmp_path, target):
    with opened(tmp_path / "s") as source:
        run = small(source)
        sha256 = source.blobs.put(b"\xff" * 64)
        with sqlite3.connect(tmp_path / "s" / "registry.db") as database:
            database.execute("UPDATE checkpoint SET size = 64, sha256 = ?", (sha256,))
        database.close()
        (told,) = copy_runs(source, target, ["r"])
        assert isinstance(told.error, UnsafeFileError)
        with pytest.raises(UnsafeFileError, match=f"run r/seed=0 .{run.id}.: is not sound"):
            source.load(run.id)


def test_push_and_pull_are_one_another_on_the_command_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with opened(tmp_path / "here") as registry:
        small(registry)
        (open_run,) = registry.add([replace(_new(registry.run("r")), seed=9)])
    here = ["sqlite:///here/registry.db", "here/blobs"]
    there = ["sqlite:///there/registry.db", "there/blobs"]
    third = ["sqlite:///third/registry.db", "third/blobs"]

    def run(command, own, word, other, *more):
        places = [f"--{word}-registry", other[0], f"--{word}-blobs", other[1]]
        environment = {"ZOO_REGISTRY": own[0], "ZOO_BLOBS": own[1]}
        arguments = [command, *more, *places]
        return CliRunner(env=environment).invoke(main, arguments, catch_exceptions=False)

    pushed = run("push", here, "to", there, "r", "--format", "json")
    assert pushed.exit_code == 0, pushed.output
    rows = json.loads(pushed.stdout)["rows"]
    assert [row["outcome"] for row in rows] == ["copied", "skipped"]
    assert rows[1]["id"] == open_run.id
    pulled = run("pull", third, "from", there, "*")
    assert pulled.exit_code == 0, pulled.output
    assert "copied" in pulled.stdout
    with opened(tmp_path / "third") as registry:
        assert [found.label for found in registry.runs()] == ["r/seed=0"]
    nothing = run("push", here, "to", ["sqlite:///new/registry.db", "new/blobs"], "nonsense")
    assert nothing.exit_code == 2
    assert not (tmp_path / "new").exists()
    with opened(tmp_path / "other") as registry:
        small(registry, 2.0)
    refused = run("push", here, "to", ["sqlite:///other/registry.db", "other/blobs"], "r/seed=0")
    assert refused.exit_code == 2
    assert "1 of 1 runs were refused, such as: run r/seed=0" in refused.stderr
