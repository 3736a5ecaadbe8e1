"""Clocks are put back and forth: order, durations and claims do not follow them."""

import time
from datetime import UTC, datetime, timedelta

import pytest
from test_registry import new_run, publish
from test_resume import SMALL, opened, train

from zoo.registry.upkeep import rebuild


@pytest.fixture
def put_back(monkeypatch):
    """Let every look at the clock be an hour before the one before."""
    hours = iter(range(24, 0, -1))

    def now():
        moment = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(hours=next(hours))
        return moment.isoformat(timespec="milliseconds")

    monkeypatch.setattr("zoo.registry.rows.now", now)


def test_runs_keep_the_order_in_which_they_were_asked_for(places, put_back):
    with places.open() as registry:
        first = registry.add([new_run(0), new_run(1)])
        second = registry.add([new_run(2, name="later")])
        assert second[0].created_at < first[0].created_at
        assert registry.runs() == [*first, *second]
        assert registry.latest() == second
        again = registry.add([new_run(1)])
        assert registry.latest() == again
        assert again[0].id == first[1].id


def test_a_time_that_is_none_is_passed_over(places):
    with places.open() as registry:
        (run,) = registry.add([new_run(0)])
        for told in ("soon", "9999-12-31T23:59:59.999+00:00"):
            places.execute(f"UPDATE run SET requested_at = '{told}'", "SELECT 1")
            registry.add([new_run(1)])
            assert registry.run(run.id).requested_at == told


def test_a_product_that_looks_older_than_its_parents_comes_back_with_them(tmp_path, put_back):
    with opened(tmp_path) as registry:
        (parent,) = registry.add([new_run(0)])
        (child,) = registry.add([new_run(None, name="soup", kind="weights", parents=(parent.id,))])
        (last,) = registry.add([new_run(None, name="more", kind="weights", parents=(child.id,))])
        assert last.created_at < child.created_at < parent.created_at
        for run in (parent, child, last):
            publish(registry, run)
    (tmp_path / "registry.db").unlink()
    done = rebuild(f"sqlite:///{tmp_path}/registry.db", tmp_path / "blobs")
    assert done.faults == []
    assert [(run.id, run.parents) for run in done.runs] == [
        (run.id, run.parents) for run in (parent, child, last)
    ]


def test_parents_in_a_circle_are_lost_and_the_runs_are_not(tmp_path):
    with opened(tmp_path) as registry:
        runs = registry.add([new_run(0), new_run(1)])
        for run, other in zip(runs, reversed(runs), strict=True):  # no registry writes such headers
            registry._facts[run.id] = type(run)(**{**vars(run), "parents": (other.id, run.id)})
            publish(registry, run)
    (tmp_path / "registry.db").unlink()
    done = rebuild(f"sqlite:///{tmp_path}/registry.db", tmp_path / "blobs")
    assert {run.id for run in done.runs} == {run.id for run in runs}
    assert all("are lost" in fault for fault in done.faults)
    assert len(done.faults) == 2


def test_durations_are_not_taken_from_a_clock_that_is_put_back(tmp_path, monkeypatch):
    seconds = iter(range(10**9, 0, -1000))
    monkeypatch.setattr(time, "time", lambda: float(next(seconds)))
    runs = train(tmp_path, SMALL)
    with opened(tmp_path) as registry:
        for run in runs:
            told = [row["seconds"] for row in registry.history(run.id)]
            assert told == sorted(told)
            assert 0 < told[0] <= told[-1] <= run.seconds < 600


def test_a_machine_whose_clock_is_ahead_takes_no_run_from_a_living_owner(places, monkeypatch):
    with places.open() as one, places.open() as other:
        ids = [run.id for run in one.add([new_run()])]
        assert one.claim(ids)
        real = time.time
        monkeypatch.setattr(time, "time", lambda: real() + 86_400)
        assert other.claim(ids) == set()
        assert not other.holders(ids)[ids[0]].is_gone
