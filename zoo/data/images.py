"""Images are standardised by one mean and one deviation, those of all training pixels.

Pixels that are bytes stay bytes, in memory and on the device; :func:`prepare` standardises a batch
of them when it is needed.  All others are prepared once, as float32.
"""

import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor

from zoo.data.cells import CONSTANT
from zoo.errors import DataError

Pixels = npt.NDArray[Any]
AT_A_TIME = 2**22  # values that are worked on in a wider type at once


def fit(pixels: Pixels) -> dict[str, Any]:
    """Fit raw training images (N, *shape): scaled to at most 1, then standardised.

    Raises:
        DataError: all pixels are the same.

    >>> fit(np.array([[[[0.0, 8.0]]]]))
    {'kind': 'images', 'shape': [1, 1, 2], 'scale': 8.0, 'mean': 0.5, 'std': 0.5}
    """
    scale = max(float(pixels.max()), -float(pixels.min())) or 1.0
    if pixels.dtype == np.uint8:
        counts = sum(np.bincount(some.ravel(), minlength=256) for some in _portions(pixels))
        levels = np.arange(256) / scale
        mean = float(np.average(levels, weights=counts))
        std = float(np.average((levels - mean) ** 2, weights=counts) ** 0.5)
    else:
        scaled = np.divide(pixels, scale, dtype=np.float64)
        mean, std = float(scaled.mean()), float(scaled.std())
    if not std > CONSTANT:
        raise DataError(
            f"images must differ, however every training pixel is {pixels.flat[0]:g}; "
            "check the files"
        )
    return {
        "kind": "images",
        "shape": list(pixels.shape[1:]),
        "scale": scale,
        "mean": mean,
        "std": std,
    }


def hold(preprocessing: dict[str, Any], pixels: Pixels) -> Tensor:
    """Return images as they are held: bytes as uint8 (N, *shape), others prepared, float32."""
    if pixels.dtype != np.uint8:
        return apply(preprocessing, pixels)
    # By way of one axis, for NumPy may leave odd strides, which PyTorch takes for another layout.
    return torch.from_numpy(pixels.reshape(-1)).view(pixels.shape)


def prepare(preprocessing: dict[str, Any], x: Tensor) -> Tensor:
    """Standardise images that are held as bytes, on their device; all else is prepared already.

    >>> fitted = {"kind": "images", "scale": 8.0, "mean": 0.5, "std": 0.25}
    >>> prepare(fitted, torch.tensor([0, 8], dtype=torch.uint8))
    tensor([-2.,  2.])
    >>> prepare(fitted, torch.tensor([0.0, 8.0]))
    tensor([0., 8.])
    """
    return _standardised(preprocessing, x.to(torch.float32)) if x.dtype == torch.uint8 else x


def apply(preprocessing: dict[str, Any], pixels: npt.ArrayLike) -> Tensor:
    """Prepare raw images (N, *shape) as float32 (N, *shape).

    Raises:
        DataError: the images have another shape or unit, or values that are not finite.
    """
    values = np.asarray(pixels)
    shape = tuple(preprocessing["shape"])
    if values.shape[1:] != shape:
        raise DataError(
            f"images must have the shape {shape}, however these have {values.shape[1:]}"
        )
    if values.dtype == np.uint8:  # the arithmetic of prepare, to the last bit
        return _standardised(preprocessing, torch.from_numpy(values.astype(np.float32)))
    _refuse_other_unit(preprocessing["scale"], values)
    prepared = np.empty(values.shape, np.float32)
    for some, out in zip(_portions(values), _portions(prepared), strict=True):
        exact = np.asarray(some, dtype=np.float64)
        if not np.isfinite(exact).all():
            raise DataError("pixels must be finite numbers, however some are NaN or infinite")
        with np.errstate(over="ignore"):
            exact = (exact / preprocessing["scale"] - preprocessing["mean"]) / preprocessing["std"]
            out[...] = exact
        if not np.isfinite(out).all():
            raise DataError(
                "pixels must be like those trained on (up to "
                f"{preprocessing['scale']:g}), however some are up to {np.abs(some).max():g}"
            )
    return torch.from_numpy(prepared)


def content(pixels: Pixels) -> memoryview:
    """Return all that the images are: bytes as they stand, others in double precision."""
    plain = pixels if pixels.dtype == np.uint8 else pixels.astype("<f8", copy=False)
    return np.ascontiguousarray(plain).reshape(-1).view(np.uint8).data


def digests(pixels: Pixels) -> pd.DataFrame:
    """Return two numbers (N, 2) that are equal where images are equal."""
    rows = np.ascontiguousarray(pixels).reshape(len(pixels), -1)
    found = b"".join(hashlib.blake2b(row.data, digest_size=16).digest() for row in rows)
    return pd.DataFrame(np.frombuffer(found, "<u8").reshape(-1, 2))


def _standardised(preprocessing: dict[str, Any], x: Tensor) -> Tensor:
    """Overwrite float32 pixels in the unit of the source by standardised ones."""
    mean, std = preprocessing["mean"], preprocessing["std"]
    return x.mul_(1 / (preprocessing["scale"] * std)).sub_(mean / std)


def _refuse_other_unit(scale: float, pixels: Pixels) -> None:
    """Refuse fractions up to 1 where whole numbers up to a larger scale were learnt from."""
    if pixels.dtype.kind != "f" or scale < 2 or scale % 1 or not pixels.size:
        return
    if pixels.min() >= 0 and pixels.max() <= 1 and (pixels % 1).any():
        raise DataError(
            f"pixels must be in the unit of those trained on (up to {scale:g}), however these are "
            "fractions from 0 to 1; multiply them, such as by 255"
        )


def _portions(pixels: Pixels) -> Iterator[Pixels]:
    rows = max(1, AT_A_TIME // max(1, pixels[:1].size))
    return (pixels[start : start + rows] for start in range(0, len(pixels), rows))
