"""The commands that look after a registry: parse, one call, print."""

import re
from functools import partial
from typing import Any

import click

from zoo.commands import format_option, places
from zoo.printable import echo

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def duration(_ctx: click.Context, _param: click.Parameter, text: str) -> float:
    """Read a duration such as ``90s``, ``1h`` or ``7d`` as seconds."""
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([smhd])", text)
    if not found:
        raise click.BadParameter(
            f"is a number with s, m, h or d, such as 7d, however it is {text!r}"
        )
    return float(found[1]) * UNITS[found[2]]


dry_run_option = click.option("--dry-run", is_flag=True, help="Only tell what would be done.")


@click.command(short_help="Check the catalogue and the digest of every file.")
@places
@format_option
def verify(registry: str, blobs: str, form: Any) -> None:
    """Check everything: the catalogue, and the size and SHA-256 of every file.

    Exits with 4 where anything is damaged or missing.
    """
    from zoo.errors import IntegrityError
    from zoo.registry import Registry
    from zoo.registry.upkeep import verify as verify_all
    from zoo.render import render

    with Registry(registry, blobs, create=False) as opened:
        found = verify_all(opened)
    told = f"{found.runs} runs and {found.files} files, {found.size:,} bytes, were checked"
    if form != "table":
        echo(render([{"fault": fault} for fault in found.faults], ["fault"], form))
    for fault in found.faults if form == "table" else ():
        echo(fault)
    if found.faults:
        count = len(found.faults)
        raise IntegrityError(f"{told}: {count} {'faults were' if count > 1 else 'fault was'} found")
    echo(f"{told}: all sound", err=True)


@click.command(short_help="Remove files that nothing refers to.")
@click.option(
    "--grace",
    default="1h",
    show_default=True,
    callback=duration,
    metavar="DURATION",
    help="Files younger than that stay.",
)
@dry_run_option
@places
@format_option
def gc(grace: float, dry_run: bool, registry: str, blobs: str, form: Any) -> None:
    """Remove files that nothing refers to, as a crash or a repeated training leaves them.

    Nothing is removed that belongs to a run somebody works on.
    """
    from zoo.registry import Registry
    from zoo.registry.upkeep import collect
    from zoo.render import render

    with Registry(registry, blobs, create=False) as opened:
        garbage = collect(opened, grace_s=grace, dry_run=dry_run, say=partial(echo, err=True))
    rows = [
        {"file": each.name, "what": each.what, "bytes": each.size, "age_s": round(each.age_s)}
        for each in garbage
    ]
    if rows or form != "table":
        echo(render(rows, ["file", "what", "bytes", "age_s"], form))
    size = sum(each.size for each in garbage)
    verb = "would be removed" if dry_run else "removed"
    echo(f"{len(rows)} files, {size:,} bytes, {verb}", err=True)


@click.command(short_help="Make the catalogue anew from what the files tell.")
@dry_run_option
@places
@format_option
def rebuild(dry_run: bool, registry: str, blobs: str, form: Any) -> None:
    """Make the catalogue anew from what the files tell, or complete it.

    A damaged SQLite catalogue is set aside first. Runs come back with their settings, outcomes,
    histories and weights; not those that have no weights.
    """
    from zoo.registry.upkeep import rebuild as rebuild_all
    from zoo.render import LISTED, describe, render

    done = rebuild_all(registry, blobs, dry_run=dry_run)
    if done.set_aside:
        echo(f"the damaged catalogue is now {done.set_aside}", err=True)
    if done.runs or form != "table":
        echo(render([describe(run) for run in done.runs], LISTED, form))
    for fault in done.faults:
        echo(fault, err=True)
    verb = "would be entered" if dry_run else "entered"
    echo(f"{len(done.runs)} runs {verb}", err=True)


COMMANDS = (verify, gc, rebuild)
