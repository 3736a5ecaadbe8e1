"""Floats are read and written as PyTorch reads and writes them, bit for bit."""

import numpy as np
import pytest
import torch

from ensemble.dtypes import FLOATS, NAMES, SMALL, decode, encode, largest, values
from zoo.registry.layout import SIZES

pytestmark = pytest.mark.parametrize("kind", FLOATS)


def numbers(kind):
    """Numbers of every magnitude, and those midway between two 8-bit floats or just beside."""
    rng = np.random.default_rng(0)
    found = [rng.standard_normal(100_000) * np.exp2(rng.integers(-40, 20, 100_000)), [0.0, -0.0]]
    if kind in SMALL:
        exact = np.sort(values(kind)[np.isfinite(values(kind))].astype(np.float64))
        middle = (exact[1:] + exact[:-1]) / 2
        found += [exact, middle, middle * (1 + 2e-7), middle * (1 - 2e-7)]
    every = np.concatenate(found)
    top = largest(kind)
    return np.concatenate([every[np.abs(every) <= top], [top, -top]])


def test_every_pattern_is_read_as_pytorch_reads_it(kind):
    raw = np.frombuffer(np.random.default_rng(0).bytes(1 << 16), np.uint8)
    if SIZES[kind] < 4:
        raw = np.arange(1 << 8 * SIZES[kind], dtype=f"u{SIZES[kind]}").view(np.uint8)
    expected = torch.from_numpy(raw.copy()).view(getattr(torch, NAMES[kind])).double().numpy()
    with np.errstate(invalid="ignore"):
        found = decode(raw, kind).astype(np.float64)
    finite = np.isfinite(expected)
    assert finite.any()
    assert found[finite].tobytes() == expected[finite].tobytes()
    assert not np.isfinite(found[~finite]).any()


def test_numbers_are_written_as_pytorch_writes_them(kind):
    given = numbers(kind)
    expected = torch.from_numpy(given).to(getattr(torch, NAMES[kind]))
    assert encode(given, kind).tobytes() == expected.view(torch.uint8).numpy().tobytes()


def test_what_is_written_is_read_back(kind):
    given = decode(encode(numbers(kind), kind).view(np.uint8), kind).astype(np.float64)
    assert encode(given, kind).tobytes() == encode(numbers(kind), kind).tobytes()


def test_the_largest_number_is_known(kind):
    assert largest(kind) == torch.finfo(getattr(torch, NAMES[kind])).max
