"""Numbers are centred and scaled as scikit-learn does it, by figures that are plain JSON.

``standard`` takes the mean and the deviation, ``robust`` the median and the distance of the
quartiles; ``quantile`` maps the distribution of the training rows onto the normal one, between a
fixed number of its quantiles.
"""

from typing import Any, Literal

import numpy as np
import torch

from zoo.data.cells import CONSTANT, FloatArray

Scaling = Literal["standard", "robust", "quantile"]
QUANTILES = 200
EDGE = 1e-7  # how near to 0 and 1 a share may come: 5.2 deviations


def fit(values: FloatArray, scaling: Scaling) -> dict[str, Any] | None:
    """Fit the numbers of one column.

    Args:
        values: float64 (N,), NaN where missing, at least one of them present.
        scaling: how.

    Returns:
        ``fill``, the median, for missing cells, and ``centre`` and ``scale`` or ``quantiles``; None
        if all that is present is one value.

    >>> fit(np.array([1.0, 3.0, np.nan]), "standard")["fill"]
    2.0
    """
    gaps = np.isnan(values)
    present = values[~gaps]
    fill = float(np.median(present))
    filled = np.where(gaps, fill, values) if gaps.any() else values
    mean, deviation = float(filled.mean()), float(filled.std())
    if not deviation > CONSTANT * np.abs(filled).max():
        return None
    match scaling:
        case "standard":
            return {"fill": fill, "centre": mean, "scale": deviation}
        case "robust":
            low, median, high = (float(q) for q in np.percentile(filled, [25, 50, 75]))
            distance = high - low
            scale = distance if distance > CONSTANT * max(abs(low), abs(high)) else 1.0
            return {"fill": fill, "centre": median, "scale": scale}
        case "quantile":
            shares = np.linspace(0, 1, min(QUANTILES, len(filled)))
            quantiles = np.maximum.accumulate(np.percentile(filled, shares * 100))
            return {"fill": fill, "quantiles": quantiles.tolist()}


def apply(fitted: dict[str, Any], values: FloatArray) -> FloatArray:
    """Return numbers (N,), none missing, as they are learnt from.

    >>> apply({"centre": 2.0, "scale": 4.0}, np.array([2.0, 8.0])).tolist()
    [0.0, 1.5]
    >>> apply({"quantiles": [0.0, 1.0, 9.0]}, np.array([1.0, 99.0])).round(2).tolist()
    [0.0, 5.2]
    """
    if "quantiles" not in fitted:
        scaled: FloatArray = (values - fitted["centre"]) / fitted["scale"]
        return scaled
    quantiles = np.array(fitted["quantiles"])
    shares = np.linspace(0, 1, len(quantiles))
    # Where quantiles repeat, the middle of their shares: from below and from above.
    below = np.interp(values, quantiles, shares)
    above = np.interp(-values, -quantiles[::-1], -shares[::-1])
    share = (below - above) / 2
    share[values <= quantiles[0]] = 0
    share[values >= quantiles[-1]] = 1
    normal = torch.special.ndtri(torch.from_numpy(np.clip(share, EDGE, 1 - EDGE)))
    return np.asarray(normal)
