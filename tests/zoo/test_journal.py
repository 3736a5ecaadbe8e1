"""When the journal writes, waits and tries again, by a clock and a registry that obey the test."""

from types import SimpleNamespace

import pytest
import torch

from zoo.errors import LostClaimError, UnreachableError, ZooError
from zoo.journal import Journal, metrics_of
from zoo.registry.records import Batch
from zoo.reports import Epoch, Finished, Kept, Pass

CLASSES = SimpleNamespace(task="classification")
NOTHING = Pass([], [], [])


class Clock:
    """Time that passes only when it is told to, or when somebody sleeps."""

    def __init__(self):
        self.now, self.slept = 1000.0, []

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        self.slept.append(seconds)
        self.now += seconds


class Register:
    """Notes what is asked of it; fails as often as it is told to, and takes its time."""

    def __init__(self, clock):
        self.clock, self.takes, self.asked, self.told = clock, 0.0, [], []
        self.fails = {"write": 0, "put": 0, "save_state": 0}
        self.error = UnreachableError("nobody answers")

    def _asked(self, what, told):
        self.asked.append((what, told))
        self.clock.now += self.takes
        self.fails[what] -= 1
        if self.fails[what] >= 0:
            raise self.error

    def write(self, batch):
        self._asked("write", (list(batch.checkpoints), len(batch.outcomes)))
        self.outcomes, self.batch = batch.outcomes, batch

    def put(self, key, state, **told):
        self._asked("put", key)
        self.told.append(told)
        return key

    def save_state(self, keys, tensors, note):
        self._asked("save_state", keys)

    def of(self, what):
        return [told for each, told in self.asked if each == what]


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr("zoo.journal.time", clock)
    return clock


@pytest.fixture
def journal(clock):
    said = []
    journal = Journal(Register(clock), CLASSES, said.append, saved=clock.now)
    journal.said = said
    return journal


def epoch(key, number=1):
    return Epoch(key, number, 1.0, 0.5, 1.0, 0.5, lr=0.1, grad_norm=1.0, seconds=1.0)


def kept(key):
    return Pass([], [(key, Kept("epoch", epoch(key), {"w": torch.zeros(1)}))], [])


def trained(*keys, waiting=()):
    slots = [SimpleNamespace(member=SimpleNamespace(key=key)) for key in keys]
    more = [SimpleNamespace(key=key) for key in waiting]
    return SimpleNamespace(slots=[None, *slots], waiting=more, snapshot=lambda: ({}, {}))


def test_what_happens_is_written_once_a_second_and_less_often_where_that_takes_long(journal, clock):
    for step, writes in ((0.1, 1), (0.9, 1), (0.2, 2)):
        clock.now += step
        journal.keep(NOTHING)
        assert len(journal.registry.of("write")) == writes
    journal.registry.takes = 3.0
    clock.now += 1.1
    journal.keep(NOTHING)
    for step, writes in ((29.9, 3), (0.2, 4)):
        clock.now += step
        journal.keep(NOTHING)
        assert len(journal.registry.of("write")) == writes


def test_a_flush_does_not_wait_for_who_does_not_answer_but_the_last_one_does(journal, clock):
    journal.registry.fails["write"] = 1
    journal.flush()
    assert clock.slept == []
    assert len(journal.said) == 1
    assert "nobody answers; what happens is kept in memory" in journal.said[0]
    for step, writes in ((4.9, 1), (0.2, 2)):
        clock.now += step
        journal.keep(NOTHING)
        assert len(journal.registry.of("write")) == writes
    journal.registry.fails["write"] = 3
    journal.flush(last=True)
    assert clock.slept == [5, 5, 5]
    journal.registry.fails["write"] = 1000
    start = clock.now
    with pytest.raises(UnreachableError):
        journal.flush(last=True)
    assert 300 < clock.now - start <= 305


def test_a_try_that_took_long_is_followed_by_a_long_pause(journal, clock):
    journal.registry.fails["write"], journal.registry.takes = 1, 2.0
    journal.flush()
    assert journal.due == clock.now + 20


def test_weights_are_stored_at_once_and_in_their_order_where_some_have_to_wait(journal, clock):
    journal.keep(kept("a"))
    assert journal.registry.of("put") == ["a"]
    journal.registry.fails["put"] = 2
    journal.keep(kept("b"))  # the flush that follows tries once more, and says so
    journal.keep(kept("c"))
    assert journal.registry.of("put") == ["a", "b", "b"]
    assert len(journal.said) == 1
    clock.now += 6
    journal.keep(kept("d"))
    assert journal.registry.of("put") == ["a", "b", "b", "b", "c", "d"]
    assert [told for told, _ in journal.registry.of("write")] == [["a"], [], ["b", "c", "d"]]
    assert not journal.parcels


def test_of_who_ends_the_best_weights_come_last_with_the_outcome_and_nothing_after(journal, clock):
    last = Kept("last", epoch("a", 2), {"w": torch.zeros(1)})
    end = Finished("a", "finished", epoch("a"), {"w": torch.zeros(1)}, [last], 2, 9.0)
    lost = Finished("b", "diverged", None, None, [], 1, 3.0, fault="not finite")
    journal.due = clock.now + 1
    journal.keep(Pass([epoch("a"), epoch("b")], [], []))
    journal.keep(Pass([epoch("a", 2)], [], [end, lost]))
    journal.keep(Pass([], kept("a").kept, [end, lost]))
    assert [(told["kind"], told["epoch"]) for told in journal.registry.told] == [
        ("last", 2),
        ("best", 1),
    ]
    outcome = journal.registry.told[1]["outcome"]
    assert journal.registry.told[0]["outcome"] is None
    rows = journal.registry.told[1]["history"]
    assert [row["epoch"] for row in rows] == [1, 2]
    assert {"run_id", "val_loss"} < rows[0].keys()
    assert not {"key", "source", "val_balanced_accuracy"} & rows[0].keys()
    assert (outcome.status, outcome.error, outcome.epochs, outcome.best_epoch) == (
        ("finished", None, 2, 1)
    )
    assert outcome.metrics["val_accuracy"] == 0.5
    journal.flush()
    assert [one.run_id for one in journal.registry.outcomes] == ["a", "b"]
    assert journal.registry.outcomes[1].error == "not finite"
    assert journal.registry.outcomes[1].best_epoch is None
    assert (journal.ended, journal.failed, journal.histories) == ({"a", "b"}, set(), {})


def test_of_a_pass_the_history_is_written_and_once_of_each_member_that_it_has_begun(journal, clock):
    journal.keep(Pass([epoch("a"), epoch("b")], [], []))
    batch = journal.registry.batch
    assert batch.started == ["a", "b"]
    assert [(row["run_id"], row["epoch"]) for row in batch.history] == [("a", 1), ("b", 1)]
    clock.now += 2
    journal.keep(Pass([epoch("a", 2)], [], []))
    batch = journal.registry.batch
    assert batch.started == []
    assert [(row["run_id"], row["epoch"]) for row in batch.history] == [("a", 2)]
    assert journal.batch == Batch()


def test_of_a_run_that_was_taken_over_nothing_more_is_written_and_of_the_others_all(journal, clock):
    journal.due = clock.now + 1
    journal.keep(Pass([epoch("a"), epoch("b")], [], []))
    journal.fail(["c"], "gone")
    journal.registry.error = LostClaimError("a was taken over", frozenset({"a"}))
    journal.registry.fails["write"] = 1
    journal.flush()
    assert journal.said == ["a was taken over"]
    assert journal.ended == {"a", "c"}
    assert journal.registry.batch.started == ["b"]
    assert [row["run_id"] for row in journal.registry.batch.history] == ["b"]
    assert [end.run_id for end in journal.registry.outcomes] == ["c"]
    journal.keep(kept("a"))
    assert journal.registry.of("put") == []


def test_of_a_best_epoch_whose_weights_are_gone_there_is_an_outcome_and_nothing_is_stored(journal):
    journal.keep(Pass([], [], [Finished("a", "failed", epoch("a"), None, [], 1, 1.0, fault="x")]))
    assert journal.registry.of("put") == []
    assert [end.best_epoch for end in journal.registry.outcomes] == [1]


def test_figures_of_a_run_are_named_by_its_task_and_what_is_undefined_is_left_out():
    measured = Epoch("a", 1, 1.0, 0.5, 2.0, 0.25, lr=0.1, grad_norm=1.0, seconds=1.0)
    losses = {"train_loss": 1.0, "val_loss": 2.0}
    assert metrics_of(measured, "regression") == losses | {"train_rmse": 0.5, "val_rmse": 0.25}
    for task in ("classification", "multilabel"):
        names = {"train_accuracy": 0.5, "val_accuracy": 0.25}
        assert metrics_of(measured, task) == losses | names


def test_a_run_whose_weights_have_no_room_fails_and_nothing_more_is_stored_of_it(journal, clock):
    journal.registry.fails["put"], journal.registry.error = 1, ZooError("no space")
    end = Finished("a", "finished", epoch("a"), {"w": torch.zeros(1)}, [], 1, 1.0)
    journal.keep(Pass([epoch("a")], kept("a").kept, [end]))
    assert journal.ended == journal.failed == {"a"}
    assert journal.registry.of("put") == ["a"]
    assert journal.registry.of("write") == [([], 1)]
    journal.fail(["a", "b"], "gone")
    assert [end.run_id for end in journal.batch.outcomes] == ["b"]
    assert journal.ended == journal.failed == {"a", "b"}


def test_weights_that_wait_are_not_stored_once_their_run_has_failed(journal, clock):
    journal.registry.fails["put"] = 2
    journal.keep(kept("a"))
    journal.keep(kept("b"))
    journal.fail(["a"], "gone")
    clock.now += 6
    journal.keep(NOTHING)
    assert journal.registry.of("put") == ["a", "a", "b"]
    assert journal.registry.of("write")[-1] == (["b"], 1)
    assert not journal.parcels


def test_the_state_is_saved_of_who_trains_or_waits_and_costs_a_fiftieth_of_the_time(journal, clock):
    fit, journal.ended = trained("a", "b", waiting=["c"]), {"b"}
    for step, saves in ((29.9, 0), (0.2, 1), (29.8, 1), (0.3, 2)):
        clock.now += step
        journal.save(fit)
        assert len(journal.registry.of("save_state")) == saves
    assert journal.registry.of("save_state") == [["a", "c"]] * 2
    journal.registry.takes = 1.0  # a write and a state
    journal.save(fit, now=True)
    for step, saves in ((99.8, 3), (0.4, 4)):
        clock.now += step
        journal.save(fit)
        assert len(journal.registry.of("save_state")) == saves
    journal.save(trained("b"), now=True)
    assert len(journal.registry.of("save_state")) == 4


def test_a_state_that_cannot_be_saved_is_an_error_before_anything_has_begun(journal, clock):
    journal.registry.error = ZooError("no space")
    journal.registry.fails["save_state"] = 4
    with pytest.raises(ZooError, match="no space"):
        journal.save(trained("a"), now=True)
    journal.registry.error = UnreachableError("nobody answers")
    journal.save(trained("a"), now=True)
    journal.registry.error = ZooError("no space")
    for begun in ("histories", "ended"):
        setattr(journal, begun, {"z": []} if begun == "histories" else {"z"})
        journal.save(trained("a"), now=True)
        setattr(journal, begun, type(getattr(journal, begun))())
    assert len(journal.said) == 3
    assert all("the state of training is not saved: " in told for told in journal.said)
