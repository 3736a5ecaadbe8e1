"""The command line: the commands of both packages, and what their errors mean to a shell."""

import signal
import threading
from difflib import get_close_matches
from typing import Any

import click

from ensemble import commands as combining
from ensemble import exporting
from ensemble.errors import EnsembleError
from zoo import commands as making
from zoo import doctor, keeping, overview
from zoo.errors import ZooError
from zoo.exchange import commands as exchanging
from zoo.printable import echo
from zoo.tracking import commands as tracking


class Terminated(KeyboardInterrupt):
    """SIGTERM came; whatever ends at Ctrl-C ends at it too."""


def _terminate(*_: Any) -> None:
    raise Terminated


class Commands(click.Group):
    """Turns the expected errors of both packages into one line and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; SIGTERM ends it as Ctrl-C does."""
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, _terminate)
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as interrupt:
            click.echo("Error: interrupted", err=True)
            came = signal.SIGTERM if isinstance(interrupt, Terminated) else signal.SIGINT
            ctx.exit(128 + came)
        except click.NoSuchOption as error:
            raise _with_settings(error) from None
        except (ZooError, EnsembleError) as error:
            echo(f"Error: {' '.join(str(error).split())}", err=True)
            ctx.exit(error.exit_code)


def _with_settings(error: click.NoSuchOption) -> click.NoSuchOption:
    """Say how a setting is set that was given as an option, as --epochs."""
    near = get_close_matches(error.option_name, error.possibilities or (), cutoff=0.85)
    if near or not error.ctx or error.ctx.info_name not in ("train-many", "continue"):
        return error
    from zoo.config import places  # takes a while to import

    keys = places(error.option_name.lstrip("-").replace("-", "_"))
    if not keys:
        return error
    told = f"{error.message} Did you mean {' or '.join(f'--set {key}=' for key in keys)}?"
    return click.NoSuchOption(error.option_name, told, ctx=error.ctx)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="zoo-ensemble")
def main() -> None:
    """Train many models at once, keep them all, make one better predictor of them.

    \b
        zoo train-many --data digits --seeds 8    train 8 networks at once
        zoo ensemble --mode predictions           pool what they predict
        zoo compare                               is that better than the best one?

    A REF names runs: a name, a glob (digits-*), a filter (digits-mlp/seed=3), @best, @top5, or
    the beginning of an identifier.

    Exit codes: 0 ok, 1 failure, 2 usage or config, 3 some runs failed or diverged, 4 bytes are
    damaged or unsafe, or code is not trusted, 130 interrupted (143 by SIGTERM).
    """


for commands in (making, overview, combining, exporting, exchanging, tracking, keeping, doctor):
    for command in commands.COMMANDS:
        main.add_command(command)


if __name__ == "__main__":
    main()
