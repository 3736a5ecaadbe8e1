"""The README and the page on training run as they stand, in order, in a folder with a table."""

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
from zoo import Registry, models, plan, train_many
from zoo.config import parse
from zoo.errors import ConfigError
from zoo.models import BUILDERS

ROOT = Path(__file__).parents[1]
PAGES = {name: (ROOT / name).read_text() for name in ("README.md", "docs/training.md")}
README, TRAINING = PAGES.values()


@pytest.fixture
def folder(tmp_path_factory):
    """A folder that holds the file of houses which the pages speak of."""
    folder = tmp_path_factory.mktemp("houses")
    random.seed(0)
    lines = ["area,rooms,town,price"]
    for _ in range(200):
        area, rooms, town = random.uniform(40, 200), random.randint(1, 6), random.choice("ABC")
        price = 1000 * area + 5000 * rooms + random.gauss(0, 9000)
        lines.append(f"{area:.1f},{rooms if random.random() < 0.9 else ''},{town},{price:.0f}")
    (folder / "houses.csv").write_text("\n".join(lines))
    return folder


@pytest.mark.parametrize(("page", "least"), [("README.md", 9), ("docs/training.md", 6)])
def test_every_block_runs_in_order(page, least, folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    monkeypatch.setattr(models, "BUILDERS", dict(models.BUILDERS))
    monkeypatch.delenv("ZOO_REGISTRY", raising=False)
    monkeypatch.delenv("ZOO_BLOBS", raising=False)
    ran = 0
    for language, block in re.findall(r"```(\w+)\n(.*?)```", PAGES[page], re.DOTALL):
        if language == "toml":
            tomllib.loads(block)
            Path(block.splitlines()[0].removeprefix("# ")).write_text(block)
        elif language == "python":
            exec(compile(block, page, "exec"), {})
            assert capsys.readouterr().out
            ran += 1
        elif language == "console":
            for line in block.splitlines():
                program, *arguments = shlex.split(line.removeprefix("$ "))
                assert program == "zoo"
                result = CliRunner().invoke(main, arguments, catch_exceptions=False)
                assert result.exit_code == 0, f"{line}\n{result.output}"
                ran += 1
    assert ran >= least


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
    text = (ROOT / "docs/data.md").read_text()
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


def test_every_command_and_model_is_documented():
    for name in main.commands:
        assert name in README
    for name in [*BUILDERS, "sgd", "adam", "adamw"]:
        assert f"`{name}`" in TRAINING, name


def test_every_method_for_weights_has_a_row_and_a_function():
    page = (ROOT / "docs/weights.md").read_text()
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
    shown = re.search(r"```text\nError: (.*?)\n```", TRAINING)[1]
    with pytest.raises(ConfigError) as caught:
        parse({"data": {"ref": "iris"}, "optim": {"lrr": 1}})
    assert str(caught.value) == shown


def test_the_counts_of_methods_are_those_of_the_catalogue():
    told = re.findall(r"one of (\w+) methods\]\(docs/(\w+)\.md\)", README)
    counts = {mode: len(methods(mode)) for mode in ("predictions", "weights")}
    assert {mode: {"ten": "10"}.get(count, count) for count, mode in told} == {
        mode: str(count) for mode, count in counts.items()
    }
