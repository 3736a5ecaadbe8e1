"""The page on serving runs as it stands, in order, in an empty folder."""

import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from cli import main

PAGE = Path(__file__).parents[1] / "docs" / "serving.md"


def test_every_block_runs_in_order(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ZOO_REGISTRY", raising=False)
    monkeypatch.delenv("ZOO_BLOBS", raising=False)
    told = []
    for language, block in re.findall(r"```(\w+)\n(.*?)```", PAGE.read_text(), re.DOTALL):
        if language == "python":
            exec(compile(block, PAGE.name, "exec"), {"__name__": "served"})
            told.append(capsys.readouterr().out)
        for line in block.splitlines() if language == "console" else ():
            result = CliRunner().invoke(main, shlex.split(line)[2:], catch_exceptions=False)
            assert result.exit_code == 0, f"{line}\n{result.output}"
    assert len(told) == 4
    shares = [float(share) for share in re.findall(r"\d\.\d+(?:e-\d+)?", told[1])]
    assert len(shares) == 3
    assert sum(shares) == pytest.approx(1)
