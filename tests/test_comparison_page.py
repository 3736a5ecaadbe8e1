"""The page on comparing runs as it stands, in order, in a folder with a trained zoo."""

import re
import shlex
from pathlib import Path

from click.testing import CliRunner

from cli import main

PAGE = Path(__file__).parents[1] / "docs" / "comparison.md"


def test_every_block_runs_in_order(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ZOO_REGISTRY", raising=False)
    monkeypatch.delenv("ZOO_BLOBS", raising=False)

    def run(arguments):
        result = CliRunner().invoke(main, arguments, catch_exceptions=False)
        assert result.exit_code == 0, f"{arguments}\n{result.output}"

    run(["train-many", "--data", "iris", "--seeds", "2", "--set", "train.epochs=3"])
    ran = 0
    for language, block in re.findall(r"```(\w+)\n(.*?)```", PAGE.read_text(), re.DOTALL):
        if language == "python":
            exec(compile(block, PAGE.name, "exec"), {})
            assert "For the cost of one model, ship" in capsys.readouterr().out
            ran += 1
        for line in block.splitlines() if language == "console" else ():
            run(shlex.split(line)[2:])
            ran += 1
    assert ran == 9
    assert "<!DOCTYPE html>" in Path("report.html").read_text()
