"""Images are standardised by one mean and one deviation, those of all training pixels."""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from zoo.errors import DataError


def fit(pixels: npt.NDArray[Any]) -> dict[str, Any]:
    """Fit raw training images (N, *shape): scaled to at most 1, then standardised.

    >>> fit(np.array([[[[0.0, 8.0]]]]))
    {'kind': 'images', 'shape': [1, 1, 2], 'scale': 8.0, 'mean': 0.5, 'std': 0.5}
    """
    scale = float(pixels.max())
    scaled = pixels / scale
    return {
        "kind": "images",
        "shape": list(pixels.shape[1:]),
        "scale": scale,
        "mean": float(scaled.mean()),
        "std": float(scaled.std()),
    }


def apply(preprocessing: dict[str, Any], pixels: npt.ArrayLike) -> Tensor:
    """Prepare raw images (N, *shape) as float32 (N, *shape).

    Raises:
        DataError: the images have another shape, or values that are not finite.
    """
    values = np.asarray(pixels, dtype=np.float64)
    shape = tuple(preprocessing["shape"])
    if values.shape[1:] != shape:
        raise DataError(
            f"images must have the shape {shape}, however these have {values.shape[1:]}"
        )
    if not np.isfinite(values).all():
        raise DataError("pixels must be finite numbers, however some are NaN or infinite")
    values = (values / preprocessing["scale"] - preprocessing["mean"]) / preprocessing["std"]
    return torch.from_numpy(values.astype(np.float32))
