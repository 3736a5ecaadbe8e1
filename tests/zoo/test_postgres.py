"""PostgreSQL as a catalogue: one moment, one lock, and connections that may be cut at any time."""

import sys
import threading
import time

import pytest
import servers
import torch
from sqlalchemy import Engine, delete, event, func, select
from test_resume import SMALL, train
from test_resume import opened as registry_of

from zoo.config import parse
from zoo.errors import NotFoundError, UnreachableError, UsageError
from zoo.planning import plan
from zoo.registry import NewRun, Registry
from zoo.registry import tables as t
from zoo.registry.clock import database_seconds
from zoo.reports import Pass
from zoo.training import Noted, train_many


def new_run(seed=0, name="r"):
    return NewRun(
        name=name,
        seed=seed,
        config={},
        config_hash="c",
        task="regression",
        data_ref="d",
        data_fingerprint="f",
        split_hash="s",
    )


def publish(registry, run, value=1.0):
    weights = {"w": torch.full((8,), value)}
    registry.publish(run.id, weights, epoch=1, epochs=1, metrics={"val_rmse": value}, seconds=0.0)


@pytest.fixture
def opened(postgres, tmp_path):
    with Registry(postgres, tmp_path / "blobs") as registry:
        yield registry


@pytest.fixture
def other(postgres, tmp_path):
    with Registry(postgres, tmp_path / "blobs") as registry:
        yield registry


@pytest.fixture
def cut(postgres_server):
    """Cut every connection but the one that asks for it."""

    def cut():
        found = servers.execute(
            postgres_server,
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'",
        )
        assert found
        assert all(each for (each,) in found)

    return cut


def test_a_connection_cut_between_calls_is_made_anew(opened, cut):
    (run,) = opened.add([new_run()])
    cut()
    publish(opened, run)
    cut()
    assert opened.runs()[0].status == "finished"
    cut()
    assert opened.claim([run.id]) == set()


def test_a_connection_cut_within_a_call_is_told_and_the_next_call_works(opened, cut):
    (run,) = opened.add([new_run()])

    def read():
        with opened.database.read() as connection:
            cut()
            connection.execute(select(t.run))

    def write():
        with opened.database.write() as connection:
            connection.execute(delete(t.run))
            cut()

    with pytest.raises(UnreachableError, match=r"psycopg://postgres@/postgres: .*terminating"):
        read()
    with pytest.raises(UnreachableError, match=r"psycopg://postgres@/postgres: "):
        write()
    assert opened.runs() == [run]
    publish(opened, run)
    assert opened.runs()[0].status == "finished"


def test_a_connection_cut_before_the_commit_leaves_the_old_outcome(opened, cut):
    (run,) = opened.add([new_run()])
    publish(opened, run, 1.0)
    event.listen(Engine, "commit", lambda _connection: cut(), once=True)
    with pytest.raises(UnreachableError):
        publish(opened, run, 2.0)
    assert opened.runs()[0].metrics == {"val_rmse": 1.0}
    assert opened.load(run.id)["w"][0] == 1.0
    publish(opened, run, 2.0)
    assert opened.load(run.id)["w"][0] == 2.0


def test_training_goes_on_though_its_connections_are_cut(opened, cut, tmp_path, monkeypatch):
    monkeypatch.setattr("zoo.registry.claims.BEAT_S", 3600.0)  # only the training commits
    monkeypatch.setattr("zoo.journal.FLUSH_S", 0.0)
    monkeypatch.setattr("zoo.journal.PAUSE", 0.0)
    monkeypatch.setattr("zoo.journal.RETRY_S", 0.05)
    train(tmp_path / "whole", SMALL)
    notes, passes = [], []

    def watch(told):
        if isinstance(told, Noted):
            notes.append(told.text)
        if isinstance(told, Pass):
            passes.append(told)
            if len(passes) < 3:
                cut()  # between two calls
            if len(passes) == 3:  # and within one
                event.listen(Engine, "commit", lambda _connection: cut(), once=True)

    asked = plan(parse(SMALL))
    runs = train_many(asked, opened, engine="stacked", width=2, watch=watch)
    assert {run.status for run in runs} == {"finished"}
    assert sum("what happens is kept in memory until it can be" in note for note in notes) == 1
    with registry_of(tmp_path / "whole") as whole:
        for ours, theirs in zip(runs, whole.runs(), strict=True):
            told = [[row["val_loss"] for row in r.history(run.id)]
                    for r, run in ((opened, ours), (whole, theirs))]  # fmt: skip
            assert told[0] == told[1]
            weights, wanted = opened.load(ours.id), whole.load(theirs.id)
            assert all(torch.equal(weights[name], wanted[name]) for name in wanted)


def test_a_reader_writes_nothing(opened):
    opened.add([new_run()])
    reading = opened.database.read()
    with pytest.raises(UsageError, match="read-only transaction"), reading as connection:
        connection.execute(delete(t.run))


def test_a_writer_sees_what_was_written_while_it_waited(opened, other):
    seen = []

    def write():
        with other.database.write() as connection:
            seen.append(connection.scalar(select(func.count()).select_from(t.dataset)))

    waiting = threading.Thread(target=write)
    with opened.database.write() as connection:
        waiting.start()
        time.sleep(0.3)
        assert seen == []
        row = {"id": "d", "data_ref": "", "data_fingerprint": "", "split_hash": "", "task": ""}
        connection.execute(t.dataset.insert().values(row | {"classes": [], "preprocessing": {}}))
    waiting.join()
    assert seen == [1]


def test_who_waits_too_long_for_the_lock_is_told(opened, postgres, tmp_path, monkeypatch):
    monkeypatch.setattr("zoo.registry.postgres.PATIENCE_S", 0.1)
    said = pytest.raises(UnreachableError, match=r"others have held the lock for 0\.1 s")
    with Registry(postgres, tmp_path / "blobs") as hasty, opened.database.write(), said:
        hasty.add([new_run()])
    assert opened.runs() == []


def test_a_process_that_stops_within_a_write_loses_the_lock(
    opened, postgres, tmp_path, monkeypatch
):
    monkeypatch.setattr("zoo.registry.postgres.STOPPED_S", 0.5)
    with Registry(postgres, tmp_path / "blobs") as stopped:
        writing = stopped.database.write()
        connection = writing.__enter__()
        connection.execute(delete(t.run))
        opened.add([new_run()])  # waits until the other is taken for dead
        with pytest.raises(UnreachableError):
            writing.__exit__(None, None, None)
        assert len(stopped.runs()) == 1


def test_the_clock_is_the_server_s_and_runs_within_a_transaction(opened):
    with opened.database.read() as connection:
        first, _, second = (
            connection.scalar(select(what))
            for what in (database_seconds(), func.pg_sleep(0.05), database_seconds())
        )
    assert abs(first - time.time()) < 5
    assert 0.05 <= second - first < 5


def test_what_postgresql_cannot_keep_is_refused(opened):
    with pytest.raises(UsageError, match="cannot contain NUL"):
        opened.add([new_run(name="a\0b")])
    assert opened.runs() == []


def test_looking_at_an_empty_database_makes_no_registry(postgres, tmp_path):
    with pytest.raises(NotFoundError, match=r"no registry at postgresql.*; train-many makes one"):
        Registry(postgres, tmp_path / "blobs", create=False)
    assert not (tmp_path / "blobs").exists()


@pytest.mark.parametrize(
    ("module", "url", "blobs", "extra"),
    [
        ("psycopg", "postgresql://ann:hush@host/zoo", "blobs", "postgres"),
        ("obstore", "sqlite:///{0}/registry.db", "s3://bucket/zoo", "cloud"),
    ],
)
def test_a_missing_driver_is_asked_for(tmp_path, monkeypatch, module, url, blobs, extra):
    for name in {module, *(name for name in sys.modules if name.startswith(f"{module}."))}:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.chdir(tmp_path)
    said = rf"needs {module}, however it is not installed; pip install 'zoo-ensemble\[{extra}\]'"
    with pytest.raises(UsageError, match=said):
        Registry(url.format(tmp_path), blobs)
