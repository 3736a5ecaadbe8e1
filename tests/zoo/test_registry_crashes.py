"""Whatever interrupts a publication, the registry shows the old weights or the new, in full."""

import errno
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import servers
import torch
from effort import KILLS
from servers import Places
from sqlalchemy import Engine, event

from zoo.errors import IntegrityError, UnreachableError, ZooError
from zoo.registry import NewRun, Registry
from zoo.registry.bucket import RETRIES

ROOT = Path(__file__).parents[2]


def new_run(seed):
    return NewRun(
        name="r",
        seed=seed,
        config={},
        config_hash="c",
        task="regression",
        data_ref="d",
        data_fingerprint="f",
        split_hash="s",
    )


def publish(registry, run, value):
    registry.publish(
        run.id, {"w": torch.full((8,), value)}, epoch=1, epochs=1, metrics={}, seconds=0.0
    )


@pytest.fixture
def registry(tmp_path):
    with Registry(f"sqlite:///{tmp_path}/registry.db", tmp_path / "blobs") as opened:
        yield opened


def fail(*_arguments, **_options):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(
    "step", ["pathlib.Path.open", "os.fsync", "os.replace", "zoo.registry.blobs.sync_folder"]
)
def test_a_full_disk_at_any_step_leaves_the_old_weights(registry, tmp_path, monkeypatch, step):
    old, fresh = registry.add([new_run(0), new_run(1)])
    publish(registry, old, 1.0)
    before = registry.runs()
    with monkeypatch.context() as patch:
        patch.setattr(step, fail)
        for run in (old, fresh):
            with pytest.raises(ZooError, match=r"safetensors: cannot be written: No space left"):
                publish(registry, run, 2.0)
    assert registry.runs() == before
    assert registry.load(old.id)["w"][0] == 1.0
    assert registry.checkpoints(fresh.id) == []
    assert list((tmp_path / "blobs/tmp").iterdir()) == []
    publish(registry, old, 2.0)
    assert registry.load(old.id)["w"][0] == 2.0


def test_a_failed_commit_leaves_the_old_outcome(places):
    def refuse(_connection):
        raise RuntimeError("power cut")

    with places.open() as registry:
        (run,) = registry.add([new_run(0)])
        publish(registry, run, 1.0)
        before = registry.runs()
        event.listen(Engine, "commit", refuse)
        try:
            with pytest.raises(RuntimeError, match="power cut"):
                publish(registry, run, 2.0)
        finally:
            event.remove(Engine, "commit", refuse)
        assert registry.runs() == before
        assert registry.load(run.id)["w"][0] == 1.0


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(registry, tmp_path, bad):
    (run,) = registry.add([new_run(0)])
    with pytest.raises(ZooError, match=r"seed=0 .* 8 of 8 values of 'w' are not"):
        publish(registry, run, bad)
    assert [path for path in (tmp_path / "blobs").rglob("*") if path.is_file()] == []
    assert registry.runs()[0].status == "queued"


# The children are forked from one process, so that torch is imported once.
COMMON = """
import os, random, signal, sys, time
import torch
from zoo.registry import NewRun, Registry

torch.set_num_threads(1)
url, blobs, kills = *sys.argv[1:3], int(sys.argv[3])

def opened():
    return Registry(url, blobs)

def new_run(seed):
    return NewRun(name="r", seed=seed, config={}, config_hash="c", task="regression",
                  data_ref="d", data_fingerprint="f", split_hash="s")

def publish(registry, run, value):
    registry.publish(run.id, {"w": torch.full((200_000,), float(value))}, epoch=value,
                     epochs=value, metrics={"val_rmse": value}, seconds=0.0)

def succeeded(*children):
    return [os.waitpid(child, 0)[1] for child in children] == [0] * len(children)

def forked(work):
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    return child
"""

KILLED = """
reader, writer = os.pipe()

def work():
    with opened() as registry:
        (run,) = registry.add([new_run(0)])
        value = (run.best_epoch or 0) + 1
        while True:
            publish(registry, run, value)
            os.write(writer, b".")
            value += 1

def check():
    with opened() as registry:
        (run,) = registry.runs()
        (checkpoint,) = registry.checkpoints(run.id)
        weights = registry.load(run.id)["w"]
        assert run.best_epoch == checkpoint.epoch == run.metrics["val_rmse"]
        assert bool((weights == checkpoint.epoch).all())

for _ in range(kills):
    delay = random.uniform(0, 0.03)
    child = forked(work)
    os.read(reader, 1)
    time.sleep(delay)
    os.kill(child, signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert succeeded(forked(check))
print("sound")
"""

FULL = """
import resource

with opened() as registry:
    runs = registry.add([new_run(seed) for seed in range(2)])
    publish(registry, runs[0], 1)
    before = [registry.runs(), registry.checkpoints(runs[0].id)]
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, hard))
    for run in runs:
        try:
            publish(registry, run, 2)
        except Exception as error:
            assert type(error).__name__ == "ZooError", repr(error)
            assert "cannot be written: File too large; make room there" in str(error), error
        else:
            raise AssertionError("800 kB went into 400")
    assert [registry.runs(), registry.checkpoints(runs[0].id)] == before
    assert os.listdir(f"{blobs}/tmp") == []
    assert registry.load(runs[0].id)["w"][0] == 1

    registry.record([{"run_id": runs[0].id, "epoch": 1}])
    rows = [{"run_id": runs[0].id, "epoch": e, "train_loss": 1 / e} for e in range(1, 20_000)]
    try:
        registry.record(rows)
    except Exception as error:
        assert type(error).__name__ == "UnreachableError", repr(error)
    else:
        raise AssertionError("a catalogue of a megabyte went into 400 kB")
    assert len(registry.history(runs[0].id)) == 1
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    registry.record(rows)
    assert len(registry.history(runs[0].id)) == len(rows)
    publish(registry, runs[1], 2)
print("sound")
"""

CROWDED = """
def work(number):
    def run_all():
        with opened() as registry:
            mine = registry.add([new_run(10 * number + seed) for seed in range(4)])
            registry.add([new_run(1000)])
            registry.start([run.id for run in mine])
            for run in mine:
                rows = [{"run_id": run.id, "epoch": e, "train_loss": 1.0} for e in range(1, 4)]
                registry.record(rows)
                publish(registry, run, 1 + run.seed)
    return run_all

assert succeeded(*[forked(work(number)) for number in range(8)])
with opened() as registry:
    done = registry.runs(status="finished")
    assert {run.seed for run in done} == {10 * n + s for n in range(8) for s in range(4)}
    assert len(done) == 32
    assert len(registry.runs()) == 33
    for run in done:
        assert len(registry.history(run.id)) == 3
        assert registry.load(run.id)["w"][0] == 1 + run.seed
print("sound")
"""


def run_script(script, places):
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            textwrap.dedent(COMMON + script),
            places.url,
            places.blobs,
            str(KILLS),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60 + 5 * KILLS,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_killed_publication_leaves_the_old_or_the_new_weights(places):
    assert run_script(KILLED, places).startswith("sound")


def test_eight_processes_at_once_lose_nothing(places):
    assert run_script(CROWDED, places).startswith("sound")


def test_a_store_that_goes_away_leaves_the_old_outcome(tmp_path, monkeypatch):
    for key, value in servers.CREDENTIALS.items():
        monkeypatch.setenv(key, value)
    monkeypatch.setitem(RETRIES, "max_retries", 1)
    places = Places(f"sqlite:///{tmp_path}/registry.db", f"s3://{servers.BUCKET}/gone")
    with servers.s3() as address:
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        registry = places.open()
        old, fresh = registry.add([new_run(0), new_run(1)])
        publish(registry, old, 1.0)
        before = registry.runs()
    with registry:
        for run in (old, fresh):
            with pytest.raises(UnreachableError, match=r"s3://zoo/gone: .*; try again"):
                publish(registry, run, 2.0)
        assert registry.runs() == before
        assert registry.checkpoints(fresh.id) == []
        with pytest.raises(UnreachableError):
            registry.load(old.id)


def test_a_database_damaged_while_open_is_an_integrity_error(registry, tmp_path):
    registry.add([new_run(seed) for seed in range(200)])
    registry.close()  # the log is folded into the file
    path = tmp_path / "registry.db"
    path.write_bytes(path.read_bytes()[:4096] + b"\xff" * 40_000)
    before = path.read_bytes()
    for use in (registry.runs, lambda: registry.add([new_run(0)]), lambda: registry.claim(["x"])):
        with pytest.raises(IntegrityError, match=r"registry\.db is not a sound database") as found:
            use()
        assert found.value.exit_code == 4
    registry.close()
    assert path.read_bytes() == before


def test_a_disk_that_is_full_in_mid_file_leaves_the_old_weights(tmp_path):
    places = Places(f"sqlite:///{tmp_path}/registry.db", str(tmp_path / "blobs"))
    assert run_script(FULL, places).startswith("sound")


ROOMLESS = """
import resource

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
try:
    opened()
except Exception as error:
    assert type(error).__name__ == "UnreachableError", repr(error)
    assert "registry.db: " in str(error), error
else:
    raise AssertionError("a catalogue took no room")
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
opened().close()
print("sound")
"""


def test_a_catalogue_that_has_no_room_to_begin_says_so(tmp_path):
    places = Places(f"sqlite:///{tmp_path}/registry.db", str(tmp_path / "blobs"))
    assert run_script(ROOMLESS, places).startswith("sound")
