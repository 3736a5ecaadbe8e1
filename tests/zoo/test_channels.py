"""Images of a stack: whatever a module does to them, members among the channels change nothing."""

from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F  # noqa: N812  # its name everywhere
from torch import nn
from torch.func import functional_call, stack_module_state, vmap
from torch.utils._python_dispatch import TorchDispatchMode

from zoo.channels import AmongChannels
from zoo.models import build

ROWS = 5
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


class Fixed(nn.Module):
    """A filter that all members share, and no member learns, on the images that all share."""

    def __init__(self):
        super().__init__()
        self.filter = torch.ones(2, 4, 3, 3) / 9
        self.scale = nn.Parameter(torch.rand(1))

    def forward(self, x):
        return self.scale * F.conv2d(x, self.filter)


class ByName(nn.Module):
    """Tensors by name, and pixels without rows."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 3, 3)

    def forward(self, x):
        first = F.conv2d(x, weight=self.conv.weight, bias=self.conv.bias)
        second = F.conv2d(input=x, weight=self.conv.weight)
        return first + second + F.max_pool2d(F.conv2d(x[0], self.conv.weight), 1)


def conv(*args, **kwargs):
    return nn.Conv2d(4, *args, **kwargs)


MODULES = {
    "bias": lambda: conv(6, 3),
    "no bias": lambda: conv(6, 3, bias=False),
    "one filter of one pixel": lambda: conv(1, 1),
    "stride, dilation": lambda: conv(6, 3, stride=2, dilation=2, padding=1),
    "same": lambda: conv(6, (3, 1), padding="same"),
    "reflected": lambda: conv(6, 3, padding=1, padding_mode="reflect"),
    "groups": lambda: nn.Sequential(conv(8, 3, groups=2), nn.Conv2d(8, 4, 2, groups=4)),
    "depthwise": lambda: conv(8, 3, groups=4),
    "norm": lambda: nn.Sequential(conv(6, 3, bias=False), nn.BatchNorm2d(6), nn.ReLU()),
    "norm of inputs": lambda: nn.BatchNorm2d(4),
    "norm without weights": lambda: nn.Sequential(nn.BatchNorm2d(4, affine=False), conv(6, 3)),
    "norm without statistics": lambda: nn.BatchNorm2d(4, track_running_stats=False),
    "norm of rows": lambda: nn.Sequential(nn.Flatten(), nn.BatchNorm1d(4 * 6 * 8)),
    "norm of channels": lambda: build("cnn", {"norm": "layer"}, (4, 6, 8), 3, 0),
    "norm of groups": lambda: nn.Sequential(conv(6, 3), nn.GroupNorm(2, 6), nn.MaxPool2d(2)),
    "norm of groups without weights": lambda: nn.Sequential(
        conv(6, 3), nn.GroupNorm(3, 6, affine=False), nn.Conv2d(6, 2, 1)
    ),
    "pools": lambda: nn.Sequential(
        conv(6, 3, padding=1), nn.MaxPool2d(2, padding=1), nn.AvgPool2d(2, ceil_mode=True)
    ),
    "adaptive pools": lambda: nn.Sequential(
        conv(6, 3), nn.AdaptiveMaxPool2d((3, 4)), nn.AdaptiveAvgPool2d(2)
    ),
    "pool of inputs": lambda: nn.Sequential(nn.AvgPool2d(2), conv(6, 2)),
    "pool of powers": lambda: nn.Sequential(conv(6, 3), nn.LPPool2d(2, 2)),
    "up": lambda: nn.Sequential(conv(6, 3), nn.Upsample(scale_factor=2), nn.Conv2d(6, 2, 3)),
    "transposed": lambda: nn.Sequential(nn.ConvTranspose2d(4, 6, 3), nn.Conv2d(6, 2, 3)),
    "fixed": Fixed,
    "fixed after": lambda: nn.Sequential(conv(4, 3), Fixed()),
    "by name": ByName,
    "one channel": lambda: nn.Sequential(conv(1, 3), nn.MaxPool2d(2), nn.Conv2d(1, 2, 2)),
    "a network": lambda: build("resnet", {"blocks": [1, 1]}, (4, 6, 8), 3, 0),
}


@pytest.mark.parametrize(("members", "shared"), [(3, True), (3, False), (1, False)])
@pytest.mark.parametrize("case", MODULES)
def test_outputs_gradients_and_statistics_are_those_of_modules_by_themselves(case, members, shared):
    torch.manual_seed(0)
    modules = [MODULES[case]() for _ in range(members)]
    params, buffers = stack_module_state(modules)
    params = {name: value.detach().requires_grad_() for name, value in params.items()}
    x = torch.randn(*(() if shared else (members,)), ROWS, 4, 6, 8)

    def call(own, statistics, x_N):
        return functional_call(modules[0], (own, statistics), (x_N,))

    axes = (0, 0 if buffers else None, None if shared else 0)
    with AmongChannels():
        outputs = vmap(call, in_dims=axes, randomness="different")(params, buffers, x)
    weights = torch.randn_like(outputs)
    gradients = torch.autograd.grad((outputs * weights).sum(), [*params.values()]) if params else ()
    for k, module in enumerate(modules):
        expected = module(x if shared else x[k])
        torch.testing.assert_close(outputs[k], expected, **CLOSE)
        if params:
            (expected * weights[k]).sum().backward()
        for (name, value), gradient in zip(module.named_parameters(), gradients, strict=True):
            torch.testing.assert_close(gradient[k], value.grad, msg=name, **CLOSE)
        for name, value in module.named_buffers():
            torch.testing.assert_close(buffers[name][k], value, msg=name, **CLOSE)


class Copies(TorchDispatchMode):
    """Notes how many elements are copied at most."""

    most = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if func in (torch.ops.aten.clone.default, torch.ops.aten.copy_.default):
            self.most = max(self.most, result.numel())
        return result


def test_activations_are_not_copied_from_a_convolution_to_the_next():
    modules = [build("cnn", {"channels": [8, 8]}, (1, 16, 16), 3, k).eval() for k in range(4)]
    values = stack_module_state(modules)
    x = torch.randn(8, 1, 16, 16)

    def call(own, statistics, x_N):
        return functional_call(modules[0], (own, statistics), (x_N,))

    def copied(context):
        with torch.no_grad(), context, Copies() as copies:
            vmap(call, in_dims=(0, 0, None))(*values, x)
        return copies.most

    smallest_activations = 8 * 4 * 8 * 4 * 4
    assert copied(nullcontext()) >= smallest_activations  # by torch's own rules
    assert copied(AmongChannels()) < smallest_activations
