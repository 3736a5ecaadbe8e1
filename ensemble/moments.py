"""Means and standard deviations of the values of each channel, batch after batch."""

from typing import NamedTuple

import torch
from torch import Tensor


class Moments(NamedTuple):
    """How many values each channel has; their means and sums of squared deviations, in float64."""

    values: int
    mean_C: Tensor
    square_C: Tensor

    @property
    def std_C(self) -> Tensor:
        """The standard deviation of each channel."""
        return (self.square_C / self.values).sqrt()

    def plus(self, other: "Moments") -> "Moments":
        """Return the moments of both sets of values.

        T. F. Chan, G. H. Golub & R. J. LeVeque, Algorithms for Computing the Sample Variance, The
        American Statistician 37(3), 1983, eq. 2.1.
        """
        values = self.values + other.values
        apart_C = other.mean_C - self.mean_C
        between_C = apart_C.square() * (self.values * other.values / values)
        mean_C = self.mean_C + apart_C * (other.values / values)
        return Moments(values, mean_C, self.square_C + other.square_C + between_C)


def moments(output: Tensor, channels: int) -> Moments:
    """Return the moments of a batch.

    Sums are taken about the batch's mean and corrected for what that mean lacks (Chan et al., eq.
    1.7), in the output's own precision, or in float32 where that is a half: in float64 it would
    take ten times longer.

    Args:
        output: any shape, float.
        channels: which axis they are.

    >>> found = moments(torch.tensor([[1.0, 5.0], [3.0, 5.0]]), 1)
    >>> found.values, found.mean_C.tolist(), found.std_C.tolist()
    (2, [2.0, 5.0], [1.0, 0.0])
    """
    values = output.to(torch.promote_types(output.dtype, torch.float32))
    others = [axis for axis in range(output.ndim) if axis != channels]
    if not others:  # one sample without an axis for rows
        return Moments(1, values.double(), torch.zeros_like(values, dtype=torch.float64))
    count = output.numel() // output.shape[channels]
    about = values.mean(others, keepdim=True)
    apart = values - about
    lack_C = apart.mean(others).double()
    square_C = apart.square_().sum(others).double() - count * lack_C.square()
    return Moments(count, about.flatten().double() + lack_C, square_C.clamp(min=0))
