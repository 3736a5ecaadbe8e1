"""Networks for images (channels, height, width) of any size, from one pixel up.

Builders are plain functions ``(shape, outputs, *, options) -> module``; see :mod:`zoo.models`.
"""

from typing import Annotated

from pydantic import Field
from torch import Tensor, nn

from zoo.errors import ConfigError
from zoo.layers import (
    ACTIVATIONS,
    Activation,
    Layers,
    Norm,
    Rates,
    Width,
    dropped,
    norm_of_images,
    per_layer,
)


def cnn(
    shape: tuple[int, ...],
    outputs: int,
    *,
    channels: Annotated[tuple[Width, ...], Field(description="of each convolution")] = (16, 32),
    kernel_size: Annotated[int, Field(ge=1, le=31, description="pixels a side")] = 3,
    activation: Activation = "relu",
    norm: Norm = "batch",
    dropout: Rates = 0.0,
) -> nn.Module:
    """Convolutions that halve the image after each, global average pooling, one linear layer."""
    depth, height, width = _image(shape, "cnn", "mlp")
    side = min(height, width)
    layers: Layers = []
    rates = per_layer(dropout, len(channels), "convolutions")
    for features, rate in zip(channels, rates, strict=True):
        layers += [
            # A bias right before BatchNorm would be subtracted again: a dead parameter.
            nn.Conv2d(depth, features, kernel_size, padding=kernel_size // 2, bias=norm != "batch"),
            *norm_of_images(norm, features),
            ACTIVATIONS[activation](),
            *dropped(rate, nn.Dropout2d),
        ]
        if side >= 2:
            layers.append(nn.MaxPool2d(2))
            side //= 2
        depth = features
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(depth, outputs))


def resnet(
    shape: tuple[int, ...],
    outputs: int,
    *,
    blocks: Annotated[
        tuple[Annotated[int, Field(ge=1, le=1_000)], ...], Field(description="per stage")
    ] = (2, 2, 2),
    width: Annotated[Width, Field(description="channels of the first stage")] = 16,
    growth: Annotated[
        int, Field(ge=1, le=16, description="each stage's channels by those of the one before")
    ] = 2,
    activation: Activation = "relu",
    norm: Norm = "batch",
    dropout: Rates = 0.0,
) -> nn.Module:
    """Residual network of basic blocks (He et al. 2016, arXiv:1512.03385, section 4.2).

    A 3x3 stem without pooling, as for CIFAR; ``blocks`` per stage, the first stage with ``width``
    channels, every further one with ``growth`` times as many on half the side; global average
    pooling, one linear layer.  Dropout is between the two convolutions of each block (Zagoruyko &
    Komodakis 2016, arXiv:1605.07146).
    """
    depth, _, _ = _image(shape, "resnet", "resmlp")
    rates = iter(per_layer(dropout, sum(blocks), "blocks"))
    layers: Layers = [
        *_normed(_conv(depth, width, norm), norm),
        ACTIVATIONS[activation](),
    ]
    depth = width
    for stage, count in enumerate(blocks):
        features = width * growth**stage
        for i in range(count):
            stride = 2 if stage and i == 0 else 1
            layers.append(BasicBlock(depth, features, stride, activation, norm, next(rates)))
            depth = features
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(depth, outputs))


class BasicBlock(nn.Module):
    """act(shortcut(x) + norm(conv(act(norm(conv(x)))))); the shortcut projects where it must."""

    def __init__(
        self, depth: int, features: int, stride: int, activation: str, norm: Norm, dropout: float
    ) -> None:
        super().__init__()
        last = _conv(features, features, norm)
        if norm == "none":
            # Without norms the signal would double in every block; so blocks start as identities
            # (Zhang et al. 2019, arXiv:1901.09321).
            for parameter in last.parameters():
                nn.init.zeros_(parameter)
        self.branch = nn.Sequential(
            *_normed(_conv(depth, features, norm, stride=stride), norm),
            ACTIVATIONS[activation](),
            *dropped(dropout),
            *_normed(last, norm),
        )
        same = stride == 1 and depth == features
        projection = [] if same else _normed(_conv(depth, features, norm, 1, stride), norm)
        self.shortcut = nn.Sequential(*projection)
        self.activation = ACTIVATIONS[activation]()

    def forward(self, x: Tensor) -> Tensor:
        """Return the activated sum."""
        result: Tensor = self.activation(self.shortcut(x) + self.branch(x))
        return result


def _conv(depth: int, features: int, norm: Norm, size: int = 3, stride: int = 1) -> nn.Conv2d:
    """Return a convolution that keeps, or by its stride halves, the side (He et al. 2015)."""
    conv = nn.Conv2d(depth, features, size, stride, padding=size // 2, bias=norm != "batch")
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return conv


def _normed(conv: nn.Conv2d, norm: Norm) -> Layers:
    return [conv, *norm_of_images(norm, conv.out_channels)]


def _image(shape: tuple[int, ...], name: str, other: str) -> tuple[int, int, int]:
    """Return channels, height and width; refuse samples that are no images."""
    if len(shape) != 3:
        raise ConfigError(
            f"model.name: {name} takes images (channels, height, width), however a sample is "
            f"{shape}; use {other}"
        )
    return shape
