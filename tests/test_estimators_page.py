"""The page on the estimators runs as it stands."""

import re
from pathlib import Path

PAGE = Path(__file__).parents[1] / "docs" / "estimators.md"


def test_every_block_runs(capsys):
    (block,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    exec(compile(block, PAGE.name, "exec"), {})
    score, folds = capsys.readouterr().out.splitlines()
    assert float(score.split()[0]) > 0.9
    assert all(float(each) > 0.9 for each in folds.strip("[]").split())
