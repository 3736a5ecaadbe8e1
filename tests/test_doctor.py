"""The doctor tells what there is, and what is wrong, in a line each."""

import json
import os
import re
import tomllib
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from cli import main
from zoo import parse, plan, train_many
from zoo.doctor import EXTRAS
from zoo.registry import Registry


def told(*arguments):
    result = CliRunner().invoke(main, ["doctor", *arguments, "--format", "json"])
    return result.exit_code, {row["part"]: row for row in json.loads(result.output)["rows"]}


@pytest.fixture
def places(tmp_path):
    return ["--registry", f"sqlite:///{tmp_path}/r.db", "--blobs", str(tmp_path / "blobs")]


def test_versions_devices_and_runs_are_told(places, tmp_path):
    code, rows = told(*places)
    assert code == 0
    assert rows["torch"]["found"] == torch.__version__
    assert rows["CPU"]["found"].startswith(f"{os.cpu_count()} cores")
    assert rows["registry"]["found"] == "not there yet"
    assert not (tmp_path / "r.db").exists()
    asked = plan(parse({"data": {"ref": "iris"}, "seeds": 2, "train": {"epochs": 1}}))
    with Registry(places[1], places[3]) as registry:
        train_many(asked, registry, engine="stacked")
    code, rows = told(*places)
    assert (code, rows["registry"]["found"]) == (0, "2 finished")
    assert rows["free disk for weights"]["found"].endswith("GiB")


def test_an_extra_that_is_missing_has_its_remedy(places, monkeypatch):
    monkeypatch.setattr("zoo.doctor.EXTRAS", {"none": "no-such-package"})
    _, rows = told(*places)
    row = rows["none: no-such-package"]
    assert (row["found"], row["remedy"]) == ("not installed", "pip install 'zoo-ensemble[none]'")


def test_every_extra_of_the_package_is_told():
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    assert EXTRAS.keys() == extras.keys() - {"docs", "test"}  # which are for this repository
    for extra, name in EXTRAS.items():
        assert any(re.match(rf"{name}[\[>]", requirement) for requirement in extras[extra])


def test_a_damaged_registry_is_told_and_is_the_exit_code(places, tmp_path):
    (tmp_path / "r.db").write_bytes(b"no database at all" * 100)
    code, rows = told(*places)
    assert code not in (0, 2)
    assert "r.db" in rows["registry"]["found"]


def test_a_server_that_is_not_there_is_told_without_its_password(tmp_path):
    url = "postgresql+psycopg://ann:secret@127.0.0.1:1/zoo"
    code, rows = told("--registry", url, "--blobs", str(tmp_path))
    assert code == 1
    assert "127.0.0.1" in rows["registry"]["found"]
    assert "secret" not in json.dumps(rows)
