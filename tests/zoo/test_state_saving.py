"""Saving the state of training is a service to later: what goes wrong with it costs nothing now."""

import sqlite3

import pytest
from test_resume import (
    SMALL,
    Interrupting,
    assert_same_content,
    opened,
    states_left,
    train,
)

from zoo.config import parse
from zoo.data import load
from zoo.errors import InterruptedRunsError, LostClaimError, UnreachableError, ZooError
from zoo.journal import Journal
from zoo.planning import plan
from zoo.registry import Registry
from zoo.registry.blobs import LocalBlobs
from zoo.reports import Pass
from zoo.sections import DataConfig


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of a training that nothing disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    train(folder, SMALL)
    return folder


@pytest.fixture
def often(monkeypatch):
    """The state is saved after every pass."""
    monkeypatch.setattr("zoo.journal.STATE_S", 0.0)
    monkeypatch.setattr("zoo.journal.SHARE", 1e9)


def full(monkeypatch, most):
    """Let the disk be full for all states but the first few; return those that were refused."""
    put, states, refused = LocalBlobs.put, [], []

    def limited(self, data):
        if self.folder.name == "states":
            states.append(data)
            if len(states) > most:
                refused.append(data)
                raise ZooError(f"{self.folder}: cannot be written: No space left on device")
        return put(self, data)

    monkeypatch.setattr(LocalBlobs, "put", limited)
    return refused


def test_a_disk_too_full_for_the_state_does_not_end_the_training(
    tmp_path,
    whole,
    often,
    monkeypatch,
):
    refused = full(monkeypatch, most=2)
    watch = Interrupting(0)
    runs = train(tmp_path, SMALL, watch)
    assert len(refused) > 2
    assert {run.status for run in runs} == {"finished"}
    said = [note for note in watch.notes if "the state of training is not saved" in note]
    assert len(said) == len(refused)
    assert "No space left" in said[0]
    assert_same_content(tmp_path, whole)


def test_nor_does_it_lose_what_was_saved_before(tmp_path, whole, often, monkeypatch):
    with monkeypatch.context() as patch:
        full(patch, most=3)
        with pytest.raises(InterruptedRunsError):
            train(tmp_path, SMALL, Interrupting(5, 2))
    again = Interrupting(0)
    train(tmp_path, SMALL, again)
    assert again.epochs[0][1] == 3
    assert_same_content(tmp_path, whole)


def test_a_resumed_training_goes_on_without_it_too(tmp_path, whole, often, monkeypatch):
    with pytest.raises(InterruptedRunsError):
        train(tmp_path, SMALL, Interrupting(3, 2))
    full(monkeypatch, most=0)
    again = Interrupting(0)
    train(tmp_path, SMALL, again)
    assert not [note for note in again.notes if "anew" in note]
    assert again.epochs[0][1] == 4
    assert_same_content(tmp_path, whole)


def test_a_place_that_takes_not_even_the_first_is_refused_before_training(tmp_path, monkeypatch):
    full(monkeypatch, most=0)
    watch = Interrupting(0)
    with pytest.raises(ZooError, match="No space left"):
        train(tmp_path, SMALL, watch)
    assert watch.epochs == []
    with opened(tmp_path) as registry:
        assert {run.status for run in registry.runs()} == {"queued"}


@pytest.mark.parametrize("error", [UnreachableError, ZooError])
def test_a_state_that_cannot_be_read_now_waits_for_the_next_attempt(
    tmp_path,
    whole,
    monkeypatch,
    error,
):
    with pytest.raises(InterruptedRunsError):
        train(tmp_path, SMALL, Interrupting(3, 2))

    def away(*_):
        raise error("s3://bucket: no answer")

    with monkeypatch.context() as patch:
        patch.setattr(LocalBlobs, "get", away)
        with pytest.raises(error, match="no answer"):
            train(tmp_path, SMALL)
    again = Interrupting(0)
    train(tmp_path, SMALL, again)
    assert again.epochs[0][1] == 4
    assert_same_content(tmp_path, whole)


def test_a_catalogue_that_stays_away_ends_a_resumed_training_and_takes_nothing_back(
    tmp_path,
    whole,
    monkeypatch,
):
    with pytest.raises(InterruptedRunsError):
        train(tmp_path, SMALL, Interrupting(3, 2))
    monkeypatch.setattr("zoo.journal.FLUSH_S", 0.0)
    monkeypatch.setattr("zoo.journal.RETRY_S", 0.01)
    monkeypatch.setattr("zoo.journal.PATIENCE_S", 0.1)
    monkeypatch.setattr("zoo.registry.sqlite.PATIENCE_S", 0.01)
    blocker = sqlite3.connect(tmp_path / "registry.db", isolation_level=None)
    notes, passes = [], []

    def watch(event):
        if not isinstance(event, Pass):
            notes.extend([event.text] if hasattr(event, "text") else [])
            if notes and "anew" in notes[-1]:
                blocker.rollback()
            return
        passes.append(event)
        if len(passes) == 9:  # two of three are published
            blocker.execute("BEGIN IMMEDIATE")

    with pytest.raises(UnreachableError, match="database is locked"):
        train(tmp_path, SMALL, watch)
    blocker.rollback()
    blocker.close()
    assert not [note for note in notes if "anew" in note]
    with opened(tmp_path) as registry:
        statuses = [run.status for run in registry.runs()]
        assert statuses[:2] == ["finished", "finished"]
        assert all(registry.checkpoints(run.id) for run in registry.runs()[:2])
    monkeypatch.setattr("zoo.registry.claims.LEASE_S", -1.0)  # nobody could let go of the claims
    train(tmp_path, SMALL)
    assert_same_content(tmp_path, whole)
    assert states_left(tmp_path)[1] == []  # a file may be left, for `gc`, of a state begun then


def test_runs_that_are_taken_over_one_after_another_end_nothing_else(tmp_path, monkeypatch):
    """The second is lost between the refusal of the first and the next attempt to write."""
    with opened(tmp_path) as one, opened(tmp_path) as other:
        ids = [run.id for run in one.add(plan(parse(SMALL)).requests)]
        one.claim(ids)
        left, write = list(ids[:2]), Registry.write

        def losing(self, batch):
            if self is one and left:
                monkeypatch.setattr("zoo.registry.claims.LEASE_S", -1.0)
                other.claim([left.pop(0)])
            return write(self, batch)

        monkeypatch.setattr(Registry, "write", losing)
        journal = Journal(one, load(DataConfig(ref="iris")))
        journal.batch.history = [{"run_id": key, "epoch": 1, "val_loss": 1.0} for key in ids]
        journal.flush()
        assert journal.ended == set(ids[:2])
        assert [len(one.history(key)) for key in ids] == [0, 0, 1]
        with pytest.raises(LostClaimError):
            one.finish(ids[0], "failed")
