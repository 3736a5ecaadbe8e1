"""What a user may ask for: the settings of a ``train-many`` and the runs they mean.

A :class:`Config` is a request: seeds x a grid of settings.  :meth:`Config.runs` expands it to
:class:`RunConfig` values, one per member, each with a stable :attr:`~RunConfig.hash`: the same
settings always give the same hash, in any order, spelling or file.
"""

import hashlib
import itertools
import json
import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from zoo.errors import ConfigError, nearest

T = TypeVar("T", bound=BaseModel)
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)]
Momentum = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]


class Section(BaseModel):
    """A group of settings: immutable, with no unknown keys and no silent conversions to bool."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=False)


class DataConfig(Section):
    """Which data, and how they are split.  Every member of a zoo sees the same split."""

    ref: str = Field(description="a built-in name (digits, iris, ...) or the path of a CSV file")
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


class ModelConfig(BaseModel):
    """A builder's name and its options, which :mod:`zoo.models` checks against its signature."""

    model_config = ConfigDict(extra="allow", frozen=True)

    name: str = "mlp"

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


class Adam(Section):
    """Adam; its weight decay is an L2 penalty added to the gradient."""

    name: Literal["adam"] = "adam"
    lr: Positive = 1e-3
    betas: tuple[Momentum, Momentum] = (0.9, 0.999)
    eps: Positive = 1e-8
    weight_decay: NonNegative = 0.0


class AdamW(Section):
    """Adam with decoupled weight decay."""

    name: Literal["adamw"] = "adamw"
    lr: Positive = 1e-3
    betas: tuple[Momentum, Momentum] = (0.9, 0.999)
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

    @property
    def direction(self) -> Literal["min", "max"]:
        """The mode, or the one that suits the metric."""
        return self.mode or ("max" if self.metric == "accuracy" else "min")


class RunConfig(Section):
    """Everything that decides what one member becomes, apart from the bytes of the data."""

    data: DataConfig
    model: ModelConfig = ModelConfig()
    optim: Annotated[SGD | Adam | AdamW, Field(discriminator="name")] = Adam()
    train: TrainConfig = TrainConfig()
    stop: StopConfig = StopConfig()

    @field_validator("optim", mode="before")
    @classmethod
    def _default_optimiser(cls, value: object) -> object:
        return {"name": "adam", **value} if isinstance(value, dict) else value

    @property
    def hash(self) -> str:
        """16 hexadecimal digits of the SHA-256 of these settings in canonical JSON."""
        canonical = json.dumps(self.model_dump(mode="json"), sort_keys=True)
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]


class Config(RunConfig):
    """One ``train-many``: a name, seeds, and a grid over any keys of the settings."""

    name: str | None = Field(default=None, min_length=1, max_length=100)
    seeds: tuple[Seed, ...] = tuple(range(8))
    grid: dict[str, list[Any]] = Field(
        default_factory=dict, description="dotted key -> the values to try"
    )

    @field_validator("seeds", mode="before")
    @classmethod
    def _seeds(cls, value: object) -> object:
        return parse_seeds(value) if isinstance(value, str | int) else value

    @field_validator("seeds")
    @classmethod
    def _distinct(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        twice = sorted({seed for seed in value if value.count(seed) > 1})
        if twice:
            raise ValueError(f"a seed may be given once, however {_listed(twice)} came twice")
        if not value:
            raise ValueError("at least one seed is needed")
        return value

    @field_validator("name")
    @classmethod
    def _plain(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"[\w.+][\w.+-]*", value):
            raise ValueError(
                "a name holds letters, digits, '.', '_', '+' and '-', and does not start with '-', "
                f"however it is {value!r}"
            )
        return value

    @property
    def title(self) -> str:
        """The name of this zoo: as given, or the data and the model."""
        return self.name or f"{Path(self.data.ref).stem}-{self.model.name}"

    def runs(self) -> list[tuple[RunConfig, dict[str, Any], int]]:
        """Expand to (settings, the grid values that vary, seed), seeds varying fastest.

        >>> config = parse({"data": {"ref": "iris"}, "seeds": 2, "grid": {"optim.lr": [0.1, 0.2]}})
        >>> [(run.optim.lr, varied, seed) for run, varied, seed in config.runs()]
        [(0.1, {'optim.lr': 0.1}, 0), (0.1, {'optim.lr': 0.1}, 1), (0.2, {'optim.lr': 0.2}, 0), \
(0.2, {'optim.lr': 0.2}, 1)]
        """
        base = self.model_dump(mode="json", exclude={"name", "seeds", "grid"})
        expanded = []
        for values in itertools.product(*self.grid.values()):
            varied = dict(zip(self.grid, values, strict=True))
            run = _validated(RunConfig, _override(base, varied))
            expanded += [(run, varied, seed) for seed in self.seeds]
        hashes = [(run.hash, seed) for run, _, seed in expanded]
        if len(set(hashes)) < len(hashes):
            raise ConfigError("grid: every value must differ, however two settings are the same")
        return expanded


OPTIMISERS: dict[str, type[Section]] = {"sgd": SGD, "adam": Adam, "adamw": AdamW}
SECTIONS: dict[str, type[BaseModel]] = {
    "data": DataConfig,
    "model": ModelConfig,
    "train": TrainConfig,
    "stop": StopConfig,
}


def parse(settings: Mapping[str, Any]) -> Config:
    """Validate nested settings, and every cell of their grid.

    Raises:
        ConfigError: naming each offending key and what is wrong with it.
    """
    settings = dict(settings)
    grid = settings.get("grid")
    if isinstance(grid, Mapping):
        settings["grid"] = {
            key: values if isinstance(values, list) else [values]
            for key, values in _flatten(grid).items()
        }
        # The first cell fills keys that have no default of their own, such as another optimiser's.
        first = {key: values[0] for key, values in settings["grid"].items() if values}
        settings = {**_override(settings, first), "grid": settings["grid"]}
    config = _validated(Config, settings)
    config.runs()
    return config


def read(path: Path) -> dict[str, Any]:
    """Read a TOML file as nested settings.

    Raises:
        ConfigError: where it cannot be read or is not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: is not TOML: {error}") from None


def assignments(items: Iterable[str]) -> dict[str, list[Any]]:
    """Parse ``key=value`` items; commas outside brackets separate the values of a grid.

    >>> assignments(["optim.lr=1e-3,3e-4", "model.hidden=[64,64]", "optim.name=sgd"])
    {'optim.lr': [0.001, 0.0003], 'model.hidden': [[64, 64]], 'optim.name': ['sgd']}
    """
    parsed: dict[str, list[Any]] = {}
    for item in items:
        key, equals, text = item.partition("=")
        if not equals or not key.strip() or not text.strip():
            raise ConfigError(f"--set takes KEY=VALUE, however it got {item!r}")
        if key.strip() in parsed:
            raise ConfigError(f"--set {key.strip()}: is given twice; separate values by commas")
        parsed[key.strip()] = _values(text)
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
    single = {key: values[0] for key, values in assigned.items() if len(values) == 1}
    given = {key: value for key, value in flags.items() if value is not None} | single
    merged = _override(settings, given)
    table = merged.pop("grid", {})
    grid = {key: values for key, values in _flatten(table).items() if key not in given}
    grid |= {key: values for key, values in assigned.items() if len(values) > 1}
    return merged | ({"grid": grid} if grid else {})


def parse_seeds(value: str | int) -> list[int]:
    """Read seeds: a count, a range, or a list of both.

    >>> parse_seeds(3), parse_seeds("0-2"), parse_seeds("1,5,8-9")
    ([0, 1, 2], [0, 1, 2], [1, 5, 8, 9])
    """
    text = str(value).strip()
    if text.isdecimal():
        return list(range(_bounded(int(text))))
    seeds: list[int] = []
    for part in text.split(","):
        found = re.fullmatch(r"\s*(\d+)(?:\s*-\s*(\d+))?\s*", part)
        if not found:
            raise ValueError(
                f"takes a count (8), a range (0-7) or a list (1,5), however got {text!r}"
            )
        first = int(found[1])
        last = int(found[2] or first)
        if last < first:
            raise ValueError(f"a range goes upwards, however {part.strip()!r} goes down")
        _bounded(last - first)
        seeds += range(first, last + 1)
    return seeds


def _bounded(count: int) -> int:
    if count > 100_000:
        raise ValueError(f"at most 100000 seeds, however {count} were asked for")
    return count


def _values(text: str) -> list[Any]:
    """Parse TOML values separated by commas; a bare word is a string."""
    parts = re.findall(r"(?:\[[^\]]*\]|\"[^\"]*\"|'[^']*'|[^,\[\"'])+", text)
    return [_value(part.strip()) for part in parts]


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _flatten(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Turn nested tables into dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        inner = _flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else None
        flat |= inner if inner is not None else {f"{prefix}{key}": value}
    return flat


def _override(settings: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested settings with dotted keys replaced."""
    result: dict[str, Any] = json.loads(json.dumps(settings, default=str))
    for dotted in sorted(changes, key=lambda key: not key.endswith(".name")):
        *path, last = dotted.split(".")
        table = result
        for key in path:
            table = table.setdefault(key, {})
            if not isinstance(table, dict):
                raise ConfigError(f"{dotted}: {key} is a value, not a table")
        if path and last == "name" and table.get("name") != changes[dotted]:
            table.clear()  # another optimiser or model starts from its own defaults
        table[last] = changes[dotted]
    return result


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
            fault = detail["msg"].replace("Input should", "should", 1)
            return f"{key}: {fault}, however it is {detail['input']!r}"


def _keys(path: tuple[str | int, ...]) -> list[str]:
    """List the keys of the section at ``path``."""
    section: type[BaseModel] = Config
    for part in path:
        section = OPTIMISERS.get(str(part)) or SECTIONS.get(str(part), section)
    return list(section.model_fields)


def _listed(values: Iterable[object]) -> str:
    return ", ".join(map(str, values))
