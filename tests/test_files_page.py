"""The page on averaging files runs as it stands, in order, in a folder of such files."""

import json
import re
import shlex
from pathlib import Path

import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

from cli import main

PAGE = Path(__file__).parents[1] / "docs" / "files.md"


def test_every_block_runs_in_order(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("shards").mkdir()
    for name, value in {"a": 0.0, "b": 4.0, "c": 1.0, "shards/x": 0.0}.items():
        save_file({"w": torch.tensor([value, 2.0])}, f"{name}.safetensors")
    index = {"weight_map": {"w": "x.safetensors"}}
    Path("shards/model.safetensors.index.json").write_text(json.dumps(index))
    ran = 0
    for language, block in re.findall(r"```(\w+)\n(.*?)```", PAGE.read_text(), re.DOTALL):
        if language == "python":
            exec(compile(block, PAGE.name, "exec"), {})
            assert capsys.readouterr().out == "swa.safetensors\n"
            ran += 1
        for line in block.splitlines() if language == "console" else ():
            result = CliRunner().invoke(main, shlex.split(line)[2:], catch_exceptions=False)
            assert result.exit_code == 0, f"{line}\n{result.output}"
            ran += 1
    assert ran == 6
    found = {path.stem: load_file(path)["w"].tolist() for path in tmp_path.glob("*.safetensors")}
    assert found["median"] == [1.0, 2.0]
    assert found["weighted"] == [1.0, 2.0]
    assert found["swa"] == [2.0, 2.0]
    assert load_file("merged/x.safetensors")["w"].dtype == torch.bfloat16
