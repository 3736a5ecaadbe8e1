"""Whatever two processes do to a registry, it holds what a dictionary would."""

import itertools
from tempfile import TemporaryDirectory

import hypothesis.strategies as st
import pytest
import servers
from effort import EXAMPLES
from hypothesis import HealthCheck, settings
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)
from test_registry import new_run, state

from zoo.errors import LostClaimError, UsageError
from zoo.registry import claims
from zoo.registry.records import DONE, Batch, Outcome
from zoo.registry.upkeep import collect, verify

SEEDS = st.integers(0, 1)  # few, so that the two meet
WHO = st.integers(0, 1)  # two processes, each with a registry of its own
EPOCHS = st.integers(1, 4)
VALUES = st.floats(-10, 10, width=32)
numbers = itertools.count()


class Machine(RuleBasedStateMachine):
    """A registry beside dictionaries; the first element of a claim is who holds the run."""

    runs = Bundle("runs")
    catalogue = staticmethod(lambda folder: f"sqlite:///{folder}/registry.db")

    @initialize()
    def open(self):
        self.folder = TemporaryDirectory()
        self.url = self.catalogue(self.folder.name)
        self.registries = [self.opened(), self.opened()]
        self.ids, self.status, self.best, self.history = {}, {}, {}, {}
        self.holder = {}  # run -> who holds it, or nobody
        self.fenced = {}  # run -> whoever has claimed it last

    def opened(self):
        return servers.Places(self.url, f"{self.folder.name}/blobs").open()

    def teardown(self):
        if hasattr(self, "registries"):
            for registry in self.registries:
                registry.close()
            self.folder.cleanup()

    def may_write(self, who, run_id):
        if run_id in self.mine[who]:
            return self.fenced[run_id] == who
        return self.holder[run_id] is None

    @property
    def mine(self):
        return [registry._claims.held for registry in self.registries]

    def attempt(self, who, run_id, write):
        """Write, which is refused to everybody but the holder."""
        if self.may_write(who, run_id):
            write()
            return True
        with pytest.raises(LostClaimError) as lost:
            write()
        assert lost.value.run_ids == {run_id}
        return False

    @rule(target=runs, who=WHO, seed=SEEDS)
    def add(self, who, seed):
        (run,) = self.registries[who].add([new_run(seed)])
        if seed in self.ids:
            assert run.id == self.ids[seed]
        else:
            self.ids[seed], self.status[run.id] = run.id, "queued"
            self.history[run.id], self.holder[run.id] = {}, None
        return run.id

    @rule(who=WHO, run_id=runs)
    def claim(self, who, run_id):
        free = self.status[run_id] not in DONE and self.holder[run_id] in (None, who)
        assert self.registries[who].claim([run_id]) == ({run_id} if free else set())
        if free:
            self.holder[run_id] = self.fenced[run_id] = who

    @rule(who=WHO, run_id=runs)
    def take_over(self, who, run_id):
        """The other is taken for dead."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(claims, "LEASE_S", -1.0)
            got = self.registries[who].claim([run_id])
        assert bool(got) == (self.status[run_id] not in DONE)
        if got:
            self.holder[run_id] = self.fenced[run_id] = who

    @rule(who=WHO, run_id=runs)
    def start(self, who, run_id):
        if self.status[run_id] == "finished" and self.may_write(who, run_id):
            with pytest.raises(UsageError, match="is finished already"):
                self.registries[who].start([run_id])
        elif self.attempt(who, run_id, lambda: self.registries[who].start([run_id])):
            self.status[run_id], self.history[run_id] = "running", {}
            self.best.pop(run_id, None)

    @rule(who=WHO, run_id=runs, epoch=EPOCHS, loss=VALUES)
    def record(self, who, run_id, epoch, loss):
        row = {"run_id": run_id, "epoch": epoch, "val_loss": loss}
        if self.attempt(who, run_id, lambda: self.registries[who].record([row])):
            self.history[run_id][epoch] = loss

    @rule(who=WHO, run_id=runs, value=VALUES)
    def publish(self, who, run_id, value):
        def write():
            self.registries[who].publish(
                run_id, state(value), epoch=1, epochs=2, metrics={"val_loss": value}, seconds=1.0
            )

        if self.attempt(who, run_id, write):
            self.status[run_id], self.best[run_id] = "finished", value
            self.holder[run_id] = None

    @rule(who=WHO, run_id=runs, status=st.sampled_from(["failed", "diverged", "interrupted"]))
    def finish(self, who, run_id, status):
        batch = Batch(outcomes=[Outcome(run_id=run_id, status=status)])
        if self.attempt(who, run_id, lambda: self.registries[who].write(batch)):
            self.status[run_id], self.holder[run_id] = status, None

    @rule(who=WHO, run_ids=st.sets(runs, min_size=1))
    def save_state(self, who, run_ids):
        if all(self.may_write(who, run_id) for run_id in run_ids):
            self.registries[who].save_state(sorted(run_ids), state(), {"n": next(numbers)})

    @rule(who=WHO)
    def reopen(self, who):
        """A process ends and lets go of what it held; another takes its place."""
        self.registries[who].close()
        self.registries[who] = self.opened()
        for run_id, holder in self.holder.items():
            self.holder[run_id] = None if holder == who else holder

    @rule(who=WHO)
    def collect(self, who):
        collect(self.registries[who], grace_s=-1.0)

    @invariant()
    def holds_what_the_dictionaries_do(self):
        for registry in getattr(self, "registries", ()):
            runs = registry.runs()
            assert {run.id: run.status for run in runs} == self.status
            for run in runs:
                found = {row["epoch"]: row["val_loss"] for row in registry.history(run.id)}
                assert found == self.history[run.id]
                if run.id in self.best:
                    assert registry.load(run.id)["weight"][0, 0] == self.best[run.id]
            held = {run_id for run_id, who in self.holder.items() if who is not None}
            assert set(registry.holders(held)) == {
                run_id for run_id in held if self.registries[self.holder[run_id]] is not registry
            }
        if getattr(self, "registries", None):
            faults = verify(self.registries[0]).faults
            assert [fault for fault in faults if "without weights" not in fault] == []


LIMITS = settings(
    max_examples=EXAMPLES,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


def test_a_registry_on_sqlite_holds_what_a_dictionary_would():
    run_state_machine_as_test(Machine, settings=LIMITS)


def test_a_registry_on_postgresql_holds_what_a_dictionary_would(postgres_server):
    def fresh(_folder):
        name = f"machine_{next(numbers)}"
        servers.execute(postgres_server, f"CREATE SCHEMA {name}")
        return f"{postgres_server}&options=-csearch_path%3D{name}"

    class OnPostgres(Machine):
        catalogue = staticmethod(fresh)

    run_state_machine_as_test(OnPostgres, settings=settings(LIMITS, max_examples=EXAMPLES // 3))
