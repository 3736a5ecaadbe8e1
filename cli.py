"""The command line: parse, one call, print.  What computes is imported when it is needed."""

import shutil
import signal
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from ensemble.errors import EnsembleError
from zoo.errors import ZooError

FORMATS = ("table", "json", "csv", "markdown")


class Commands(click.Group):
    """Turns the expected errors of both packages into one line and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; SIGTERM ends it as Ctrl-C does."""
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            click.echo("Error: interrupted", err=True)
            ctx.exit(130)
        except (ZooError, EnsembleError) as error:
            click.echo(f"Error: {' '.join(str(error).split())}", err=True)
            ctx.exit(error.exit_code)


def complete_ref(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Complete the names of runs for the shell."""
    from zoo.registry import Registry

    url, blobs = ctx.params.get("registry"), ctx.params.get("blobs")
    try:
        with Registry(url or REGISTRY, blobs or BLOBS, create=False) as registry:
            names = {run.name for run in registry.runs()}
    except ZooError:
        return []
    return sorted(name for name in names if name.startswith(incomplete))


REGISTRY = "sqlite:///checkpoints/registry.db"
BLOBS = "checkpoints/blobs"


def places(command: Any) -> Any:
    """Add the options that say where the registry is; every command has them."""
    command = click.option(
        "--blobs", envvar="ZOO_BLOBS", default=BLOBS, show_default=True, help="Folder of weights."
    )(command)
    return click.option(
        "--registry",
        envvar="ZOO_REGISTRY",
        default=REGISTRY,
        show_default=True,
        help="URL of the catalogue.",
    )(command)


refs_argument = click.argument("refs", nargs=-1, metavar="[REF]...", shell_complete=complete_ref)
format_option = click.option(
    "--format", "form", type=click.Choice(FORMATS), default="table", show_default=True
)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="zoo-ensemble")
def main() -> None:
    """Train many models at once, keep them all, make one better predictor of them.

    A REF names runs: a name, a glob (digits-*), a filter (digits-mlp/seed=3), @best, @top5, or
    the beginning of an identifier.

    Exit codes: 0 ok, 1 failure, 2 usage or config, 3 some runs failed or diverged, 4 stored bytes
    are damaged, 130 interrupted.
    """


@main.command("train-many")
@click.argument("config", required=False, type=click.Path(dir_okay=False, path_type=Path))
@click.option("--data", metavar="REF", help="Built-in data set, or a CSV file.")
@click.option("--target", metavar="COLUMN", help="The column to predict, for a file.")
@click.option("--model", metavar="NAME", help="mlp or cnn.")
@click.option("--seeds", metavar="SEEDS", help="A count (8), a range (0-7) or a list (1,5).")
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="KEY=V[,V...]",
    help="Any setting, such as optim.lr=1e-3,3e-4; several values make a grid.",
)
@click.option("--name", metavar="NAME", help="The zoo's name; by default DATA-MODEL.")
@click.option(
    "--engine",
    type=click.Choice(["auto", "stacked", "sequential"]),
    default="auto",
    show_default=True,
    help="How members are computed; auto measures.",
)
@click.option("--dry-run", is_flag=True, help="Check everything and list the runs; train nothing.")
@places
@format_option
def train_many(
    config: Path | None,
    data: str | None,
    target: str | None,
    model: str | None,
    seeds: str | None,
    settings: Sequence[str],
    name: str | None,
    engine: Any,
    dry_run: bool,
    registry: str,
    blobs: str,
    form: Any,
) -> None:
    """Train many seeds and settings at once; publish each model when it is done.

    Settings come from CONFIG, a TOML file, and from options, which win.  The same command again
    trains only what is missing.
    """
    from zoo.config import parse
    from zoo.errors import RunsFailedError
    from zoo.progress import Progress
    from zoo.registry import Registry
    from zoo.registry.records import label
    from zoo.render import LISTED, describe, render
    from zoo.settings import assignments, merge, read
    from zoo.training import plan, train_many

    flags = {
        "data.ref": data,
        "data.target": target,
        "model.name": model,
        "seeds": seeds,
        "name": name,
    }
    asked = merge(read(config) if config else {}, flags, assignments(settings))
    planned = plan(parse(asked))
    if dry_run:
        rows = [
            {"run": label(run.name, run.varied, run.seed), "hash": run.config_hash}
            for run in planned.requests
        ]
        click.echo(render(rows, ["run", "hash"], form))
        return
    with Registry(registry, blobs) as opened, Progress() as progress:
        runs = train_many(planned, opened, engine=engine, watch=progress)
    click.echo(render([describe(run) for run in runs], LISTED, form))
    failed = [run for run in runs if run.status != "finished"]
    if failed:
        raise RunsFailedError(
            f"{len(failed)} of {len(runs)} runs did not finish, such as {failed[0].label}: "
            f"{failed[0].status}{f' ({failed[0].error})' if failed[0].error else ''}"
        )


@main.command("list")
@refs_argument
@places
@format_option
def list_(refs: Sequence[str], registry: str, blobs: str, form: Any) -> None:
    """List runs, all or those that the REFs name."""
    from zoo.registry import Registry
    from zoo.render import LISTED, describe, render

    with Registry(registry, blobs, create=False) as opened:
        rows = [describe(run) for run in opened.runs(refs)]
    click.echo(render(rows, LISTED, form))


@main.command()
@click.argument("ref", shell_complete=complete_ref)
@places
@format_option
def show(ref: str, registry: str, blobs: str, form: Any) -> None:
    """Show one run: settings, figures, history, weights."""
    from zoo.registry import Registry
    from zoo.render import card

    with Registry(registry, blobs, create=False) as opened:
        run = opened.run(ref)
        checkpoints, history = opened.checkpoints(run.id), opened.history(run.id)
    click.echo(card(run, checkpoints, history, form))


@main.command()
@refs_argument
@click.option(
    "--mode",
    type=click.Choice(["predictions", "weights"]),
    required=True,
    help="Pool what the members predict, or average their weights into one model.",
)
@click.option("--method", metavar="M", help="See `methods`; by default mean and greedy-soup.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="A method's option.")
@click.option("--save", "name", metavar="NAME", help="The name of the product.")
@places
@format_option
def ensemble(
    refs: Sequence[str],
    mode: Any,
    method: str | None,
    settings: Sequence[str],
    name: str | None,
    registry: str,
    blobs: str,
    form: Any,
) -> None:
    """Make one predictor of several models and save it into the registry.

    Without REFs the members are the models of the latest train-many.
    """
    from ensemble.members import members
    from ensemble.products import combine
    from ensemble.text import product_text
    from zoo.registry import Registry
    from zoo.settings import assigned

    with Registry(registry, blobs, create=False) as opened:
        product = combine(
            opened,
            members(opened, refs),
            mode,
            method=method,
            options=assigned(settings),
            name=name,
        )
    click.echo(product_text(product, form))


@main.command()
@refs_argument
@click.option("--metric", metavar="M", help="What to compare by; accuracy or rmse by default.")
@places
@format_option
def compare(refs: Sequence[str], metric: str | None, registry: str, blobs: str, form: Any) -> None:
    """Compare ensembles with the best single model on the test rows.

    Without REFs: the models of the latest train-many and all that was made of them.
    """
    from ensemble.comparison import compare as compare_runs
    from ensemble.members import candidates
    from ensemble.text import comparison_text
    from zoo.registry import Registry

    with Registry(registry, blobs, create=False) as opened:
        comparison = compare_runs(opened, candidates(opened, refs), metric=metric)
    width = shutil.get_terminal_size().columns
    click.echo(comparison_text(comparison, form, width))


@main.command()
@format_option
def methods(form: Any) -> None:
    """List the ways to combine members, with their options."""
    from ensemble.text import methods_text

    click.echo(methods_text(form))


if __name__ == "__main__":
    main()
