"""The choice of how to compute: by a race that changes nothing, and with the reason told."""

import math
import time
from dataclasses import replace
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from stacks import IMPOSSIBLE, MEMBERS, Custom, Rebinding, custom, prepared

from zoo import choice as zoo_choice
from zoo import racing
from zoo.choice import Choice, Race, bounds, described
from zoo.objective import objective
from zoo.racing import ROUNDS
from zoo.sequential import Sequential
from zoo.stack import stack
from zoo.stacked import Stacked

choose = partial(zoo_choice.choose, steps=1)
KINDS = {"stacked": Stacked, "sequential": Sequential}


@pytest.fixture(autouse=True)
def _short_race(monkeypatch):
    torch.manual_seed(0)
    monkeypatch.setattr(zoo_choice, "RACE_S", (0.01, 0.01))
    with torch.no_grad():
        yield


@pytest.fixture
def cores():
    """Give PyTorch two threads to use."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def race(modules, x_KN, y_KN, **knobs):
    return Race(stack(modules), x_KN, y_KN, knobs)


def engines(module, task="classification", names=("stacked", "sequential")):
    return {name: KINDS[name](module, objective(task)) for name in names}


@pytest.mark.parametrize("case", ["mlp batch norm", "cnn"])
def test_choosing_leaves_the_members_as_they_are_and_names_both_times(case):
    modules, x_KN, y_KN, task = prepared(case)
    begun = race(modules, x_KN, y_KN)
    chosen = choose(begun, engines(modules[0], task))
    assert chosen.engine in KINDS
    how = described(chosen, torch.device("cpu"))
    assert chosen.reason.startswith(f"{how} (a step of {MEMBERS} members: stacked ")
    assert " ms, sequential " in chosen.reason
    assert chosen.width == MEMBERS
    for k, module in enumerate(modules):
        for name, value in module.state_dict().items():
            assert torch.equal(begun.stack.state(k)[name], value)


@pytest.mark.usefixtures("cores")
@pytest.mark.parametrize("names", [["stacked"], ["sequential"], ["stacked", "sequential"]])
def test_lanes_and_threads_leave_the_members_as_they_are_too(names):
    modules, x_KN, y_KN, task = prepared("mlp batch norm")
    begun = race(modules, x_KN, y_KN)
    before = {name: row.clone() for name, row in begun.stack.rows().items()}
    chosen = choose(begun, engines(modules[0], task, names))
    assert chosen.engine in names
    assert (chosen.lanes, chosen.threads) in {(1, 1), (1, 2), (2, 1)}
    for name, row in begun.stack.rows().items():
        assert torch.equal(row, before[name])


@pytest.mark.parametrize("knobs", [{}, {"smoothing": 0.5}, {"smoothing": 0.5, "mix": 0.5}])
def test_what_the_loss_takes_besides_is_raced_too(knobs):
    modules, x_KN, y_KN, task = prepared("mlp")
    knobs = {name: torch.full((MEMBERS,), value) for name, value in knobs.items()}
    knobs |= {"mate_N": y_KN.flip(1)} if "mix" in knobs else {}
    assert choose(race(modules, x_KN, y_KN, **knobs), engines(modules[0], task)).engine in KINDS


@pytest.mark.parametrize("kind", IMPOSSIBLE)
def test_a_module_that_cannot_be_stacked_falls_back_and_the_reason_says_why(kind):
    modules, x_KN, y_KN = custom(kind)
    chosen = choose(race(modules, x_KN, y_KN), engines(modules[0]))
    assert chosen.engine == "sequential"
    assert "(a step of 3 members: stacked impossible: " in chosen.reason
    assert "\n" not in chosen.reason


class Unfaithful(Stacked):
    """Computes a gradient that is slightly something else."""

    def step(self, *args):
        loss_K, score_K, gradient_KP = super().step(*args)
        return loss_K, score_K, gradient_KP * 1.1


class Forgetful(Stacked):
    """Does not update the statistics of norms."""

    def step(self, stack, *args):
        return super().step(stack.take(range(len(stack))), *args)


@pytest.mark.parametrize("kind", [Unfaithful, Forgetful])
def test_an_engine_that_computes_something_else_is_left_out_and_the_reason_says_so(kind):
    modules, x_KN, y_KN, task = prepared("mlp batch norm")
    both = {**engines(modules[0], task), "stacked": kind(modules[0], objective(task))}
    chosen = choose(race(modules, x_KN, y_KN), both)
    assert chosen.engine == "sequential"
    assert "stacked left out: it does not compute what the plain module computes" in chosen.reason


def test_a_model_that_works_in_no_engine_raises_its_own_error():
    class Broken(Custom):
        def forward(self, x):
            raise RuntimeError("broken by design")

    modules, x_KN, y_KN = custom(Broken)
    with pytest.raises(RuntimeError, match="broken by design"):
        choose(race(modules, x_KN, y_KN), engines(modules[0]))


@pytest.mark.parametrize("name", KINDS)
def test_the_one_engine_asked_for_is_taken(name):
    modules, x_KN, y_KN, task = prepared("mlp")
    chosen = choose(race(modules, x_KN, y_KN), engines(modules[0], task, [name]))
    assert chosen.engine == name
    assert chosen.reason.startswith(f"{name} engine, 1 thread (a step of {MEMBERS} members: {name}")


def test_the_one_engine_asked_for_raises_what_it_cannot_do():
    modules, x_KN, y_KN = custom(IMPOSSIBLE[0])
    with pytest.raises(RuntimeError):
        choose(race(modules, x_KN, y_KN), engines(modules[0], names=["stacked"]))


def test_the_faster_engine_is_taken():
    class Slow(Stacked):
        def step(self, *args):
            time.sleep(0.02)
            return super().step(*args)

    modules, x_KN, y_KN, task = prepared("mlp")
    both = {**engines(modules[0], task), "stacked": Slow(modules[0], objective(task))}
    assert choose(race(modules, x_KN, y_KN), both).engine == "sequential"


class Drawing(Custom):
    """Draws from PyTorch's own generator, which threads would share."""

    def forward(self, x):
        return self.linear(x + torch.randn(4)) if self.training else self.linear(x)


@pytest.mark.usefixtures("cores")
def test_modules_that_share_one_generator_are_not_trained_in_lanes(monkeypatch):
    raced = []
    start = zoo_choice._race
    monkeypatch.setattr(zoo_choice, "_race", lambda t, steps: (raced.extend(t), start(t, steps)))
    modules, x_KN, y_KN = custom(Drawing)
    chosen = choose(race(modules, x_KN, y_KN), engines(modules[0]))
    assert (chosen.engine, chosen.lanes) == ("sequential", 1)
    assert {timer.lanes for timer in raced} == {1}


@pytest.mark.parametrize(("slower", "width"), [(1.0, 20), (100.0, 16)])
def test_a_wide_stack_is_taken_unless_it_is_slower_per_member(slower, width, monkeypatch):
    modules, x_KN, y_KN, task = prepared("mlp", members=20, rows=4)

    class Timed(zoo_choice._Timer):
        seconds = property(lambda self: 1.0 * (slower if self.scale * self.count > 16 else 1))

        def __init__(self, *args):
            super().__init__(*args)
            self.count = len(args[3].stack) / self.scale

    monkeypatch.setattr(zoo_choice, "_Timer", Timed)
    chosen = choose(race(modules, x_KN, y_KN), engines(modules[0], task, ["stacked"]))
    assert chosen.width == width


# Lanes


@given(members=st.integers(1, 300), lanes=st.integers(1, 40))
def test_lanes_share_out_every_member_once_in_order_and_evenly(members, lanes):
    cuts = bounds(members, lanes)
    assert [k for a, b in cuts for k in range(a, b)] == list(range(members))
    sizes = [b - a for a, b in cuts]
    assert len(cuts) == min(lanes, members)
    assert min(sizes) >= 1
    assert max(sizes) - min(sizes) <= 1


def test_a_race_of_the_first_members_is_a_copy_of_all_that_is_theirs():
    modules, x_KN, y_KN, _ = prepared("mlp")
    whole = race(modules, x_KN, y_KN, smoothing=torch.tensor([0.1, 0.2, 0.3]))
    part = whole.of(0, 2)
    assert (len(part.stack), len(part.x_KN), len(part.y_KN)) == (2, 2, 2)
    assert part.knobs["smoothing"].tolist() == pytest.approx([0.1, 0.2])
    part.stack.flat_KP.zero_()
    assert whole.stack.flat_KP[:2].any()


def test_a_choice_is_told_in_a_few_words():
    one = Choice("stacked", 1, 1, 8)
    cpu = torch.device("cpu")
    assert described(one, cpu) == "stacked engine, 1 thread"
    assert described(replace(one, threads=2), cpu) == "stacked engine, 2 threads"
    assert described(replace(one, lanes=2), cpu) == "stacked engine in 2 lanes"
    assert described(one, torch.device("cuda")) == "stacked engine"


@pytest.mark.usefixtures("cores")
def test_threads_inside_operations_are_set_back():
    with zoo_choice.threads(1):
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 2


class Sampling(Custom):
    """Drops values in evaluation too, as Monte Carlo dropout does."""

    def forward(self, x):
        return self.linear(torch.nn.functional.dropout(x, 0.5, training=True))


class Deciding(Custom):
    """Branches on values in evaluation alone."""

    def forward(self, x):
        outputs = self.linear(x)
        return outputs if self.training or outputs.sum() > 0 else -outputs


@pytest.mark.parametrize(
    ("kind", "fact"), [(Rebinding, "left out"), (Deciding, "impossible"), (Sampling, None)]
)
def test_evaluation_and_buffers_are_compared_too(kind, fact):
    modules, x_KN, y_KN = custom(kind)
    chosen = choose(race(modules, x_KN, y_KN), engines(modules[0]))
    assert (f"stacked {fact}" in chosen.reason) == (fact is not None)


def test_who_is_slow_once_stays_in_the_race():
    class Waking(Stacked):
        steps = 0

        def step(self, *args):
            self.steps += 1
            time.sleep(0.025 * (self.steps == 3))  # the first that is timed
            return super().step(*args)

    class Slow(Sequential):
        def step(self, *args):
            time.sleep(0.01)
            return super().step(*args)

    modules, x_KN, y_KN, task = prepared("mlp")
    both = {
        "stacked": Waking(modules[0], objective(task)),
        "sequential": Slow(modules[0], objective(task)),
    }
    assert choose(race(modules, x_KN, y_KN), both).engine == "stacked"


def test_the_longer_training_takes_the_longer_is_the_race(monkeypatch):
    modules, x_KN, y_KN, task = prepared("mlp")
    start, rounds = zoo_choice._race, []

    def counted(timers, steps):
        start(timers, steps)
        rounds.append(max(len(timer.taken) for timer in timers))

    monkeypatch.setattr(zoo_choice, "_race", counted)
    monkeypatch.setattr(zoo_choice, "RACE_S", (0.0, 0.3))
    monkeypatch.setattr(racing, "HOPELESS", (math.inf,))
    for steps in (1, 1_000_000):
        zoo_choice.choose(race(modules, x_KN, y_KN), engines(modules[0], task), steps)
    assert rounds[0] <= ROUNDS + 1 < rounds[1]


def test_a_race_is_no_longer_than_the_training(monkeypatch):
    asked = []
    monkeypatch.setattr(zoo_choice, "RACE_S", (0.1, 2.0))
    monkeypatch.setattr(zoo_choice, "in_turns", lambda _, enough: asked.append(enough(0.001)))
    for steps in (10, 1_000, 10_000, 10_000_000):
        zoo_choice._race([], steps)
    assert asked == pytest.approx([0.01, 0.1, 0.3, 2.0])


def test_a_race_ends_where_one_contender_is_left():
    clock = iter(range(1000))
    alone, other = (racing.Timer(lambda: None, clock=lambda: next(clock)) for _ in range(2))
    racing.in_turns([alone], lambda _: 100.0)
    assert len(alone.taken) == 1
    other.scale = 31.0  # hopeless
    racing.in_turns([alone, other], lambda _: 100.0)
    assert (len(alone.taken), len(other.taken)) == (2, 1)


def test_one_stall_of_the_machine_drops_nobody():
    stalled, steady = (
        racing.Timer(lambda: None, clock=iter(times).__next__)
        for times in (
            [0.0, 0.03, *(0.03 + 0.002 * k for k in range(9))],
            [0.003 * k for k in range(9)],
        )
    )
    racing.in_turns([stalled, steady], lambda _: 0.0)
    assert stalled.seconds < steady.seconds


def test_memory_that_ends_in_the_race_is_not_taken_for_an_impossible_engine():
    class Hungry(Stacked):
        def step(self, *args):
            raise torch.OutOfMemoryError("CUDA out of memory")

    modules, x_KN, y_KN, task = prepared("mlp")
    both = {**engines(modules[0], task), "stacked": Hungry(modules[0], objective(task))}
    with pytest.raises(torch.OutOfMemoryError):
        choose(race(modules, x_KN, y_KN), both)
