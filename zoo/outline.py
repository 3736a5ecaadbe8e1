"""All settings as a file to start from: every key, its default, what it takes and means."""

import json
from collections.abc import Mapping
from textwrap import wrap
from typing import Any, get_args

from zoo.config import Request, RunConfig
from zoo.schema import entries, options
from zoo.sections import ModelConfig

COLUMN, WIDTH = 30, 80  # where explanations begin, and lines end
BOUNDS = {
    "minimum": "{:g} or more",
    "exclusiveMinimum": "more than {:g}",
    "maximum": "at most {:g}",
    "exclusiveMaximum": "less than {:g}",
}
NOUNS = {"string": "text", "boolean": "true | false", "array": "list", "object": "table"}


def outline(data: Mapping[str, Any], model: Mapping[str, Any]) -> str:
    """Return a TOML file for ``train-many`` with every setting; the defaults are commented out.

    Args:
        data: what is known of the data: ``ref``, and any other settings of that section.
        model: the model's name, and its options with their values.
    """
    lines = ["# For `zoo train-many FILE`.  What is commented out is the default.", ""]
    lines += _line("seeds = 8", Request.model_fields["seeds"].description or "")
    lines += _line("#name =", f"text: {Request.model_fields['name'].description}")
    for section, field in RunConfig.model_fields.items():
        lines += ["", f"[{section}]"]
        if section == "model":
            for key, entry in {**entries(section, ModelConfig), **options(model["name"])}.items():
                pair = _pair(key, model[key])
                lines += _line(pair if key == "name" else f"#{pair}", _told(entry))
            continue
        kinds = get_args(field.annotation) or (field.annotation,)
        default, *others = sorted(kinds, key=lambda kind: kind is not type(field.default))
        for key, entry in entries(section, default).items():
            given = section == "data" and key in data
            pair = _pair(key, data[key]) if given else f"#{_pair(key, entry.get('default'))}"
            lines += _line(pair, _told(entry))
        for kind in others:
            pairs = [
                _pair(key, entry.get("default")) for key, entry in entries(section, kind).items()
            ]
            lines += [f"# {line}" for line in wrap(f"or: {', '.join(pairs)}", WIDTH - 2)]
    lines += ["", "[grid]", *_line('#"optim.lr" = [1e-3, 3e-3]', "any key: the values to try")]
    return "\n".join(lines)


def _told(entry: Mapping[str, Any]) -> str:
    """Say what values a key takes and what it means."""
    return ": ".join(filter(None, [_takes(entry), entry.get("description")]))


def _takes(entry: Mapping[str, Any]) -> str:
    """Say what values a key takes.

    >>> _takes({"anyOf": [{"minimum": 1, "type": "integer"}, {"type": "string"}]})
    'integer, 1 or more or text'
    """
    if "anyOf" in entry:
        return " or ".join(map(_takes, entry["anyOf"]))
    if "enum" in entry:
        return " | ".join(map(json.dumps, entry["enum"]))
    if "const" in entry:
        return json.dumps(entry["const"])
    kind = entry.get("type", "")
    bounds = [
        phrase.format(entry[name])
        for name, phrase in BOUNDS.items()
        if abs(entry.get(name, 1e9)) < 1e6  # no bound that anybody meets
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
