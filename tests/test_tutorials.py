"""The tutorials and the pages on averaging run as they stand, each in an empty folder."""

import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from cli import main
from zoo import models

DOCS = Path(__file__).parents[1] / "docs"
PAGES = [*sorted((DOCS / "tutorials").glob("*.md")), DOCS / "averaging.md", DOCS / "weights.md"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_block_runs_in_order(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(models, "BUILDERS", dict(models.BUILDERS))
    monkeypatch.delenv("ZOO_REGISTRY", raising=False)
    monkeypatch.delenv("ZOO_BLOBS", raising=False)
    names = {}
    blocks = re.findall(r"```(python|console)\n(.*?)```", page.read_text(), re.DOTALL)
    assert blocks
    for language, block in blocks:
        file = re.match(r"# (\S+\.py)\n", block)
        if file:
            Path(file[1]).write_text(block)
        elif language == "python":
            exec(compile(block, page.name, "exec"), names)
        else:
            for line in block.splitlines():
                program, *arguments = shlex.split(line.removeprefix("$ "))
                assert program == "zoo"
                result = CliRunner().invoke(main, arguments, catch_exceptions=False)
                assert result.exit_code == 0, f"{line}\n{result.output}"
                print(line, result.output, sep="\n")
