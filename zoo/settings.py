"""Settings as text: TOML files, ``key=value`` items and seeds become nested tables and lists."""

import math
import re
import tomllib
import unicodedata
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from zoo.errors import ConfigError

PACKED = (".gz", ".bz2", ".xz", ".zst")  # endings of compressed files
MOST_RUNS = 100_000  # of a zoo
MOST_TEXT = 1 << 20  # bytes of a file of settings
# A dotted key of so many parts: what tomllib keeps of one grows with their square.
DEEP_KEY = re.compile(r"""(?<![\w"'-])(?:[\w"'-]++[ \t]*+\.[ \t]*+){50}""")
NAME_RULE = "up to 100 letters, digits, '.', '_', '+' and '-', not starting with '-'"
DEFAULTS = {"model": "mlp", "optim": "adam"}  # the names of sections that do not give one
WORD = r"""\s*(?:"[^"]*"|'[^']*'|[^\s,"'\[\]][^,"'\[\]]*)\s*"""


def read(path: Path) -> dict[str, Any]:
    """Read a TOML file as nested settings.

    Raises:
        ConfigError: where it cannot be read, is not TOML, or is larger or deeper than settings are.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MOST_TEXT + 1)
        text = content.decode("utf-8")
        if len(content) > MOST_TEXT or DEEP_KEY.search(text):
            raise RecursionError
        return tomllib.loads(text)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: is not TOML: {error}") from None
    except RecursionError:
        raise ConfigError(
            f"{path}: settings are at most {MOST_TEXT:,} bytes and nest a little, however these are"
            " more, or nest deeper"
        ) from None


def assignments(items: Iterable[str]) -> dict[str, list[Any]]:
    """Parse ``key=value`` items; commas outside brackets separate the values of a grid.

    >>> assignments(["optim.lr=1e-3,3e-4", "model.hidden=[64,64]", "optim.name=sgd"])
    {'optim.lr': [0.001, 0.0003], 'model.hidden': [[64, 64]], 'optim.name': ['sgd']}
    """
    parsed: dict[str, list[Any]] = {}
    for item in items:
        key, equals, text = item.partition("=")
        if not equals or not key.strip() or not text.strip():
            raise ConfigError(
                f"--set takes KEY=VALUE, however it got {item!r}; write it without spaces, or in "
                "quotes"
            )
        if key.strip() in parsed:
            raise ConfigError(f"--set {key.strip()}: is given twice; separate values by commas")
        parsed[key.strip()] = _values(key.strip(), text)
    return parsed


def assigned(items: Iterable[str]) -> dict[str, Any]:
    """Parse ``key=value`` items where a grid has no meaning.

    >>> assigned(["weights=[1,2]"])
    {'weights': [1, 2]}
    """
    return {
        key: values[0] if len(values) == 1 else values for key, values in assignments(items).items()
    }


def merge(
    settings: Mapping[str, Any], flags: Mapping[str, Any], assigned: Mapping[str, list[Any]]
) -> dict[str, Any]:
    """Lay command-line flags and ``--set`` items over the settings of a file.

    Args:
        settings: nested, perhaps with a ``grid``.
        flags: dotted key -> value; None means not given.
        assigned: from :func:`assignments`; several values make a grid.

    >>> merge({"optim": {"lr": 0.1}}, {"data.ref": "iris", "name": None}, {"optim.lr": [0.2, 0.3]})
    {'optim': {'lr': 0.1}, 'data': {'ref': 'iris'}, 'grid': {'optim.lr': [0.2, 0.3]}}
    """
    assigned = dict(assigned)
    seeds = assigned.pop("seeds", None)
    single = {key: values[0] for key, values in assigned.items() if len(values) == 1}
    given = {key: value for key, value in flags.items() if value is not None} | single
    if seeds is not None:
        given["seeds"] = seeds[0] if len(seeds) == 1 else seeds
    merged = override(settings, given)
    grid = merged.pop("grid", {})
    if not isinstance(grid, Mapping):
        raise ConfigError(
            f"grid: should be a table of keys and their values, however it is {grid!r}"
        )
    grid = dict(flatten(grid))
    grid = {key: values for key, values in grid.items() if key not in given}
    grid |= {key: values for key, values in assigned.items() if len(values) > 1}
    # What is set beside a grid of names is meant for each of them.
    named = {key.partition(".")[0] for key in grid if key.endswith(".name")}
    grid |= {key: [v] for key, v in single.items() if key.partition(".")[0] in named}
    return merged | ({"grid": grid} if grid else {})


def is_name(text: str) -> bool:
    """Tell whether a text can name runs.

    >>> is_name("digits-mlp.v2"), is_name("../x"), is_name("--flag")
    (True, False, False)
    """
    return re.fullmatch(r"[\w.+][\w.+-]{0,99}", text) is not None


def parse_value(text: str) -> Any:
    """Read a TOML value; a bare word is a string.

    >>> parse_value("1e-3"), parse_value("[64, 64]"), parse_value("cosine"), parse_value('"1"')
    (0.001, [64, 64], 'cosine', '1')
    """
    try:
        document = tomllib.loads(f"value = {text}")
    except (tomllib.TOMLDecodeError, RecursionError):
        return text
    return document["value"] if len(document) == 1 else text


def parse_seeds(value: str | int) -> list[int]:
    """Read seeds: a count, a range, or a list of both.

    Raises:
        ValueError: for anything else, or too many.

    >>> parse_seeds(3), parse_seeds("0-2"), parse_seeds("1,5,8-9")
    ([0, 1, 2], [0, 1, 2], [1, 5, 8, 9])
    """
    text = str(value).strip()
    ranges = [(0, int(text))] if text.isdecimal() else [_range(p, text) for p in text.split(",")]
    if (count := sum(stop - start for start, stop in ranges)) > MOST_RUNS:
        raise ValueError(f"at most {MOST_RUNS} seeds, however {count} were asked for")
    return [seed for start, stop in ranges for seed in range(start, stop)]


def flatten(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Turn nested tables into dotted keys.

    >>> flatten({"optim": {"lr": 0.1, "betas": [0.9, 0.99]}})
    {'optim.lr': 0.1, 'optim.betas': [0.9, 0.99]}
    """
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        inner = flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else None
        flat |= inner if inner is not None else {f"{prefix}{key}": value}
    return flat


def override(settings: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested settings with dotted keys replaced.

    Another ``name`` of an optimiser or a model starts from that one's own defaults.

    >>> override({"optim": {"name": "sgd", "momentum": 0.5}}, {"optim.name": "adam", "seeds": 3})
    {'optim': {'name': 'adam'}, 'seeds': 3}
    """
    result: dict[str, Any] = _copied(settings)
    for dotted in sorted(changes, key=lambda key: not key.endswith(".name")):
        *path, last = dotted.split(".")
        table = result
        for key in path:
            table = table.setdefault(key, {})
            if not isinstance(table, dict):
                raise ConfigError(f"{dotted}: {key} is a value, not a table")
        named = last == "name" and len(path) == 1 and path[0] in DEFAULTS
        if named and table.get("name", DEFAULTS[path[0]]) != changes[dotted]:
            table.clear()
        table[last] = changes[dotted]
    return result


def column_name(name: str) -> str:
    """Write a column's name as all are compared: in Unicode's NFC form, any white space one space.

    >>> column_name(" two  words\\n")
    'two words'
    """
    return " ".join(unicodedata.normalize("NFC", name).split())


def column_names(value: object) -> object:
    """Check the names of one or several columns; a list of one is that column.

    >>> column_names(["price"]), column_names(["price", "rent"])
    ('price', ('price', 'rent'))
    """
    if isinstance(value, str) or value is None:
        return value
    if not isinstance(value, list | tuple) or not all(isinstance(name, str) for name in value):
        raise ValueError(f"takes the name of a column or a list of names, however it is {value!r}")
    names = tuple(map(column_name, value))
    twice = [name for place, name in enumerate(names) if name in names[:place]]
    if twice:
        raise ValueError(f"a column may be a target once, however {twice[0]!r} came twice")
    if not names:
        raise ValueError("takes the name of a column or a list of names, however it is empty")
    return names[0] if len(names) == 1 else names


def positive_weights(value: object) -> object:
    """Check weights of classes: ``balanced``, or a positive number for each.

    >>> positive_weights([1, 2.5])
    (1.0, 2.5)
    """
    numbers = isinstance(value, list | tuple) and all(
        isinstance(weight, int | float) and not isinstance(weight, bool) and 0 < weight < math.inf
        for weight in value
    )
    if value is None or value == "balanced" or (numbers and value):
        return tuple(map(float, value)) if isinstance(value, list | tuple) else value
    raise ValueError(
        f"takes balanced or a list of positive numbers, one per class, however it is {value!r}"
    )


def _copied(value: Any) -> Any:
    """Copy nested tables; their values are shared."""
    return {k: _copied(v) for k, v in value.items()} if isinstance(value, Mapping) else value


def _range(part: str, text: str) -> tuple[int, int]:
    found = re.fullmatch(r"\s*(\d+)(?:\s*-\s*(\d+))?\s*", part)
    if not found:
        raise ValueError(f"takes a count (8), a range (0-7) or a list (1,5), however got {text!r}")
    first, last = int(found[1]), int(found[2] or found[1])
    if last < first:
        raise ValueError(f"a range goes upwards, however {part.strip()!r} goes down")
    return first, last + 1


def _values(key: str, text: str) -> list[Any]:
    """Parse TOML values separated by commas; a bare word is a string."""
    try:
        document = tomllib.loads(f"values = [{text}]")
    except (tomllib.TOMLDecodeError, RecursionError):
        document = {}
    if list(document) == ["values"] and not text.rstrip().endswith(","):
        values: list[Any] = document["values"]
        return values
    words = re.split(r""",(?=(?:[^"]*"[^"]*")*[^"]*$)""", text)
    if not all(re.fullmatch(WORD, word) for word in words):
        raise ConfigError(
            f"--set {key}: takes values separated by commas, however it is {text!r}; put what has"
            " spaces or quotes into single quotes"
        )
    return [parse_value(word.strip()) for word in words]
