"""What a user may ask for: the settings of a ``train-many`` and the runs they mean.

:func:`parse` turns nested settings into a :class:`Config`: seeds x the cells of a grid.  Every cell
is a :class:`RunConfig` with a stable :attr:`~RunConfig.hash`: the same settings always give the
same hash, in any order, spelling or file.
"""

import hashlib
import itertools
import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, Field, ValidationError, field_validator

from zoo import settings, usercode
from zoo.errors import ConfigError, nearest
from zoo.section import Section, Seed
from zoo.sections import (
    SGD,
    Adam,
    AdamW,
    AugmentConfig,
    DataConfig,
    InitConfig,
    KeepConfig,
    ModelConfig,
    Monitor,
    ScheduleConfig,
    StopConfig,
    TrainConfig,
)

T = TypeVar("T", bound=BaseModel)


class RunConfig(Section):
    """Everything that decides what one member becomes, apart from the bytes of the data."""

    data: DataConfig
    model: ModelConfig = Field(default_factory=lambda: ModelConfig.model_validate({}))
    init: InitConfig = InitConfig()
    optim: Annotated[
        SGD | Adam | AdamW, Field(discriminator="name", description="How gradients become steps.")
    ] = Adam()
    schedule: ScheduleConfig = ScheduleConfig()
    train: TrainConfig = TrainConfig()
    stop: StopConfig = StopConfig()
    keep: KeepConfig = KeepConfig()
    augment: AugmentConfig = AugmentConfig()

    @field_validator("optim", mode="before")
    @classmethod
    def _default_optimiser(cls, value: object) -> object:
        return {"name": "adam", **value} if isinstance(value, dict) else value

    @property
    def hash(self) -> str:
        """16 hexadecimal digits of the SHA-256 of these settings in canonical JSON.

        Where the data or the first weights lie is left out: the same bytes may be elsewhere.  So
        are the member's own fold, which follows from its seed, and the monitors' modes, which
        follow from their metrics.
        """
        left_out: dict[str, Any] = {
            "data": {"ref", "fold"},
            "init": {"source"},
            "stop": {"mode": True, "also": {"__all__": {"mode"}}},
        }
        canonical = json.dumps(self.model_dump(mode="json", exclude=left_out), sort_keys=True)
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]


class Request(Section):
    """The outline of a ``train-many``; its sections are read cell by cell."""

    name: str | None = Field(default=None, description="of the zoo; by default DATA-MODEL")
    seeds: Annotated[tuple[Seed, ...], Field(strict=False)] = Field(
        default=tuple(range(8)), description='a count, a range "0-7", or a list [1, 5]'
    )
    grid: dict[str, Any] = Field(
        default_factory=dict, description="dotted key -> the values to try"
    )
    data: dict[str, Any] = Field(default_factory=dict)
    model: dict[str, Any] = Field(default_factory=dict)
    init: Any = Field(default_factory=dict, description="a table, or its short form")
    optim: dict[str, Any] = Field(default_factory=dict)
    schedule: dict[str, Any] = Field(default_factory=dict)
    train: dict[str, Any] = Field(default_factory=dict)
    stop: dict[str, Any] = Field(default_factory=dict)
    keep: dict[str, Any] = Field(default_factory=dict)
    augment: dict[str, Any] = Field(default_factory=dict)

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
    "init": InitConfig,
    "schedule": ScheduleConfig,
    "train": TrainConfig,
    "stop": StopConfig,
    "also": Monitor,
    "keep": KeepConfig,
    "augment": AugmentConfig,
}
NAMING = {"data": "ref", "model": "name", "optim": "name", "schedule": "name"}
OPTIMISERS: dict[str, type[BaseModel]] = {"sgd": SGD, "adam": Adam, "adamw": AdamW}


def parse(asked: Mapping[str, Any]) -> Config:
    """Validate nested settings in every cell of their grid.

    Raises:
        ConfigError: naming each offending key and what is wrong with it.

    >>> parse({"data": {"ref": "iris"}, "optim": {"lr": -1}})
    Traceback (most recent call last):
    zoo.errors.ConfigError: optim.lr: should be greater than 0, however it is -1
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
    count = math.prod(map(len, grid.values())) * len(request.seeds)
    if count > settings.MOST_RUNS:
        raise ConfigError(f"grid: a zoo has at most {settings.MOST_RUNS} runs, however {count}")
    base = request.model_dump(exclude={"name", "seeds", "grid"}, exclude_unset=True)
    # Written out, so that a grid that comes to these keeps what was set for them.
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
    name = request.name or f"{_stem(first.data.ref)}-{usercode.title(first.model.name)}"
    return Config(name, request.seeds, tuple(cells))


def _stem(ref: str) -> str:
    """Return the name of a file without its endings.

    >>> _stem("data/houses.csv.gz"), _stem("digits")
    ('houses', 'digits')
    """
    path = Path(ref)
    return path.with_suffix("").stem if path.suffix in settings.PACKED else path.stem


def _validated(model: type[T], asked: Mapping[str, Any]) -> T:
    try:
        return model.model_validate(asked)
    except ValidationError as error:
        raise ConfigError("; ".join(map(_explain, error.errors()))) from None


def _explain(detail: Any) -> str:
    """Say in one clause which key is wrong and why."""
    key = ".".join(str(part) for part in detail["loc"] if part not in OPTIMISERS)
    match detail["type"]:
        case "extra_forbidden":
            word, known = str(detail["loc"][-1]), _keys(detail["loc"][:-1])
            near = bool(get_close_matches(word, known, cutoff=0.85))
            others = [] if near else [place for place in places(word) if place != key]
            meant = f"; did you mean {' or '.join(others)}?" if others else nearest(word, known)
            return f"{key}: no such key{_owners(word, detail['loc'])}{meant}"
        case "missing":
            return f"{key}: is required" + "; --data names them" * (key in ("data", "data.ref"))
        case "union_tag_invalid":
            return f"{key}.name: no such optimiser{nearest(detail['ctx']['tag'], OPTIMISERS)}"
        case "dict_type" if key in NAMING:
            return f"{key}: is a table; did you mean {key}.{NAMING[key]}={detail['input']}?"
        case "value_error":
            return f"{key}: {detail['ctx']['error']}"
        case "list_type" | "tuple_type":
            given = detail["input"]
            return f"{key}: should be a valid list, such as [{given}], however it is {given!r}"
        case _:
            fault = detail["msg"].replace("Input should", "should", 1).replace("tuple", "list")
            return f"{key}: {fault}, however it is {detail['input']!r}"


def places(word: str) -> list[str]:
    """List the settings whose names begin so, whatever section they are in.

    >>> places("lr"), places("epoch"), places("hidden"), places("lrr")
    (['optim.lr'], ['init.epoch', 'train.epochs'], ['model.hidden'], [])
    """
    from zoo import models  # as in zoo.sections

    keys = [f"{name}.{key}" for name in SECTIONS if name != "also" for key in _keys((name,))]
    keys += dict.fromkeys(f"optim.{key}" for kind in OPTIMISERS for key in _keys((kind,)))
    keys += dict.fromkeys(
        f"model.{key}" for name in models.BUILDERS for key in models.declared(name)
    )
    return [key for key in keys if key.partition(".")[2].startswith(word)][:3]


def _owners(word: str, path: tuple[str | int, ...]) -> str:
    """Say which other optimisers have a key that this one lacks."""
    owners = [kind for kind in OPTIMISERS if word in _keys((kind,))]
    if path[0] != "optim" or not owners:
        return ""
    return f" of {path[1]}, but of {' and '.join(owners)}"


def _keys(path: tuple[str | int, ...]) -> list[str]:
    """List the keys of the section at ``path``."""
    section: type[BaseModel] = Request
    for part in path:
        section = OPTIMISERS.get(str(part)) or SECTIONS.get(str(part), section)
    return list(section.model_fields)
