"""The same command, started several times at once, trains every run once."""

import sys

from click.testing import CliRunner
from fleet import held, in_training, planned, slow_settings, started
from test_resume import assert_same_content, opened, states_left

from cli import main
from zoo.training import train_many
from zoo.usercode import EVERYTHING, trusting


def command(words, told):
    """Do what the command line does; write its table and its lines."""
    result = CliRunner().invoke(main, words)
    told.write_text(result.output)
    sys.exit(result.exit_code)


def test_commands_that_srun_would_start_share_the_runs(tmp_path):
    asked = slow_settings(tmp_path, seeds=9, epochs=20)
    with opened(tmp_path / "whole") as registry, trusting(EVERYTHING):
        train_many(planned(asked), registry, engine="sequential", width=1)
    words = ["train-many", "--data", "iris", "--model", asked["model"]["name"], "--seeds", "9"]
    words += ["--set", "train.epochs=20", "--set", "train.batch_size=32", "--name", "fleet"]
    words += ["--engine", "sequential", "--width", "1", "--share", "3"]
    words += ["--registry", f"sqlite:///{tmp_path}/registry.db", "--blobs", f"{tmp_path}/blobs"]
    files = [tmp_path / f"told{number}" for number in range(3)]
    with held(asked):
        commands = [started(command, words, file) for file in files]
        in_training(tmp_path, processes=3)
    for each in commands:
        each.join()
    told = [file.read_text() for file in files]
    assert [each.exitcode for each in commands] == [0, 0, 0], told
    trained = [text.count(" finished after 20 epochs") for text in told]
    assert sum(trained) == 9
    assert min(trained) >= 1
    assert_same_content(tmp_path, tmp_path / "whole")
    assert states_left(tmp_path) == ([], [])
    with opened(tmp_path) as registry:
        assert [run.attempts for run in registry.standings("fleet")] == [1] * 9
