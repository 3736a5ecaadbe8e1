"""What the registry says of a run, read before it is used: a catalogue may be anybody's."""

from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from zoo.errors import UnsafeFileError
from zoo.registry import Run
from zoo.section import Section

LABELS = "labels"  # the method of what was distilled without teachers
S = TypeVar("S", bound=Section)
Place = Annotated[tuple[str, int], Field(strict=False)]  # JSON has lists


class PoolEntry(BaseModel):
    """What the settings of a pool hold.

    Attributes:
        method: its name in the catalogue.
        arguments: of the method's function, besides predictions.
        used: the identifiers of its members, in their order.
        checkpoints: of each, the kind and the epoch, where it is not its best weights.
        found: what was fitted; these are the function's arguments then.
        calibration: as :func:`ensemble.calibration.calibrate` gives it.
    """

    model_config = ConfigDict(strict=True)

    method: str
    arguments: dict[str, Any]
    used: list[str] = Field(min_length=1)
    checkpoints: list[Place | None] | None = None
    found: dict[str, Any] | None = None
    calibration: dict[str, Any] | None = None


def crossfit(metric: str) -> str:
    """Name the figure, of validation rows that were held back, of a pool that was fitted.

    >>> crossfit("nll")
    'crossfit_nll'
    """
    return f"crossfit_{metric}"


def settings_of(run: Run, name: str, kind: type[S]) -> S:
    """Return a section of a run's settings.

    Raises:
        UnsafeFileError: where they are none.
    """
    try:
        return kind.model_validate(run.config.get(name))
    except ValidationError as error:
        raise UnsafeFileError(
            f"{run.owner}: its settings are damaged: {_fault(error, name)}"
        ) from None


def pool_entry(run: Run) -> PoolEntry:
    """Return what the settings of a pool say.

    Raises:
        UnsafeFileError: where they are not those of one.
    """
    try:
        entry = PoolEntry.model_validate(run.config)
    except ValidationError as error:
        raise UnsafeFileError(f"{run.owner}: is damaged: {_fault(error)}") from None
    if len(entry.checkpoints or entry.used) != len(entry.used):
        raise UnsafeFileError(f"{run.owner}: is damaged: each member has a checkpoint, or none has")
    return entry


def _fault(error: ValidationError, *within: str) -> str:
    """Tell the first place that does not hold what it should."""
    first = error.errors(include_url=False)[0]
    return f"{'.'.join([*within, *map(str, first['loc'])])}: {first['msg']}"
