"""A real Ray cluster of several nodes on this machine, whose nodes and drivers die."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import warnings
from contextlib import contextmanager
from pathlib import Path

import pytest
import servers
from fleet import ONE_BY_ONE, held, in_training, planned, slow_settings, started, waited_for
from test_resume import assert_same_content, opened, states_left

from zoo import raycluster
from zoo.errors import InterruptedRunsError, UnreachableError, UsageError, WorkersLostError
from zoo.training import train_many
from zoo.usercode import EVERYTHING, trusting

ROOT = Path(__file__).parents[2]
NODES = 3


@pytest.fixture(scope="module")
def s3_places(s3_server, postgres_server):
    """A registry on PostgreSQL and S3; what is started from here on finds the credentials."""
    with pytest.MonkeyPatch.context() as patch:
        for key, value in servers.CREDENTIALS.items():
            patch.setenv(key, value)
        patch.setenv("AWS_ENDPOINT_URL", s3_server)
        patch.setenv("PYTHONPATH", str(ROOT))
        servers.execute(postgres_server, "CREATE SCHEMA cluster")
        yield servers.Places(
            f"{postgres_server}&options=-csearch_path%3Dcluster", f"s3://{servers.BUCKET}/cluster"
        )
        servers.execute(postgres_server, "DROP SCHEMA cluster CASCADE")


@pytest.fixture(scope="module")
def cluster(s3_places):
    """A head that computes nothing, and nodes of one core each."""
    servers.need("ray")
    with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
        warnings.simplefilter("ignore")
        from ray.cluster_utils import Cluster

        # or its server for clients may die when it forks: ray-project/ray#63202
        patch.setenv("GRPC_ENABLE_FORK_SUPPORT", "0")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        made = Cluster()
        made.add_node(wait=False, num_cpus=0, include_dashboard=False, ray_client_server_port=port)
        made.from_outside, made.workers = f"ray://127.0.0.1:{port}", []
        grow(made, NODES)
        yield made
        made.shutdown()


def grow(cluster, count):
    """Add nodes, which start side by side."""
    cluster.workers += [cluster.add_node(wait=False, num_cpus=1) for _ in range(count)]
    cluster.wait_for_nodes(timeout=600)


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    return slow_settings(tmp_path_factory.mktemp("model"), seeds=6, epochs=30)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, asked):
    """The folder of a training in this process."""
    folder = tmp_path_factory.mktemp("whole")
    with opened(folder) as registry, trusting(EVERYTHING):
        train_many(planned(asked), registry, **ONE_BY_ONE)
    return folder


def trained(places, asked, address, watch=lambda event: None, workers=None):
    """Train a plan on a cluster; return its runs."""
    with (
        opened(places) as registry,
        trusting(EVERYTHING),
        raycluster.RayCluster(address, workers) as executor,
    ):
        return train_many(planned(asked), registry, executor=executor, watch=watch, **ONE_BY_ONE)


DRIVER = """
import json, sys
from servers import Places
from test_raycluster import trained

trained(Places(sys.argv[1], sys.argv[2]), json.loads(sys.argv[3]), sys.argv[4])
"""


def test_a_node_and_the_driver_die_and_every_run_is_published_once(
    cluster, s3_places, asked, whole
):
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests"), str(Path(__file__).parent)])
    arguments = [s3_places.url, s3_places.blobs, json.dumps(asked), cluster.address]
    with held(asked) as hold, opened(s3_places) as registry:
        driver = subprocess.Popen(
            [sys.executable, "-c", DRIVER, *arguments], env={**os.environ, "PYTHONPATH": path}
        )
        pids = in_training(s3_places, processes=NODES)
        assert driver.pid not in pids
        cluster.remove_node(cluster.workers.pop(), allow_graceful=False)
        hold.unlink()
        waited_for(lambda: max(attempts(registry)) > 1)  # one of the others has taken over
        hold.touch()
        driver.send_signal(signal.SIGKILL)
        driver.wait()
    runs = trained(s3_places, asked, cluster.address)
    assert {run.status for run in runs} == {"finished"}
    assert_same_content(s3_places, whole)
    with opened(s3_places) as registry:
        assert max(attempts(registry)) >= 2
        for run in runs:
            assert [kept.kind for kept in registry.checkpoints(run.id)] == ["best"]
            assert len(registry.history(run.id)) == run.epochs
        assert registry.saved_states([run.id for run in runs]) == []
    grow(cluster, 1)


def attempts(registry):
    return [run.attempts for run in registry.standings("fleet")]


def test_from_outside_a_killed_task_is_replaced_and_ctrl_c_ends_epochs(
    cluster, tmp_path, asked, whole
):
    notes = []

    def deeds():
        os.kill(in_training(tmp_path, processes=NODES)[0], signal.SIGKILL)
        waited_for(lambda: any("died" in note for note in notes))
        in_training(tmp_path, processes=2)
        os.kill(os.getpid(), signal.SIGINT)

    def watch(event):
        notes.append(str(event))

    with held(asked):
        thread = threading.Thread(target=deeds)
        thread.start()
        with pytest.raises(InterruptedRunsError):
            trained(tmp_path, asked, cluster.from_outside, watch)
        thread.join()
    with opened(tmp_path) as registry:
        standings = registry.standings("fleet")
    assert all(run.is_free for run in standings)
    killed = [run for run in standings if run.holder]  # nobody has taken it over yet
    assert len(killed) <= 1
    assert "interrupted" in {run.status for run in standings}
    with opened(tmp_path) as registry, trusting(EVERYTHING):
        train_many(planned(asked), registry, **ONE_BY_ONE)
    assert_same_content(tmp_path, whole)
    assert states_left(tmp_path)[1] == []


def test_other_versions_are_refused(cluster, tmp_path, asked, monkeypatch):
    ours = raycluster.versions()
    monkeypatch.setattr(raycluster, "versions", lambda: {**ours, "PyTorch": "1.0"})
    host = socket.gethostname()
    with pytest.raises(WorkersLostError, match=rf"on {host}: .*PyTorch is \S+ and there 1\.0;"):
        trained(tmp_path, asked, cluster.address, workers=1)
    with opened(tmp_path) as registry:
        assert set(attempts(registry)) == {0}


def test_another_ray_is_told_with_both_versions(cluster, monkeypatch):
    monkeypatch.setattr("ray.__version__", "1.0")
    for address in (cluster.address, cluster.from_outside):
        with pytest.raises(UnreachableError, match=r"started with: Ray: 2\..* with: Ray: 1\.0 .*;"):
            raycluster.RayCluster(address)


def test_several_machines_need_a_catalogue_that_they_share(cluster, tmp_path, asked):
    with opened(tmp_path) as registry, raycluster.RayCluster(cluster.address, 1) as executor:
        executor.nodes[0] = {**executor.nodes[0], "NodeManagerHostname": "elsewhere"}
        with (
            trusting(EVERYTHING),
            pytest.raises(UsageError, match="the cluster has 2; use PostgreSQL"),
        ):
            train_many(planned(asked), registry, executor=executor)


def test_weights_that_a_node_does_not_see_are_refused(cluster, tmp_path, asked, monkeypatch):
    @contextmanager
    def nothing(registry):
        yield "0" * 64, 32

    monkeypatch.setattr(raycluster, "_mark", nothing)
    with pytest.raises(WorkersLostError, match="the places must be the same everywhere, however"):
        trained(tmp_path, asked, cluster.address, workers=1)


def test_more_than_a_node_has_is_refused(cluster):
    with pytest.raises(UsageError, match="takes 64 CPU and no node has more than 1 CPU;"):
        raycluster.RayCluster(cluster.address, cpus=64)
    with pytest.raises(UsageError, match="takes 1 CPU and 1 GPU and no node has more than 1 CPU"):
        raycluster.RayCluster(cluster.address, gpus=1)


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "no.such.host.invalid:1"])
def test_an_address_where_nobody_answers_is_told_at_once(address):
    servers.need("ray")
    with pytest.raises(UnreachableError, match=f"--cluster {address}: nobody answers: "):
        raycluster.RayCluster(address)


def test_without_ray_its_installation_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError, match=r"pip install 'zoo-ensemble\[cluster\]'"):
        raycluster.RayCluster("local")


def local(home):
    """Start a cluster of one's own; write where it is, and who may read its token."""
    os.environ["HOME"] = str(home)
    with raycluster.RayCluster("local", 1, cpus=1) as cluster:
        told = [node["NodeManagerAddress"] for node in cluster.nodes]
    told += [oct(path.stat().st_mode) for path in home.glob(".ray/auth_token")]
    (home / "told").write_text(" ".join(told))


def test_a_local_cluster_is_on_loopback_and_its_token_is_nobody_elses(tmp_path):
    servers.need("ray")
    process = started(local, tmp_path)
    process.join()
    assert (tmp_path / "told").read_text() == "127.0.0.1 0o100600"
