"""A run is one process's at a time; whoever was taken for dead writes nothing more."""

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import torch
from test_resume import SMALL, assert_same_content, opened, train

from zoo.config import parse
from zoo.errors import InterruptedRunsError, LostClaimError, UnreachableError
from zoo.planning import plan
from zoo.registry import claims
from zoo.registry.blobs import LocalBlobs
from zoo.registry.records import Batch, Outcome
from zoo.reports import Pass
from zoo.training import Noted, train_many

ROOT = Path(__file__).parents[2]


@pytest.fixture
def two(tmp_path):
    with opened(tmp_path) as one, opened(tmp_path) as other:
        runs = one.add(plan(parse(SMALL)).requests)
        yield one, other, [run.id for run in runs]


def ended(run_id, **facts):
    return Batch(outcomes=[Outcome(run_id=run_id, status="finished", **facts)])


def state(value=1.0):
    return {"w": torch.full((3,), value)}


def publish(registry, run_id):
    return registry.publish(run_id, state(), epoch=1, epochs=1, metrics={}, seconds=0.0)


def test_one_of_two_gets_a_run_and_the_other_is_told_who(two):
    one, other, ids = two
    assert one.claim(ids[:2]) == set(ids[:2])
    assert other.claim(ids) == {ids[2]}
    held = other.holders(ids)
    assert held.keys() == set(ids[:2])
    assert held[ids[0]].name.endswith(f":{os.getpid()}")
    assert not held[ids[0]].is_gone
    assert one.holders(ids).keys() == {ids[2]}
    one.close()
    assert other.claim(ids) == set(ids)


def test_what_is_done_is_claimed_by_nobody_and_what_failed_by_anybody(two):
    one, other, ids = two
    one.claim(ids)
    publish(one, ids[0])
    one.finish(ids[1], "failed", error="no luck")
    one.finish(ids[2], "diverged")
    assert other.claim(ids) == {ids[1]}


@pytest.mark.parametrize(
    "late",
    [
        lambda one, run_id: one.start([run_id]),
        lambda one, run_id: one.record([{"run_id": run_id, "epoch": 1}]),
        publish,
        lambda one, run_id: one.finish(run_id, "failed"),
        lambda one, run_id: one.save_state([run_id], state(), {}),
    ],
    ids=["start", "record", "publish", "finish", "state"],
)
@pytest.mark.parametrize("ends", [False, True])
def test_whoever_was_taken_for_dead_writes_nothing_more(two, monkeypatch, late, ends):
    one, other, ids = two
    one.claim(ids[:1])
    monkeypatch.setattr(claims, "LEASE_S", -1.0)
    assert other.holders(ids[:1])[ids[0]].is_gone
    assert other.claim(ids[:1]) == set(ids[:1])
    if ends:
        publish(other, ids[0])
    before = [other.runs(), other.history(ids[0]), other.checkpoints(ids[0])]
    holder = "another process" if ends else r"\S+:\d+"
    with pytest.raises(LostClaimError, match=rf"taken over by {holder}; nothing") as lost:
        late(one, ids[0])
    assert lost.value.run_ids == {ids[0]}
    assert [other.runs(), other.history(ids[0]), other.checkpoints(ids[0])] == before
    assert other.saved_states(ids) == []


def test_nobody_writes_to_a_run_without_claiming_it_that_another_holds(two):
    one, other, ids = two
    one.claim(ids[:1])
    with pytest.raises(LostClaimError):
        publish(other, ids[0])
    publish(other, ids[1])  # what nobody holds needs no claim
    with pytest.raises(LostClaimError) as lost:
        other.write(Batch(outcomes=[*ended(ids[0]).outcomes, *ended(ids[2]).outcomes]))
    assert lost.value.run_ids == {ids[0]}
    assert other.run(ids[2]).status == "queued"  # all or nothing


def test_the_same_batch_twice_is_once(two):
    one, _, ids = two
    one.claim(ids)
    kept = one.put(ids[0], state(), kind="best", epoch=1, metrics={"val_loss": 1.0})
    history = [{"run_id": ids[0], "epoch": 1, "val_loss": 1.0}]
    batch = Batch([ids[0]], history, [kept], ended(ids[0], best_epoch=1).outcomes)
    one.write(batch)
    before = [one.run(ids[0]), one.history(ids[0]), one.checkpoints(ids[0])]
    one.write(batch)  # as where the answer to the first was lost
    after = [one.run(ids[0]), one.history(ids[0]), one.checkpoints(ids[0])]
    assert before[1:] == after[1:]
    assert (before[0].status, before[0].best_epoch) == (after[0].status, after[0].best_epoch)


def test_a_sign_of_life_keeps_a_run(two, monkeypatch):
    one, other, ids = two
    monkeypatch.setattr(claims, "LEASE_S", 0.5)
    monkeypatch.setattr(claims, "BEAT_S", 0.05)
    one.claim(ids)
    time.sleep(0.8)
    assert other.claim(ids) == set()
    one.close()
    assert other.claim(ids) == set(ids)


def test_the_dead_are_told_from_the_living():
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    host, space, pid = claims._host(), claims._space(), child.pid
    owner = f"{host}:{pid}:{space}:{claims._start(pid)}:abcd"
    try:
        assert not claims.is_dead(owner)
        assert claims.is_dead(f"{host}:{pid}:{space}:1:abcd")  # the number was given anew
        assert not claims.is_dead(f"elsewhere:{pid}:{space}:1:abcd")
        assert not claims.is_dead(f"{host}:{pid}:otherboot-1:1:abcd")
        child.kill()
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        assert claims.is_dead(owner)  # not reaped yet
    finally:
        child.communicate()
    assert claims.is_dead(owner)


def test_who_may_not_be_asked_is_alive(monkeypatch):
    def refuse(pid, _):
        raise PermissionError

    monkeypatch.setattr(os, "kill", refuse)
    assert not claims.is_dead(f"{claims._host()}:1:{claims._space()}:1:abcd")


def test_where_the_system_tells_nothing_of_processes_nobody_is_known_to_be_dead(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(claims, "Path", lambda path: tmp_path / "nowhere")
    assert (claims._space(), claims._start(os.getpid())) == ("", "")
    assert not claims.is_dead(f"{claims._host()}:{os.getpid()}::1:abcd")
    monkeypatch.setattr(claims, "_space", lambda: "boot-1")
    assert not claims.is_dead(f"{claims._host()}:{os.getpid()}:boot-1:1:abcd")


CROWD = """
import os, sys
from zoo.registry import NewRun, Registry

folder = sys.argv[1]

def opened():
    return Registry(f"sqlite:///{folder}/registry.db", f"{folder}/blobs")

with opened() as registry:
    asked = [NewRun(name="r", seed=seed, config={}, config_hash="c", task="regression",
                    data_ref="d", data_fingerprint="f", split_hash="s") for seed in range(400)]
    ids = [run.id for run in registry.add(asked)]
reader, writer = os.pipe()
children = []
for number in range(4):
    children.append(os.fork())
    if children[-1] == 0:
        with opened() as registry:
            for run_id in ids:
                for mine in registry.claim([run_id]):
                    registry.finish(mine, "finished")
                    os.write(writer, f"{mine}\\n".encode())
        os._exit(0)
assert [os.waitpid(child, 0)[1] for child in children] == [0] * 4
os.close(writer)
got = os.fdopen(reader).read().split()
assert sorted(got) == sorted(ids), (len(got), len(set(got)))
"""


def test_four_processes_claim_every_run_once(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(CROWD), str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


# One process imports PyTorch; its forks train.  The first is stopped in mid-flight, long enough
# to be taken for dead, and wakes up once the second has taken its runs over.
STOPPED = """
import json, os, signal, sys, time

from zoo import Registry, parse, plan, train_many
from zoo.registry import claims
from zoo.registry.blobs import LocalBlobs
from zoo.reports import Pass
from zoo.training import Noted

asked, folder, stops = json.loads(sys.argv[1]), sys.argv[2], sys.argv[3] == "stopped"
claims.LEASE_S = 1.0
claims.BEAT_S = 60.0 if stops else 0.1  # who is stopped in mid-beat would hold SQLite's lock

def attempt(watch, log):
    child = os.fork()
    if child == 0:
        sys.stderr = open(f"{folder}/{log}", "w")
        with Registry(f"sqlite:///{folder}/registry.db", f"{folder}/blobs") as registry:
            runs = train_many(plan(parse(asked)), registry, engine="stacked", width=2, watch=watch)
        os._exit(0 if {run.status for run in runs} == {"finished"} else 7)
    return child

def told(event):
    if isinstance(event, Noted):
        print(event.text, file=sys.stderr, flush=True)
    if isinstance(event, Pass):
        for epoch in event.epochs:
            print("epoch", epoch.key, epoch.epoch, file=sys.stderr, flush=True)

passes = []

def stopping(event):
    told(event)
    if isinstance(event, Pass):
        passes.append(event)
        if stops and len(passes) == 4:
            os.kill(os.getpid(), signal.SIGSTOP)
        time.sleep(0.02 if stops else 0.4)

first = attempt(stopping, "first")
if stops:
    os.waitpid(first, os.WUNTRACED)
else:
    while not (os.path.exists(f"{folder}/first") and os.path.getsize(f"{folder}/first")):
        time.sleep(0.01)  # it has its runs before it says anything
second = attempt(told, "second")
if stops:
    assert os.waitpid(second, 0)[1] == 0
    os.kill(first, signal.SIGCONT)
    assert os.waitpid(first, 0)[1] == 0
else:
    assert [os.waitpid(child, 0)[1] for child in (first, second)] == [0, 0]
"""


@pytest.mark.parametrize("how", ["stopped", "beside"])
def test_two_trainings_at_once_train_every_run_once(tmp_path, how):
    train(tmp_path / "whole", SMALL)
    folder = tmp_path / "crowded"
    folder.mkdir()
    arguments = [json.dumps(SMALL), str(folder), how]
    done = subprocess.run(
        [sys.executable, "-c", STOPPED, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    first, second = ((folder / log).read_text() for log in ("first", "second"))
    assert done.returncode == 0, f"{done.stderr}\n{first}\n{second}"
    assert_same_content(folder, tmp_path / "whole")
    if how == "stopped":
        assert "was taken over by" in first
        assert "epoch" in second
    else:
        assert re.search(r"waiting for (1 run|[23] runs) that", second)
        assert "epoch" not in second


def test_a_waiting_training_stops_at_once_when_asked(tmp_path):
    with opened(tmp_path) as other, opened(tmp_path) as registry:
        other.claim([run.id for run in other.add(plan(parse(SMALL)).requests)])

        def watch(event):
            if isinstance(event, Noted) and event.text.startswith("waiting"):
                signal.raise_signal(signal.SIGINT)

        with pytest.raises(InterruptedRunsError) as caught:
            train_many(plan(parse(SMALL)), registry, watch=watch)
        assert caught.value.exit_code == 130
        assert {run.status for run in registry.runs()} == {"queued"}


def test_training_goes_on_while_the_catalogue_cannot_be_written(tmp_path, monkeypatch):
    monkeypatch.setattr("zoo.journal.RETRY_S", 0.05)
    monkeypatch.setattr("zoo.journal.FLUSH_S", 0.0)
    monkeypatch.setattr("zoo.registry.sqlite.PATIENCE_S", 0.01)
    train(tmp_path / "whole", SMALL)
    blocker = sqlite3.connect(tmp_path / "registry.db", isolation_level=None)
    notes, passes = [], []

    def watch(event):
        if isinstance(event, Noted):
            notes.append(event.text)
            if "kept in memory" in event.text and len(passes) > 9:
                blocker.rollback()  # at the end, in the midst of its patience
        if isinstance(event, Pass):
            passes.append(event)
            if len(passes) == 2:
                blocker.execute("BEGIN IMMEDIATE")

    train(tmp_path, SMALL, watch)
    blocker.close()
    assert any("database is locked; what happens is kept in memory" in note for note in notes)
    assert_same_content(tmp_path, tmp_path / "whole")


def test_training_goes_on_while_weights_cannot_be_stored(tmp_path, monkeypatch):
    monkeypatch.setattr("zoo.journal.RETRY_S", 0.05)
    monkeypatch.setattr("zoo.journal.FLUSH_S", 0.0)
    train(tmp_path / "whole", SMALL)
    notes, passes, refused = [], [], []
    put = LocalBlobs.put

    def away(self, data):
        if len(passes) > 1 and len(refused) < 12:
            refused.append(len(data))
            raise UnreachableError("s3://bucket: no answer")
        return put(self, data)

    def watch(event):
        (notes if isinstance(event, Noted) else passes).append(event)

    monkeypatch.setattr(LocalBlobs, "put", away)
    runs = train(tmp_path, SMALL, watch)
    assert len(refused) == 12
    assert {run.status for run in runs} == {"finished"}
    assert any("no answer; what happens is kept in memory" in note.text for note in notes)
    assert_same_content(tmp_path, tmp_path / "whole")


def test_a_catalogue_that_stays_away_ends_the_training_with_what_is_lost(tmp_path, monkeypatch):
    monkeypatch.setattr("zoo.journal.RETRY_S", 0.01)
    monkeypatch.setattr("zoo.journal.PATIENCE_S", 0.1)
    monkeypatch.setattr("zoo.registry.sqlite.PATIENCE_S", 0.01)
    blocker = sqlite3.connect(tmp_path / "registry.db", isolation_level=None)

    def watch(event):
        if isinstance(event, Pass) and not blocker.in_transaction:
            blocker.execute("BEGIN IMMEDIATE")

    with pytest.raises(UnreachableError, match="database is locked"):
        train(tmp_path, SMALL, watch)
    blocker.rollback()
    blocker.close()
    monkeypatch.setattr(claims, "LEASE_S", -1.0)  # nobody could let go of the claims
    runs = train(tmp_path, SMALL)
    assert {run.status for run in runs} == {"finished"}
