"""What is damaged is found, what nobody needs goes, and a lost catalogue comes back."""

import errno
import os
import shutil
import time
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from test_registry import new_run, publish, state
from test_resume import SMALL, content, opened, train

import cli
from ensemble.members import members
from ensemble.products import combine
from zoo.registry import Registry, claims, upkeep
from zoo.registry.records import Batch, Outcome
from zoo.registry.upkeep import collect, rebuild, verify
from zoo.registry.weights import decode, encode, header


def call(folder, *words):
    places = ["--registry", f"sqlite:///{folder}/registry.db", "--blobs", f"{folder}/blobs"]
    return CliRunner().invoke(cli.main, [*words, *places])


def age(folder, seconds=7200):
    """Let all files be that old."""
    then = time.time() - seconds
    for path in Path(folder).rglob("*"):
        os.utime(path, (then, then))


def files(folder):
    return sorted(path for path in (Path(folder) / "blobs").rglob("*") if path.is_file())


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A registry with trained models, a weight average and a pool of predictions."""
    folder = tmp_path_factory.mktemp("made")
    train(folder, SMALL)
    with opened(folder) as registry:
        singles = members(registry, ["iris-mlp"])
        combine(registry, singles, "predictions")
        combine(registry, singles, "weights", method="uniform")
    return folder


@pytest.fixture
def zoo(made, tmp_path):
    shutil.copytree(made, tmp_path / "zoo")
    return tmp_path / "zoo"


def test_a_sound_registry_is_said_to_be(zoo):
    done = call(zoo, "verify")
    assert (done.exit_code, done.stdout) == (0, "")
    assert "5 runs and 11 files" in done.stderr
    assert "all sound" in done.stderr


def test_everything_damaged_is_found_and_named(zoo):
    with opened(zoo) as registry:
        runs = registry.runs()
        first, second, third = (
            Path(registry.blobs.path(registry.checkpoints(run.id)[0].sha256)) for run in runs[:3]
        )
        first.unlink()
        second.write_bytes(second.read_bytes()[:-1])
        data = bytearray(third.read_bytes())
        data[-1] ^= 1
        third.write_bytes(data)
        with registry.database.write() as connection:
            connection.exec_driver_sql(
                f"DELETE FROM checkpoint WHERE run_id = '{runs[4].id}' AND kind = 'merged'"
            )
        faults = verify(registry).faults
    assert len(faults) == 4
    for fault, run, said in zip(
        faults,
        [*runs[:3], runs[4]],
        ["found no file", "bytes, found", "SHA-256 mismatch", "finished, however without weights"],
        strict=True,
    ):
        assert run.label in fault
        assert said in fault
    done = call(zoo, "verify", "--format", "csv")
    assert done.exit_code == 4
    assert len(done.stdout.splitlines()) == 5
    assert "4 faults were found" in done.stderr
    assert call(zoo, "verify").stdout.splitlines() == faults  # a line each, whatever the width


def test_a_damaged_catalogue_is_found_set_aside_and_made_anew(zoo):
    before, rows = content(zoo), opened(zoo)
    listed = rows.runs()
    rows.close()
    database = zoo / "registry.db"
    damaged = database.read_bytes()[:4096] + b"\xff" * 60_000
    database.write_bytes(damaged)
    assert call(zoo, "verify").exit_code == 4
    dry = call(zoo, "rebuild", "--dry-run")
    assert "5 runs would be entered" in dry.stderr
    assert database.read_bytes() == damaged
    done = call(zoo, "rebuild")
    assert done.exit_code == 0, done.output
    assert "the damaged catalogue is now" in done.stderr
    (aside,) = zoo.glob("registry.db.damaged-*[0-9]")  # its log may lie beside it
    assert aside.read_bytes() == damaged
    assert same_content(content(zoo), before)
    with opened(zoo) as registry:
        volatile = {"requested_at": "", "started_at": "", "finished_at": "", "seconds": 0}
        assert [replace(run, **volatile) for run in registry.runs()] == [
            replace(run, **volatile) for run in listed
        ]
        assert verify(registry).faults == []
    assert "0 runs entered" in call(zoo, "rebuild").stderr
    assert call(zoo, "compare").exit_code == 0


def same_content(found, wanted):
    (facts, weights), (wanted_facts, wanted_weights) = found, wanted
    assert facts == wanted_facts
    assert weights.keys() == wanted_weights.keys()
    for key, tensors in weights.items():
        assert all((tensors[name] == wanted_weights[key][name]).all() for name in tensors)
    return True


def test_a_lost_parent_is_told_and_the_product_comes_back_without_it(zoo):
    with opened(zoo) as registry:
        runs = registry.runs()
        for kept in registry.checkpoints(runs[0].id):
            registry.blobs.remove(kept.sha256)
    (zoo / "registry.db").unlink()
    (zoo / "blobs/00").mkdir(exist_ok=True)
    (zoo / f"blobs/00/{'0' * 64}.safetensors").write_bytes(b"no weights")
    done = rebuild(f"sqlite:///{zoo}/registry.db", zoo / "blobs")
    assert [run.id for run in done.runs] == [run.id for run in runs[1:]]
    told = "\n".join(done.faults)
    assert told.count(f"of its parents {runs[0].id} are lost") == 2
    assert "000000000000" in told
    assert done.runs[-1].parents == tuple(run.id for run in runs[1:3])


def test_a_run_without_its_best_weights_comes_back_as_interrupted(tmp_path):
    with opened(tmp_path) as registry:
        (run,) = registry.add([new_run()])
        registry.put(run.id, state(), kind="epoch", epoch=2, metrics={"val_loss": 1.0})
    (tmp_path / "registry.db").unlink()
    rebuild(f"sqlite:///{tmp_path}/registry.db", tmp_path / "blobs")
    with opened(tmp_path) as registry:
        (found,) = registry.runs()
        assert (found.id, found.status) == (run.id, "interrupted")
        (kept,) = registry.checkpoints(run.id)
        assert (kept.kind, kept.epoch, kept.metrics) == ("epoch", 2, {"val_loss": 1.0})
        assert registry.add([new_run()])[0].id == run.id


LIES = {
    "history": [{"history": []}, {"history": {"epoch": [1], "val_loss": []}}, {"history": 1},
                {"history": {"epoch": [None]}}, {"history": {"epoch": ["x"]}},
                {"history": {"epoch": [1], "val_loss": ["low"]}},
                {"history": {"epoch": [1], "virus": [1]}}],
    "checkpoint": [{"checkpoint": "virus"}, {"checkpoint": {}}, {"checkpoint": None},
                   {"epoch": "x"}, {"source": 1}, {"checkpoint_metrics": []}],
    "run": [{"id": "0123456789abcdef"}, {"id": {}}, {"id": "../../../x"}, {"name": "a/../b"},
            {"metrics": {"val_loss": "low"}}, {"parents": "x"}, {"config": 1}],
}  # fmt: skip


@pytest.mark.parametrize("lie", [lie for lies in LIES.values() for lie in lies], ids=repr)
def test_a_header_that_lies_is_left_out_and_the_others_come_back(places, lie):
    with places.open() as registry:
        runs = registry.add([new_run(seed) for seed in range(2)])
        kept = [publish(registry, run) for run in runs]
        data = registry.content(kept[0], "it")
        card = header(data) | lie
        places.damage(kept[0], None)
        registry.blobs.put(encode(decode(data), card, "a liar"))
    fresh = places.empty()
    done = rebuild(fresh, places.blobs)
    assert [run.id for run in done.runs] == [runs[1].id]
    assert len(done.faults) == 1
    with Registry(fresh, places.blobs) as registry:
        assert [run.id for run in registry.runs()] == [runs[1].id]
        assert verify(registry).faults == []


def test_text_that_a_database_cannot_hold_leaves_one_run_out(postgres, tmp_path):
    with opened(tmp_path) as registry:
        runs = registry.add([new_run(0), new_run(1, data_ref="a\0b")])
        for run in runs:
            publish(registry, run)
    done = rebuild(postgres, tmp_path / "blobs")
    assert [run.id for run in done.runs] == [runs[0].id]
    assert runs[1].id in done.faults[0]


def test_a_place_without_files_is_no_registry(tmp_path):
    done = call(tmp_path / "mistyped", "rebuild")
    assert done.exit_code == 2
    assert "holds no weights; name their place with --blobs" in done.stderr
    assert not (tmp_path / "mistyped").exists()


@pytest.mark.parametrize("text", ["{'a'", "[" * 100_000 + "]" * 100_000])
def test_a_cell_that_is_no_json_is_damage_and_comes_back(zoo, text):
    before = content(zoo)
    with opened(zoo) as registry:
        (failed,) = registry.add([new_run(9)])  # of which no file tells
        with registry.database.write() as connection:
            statement = "UPDATE run SET config = ? WHERE id = ?"
            connection.exec_driver_sql(statement, (text, failed.id))
    for command in ("list", "verify"):
        done = call(zoo, command)
        assert done.exit_code == 4
        assert "a cell must hold JSON" in done.stderr
    assert "5 runs entered" in call(zoo, "rebuild").stderr
    assert same_content(content(zoo), before)


def test_only_what_nothing_refers_to_is_removed_and_only_after_a_while(zoo):
    kept = files(zoo)
    with opened(zoo) as registry:
        (run,) = registry.add([new_run()])
        registry.put(run.id, state(5.0), kind="best", epoch=1, metrics={})
    (loose,) = set(files(zoo)) - set(kept)
    stray = zoo / "blobs/tmp/abcdef"
    stray.write_bytes(b"half")
    assert "0 files" in call(zoo, "gc").stderr  # too young
    assert files(zoo) == sorted([*kept, loose, stray])
    age(zoo)
    dry = call(zoo, "gc", "--dry-run")
    assert "2 files" in dry.stderr
    assert loose.stem in dry.stdout
    assert files(zoo) == sorted([*kept, loose, stray])
    assert "2 files" in call(zoo, "gc", "--grace", "1.5h").stderr
    assert files(zoo) == kept
    assert call(zoo, "verify").exit_code == 0


def test_what_a_living_process_is_about_to_mention_stays(tmp_path, monkeypatch):
    with opened(tmp_path) as busy, opened(tmp_path) as other:
        (run,) = busy.add([new_run()])
        busy.claim([run.id])
        busy.put(run.id, state(), kind="best", epoch=1, metrics={})
        age(tmp_path)
        assert collect(other) == []
        monkeypatch.setattr(claims, "LEASE_S", -1.0)  # now it is taken for dead
        (garbage,) = collect(other)
        assert garbage.what == "weights"
    assert files(tmp_path) == []


def test_what_is_mentioned_while_the_collector_looks_stays(tmp_path, monkeypatch):
    with opened(tmp_path) as busy, opened(tmp_path) as other:
        (run,) = busy.add([new_run()])
        busy.claim([run.id])
        kept = busy.put(run.id, state(), kind="best", epoch=1, metrics={})
        age(tmp_path)
        holders = other.holders

        def just_released(run_ids=None):
            if run_ids is not None:  # it has listed what is mentioned
                end = Outcome(run_id=run.id, status="finished")
                busy.write(Batch(checkpoints=[kept], outcomes=[end]))
            return holders(run_ids)

        monkeypatch.setattr(other, "holders", just_released)
        assert collect(other) == []
        assert busy.load(run.id).keys() == state().keys()


def test_what_is_written_anew_before_it_is_removed_stays(places, monkeypatch):
    with places.open() as registry:
        (run,) = registry.add([new_run()])
        kept = registry.put(run.id, state(), kind="best", epoch=1, metrics={})
        later = time.time() + 7200
        monkeypatch.setattr(upkeep.time, "time", lambda: later)  # so it looks old
        by_id, said = registry.by_id, []

        def publishing(run_ids):
            time.sleep(1.1)  # an object's time has whole seconds
            monkeypatch.setattr("zoo.registry.remote.FRESH_S", -1e9)
            registry.put(run.id, state(), kind="best", epoch=1, metrics={})
            return by_id(run_ids)

        monkeypatch.setattr(registry, "by_id", publishing)
        assert collect(registry, say=said.append) == []
        assert f"{kept.sha256} stays: it was just written anew" in said[0]
        assert len(registry.content(kept, "it")) == kept.size


def test_what_cannot_be_removed_is_not_said_to_be(tmp_path, monkeypatch):
    def refuse(_path, **_options):
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    said = []
    with opened(tmp_path) as registry:
        (run,) = registry.add([new_run()])
        publish(registry, run, 1.0)
        publish(registry, run, 2.0)
        (tmp_path / "blobs/tmp/abcdef").write_bytes(b"half")
        age(tmp_path)
        monkeypatch.setattr(Path, "unlink", refuse)
        assert collect(registry, say=said.append) == []
    assert "abcdef stays: it cannot be removed: Operation not permitted" in said[0]
    assert "stays: it was just written anew, or may not be removed" in said[1]


@pytest.mark.parametrize("how", ["another", "lost"])
def test_models_of_a_catalogue_that_is_not_this_one_stay(zoo, how):
    """By a mistyped --registry, or in place of a catalogue that was lost."""
    kept, before = files(zoo), content(zoo)
    with opened(zoo) as registry:
        registry.save_state([registry.runs()[0].id], state(), {})
    if how == "lost":
        (zoo / "registry.db").unlink()
    name = "registry" if how == "lost" else "other"
    url = f"sqlite:///{zoo}/{name}.db"
    with Registry(url, zoo / "blobs") as fresh:
        (run,) = fresh.add([new_run()])
        publish(fresh, run, 1.0)
        publish(fresh, run, 2.0)
    age(zoo)
    done = CliRunner().invoke(cli.main, ["gc", "--registry", url, "--blobs", f"{zoo}/blobs"])
    assert "12 files" in done.stderr
    assert "stay: they are of runs that this catalogue does not know, such as" in done.stderr
    assert "1 files, " in done.stderr.splitlines()[-1]  # what was superseded here
    assert set(kept) <= set(files(zoo))
    if how == "lost":
        rebuild(url, zoo / "blobs")
        with opened(zoo) as registry:
            assert verify(registry).faults == []
            assert len(registry.runs()) == 6
    else:
        assert same_content(content(zoo), before)


def test_models_beside_a_training_are_not_said_to_be_damaged(tmp_path, monkeypatch):
    with opened(tmp_path) as busy, opened(tmp_path) as other:
        (run,) = busy.add([new_run()])
        busy.claim([run.id])
        busy.save_state([run.id], state(1.0), {})
        faults = other.database.faults

        def meanwhile():
            (added,) = busy.add([new_run(1)])
            publish(busy, added)
            busy.save_state([run.id], state(2.0), {})
            return faults()

        monkeypatch.setattr(other.database, "faults", meanwhile)
        assert verify(other).faults == []
        busy.states.remove(busy.every_checkpoint()[-1].sha256)
        assert "its state of training: expected" in verify(busy).faults[0]


def test_a_superseded_model_is_garbage_and_so_is_a_state_nobody_is_part_of(tmp_path):
    with opened(tmp_path) as registry:
        (run,) = registry.add([new_run()])
        publish(registry, run, 1.0)
        publish(registry, run, 2.0)
        registry.states.put(b"left by a crash")
        age(tmp_path)
        assert sorted(each.what for each in collect(registry)) == ["state of training", "weights"]
        assert registry.load(run.id)["weight"][0, 0] == 2.0
    assert len(files(tmp_path)) == 1


@pytest.mark.parametrize("grace", ["1", "h", "-1h", "1 week"])
def test_a_duration_needs_a_unit(zoo, grace):
    done = call(zoo, "gc", "--grace", grace)
    assert done.exit_code == 2
    assert "such as 7d" in done.stderr


def test_a_history_too_long_for_a_header_is_kept_in_the_catalogue_alone(tmp_path):
    epochs = 100_000
    with opened(tmp_path) as registry:
        (run,) = registry.add([new_run()])
        rows = [{"run_id": run.id, "epoch": e, "val_loss": 1 / e, "train_loss": 2 / e, "lr": 3 / e,
                 "train_metric": 4 / e, "val_metric": 5 / e, "grad_norm": 6 / e, "seconds": 7 / e}
                for e in range(1, epochs + 1)]  # fmt: skip
        end = Outcome(run_id=run.id, status="finished")
        kept = registry.put(run.id, state(), kind="best", epoch=1, metrics={}, outcome=end,
                            history=rows)  # fmt: skip
        registry.write(Batch(checkpoints=[kept], outcomes=[end]))
    (tmp_path / "registry.db").unlink()
    done = rebuild(f"sqlite:///{tmp_path}/registry.db", tmp_path / "blobs")
    assert [one.id for one in done.runs] == [run.id]
    with opened(tmp_path) as registry:
        assert registry.history(run.id) == []
        assert registry.load(run.id).keys() == state().keys()
