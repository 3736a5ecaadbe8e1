"""The form of what prepares rows: fitted on the training rows, kept as JSON with every run.

:mod:`zoo.data` makes and applies it as plain JSON.  What comes out of a registry may have been
written by anybody, so that it is read here before it is used.  Nothing here is heavy to import.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from zoo.section import Count, Finite, Positive
from zoo.sections import Task, Transform

Numbers = Annotated[list[Finite], Field(min_length=1)]


class Fitted(BaseModel):
    """Something that was fitted; what a later version adds is passed over."""

    model_config = ConfigDict(strict=True)


class Empty(Fitted):
    """A column without a cell in training: one feature, always zero."""

    kind: Literal["empty"]
    name: str

    @property
    def width(self) -> int:
        """How many features it became."""
        return 1


class Categorical(Fitted):
    """A column of categories, each a feature."""

    kind: Literal["categorical"]
    name: str
    categories: list[str]
    missing: bool
    as_written: bool = False

    @property
    def width(self) -> int:
        """How many features it became."""
        return len(self.categories) + self.missing


class _Scaled(Fitted):
    name: str
    fill: Finite
    missing: bool
    centre: Finite | None = None
    scale: Positive | None = None
    quantiles: Numbers | None = None

    @model_validator(mode="after")
    def _is_scaled(self) -> Self:
        if self.quantiles is None and None in (self.centre, self.scale):
            raise ValueError("needs centre and scale, or quantiles")
        return self


class Numeric(_Scaled):
    """A column of numbers or truth values: see :mod:`zoo.data.scaling`."""

    kind: Literal["numeric", "boolean"]

    @property
    def width(self) -> int:
        """How many features it became."""
        return 1 + self.missing


class Datetime(_Scaled):
    """A column of times: see :mod:`zoo.data.times`."""

    kind: Literal["datetime"]
    zone: bool
    cycles: list[Literal["month", "weekday", "hour"]]

    @property
    def width(self) -> int:
        """How many features it became."""
        return 1 + 2 * len(self.cycles) + self.missing


class Units(Fitted):
    """What standardised quantities stand for: see :mod:`zoo.units`; a list has one per target."""

    transform: Transform
    offsets: Numbers
    scales: Annotated[list[Positive], Field(min_length=1)]
    powers: Numbers
    lows: Numbers
    highs: Numbers


class Target(Fitted):
    """How the outputs of a model are read: see :mod:`zoo.terms`."""

    names: Annotated[list[str], Field(min_length=1)]
    task: Task
    classes: list[str]
    units: Units | None

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        units = self.units
        if self.task != "regression":
            if units or not self.classes:
                raise ValueError("classes and labels have names and no units")
            return self
        if units is None or self.classes:
            raise ValueError("quantities have units and no classes")
        each = (units.offsets, units.scales, units.powers, units.lows, units.highs)
        if {len(self.names)} != set(map(len, each)):
            raise ValueError("each target has a unit")
        return self


class Schema(Fitted):
    """What the columns hold, and a hash of it."""

    columns: dict[str, str]
    hash: str


class _Rows(Fitted):
    target: Target
    schema_: Schema | None = Field(default=None, alias="schema")
    common_split: str | None = None


class Table(_Rows):
    """Columns that become features: see :mod:`zoo.data.tabular`."""

    kind: Literal["table"]
    columns: list[Annotated[Empty | Categorical | Numeric | Datetime, Field(discriminator="kind")]]
    features: Annotated[list[str], Field(min_length=1)]

    @model_validator(mode="after")
    def _names_every_feature(self) -> Self:
        if (width := sum(column.width for column in self.columns)) != len(self.features):
            raise ValueError(f"columns become {width} features and not {len(self.features)}")
        return self


class Images(_Rows):
    """Images that are standardised: see :mod:`zoo.data.images`."""

    kind: Literal["images"]
    shape: Annotated[list[Count], Field(min_length=1)]
    scale: Positive
    mean: Finite
    std: Positive
    size: Annotated[list[Count], Field(min_length=2, max_length=2)] | None = None
    image: str | None = None


_reading: TypeAdapter[Table | Images] = TypeAdapter(
    Annotated[Table | Images, Field(discriminator="kind")]
)


def read(preprocessing: Mapping[str, Any]) -> Table | Images:
    """Read what was fitted.

    Raises:
        ValueError: where it has another form; it says where, and what is wrong there.

    >>> read({"kind": "images"})
    Traceback (most recent call last):
    ValueError: target: Field required
    >>> read({})
    Traceback (most recent call last):
    ValueError: kind must be 'table' or 'images'
    """
    try:
        return _reading.validate_python(preprocessing)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        if not first["loc"]:
            raise ValueError("kind must be 'table' or 'images'") from None
        fault = [".".join(map(str, first["loc"][1:])), first["msg"].removeprefix("Value error, ")]
        raise ValueError(": ".join(filter(None, fault))) from None
