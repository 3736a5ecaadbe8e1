"""Builders: named functions from a sample's shape and the number of outputs to a module.

A builder is a function and one decorator.  Its keyword-only parameters are the model's options:
their names, types and defaults are what a config may set under ``[model]``.

>>> build("mlp", {"hidden": [8]}, (4,), 3, seed=0)
Sequential(
  (0): Flatten(start_dim=1, end_dim=-1)
  (1): Linear(in_features=4, out_features=8, bias=True)
  (2): ReLU()
  (3): Linear(in_features=8, out_features=3, bias=True)
)
"""

import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model
from torch import nn

from zoo.errors import ConfigError, nearest

Builder = Callable[..., nn.Module]
BUILDERS: dict[str, tuple[Builder, type[BaseModel]]] = {}

Width = Annotated[int, Field(ge=1, le=1_000_000)]
Rate = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]
Activation = Literal["relu", "gelu", "silu", "tanh"]
Norm = Literal["none", "batch"]

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
}


def model(builder: Builder) -> Builder:
    """Register a builder under its function's name."""
    parameters = inspect.signature(builder).parameters.values()
    fields: Any = {
        p.name: (p.annotation, p.default) for p in parameters if p.kind is p.KEYWORD_ONLY
    }
    options = create_model(
        builder.__name__, __config__=ConfigDict(extra="forbid", strict=True), **fields
    )
    if builder.__name__ in BUILDERS:
        raise ValueError(f"a model's name must be unique, however {builder.__name__!r} is taken")
    BUILDERS[builder.__name__] = (builder, options)
    return builder


def options(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Check a model's options and fill in the defaults.

    Raises:
        ConfigError: where the model or an option is unknown, or a value does not fit.

    >>> options("mlp", {"hidden": 32})
    Traceback (most recent call last):
    zoo.errors.ConfigError: model.hidden: should be a valid list, however it is 32
    """
    if name not in BUILDERS:
        raise ConfigError(f"model.name: no such model {name!r}{nearest(name, BUILDERS)}")
    _, schema = BUILDERS[name]
    try:
        # Lists are how TOML and JSON write tuples; nothing else is converted.
        values = {k: tuple(v) if isinstance(v, list) else v for k, v in given.items()}
        return schema.model_validate(values).model_dump(mode="json")
    except ValidationError as error:
        detail = error.errors()[0]
        key = ".".join(map(str, ("model", *detail["loc"])))
        if detail["type"] == "extra_forbidden":
            unknown = str(detail["loc"][-1])
            fault = f"{name} has no such option{nearest(unknown, schema.model_fields)}"
        else:
            what = detail["msg"].replace("Input should", "should", 1).replace("tuple", "list")
            fault = f"{what}, however it is {detail['input']!r}"
        raise ConfigError(f"{key}: {fault}") from None


def build(
    name: str, given: Mapping[str, Any], shape: tuple[int, ...], outputs: int, seed: int
) -> nn.Module:
    """Build a model whose initial weights depend on the seed alone.

    Args:
        name: a registered builder.
        given: its options.
        shape: the shape of one sample, such as (64,) or (1, 28, 28).
        outputs: the number of classes, or 1.
        seed: of the initial weights; the global random state is left as it was.

    Raises:
        ConfigError: where the options do not fit the model, or the model does not fit the data.
    """
    chosen = options(name, given)
    builder, _ = BUILDERS[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return builder(shape, outputs, **chosen)


@model
def mlp(
    shape: tuple[int, ...],
    outputs: int,
    *,
    hidden: tuple[Width, ...] = (64, 64),
    activation: Activation = "relu",
    norm: Norm = "none",
    dropout: Rate = 0.0,
) -> nn.Module:
    """Multi-layer perceptron on the flattened sample."""
    layers: list[nn.Module] = [nn.Flatten()]
    width = torch.Size(shape).numel()
    for units in hidden:
        # A bias right before BatchNorm would be subtracted again: a dead parameter.
        layers.append(nn.Linear(width, units, bias=norm == "none"))
        layers += _after(units, activation, norm, dropout, nn.BatchNorm1d, nn.Dropout)
        width = units
    return nn.Sequential(*layers, nn.Linear(width, outputs))


@model
def cnn(
    shape: tuple[int, ...],
    outputs: int,
    *,
    channels: tuple[Width, ...] = (16, 32),
    kernel_size: Annotated[int, Field(ge=1, le=31)] = 3,
    activation: Activation = "relu",
    norm: Norm = "batch",
    dropout: Rate = 0.0,
) -> nn.Module:
    """Convolutions that halve the image after each, global average pooling, one linear layer."""
    if len(shape) != 3:
        raise ConfigError(
            f"model.name: cnn takes images (channels, height, width), however a sample is {shape};"
            " use mlp"
        )
    layers: list[nn.Module] = []
    depth, side = shape[0], min(shape[1:])
    for features in channels:
        layers.append(
            nn.Conv2d(depth, features, kernel_size, padding=kernel_size // 2, bias=norm == "none")
        )
        layers += _after(features, activation, norm, dropout, nn.BatchNorm2d, nn.Dropout2d)
        if side >= 2:
            layers.append(nn.MaxPool2d(2))
            side //= 2
        depth = features
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(depth, outputs))


def _after(
    features: int,
    activation: str,
    norm: str,
    dropout: float,
    batch_norm: type[nn.Module],
    drop: type[nn.Module],
) -> Iterator[nn.Module]:
    """Yield what follows a linear or convolutional layer."""
    if norm == "batch":
        yield batch_norm(features)
    yield ACTIVATIONS[activation]()
    if dropout:
        yield drop(dropout)
