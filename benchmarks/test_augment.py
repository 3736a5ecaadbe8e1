"""Augmentation of a whole stack's batch, against kornia and a loop over torchvision's transforms.

Both libraries are optional here: ``pip install kornia torchvision`` first, or only our own
function is timed.  Theirs draw from PyTorch's global generator.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor, nn

from zoo.augment import augment
from zoo.sections import AugmentConfig

SHAPES = {"grey": (16, 128, 1, 28, 28), "colour": (8, 128, 3, 32, 32)}
SETTINGS: dict[str, dict[str, Any]] = {
    "flip": {"flip": 0.5},
    "crop, flip": {"crop": 3, "flip": 0.5},
    "rotate": {"rotate": 15.0},
    "crop, box, rotate, flip": {"crop": 3, "resized_crop": 0.5, "rotate": 15.0, "flip": 0.5},
    "jitter": {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1},
}
CASES = [
    (shape, name) for name in SETTINGS for shape in SHAPES if name != "jitter" or shape != "grey"
]
COLOURS = ("brightness", "contrast", "saturation", "hue")


def own(asked: dict[str, Any]) -> Callable[[Tensor], Tensor]:
    settings = AugmentConfig(**asked)
    return lambda x_KN: augment(x_KN, torch.arange(len(x_KN)), settings)


def kornia(asked: dict[str, Any], size: tuple[int, int]) -> Callable[[Tensor], Tensor]:
    library = pytest.importorskip("kornia.augmentation")
    known = {
        "crop": lambda crop: library.RandomCrop(size, padding=crop),
        "resized_crop": lambda area: library.RandomResizedCrop(size, scale=(area, 1.0)),
        "rotate": lambda angle: library.RandomRotation(angle, p=1.0),
        "flip": lambda share: library.RandomHorizontalFlip(share),
    }
    jitter = [asked[name] for name in COLOURS if name in asked]
    steps = [known[name](value) for name, value in asked.items() if name in known]
    steps += [library.ColorJitter(*jitter, p=1.0)] if jitter else []
    program = nn.Sequential(*steps)
    return lambda x_KN: program(x_KN.flatten(0, 1)).view(x_KN.shape)


def torchvision(asked: dict[str, Any], size: tuple[int, int]) -> Callable[[Tensor], Tensor]:
    library = pytest.importorskip("torchvision.transforms.v2")
    bilinear = library.InterpolationMode.BILINEAR
    known = {
        "crop": lambda crop: library.RandomCrop(size, padding=crop),
        "resized_crop": lambda area: library.RandomResizedCrop(size, scale=(area, 1.0)),
        "rotate": lambda angle: library.RandomRotation(angle, interpolation=bilinear),
        "flip": lambda share: library.RandomHorizontalFlip(share),
    }
    jitter = [asked[name] for name in COLOURS if name in asked]
    steps = [known[name](value) for name, value in asked.items() if name in known]
    steps += [library.ColorJitter(*jitter)] if jitter else []
    program = library.Compose(steps)
    return lambda x_KN: torch.stack([program(x) for x in x_KN.flatten(0, 1)]).view(x_KN.shape)


@pytest.mark.parametrize("contender", ["own", "kornia", "torchvision"])
@pytest.mark.parametrize(("shape", "name"), CASES)
def test_a_batch(benchmark: BenchmarkFixture, shape: str, name: str, contender: str) -> None:
    x_KN = torch.rand(SHAPES[shape], generator=torch.Generator().manual_seed(0))
    size = (x_KN.shape[3], x_KN.shape[4])
    asked = SETTINGS[name]
    program = {
        "own": lambda: own(asked),
        "kornia": lambda: kornia(asked, size),
        "torchvision": lambda: torchvision(asked, size),
    }[contender]()
    benchmark.group = f"{name}: {shape}, {tuple(x_KN.shape)}"
    changed = benchmark.pedantic(program, (x_KN,), rounds=7, warmup_rounds=2)
    assert changed.shape == x_KN.shape
    assert not torch.equal(changed, x_KN)
