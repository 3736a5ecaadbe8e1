"""How long a command takes as a whole process, from the shell's side."""

import subprocess
import sys
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from zoo.registry import Registry
from zoo.registry.records import NewRun

CLI = Path(__file__).parents[1] / "cli.py"
RUNS = 10_000


def command(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, CLI, *arguments], capture_output=True, text=True, check=True
    )
    return done.stdout


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The address of a registry with many runs."""
    folder = tmp_path_factory.mktemp("registry")
    url = f"sqlite:///{folder}/registry.db"
    runs = [
        NewRun(
            name=f"digits-{number // 100}",
            config={"data": {"ref": "digits"}, "model": {"name": "mlp", "hidden": [64, 64]}},
            config_hash=f"{number // 100:016x}",
            task="classification",
            data_ref="digits",
            data_fingerprint="0" * 64,
            split_hash="1" * 64,
            seed=number % 100,
            classes=[str(digit) for digit in range(10)],
        )
        for number in range(RUNS)
    ]
    with Registry(url, folder / "blobs") as zoo:
        for start in range(0, RUNS, 100):  # each name's runs together
            zoo.add(runs[start : start + 100])
    return url


def test_help(benchmark: BenchmarkFixture) -> None:
    """At most 0.3 seconds are aimed at."""
    assert "list" in benchmark.pedantic(command, ("--help",), rounds=5, warmup_rounds=1)


def test_list_of_10_000_runs(benchmark: BenchmarkFixture, registry: str) -> None:
    """At most 1 second is aimed at."""
    arguments = ("list", "--registry", registry)
    shown = benchmark.pedantic(command, arguments, rounds=5, warmup_rounds=1)
    assert "digits-99" in shown
