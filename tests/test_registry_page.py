"""The commands of the page on the registry run with a catalogue and weights that are shared."""

import json
import re
import shlex
from pathlib import Path

from click.testing import CliRunner

from cli import main

TEXT = (Path(__file__).parents[1] / "docs" / "registry.md").read_text()


def test_the_commands_run_on_postgresql_and_s3(postgres, s3, tmp_path, monkeypatch):
    monkeypatch.setenv("ZOO_REGISTRY", postgres)
    monkeypatch.setenv("ZOO_BLOBS", s3)
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```console\n(.*?)```", TEXT, re.DOTALL)
    lines = "".join(blocks).splitlines()
    assert len(lines) == 3
    for line in [*lines, "$ zoo list --format json"]:
        result = CliRunner().invoke(main, shlex.split(line)[2:], catch_exceptions=False)
        assert result.exit_code == 0, f"{line}\n{result.output}"
    rows = json.loads(result.stdout)["rows"]
    assert [row["status"] for row in rows] == ["finished", "finished"]
    assert list(tmp_path.iterdir()) == []
