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


def submitted(asked, folder):
    """Start three of the same command, as srun does; return them, and where each writes."""
    words = ["train-many", "--data", "iris", "--model", asked["model"]["name"], "--seeds", "9"]
    words += ["--set", "train.epochs=20", "--set", "train.batch_size=32", "--name", "fleet"]
    words += ["--engine", "sequential", "--width", "1", "--share", "3"]
    words += ["--registry", f"sqlite:///{folder}/registry.db", "--blobs", f"{folder}/blobs"]
    files = [folder / f"told{number}" for number in range(3)]
    return [started(command, words, file) for file in files], files


def ended(commands):
    for each in commands:
        each.join()
    return [each.exitcode for each in commands]


def test_commands_that_srun_would_start_share_the_runs_and_go_on_when_submitted_again(tmp_path):
    asked = slow_settings(tmp_path, seeds=9, epochs=20)
    with opened(tmp_path / "whole") as registry, trusting(EVERYTHING):
        train_many(planned(asked), registry, engine="sequential", width=1)
    with held(asked):
        commands, files = submitted(asked, tmp_path)
        in_training(tmp_path, processes=3)
        for each in commands:
            each.terminate()  # as --signal=TERM@120 does before the limit
        assert ended(commands) == [143] * 3, [file.read_text() for file in files]
    with opened(tmp_path) as registry:
        told = [(run.status, run.holder) for run in registry.standings("fleet")]
    assert told.count(("interrupted", None)) == 3
    with held(asked):
        commands, files = submitted(asked, tmp_path)
        in_training(tmp_path, processes=3)
    codes, told = ended(commands), [file.read_text() for file in files]
    assert codes == [0, 0, 0], told
    trained = [text.count(" finished after 20 epochs") for text in told]
    assert sum(trained) == 9
    assert min(trained) >= 1
    assert_same_content(tmp_path, tmp_path / "whole")
    assert states_left(tmp_path) == ([], [])
    with opened(tmp_path) as registry:
        assert sorted(run.attempts for run in registry.standings("fleet")) == [1] * 6 + [2] * 3
