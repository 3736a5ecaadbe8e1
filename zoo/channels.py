"""Images of a stack as a CPU computes them fastest: channels last, members among the channels.

``vmap`` puts the members among the channels for convolutions but among the rows for pools, and does
biases and the scale of batch norms apart, so that activations are read more often and copied to and
fro.  With the rules here all take images (N, K C, H, W) whose channels are the innermost axis in
memory, and nothing is copied between them.
"""

from collections.abc import Callable
from functools import partial
from inspect import signature
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812  # its name everywhere
from torch import Tensor
from torch.autograd import Function
from torch.overrides import TorchFunctionMode

Axes = tuple[int | None, ...]  # which one of each argument is the members', if it has any


def channels_last(x_NCHW: Tensor) -> Tensor:
    """Return images whose channels are the innermost axis in memory, of one channel too."""
    return torch.empty_like(x_NCHW, memory_format=torch.channels_last).copy_(x_NCHW)


class AmongChannels(TorchFunctionMode):
    """Gives ``vmap``, inside the block, other rules for what is done to images on a CPU."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in NORMS:  # whose tensors come by name
            bound = signature(func).bind(*args, **kwargs)
            bound.apply_defaults()
            args, kwargs = bound.args, {}
        rule = RULES.get(func)
        by_name = any(isinstance(value, Tensor) for value in kwargs.values())
        if rule is None or by_name or args[0].ndim != 4 or args[0].is_cuda:
            return func(*args, **kwargs)
        return Grouped.apply(rule, partial(func, **kwargs), *args)  # type: ignore[no-untyped-call]  # it has none


class Grouped(Function):
    """A function of images and what it takes besides, and its rule for all members at once."""

    @staticmethod
    def forward(rule: Any, func: Any, *args: Any) -> Any:
        """Compute it where no argument has members."""
        return func(*args)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Keep nothing: the operations of the rules have gradients of their own."""

    @staticmethod
    def vmap(info: Any, in_dims: Axes, rule: Any, func: Any, *args: Any) -> tuple[Tensor, int]:
        """Compute (N, K C, H, W) for all members."""
        axes = (*in_dims[2:], None)  # the last one of a bias that is not given
        found = rule(func, info.batch_size, axes, *args)
        return found.unflatten(1, (info.batch_size, -1)), 1


def _convolved(
    func: Callable[..., Tensor],
    members: int,
    axes: Axes,
    x_N: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    weight_K = _first(weight, axes[1], members)
    filters = weight_K.permute(0, 1, 3, 4, 2).flatten(0, 1).permute(0, 3, 1, 2)
    filters = filters.contiguous(memory_format=torch.channels_last)
    biases = _joined(bias, axes[2], members)
    if axes[0] is None and groups == 1:  # all filters on the same images
        images = channels_last(x_N)
    else:
        images, groups = _images(x_N, axes[0], members), groups * members
    return func(images, filters, biases, stride, padding, dilation, groups)


def _normed(
    func: Callable[..., Tensor],
    members: int,
    axes: Axes,
    x_N: Tensor,
    mean: Tensor | None,
    variance: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    *settings: Any,
) -> Tensor:
    running = [
        None if value is None else _first(value, axis, members).view(-1)  # they are written
        for value, axis in zip((mean, variance), axes[1:3], strict=True)
    ]
    affine = [_joined(weight, axes[3], members), _joined(bias, axes[4], members)]
    return func(_images(x_N, axes[0], members), *running, *affine, *settings)


def _normed_in_groups(
    func: Callable[..., Tensor],
    members: int,
    axes: Axes,
    x_N: Tensor,
    groups: int,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
) -> Tensor:
    affine = [_joined(weight, axes[2], members), _joined(bias, axes[3], members)]
    return func(_images(x_N, axes[0], members), groups * members, *affine, eps)


def _pooled(
    func: Callable[..., Tensor], members: int, axes: Axes, x_N: Tensor, *args: Any
) -> Tensor:
    return func(_images(x_N, axes[0], members), *args)


RULES: dict[Any, Callable[..., Tensor]] = {
    F.conv2d: _convolved,
    F.batch_norm: _normed,
    F.group_norm: _normed_in_groups,
    F.max_pool2d: _pooled,
    F.avg_pool2d: _pooled,
    F.adaptive_avg_pool2d: _pooled,
    F.adaptive_max_pool2d: _pooled,
}
NORMS = {F.batch_norm, F.group_norm}


def _joined(tensor: Tensor | None, axis: int | None, members: int) -> Tensor | None:
    return None if tensor is None else _first(tensor, axis, members).flatten()


def _first(tensor: Tensor, axis: int | None, members: int) -> Tensor:
    return tensor.expand(members, *tensor.shape) if axis is None else tensor.movedim(axis, 0)


def _images(x_N: Tensor, axis: int | None, members: int) -> Tensor:
    """Return images (N, K C, H, W), channels last; a view where they lay so."""
    x_NKCHW = _first(x_N, axis, members).transpose(0, 1)
    images = x_NKCHW.permute(0, 3, 4, 1, 2).flatten(3).permute(0, 3, 1, 2)
    return channels_last(images) if images.shape[1] == 1 else images
