"""The README's commands and programs run as they stand, in order, in an empty folder."""

import random
import re
import shlex
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner

import ensemble
from cli import main
from ensemble.catalogue import methods
from zoo import Registry, plan, train_many
from zoo.config import parse
from zoo.errors import ConfigError
from zoo.models import BUILDERS

TEXT = (Path(__file__).parents[1] / "README.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", TEXT, re.DOTALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder that holds the file of houses which the README speaks of."""
    folder = tmp_path_factory.mktemp("readme")
    random.seed(0)
    lines = ["area,rooms,town,price"]
    for _ in range(200):
        area, rooms, town = random.uniform(40, 200), random.randint(1, 6), random.choice("ABC")
        price = 1000 * area + 5000 * rooms + random.gauss(0, 9000)
        lines.append(f"{area:.1f},{rooms if random.random() < 0.9 else ''},{town},{price:.0f}")
    (folder / "houses.csv").write_text("\n".join(lines))
    return folder


def test_every_block_runs_in_order(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    monkeypatch.delenv("ZOO_REGISTRY", raising=False)
    monkeypatch.delenv("ZOO_BLOBS", raising=False)
    ran = 0
    for language, block in BLOCKS:
        if language == "toml":
            tomllib.loads(block)
            Path(block.splitlines()[0].removeprefix("# ")).write_text(block)
        elif language == "python":
            exec(compile(block, "README.md", "exec"), {})
            assert capsys.readouterr().out
            ran += 1
        elif language == "console":
            for line in block.splitlines():
                program, *arguments = shlex.split(line.removeprefix("$ "))
                assert program == "zoo"
                result = CliRunner().invoke(main, arguments, catch_exceptions=False)
                assert result.exit_code == 0, f"{line}\n{result.output}"
                ran += 1
    assert ran >= 12


def test_the_blocks_of_the_page_on_data_run(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ZOO_REGISTRY", raising=False)
    monkeypatch.delenv("ZOO_BLOBS", raising=False)
    houses = (folder / "houses.csv").read_text()
    Path("houses.csv").write_text(houses)
    lines = ["patient,age,outcome"]
    lines += [f"{i // 3},{i * 37 % 80},{'ab'[i % 2]}" for i in range(90)]
    Path("patients.csv").write_text("\n".join(lines))
    asked = {"data": {"ref": "houses.csv", "target": "price"}, "seeds": 1, "train": {"epochs": 1}}
    with Registry("sqlite:///mine/registry.db", "mine/blobs") as registry:
        (run,) = train_many(plan(parse(asked)), registry)
    text = (Path(__file__).parents[1] / "docs" / "data.md").read_text()
    ran = 0
    for language, block in re.findall(r"```(\w+)\n(.*?)```", text, re.DOTALL):
        if language == "python":
            scope = {"run": run, "path": Path("houses.csv")}
            exec(compile(block, "docs/data.md", "exec"), scope)
            ran += 1
        for line in block.splitlines() if language == "console" else ():
            result = CliRunner().invoke(main, shlex.split(line)[2:], catch_exceptions=False)
            assert result.exit_code == 0, f"{line}\n{result.output}"
            ran += 1
    assert ran >= 7


def test_every_command_method_and_model_is_documented():
    for name in main.commands:
        assert name in TEXT
    for name in [*(method.name for method in methods()), *BUILDERS, "sgd", "adam", "adamw"]:
        assert f"`{name}`" in TEXT, name


def test_every_method_for_weights_has_a_row_and_a_function():
    page = (Path(__file__).parents[1] / "docs" / "weights.md").read_text()
    named = {
        name
        for row in re.findall(r"^\| (`.*?) \|", page, re.MULTILINE)
        for name in re.findall(r"`(.*?)`", row)
    }
    assert named == {method.name for method in methods("weights")}
    for method in methods("weights"):
        name = {"fisher": "fisher_merge"}.get(method.name, method.name.replace("-", "_"))
        assert getattr(ensemble, name) is method.function


def test_the_error_shown_is_the_error_printed():
    shown = re.search(r"```text\nError: (.*?)\n```", TEXT)[1]
    with pytest.raises(ConfigError) as caught:
        parse({"data": {"ref": "iris"}, "optim": {"lrr": 1}})
    assert str(caught.value) == shown


def test_the_tables_shown_have_the_columns_that_are_printed():
    heads = re.findall(r"^candidate .*$", TEXT, re.MULTILINE)
    assert "delta [95% interval]" in heads[0]
    assert heads[1].split() == ["candidate", "nll", "brier", "ece"]
    costs = ["candidate", "params", "flops", "bytes", "ms", "1", "ms", "256", "epochs"]
    assert heads[2].split() == costs
