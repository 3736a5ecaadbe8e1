"""Histories in TensorBoard and MLflow, read back by their own readers."""

from itertools import count

import pytest
from click.testing import CliRunner
from mlflow import MlflowClient
from tensorboard import context
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.plugins.base_plugin import TBContext
from tensorboard.plugins.hparams import api_pb2, backend_context, list_session_groups

from cli import main
from zoo import Registry, ZooError, to_mlflow, to_tensorboard
from zoo.errors import UnreachableError, UsageError
from zoo.registry import NewRun

# MLflow's own, as it opens its tables.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")
numbers = count()


@pytest.fixture
def registry(tmp_path):
    with Registry(f"sqlite:///{tmp_path}/registry.db") as opened:
        yield opened


@pytest.fixture(scope="module")
def uri(tmp_path_factory):
    """A database of MLflow; tests use experiments of their own, since making one takes seconds."""
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db"


@pytest.fixture
def name():
    return f"zoo{next(numbers)}"


def begin(registry, name="zoo", seed=0, lr=0.1):
    """A run that has been started."""
    asked = NewRun(
        name=name,
        config={"optim": {"lr": lr, "betas": [0.9, 0.99]}, "train": {"clip_norm": None}},
        config_hash=str(lr)[:20].encode("utf-8", "replace").hex(),
        task="classification",
        data_ref="digits",
        data_fingerprint="f",
        split_hash="s",
        seed=seed,
    )
    (run,) = registry.add([asked])
    registry.start([run.id])
    return registry.run(run.id)


def go_on(registry, run, *epochs, shift=0.0):
    """Record epochs; that of number n has a validation loss of 1 / n."""
    rows = [
        {"run_id": run.id, "epoch": n, "val_loss": 1 / n + shift, "val_metric": 0.5, "seconds": n}
        for n in epochs
    ]
    registry.record(rows)
    return registry.run(run.id)


def end(registry, run, accuracy=0.9):
    """Publish its weights."""
    import torch

    metrics = {"val_loss": 0.5, "val_accuracy": accuracy}
    state = {"weight": torch.ones(1)}
    registry.publish(run.id, state, epoch=2, epochs=3, metrics=metrics, seconds=3.0)
    return registry.run(run.id)


def one(folder):
    (inner,) = folder.iterdir()
    return inner


def losses(events):
    return [(point.step, point.value) for point in events.Scalars("val_loss")]


def test_tensorboard_reads_every_epoch_and_the_outcome(registry, tmp_path):
    run = end(registry, go_on(registry, begin(registry), 1, 2, 4))
    assert to_tensorboard(registry, [run], tmp_path / "tb") == ["written"]
    events = EventAccumulator(str(one(tmp_path / "tb")))
    events.Reload()
    assert losses(events) == [(1, 1.0), (2, 0.5), (4, 0.25)]
    (best,) = events.Scalars("best_val_accuracy")
    assert (best.step, best.value) == (2, pytest.approx(0.9))
    assert "grad_norm" not in events.Tags()["scalars"]  # nothing was measured


def test_tensorboard_that_watches_sees_what_is_added(registry, tmp_path):
    run = go_on(registry, begin(registry), 1)
    to_tensorboard(registry, [run], tmp_path / "tb")
    events = EventAccumulator(str(one(tmp_path / "tb")))
    events.Reload()
    run = go_on(registry, run, 2, 4)
    assert to_tensorboard(registry, [run], tmp_path / "tb") == ["extended"]
    assert to_tensorboard(registry, [run], tmp_path / "tb") == ["unchanged"]
    events.Reload()
    assert losses(events) == [(1, 1.0), (2, 0.5), (4, 0.25)]


def test_a_file_that_was_cut_off_anywhere_is_completed(registry, tmp_path):
    run = end(registry, go_on(registry, begin(registry), 1, 2))
    to_tensorboard(registry, [run], tmp_path / "tb")
    (file,) = one(tmp_path / "tb").iterdir()
    whole = file.read_bytes()
    for size in range(0, len(whole), 17):
        file.write_bytes(whole[:size])
        assert to_tensorboard(registry, [run], tmp_path / "tb") == ["extended"]
        assert file.read_bytes() == whole


def test_a_run_that_began_anew_replaces_what_tensorboard_has_seen(registry, tmp_path):
    run = go_on(registry, begin(registry), 1, 2, 4)
    to_tensorboard(registry, [run], tmp_path / "tb")
    events = EventAccumulator(str(one(tmp_path / "tb")))
    events.Reload()
    registry.finish(run.id, "failed", error="out of memory")
    registry.start([run.id])
    run = go_on(registry, registry.run(run.id), 1, shift=7.0)
    assert to_tensorboard(registry, [run], tmp_path / "tb") == ["written"]
    events.Reload()
    assert losses(events) == [(1, 8.0)]
    fresh = EventAccumulator(str(one(tmp_path / "tb")))
    fresh.Reload()
    assert losses(fresh) == [(1, 8.0)]


def test_tensorboard_sorts_runs_by_their_outcome_beside_their_settings(registry, tmp_path):
    runs = [end(registry, begin(registry, lr=lr), accuracy=lr) for lr in (0.2, 0.3, 0.1)]
    runs.append(begin(registry, lr=0.4))
    folder = str(tmp_path / "tb")
    to_tensorboard(registry, runs, folder)
    read = EventMultiplexer()
    read.AddRunsFromDirectory(folder)
    read.Reload()
    provider = MultiplexerDataProvider(read, folder)
    backend = backend_context.Context(TBContext(multiplexer=read, data_provider=provider))
    by_accuracy = api_pb2.ColParams(order=api_pb2.ORDER_DESC)
    by_accuracy.metric.tag = "best_val_accuracy"
    states = [api_pb2.STATUS_SUCCESS, api_pb2.STATUS_RUNNING, api_pb2.STATUS_UNKNOWN]
    asked = api_pb2.ListSessionGroupsRequest(
        slice_size=9, allowed_statuses=states, col_params=[by_accuracy]
    )
    told = list_session_groups.Handler(context.RequestContext(), backend, "", asked).run()
    rates = [group.hparams["optim.lr"].number_value for group in told.session_groups]
    assert rates == [0.3, 0.2, 0.1, 0.4]
    first = told.session_groups[0]
    assert first.hparams["optim.betas"].string_value == "[0.9, 0.99]"
    assert "train.clip_norm" not in first.hparams
    assert first.sessions[0].status == api_pb2.STATUS_SUCCESS


def test_no_name_leads_out_of_the_folder(registry, tmp_path):
    run = begin(registry, name="..")
    to_tensorboard(registry, [run], tmp_path / "a" / "tb")
    assert one(tmp_path / "a" / "tb").name == f".._seed=0-{run.id}"
    assert one(tmp_path / "a") == tmp_path / "a" / "tb"


def test_mlflow_has_settings_epochs_and_the_outcome_of_a_run(registry, uri, name):
    run = end(registry, go_on(registry, begin(registry, name, seed=3), 1, 2))
    assert to_mlflow(registry, [run], uri) == ["written"]
    assert to_mlflow(registry, [run], uri) == ["unchanged"]
    client = MlflowClient(uri)
    (there,) = client.search_runs([client.get_experiment_by_name(name).experiment_id])
    assert (there.info.run_name, there.info.status) == (run.label, "FINISHED")
    assert there.data.tags["zoo.run"] == run.id
    assert there.data.tags["zoo.ref"] == f"{name}/seed=3"
    assert there.data.params == {
        "name": name,
        "kind": "single",
        "seed": "3",
        "optim.lr": "0.1",
        "optim.betas": "[0.9, 0.99]",
    }
    assert there.data.metrics["best_val_accuracy"] == 0.9
    points = client.get_metric_history(there.info.run_id, "val_loss")
    assert [(point.step, point.value) for point in points] == [(1, 1.0), (2, 0.5)]
    began = there.info.start_time
    assert [point.timestamp - began for point in points] == [1000, 2000]


def test_mlflow_gets_what_is_added_once(registry, uri, name):
    run = go_on(registry, begin(registry, name), 1, 2)
    to_mlflow(registry, [run], uri)
    registry.finish(run.id, "interrupted")
    assert to_mlflow(registry, [registry.run(run.id)], uri) == ["extended"]
    registry.start([run.id], anew=False)
    run = go_on(registry, registry.run(run.id), 2, 3)
    assert to_mlflow(registry, [run], uri) == ["extended"]
    assert to_mlflow(registry, [run], uri) == ["unchanged"]
    assert to_mlflow(registry, [end(registry, run)], uri) == ["extended"]
    client = MlflowClient(uri)
    (there,) = client.search_runs([client.get_experiment_by_name(name).experiment_id])
    points = client.get_metric_history(there.info.run_id, "val_loss")
    assert [point.step for point in points] == [1, 2, 3]
    assert there.info.status == "FINISHED"


def test_mlflow_shows_an_attempt_that_failed_beside_the_next_one(registry, uri, name):
    run = go_on(registry, begin(registry, name), 1)
    registry.finish(run.id, "failed", error="out of memory")
    to_mlflow(registry, [registry.run(run.id)], uri)
    registry.start([run.id])
    to_mlflow(registry, [registry.run(run.id)], uri)
    client = MlflowClient(uri)
    found = client.search_runs([client.get_experiment_by_name(name).experiment_id])
    assert {there.info.status for there in found} == {"FAILED", "RUNNING"}


def test_a_history_longer_than_a_request_arrives_in_full(registry, uri, name):
    run = go_on(registry, begin(registry, name), *range(1, 1202))
    to_mlflow(registry, [run], uri)
    client = MlflowClient(uri)
    (there,) = client.search_runs([client.get_experiment_by_name(name).experiment_id])
    assert len(client.get_metric_history(there.info.run_id, "val_loss")) == 1201


def test_an_experiment_that_was_deleted_is_not_revived(registry, uri, name):
    client = MlflowClient(uri)
    client.delete_experiment(client.create_experiment(name))
    with pytest.raises(UsageError, match=f"{name}.* was deleted; mlflow experiments restore"):
        to_mlflow(registry, [begin(registry, name)], uri)


def test_a_server_that_does_not_answer_is_told_in_a_line(registry, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(UnreachableError, match="MLflow does not take runs") as caught:
        to_mlflow(registry, [begin(registry)], "http://me:secret@127.0.0.1:9")
    assert "secret" not in str(caught.value)


def test_the_command_writes_to_both_and_ends_when_training_has(registry, tmp_path, uri, name):
    run = end(registry, go_on(registry, begin(registry, name), 1))
    places = ["--tensorboard", f"{tmp_path}/tb", "--mlflow", uri, "--registry", registry.url]
    result = CliRunner().invoke(main, ["track", name, "--follow", *places])
    assert result.exit_code == 0, result.output
    assert result.output.split()[-5:] == [run.label, run.id, "finished", "written", "written"]


def test_the_command_names_its_trackers(registry):
    begin(registry)
    result = CliRunner().invoke(main, ["track", "--registry", registry.url])
    assert (result.exit_code, result.output.count("\n")) == (2, 1)
    assert "--tensorboard" in result.output


def test_what_somebody_damaged_ends_in_a_line(registry, tmp_path):
    from sqlalchemy import update

    from zoo.registry import tables

    run = begin(registry)
    with registry.database.write() as connection:
        connection.execute(update(tables.run).values(started_at="yesterday"))
    with pytest.raises(ZooError, match="times are ISO 8601, however one is 'yesterday'"):
        to_tensorboard(registry, [registry.run(run.id)], tmp_path)


def test_settings_that_no_tracker_has_are_text(registry, tmp_path, uri, name):
    run = begin(registry, name, lr=10**400)
    odd = begin(registry, f"{name}odd", lr="\ud800\x1b[2J")
    assert to_tensorboard(registry, [run, odd], tmp_path / "tb") == ["written"] * 2
    assert to_mlflow(registry, [run, odd], uri) == ["written"] * 2
    client = MlflowClient(uri)
    (there,) = client.search_runs([client.get_experiment_by_name(odd.name).experiment_id])
    assert there.data.params["optim.lr"] == "??[2J"
