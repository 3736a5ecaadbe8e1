"""Workers in processes: the same results, whoever dies on the way."""

import os
import signal
import threading

import pytest
from fleet import ONE_BY_ONE, held, in_training, planned, slow_settings, started, waited_for
from test_resume import assert_same_content, opened, states_left

from zoo import models
from zoo.errors import InterruptedRunsError, WorkersLostError
from zoo.executors import Processes
from zoo.training import Surveyed, train_many
from zoo.usercode import EVERYTHING, trusting
from zoo.working import Noted


def trained(folder, asked, watch=lambda event: None, **options):
    """Train a plan; return its runs."""
    with opened(folder) as registry, trusting(EVERYTHING):
        return train_many(planned(asked), registry, watch=watch, **ONE_BY_ONE | options)


def attempts(folder):
    with opened(folder) as registry:
        return [run.attempts for run in registry.standings("fleet")]


class Told:
    """Remembers what was told."""

    def __init__(self):
        self.notes, self.surveys = [], []

    def __call__(self, event):
        if isinstance(event, Noted):
            self.notes.append(event.text)
        if isinstance(event, Surveyed):
            self.surveys.append(event)


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    return slow_settings(tmp_path_factory.mktemp("model"), seeds=6, epochs=25)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, asked):
    """The folder of a training in one process."""
    folder = tmp_path_factory.mktemp("whole")
    trained(folder, asked)
    return folder


def test_two_processes_train_every_run_once_and_to_the_same_bits(tmp_path, asked, whole):
    watch = Told()
    with held(asked) as hold:

        def let_go():
            in_training(tmp_path)
            hold.unlink()

        thread = threading.Thread(target=let_go)
        thread.start()
        runs = trained(tmp_path, asked, watch, executor=Processes(2))
        thread.join()
    assert {run.status for run in runs} == {"finished"}
    assert_same_content(tmp_path, whole)
    assert attempts(tmp_path) == [1] * 6
    assert {note.partition(":")[0] for note in watch.notes} == {"worker 1", "worker 2"}
    holders = {run.holder for each in watch.surveys for run in each.standings if run.holder}
    assert len(holders) == 2
    assert sum(run.epochs for run in watch.surveys[-1].standings) == 150
    assert states_left(tmp_path) == ([], [])


def test_a_killed_worker_loses_nothing_and_is_replaced(tmp_path, asked, whole):
    watch = Told()
    with held(asked) as hold:

        def kill():
            os.kill(in_training(tmp_path)[0], signal.SIGKILL)
            hold.unlink()

        thread = threading.Thread(target=kill)
        thread.start()
        runs = trained(tmp_path, asked, watch, executor=Processes(2))
        thread.join()
    assert {run.status for run in runs} == {"finished"}
    assert any("died (SIGKILL)" in note for note in watch.notes)
    assert any("1 interrupted runs go on where they were" in note for note in watch.notes)
    assert_same_content(tmp_path, whole)
    assert sorted(attempts(tmp_path)) == [1, 1, 1, 1, 1, 2]


def test_ctrl_c_reaches_the_workers_and_the_same_command_goes_on(tmp_path, asked, whole):
    def interrupt():
        in_training(tmp_path)
        os.kill(os.getpid(), signal.SIGINT)

    with held(asked):
        thread = threading.Thread(target=interrupt)
        thread.start()
        with pytest.raises(InterruptedRunsError) as caught:
            trained(tmp_path, asked, executor=Processes(2))
        thread.join()
    assert caught.value.exit_code == 130
    with opened(tmp_path) as registry:
        standings = registry.standings("fleet")
    assert [run.status for run in standings].count("interrupted") == 2
    assert not any(run.holder for run in standings)
    trained(tmp_path, asked)
    assert_same_content(tmp_path, whole)


def command(folder, asked):
    trained(folder, asked, executor=Processes(2))


def test_workers_of_a_killed_command_save_and_end_and_the_same_command_goes_on(
    tmp_path, asked, whole
):
    with held(asked), opened(tmp_path) as registry:
        driver = started(command, tmp_path, asked)
        pids = in_training(tmp_path)
        assert driver.pid not in pids
        driver.kill()
        driver.join()
        waited_for(lambda: not any(run.holder for run in registry.standings("fleet")))
        told = [run.status for run in registry.standings("fleet")]
    assert told.count("interrupted") == 2
    trained(tmp_path, asked)
    assert_same_content(tmp_path, whole)


def test_workers_that_always_die_are_given_up_with_what_happened(tmp_path, monkeypatch):
    path = tmp_path / "deadly.py"
    path.write_text(
        "import multiprocessing, os, signal\n"
        "from torch import nn\n"
        "def deadly(shape, outputs):\n"
        "    if multiprocessing.parent_process():\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return nn.Linear(*shape, outputs)\n"
    )
    asked = {"data": {"ref": "iris"}, "model": {"name": f"{path}:deadly"}, "seeds": 2}
    monkeypatch.setattr("zoo.executors.LOSSES", 1)
    with pytest.raises(WorkersLostError, match=r"2 of 2 runs .*: worker 1 died \(SIGKILL\); "):
        trained(tmp_path, asked, executor=Processes(1))


def test_a_model_that_workers_do_not_know_is_named(tmp_path, monkeypatch):
    from torch import nn

    def mine(shape, outputs):
        return nn.Linear(*shape, outputs)

    monkeypatch.setattr(models, "BUILDERS", dict(models.BUILDERS))
    models.model(mine)
    asked = {"data": {"ref": "iris"}, "model": {"name": "mine"}, "seeds": 2}
    with pytest.raises(WorkersLostError, match=r"worker 1 model\.name: .*'mine'"):
        trained(tmp_path, asked, executor=Processes(1))


def test_members_of_folds_read_their_own_rows_in_each_process(tmp_path, asked):
    folds = {**asked, "data": {"ref": "iris", "folds": 3}, "train": {"epochs": 2}}
    trained(tmp_path / "whole", folds)
    trained(tmp_path / "shared", folds, executor=Processes(1))
    assert_same_content(tmp_path / "shared", tmp_path / "whole")
