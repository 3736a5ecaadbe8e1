"""Networks for tables: a sample is flattened to its features.

Builders are plain functions ``(shape, outputs, *, options) -> module``; see :mod:`zoo.models`.
"""

import math
from collections.abc import Sequence
from typing import Annotated, Literal

import torch
import torch.nn.functional as F  # noqa: N812  # its name everywhere
from pydantic import Field
from torch import Tensor, nn

from zoo.errors import ConfigError
from zoo.layers import (
    ACTIVATIONS,
    Activation,
    Layers,
    Norm,
    Rates,
    Residual,
    Width,
    dropped,
    norm_of_rows,
    per_layer,
)

Depth = Annotated[int, Field(ge=1, le=1_000, description="how many, one after another")]


def mlp(
    shape: tuple[int, ...],
    outputs: int,
    *,
    hidden: Annotated[tuple[Width, ...], Field(description="units per hidden layer")] = (64, 64),
    activation: Activation = "relu",
    norm: Norm = "none",
    dropout: Rates = 0.0,
) -> nn.Module:
    """Multi-layer perceptron on the flattened sample."""
    layers: Layers = [nn.Flatten()]
    width = math.prod(shape)
    for units, rate in zip(hidden, per_layer(dropout, len(hidden), "hidden layers"), strict=True):
        # A bias right before BatchNorm would be subtracted again: a dead parameter.
        layers += [nn.Linear(width, units, bias=norm != "batch"), *norm_of_rows(norm, units)]
        layers += [ACTIVATIONS[activation](), *dropped(rate)]
        width = units
    return nn.Sequential(*layers, nn.Linear(width, outputs))


def resmlp(
    shape: tuple[int, ...],
    outputs: int,
    *,
    width: Annotated[Width, Field(description="features between blocks")] = 64,
    blocks: Depth = 2,
    expansion: Annotated[
        int, Field(ge=1, le=64, description="how many times as wide a block is inside")
    ] = 2,
    activation: Activation = "relu",
    norm: Norm = "batch",
    dropout: Rates = 0.0,
) -> nn.Module:
    """ResNet for tables (Gorishniy et al. 2021, arXiv:2106.11959, section 3.2).

    Each block adds ``Linear(Dropout(act(Linear(norm(x)))))`` to x, its hidden layer ``expansion``
    times as wide; the head is ``Linear(act(norm(x)))``.
    """
    # All that reads x goes through the norm; BatchNorm subtracts whatever biases x holds.
    bias = norm != "batch"
    layers: Layers = [nn.Flatten(), nn.Linear(math.prod(shape), width, bias=bias)]
    hidden = width * expansion
    layers += [
        Residual(
            *norm_of_rows(norm, width),
            nn.Linear(width, hidden),
            ACTIVATIONS[activation](),
            *dropped(rate),
            nn.Linear(hidden, width, bias=bias),
        )
        for rate in per_layer(dropout, blocks, "blocks")
    ]
    layers += [*norm_of_rows(norm, width), ACTIVATIONS[activation]()]
    return nn.Sequential(*layers, nn.Linear(width, outputs))


def ft_transformer(
    shape: tuple[int, ...],
    outputs: int,
    *,
    width: Annotated[Width, Field(description="numbers per token")] = 32,
    blocks: Depth = 2,
    heads: Annotated[int, Field(ge=1, le=1_000, description="of attention; they divide width")] = 4,
    activation: Annotated[
        Literal["reglu", "gelu"], Field(description="inside each block")
    ] = "reglu",
    dropout: Rates = 0.0,
    column_widths: Annotated[
        tuple[Width, ...], Field(description="features per token; found from the table")
    ] = (),
) -> nn.Module:
    """FT-Transformer (Gorishniy et al. 2021, arXiv:2106.11959, section 3.3).

    A token of ``width`` numbers per column and one for the class; ``blocks`` of attention and a
    feed-forward layer, norms before both; ``Linear(ReLU(LayerNorm(class token)))``.  What a column
    became, ``column_widths`` features, makes one token: a category is embedded, since the product
    of its one-hot features with a matrix is a row of that matrix.  By default each feature is one.
    """
    features = math.prod(shape)
    if column_widths and sum(column_widths) != features:
        raise ConfigError(
            f"model.column_widths: must add up to the {features} features, however it adds up to "
            f"{sum(column_widths)}; leave it out, it is found from the table"
        )
    if width % heads:
        raise ConfigError(
            f"model.heads: must divide model.width, however {heads} does not divide {width}"
        )
    rates = per_layer(dropout, blocks, "blocks")
    return nn.Sequential(
        nn.Flatten(),
        FeatureTokens(column_widths or (1,) * features, width),
        *(
            Block(width, heads, activation, rate, first=i == 0, last=i == blocks - 1)
            for i, rate in enumerate(rates)
        ),
        nn.Flatten(),
        nn.LayerNorm(width),
        nn.ReLU(),
        nn.Linear(width, outputs),
    )


class FeatureTokens(nn.Module):
    """(N, D) -> (N, 1 + T, W): the class token, and sum_j x_j w_j + b over the features of each."""

    def __init__(self, widths: Sequence[int], width: int) -> None:
        super().__init__()
        self.widths = tuple(widths)
        self.weight = nn.Parameter(torch.empty(sum(widths), width))
        self.bias = nn.Parameter(torch.empty(len(widths), width))
        self.cls = nn.Parameter(torch.empty(1, width))
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -(width**-0.5), width**-0.5)

    def forward(self, x_ND: Tensor) -> Tensor:
        """Return the tokens."""
        if max(self.widths) == 1:
            tokens = x_ND.unsqueeze(-1) * self.weight
        else:
            widths = list(self.widths)
            parts = zip(torch.split(x_ND, widths, 1), torch.split(self.weight, widths), strict=True)
            tokens = torch.stack([x @ weight for x, weight in parts], dim=1)
        tokens = tokens + self.bias
        return torch.cat([self.cls.expand(len(x_ND), 1, -1), tokens], dim=1)


class Block(nn.Module):
    """A pre-norm Transformer block on tokens (N, T, W).

    The ``first`` has no norm before its attention, as the paper found necessary.  Of the ``last``
    only the class token (N, 1, W) is wanted, so nothing else is computed.
    """

    def __init__(
        self, width: int, heads: int, activation: str, dropout: float, *, first: bool, last: bool
    ) -> None:
        super().__init__()
        self.last = last
        self.norm = nn.Identity() if first else nn.LayerNorm(width)
        self.attention = Attention(width, heads, dropout)
        # Both kinds of feed-forward layer have 4 W^2 weights.
        hidden = width * 2 if activation == "gelu" else max(1, width * 4 // 3)
        wide = hidden if activation == "gelu" else hidden * 2
        self.feed_forward = Residual(
            nn.LayerNorm(width),
            nn.Linear(width, wide),
            nn.GELU() if activation == "gelu" else ReGLU(),
            *dropped(dropout),
            nn.Linear(hidden, width),
        )

    def forward(self, x_NTW: Tensor) -> Tensor:
        """Return the tokens (N, T, W), of the last block (N, 1, W)."""
        normed = self.norm(x_NTW)
        if self.last:
            x_NTW, queries = x_NTW[:, :1], normed[:, :1]
        else:
            queries = normed
        tokens: Tensor = self.feed_forward(x_NTW + self.attention(queries, normed))
        return tokens


class ReGLU(nn.Module):
    """(..., 2 H) -> (..., H): a relu(b) (Shazeer 2020, arXiv:2002.05202)."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the gated half."""
        a, b = x.chunk(2, dim=-1)
        return a * F.relu(b)


class Attention(nn.Module):
    """Multi-head attention in plain operations, so that members can be stacked."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.value, self.out = (nn.Linear(width, width) for _ in range(3))
        # A bias of the keys would add the same to every weight before the softmax.
        self.key = nn.Linear(width, width, bias=False)
        self.drop = nn.Sequential(*dropped(dropout))

    def forward(self, queries_NQW: Tensor, tokens_NTW: Tensor) -> Tensor:
        """Return (N, Q, W): for every query, the values of the tokens it attends to."""
        q, k, v = (
            layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer, x in (
                (self.query, queries_NQW),
                (self.key, tokens_NTW),
                (self.value, tokens_NTW),
            )
        )
        weights = torch.softmax(q @ k.mT * q.shape[-1] ** -0.5, dim=-1)
        attended = self.drop(weights) @ v
        result: Tensor = self.out(attended.transpose(1, 2).flatten(2))
        return result
