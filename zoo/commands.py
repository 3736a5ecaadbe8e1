"""The commands that make and show models: parse, one call, print."""

import shutil
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import click

from zoo.errors import ConfigError, RunsFailedError, ZooError
from zoo.placing import Placing, placing_options
from zoo.printable import echo


def complete_ref(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Complete the names of runs for the shell; after a slash, what tells those of a name apart."""
    from zoo.registry import Registry

    url, blobs = ctx.params.get("registry"), ctx.params.get("blobs")
    name, slash, _ = incomplete.partition("/")
    try:
        with Registry(url or REGISTRY, blobs, create=False) as registry:
            labels = [run.label for run in registry.runs([name])] if slash else registry.names(name)
            return [label for label in labels if label.startswith(incomplete)]
    except ZooError:
        return []


FORMATS = ("table", "json", "csv", "markdown")
REGISTRY = "sqlite:///checkpoints/registry.db"


def beside_registry(ctx: click.Context, _param: click.Parameter, place: str | None) -> str:
    """Choose a place for weights where the user has not."""
    from zoo.registry.places import beside

    return place or beside(ctx.params["registry"])


def places(command: Any) -> Any:
    """Add the options that say where the registry is; every command has them."""
    command = click.option(
        "--blobs",
        envvar="ZOO_BLOBS",
        callback=beside_registry,
        show_default="beside a SQLite catalogue",
        help="Where weights are: a folder, or s3://, gs://, az://BUCKET/PREFIX.",
    )(command)
    return click.option(
        "--registry",
        envvar="ZOO_REGISTRY",
        default=REGISTRY,
        is_eager=True,  # it comes first, whatever the order
        show_default=True,
        help="The catalogue: sqlite:///FILE or postgresql+psycopg://USER@HOST/DATABASE.",
    )(command)


refs_argument = click.argument("refs", nargs=-1, metavar="[REF]...", shell_complete=complete_ref)
required_refs_argument = click.argument(
    "refs", nargs=-1, required=True, metavar="REF...", shell_complete=complete_ref
)
format_option = click.option(
    "--format", "form", type=click.Choice(FORMATS), default="table", show_default=True
)


def trust(ctx: click.Context, param: click.Parameter, everything: bool) -> None:
    """Let code be imported that a config or the registry names, until the command ends."""
    from zoo.usercode import EVERYTHING, trusting

    if everything:
        ctx.with_resource(trusting(EVERYTHING))


def trust_typed(*names: str) -> None:
    """Let code be imported that the user names, until the command ends: who types it, trusts it."""
    from zoo.usercode import is_reference, trusting

    click.get_current_context().with_resource(trusting(*filter(is_reference, names)))


trust_option = click.option(
    "--trust",
    is_flag=True,
    envvar="ZOO_TRUST",
    callback=trust,
    expose_value=False,
    help="Import the code that a config or the registry names as a model.",
)


target_option = click.option(
    "--target",
    "targets",
    metavar="COLUMN",
    multiple=True,
    help="The column to predict, for a file; more than once for several.",
)


@click.command("train-many", short_help="Train many seeds and settings at once.")
@click.argument("config", required=False, type=click.Path(dir_okay=False, path_type=Path))
@click.option("--data", metavar="REF", help="Built-in data set, a file, or a folder of images.")
@target_option
@click.option(
    "--model",
    metavar="NAME",
    help="mlp, resmlp, ft_transformer, cnn, resnet; or your own: FILE.py:FACTORY, MODULE:FACTORY.",
)
@click.option("--seeds", metavar="SEEDS", help="A count (8), a range (0-7) or a list (1,5).")
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="KEY=V[,V...]",
    help="Any setting, such as optim.lr=1e-3,3e-4; several values make a grid.",
)
@click.option("--name", metavar="NAME", help="The zoo's name; by default DATA-MODEL.")
@placing_options
@click.option("--dry-run", is_flag=True, help="Check everything and list the runs; train nothing.")
@trust_option
@places
@format_option
def train_many(
    config: Path | None,
    data: str | None,
    targets: Sequence[str],
    model: str | None,
    seeds: str | None,
    settings: Sequence[str],
    name: str | None,
    placing: Placing,
    dry_run: bool,
    registry: str,
    blobs: str,
    form: Any,
) -> None:
    """Train many seeds and settings at once; publish each model when it is done.

    Settings come from CONFIG, a TOML file, and from options, which win; zoo init prints them all
    with their defaults.  The same command again trains only what is missing.

    \b
        zoo train-many --data digits --seeds 8
        zoo train-many --data houses.csv --target price --set optim.lr=1e-3,3e-3
    """
    from zoo.config import parse
    from zoo.planning import plan
    from zoo.progress import introduced
    from zoo.registry import Registry
    from zoo.registry.records import label
    from zoo.render import render
    from zoo.settings import assignments, merge, read

    flags = {
        "data.ref": data,
        "data.target": list(targets) or None,
        "model.name": model,
        "seeds": seeds,
        "name": name,
    }
    assigned = assignments(settings)
    trust_typed(*map(str, (model, *assigned.get("model.name", []))))
    config_asked = parse(merge(read(config) if config else {}, flags, assigned))
    branches = any(run.init.mode == "run" for run, _ in config_asked.cells)
    with Registry(registry, blobs, create=False) if branches else nullcontext() as source:
        planned = plan(config_asked, source)
    if dry_run:
        for line in introduced(planned.data):
            echo(line, err=True)
        rows = [
            {"run": label(run.name, run.varied, run.seed), "hash": run.config_hash}
            for run in planned.requests
        ]
        echo(render(rows, ["run"], form))
        return
    with Registry(registry, blobs) as opened:
        _train(planned, opened, placing, form)


@click.command("continue", short_help="Train finished models on.")
@required_refs_argument
@click.option("--epochs", type=click.IntRange(min=1), required=True, help="The most to train.")
@click.option(
    "--set", "settings", multiple=True, metavar="KEY=VALUE", help="A setting that shall differ."
)
@click.option("--name", metavar="NAME", help="Of the new runs; by default NAME-continued.")
@placing_options
@trust_option
@places
@format_option
def continue_(
    refs: Sequence[str],
    epochs: int,
    settings: Sequence[str],
    name: str | None,
    placing: Placing,
    registry: str,
    blobs: str,
    form: Any,
) -> None:
    """Train finished models on, with early stopping; each becomes a new run.

    A REF may also be a .safetensors file that this registry, or another one, wrote.
    """
    from zoo.planning import continuation
    from zoo.registry import Registry
    from zoo.settings import assigned

    with Registry(registry, blobs, create=False) as opened:
        planned = continuation(opened, refs, epochs, assigned(settings), name)
        _train(planned, opened, placing, form)


def _train(planned: Any, registry: Any, where: Placing, form: Any) -> None:
    """Train what is planned, print what became of it, and say which models learnt nothing."""
    from zoo.constant import warning
    from zoo.progress import Progress
    from zoo.render import LISTED, describe, render
    from zoo.training import train_many

    with where.options() as options, Progress() as progress:
        runs = train_many(planned, registry, watch=progress, **options)
    echo(render([describe(run) for run in runs], LISTED, form))
    if warned := warning(planned, runs):
        echo(warned, err=True)
    failed = [run for run in runs if run.status != "finished"]
    if failed:
        raise RunsFailedError(
            f"{len(failed)} of {len(runs)} runs did not finish, such as {failed[0].label}: "
            f"{failed[0].status}{f' ({failed[0].error})' if failed[0].error else ''}"
        )


@click.command()
@click.argument("file", required=False, type=click.Path(dir_okay=False, path_type=Path))
@click.option("--data", metavar="REF", default="digits", show_default=True, help="The data.")
@target_option
@click.option("--model", metavar="NAME", default="mlp", show_default=True, help="The model.")
@click.option(
    "--schema",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the JSON Schema of such files too, by which editors complete and check them.",
)
def init(
    file: Path | None, data: str, targets: Sequence[str], model: str, schema: Path | None
) -> None:
    """Write a file of settings for train-many to FILE, or print it.

    It has every key, with its default, what it takes and what it means.
    """
    from zoo import models
    from zoo.outline import outline
    from zoo.schema import directive, document

    trust_typed(model)
    told: dict[str, Any] = {"ref": data}
    if targets:
        told["target"] = targets[0] if len(targets) == 1 else list(targets)
    text = outline(told, {"name": model, **models.options(model, {})})
    if schema is not None:
        text = f"{directive(schema, file)}\n{text}"
        _write(schema, document())
    if file is None:
        echo(text)
    else:
        _write(file, text)


def _write(file: Path, text: str) -> None:
    """Write a file that is not there yet."""
    try:
        with file.open("x", encoding="utf-8") as opened:
            opened.write(f"{text}\n")
    except OSError as error:
        raise ConfigError(f"{file}: cannot be written: {error.strerror}; name another") from None


@click.command("list")
@refs_argument
@places
@format_option
def list_(refs: Sequence[str], registry: str, blobs: str, form: Any) -> None:
    """List runs, all or those that the REFs name."""
    from zoo.registry import Registry
    from zoo.render import LISTED, describe, render

    with Registry(registry, blobs, create=False) as opened:
        rows = [describe(run) for run in opened.runs(refs)]
    echo(render(rows, LISTED, form))


@click.command()
@click.argument("ref", shell_complete=complete_ref)
@click.option("--curves", is_flag=True, help="Draw the learning curves; REF may name several runs.")
@click.option(
    "--output",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Write the curves as a picture too: .png, .svg or .pdf.",
)
@places
@format_option
def show(ref: str, curves: bool, output: Path | None, registry: str, blobs: str, form: Any) -> None:
    """Show one run: settings, figures, verdict, history, weights."""
    from zoo.curves import trained
    from zoo.drawing import curves_text, legible
    from zoo.registry import Registry
    from zoo.render import card

    with Registry(registry, blobs, create=False) as opened:
        drawn = trained(opened, ref) if curves or output else []
        run = drawn[0][0] if drawn else opened.run(ref)
        checkpoints, history = opened.checkpoints(run.id), opened.history(run.id)
    if output:
        from zoo.picture import picture

        picture(output, drawn)
    if len(drawn) > 1 or (drawn and form == "table"):
        text = curves_text(drawn, form, shutil.get_terminal_size().columns)
        echo(legible(text, sys.stdout.encoding))
    else:
        width = shutil.get_terminal_size().columns
        echo(card(run, checkpoints, history, form, width))


COMMANDS = (init, train_many, continue_, list_, show)
