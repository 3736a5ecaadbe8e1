"""What the networks of the catalogue share: the types of their options, and small layers.

Norms are those under which the hidden units of a layer may be permuted without changing the
function: over the batch, or over all channels of a sample or a pixel.  Norms over groups of
channels are not among them, since averaging and aligning weights rests on that symmetry.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field, PlainValidator
from torch import Tensor, nn

from zoo.errors import ConfigError

Width = Annotated[int, Field(ge=1, le=1_000_000)]
Rate = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]
Activation = Annotated[
    Literal["relu", "gelu", "silu", "tanh"], Field(description="what follows each hidden layer")
]
Norm = Annotated[
    Literal["none", "batch", "layer"], Field(description="over the batch, or over each sample")
]
Layers: TypeAlias = list[nn.Module]

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
}


def _checked_rates(value: Any) -> float | tuple[float, ...]:
    rates = value if isinstance(value, list) else [value]
    if not all(type(rate) in (int, float) and 0 <= rate < 1 for rate in rates):
        raise ValueError("should be a rate in [0, 1), or a list of such rates, one per layer")
    return tuple(map(float, rates)) if isinstance(value, list) else float(value)


Rates = Annotated[
    float | tuple[float, ...],
    PlainValidator(_checked_rates, json_schema_input_type=Rate | tuple[Rate, ...]),
    Field(description="one rate, or one per hidden layer, convolution or block"),
]


def per_layer(dropout: float | Sequence[float], count: int, layers: str) -> Sequence[float]:
    """Return one dropout rate for each of ``count`` layers.

    Raises:
        ConfigError: where a list of rates has another length.

    >>> per_layer(0.1, 3, "hidden layers")
    (0.1, 0.1, 0.1)
    >>> per_layer([0.1, 0.2], 3, "hidden layers")
    Traceback (most recent call last):
    zoo.errors.ConfigError: model.dropout: must be one rate, or one for each of the 3 hidden \
layers, however it has 2
    """
    if not isinstance(dropout, Sequence):
        return (dropout,) * count
    if len(dropout) != count:
        raise ConfigError(
            f"model.dropout: must be one rate, or one for each of the {count} {layers}, however "
            f"it has {len(dropout)}"
        )
    return dropout


def norm_of_rows(norm: Norm, width: int) -> Layers:
    """Return the norm of (N, width), or nothing."""
    kinds: dict[str, type[nn.Module]] = {"batch": nn.BatchNorm1d, "layer": nn.LayerNorm}
    return [] if norm == "none" else [kinds[norm](width)]


def norm_of_images(norm: Norm, channels: int) -> Layers:
    """Return the norm of (N, channels, height, width), or nothing."""
    kinds: dict[str, type[nn.Module]] = {"batch": nn.BatchNorm2d, "layer": ChannelNorm}
    return [] if norm == "none" else [kinds[norm](channels)]


def dropped(rate: float, kind: type[nn.Module] = nn.Dropout) -> Layers:
    """Return the dropout of that rate, or nothing where nothing is dropped."""
    return [kind(rate)] if rate else []


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of each pixel of (N, C, H, W) (Liu et al. 2022, ConvNeXt).

    Unlike a norm over pixels it tells images of one pixel apart.
    """

    def forward(self, input: Tensor) -> Tensor:  # the name in nn.LayerNorm
        """Return the normalised images."""
        return super().forward(input.movedim(1, -1)).movedim(-1, 1)


class Residual(nn.Module):
    """x + branch(x)."""

    def __init__(self, *branch: nn.Module) -> None:
        super().__init__()
        self.branch = nn.Sequential(*branch)

    def forward(self, x: Tensor) -> Tensor:
        """Return the sum."""
        total: Tensor = x + self.branch(x)
        return total
