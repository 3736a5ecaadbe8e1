"""The user's unit: what standardised quantities stand for, and the way there and back.

A target is transformed, then standardised by the mean and deviation of its training rows.  What was
fitted is plain JSON; :class:`Units` is the same as tensors, and computes in float64.

``log1p`` is log(1 + x).  ``yeo-johnson`` (Yeo & Johnson 2000, Biometrika 87(4), eq. 2.1), with
p = lambda for x >= 0 and p = 2 - lambda below,

    y = sign(x) ((1 + |x|)^p - 1) / p,   or sign(x) log(1 + |x|) where p = 0.

With lambda from 0 to 2 every number y has an x.  Under a transform, predictions are kept within one
deviation of the training targets, because the way back may turn a small excess into a huge one.

Shapes: T target, after any others, or one target without an axis of its own.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

MARGIN = 1.0  # deviations beyond the training targets that a prediction may reach


class Units:
    """The units of T targets.

    Args:
        fitted: ``transform``, and a list of T each: ``offsets``, ``scales``, ``powers`` (lambda),
            ``lows`` and ``highs`` (the standardised training targets' range).
        device: where tensors will be.

    >>> units = Units({"transform": "log1p", "offsets": [1.0], "scales": [2.0], "powers": [1.0],
    ...     "lows": [-1.0], "highs": [1.0]})
    >>> units.restore(units.standardise(torch.tensor([3.0, 0.0])))
    tensor([3., 0.], dtype=torch.float64)
    """

    def __init__(self, fitted: Mapping[str, Any], device: torch.device | str | None = None) -> None:
        def numbers(name: str) -> Tensor:
            return torch.tensor(fitted[name], dtype=torch.float64, device=device)

        self.transform: str = fitted["transform"]
        self.offset_T, self.scale_T = numbers("offsets"), numbers("scales")
        self.power_T = numbers("powers")
        self.low_T, self.high_T = numbers("lows") - MARGIN, numbers("highs") + MARGIN

    def __len__(self) -> int:
        return len(self.offset_T)

    @property
    def linear(self) -> bool:
        """Whether a deviation means the same everywhere."""
        return self.transform == "none"

    @property
    def spread(self) -> float:
        """The size of typical differences in the user's unit, of the target that varies most."""
        if self.linear:
            return float(self.scale_T.max())
        ends = self.restore(self.low_T + MARGIN), self.restore(self.high_T - MARGIN)
        return float((ends[1] - ends[0]).max())

    def standardise(self, values: Tensor) -> Tensor:
        """Turn values in the user's unit into standardised ones: float64 of the same shape."""
        return (transformed(values.double(), self.transform, self.power_T) - self.offset_T) / (
            self.scale_T
        )

    def restore(self, values: Tensor, *, predicted: bool = True) -> Tensor:
        """Turn standardised values into the user's unit: float64 of the same shape.

        Args:
            values: float (..., T), or (...) of one target.
            predicted: whether to keep them where predictions may be.
        """
        values = values.double()
        if predicted and not self.linear:
            values = values.clamp(self.low_T, self.high_T)
        values = values * self.scale_T + self.offset_T
        if self.transform == "log1p":
            return values.expm1()
        if self.transform == "yeo-johnson":
            power, whole = _power(values, self.power_T)
            size = torch.where(power == 0, values.abs(), (power * values.abs()).log1p() / whole)
            return values.sign() * size.expm1()
        return values


def transformed(values: Tensor, transform: str, power_T: Tensor) -> Tensor:
    """Transform values (..., T), or (...) of one target, float64, before they are standardised.

    >>> transformed(torch.tensor([3.0, -3.0]), "yeo-johnson", torch.tensor([2.0]))
    tensor([ 7.5000, -1.3863])
    """
    if transform == "log1p":
        return values.log1p()
    if transform == "yeo-johnson":
        power, whole = _power(values, power_T)
        size = values.abs().log1p()
        return values.sign() * torch.where(power == 0, size, (power * size).expm1() / whole)
    return values


def _power(values: Tensor, power_T: Tensor) -> tuple[Tensor, Tensor]:
    """Return p for each value, and p with 1 instead of 0, to divide by."""
    power = torch.where(values >= 0, power_T, 2 - power_T)
    return power, torch.where(power == 0, 1.0, power)
