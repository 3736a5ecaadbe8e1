"""A registry of any released version opens with all that is in it, or is left as it was."""

import subprocess
import sys
from pathlib import Path

import pytest
import servers
import torch
from alembic.autogenerate import compare_metadata
from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext
from sqlalchemy import create_engine, inspect, text

from zoo.errors import UsageError
from zoo.registry import Registry
from zoo.registry.blobs import name_of
from zoo.registry.migrations import STEPS, s0001_runs, s0002_claims
from zoo.registry.tables import SCHEMA, metadata

ROOT = Path(__file__).parents[2]
# Written by the last version with schema 1: the catalogue as SQL, and what it refers to.
RELEASED = Path(__file__).parent / "released"


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request, tmp_path):
    if request.param == "postgresql":
        return request.getfixturevalue("postgres")
    return f"sqlite:///{tmp_path}/registry.db"


def release(url, folder):
    """Make a registry as schema 1 was; for SQLite by the very statements that made it then."""
    blob = (RELEASED / "schema1.safetensors").read_bytes()
    lines = (RELEASED / "schema1.sql").read_text().split(";\n")
    statements = [line for line in lines if line.strip() not in ("BEGIN TRANSACTION", "COMMIT", "")]
    engine = create_engine(url)
    with engine.begin() as connection:
        if connection.dialect.name == "postgresql":
            with Operations.context(MigrationContext.configure(connection)):
                s0001_runs.upgrade()
            order = ("meta", "dataset", "run", "parent", "history", "checkpoint")
            rows = [each for each in statements if each.startswith("INSERT")]
            rows.sort(key=lambda row: order.index(row.split('"')[1]))
            statements = rows + [
                f"SELECT setval(pg_get_serial_sequence('{table}', 'sequence'), 10)"
                for table in ("run", "checkpoint")
            ]
        for statement in statements:
            connection.exec_driver_sql(statement)
        sha256 = connection.scalar(text("SELECT sha256 FROM checkpoint"))
    engine.dispose()
    path = folder / "blobs" / name_of(sha256)
    path.parent.mkdir(parents=True)
    path.write_bytes(blob)


def layout(url):
    engine = create_engine(url)
    found = inspect(engine)
    told = {
        table: {c["name"] for c in found.get_columns(table)} for table in found.get_table_names()
    }
    engine.dispose()
    return told


def schema(url):
    return servers.execute(url, "SELECT value FROM meta WHERE key = 'schema'")


def test_migrations_make_the_tables_that_are_declared(url, tmp_path):
    Registry(url, tmp_path / "blobs").close()
    engine = create_engine(url)
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
    engine.dispose()
    assert len(STEPS) == SCHEMA
    assert schema(url) == [(str(SCHEMA),)]


@pytest.mark.parametrize("create", [True, False])
def test_a_registry_of_schema_1_keeps_all_and_can_be_used(url, tmp_path, create):
    release(url, tmp_path)
    with Registry(url, tmp_path / "blobs", create=create) as registry:
        done, queued, soup = registry.runs()
        assert (done.status, done.metrics, done.best_epoch) == (
            "finished",
            {"val_accuracy": 0.9},
            2,
        )
        assert (queued.status, queued.seed) == ("queued", 1)
        assert soup.parents == (done.id, queued.id)
        assert [row["averages"] for row in registry.history(done.id)] == [{"ema": [0.5, 0.25]}] * 2
        assert torch.equal(registry.load(done.id)["w"], torch.arange(3.0))
        assert registry.claim([queued.id]) == {queued.id}
        registry.publish(
            queued.id, {"w": torch.ones(3)}, epoch=1, epochs=1, metrics={}, seconds=None
        )
        assert len(registry.runs(status="finished")) == 2
    assert schema(url) == [(str(SCHEMA),)]


def test_an_upgrade_that_fails_leaves_the_registry_as_it_was(url, tmp_path, monkeypatch):
    release(url, tmp_path)
    before = layout(url)
    upgrade = s0002_claims.upgrade

    def fail():
        upgrade()
        raise RuntimeError("power cut")

    monkeypatch.setattr(s0002_claims, "upgrade", fail)
    with pytest.raises(RuntimeError, match="power cut"):
        Registry(url, tmp_path / "blobs")
    assert layout(url) == before
    assert "fence" not in before["run"]
    assert schema(url) == [("1",)]
    monkeypatch.undo()
    with Registry(url, tmp_path / "blobs") as registry:
        assert len(registry.runs()) == 3


def test_tables_that_cannot_all_be_made_are_not_made(url, tmp_path, monkeypatch):
    monkeypatch.setattr(s0002_claims, "upgrade", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        Registry(url, tmp_path / "blobs")
    assert layout(url) == {}


OPENED = """
import sys
import alembic.operations, alembic.runtime.migration
from zoo.registry import Registry
print("ready", flush=True)
input()
with Registry(sys.argv[1], sys.argv[2]) as registry:
    print(len(registry.runs()))
"""


def test_processes_that_open_an_old_registry_at_once_upgrade_it_once(url, tmp_path):
    release(url, tmp_path)
    children = [
        subprocess.Popen(
            [sys.executable, "-c", OPENED, url, str(tmp_path / "blobs")],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    for child in children:
        assert child.stdout.readline() == "ready\n"
    for child in children:
        child.stdin.write("\n")
        child.stdin.flush()
    for child in children:
        out, err = child.communicate(timeout=60)
        assert (child.returncode, out) == (0, "3\n"), err


@pytest.mark.parametrize("create", [True, False])
def test_a_newer_schema_is_refused_with_both_versions(url, tmp_path, create):
    Registry(url, tmp_path / "blobs").close()
    servers.execute(url, "UPDATE meta SET value = '99' WHERE key = 'schema'", "SELECT 1")
    with pytest.raises(UsageError, match=f"has schema 99, however .* up to {SCHEMA}; upgrade"):
        Registry(url, tmp_path / "blobs", create=create)


def test_a_database_of_something_else_is_left_alone(url, tmp_path):
    servers.execute(url, "CREATE TABLE cats (name TEXT)")
    with pytest.raises(UsageError, match="is a database of something else, not a registry"):
        Registry(url, tmp_path / "blobs")
    assert layout(url) == {"cats": {"name"}}
