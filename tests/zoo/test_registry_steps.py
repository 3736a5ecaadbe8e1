"""Every step of a publication in turn: the process dies there, the disk fails, the power goes."""

import errno
import os
import pathlib
import shutil
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from sqlalchemy.engine.default import DefaultDialect
from test_registry_crashes import new_run

from zoo.errors import ZooError
from zoo.registry import Registry, rows
from zoo.registry.upkeep import collect, verify


def opened(folder):
    return Registry(f"sqlite:///{folder}/registry.db", Path(folder) / "blobs")


@pytest.fixture(scope="module", autouse=True)
def stopped_clock():
    """Keep the time of a request out of digests: one in 256 would need no new folder, one step."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rows, "now", lambda: "2026-01-01T00:00:00.000+00:00")
        yield


def publish(folder, value, *, seed=0):
    """Add a run, or find it, and publish weights that all have the value."""
    with opened(folder) as registry:
        (run,) = registry.add([new_run(seed)])
        weights = {"w": torch.full((100,), float(value))}
        registry.publish(
            run.id, weights, epoch=value, epochs=value, metrics={"val_rmse": value}, seconds=0.0
        )


@contextmanager
def stepping(before, after=lambda name, arguments: None):
    """Call ``before`` and ``after``, with a name and arguments, at every step towards the disk."""
    patch = pytest.MonkeyPatch()

    def watched(owner, name, wanted=lambda *_: True):
        real = getattr(owner, name)

        def step(*arguments, **options):
            if not wanted(*arguments):
                return real(*arguments, **options)
            before(name, arguments)
            answer = real(*arguments, **options)
            after(name, arguments)
            return answer

        patch.setattr(owner, name, step)

    watched(pathlib.Path, "open", lambda path, *mode: mode == ("xb",))
    for name in ("fsync", "replace"):
        watched(os, name)
    watched(DefaultDialect, "do_commit")
    try:
        yield
    finally:
        patch.undo()


def steps(folder):
    """Count the steps of a publication that replaces another."""
    names = []
    with stepping(lambda name, _arguments: names.append(name)):
        publish(folder, 2)
    return names


def weights_of(folder):
    """Return the value of the weights, and of what the catalogue says of them; all is sound."""
    with opened(folder) as registry:
        found = verify(registry)
        assert found.faults == []
        (run,) = registry.runs()
        (checkpoint,) = registry.checkpoints(run.id)
        value = int(registry.load(run.id)["w"][0])
        assert run.best_epoch == checkpoint.epoch == run.metrics["val_rmse"] == value
        return value


@pytest.fixture(scope="module")
def before(tmp_path_factory):
    folder = tmp_path_factory.mktemp("before")
    publish(folder, 1)
    return folder


@pytest.fixture(scope="module")
def names(before, tmp_path_factory):
    folder = tmp_path_factory.mktemp("counted") / "zoo"
    shutil.copytree(before, folder)
    found = steps(folder)
    assert {"open", "fsync", "replace", "do_commit"} == set(found)
    return found


@pytest.mark.parametrize(("moment", "ends"), [("before", {1}), ("after", {1, 2})])
def test_a_process_that_dies_at_any_step_leaves_the_old_weights_or_the_new(
    before, names, tmp_path, moment, ends
):
    seen = set()
    for k in range(len(names)):
        folder = tmp_path / str(k)
        shutil.copytree(before, folder)
        child = os.fork()
        if child == 0:
            count = 0

            def die(_name, _arguments, k=k):
                nonlocal count
                if count == k:
                    os._exit(9)
                count += 1

            with stepping(**{"before": lambda *_: None, moment: die}):
                publish(folder, 2)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9, names[k]
        seen.add(weights_of(folder))
        with opened(folder) as registry:
            collect(registry, grace_s=-1.0)
            left = [path for path in (folder / "blobs").rglob("*") if path.is_file()]
            assert len(left) == 1, names[k]
        publish(folder, 2)
        assert weights_of(folder) == 2
    assert seen == ends


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
def test_a_disk_that_fails_at_any_step_is_an_error_and_changes_nothing(
    before, names, tmp_path, code
):
    for k, name in enumerate(names):
        folder = tmp_path / str(k)
        shutil.copytree(before, folder)
        count = 0

        def fail(_name, _arguments, k=k):
            nonlocal count
            count += 1
            if count == k + 1:
                raise OSError(code, os.strerror(code))

        with stepping(fail), pytest.raises((ZooError, OSError), match=os.strerror(code)):
            publish(folder, 2)
        assert weights_of(folder) == 1, names[k]
        if name != "do_commit":
            assert list((folder / "blobs/tmp").iterdir()) == []
        publish(folder, 2)
        assert weights_of(folder) == 2


# -- Loss of power: what was not flushed may be gone, and a name that was not, too


def recorded(folder, keep, values=(2, 3)):
    """Publish, and return what reached the disk, in order; catalogues are copied to ``keep``."""
    journal = []

    def before(name, arguments):
        if name == "replace":
            journal.append(("rename", *map(str, arguments)))

    def after(name, arguments):
        if name == "open":
            journal.append(("create", str(arguments[0])))
        if name == "fsync":
            path = Path(f"/proc/self/fd/{arguments[0]}").readlink()
            content = None if path.is_dir() else path.read_bytes()
            journal.append(("flush", str(path), content))
        if name == "do_commit":
            copy = keep / str(len(journal))
            copy.mkdir()
            for file in folder.glob("registry.db*"):
                shutil.copy(file, copy)
            journal.append(("commit", copy))

    with stepping(before, after):
        for value in values:
            publish(folder, value)
    return journal


def after_power_loss(start, folder, journal, *, lucky):
    """Lay out what is on the disk when the power goes after these steps.

    What was flushed is there.  Of the rest the lucky find the names, with nothing in the files,
    and the others find nothing.
    """
    files = {path: path.read_bytes() for path in start.rglob("*") if path.is_file()}
    names = {str(path): path for path in files}  # a name, and which file it means
    durable = dict(names)
    catalogue = start
    for what, *told in journal:
        if what == "create":
            names[told[0]] = file = object()
            files[file] = b""
        elif what == "rename":
            names[told[1]] = names.pop(told[0])
        elif what == "commit":
            catalogue = told[0]
        elif told[1] is None:
            inside = {n: f for n, f in names.items() if os.path.dirname(n) == told[0]}  # noqa: PTH120
            gone = [n for n in durable if os.path.dirname(n) == told[0] and n not in inside]  # noqa: PTH120
            durable |= inside
            for name in gone:
                del durable[name]
        else:
            files[names[told[0]]] = told[1]
    for name, file in (durable | names if lucky else durable).items():
        path = folder / Path(name).relative_to(start)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(files[file])
    for path in folder.glob("registry.db*"):
        path.unlink()
    folder.mkdir(exist_ok=True)
    for path in catalogue.glob("registry.db*"):
        shutil.copy(path, folder)


@pytest.mark.parametrize("lucky", [True, False])
def test_whenever_the_power_goes_the_old_weights_or_the_new_are_there(tmp_path, lucky):
    start = tmp_path / "zoo"
    publish(start, 1)
    shutil.copytree(start, tmp_path / "start")
    keep = tmp_path / "keep"
    keep.mkdir()
    journal = recorded(start, keep)
    shutil.rmtree(start)
    shutil.copytree(tmp_path / "start", start)
    seen = []
    for k in range(len(journal) + 1):
        folder = tmp_path / f"after{k}"
        after_power_loss(start, folder, journal[:k], lucky=lucky)
        seen.append(weights_of(folder))
    assert seen == sorted(seen)
    assert set(seen) == {1, 2, 3}


@pytest.mark.parametrize("lucky", [True, False])
@pytest.mark.parametrize("kind", ["files", "folders"])
def test_without_a_flush_the_weights_would_be_lost(tmp_path, kind, lucky):
    start = tmp_path / "zoo"
    publish(start, 1)
    shutil.copytree(start, tmp_path / "start")
    keep = tmp_path / "keep"
    keep.mkdir()
    journal = recorded(start, keep, [2])
    shutil.rmtree(start)
    shutil.copytree(tmp_path / "start", start)
    unflushed = [
        step for step in journal if step[0] != "flush" or (step[2] is None) != (kind == "folders")
    ]
    folder = tmp_path / "after"
    after_power_loss(start, folder, unflushed, lucky=lucky)
    with opened(folder) as registry:
        lost = verify(registry).faults
    # A name is lost to the unlucky only; what is in a file that was not flushed, to everybody.
    assert bool(lost) == (kind == "files" or not lucky)
