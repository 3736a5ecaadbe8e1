"""What files of settings may hold, as JSON Schema: editors complete and check by it.

It knows each key by itself; what several of them mean together is left to :mod:`zoo.config`.
"""

import inspect
import json
import os
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema

from zoo import models, settings
from zoo.config import NAMING, OPTIMISERS, SECTIONS, Request, RunConfig
from zoo.sections import Monitor

FOUND = {"data.fold", "init.sha256", "init.trained"}  # by the program; not for users to set
Schema = dict[str, Any]


class TomlSchema(GenerateJsonSchema):
    """JSON Schema without null, which TOML has not, and without titles that repeat the keys."""

    def nullable_schema(self, schema: Any) -> Schema:
        """Leave the null out."""
        return self.generate_inner(schema["schema"])

    def default_schema(self, schema: Any) -> Schema:
        """Leave out a default that is null."""
        if schema.get("default") is None:
            return self.generate_inner(schema["schema"])
        return super().default_schema(schema)

    def field_title_should_be_set(self, schema: Any) -> bool:
        """Leave the title out."""
        return False


def schema() -> Schema:
    """Return the JSON Schema of a file for ``train-many``."""
    asked = _schema(Request)["properties"]
    tables = {section: _tables(section) for section in RunConfig.model_fields}
    short = {"type": "string", "description": "shared, the path of a file, or a REF"}
    tables["init"].append(short)
    seed = asked["seeds"].pop("items")
    seeds = [
        {"type": "integer", "minimum": 1},
        {"type": "string", "pattern": r"^[\d\s,-]+$"},
        {"type": "array", "items": seed, "minItems": 1, "uniqueItems": True},
    ]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Settings of zoo train-many",
        "type": "object",
        "properties": {
            "name": {**asked["name"], "pattern": r"^[^\s/\\-][^\s/\\]{0,99}$"},
            "seeds": {"description": asked["seeds"]["description"], "anyOf": seeds},
            **{
                section: {"description": _told(section)}
                | (forms[0] if len(forms) == 1 else {"anyOf": forms})
                for section, forms in tables.items()
            },
            "grid": {"description": asked["grid"]["description"], **_grid(tables)},
        },
        "additionalProperties": False,
        "$defs": {"Monitor": _schema(Monitor)},
    }


def document() -> str:
    """Return the schema as the text of a file."""
    return json.dumps(schema(), indent=2, ensure_ascii=False)


def directive(schema: Path, settings: Path | None) -> str:
    """Return the comment by which editors find the schema of a file of settings.

    >>> directive(Path("made/zoo.schema.json"), Path("runs/a.toml"))
    '#:schema ../made/zoo.schema.json'
    """
    path = os.path.relpath(schema, settings.parent if settings else ".").replace(os.sep, "/")
    return f"#:schema {path if path.startswith('..') else f'./{path}'}"


def entries(section: str, kind: type[BaseModel]) -> dict[str, Schema]:
    """Return the keys of a section that users may set, what names it first, each with its schema.

    >>> entries("train", SECTIONS["train"])["clip_norm"]
    {'description': 'largest norm of a gradient', 'exclusiveMinimum': 0, 'type': 'number'}
    """
    told = _schema(kind)["properties"]
    keys = sorted(told, key=lambda key: key != NAMING.get(section))
    return {key: told[key] for key in keys if f"{section}.{key}" not in FOUND}


def options(model: str) -> dict[str, Schema]:
    """Return the options of a model, each with its schema.

    >>> options("cnn")["kernel_size"]["description"]
    'pixels a side'
    """
    return {
        key: option.adapter.json_schema(schema_generator=TomlSchema)
        for key, option in models.declared(model).items()
    }


def _schema(kind: type[BaseModel]) -> Schema:
    return kind.model_json_schema(schema_generator=TomlSchema)


def _told(section: str) -> str:
    """Return what a section is for, in one sentence."""
    told = RunConfig.model_fields[section].description
    return told or inspect.cleandoc(SECTIONS[section].__doc__ or "").partition("\n")[0]


def _tables(section: str) -> list[Schema]:
    """Return what a section may be: one table, or one for each name of an optimiser or a model."""
    if section == "optim":
        return [
            _table(entries(section, kind), named=name != settings.DEFAULTS[section])
            for name, kind in OPTIMISERS.items()
        ]
    keys = entries(section, SECTIONS[section])
    if section != "model":
        return [_table(keys)]
    named = keys["name"]
    return [
        *(
            _table(
                {"name": {**named, "const": name}, **options(name)},
                named=name != settings.DEFAULTS[section],
            )
            for name in models.BUILDERS
        ),
        {**_table({"name": {**named, "pattern": ":"}}, named=True), "additionalProperties": True},
    ]


def _table(keys: Mapping[str, Schema], named: bool = False) -> Schema:
    """Return the schema of a table that has these keys alone, and must have its name or not."""
    return {
        "type": "object",
        "properties": dict(keys),
        "required": ["name"] * named,
        "additionalProperties": False,
    }


def _grid(tables: Mapping[str, list[Schema]]) -> Schema:
    """Return the schema of a table of dotted keys, each with a list of the values to try."""
    tried: dict[str, list[Schema]] = defaultdict(list, init=tables["init"])
    for section, forms in tables.items():
        for form in forms:
            for key, value in form.get("properties", {}).items():
                tried[f"{section}.{key}"].append(value)
    several = {"type": "array", "minItems": 1}
    return {
        "type": "object",
        "properties": {key: {**several, "items": {"anyOf": tried[key]}} for key in tried},
        "patternProperties": {r"^model\.": several},  # options of models of one's own
        "additionalProperties": {"type": "object"},  # keys that are not quoted: [grid.optim]
    }
