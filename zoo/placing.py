"""The options of commands that train: how members are computed, by how many workers, and where."""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any

import click


@dataclass(frozen=True)
class Placing:
    """How and where to train, as :func:`~zoo.training.train_many` takes it.

    Attributes:
        workers: how many; None for this process, or as many as the cluster has room for.
        cluster: the address of a Ray cluster, or None.
        cpus, gpus: what each worker takes of the cluster.
    """

    engine: Any
    width: int | None
    share: int
    workers: int | None
    cluster: str | None
    cpus: float | None
    gpus: float | None

    @contextmanager
    def options(self) -> Iterator[dict[str, Any]]:
        """Give the keywords of ``train_many``, as long as their cluster is connected."""
        told: dict[str, Any] = {"engine": self.engine, "width": self.width, "share": self.share}
        if self.cluster is not None:
            from zoo.raycluster import RayCluster

            with RayCluster(self.cluster, self.workers, self.cpus, self.gpus) as executor:
                yield told | {"executor": executor}
        elif self.workers:
            from zoo.executors import Processes

            yield told | {"executor": Processes(self.workers)}
        else:
            yield told


OPTIONS = (
    click.option(
        "--engine",
        type=click.Choice(["auto", "stacked", "sequential"]),
        default="auto",
        show_default=True,
        help="How members are computed; auto measures.",
    ),
    click.option(
        "--width",
        type=click.IntRange(min=1),
        help="Members to train at once; by default as many as pay and fit into memory.",
    ),
    click.option(
        "--workers",
        type=click.IntRange(min=1),
        help="Processes that train; they share the cores, or are spread on the cluster.",
    ),
    click.option(
        "--share",
        type=click.IntRange(min=1),
        default=1,
        show_default=True,
        metavar="N",
        help="This command is one of N that are the same, anywhere: each trains its part.",
    ),
    click.option(
        "--cluster",
        metavar="ADDRESS",
        help="Train on a Ray cluster: auto, local, HOST:PORT or ray://HOST:PORT.",
    ),
    click.option(
        "--cpus",
        type=click.FloatRange(min=0, min_open=True),
        help="Of the cluster, for each worker; by default all of a node.",
    ),
    click.option(
        "--gpus",
        type=click.FloatRange(min=0),
        help="Of the cluster, for each worker, such as 0.5; by default 1 where there are any.",
    ),
)


def placing_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options; the command gets them as one :class:`Placing`."""

    @functools.wraps(command)
    def placed(**given: Any) -> None:
        where = Placing(**{option.name: given.pop(option.name) for option in fields(Placing)})
        if where.cluster is None and (where.cpus, where.gpus) != (None, None):
            raise click.UsageError("--cpus and --gpus are of a cluster; give --cluster too")
        command(placing=where, **given)

    decorated: Callable[..., None] = placed
    for option in reversed(OPTIONS):
        decorated = option(decorated)
    return decorated
