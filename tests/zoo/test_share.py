"""The same command, started several times at once, trains every run once."""

import os
import subprocess
import sys
from pathlib import Path

from fleet import planned, slow_settings
from test_resume import assert_same_content, opened, states_left

from zoo.training import train_many
from zoo.usercode import EVERYTHING, trusting

ROOT = Path(__file__).parents[2]


def test_commands_that_srun_would_start_share_the_runs(tmp_path):
    asked = slow_settings(tmp_path, seeds=9, epochs=20)
    with opened(tmp_path / "whole") as registry, trusting(EVERYTHING):
        train_many(planned(asked), registry, engine="sequential", width=1)
    words = [sys.executable, str(ROOT / "cli.py"), "train-many", "--data", "iris"]
    words += ["--model", asked["model"]["name"], "--seeds", "9", "--name", "fleet"]
    words += ["--set", "train.epochs=20", "--set", "train.batch_size=32"]
    words += ["--engine", "sequential", "--width", "1", "--share", "3"]
    words += ["--registry", f"sqlite:///{tmp_path}/registry.db", "--blobs", f"{tmp_path}/blobs"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    commands = [
        subprocess.Popen(words, env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE)
        for _ in range(3)
    ]
    told = [command.communicate() for command in commands]
    assert [command.returncode for command in commands] == [0, 0, 0], told
    for table, _ in told:  # each shows all runs at its end
        assert table.count(b"finished") == 9
    trained = [notes.count(b" finished after 20 epochs") for _, notes in told]
    assert sum(trained) == 9
    assert min(trained) >= 1
    assert_same_content(tmp_path, tmp_path / "whole")
    assert states_left(tmp_path) == ([], [])
    with opened(tmp_path) as registry:
        assert [run.attempts for run in registry.standings("fleet")] == [1] * 9
