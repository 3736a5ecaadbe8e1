"""Names of files, made from what is known of a run: ``{name}-{seed}-epoch{epoch:03d}``.

A template is a user's, what it is filled with may be anybody's: nothing of a run can choose a
folder, and no format can ask for a name without end.
"""

import re
import string
from collections.abc import Mapping
from typing import Any

from zoo.errors import UsageError, nearest
from zoo.registry import Checkpoint, Run

DEFAULT = "{name}-{id}"
LONGEST = 200  # bytes, so that an ending fits into the 255 that file systems allow
SPEC = re.compile(r"[<>^]?[+ ]?0?[0-9]{0,2}(\.[0-9]{1,2})?[bdeEfgGnosxX%]?")
RESERVED = re.compile(r"(?i)(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?")  # devices of Windows


def fields(run: Run, checkpoint: Checkpoint) -> dict[str, Any]:
    """Return what a template may name: of the run, and every metric of the checkpoint."""
    return {
        **checkpoint.metrics,
        "name": run.name,
        "id": run.id,
        "seed": run.seed,
        "kind": checkpoint.kind,
        "epoch": checkpoint.epoch,
        "epochs": run.epochs,
    }


def fill(template: str, values: Mapping[str, Any], owner: str) -> str:
    """Make the name of a file, without ending.

    Args:
        template: text with ``{field}`` or ``{field:format}``.
        values: of the fields.
        owner: how messages name the run.

    Raises:
        UsageError: where a field is unknown or has no value, a format does not fit it, or the
            result cannot be the name of a file on every system.

    >>> fill("{name}-epoch{epoch:03d}", {"name": "mlp", "epoch": 7}, "run mlp")
    'mlp-epoch007'
    >>> fill("{name}", {"name": "../x"}, "run ../x")
    Traceback (most recent call last):
    zoo.errors.UsageError: run ../x: a file's name has up to 200 bytes of letters, digits, '.', \
'_', '+', '=', ',', '@' and '-', begins with none of '.-', ends in no '.', and is no device of \
Windows, however it would be '../x'; choose another --template
    """
    made = ""
    try:
        parsed = list(string.Formatter().parse(template))
    except ValueError as error:
        raise UsageError(f"--template {template!r}: {error}") from None
    for text, field, spec, conversion in parsed:
        made += text
        if field is None:
            continue
        if field not in values:
            raise UsageError(f"--template: no such field {field!r}{nearest(field, values)}")
        if conversion or not SPEC.fullmatch(spec or ""):
            raise UsageError(
                f"--template: a field is {{NAME}} or {{NAME:FORMAT}} with a format such as 03d or "
                f".4f, however {field!r} has {(conversion or spec or '')[:40]!r}"
            )
        if values[field] is None:
            raise UsageError(f"--template: {owner} has no {field}; leave it out")
        try:
            made += format(values[field], spec or "")
        except (TypeError, ValueError) as error:
            raise UsageError(f"--template: {field!r}: {error}") from None
    safe = re.fullmatch(r"[\w+=,@][\w.+=,@-]*(?<!\.)", made) and not RESERVED.fullmatch(made)
    if not safe or len(made.encode("utf-8", "replace")) > LONGEST:
        raise UsageError(
            f"{owner}: a file's name has up to {LONGEST} bytes of letters, digits, '.', '_', '+', "
            "'=', ',', '@' and '-', begins with none of '.-', ends in no '.', and is no device of "
            f"Windows, however it would be {made[:200]!r}; choose another --template"
        )
    return made
