"""Text that came from outside, made harmless for a terminal, and no wider than that.

Names, settings and messages of a registry or a file that somebody else wrote may hold sequences
that move the cursor, recolour the screen or turn the reading order around.
"""

import re
import shutil
import sys
import textwrap

import click

# C0 and C1 controls, lone surrogates (no encoding has them), marks that turn the direction of
# reading around, line separators, and the invisible tags and fillers that hide text.
CONTROLS = (
    r"\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    r"\ud800-\udfff\U000e0000-\U000e007f"
)


def printable(text: str) -> str:
    """Replace what a terminal would obey instead of show.

    >>> printable("a\\x1b[2Jb\\u202ec")
    'a?[2Jb?c'
    """
    return re.sub(f"[{CONTROLS}]", "?", text)


def terminal_width(*, err: bool = False) -> int | None:
    """Return how many columns standard output, or error, has; None where it is no terminal."""
    stream = sys.stderr if err else sys.stdout
    return shutil.get_terminal_size().columns if stream.isatty() else None


def wrapped(text: str, width: int | None) -> str:
    """Break lines that are wider between words; names and paths stay whole.

    >>> print(wrapped("  a note that is long, on digits-mlp/seed=0", 24))
      a note that is long,
      on digits-mlp/seed=0
    """
    if width is None:
        return text
    return "\n".join(
        textwrap.fill(
            line,
            width,
            subsequent_indent=line[: len(line) - len(line.lstrip())],
            break_long_words=False,
            break_on_hyphens=False,
        )
        for line in text.split("\n")
    )


def echo(text: str, *, err: bool = False) -> None:
    """Print lines of which some may have come from outside; on standard error they are prose."""
    told = "\n".join(map(printable, text.split("\n")))
    click.echo(wrapped(told, terminal_width(err=True)) if err else told, err=err)


def escaped(json_text: str) -> str:
    """Escape the same in JSON, where nothing is lost by it; line ends between values stay.

    >>> escaped('{"a": "\\x9b2J"}')
    '{"a": "\\\\u009b2J"}'
    """
    return re.sub(f"(?!\\n)[{CONTROLS}]", _escape, json_text)


def _escape(found: re.Match[str]) -> str:
    """Write a character as JSON does, those beyond 16 bits as a pair of surrogates."""
    units = found[0].encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[k]:02x}{units[k + 1]:02x}" for k in range(0, len(units), 2))
