"""What is wrong with files is told in a line, and then nothing was written."""

import errno
import json
import os
import resource
import subprocess
import sys
import threading
from collections import namedtuple
from functools import partial
from pathlib import Path

import corpus_headers
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file

from cli import main
from ensemble import average_files
from ensemble.errors import EmptyError, NonFiniteError, OptionError, StateMismatchError
from zoo.errors import UnreachableError, UnsafeFileError, UsageError, ZooError

ROOT = Path(__file__).parents[2]
LARGE = 1_000_000


@pytest.fixture
def folder(tmp_path):
    """Two members, a.safetensors and b.safetensors, and a folder to write into."""
    write(tmp_path / "a.safetensors")
    write(tmp_path / "b.safetensors", 1.0)
    (tmp_path / "out").mkdir()
    return tmp_path


def write(path, value=0.0, **more):
    leaf = torch.full((LARGE,), value)
    save_file({"w": leaf, "v": torch.zeros(3), **more}, path)
    return path


def average(folder, *more, **options):
    output = options.pop("output", folder / "out" / "mean.safetensors")
    return average_files(
        [folder / "a.safetensors", folder / "b.safetensors", *more], output, **options
    )


def empty(folder):
    return not list((folder / "out").iterdir())


def command(folder, *words):
    given = [folder / "a.safetensors", folder / "b.safetensors", "-o", folder / "out/m.safetensors"]
    return CliRunner().invoke(main, ["average", *map(str, [*given, *words])])


def test_members_that_differ_are_refused_with_every_difference(folder):
    changed = {f"k{i:02}": torch.zeros(1) for i in range(12)}
    save_file(
        {"w": torch.zeros(3), "v": torch.zeros(3).half(), **changed}, folder / "b.safetensors"
    )
    with pytest.raises(StateMismatchError) as caught:
        average(folder)
    a, b = folder / "a.safetensors", folder / "b.safetensors"
    assert set(caught.value.differences) == {
        f"'w' is (1000000,) in {a} and (3,) in {b}",
        f"'v' is float32 in {a} and float16 in {b}",
        *(f"'{key}' is missing in {a}" for key in changed),
    }
    told = command(folder)
    assert told.exit_code == 2
    assert all(fact in told.stderr.splitlines() for fact in caught.value.differences)
    assert told.stderr.splitlines()[-1].startswith("Error: members must share")
    assert empty(folder)


@pytest.mark.parametrize("name", corpus_headers.CONTENTS)
def test_a_damaged_file_among_the_members_is_named(folder, name):
    bad = folder / f"{name}.safetensors"
    bad.write_bytes(corpus_headers.CONTENTS[name]())
    expected = StateMismatchError if name == "card_not_an_object" else UnsafeFileError
    with pytest.raises(expected, match=name):
        average(folder, bad)
    assert empty(folder)


@pytest.mark.parametrize("name", corpus_headers.FOLDERS)
def test_a_damaged_folder_among_the_members_is_named(folder, name):
    corpus_headers.FOLDERS[name](folder / name)
    with pytest.raises((ZooError, StateMismatchError), match=name):
        average(folder, folder / name)
    assert empty(folder)


def test_what_is_no_file_of_weights_is_told(folder):
    (folder / "x.pt").write_bytes(b"\x80\x02}.")
    for name, rule in {
        "gone.safetensors": "cannot be read: No such file",
        "out": "must hold model.safetensors.index.json or one .safetensors file",
        "x.pt": "must be a zip archive",
    }.items():
        with pytest.raises(ZooError, match=f"{name}: {rule}"):
            average(folder, folder / name)
    with pytest.raises(EmptyError, match="at least one file"):
        average_files([], folder / "out" / "mean.safetensors")
    assert empty(folder)


@pytest.mark.parametrize("method", ["uniform", "weighted", "median"])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_a_number_that_is_not_finite_is_named(folder, method, bad, dtype):
    for name, value in {"a": 0.0, "b": 1.0, "c": bad}.items():
        leaf = torch.ones(200_000, dtype=dtype)
        leaf[-3] = value
        save_file({"x.weight": leaf}, folder / f"{name}.safetensors")
    options = {"weights": [1, 1, 0]} if method == "weighted" else {}
    with pytest.raises(NonFiniteError, match=r"'x.weight' holds NaN or infinity in .*/c\.safe"):
        average(folder, folder / "c.safetensors", method=method, options=options)
    assert empty(folder)


def test_a_result_beyond_its_dtype_is_refused(folder):
    write(folder / "b.safetensors", 1e6)
    with pytest.raises(NonFiniteError, match="'w' reaches 500000 and float16 ends at 65504"):
        average(folder, dtype="float16")
    assert empty(folder)
    assert average(folder, dtype="bfloat16").paths[0].stat().st_size < 2.1 * LARGE


@pytest.mark.parametrize("force", [False, True])
def test_a_member_is_never_written_over(folder, force):
    before = (folder / "a.safetensors").read_bytes()
    (folder / "link.safetensors").symlink_to("a.safetensors")
    for name in ("a.safetensors", "link.safetensors", "out/../a.safetensors"):
        with pytest.raises(UsageError, match="is one of the members"):
            average(folder, output=folder / name, force=force)
    (folder / "model").mkdir()
    (folder / "a.safetensors").rename(folder / "model" / "model.safetensors")
    with pytest.raises(UsageError, match="is one of the members"):
        average_files([folder / "model"], folder / "model", force=force)
    assert (folder / "model" / "model.safetensors").read_bytes() == before


def test_what_is_there_is_replaced_by_force_alone(folder):
    path = folder / "out" / "mean.safetensors"
    path.write_text("mine")
    with pytest.raises(UsageError, match="is there already; --force replaces it"):
        average(folder)
    assert path.read_text() == "mine"
    average(folder, force=True)
    assert path.stat().st_size > 4 * LARGE


@pytest.mark.parametrize("name", ["mean.pt", "mean.bin"])
def test_other_formats_are_not_written(folder, name):
    with pytest.raises(UsageError, match="the result is safetensors"):
        average(folder, output=folder / "out" / name)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"method": "unifrom"}, "did you mean 'uniform'"),
        ({"options": {"trim": 0.1}}, "uniform has no option 'trim'"),
        ({"options": {"weights": [1, 2]}}, "uniform has no option 'weights'"),
        ({"options": {"base": "a.safetensors"}}, "uniform takes no base"),
        ({"method": "weighted"}, r"give one number per file: --set weights=\[2,1\]"),
        (
            {"method": "weighted", "options": {"weights": [1]}},
            "weights must be a list of 2 numbers, one per file",
        ),
        ({"method": "weighted", "options": {"weights": [1, -1]}}, "nonnegative, however #1 is -1"),
        ({"method": "weighted", "options": {"weights": "ab"}}, "a list of 2 numbers, one per file"),
        ({"method": "greedy-soup"}, "needs 'score', which files do not hold"),
        ({"method": "slerp", "options": {"whole": True}}, "goes tensor by tensor, however whole"),
        ({"dtype": "int8"}, "--dtype takes a float, however it is 'int8'"),
    ],
)
def test_a_request_that_makes_no_sense_is_told(folder, monkeypatch, given, told):
    monkeypatch.chdir(folder)
    with pytest.raises(OptionError, match=told):
        average(folder, **given)
    assert empty(folder)


def test_a_key_is_for_files_of_torch_save(folder):
    with pytest.raises(UsageError, match=r"--key is for \.pt files"):
        average(folder, key="model")


def cut(path, *_):
    os.truncate(path, 100_000)


def touch(path, *_):
    os.utime(path, ns=(1, 1))


def interrupt(*_):
    raise KeyboardInterrupt  # a signal could come once more, in another test


@pytest.mark.parametrize(
    ("happens", "error", "told"),
    [
        (cut, UnsafeFileError, "b.safetensors: was cut short while it was read"),
        (touch, UnsafeFileError, "b.safetensors: was changed while it was read"),
        (interrupt, KeyboardInterrupt, None),
    ],
)
def test_what_happens_meanwhile_leaves_nothing(folder, happens, error, told):
    with pytest.raises(error, match=told):
        average(folder, watch=partial(happens, folder / "b.safetensors"))
    assert empty(folder)


def test_a_disk_that_is_full_leaves_nothing(folder):
    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (2 * LARGE, 2 * LARGE))

    words = [ROOT / "cli.py", "average", folder / "a.safetensors", folder / "b.safetensors", "-o"]
    ran = subprocess.run(
        [sys.executable, *words, folder / "out" / "mean.safetensors"],
        preexec_fn=limit,
        capture_output=True,
        text=True,
    )
    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr == (
        f"Error: {folder}/out/mean.safetensors: cannot be written: File too large; make room "
        "there, or name another place\n"
    )
    assert empty(folder)


def test_a_disk_that_fails_one_flush_leaves_nothing(folder, monkeypatch):
    failed, sync = threading.Event(), os.fsync

    def fail_once(descriptor):  # as Linux does: a write that was lost is told once
        if failed.is_set():
            return sync(descriptor)
        failed.set()
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("os.fsync", fail_once)
    with pytest.raises(ZooError, match="cannot be written: Input/output error"):
        average(folder, watch=lambda *_: failed.wait(30))
    assert failed.is_set()
    assert empty(folder)


def test_a_disk_without_room_is_told_before_any_work(folder, monkeypatch):
    usage = namedtuple("usage", "total free")
    monkeypatch.setattr("shutil.disk_usage", lambda place: usage(10_000, 1000))
    with pytest.raises(UnreachableError, match=r"needs 4,000,012 bytes, however .*out has 1,000"):
        average(folder)


def test_room_is_asked_of_the_disk_that_an_output_folder_is_on(folder, monkeypatch):
    usage, mount = namedtuple("usage", "total free"), folder / "mount"
    mount.mkdir()
    monkeypatch.setattr(
        "shutil.disk_usage", lambda place: usage(1 << 40, 1000 if place == mount else 1 << 40)
    )
    with pytest.raises(UnreachableError, match=r"however .*mount has 1,000"):
        average(folder, output=mount)


def test_a_folder_that_cannot_be_written_is_told(folder):
    with pytest.raises(ZooError, match="cannot be written: File exists"):
        average(folder, output=folder / "a.safetensors" / "mean.safetensors")
    with pytest.raises(ZooError, match="cannot be written: Operation not permitted"):
        average(folder, output=Path("/sys/none/mean.safetensors"))


def test_an_index_that_names_what_is_not_there_is_refused(folder):
    model = folder / "model"
    model.mkdir()
    write(model / "x.safetensors")
    index = {"weight_map": {"w": "x.safetensors", "u": "x.safetensors"}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UnsafeFileError, match="however they differ in 'u'"):
        average(folder, model)
