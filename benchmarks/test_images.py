"""What it costs to load pictures, and to standardise bytes for each batch."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pytest_benchmark.fixture import BenchmarkFixture

from zoo.data import Part, images, load
from zoo.lane import gather
from zoo.sections import DataConfig

PICTURES = 5000
FITTED = {"kind": "images", "scale": 255.0, "mean": 0.13, "std": 0.31}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """5,000 noisy PNG files of 32 x 32 in colour, in ten classes."""
    root = tmp_path_factory.mktemp("pictures")
    pixels = np.random.default_rng(0).integers(0, 256, (PICTURES, 32, 32, 3), np.uint8)
    for number, image in enumerate(pixels):
        place = root / str(number % 10)
        place.mkdir(exist_ok=True)
        Image.fromarray(image).save(place / f"{number}.png")
    return root


def test_load_a_folder_of_pictures(benchmark: BenchmarkFixture, folder: Path) -> None:
    config = DataConfig(ref=str(folder))
    data = benchmark.pedantic(load, args=[config], rounds=3)
    assert len(data.train) == 0.6 * PICTURES


@pytest.mark.parametrize("held", ["bytes", "floats"])
def test_a_batch_of_mnist_for_8_members(benchmark: BenchmarkFixture, held: str) -> None:
    pixels = torch.randint(256, (60_000, 1, 28, 28), dtype=torch.uint8)
    x = pixels if held == "bytes" else images.prepare(FITTED, pixels)
    part = Part(x, torch.zeros(60_000, dtype=torch.int64))
    index_KN = torch.randint(60_000, (8, 128))
    benchmark(lambda: images.prepare(FITTED, gather(part, index_KN)[0]))
