"""What every test needs, before PyTorch is imported; and the places registries are tested in."""

import os
from itertools import count

import pytest
import servers

# The tests' networks are tiny, and threads that wait for each other beside other work are slow.
os.environ.setdefault("OMP_NUM_THREADS", "1")

BACKENDS = ("sqlite+folder", "postgresql+folder", "sqlite+s3")
numbers = count()


@pytest.fixture(scope="session")
def postgres_server():
    """The URL of a PostgreSQL server."""
    with servers.postgres() as url:
        yield url


@pytest.fixture(scope="session")
def s3_server():
    """The address of a server that speaks S3."""
    with servers.s3() as address:
        yield address


@pytest.fixture
def postgres(postgres_server):
    """The URL of an empty catalogue: a schema of its own in the server's one database."""
    name = f"test_{next(numbers)}"
    servers.execute(postgres_server, f"CREATE SCHEMA {name}")
    yield f"{postgres_server}&options=-csearch_path%3D{name}"
    servers.execute(postgres_server, f"DROP SCHEMA {name} CASCADE")


@pytest.fixture
def s3(s3_server, monkeypatch):
    """The URL of an empty prefix in the server's bucket; the environment has the credentials."""
    for key, value in servers.CREDENTIALS.items():
        monkeypatch.setenv(key, value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server)
    return f"s3://{servers.BUCKET}/test_{next(numbers)}"


@pytest.fixture(params=BACKENDS)
def places(request, tmp_path):
    """Where a registry is, for each kind of catalogue and of weights."""
    catalogue, weights = request.param.split("+")
    url = f"sqlite:///{tmp_path}/registry.db"
    if catalogue == "postgresql":
        url = request.getfixturevalue("postgres")
    blobs = request.getfixturevalue("s3") if weights == "s3" else str(tmp_path / "blobs")
    return servers.Places(url, blobs)
