"""The command that gives models away: parse, one call, print."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from zoo.commands import places, required_refs_argument
from zoo.printable import echo


@click.command(short_help="Write models as files for others.")
@required_refs_argument
@click.option(
    "-o",
    "--output",
    metavar="FOLDER|FILE",
    required=True,
    type=click.Path(path_type=Path),
    help="A folder that gets one per run; or a file for one run: .safetensors, .pt, .onnx, .pt2.",
)
@click.option(
    "--kind",
    type=click.Choice(["best", "last", "top", "epoch", "ema", "swa", "lawa"]),
    default="best",
    show_default=True,
    help="Which of their weights.",
)
@click.option(
    "--template",
    metavar="TEXT",
    help="Names, such as {name}-{seed}-epoch{epoch:03d}-{val_loss:.4f}; by default {name}-{id}.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["safetensors", "pt"]),
    default="safetensors",
    show_default=True,
    help="The form of the weights in a folder.",
)
@click.option("--force", is_flag=True, help="Replace files that are there.")
@places
def export(
    refs: Sequence[str],
    output: Path,
    kind: Any,
    template: str | None,
    form: Any,
    force: bool,
    registry: str,
    blobs: str,
) -> None:
    """Write the weights of runs as files, with a model card and config.json.

    The files of weights are listed on standard output, one a line.

    Into .onnx (needs pip install 'zoo-ensemble[onnx]') or .pt2, of torch.export, goes a program
    instead: from raw numbers to probabilities or values, of a pool as well.  What it predicts is
    compared with what predict says before the file is there.

    \b
        zoo export digits-mlp@best -o best.safetensors
        zoo export digits-mlp -o models
    """
    from ensemble.portable import ENDINGS, export_graph
    from zoo.errors import UsageError
    from zoo.exchange.leaving import export_runs
    from zoo.registry import Registry

    with Registry(registry, blobs, create=False) as opened:
        if output.suffix in ENDINGS:
            runs = opened.runs(refs)
            if len(runs) != 1 or kind != "best" or template is not None:
                raise UsageError(
                    f"{output}: a program is of the best weights of one run, and has the name that "
                    "--output gives it, however more is asked for; name one, without --kind and "
                    "--template"
                )
            checked = export_graph(opened, runs[0], output, force=force)["checked"]
            rows = "rows of its data" if checked["real_rows"] else "made-up rows: its data are gone"
            echo(
                f"off by {checked['largest_difference']:.1e} at most on {checked['rows']} {rows}",
                err=True,
            )
            echo(str(output))
            return
        paths = export_runs(
            opened,
            opened.runs(refs),
            output,
            kind=kind,
            template=template,
            form=form,
            force=force,
        )
    for path in paths:
        echo(str(path))


COMMANDS = (export,)
