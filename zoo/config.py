"""What a user may ask for: the settings of a ``train-many`` and the runs they mean.

:func:`parse` turns nested settings into a :class:`Config`: seeds x the cells of a grid.  Every cell
is a :class:`RunConfig` with a stable :attr:`~RunConfig.hash`: the same settings always give the
same hash, in any order, spelling or file.
"""

import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from zoo import settings
from zoo.errors import ConfigError, nearest

T = TypeVar("T", bound=BaseModel)
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)]
Momentum = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]


class Section(BaseModel):
    """A group of settings: immutable, with no unknown keys and no conversions."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class DataConfig(Section):
    """Which data, and how they are split.  Every member of a zoo sees the same split."""

    ref: str = Field(
        min_length=1, description="a built-in name (digits, iris, ...) or the path of a CSV file"
    )
    target: str | None = Field(default=None, description="the column to predict, for a file")
    task: Literal["classification", "regression"] | None = Field(
        default=None, description="found from the target when not given"
    )
    split_seed: Seed = 0
    val: Fraction = 0.2
    test: Fraction = 0.2

    @model_validator(mode="after")
    def _leaves_rows(self) -> Self:
        if self.val + self.test >= 1:
            raise ValueError(
                f"val and test must leave rows to train on, however {self.val:g} + {self.test:g} "
                "is 1 or more"
            )
        return self


class ModelConfig(Section):
    """A builder's name and all its options, as :mod:`zoo.models` reads them from its signature."""

    model_config = ConfigDict(extra="allow")

    name: str = "mlp"

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, value: object) -> object:
        if not isinstance(value, Mapping) or not isinstance(value.get("name", "mlp"), str):
            return value
        from zoo import models  # imports torch, which only some commands need

        given = dict(value)
        name = given.pop("name", "mlp")
        return {"name": name, **models.options(name, given)}

    @property
    def options(self) -> dict[str, Any]:
        """Every key but the name."""
        return dict(self.model_extra or {})


class SGD(Section):
    """Stochastic gradient descent with momentum."""

    name: Literal["sgd"] = "sgd"
    lr: Positive = 0.1
    momentum: Momentum = 0.9
    nesterov: bool = False
    weight_decay: NonNegative = 0.0

    @model_validator(mode="after")
    def _moves(self) -> Self:
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov needs a momentum, however it is 0")
        return self


class Adam(Section):
    """Adam; its weight decay is an L2 penalty added to the gradient."""

    name: Literal["adam"] = "adam"
    lr: Positive = 1e-3
    betas: Annotated[tuple[Momentum, Momentum], Field(strict=False)] = (0.9, 0.999)
    eps: Positive = 1e-8
    weight_decay: NonNegative = 0.0


class AdamW(Section):
    """Adam with decoupled weight decay."""

    name: Literal["adamw"] = "adamw"
    lr: Positive = 1e-3
    betas: Annotated[tuple[Momentum, Momentum], Field(strict=False)] = (0.9, 0.999)
    eps: Positive = 1e-8
    weight_decay: NonNegative = 0.01


class TrainConfig(Section):
    """How long and in what portions to train."""

    epochs: int = Field(default=100, ge=1)
    batch_size: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="rows per step; by default 128, or all where there are fewer"
    )


class StopConfig(Section):
    """When a member stops early.  The weights of its best epoch are the ones kept."""

    metric: Literal["loss", "accuracy", "rmse"] = Field(
        default="loss", description="watched on the validation rows"
    )
    mode: Literal["min", "max"] | None = Field(default=None, description="found from the metric")
    patience: int = Field(
        default=10, ge=1, description="epochs without improvement before stopping"
    )
    min_delta: NonNegative = Field(default=0.0, description="an improvement must exceed this")

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        usual = "max" if self.metric == "accuracy" else "min"
        if self.mode not in (None, usual):
            raise ValueError(f"the mode of {self.metric} is {usual}, however it is {self.mode}")
        return self

    @property
    def direction(self) -> Literal["min", "max"]:
        """The mode, or the one that suits the metric."""
        return self.mode or ("max" if self.metric == "accuracy" else "min")


class RunConfig(Section):
    """Everything that decides what one member becomes, apart from the bytes of the data."""

    data: DataConfig
    model: ModelConfig = Field(default_factory=lambda: ModelConfig.model_validate({}))
    optim: Annotated[SGD | Adam | AdamW, Field(discriminator="name")] = Adam()
    train: TrainConfig = TrainConfig()
    stop: StopConfig = StopConfig()

    @field_validator("optim", mode="before")
    @classmethod
    def _default_optimiser(cls, value: object) -> object:
        return {"name": "adam", **value} if isinstance(value, dict) else value

    @property
    def hash(self) -> str:
        """16 hexadecimal digits of the SHA-256 of these settings in canonical JSON.

        The path of the data is left out: the same bytes may lie in another place.
        """
        canonical = json.dumps(
            self.model_dump(mode="json", exclude={"data": {"ref"}}), sort_keys=True
        )
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]


class Request(Section):
    """The outline of a ``train-many``; its sections are read cell by cell."""

    name: str | None = None
    seeds: Annotated[tuple[Seed, ...], Field(strict=False)] = tuple(range(8))
    grid: dict[str, Any] = Field(
        default_factory=dict, description="dotted key -> the values to try"
    )
    data: dict[str, Any] = Field(default_factory=dict)
    model: dict[str, Any] = Field(default_factory=dict)
    optim: dict[str, Any] = Field(default_factory=dict)
    train: dict[str, Any] = Field(default_factory=dict)
    stop: dict[str, Any] = Field(default_factory=dict)

    @field_validator("seeds", mode="before")
    @classmethod
    def _seeds(cls, value: object) -> object:
        return settings.parse_seeds(value) if isinstance(value, str | int) else value

    @field_validator("seeds")
    @classmethod
    def _distinct(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if not value:
            raise ValueError("at least one seed is needed")
        if len(set(value)) < len(value):
            twice = sorted(seed for seed, count in Counter(value).items() if count > 1)
            listed = ", ".join(map(str, twice[:8]))
            raise ValueError(f"a seed may be given once, however {listed} came twice")
        return value

    @field_validator("name")
    @classmethod
    def _plain(cls, value: str | None) -> str | None:
        if value is not None and not settings.is_name(value):
            raise ValueError(f"a name holds {settings.NAME_RULE}, however it is {value!r}")
        return value


@dataclass(frozen=True)
class Config:
    """One ``train-many``.

    Attributes:
        name: of the zoo: as given, or the data and the model.
        seeds: of the members, for each cell.
        cells: the settings of each cell of the grid, with the values that vary.
    """

    name: str
    seeds: tuple[int, ...]
    cells: tuple[tuple[RunConfig, dict[str, Any]], ...]

    def runs(self) -> list[tuple[RunConfig, dict[str, Any], int]]:
        """Expand to (settings, the grid values that vary, seed), seeds varying fastest.

        >>> config = parse({"data": {"ref": "iris"}, "seeds": 2, "grid": {"optim.lr": [0.1, 0.2]}})
        >>> [(run.optim.lr, varied, seed) for run, varied, seed in config.runs()]
        [(0.1, {'optim.lr': 0.1}, 0), (0.1, {'optim.lr': 0.1}, 1), (0.2, {'optim.lr': 0.2}, 0), \
(0.2, {'optim.lr': 0.2}, 1)]
        """
        return [(run, varied, seed) for run, varied in self.cells for seed in self.seeds]


SECTIONS: dict[str, type[BaseModel]] = {
    "data": DataConfig,
    "model": ModelConfig,
    "train": TrainConfig,
    "stop": StopConfig,
}
OPTIMISERS: dict[str, type[BaseModel]] = {"sgd": SGD, "adam": Adam, "adamw": AdamW}


def parse(asked: Mapping[str, Any]) -> Config:
    """Validate nested settings in every cell of their grid.

    Raises:
        ConfigError: naming each offending key and what is wrong with it.
    """
    request = _validated(Request, asked)
    grid = {
        key: values if isinstance(values, list) else [values]
        for key, values in settings.flatten(request.grid).items()
    }
    for key, values in grid.items():
        if not values:
            raise ConfigError(f"{key}: the grid needs at least one value")
        if key.startswith("data.") and len(values) > 1:
            raise ConfigError(f"{key}: one zoo learns from one data set, however it is {values}")
    sections = request.model_dump(exclude={"name", "seeds", "grid"}, exclude_unset=True)
    # Written out, so that a grid that comes to these keeps what was set for them.
    base = settings.override(sections, {})
    for section, name in settings.DEFAULTS.items():
        base.setdefault(section, {}).setdefault("name", name)
    cells = []
    for cell in itertools.product(*grid.values()):
        varied = dict(zip(grid, cell, strict=True))
        run = _validated(RunConfig, settings.override(base, varied))
        cells.append((run, {key: varied[key] for key in varied if len(grid[key]) > 1}))
    if len({run.hash for run, _ in cells}) < len(cells):
        raise ConfigError("grid: every value must differ, however two settings are the same")
    first, _ = cells[0]
    name = request.name or f"{Path(first.data.ref).stem}-{first.model.name}"
    return Config(name, request.seeds, tuple(cells))


def _validated(model: type[T], settings: Mapping[str, Any]) -> T:
    try:
        return model.model_validate(settings)
    except ValidationError as error:
        raise ConfigError("; ".join(map(_explain, error.errors()))) from None


def _explain(detail: Any) -> str:
    """Say in one clause which key is wrong and why."""
    key = ".".join(str(part) for part in detail["loc"] if part not in OPTIMISERS)
    match detail["type"]:
        case "extra_forbidden":
            known = _keys(detail["loc"][:-1])
            return f"{key}: no such key{nearest(str(detail['loc'][-1]), known)}"
        case "missing":
            return f"{key}: is required"
        case "union_tag_invalid":
            return f"{key}.name: no such optimiser{nearest(detail['ctx']['tag'], OPTIMISERS)}"
        case "value_error":
            return f"{key}: {detail['ctx']['error']}"
        case _:
            fault = detail["msg"].replace("Input should", "should", 1).replace("tuple", "list")
            return f"{key}: {fault}, however it is {detail['input']!r}"


def _keys(path: tuple[str | int, ...]) -> list[str]:
    """List the keys of the section at ``path``."""
    section: type[BaseModel] = Request
    for part in path:
        section = OPTIMISERS.get(str(part)) or SECTIONS.get(str(part), section)
    return list(section.model_fields)
