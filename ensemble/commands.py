"""The commands that combine and compare models: parse, one call, print."""

import shutil
import sys
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import click

from zoo.commands import complete_ref, format_option, places, refs_argument, trust_option
from zoo.printable import echo, terminal_width


@click.command(short_help="Make one predictor of several models.")
@refs_argument
@click.option(
    "--mode",
    type=click.Choice(["predictions", "weights", "distill"]),
    required=True,
    help="Pool what the members predict, average their weights into one model, or teach one.",
)
@click.option(
    "--method",
    metavar="M",
    help="See `methods`; by default mean, or the best that can be made of weights.",
)
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="KEY=VALUE",
    help="An option of the method or the mode, see `methods`; for distill any setting too.",
)
@click.option("--save", "name", metavar="NAME", help="The name of the product.")
@trust_option
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

    \b
        zoo ensemble digits-mlp --mode predictions
        zoo ensemble digits-mlp --mode weights
    """
    from zoo.registry import Registry
    from zoo.settings import assigned

    if mode == "distill":
        with Registry(registry, blobs, create=False) as opened:
            _distill(opened, refs, method, assigned(settings), name, form)
        return
    from ensemble.members import members
    from ensemble.products import combine
    from ensemble.text import product_text

    with Registry(registry, blobs, create=False) as opened:
        product = combine(
            opened,
            members(opened, refs),
            mode,
            method=method,
            options=assigned(settings),
            name=name,
        )
    echo(product_text(product, form))


def _distill(
    registry: Any,
    refs: Sequence[str],
    method: str | None,
    options: dict[str, Any],
    name: str | None,
    form: Any,
) -> None:
    from ensemble.errors import OptionError
    from ensemble.outcome import distillation_text
    from ensemble.students import distill_runs
    from ensemble.teachers import teachers
    from zoo.progress import Progress

    if method is not None:
        raise OptionError(
            f"--mode distill takes no method, however it is {method!r}; make a pool by it, with "
            f"--mode predictions --method {method} --save POOL, and distil POOL"
        )
    with Progress() as progress:
        done = distill_runs(
            registry, teachers(registry, refs), options=options, name=name, watch=progress
        )
    echo(distillation_text(done, form))


@click.command(short_help="Compare ensembles with the best single model.")
@refs_argument
@click.option(
    "--metric",
    "metrics",
    metavar="M",
    multiple=True,
    help="What to compare by, accuracy or rmse by default; may be repeated, the first decides.",
)
@click.option(
    "--equal-compute",
    is_flag=True,
    help="Train one model as long as all together, and compare it too.",
)
@click.option(
    "--repeated",
    is_flag=True,
    help="Compare on each of several splits, and take means over these.",
)
@click.option(
    "--html",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Write a report with figures too, one file that needs no network.",
)
@trust_option
@places
@format_option
def compare(
    refs: Sequence[str],
    metrics: Sequence[str],
    equal_compute: bool,
    repeated: bool,
    html: Path | None,
    registry: str,
    blobs: str,
    form: Any,
) -> None:
    """Compare ensembles with the best single model on the test rows.

    Without REFs: the models of the latest train-many and all that was made of them.

    \b
        zoo compare digits-mlp --metric accuracy --metric nll --html report.html
    """
    from ensemble.comparison import compare as compare_runs
    from ensemble.errors import OptionError
    from ensemble.members import candidates
    from ensemble.repeats import by_split, repeated_text
    from ensemble.report import write
    from ensemble.scoreboard import comparison_text
    from zoo.progress import Progress
    from zoo.registry import Registry

    if repeated and html:
        raise OptionError("--html reports on one split, however --repeated asks for several")
    with Registry(registry, blobs, create=False) as opened:
        runs = candidates(opened, refs)
        with Progress() as watch:
            told = [
                compare_runs(opened, some, metric=metrics, equal_compute=equal_compute, watch=watch)
                for some in (by_split(runs) if repeated else [runs])
            ]
        if html:
            write(html, opened, told[0])
            echo(f"report: {html}", err=True)
    width = shutil.get_terminal_size().columns
    echo(repeated_text(told, form) if repeated else comparison_text(told[0], form, width))


@click.command(short_help="Predict new rows.")
@click.argument("ref", shell_complete=complete_ref)
@click.argument("data", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Where to write, .csv or .parquet; by default CSV goes to standard output.",
)
@trust_option
@places
def predict(ref: str, data: Path, output: Path | None, registry: str, blobs: str) -> None:
    """Predict the rows of DATA by a model, an average or a pool.

    DATA is a table with the columns that were learnt from (the target is not needed), or images.
    It may be larger than the memory; predictions come in the order of its rows. A terminal shows
    six digits of each figure, files and pipes get all.

    \b
        zoo predict houses-mlp@best houses.csv -o predicted.csv
    """
    from ensemble.serving import predict_file
    from zoo.registry import Registry

    rows, gaps = 0, Counter[tuple[str, str]]()
    with Registry(registry, blobs, create=False) as opened:
        for predicted, found in predict_file(opened, opened.run(ref), data, output):
            if output is None:
                _print_csv(predicted, header=not rows)
            rows += len(predicted)
            gaps.update(found)
    told = {"missing": "are missing", "unseen": "hold values unseen in training"}
    for (column, what), count in gaps.items():
        echo(f"column {column!r}: {count} cells {told[what]}", err=True)
    echo(f"{rows} rows predicted" + (f": {output}" if output else ""), err=True)


def _print_csv(predicted: Any, *, header: bool) -> None:
    """Print predictions: six digits of each figure on a terminal, all of them into a pipe."""
    from zoo.figures import short

    if terminal_width() is None:
        click.echo(predicted.to_csv(index=False, header=header), nl=False)
    else:
        rounded = partial(short, digits=6)
        echo(predicted.to_csv(index=False, header=header, float_format=rounded).rstrip("\n"))


@click.command()
@format_option
def methods(form: Any) -> None:
    """List the ways to combine members, with their options."""
    from ensemble.text import methods_text

    echo(methods_text(form))


@click.command(short_help="Average weights in files.")
@click.argument("paths", nargs=-1, required=True, metavar="FILE...", type=click.Path())
@click.option(
    "-o",
    "--output",
    metavar="FILE|FOLDER",
    required=True,
    type=click.Path(),
    help="A .safetensors file; or a folder, with files like those of the first member; or a URL.",
)
@click.option("--method", metavar="M", default="uniform", show_default=True, help="See `methods`.")
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="KEY=VALUE",
    help="A method's option; weights=[2,1], one per file; base=FILE.",
)
@click.option("--dtype", metavar="TYPE", help="What floats become, such as bfloat16.")
@click.option("--key", metavar="KEY", help="Where in a .pt checkpoint the weights are.")
@click.option("--force", is_flag=True, help="Replace files that are there.")
def average(
    paths: Sequence[str],
    output: str,
    method: str,
    settings: Sequence[str],
    dtype: str | None,
    key: str | None,
    force: bool,
) -> None:
    """Average the weights in files into one, whatever model they are of.

    A FILE is .safetensors, a folder of Hugging Face, the URL of either in an object store
    (s3://BUCKET/..., gs://..., az://...), or what torch.save wrote. Safetensors may be larger than
    the memory. The files written are listed on standard output, one a line.
    """
    from ensemble.errors import LISTED, StateMismatchError
    from ensemble.files import average_files
    from zoo.settings import assigned

    try:
        with Bar() as bar:
            done = average_files(
                paths,
                output,
                method=method,
                options=assigned(settings),
                dtype=dtype,
                key=key,
                force=force,
                watch=bar,
            )
    except StateMismatchError as error:
        for fact in error.differences[LISTED:] and error.differences:
            echo(fact, err=True)
        raise
    for note in done.notes:
        echo(note, err=True)
    for path in done.paths:
        echo(str(path))


class Bar:
    """A bar on standard error, where that is a terminal."""

    def __enter__(self) -> "Bar":
        self.bar: Any = None
        return self

    def __call__(self, count: int, total: int) -> None:
        """Draw how much of all bytes was read."""
        if self.bar is None and sys.stderr.isatty():
            self.bar = click.progressbar(
                length=total, file=sys.stderr, label="averaging", update_min_steps=total // 200 + 1
            )
            self.bar.__enter__()
        if self.bar is not None:
            self.bar.update(count)

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.__exit__(None, None, None)


COMMANDS = (ensemble, compare, predict, average, methods)
