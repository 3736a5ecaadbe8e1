"""A registry is where it is asked to be, or says why it cannot be there."""

import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import servers
import torch
from click.testing import CliRunner

from cli import main
from zoo.errors import IntegrityError, NotFoundError, UnreachableError, UsageError
from zoo.registry import NewRun, Registry
from zoo.registry.upkeep import verify

SECRET = "hunter2"


def new_run(seed=0):
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


def state():
    return {"weight": torch.full((4, 3), 1.0)}


def publish(registry, run):
    return registry.publish(run.id, state(), epoch=1, epochs=1, metrics={}, seconds=None)


def open_registry(folder, **options):
    return Registry(f"sqlite:///{folder}/registry.db", Path(folder) / "blobs", **options)


def blob_of(folder, checkpoint):
    return Path(folder) / "blobs" / checkpoint.sha256[:2] / f"{checkpoint.sha256}.safetensors"


def test_blobs_have_the_permissions_the_umask_gives(tmp_path):
    old = os.umask(0o027)
    try:
        with open_registry(tmp_path) as registry:
            path = blob_of(tmp_path, publish(registry, *registry.add([new_run()])))
    finally:
        os.umask(old)
    assert path.stat().st_mode & 0o777 == 0o640


def test_a_moved_registry_works(tmp_path):
    with open_registry(tmp_path / "old") as registry:
        (run,) = registry.add([new_run()])
        publish(registry, run)
    shutil.move(tmp_path / "old", tmp_path / "new")
    with open_registry(tmp_path / "new", create=False) as registry:
        assert [run.label for run in registry.runs()] == ["r/seed=0"]
        assert torch.equal(registry.load(run.id)["weight"], state()["weight"])


def test_sqlite_is_told_to_flush_to_wait_and_to_check_references(tmp_path):
    with open_registry(tmp_path) as registry:
        for kind in (registry.database.read, registry.database.write):
            with kind() as connection:
                told = [
                    connection.exec_driver_sql(f"PRAGMA {name}").scalar()
                    for name in ("journal_mode", "synchronous", "busy_timeout", "foreign_keys")
                ]
            assert told == ["wal", 2, 30_000, 1]  # 2 is FULL: each commit reaches the disk


def test_relative_places_stay_where_they_were_opened(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with Registry() as registry:
        monkeypatch.chdir("/")
        publish(registry, registry.add([new_run()])[0])
    assert (tmp_path / "checkpoints/registry.db").is_file()


def test_looking_at_no_registry_makes_none(tmp_path):
    with pytest.raises(NotFoundError, match=r"no registry at .*; train-many makes one"):
        open_registry(tmp_path / "none", create=False)
    assert list(tmp_path.iterdir()) == []


def test_places_that_cannot_be_written_are_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=r"file/blobs/tmp: cannot be made: .*--blobs"):
        Registry(f"sqlite:///{tmp_path}/registry.db", tmp_path / "file" / "blobs")
    with pytest.raises(UsageError, match=r"file/below: cannot be made: .*--registry"):
        Registry(f"sqlite:///{tmp_path}/file/below/registry.db", tmp_path / "blobs")
    with pytest.raises(UsageError, match="unable to open database file; choose another"):
        Registry(f"sqlite:///{tmp_path}", tmp_path / "blobs")


def refused_to_a_reader(folder):
    """Say what a process is told that may read what is there, and no more."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        if os.geteuid() == 0:  # to whom nothing is forbidden
            os.setgroups([])
            os.setresuid(65534, 65534, 65534)
        for attempt in (
            lambda: open_registry(folder),
            lambda: open_registry(folder, create=False).add([new_run(1)]),
        ):
            try:
                attempt()
            except UsageError as error:
                os.write(writer, f"{error}\n".encode())
        os._exit(0)
    os.close(writer)
    os.waitpid(child, 0)
    with os.fdopen(reader) as told:
        return told.read().splitlines()


def test_places_that_may_only_be_read_are_refused_at_once():
    with TemporaryDirectory() as outer:
        folder = Path(outer) / "zoo"
        with open_registry(folder) as registry:
            publish(registry, *registry.add([new_run()]))
        Path(outer).chmod(0o755)
        everything = [folder, *folder.rglob("*")]
        modes = {path: path.stat().st_mode for path in everything}
        for path in everything:
            path.chmod(0o555 if path.is_dir() else 0o444)
        told = refused_to_a_reader(folder)
        for path in everything:
            path.chmod(modes[path])
        assert told == [
            f"{folder}/blobs: cannot be written; choose another place with --blobs",
            f"{folder}/registry.db: attempt to write a readonly database;"
            " choose another place with --registry",
        ]
        with open_registry(folder) as registry:
            assert len(registry.runs()) == 1


@pytest.mark.parametrize(
    ("url", "said"),
    [
        (f"mysql://ann:{SECRET}@host/zoo", r"however by 'mysql://ann:\*\*\*@host/zoo'"),
        (f"postgresql+asyncpg://ann:{SECRET}@host/zoo", "however by 'postgresql.asyncpg://ann:"),
        (f"nonsense://ann:{SECRET}@host/zoo?password={SECRET}", "however by 'nonsense://ann:"),
        (f"postgresql://ann:{SECRET}@host:port/zoo", "cannot be parsed"),
        (f"postgresql://127.0.0.1/zoo?surprise=1&password={SECRET}", 'option "surprise"'),
        ("sqlite://", "however by 'sqlite://'"),
        (SECRET, "cannot be parsed"),
        ("", "cannot be parsed"),
    ],
)
def test_other_databases_are_refused_without_their_password(tmp_path, url, said):
    with pytest.raises(UsageError, match=said) as refusal:
        Registry(url, tmp_path / "blobs")
    assert SECRET not in str(refusal.value)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        (f"postgresql://ann:{SECRET}@127.0.0.1:1/zoo", r"ann:\*\*\*@127.0.0.1:1/zoo: .* refused"),
        (f"postgresql+psycopg://127.0.0.1:1/zoo?password={SECRET}", "psycopg://127.0.0.1:1/zoo: "),
    ],
)
def test_a_server_that_does_not_answer_is_named_without_the_password(tmp_path, url, said):
    servers.need("psycopg")
    with pytest.raises(UnreachableError, match=said) as refusal:
        Registry(url, tmp_path / "blobs")
    assert SECRET not in f"{refusal.value!r}{refusal.getrepr(chain=True)}"
    assert refusal.value.exit_code == 1
    assert "\n" not in str(refusal.value)
    places = ["--registry", url, "--blobs", str(tmp_path / "blobs")]
    for words in (["list"], ["verify"], ["train-many", "--data", "iris"]):
        done = CliRunner().invoke(main, [*words, *places])
        assert done.exit_code == 1
        assert SECRET not in done.output


@pytest.mark.parametrize("kind", ["nfs4", "cifs", "lustre", "fuse.sshfs"])
def test_sqlite_on_a_network_file_system_is_refused(tmp_path, monkeypatch, kind):
    table = tmp_path / "mountinfo"
    table.write_text(
        "21 1 8:1 / / rw - ext4 /dev/sda1 rw\n"
        f"60 21 0:50 / {tmp_path}/my\\040share rw,noatime shared:7 - {kind} server:/x rw\n"
        f"61 60 8:2 / {tmp_path}/my\\040share/disk rw - xfs /dev/sdb rw\n"
    )
    monkeypatch.setattr("zoo.registry.places.MOUNTS", table)
    share = tmp_path / "my share"
    for create in (True, False):
        with pytest.raises(UsageError, match=f"is on {kind}, .* use PostgreSQL"):
            Registry(f"sqlite:///{share}/zoo/registry.db", tmp_path / "blobs", create=create)
    assert not share.exists()
    (tmp_path / "link").symlink_to(share)
    with pytest.raises(UsageError, match=f"is on {kind}"):
        Registry(f"sqlite:///{tmp_path}/link/registry.db", tmp_path / "blobs")
    open_registry(share / "disk").close()
    monkeypatch.setattr("zoo.registry.places.MOUNTS", tmp_path / "none")
    open_registry(tmp_path).close()


@pytest.mark.parametrize("create", [True, False])
def test_files_that_are_no_registry_are_refused_and_left_alone(tmp_path, create):
    path = tmp_path / "registry.db"
    path.write_bytes(b"not a database at all, but long enough to be looked at" * 20)
    with pytest.raises(IntegrityError, match=r"registry\.db is not a sound database"):
        open_registry(tmp_path, create=create)
    path.unlink()
    with sqlite3.connect(path) as raw:
        raw.execute("CREATE TABLE cats (name TEXT)")
    raw.close()
    before = path.read_bytes()
    with pytest.raises(UsageError, match="database of something else"):
        open_registry(tmp_path, create=create)
    assert path.read_bytes() == before


def test_looking_needs_neither_torch_nor_alembic_nor_the_drivers_of_others(tmp_path):
    url = f"sqlite:///{tmp_path}/r.db"
    Registry(url, tmp_path / "blobs").close()
    script = f"""
import sys
from zoo.registry import Registry
with Registry("{url}", "s3://bucket/zoo", create=False) as registry:
    registry.runs()
heavy = {{"torch", "safetensors", "numpy", "pandas", "alembic", "psycopg", "obstore"}}
print(*sorted(heavy & set(sys.modules)))
"""
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == ""


def test_weights_are_beside_the_catalogue_unless_somebody_says_otherwise(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ZOO_BLOBS", raising=False)
    asked = ["train-many", "--data", "iris", "--seeds", "1", "--set", "train.epochs=1"]
    url = "sqlite:///team/registry.db"
    assert CliRunner().invoke(main, [*asked, "--registry", url]).exit_code == 0
    assert [path.name for path in tmp_path.iterdir()] == ["team"]
    (tmp_path / "team").rename(tmp_path / "moved")
    with Registry("sqlite:///moved/registry.db") as registry:
        assert verify(registry).faults == []
        assert registry.load(registry.runs()[0].id)
