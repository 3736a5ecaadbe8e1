"""The page on scaling: its commands and its program run, its figures are those of the code."""

import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from cli import main
from zoo import working
from zoo.registry.claims import LEASE_S

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "scaling.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", TEXT, re.DOTALL)


def test_the_commands_and_the_program_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ZOO_REGISTRY", raising=False)
    monkeypatch.delenv("ZOO_BLOBS", raising=False)
    lines = [line for kind, block in BLOCKS if kind == "console" for line in block.splitlines()]
    assert len(lines) == 3
    for line in lines:
        result = CliRunner().invoke(main, shlex.split(line)[2:], catch_exceptions=False)
        assert result.exit_code == 0, f"{line}\n{result.output}"
    (program,) = [block for kind, block in BLOCKS if kind == "python"]
    exec(compile(program, "docs/scaling.md", "exec"), {"__name__": "__main__"})
    assert capsys.readouterr().out == "{'finished'}\n"


def test_figures_are_those_of_the_code():
    assert f"otherwise {LEASE_S:g} s after" in TEXT
    decision = (ROOT / "docs/decisions/0011-claims-are-the-queue.md").read_text()
    assert f"it waits {working.TURN_S:g} s" in decision
    assert f"at most every {['', 'one', 'two'][int(working.STALE_S)]} seconds" in decision


@pytest.mark.parametrize("option", ["--workers", "--cluster", "--share", "--cpus", "--gpus"])
def test_options_are_told(option):
    assert f"`{option}" in TEXT
