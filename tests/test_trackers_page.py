"""The page on trackers runs as it stands, in order, in an empty folder."""

import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from cli import main
from zoo.tracking.commands import FOLLOW_S

PAGE = Path(__file__).parents[1] / "docs" / "trackers.md"


@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")
def test_every_block_runs_in_order(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ZOO_REGISTRY", raising=False)
    monkeypatch.delenv("ZOO_BLOBS", raising=False)
    ran = 0
    for language, block in re.findall(r"```(\w+)\n(.*?)```", PAGE.read_text(), re.DOTALL):
        if language == "python":
            exec(compile(block, PAGE.name, "exec"), {})
            ran += 1
        for line in block.splitlines() if language == "console" else ():
            result = CliRunner().invoke(main, shlex.split(line)[2:], catch_exceptions=False)
            assert result.exit_code == 0, f"{line}\n{result.output}"
            ran += 1
    assert ran == 5
    *again, best = capsys.readouterr().out.splitlines()
    assert again == [str(["unchanged"] * 4)] * 2
    assert re.fullmatch(r"iris-mlp/optim\.lr=0\.01,seed=[01] 0\.\d+", best)


def test_its_figure_is_that_of_the_code():
    assert f"looks every {FOLLOW_S:g} seconds" in " ".join(PAGE.read_text().split())
