"""Workers share the runs of a plan by claiming them: each its part, and everyone once."""

import signal

import pytest
import torch
from test_resume import SMALL, Interrupting, assert_same_content, opened, states_left, train

from zoo.config import parse
from zoo.errors import InterruptedRunsError
from zoo.fit import Fit
from zoo.planning import plan
from zoo.registry.records import Batch, Outcome
from zoo.reports import Pass
from zoo.supply import Supply
from zoo.training import train_many

MANY = {**SMALL, "seeds": 12, "train": {"epochs": 3, "batch_size": 32}}


class Beside:
    """Does something as another process would, after a pass of the given number."""

    def __init__(self, number, deed):
        self.number, self.deed, self.passes = number, deed, []

    def __call__(self, event):
        if isinstance(event, Pass):
            self.passes.append(event)
            if len(self.passes) == self.number:
                self.deed()

    @property
    def trained(self):
        return {epoch.key for passed in self.passes for epoch in passed.epochs}


def held(registry):
    """Return how many runs are somebody's, and how many are nobody's and not done."""
    undone = registry.standings("iris-mlp", undone=True)
    return sum(run.holder is not None for run in undone), sum(run.is_free for run in undone)


def test_a_supply_claims_what_it_lacks_and_no_more():
    asked = []

    def more(count):
        asked.append(count)
        return [str(len(asked))] * min(count, 2)

    supply = Supply(["a", "b", "c"], more)
    assert supply.take(2) == ["a", "b"]
    assert list(supply) == ["c"]
    assert supply.take(2) == ["c", "1"]
    assert supply.take(5) == ["2", "2"]
    assert asked == [1, 5]


def test_one_of_three_takes_a_third_and_leaves_what_others_take(tmp_path):
    counts, others = [], []

    def deed():
        counts.append(held(other))
        free = [run.id for run in other.standings("iris-mlp", undone=True) if run.is_free]
        others.extend(sorted(other.claim(free[:5])))
        other.write(Batch(outcomes=[Outcome(run_id=key, status="finished") for key in others]))

    watch = Beside(1, deed)
    with opened(tmp_path) as registry, opened(tmp_path) as other:
        runs = train_many(
            plan(parse(MANY)), registry, engine="stacked", width=8, share=3, watch=watch
        )
    assert counts == [(4, 8)]  # a third, though there are places for eight
    assert len(others) == 5
    assert watch.trained == {run.id for run in runs}.difference(others)
    assert {run.status for run in runs} == {"finished"}
    first = watch.passes[0].epochs
    assert len(first) == 4
    assert states_left(tmp_path) == ([], [])


def test_alone_a_process_takes_all_at_once(tmp_path):
    counts = []
    watch = Beside(1, lambda: counts.append(held(other)))
    with opened(tmp_path) as registry, opened(tmp_path) as other:
        train_many(plan(parse(MANY)), registry, engine="stacked", width=4, watch=watch)
    assert counts == [(12, 0)]


def test_what_an_interrupted_worker_saved_is_gone_on_with_as_a_whole(tmp_path):
    asked, one_by_one = {**MANY, "seeds": 4}, {"engine": "sequential", "width": 2}
    train(tmp_path / "whole", asked, **one_by_one)
    folder = tmp_path / "shared"
    with opened(folder) as registry:
        stopping = Interrupting(2, signal.SIGINT)
        with pytest.raises(InterruptedRunsError):
            train_many(plan(parse(asked)), registry, share=2, watch=stopping, **one_by_one)
    with opened(folder) as registry:
        saved = [run.id for run in registry.standings("iris-mlp") if run.is_saved]
        assert len(saved) == 2
        again = Interrupting(0)
        train_many(plan(parse(asked)), registry, share=2, watch=again, **one_by_one)
    assert "2 interrupted runs go on where they were: sequential engine, 1 thread" in again.notes
    assert [number for key, number in again.epochs if key in saved][:2] == [3, 3]
    assert_same_content(folder, tmp_path / "whole")


def test_a_shared_training_that_fails_ends(tmp_path, monkeypatch):
    def broken(self, pool):
        raise RuntimeError("no luck")

    monkeypatch.setattr(Fit, "_pass", broken)
    runs = train(tmp_path, MANY, share=3)
    assert {(run.status, run.error) for run in runs} == {("failed", "no luck")}
    monkeypatch.undo()
    runs = train(tmp_path, MANY, share=3)  # another command tries again
    assert {run.status for run in runs} == {"finished"}


def test_a_shared_model_that_cannot_be_computed_fails_and_ends(tmp_path, monkeypatch):
    def broken(self, name, members, width):
        raise RuntimeError("never")

    monkeypatch.setattr("zoo.setup.Setup.choose", broken)
    runs = train(tmp_path, MANY, share=2)
    assert {(run.status, run.error) for run in runs} == {("failed", "never")}


def test_memory_that_ends_halves_a_shared_stack_too(tmp_path, monkeypatch):
    def hungry(self, pool):
        if len(self.slots) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return whole_pass(self, pool)

    whole_pass = Fit._pass
    monkeypatch.setattr(Fit, "_pass", hungry)
    watch = Interrupting(0)
    runs = train(tmp_path, {**MANY, "seeds": 4}, watch, width=4, share=2)
    assert {run.status for run in runs} == {"finished"}
    assert "out of memory with 2 members at once: now 1 at once" in watch.notes


def test_quick_runs_are_claimed_ahead_and_the_last_are_shared_out(tmp_path, monkeypatch):
    asked, claims = {**SMALL, "seeds": 200, "train": {"epochs": 1, "batch_size": 90}}, []
    with opened(tmp_path) as registry:
        claim = registry.claim

        def counted(keys):
            claims.append(len(keys))
            return claim(keys)

        monkeypatch.setattr(registry, "claim", counted)
        monkeypatch.setattr("zoo.working.TURN_S", 0.0)
        runs = train_many(plan(parse(asked)), registry, engine="stacked", width=4, share=2)
    assert {run.status for run in runs} == {"finished"}
    assert sum(claims) == 200
    assert claims[0] == 4
    assert max(claims) > 8  # faster than one claim each
    left = 200 - 4
    for count in claims[1:]:
        assert count <= -(-left // 2)
        left -= count
