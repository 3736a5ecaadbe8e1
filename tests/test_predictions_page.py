"""The page on pooling predictions: its blocks run, and every method has a row."""

import re
import shlex
from pathlib import Path

import numpy as np
from click.testing import CliRunner
from sklearn.datasets import load_digits

from cli import main
from ensemble.calibration import KINDS
from ensemble.catalogue import methods
from zoo import Registry, parse, plan, train_many

PAGE = (Path(__file__).parents[1] / "docs" / "predictions.md").read_text()


def test_the_blocks_run_in_order(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ZOO_REGISTRY", raising=False)
    monkeypatch.delenv("ZOO_BLOBS", raising=False)
    asked = {"data": {"ref": "digits"}, "name": "digits-mlp", "seeds": 3, "train": {"epochs": 3}}
    url, blobs = "sqlite:///checkpoints/registry.db", "checkpoints/blobs"
    with Registry(url, blobs) as registry:
        train_many(plan(parse(asked)), registry)
    np.save("rows.npy", load_digits().images[:10])
    ran = 0
    for language, block in re.findall(r"```(\w+)\n(.*?)```", PAGE, re.DOTALL):
        if language == "python":
            exec(compile(block, "docs/predictions.md", "exec"), {})
            assert capsys.readouterr().out
            ran += 1
        for line in block.splitlines() if language == "console" else ():
            result = CliRunner().invoke(main, shlex.split(line)[2:], catch_exceptions=False)
            assert result.exit_code == 0, f"{line}\n{result.output}"
            ran += 1
    assert ran == 10


def test_every_method_and_calibration_has_a_row():
    rows = re.findall(r"^\| (`.*?) \|", PAGE, re.MULTILINE)
    named = {name for row in rows for name in re.findall(r"`(.*?)`", row)}
    assert {method.name for method in methods("predictions")} | set(KINDS) <= named


def test_the_needs_told_are_those_of_the_signature():
    for method in methods("predictions"):
        row = next(line for line in PAGE.splitlines() if re.match(rf"\|[^|]*`{method.name}`", line))
        told = re.findall(r"[a-z]+", row.split("|")[2])
        assert set(told) == set(method.needs) - {"task"}, method.name
