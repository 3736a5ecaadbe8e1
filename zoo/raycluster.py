"""Workers on a Ray cluster: each is one task, and where it runs is Ray's choice.

Ray starts and places the tasks, and says which have died; the runs are those that workers claim of
the registry, as everywhere.  The plan, with the data in it, travels to each node once.
"""

import hashlib
import os
import platform
import secrets
import signal
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self

from zoo.errors import UnreachableError, UsageError, ZooError
from zoo.executors import Ending, Hand, oversee, packed, serve
from zoo.interrupting import SIGNALS, Stop
from zoo.registry import Registry
from zoo.training import Watch
from zoo.working import Job

CONNECT_S = 10.0  # how long an address may take to answer
PORTS = {"": 6379, "ray://": 10001}  # where nodes and clients connect, unless the address says


class RayCluster:
    """Workers on a Ray cluster.  Close it, or use it in a ``with`` statement.

    Attributes:
        workers: how many.

    Raises:
        UsageError: where Ray is not installed, or no node has what a worker takes.
        UnreachableError: where nobody answers at the address.
    """

    def __init__(
        self,
        address: str = "auto",
        workers: int | None = None,
        cpus: float | None = None,
        gpus: float | None = None,
    ) -> None:
        """Connect.

        Args:
            address: ``auto`` is the cluster of this machine, ``local`` starts one that nobody else
                can reach; otherwise ``HOST:PORT`` of its head, or ``ray://HOST:PORT`` from outside.
            workers: how many; by default as many as there is room for.
            cpus: what each takes; by default all of the smallest node.
            gpus: what each takes, also a part of one; by default 1 where there are any.
        """
        if address == "local":  # Ray decides as it is imported that all is on loopback addresses
            os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
        try:
            import ray
        except ModuleNotFoundError:
            raise UsageError(
                "--cluster needs Ray, however it is not installed; "
                "pip install 'zoo-ensemble[cluster]'"
            ) from None
        self._ray = ray
        _connect(ray, address)
        self.nodes = [node for node in ray.nodes() if node["Alive"]]
        try:
            self.takes = _portion([node["Resources"] for node in self.nodes], cpus, gpus)
            room = sum(_room(node["Resources"], self.takes) for node in self.nodes)
            if not room:
                most = {
                    name: max(node["Resources"].get(name, 0) for node in self.nodes)
                    for name in self.takes
                }
                raise UsageError(
                    f"a worker must fit on a node, however it takes {_told(self.takes)} and no "
                    f"node has more than {_told(most)}; choose other --cpus and --gpus"
                )
        except BaseException:
            self.close()
            raise
        self.workers = workers or room

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Leave the cluster; end it where it is our own."""
        self._ray.shutdown()

    def __call__(self, job: Job, registry: Registry, watch: Watch, stop: Stop) -> None:
        """Train there."""
        hosts = {node["NodeManagerHostname"] for node in self.nodes}
        if registry.url.startswith("sqlite") and len(hosts) > 1:
            raise UsageError(
                f"a SQLite registry is for one machine, however the cluster has {len(hosts)}; use "
                "PostgreSQL (--registry postgresql+psycopg://USER@HOST/DATABASE) and an object "
                "store or shared folder (--blobs)"
            )
        ray = self._ray
        ear = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(_Ear).remote()
        parcel = ray.put(packed(job))
        task = ray.remote(max_retries=0, max_calls=1)(_work).options(
            num_cpus=self.takes["CPU"],
            num_gpus=self.takes.get("GPU", 0),
            scheduling_strategy="SPREAD",
        )
        with _mark(registry) as mark:
            where = Where(registry.url, registry.blobs.place, *mark, str(Path.cwd()), versions())
            cores = max(int(self.takes["CPU"]), 1)

            def start(number: int) -> Hand:
                return _Task(ray, task.remote(parcel, where, cores, ear, number), ear, number)

            oversee(start, self.workers, job, registry, watch, stop)


@dataclass(frozen=True)
class Where:
    """What a worker finds where the driver is, and must find where it is itself.

    Attributes:
        url, blobs: the registry's places.
        sha256, size: of a file that was just put where weights are.
        folder: the working directory.
        versions: of Python and packages.
    """

    url: str
    blobs: str
    sha256: str
    size: int
    folder: str
    versions: Mapping[str, str]


class _Task:
    """A worker that is a task of Ray."""

    def __init__(self, ray: Any, reference: Any, ear: Any, number: int) -> None:
        self.ray, self.reference, self.ear, self.number = ray, reference, ear, number

    def news(self) -> list[str]:
        with suppress(self.ray.exceptions.RayError):
            told: list[str] = self.ray.get(self.ear.news.remote(self.number), timeout=CONNECT_S)
            return told
        return []  # its node is gone; it is started anew elsewhere

    def ending(self) -> Ending | None:
        if not self.ray.wait([self.reference], timeout=0)[0]:
            return None
        try:
            return Ending(self.ray.get(self.reference))
        except self.ray.exceptions.TaskCancelledError:
            return Ending()
        except self.ray.exceptions.RayTaskError as error:
            missing = isinstance(error.cause, ModuleNotFoundError)
            return Ending(f"failed: {_last_line(error)}", is_lost=not missing)
        except self.ray.exceptions.RayError as error:
            return Ending(f"died: {_last_line(error)}", is_lost=True)

    def stop(self) -> None:
        self.ray.cancel(self.reference)  # raises SIGINT where it runs

    def kill(self) -> None:
        self.ray.cancel(self.reference, force=True)


class _Ear:
    """Keeps what workers say until the driver asks."""

    def __init__(self) -> None:
        self.told: dict[int, list[str]] = {}

    def say(self, number: int, text: str) -> None:
        self.told.setdefault(number, []).append(text)

    def news(self, number: int) -> list[str]:
        return self.told.pop(number, [])


def versions() -> dict[str, str]:
    """Tell what must be the same everywhere: Python, PyTorch, and this very code."""
    content = hashlib.sha256()
    root = Path(__file__).parent
    for path in sorted(root.rglob("*.py")):
        content.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return {
        "Python": ".".join(platform.python_version_tuple()[:2]),
        "PyTorch": version("torch"),
        "zoo-ensemble": f"{version('zoo-ensemble')} ({content.hexdigest()[:12]})",
    }


def _work(parcel: bytes, where: Where, cores: int, ear: Any, number: int) -> str:
    """Work on a node; return what was wrong, if anything."""
    host = socket.gethostname()
    ours = versions()
    for name, theirs in where.versions.items():
        if ours[name] != theirs:
            return (
                f"on {host}: a worker must have the versions of the command, however {name} is "
                f"{ours[name]} and there {theirs}; install the same"
            )
    with suppress(OSError):  # paths may be relative to it, where it is there too
        os.chdir(where.folder)
    try:
        with Registry(where.url, where.blobs, create=False) as registry:
            registry.states.get(where.sha256, where.size, "what the command has just put there")
    except ZooError as error:
        return f"on {host}: the places must be the same everywhere, however {error}"
    with Stop("", SIGNALS) as stop:
        places = where.url, where.blobs
        fault = serve(parcel, cores, places, lambda text: ear.say.remote(number, text), stop)
    return fault and f"on {host}: {fault}"


def _connect(ray: Any, address: str) -> None:
    """Connect to a cluster, or start one on this machine that nobody else can use.

    Raises:
        UnreachableError: where nobody answers in time, or what answers is no cluster of this Ray.
    """
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if address == "local":
        options["include_dashboard"] = False
    elif address != "auto":
        scheme = "ray://" if address.startswith("ray://") else ""
        host, _, port = address.removeprefix(scheme).partition(":")
        try:
            socket.create_connection((host, int(port or PORTS[scheme])), CONNECT_S).close()
        except (OSError, ValueError) as error:
            raise UnreachableError(
                f"--cluster {address}: nobody answers: {error}; is it HOST:PORT of the head?"
            ) from None
    before = [(number, signal.getsignal(number)) for number in SIGNALS]
    token = Path("~/.ray/auth_token").expanduser()
    mask = os.umask(0o077)  # Ray would let everybody read the token that it makes
    try:
        if token.exists():
            token.chmod(0o600)
        ray.init(address=address, **options)
    except Exception as error:  # Ray raises of every kind, and bare ones
        ray.shutdown()  # what is half connected
        told = str(error)  # of other versions, on several lines
        told = _last_line(error) if "Traceback" in told else " ".join(told.split()) or repr(error)
        raise UnreachableError(
            f"--cluster {address}: {told.rstrip('.')}; the head is at HOST:{PORTS['']}, its client "
            f"server at ray://HOST:{PORTS['ray://']}, unless started elsewhere, and all need one "
            "version of Ray and of Python"
        ) from error
    finally:
        os.umask(mask)
        if threading.current_thread() is threading.main_thread():
            for number, handler in before:  # Ray has its own idea of them
                signal.signal(number, handler)


@contextmanager
def _mark(registry: Registry) -> Iterator[tuple[str, int]]:
    """Put a file where weights are, for workers to find; give its SHA-256 and size."""
    content = secrets.token_bytes(32)
    sha256 = registry.states.put(content)
    try:
        yield sha256, len(content)
    finally:
        registry.states.remove(sha256)


def _portion(
    nodes: list[Mapping[str, float]], cpus: float | None, gpus: float | None
) -> dict[str, float]:
    """Say what a worker takes of a node.

    >>> _portion([{"CPU": 8}, {"CPU": 4, "GPU": 2}], None, None)
    {'CPU': 2, 'GPU': 1}
    >>> _portion([{"CPU": 8}, {"CPU": 4}], None, None)
    {'CPU': 4}
    """
    able = [node for node in nodes if node.get("GPU")] if gpus is None or gpus else []
    if able:
        gpus = gpus or 1
        each = min(node.get("CPU", 1) / max(node["GPU"] // gpus, 1) for node in able)
        return {"CPU": cpus or max(int(each), 1), "GPU": gpus}
    least = min(node["CPU"] for node in nodes if node.get("CPU"))
    return {"CPU": cpus or least} | ({"GPU": gpus} if gpus else {})


def _room(node: Mapping[str, float], takes: Mapping[str, float]) -> int:
    """Say how many workers fit on a node.

    >>> _room({"CPU": 8, "GPU": 2}, {"CPU": 2, "GPU": 0.5}), _room({"CPU": 8}, {"CPU": 1, "GPU": 1})
    (4, 0)
    """
    return int(min(node.get(name, 0) / each for name, each in takes.items()))


def _told(amounts: Mapping[str, float]) -> str:
    return " and ".join(f"{amount:g} {name}" for name, amount in amounts.items())


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else repr(error)
