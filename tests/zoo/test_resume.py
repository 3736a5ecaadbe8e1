"""An interrupted training goes on and ends as if nothing had happened, to the last bit."""

import json
import os
import random
import signal
import subprocess
import sys
import weakref
from dataclasses import asdict
from functools import cache
from pathlib import Path

import pytest
import torch
from crowd import same_end
from effort import KILLS
from servers import Places

from zoo.choice import Choice
from zoo.config import RunConfig, parse
from zoo.data import load
from zoo.errors import InterruptedRunsError, MismatchError
from zoo.fit import Fit
from zoo.planning import plan
from zoo.registry import Registry
from zoo.registry.weights import decode, encode, header
from zoo.reports import Member, Pass
from zoo.sections import DataConfig
from zoo.training import Noted, train_many

ROOT = Path(__file__).parents[2]


@cache
def data(ref):
    return load(DataConfig(ref=ref))


EVERYTHING = {
    "data": {"ref": "iris"},
    "model": {"hidden": [8], "norm": "batch", "dropout": 0.2},
    "optim": {"name": "adamw", "lr": 0.02},
    "schedule": {"name": "plateau", "patience": 1, "factor": 0.5},
    "train": {"batch_size": 20, "accumulate": 2, "mixup": 0.4, "label_smoothing": 0.1},
    "stop": {"patience": 3, "also": [{"metric": "accuracy", "patience": 4}], "when": "all"},
    "keep": {"last": True, "top": 3, "every": 2, "ema": 0.9, "swa": 0.4, "lawa": 2},
}
PLAIN = {
    "data": {"ref": "iris"},
    "model": {"hidden": [8]},
    "optim": {"name": "sgd", "lr": 0.05},
    "keep": {"optimiser": True},
}
IMAGES = {
    "data": {"ref": "digits"},
    "model": {"name": "cnn", "channels": [4]},
    "train": {"batch_size": 256},
    "augment": {"crop": 1, "rotate": 10.0, "brightness": 0.2},
}


def crowd(settings, epochs):
    """Members m0, m1, ... that may train for so many epochs each."""
    members = {}
    for k, most in enumerate(epochs):
        train = {**settings.get("train", {}), "epochs": most}
        config = RunConfig.model_validate({**settings, "train": train})
        members[f"m{k}"] = Member(f"m{k}", config, k)
    return members


def told(epoch):
    """An epoch's figures but its time, as text, in which NaN equals itself."""
    return json.dumps({**asdict(epoch), "seconds": 0})


def saved(fit):
    """A snapshot as it comes back from the disk."""
    blob = encode(*fit.snapshot(), "a test", finite=False)
    return decode(blob), header(blob)


def followed(fit):
    """Train to the end; give what each pass told, each end, and the snapshots after each pass."""
    passes, ends, snapshots = [], {}, [saved(fit)]
    for happened in fit:
        kept = [(key, weights.kind, told(weights.epoch)) for key, weights in happened.kept]
        passes.append(([told(epoch) for epoch in happened.epochs], kept))
        ends |= {end.key: end for end in happened.finished}
        if any(fit.slots):
            snapshots.append(saved(fit))
    return passes, ends, snapshots


def same_tensors(ours, theirs):
    return ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


def assert_same_end(ours, theirs):
    assert (ours.key, ours.status, ours.epochs) == (theirs.key, theirs.status, theirs.epochs)
    assert told(ours.best) == told(theirs.best)
    assert same_tensors(ours.state, theirs.state)
    assert len(ours.kept) == len(theirs.kept)
    for mine, other in zip(ours.kept, theirs.kept, strict=True):
        assert (mine.kind, told(mine.epoch)) == (other.kind, told(other.epoch))
        assert same_tensors(mine.state, other.state)


@pytest.mark.parametrize("lanes", [1, 2])
@pytest.mark.parametrize("engine", ["stacked", "sequential"])
@pytest.mark.parametrize(
    ("settings", "epochs"),
    [
        # Slots are refilled, then empty, then fewer; patience ends some sooner.
        pytest.param(EVERYTHING, [2, 9, 4, 1, 6, 7, 3], id="everything"),
        pytest.param(PLAIN, [1, 5, 3, 2, 3], id="plain"),
        pytest.param(IMAGES, [1, 4, 2, 3], id="images"),
    ],
)
def test_a_resumed_fit_ends_bit_for_bit_as_the_uninterrupted_one(settings, epochs, engine, lanes):
    members, source = crowd(settings, epochs), data(settings["data"]["ref"])
    choice = Choice(engine, lanes, 1, 3)
    options = {"device": "cpu"}
    passes, ends, snapshots = followed(
        Fit(list(members.values()), source, choice=choice, width=3, **options)
    )
    assert ends.keys() == members.keys()
    empty = any(None in (slot and slot["key"] for slot in note["slots"]) for _, note in snapshots)
    assert empty == (engine == "stacked")
    for number, (tensors, note) in enumerate(snapshots):
        if number % 2 and number < len(snapshots) - 2:
            continue  # every other one will do
        fit = Fit.resume(members, source, tensors, note, **options)
        later, later_ends, _ = followed(fit)
        assert later == passes[number:]
        assert later_ends.keys() == {key for key, end in ends.items() if key in later_ends}
        for key, end in later_ends.items():
            assert_same_end(end, ends[key])


def test_members_that_nobody_asks_for_leave_their_slots_to_the_waiting():
    members, source = crowd(PLAIN, [4, 4, 4, 4]), data("iris")
    choice = Choice("stacked", 1, 1, 2)
    _, ends, snapshots = followed(Fit(list(members.values()), source, choice=choice, device="cpu"))
    tensors, note = snapshots[2]
    for wanted in (["m1", "m3"], ["m2", "m3"], ["m0"]):
        few = {key: members[key] for key in wanted}
        _, later, _ = followed(Fit.resume(few, source, tensors, note, device="cpu"))
        assert later.keys() == set(wanted)
        for key, end in later.items():
            # In another slot the last bits may differ: the end of a vector is computed apart.
            stayed = key in [slot["key"] for slot in note["slots"]]
            same_end(end, ends[key], exact=stayed)


# -- In the registry


ASKED = {
    "data": {"ref": "digits"},
    "model": {"name": "cnn", "channels": [4]},
    "seeds": 3,
    "train": {"batch_size": 256},
    "stop": {"patience": 4},
    "keep": {"last": True, "top": 2, "every": 2, "ema": 0.9, "optimiser": True},
    "grid": {"train.epochs": [2, 7, 4]},
}
SMALL = {
    "data": {"ref": "iris"},
    "model": {"hidden": [8]},
    "seeds": 3,
    "train": {"epochs": 8, "batch_size": 32},
    "keep": {"every": 3},
}


def opened(folder):
    """Open the registry of a folder, or of :class:`servers.Places`."""
    if isinstance(folder, Places):
        return folder.open()
    return Registry(f"sqlite:///{folder}/registry.db", Path(folder) / "blobs")


def train(folder, asked, watch=lambda event: None, **options):
    options = {"engine": "stacked", "width": 2} | options
    with opened(folder) as registry:
        return train_many(plan(parse(asked)), registry, watch=watch, **options)


def content(folder):
    """All that a registry tells of its runs, but times and names of files; and the weights."""
    with opened(folder) as registry:
        facts, weights = {}, {}
        for run in registry.runs():
            history = [{**row, "run_id": "", "seconds": 0} for row in registry.history(run.id)]
            kept = registry.checkpoints(run.id)
            kept.sort(key=lambda c: (c.kind, c.epoch))
            facts[run.label] = [
                (run.status, run.error, run.epochs, run.best_epoch, run.metrics, history),
                [(c.kind, c.epoch, c.source, c.metrics) for c in kept],
            ]
            for c in kept:
                weights[run.label, c.kind, c.epoch] = registry.load(run.id, c.kind, c.epoch)
    return facts, weights


def assert_same_content(folder, other):
    (facts, weights), (other_facts, other_weights) = content(folder), content(other)
    assert facts == other_facts
    assert weights.keys() == other_weights.keys()
    for key, tensors in weights.items():
        assert same_tensors(tensors, other_weights[key]), key


def states_left(folder):
    """The files of states of training, and the runs that are said to be part of one."""
    with opened(folder) as registry:
        rows = registry.saved_states([run.id for run in registry.runs()])
    files = [path for path in (Path(folder) / "blobs/states").rglob("*") if path.is_file()]
    return files, rows


# One process imports PyTorch; its forks train, and are killed.
DRIVER = """
import json, os, random, signal, sys, time, traceback

from zoo import Registry, journal, parse, plan, train_many

asked, kills, seed = json.loads(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
journal.STATE_S, journal.SHARE = 0, 1  # save the state about every other pass
draw = random.Random(seed)

def attempt(folder):
    child = os.fork()
    if child == 0:
        try:
            with Registry(f"sqlite:///{folder}/registry.db", f"{folder}/blobs") as registry:
                train_many(plan(parse(asked)), registry, engine="stacked", width=2)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return child

start = time.monotonic()
assert os.waitstatus_to_exitcode(os.waitpid(attempt("whole"), 0)[1]) == 0
whole = time.monotonic() - start
killed, folders = 0, 0
while killed < kills:
    folders += 1
    patience = whole
    while True:
        child = attempt(f"killed{folders}")
        time.sleep(draw.uniform(0, patience * draw.choice([0.3, 0.7])))
        patience *= 1.1  # so that it ends on a machine that has become slower, too
        os.kill(child, signal.SIGKILL)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert code in (0, -signal.SIGKILL), code
        if code == 0:
            break
        killed += 1
print(json.dumps({"folders": folders, "killed": killed}))
"""


def test_whatever_moment_it_is_killed_at_the_same_command_ends_with_the_same_bits(tmp_path):
    seed = random.randrange(2**31)
    arguments = [json.dumps(ASKED), str(KILLS), str(seed)]
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, *arguments],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"seed {seed}\n{done.stderr}"
    answer = json.loads(done.stdout.splitlines()[-1])
    assert answer["killed"] >= KILLS
    for number in range(answer["folders"]):
        folder = tmp_path / f"killed{number + 1}"
        assert_same_content(folder, tmp_path / "whole")
        assert states_left(folder)[1] == [], seed  # a kill may leave a file: gc removes it
    assert states_left(tmp_path / "whole") == ([], [])


class Interrupting:
    """Sends signals to this process in the given pass; remembers what was told."""

    def __init__(self, number, *signals):
        self.left, self.signals = number, signals
        self.epochs, self.notes = [], []

    def __call__(self, event):
        if isinstance(event, Noted):
            self.notes.append(event.text)
        if not isinstance(event, Pass):
            return
        self.epochs += [(epoch.key, epoch.epoch) for epoch in event.epochs]
        self.left -= 1
        if self.left == 0:
            for number in self.signals:
                signal.raise_signal(number)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of an uninterrupted training."""
    folder = tmp_path_factory.mktemp("whole")
    train(folder, SMALL)
    return folder


@pytest.mark.parametrize(("how", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_epoch_and_the_same_request_goes_on(tmp_path, whole, how, code, capfd):
    watch = Interrupting(5, how)
    with pytest.raises(InterruptedRunsError, match="0 of 3 runs are finished") as caught:
        train(tmp_path, SMALL, watch)
    assert caught.value.exit_code == code
    assert watch.epochs[-1][1] == 5
    assert "once more stops at once" in capfd.readouterr().err
    with opened(tmp_path) as registry:
        runs = registry.runs()
        assert [run.status for run in runs] == ["interrupted", "interrupted", "queued"]
        assert [row["epoch"] for row in registry.history(runs[0].id)] == [1, 2, 3, 4, 5]
    again = Interrupting(0)
    assert {run.status for run in train(tmp_path, SMALL, again)} == {"finished"}
    assert "3 interrupted runs go on where they were: stacked engine, 1 thread" in again.notes
    firsts = [next(e for key, e in again.epochs if key == run.id) for run in runs]
    assert firsts == [6, 6, 1]
    assert_same_content(tmp_path, whole)
    assert states_left(tmp_path) == ([], [])


def test_a_second_signal_stops_at_once_and_loses_only_what_was_not_saved(tmp_path, whole):
    watch = Interrupting(5, signal.SIGINT, signal.SIGTERM)
    with pytest.raises(InterruptedRunsError) as caught:
        train(tmp_path, SMALL, watch)
    assert caught.value.exit_code == 130
    again = Interrupting(0)
    train(tmp_path, SMALL, again)
    assert min(epoch for _, epoch in again.epochs) == 1  # saved was the beginning alone
    assert_same_content(tmp_path, whole)


def test_who_ended_after_the_state_was_saved_is_not_published_twice(tmp_path, monkeypatch):
    # The last bits of a CNN's gradients depend on how many are computed at once.
    asked = {**ASKED, "model": {"name": "cnn"}, "grid": {"train.epochs": [1, 4]}, "seeds": 1}
    train(tmp_path / "whole", asked)
    with pytest.raises(InterruptedRunsError):  # at once: all that is saved is the beginning
        train(tmp_path, asked, Interrupting(3, signal.SIGINT, signal.SIGINT))
    published = []
    put = Registry.put
    monkeypatch.setattr(Registry, "put", lambda *a, **k: published.append(a[1]) or put(*a, **k))
    again = Interrupting(0)
    short, long = train(tmp_path, asked, again)
    assert set(published) == {long.id}
    assert {key for key, _ in again.epochs} == {long.id}
    assert short.epochs == 1
    assert_same_content(tmp_path, tmp_path / "whole")


def test_other_settings_are_refused_while_runs_are_interrupted(tmp_path):
    with pytest.raises(InterruptedRunsError):
        train(tmp_path, SMALL, Interrupting(2, signal.SIGINT))
    other = {**SMALL, "optim": {"lr": 0.01}}
    with pytest.raises(MismatchError, match=r"however optim\.lr was 0\.001 and is now 0\.01;"):
        train(tmp_path, other)
    with opened(tmp_path) as registry:
        assert len(registry.runs()) == 3
    train(tmp_path, {**other, "name": "other"})
    train(tmp_path, SMALL)
    train(tmp_path, other)


def test_fewer_seeds_go_on_and_the_others_stay_as_they_were(tmp_path, whole):
    with pytest.raises(InterruptedRunsError):
        train(tmp_path, SMALL, Interrupting(3, signal.SIGINT))
    again = Interrupting(0)
    (one,) = train(tmp_path, {**SMALL, "seeds": "1"}, again)
    assert again.epochs[0] == (one.id, 4)
    rest = Interrupting(0)
    train(tmp_path, SMALL, rest)
    assert rest.epochs[0][1] == 4
    assert_same_content(tmp_path, whole)
    assert states_left(tmp_path) == ([], [])


@pytest.mark.parametrize("damage", ["altered", "short", "missing"])
def test_runs_whose_state_is_damaged_start_anew_and_say_so(tmp_path, whole, damage):
    with pytest.raises(InterruptedRunsError):
        train(tmp_path, SMALL, Interrupting(3, signal.SIGINT))
    (file,), _ = states_left(tmp_path)
    blob = bytearray(file.read_bytes())
    blob[-1] ^= 1
    file.write_bytes(blob[:-1] if damage == "short" else blob)
    if damage == "missing":
        file.unlink()
    again = Interrupting(0)
    train(tmp_path, SMALL, again)
    (note,) = [note for note in again.notes if "anew" in note]
    assert note.startswith("3 interrupted runs start anew: the state of training: ")
    assert again.epochs[0][1] == 1
    assert_same_content(tmp_path, whole)
    assert states_left(tmp_path) == ([], [])


def test_a_state_of_another_pytorch_is_said_to_make_other_last_digits(tmp_path, monkeypatch):
    monkeypatch.setattr("zoo.journal.version", lambda package: "1.0")
    with pytest.raises(InterruptedRunsError):
        train(tmp_path, SMALL, Interrupting(3, signal.SIGINT))
    again = Interrupting(0)
    train(tmp_path, SMALL, again)
    (note,) = [note for note in again.notes if "go on where they were" in note]
    assert f"is of PyTorch 1.0 and this is {torch.__version__.partition('+')[0]}" in note
    assert "figures may differ in the last digits" in note
    assert again.epochs[0][1] == 4


def test_other_settings_are_refused_after_a_kill_too(tmp_path):
    with opened(tmp_path) as registry:  # as a killed process leaves it
        runs = registry.add(plan(parse(SMALL)).requests)
        registry.start([run.id for run in runs[:2]])
    with pytest.raises(MismatchError, match=r"optim\.lr was 0\.001 and is now 0\.01"):
        train(tmp_path, {**SMALL, "optim": {"lr": 0.01}})


def test_a_state_of_a_model_that_has_changed_since_is_left_and_said_so(tmp_path, monkeypatch):
    from torch import nn

    from zoo import models

    def changing(shape, outputs):
        return nn.Sequential(nn.Linear(*shape, outputs), *extra)

    extra = []
    monkeypatch.setattr(models, "BUILDERS", dict(models.BUILDERS))
    models.model(changing)
    asked = {**SMALL, "model": {"name": "changing"}}
    with pytest.raises(InterruptedRunsError):
        train(tmp_path, asked, Interrupting(2, signal.SIGINT))
    extra.append(nn.BatchNorm1d(3, affine=False))
    again = Interrupting(0)
    train(tmp_path, asked, again)
    (note,) = [note for note in again.notes if "anew" in note]
    assert "that model has changed: 'stack.1.running_mean' is (2, 3) and was not there" in note


def test_out_of_memory_halves_the_stack_and_nothing_of_the_attempt_is_left(tmp_path, monkeypatch):
    attempts, alive = [], []
    begin = Fit.__init__

    def counted(self, *args, **kwargs):
        alive.append([fit() is not None for fit in attempts])
        attempts.append(weakref.ref(self))
        begin(self, *args, **kwargs)

    def hungry(self, pool):
        if len(self.slots) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return whole_pass(self, pool)

    whole_pass = Fit._pass
    monkeypatch.setattr(Fit, "__init__", counted)
    monkeypatch.setattr(Fit, "_pass", hungry)
    watch = Interrupting(0)
    runs = train(tmp_path, {**SMALL, "seeds": 4}, watch, width=4)
    assert {run.status for run in runs} == {"finished"}
    notes = [note for note in watch.notes if note.startswith("out of memory")]
    assert notes == [
        "out of memory with 4 members at once: now 2 at once",
        "out of memory with 2 members at once: now 1 at once",
    ]
    assert not any(any(fits) for fits in alive)
