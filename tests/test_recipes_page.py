"""The page of recipes runs as it stands, in order, in an empty folder."""

import re
from pathlib import Path

from safetensors.torch import load_file

PAGE = Path(__file__).parents[1] / "docs" / "recipes.md"


def test_every_block_runs_in_order(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = {}
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    for block in blocks:
        exec(compile(block, PAGE.name, "exec"), names)
    told = capsys.readouterr().out.splitlines()
    assert len(told) == len(blocks) - 1
    _, naive, aligned = map(float, re.findall(r"\d+\.\d+", told[2]))
    assert aligned < naive
    assert load_file("merged/part-2.safetensors")["b"].tolist() == [2.0] * 4
