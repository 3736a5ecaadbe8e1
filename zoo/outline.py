"""All settings as a file to start from: every key, its default, what it takes and means."""

import json
from collections.abc import Iterator, Mapping
from textwrap import wrap
from typing import Any, get_args

from zoo.config import RunConfig
from zoo.section import Section

COLUMN, WIDTH = 30, 80  # where explanations begin, and lines end
FOUND = {"data.fold", "init.sha256", "init.trained"}  # by the program; not for users to set
BOUNDS = {
    "minimum": "{:g} or more",
    "exclusiveMinimum": "more than {:g}",
    "maximum": "at most {:g}",
    "exclusiveMaximum": "less than {:g}",
}
NOUNS = {"string": "text", "boolean": "true | false", "array": "list", "object": "table"}


def outline(ref: str, model: Mapping[str, Any]) -> str:
    """Return a TOML file for ``train-many`` with every setting; the defaults are commented out.

    Args:
        ref: the data.
        model: the model's name, and its options with their values.
    """
    lines = ["# For `zoo train-many FILE`.  What is commented out is the default.", ""]
    lines += _line("seeds = 8", 'a count, a range "0-7", or a list [1, 5]')
    lines += _line("#name =", "text: of the zoo; by default DATA-MODEL")
    for section, field in RunConfig.model_fields.items():
        lines += ["", f"[{section}]"]
        if section == "model":
            lines += [f"{'' if key == 'name' else '#'}{_pair(key, model[key])}" for key in model]
            continue
        kinds = get_args(field.annotation) or (field.annotation,)
        default, *others = sorted(kinds, key=lambda kind: kind is not type(field.default))
        for key, entry in _entries(default):
            if f"{section}.{key}" in FOUND:
                continue
            told = ": ".join(filter(None, [_takes(entry), entry.get("description")]))
            given = _pair("ref", ref) if key == "ref" else f"#{_pair(key, entry.get('default'))}"
            lines += _line(given, told)
        for kind in others:
            pairs = [_pair(key, entry.get("default")) for key, entry in _entries(kind)]
            lines += [f"# {line}" for line in wrap(f"or: {', '.join(pairs)}", WIDTH - 2)]
    lines += ["", "[grid]", *_line('#"optim.lr" = [1e-3, 3e-3]', "any key: the values to try")]
    return "\n".join(lines)


def _entries(kind: type[Section]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the keys of a section, its name first, with what JSON Schema says of them."""
    properties = kind.model_json_schema()["properties"]
    yield from sorted(properties.items(), key=lambda item: item[0] not in ("name", "ref"))


def _takes(entry: Mapping[str, Any]) -> str:
    """Say what values a key takes.

    >>> _takes({"anyOf": [{"minimum": 1, "type": "integer"}, {"type": "null"}]})
    'integer, 1 or more'
    """
    if "anyOf" in entry:
        return " or ".join(_takes(e) for e in entry["anyOf"] if e.get("type") != "null")
    if "enum" in entry:
        return " | ".join(map(json.dumps, entry["enum"]))
    if "const" in entry:
        return json.dumps(entry["const"])
    kind = entry["type"]
    bounds = [
        phrase.format(entry[name])
        for name, phrase in BOUNDS.items()
        if abs(entry.get(name, 1e9)) < 1e9  # no bound that anybody meets
    ]
    return ", ".join([NOUNS.get(kind, kind), *bounds])


def _pair(key: str, value: Any) -> str:
    """Write a key and its value; without one, what the user has to fill in is left open."""
    return f"{key} =" if value is None else f"{key} = {json.dumps(value)}"


def _line(setting: str, told: str) -> list[str]:
    """Write a setting with an explanation beside it, in as many lines as that takes."""
    first, *rest = wrap(told, WIDTH - COLUMN - 2)
    beside = f"{setting:{COLUMN}}# {first}" if len(setting) < COLUMN else f"{setting}  # {first}"
    return [beside, *(f"{'#':{COLUMN}}# {line}" for line in rest)]
