"""A builder's options, as its signature declares them.

The first two parameters of a builder are the shape of a sample and the number of outputs.  All
others are its options.  A value is checked against the annotation, without conversions; where there
is none, whatever JSON can hold will do.
"""

import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import JsonValue, TypeAdapter, ValidationError

from zoo.errors import ConfigError, nearest

REQUIRED = inspect.Parameter.empty


@dataclass(frozen=True)
class Option:
    """One option: its key, what its values are checked against, its default or ``REQUIRED``."""

    key: str
    adapter: TypeAdapter[Any]
    default: Any = REQUIRED

    def check(self, value: object) -> Any:
        """Return the value in the option's type; a list will do for a tuple.

        Raises:
            ConfigError: for a value that does not fit, saying what it should be.

        >>> Option("model.hidden", TypeAdapter(tuple[int, ...])).check([8, 4])
        (8, 4)
        >>> Option("model.hidden", TypeAdapter(tuple[int, ...])).check([8, "4"])
        Traceback (most recent call last):
        zoo.errors.ConfigError: model.hidden.1: should be a valid integer, however it is '4'
        """
        try:
            return self.adapter.validate_json(json.dumps(value), strict=True)
        except ValidationError as error:
            raise ConfigError(f"{self.key}{_fault(error, value)}") from None
        except (TypeError, ValueError):
            raise ConfigError(
                f"{self.key}: should be a value that JSON can hold, however it is {value!r}"
            ) from None

    def plain(self, value: Any) -> Any:
        """Return a checked value as JSON holds it."""
        # It has just been checked: what pydantic may warn of is nothing.
        return self.adapter.dump_python(value, mode="json", warnings=False)


def read(builder: Callable[..., Any], name: str) -> dict[str, Option]:
    """Read the options of a builder from its signature.

    Raises:
        ConfigError: where it is not the signature of a builder, or a default does not fit its type.

    >>> [option.key for option in read(lambda shape, outputs, width=8: None, "mine").values()]
    ['model.width']
    """
    try:
        signature = inspect.signature(builder, eval_str=True)
        parameters = list(signature.parameters.values())
        positional = [p for p in parameters[:2] if p.kind <= p.POSITIONAL_OR_KEYWORD]
        if len(positional) < 2:
            raise TypeError(f"it takes {signature}")
        return {p.name: _option(p) for p in parameters[2:] if p.kind is not p.VAR_KEYWORD}
    except Exception as error:  # whatever a user's annotations raise when they are evaluated
        raise ConfigError(
            f"model.name: {name} must take (shape, outputs) and options of types that JSON can "
            f"hold, however: {error}"
        ) from error


def bind(options: Mapping[str, Option], given: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Check the given values and fill in the defaults.

    Raises:
        ConfigError: naming every option that is unknown, missing, or has a value that does not fit.
    """
    faults = [
        f"model.{key}: {name} has no such option{nearest(key, options)}"
        for key in given
        if key not in options
    ]
    values = {}
    for key, option in options.items():
        try:
            values[key] = option.check(given[key]) if key in given else option.default
        except ConfigError as error:
            faults.append(str(error))
        if key not in given and option.default is REQUIRED:
            faults.append(f"{option.key}: is required by {name}")
    if faults:
        raise ConfigError("; ".join(faults))
    return values


def _option(parameter: inspect.Parameter) -> Option:
    key = f"model.{parameter.name}"
    if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.VAR_POSITIONAL):
        raise TypeError(f"{parameter} cannot be given by name")
    if parameter.name == "name":
        raise TypeError("an option called 'name' would hide the model's")
    known = parameter.annotation is not parameter.empty
    option = Option(key, TypeAdapter(parameter.annotation if known else JsonValue))
    if parameter.default is parameter.empty:
        return option
    return Option(key, option.adapter, option.check(parameter.default))


def _fault(error: ValidationError, value: Any) -> str:
    """Say where in the value it goes wrong first, and what should be there."""
    details = error.errors(include_url=False)
    place = _place(details[0]["loc"], value)
    rules = dict.fromkeys(
        detail["msg"]
        .removeprefix("Value error, ")
        .replace("Input should", "should", 1)
        .replace("array", "list")
        for detail in details
        if _place(detail["loc"], value) == place
    )
    given = details[0]["input"]
    example = f", such as [{given}]" * ([*rules] == ["should be a valid list"])
    return f"{place}: {' or '.join(rules)}{example}, however it is {given!r}"


def _place(location: tuple[int | str, ...], value: Any) -> str:
    """Return the keys and indices on the way to a fault; the members of unions are not among them.

    >>> _place(("list[int]", 1), [1, "two"])
    '.1'
    """
    place = ""
    for part in location:
        inside = isinstance(value, Mapping) and part in value
        if inside or (isinstance(value, list | tuple) and isinstance(part, int)):
            value = value[part]
            place += f".{part}"
    return place
