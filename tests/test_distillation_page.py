"""The page on distillation runs as it stands, in order, in an empty folder."""

import re
import shlex
from pathlib import Path

from click.testing import CliRunner

from cli import main
from ensemble.students import OPTIONS

PAGE = Path(__file__).parents[1] / "docs" / "distillation.md"


def test_every_block_runs_in_order(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ZOO_REGISTRY", raising=False)
    monkeypatch.delenv("ZOO_BLOBS", raising=False)
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
    assert ran == 8


def test_every_option_has_its_row_and_its_default():
    text = PAGE.read_text()
    for option in OPTIONS:
        default = option.default if isinstance(option.default, str) else f"{option.default:g}"
        assert re.search(rf"^\| `{option.name}` \| `?{default}`? \|", text, re.MULTILINE)
