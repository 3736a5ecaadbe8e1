"""The page on exchange runs as it stands, in order, in an empty folder."""

import re
import shlex
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from test_hostile_files import NAMES

from cli import main
from zoo.models import build

PAGE = Path(__file__).parents[1] / "docs" / "exchange.md"


@pytest.mark.filterwarnings(  # Lightning's own
    "ignore:.*isinstance.treespec, LeafSpec.*",
    "ignore:.*does not have many workers.*",
    "ignore:The number of training batches",
    "ignore:Checkpoint directory .* exists and is not empty",
)
def test_every_block_runs_in_order(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ZOO_REGISTRY", raising=False)
    monkeypatch.delenv("ZOO_BLOBS", raising=False)
    state = build("mlp", {"hidden": [8]}, (4,), 3, seed=0).state_dict()
    checkpoint = {"epoch": 3, "state_dict": {f"model.{k}": v for k, v in state.items()}}
    torch.save(checkpoint, "last.ckpt")
    ran = 0
    for language, block in re.findall(r"```(\w+)\n(.*?)```", PAGE.read_text(), re.DOTALL):
        if language == "python":
            exec(compile(block, PAGE.name, "exec"), {})
            assert capsys.readouterr().out
            ran += 1
        for line in block.splitlines() if language == "console" else ():
            result = CliRunner().invoke(main, shlex.split(line)[2:], catch_exceptions=False)
            assert result.exit_code == 0, f"{line}\n{result.output}"
            ran += 1
    assert ran == 12


def test_the_page_counts_the_files_of_the_corpus():
    told = re.search(r"writes (\d+) malicious and damaged files", PAGE.read_text())[1]
    assert int(told) == len(NAMES)
