"""What the registry says of a run, read before it is used: a catalogue may be anybody's."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import ValidationError
from torch import Tensor

from ensemble import catalogue
from zoo.errors import UnsafeFileError
from zoo.registry import Run
from zoo.section import Section

S = TypeVar("S", bound=Section)


@dataclass(frozen=True)
class Pooling:
    """How a pool of predictions is computed.

    Attributes:
        members: in their order.
        function: the method's.
        arguments: of the function, besides the predictions.
    """

    members: list[Run]
    function: Callable[..., Tensor]
    arguments: dict[str, Any]


def settings_of(run: Run, name: str, kind: type[S]) -> S:
    """Return a section of a run's settings.

    Raises:
        UnsafeFileError: where they are none.
    """
    try:
        return kind.model_validate(run.config.get(name))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join([name, *map(str, first["loc"])])
        raise UnsafeFileError(
            f"{run.owner}: its settings are damaged: {where}: {first['msg']}"
        ) from None


def pooling_of(run: Run, known: Mapping[str, Run]) -> Pooling:
    """Return how a pool of predictions is computed.

    Args:
        run: the pool.
        known: its members among others, by their identifiers.

    Raises:
        UnsafeFileError: where its members or its method are not those of a pool.
    """
    members = [known[key] for key in run.parents if key in known]
    name, arguments = run.config.get("method"), run.config.get("arguments")
    if not members or len(members) < len(run.parents):
        fault = "not all of its members are there"
    elif not isinstance(name, str) or not isinstance(arguments, dict):
        fault = "it has no method with arguments"
    else:
        return Pooling(members, catalogue.find("predictions", name).function, arguments)
    raise UnsafeFileError(f"{run.owner}: is damaged: {fault}")
