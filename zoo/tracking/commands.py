"""The command that writes histories to trackers: parse, one call, print."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from zoo.commands import format_option, places, refs_argument
from zoo.printable import echo

FOLLOW_S = 10.0  # between two looks


@click.command(short_help="Write histories to TensorBoard or MLflow.")
@refs_argument
@click.option(
    "--tensorboard",
    "folder",
    metavar="FOLDER",
    type=click.Path(path_type=Path),
    help="Write event files: what tensorboard --logdir FOLDER shows.",
)
@click.option(
    "--mlflow",
    "uri",
    metavar="URI",
    help="Write to MLflow: sqlite:///FILE, or the address of its server.",
)
@click.option("--follow", is_flag=True, help="Go on until none of the runs is in training.")
@places
@format_option
def track(
    refs: Sequence[str],
    folder: Path | None,
    uri: str | None,
    follow: bool,
    registry: str,
    blobs: str,
    form: Any,
) -> None:
    """Write settings, figures of all epochs and outcomes of runs to a tracker; by default of all.

    Only what is missing there is written, so the same command may be given again, also while
    training goes on, which knows nothing of trackers and waits for none.
    """
    from zoo.errors import UsageError
    from zoo.registry import Registry
    from zoo.render import render

    if folder is None and uri is None:
        raise UsageError("a tracker must be named, however none is; --tensorboard or --mlflow")
    with Registry(registry, blobs, create=False) as opened:
        while True:
            runs = opened.runs(refs)
            told: dict[str, Any] = {}
            if folder is not None:
                from zoo.tracking.tensorboard import to_tensorboard

                told["tensorboard"] = to_tensorboard(opened, runs, folder)
            if uri is not None:
                from zoo.tracking.mlflow import to_mlflow

                told["mlflow"] = to_mlflow(opened, runs, uri)
            if not follow or all(run.status not in ("queued", "running") for run in runs):
                break
            time.sleep(FOLLOW_S)
    rows = [
        {"run": run.label, "id": run.id, "status": run.status}
        | {tracker: outcomes[place] for tracker, outcomes in told.items()}
        for place, run in enumerate(runs)
    ]
    echo(render(rows, ["run", "id", "status", *told], form))


COMMANDS = (track,)
