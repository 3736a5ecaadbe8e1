"""The commands that bring models in, and from one registry to another: parse, one call, print."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from zoo.commands import format_option, places, required_refs_argument, trust_typed
from zoo.errors import ConfigError
from zoo.printable import echo

COPIED = ("run", "id", "outcome", "note")


@click.command("import", short_help="Take in weights that were trained elsewhere.")
@click.argument("path", metavar="FILE|FOLDER", type=click.Path(path_type=Path))
@click.option("--name", metavar="NAME", required=True, help="The name of the new run.")
@click.option(
    "--key", metavar="KEY", help="Where in a checkpoint the weights are: state_dict, ema."
)
@click.option(
    "--strip-prefix",
    "strip",
    metavar="PREFIX",
    multiple=True,
    help="What to take off the names, such as module. or model.; more than once in turn.",
)
@click.option("--model", metavar="NAME", help="The model whose weights they are, if it is ours.")
@click.option(
    "--set", "settings", multiple=True, metavar="KEY=VALUE", help="An option, model.hidden=[64,64]."
)
@click.option(
    "--metric", "metrics", multiple=True, metavar="NAME=V", help="What is known: val_loss=0.3."
)
@click.option("--seed", type=click.IntRange(min=0), help="Tells models of one name apart.")
@places
@format_option
def import_(
    path: Path,
    name: str,
    key: str | None,
    strip: Sequence[str],
    model: str | None,
    settings: Sequence[str],
    metrics: Sequence[str],
    seed: int | None,
    registry: str,
    blobs: str,
    form: Any,
) -> None:
    """Take weights that were trained elsewhere into the registry.

    FILE is .safetensors or what torch.save wrote (.pt, .pth, .ckpt): a state dict, or a checkpoint
    that holds one. FOLDER is one of Hugging Face. Nothing in them is executed, and what they claim
    is checked before memory is given to it. The run has no data set, so it can be shown, exported,
    averaged in Python and trained on (train-many --set init=NAME), not compared.
    """
    from zoo.exchange.arriving import enter, read
    from zoo.registry import Registry
    from zoo.render import LISTED, describe, render

    options, figures = _model(model, settings), dict(map(_figure, metrics))
    arrival = read(path, name, key=key, strip=strip, model=options, metrics=figures, seed=seed)
    with Registry(registry, blobs) as opened:  # which is made only where there is something for it
        found = enter(opened, arrival)
    notes = found.notes if found.created else ("it is there already", *found.notes)
    for note in notes:
        echo(note, err=True)
    echo(render([describe(found.run)], LISTED, form))


def _model(name: str | None, settings: Sequence[str]) -> dict[str, Any] | None:
    """Return a model's name and options, as given by flags."""
    from zoo.settings import assigned

    given = assigned(settings)
    for key in given:
        if name is None or not key.startswith("model."):
            raise ConfigError(f"--set {key}: sets options of --model, such as model.hidden=[64,64]")
    if name is None:
        return None
    trust_typed(name)
    return {"name": name} | {key.removeprefix("model."): value for key, value in given.items()}


def _figure(item: str) -> tuple[str, float]:
    """Read NAME=NUMBER."""
    name, _, value = item.partition("=")
    try:
        if re.fullmatch(r"[A-Za-z]\w{0,39}", name):
            return name, float(value)
    except ValueError:
        pass
    raise ConfigError(f"--metric takes NAME=NUMBER, such as val_loss=0.3, however it is {item!r}")


@click.command(short_help="Copy runs into another registry.")
@required_refs_argument
@click.option("--to-registry", "url", metavar="URL", required=True, help="Its catalogue.")
@click.option("--to-blobs", "place", metavar="PLACE", required=True, help="Its weights.")
@places
@format_option
def push(refs: Sequence[str], url: str, place: str, registry: str, blobs: str, form: Any) -> None:
    """Copy runs, and all that they were made of, into another registry.

    Histories and weights go along, not the state of training; runs that are not at their end are
    skipped. What is there already stays. Cut off, the same command goes on.
    """
    _copy((registry, blobs), (url, place), refs, form)


@click.command(short_help="Copy runs from another registry.")
@click.argument("refs", nargs=-1, required=True, metavar="REF...")
@click.option("--from-registry", "url", metavar="URL", required=True, help="Its catalogue.")
@click.option("--from-blobs", "place", metavar="PLACE", required=True, help="Its weights.")
@places
@format_option
def pull(refs: Sequence[str], url: str, place: str, registry: str, blobs: str, form: Any) -> None:
    """Copy runs, and all that they were made of, from another registry; see push."""
    _copy((url, place), (registry, blobs), refs, form)


def _copy(source: tuple[str, str], target: tuple[str, str], refs: Sequence[str], form: Any) -> None:
    from zoo.exchange.copying import copy_runs
    from zoo.registry import Registry
    from zoo.render import render

    with Registry(*source, create=False) as origin:
        origin.runs(refs)  # nothing is made where there is nothing to copy
        with Registry(*target) as destination:
            told = copy_runs(origin, destination, refs)
    rows = [
        {"run": it.run.label, "id": it.run.id, "outcome": it.outcome, "note": it.note}
        for it in told
    ]
    echo(render(rows, COPIED, form))
    refused = [it.error for it in told if it.error]
    if refused:
        error = type(refused[0])(
            f"{len(refused)} of {len(told)} runs were refused, such as: {refused[0]}"
        )
        raise error


COMMANDS = (import_, push, pull)
