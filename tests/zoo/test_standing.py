"""How far runs are and who works on them, told by one query while they are trained."""

import json
import os

import pytest
import torch
from click.testing import CliRunner
from sqlalchemy import event

from cli import main
from zoo.config import parse
from zoo.planning import plan
from zoo.registry import claims

ASKED = {"data": {"ref": "iris"}, "seeds": 5, "name": "five"}


@pytest.fixture
def five(places):
    """Two registries of one place; of five runs one is done, one failed, two are in training."""
    with places.open() as one, places.open() as other:
        ids = [run.id for run in one.add(plan(parse(ASKED)).requests)]
        one.add(plan(parse({**ASKED, "name": "apart", "seeds": 1})).requests)
        one.claim(ids[:4])
        one.start(ids[:4])
        one.record([{"run_id": key, "epoch": epoch} for key in ids[:4] for epoch in (1, 2)])
        one.record([{"run_id": ids[3], "epoch": 3}])
        one.save_state([ids[3]], {"w": torch.zeros(1)}, {})
        state = {"w": torch.zeros(2)}
        one.publish(ids[0], state, epoch=1, epochs=2, metrics={}, seconds=1.0)
        one.finish(ids[1], "failed", error="no luck")
        yield one, other, ids


def test_every_run_of_the_names_is_told(five):
    one, other, ids = five
    told = other.standings("five")
    assert [run.id for run in told] == ids
    assert [run.status for run in told] == ["finished", "failed", "running", "running", "queued"]
    assert [run.epochs for run in told] == [2, 2, 2, 3, 0]
    assert [run.attempts for run in told] == [1, 1, 1, 1, 0]
    assert [run.is_saved for run in told] == [False, False, False, True, False]
    assert [run.is_free for run in told] == [True, True, False, False, True]
    me = f":{os.getpid()}"
    assert [bool(run.holder and run.holder.endswith(me)) for run in told][2:4] == [True, True]
    assert [run.silent_s is None for run in told] == [True, True, False, False, True]
    assert 0 <= told[2].silent_s < 30
    assert [run.is_ours for run in one.standings("five")] == [False, False, True, True, False]
    assert [run.id for run in other.standings("five", undone=True)] == ids[1:]
    assert len(other.standings("five", "apart")) == 6
    assert other.standings("nobody") == []


def test_a_silent_holder_is_gone_and_its_runs_are_free(five, monkeypatch):
    _, other, _ = five
    monkeypatch.setattr(claims, "LEASE_S", -1.0)
    assert all(run.is_free for run in other.standings("five"))


def test_status_adds_up_by_one_query_on_an_index(five, places):
    arguments = ["status", "five", "--registry", places.url, "--blobs", places.blobs]
    result = CliRunner().invoke(main, [*arguments, "--format", "json"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    rows = {row["status"]: row for row in json.loads(result.stdout)["rows"]}
    assert {key: row["runs"] for key, row in rows.items()} == {
        "finished": 1,
        "failed": 1,
        "running": 2,
        "queued": 1,
    }
    assert rows["running"]["epochs"] == 5
    assert rows["running"]["owner"].endswith(f":{os.getpid()}")
    assert rows["queued"]["owner"] is None
    one = five[0]
    statements = []
    event.listen(
        one.database._reader.engine,
        "before_cursor_execute",
        lambda _c, _cursor, text, given, _context, _many: statements.append((text, given)),
    )
    one.standings("five")
    (text, given), *others = [pair for pair in statements if " run" in pair[0]]
    assert not others
    if places.url.startswith("sqlite"):
        with one.database.read() as connection:
            plan_of = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {text}", given).all()
        assert not any(row.detail.startswith("SCAN") for row in plan_of), plan_of


def test_status_is_of_the_latest_training_unless_it_is_said(five, places):
    arguments = ["status", "--registry", places.url, "--blobs", places.blobs, "--format", "csv"]
    result = CliRunner().invoke(main, arguments, catch_exceptions=False)
    assert result.stdout.splitlines()[1].startswith("apart,queued,1,0,0,")
