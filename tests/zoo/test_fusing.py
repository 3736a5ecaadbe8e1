"""Folded batch norms: the same function, where it can be told that it is the same."""

import pytest
import torch
from torch import nn

from zoo.fusing import fused


def normed(module, *shape):
    """Let batch norms see something that is not standard."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for part in module.modules():
            if isinstance(part, nn.modules.batchnorm._BatchNorm) and part.affine:
                part.weight.uniform_(0.5, 2, generator=generator)
                part.bias.uniform_(-1, 1, generator=generator)
        module.train()(torch.randn(32, *shape, generator=generator) * 3 + 1)
    return module.eval(), torch.randn(8, *shape, generator=generator)


def norms(module):
    return sum(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in module.modules())


def nested():
    inner = nn.Sequential(nn.Conv2d(3, 3, 1, bias=False), nn.BatchNorm2d(3))
    return nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), inner)


FOLDED = {
    "linear": (lambda: nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.ReLU()), (4,)),
    "convolutions, nested": (nested, (2, 6, 5)),
    "grouped": (
        lambda: nn.Sequential(nn.Conv2d(4, 6, 3, groups=2, stride=2), nn.BatchNorm2d(6)),
        (4, 7, 7),
    ),
    "one axis": (lambda: nn.Sequential(nn.Conv1d(2, 3, 3), nn.BatchNorm1d(3)), (2, 8)),
    "three axes": (lambda: nn.Sequential(nn.Conv3d(1, 2, 2), nn.BatchNorm3d(2)), (1, 4, 4, 4)),
}


@pytest.mark.parametrize("case", FOLDED)
def test_folded_batch_norms_compute_the_same(case):
    make, shape = FOLDED[case]
    module, x_N = normed(make(), *shape)
    before = {key: value.clone() for key, value in module.state_dict().items()}
    folded = fused(module)
    assert norms(folded) == 0
    torch.testing.assert_close(folded(x_N), module(x_N), rtol=1e-5, atol=1e-5)
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())


def tied():
    one = nn.Linear(4, 4)
    return nn.Sequential(one, nn.BatchNorm1d(4), nn.ReLU(), one, nn.BatchNorm1d(4))


def hooked():
    module = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    module[0].register_forward_hook(lambda layer, x, y: y * 2)
    return module


def parametrised():
    layer = nn.utils.parametrizations.weight_norm(nn.Linear(4, 3))
    return nn.Sequential(layer, nn.BatchNorm1d(3))


def tokens():
    """Normalise the third of three axes: the tokens, not what the linear layer returns."""
    return nn.Sequential(nn.Unflatten(1, (2, 2)), nn.Linear(2, 3), nn.BatchNorm1d(2))


KEPT = {
    "tied": (tied, 2),
    "hooked": (hooked, 1),
    "parametrised": (parametrised, 1),
    "no statistics": (
        lambda: nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3, track_running_stats=False)),
        1,
    ),
    "nothing learnt": (lambda: nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3, affine=False)), 1),
    "not behind a layer": (lambda: nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 3)), 1),
    "another axis": (tokens, 1),
}


@pytest.mark.parametrize("case", KEPT)
def test_what_cannot_be_folded_stays(case):
    make, count = KEPT[case]
    module, x_N = normed(make(), 4)
    kept = fused(module)
    assert norms(kept) == count
    torch.testing.assert_close(kept(x_N), module(x_N))
