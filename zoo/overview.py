"""The command that tells how far a training is, from any machine, while it runs."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import click

from zoo.commands import format_option, places, refs_argument
from zoo.printable import echo

if TYPE_CHECKING:
    from zoo.registry.standing import Standing

COLUMNS = ("name", "status", "runs", "epochs", "attempts", "owner", "last_sign")


@click.command(short_help="Tell how far runs are and who trains them.")
@refs_argument
@places
@format_option
def status(refs: Sequence[str], registry: str, blobs: str, form: Any) -> None:
    """Tell how far runs are and who trains them, while they do; by default the latest ones.

    last_sign is how many seconds ago an owner gave a sign of life; after 60 it is taken for dead.
    """
    from zoo.registry import Registry
    from zoo.render import render

    with Registry(registry, blobs, create=False) as opened:
        runs = {run.id: run.name for run in (opened.runs(refs) if refs else opened.latest())}
        standings = opened.standings(*set(runs.values()))
    rows = summed(run for run in standings if run.id in runs)
    echo(render(rows, COLUMNS, form))


def summed(standings: "Iterable[Standing]") -> list[dict[str, Any]]:
    """Add up the runs of one name and status that one process holds, or nobody does."""
    groups: dict[tuple[str, str, str | None], list[Standing]] = defaultdict(list)
    for run in standings:
        groups[run.name, run.status, run.holder].append(run)
    return [
        {
            "name": name,
            "status": status,
            "runs": len(runs),
            "epochs": sum(run.epochs for run in runs),
            "attempts": max(run.attempts for run in runs),
            "owner": owner,
            "last_sign": None if runs[0].silent_s is None else round(runs[0].silent_s, 1),
        }
        for (name, status, owner), runs in groups.items()
    ]


COMMANDS = (status,)
