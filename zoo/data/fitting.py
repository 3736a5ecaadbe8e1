"""What targets need before they can be learnt from, fitted on the training rows, as JSON."""

import warnings
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from zoo.data import cells
from zoo.data.cells import FloatArray
from zoo.data.targets import SEPARATOR, Target
from zoo.errors import DataError, listed
from zoo.sections import Transform
from zoo.units import transformed

SKEWED = 2.0  # skewness from which on a transform is suggested; that of an exponential


def fit(
    target: Target, rows: npt.NDArray[np.int64], transform: Transform = "none"
) -> tuple[dict[str, Any], Tensor, list[str]]:
    """Fit what targets need on the training rows.

    Args:
        target: all rows' values.
        rows: int64, the training rows.
        transform: of quantities.

    Returns:
        the JSON value that tells how outputs are read (``names``, ``task``, ``classes`` and, for
        regression, ``units`` as :class:`zoo.units.Units` takes them); what is learnt from of all
        rows, int64 (N,), or float32 (N,) or (N, T); and notes.

    Raises:
        DataError: a target does not vary among the training rows, a class is not among them, or
            the transform does not suit the values.
    """
    told: dict[str, Any] = {
        "names": list(target.names),
        "task": target.task,
        "classes": list(target.classes),
        "units": None,
    }
    if target.task != "regression":
        _refuse_unseen(target, rows)
        if transform != "none":
            raise DataError(
                f"data.target_transform is for quantities, however the task is {target.task}; "
                "leave it out"
            )
        dtype = torch.int64 if target.task == "classification" else torch.float32
        return told, torch.from_numpy(target.values).to(dtype), _separated(target)
    columns = target.values.reshape(len(target.values), -1)
    if transform == "log1p" and (columns <= -1).any():
        raise DataError(
            f"data.target_transform 'log1p' takes values above -1, however target "
            f"{target.names[int((columns <= -1).any(0).argmax())]!r} has {columns.min():g}; "
            "yeo-johnson takes any"
        )
    learnt = columns[rows]
    powers = _powers(learnt) if transform == "yeo-johnson" else np.ones(learnt.shape[1])
    changed = transformed(torch.tensor(columns), transform, torch.tensor(powers)).numpy()
    taught = [np.ascontiguousarray(column) for column in changed[rows].T]
    offsets = np.array([column.mean() for column in taught])
    scales = np.array([column.std() for column in taught])
    for name, column, scale, raw in zip(target.names, taught, scales, learnt.T, strict=True):
        if not scale > cells.CONSTANT * np.abs(column).max():
            raise DataError(
                f"target {name!r} must vary among the training rows, however all {len(rows)} are "
                f"{raw[0]:g}; try another data.split_seed or more rows"
            )
    scaled = (changed - offsets) / scales
    told["units"] = {
        "transform": transform,
        "offsets": offsets.tolist(),
        "scales": scales.tolist(),
        "powers": powers.tolist(),
        "lows": scaled[rows].min(axis=0).tolist(),
        "highs": scaled[rows].max(axis=0).tolist(),
    }
    y = torch.from_numpy(scaled.reshape(target.values.shape)).to(torch.float32)
    if transform == "none":
        return told, y, _skewed(target.names, learnt)
    ways = [f" with lambda {power:.3g}" * (transform == "yeo-johnson") for power in powers]
    named = zip(target.names, ways, strict=True)
    return told, y, [f"target {name!r} is learnt by its {transform}{way}" for name, way in named]


def _powers(columns: FloatArray) -> FloatArray:
    """Return lambda (T,) of largest likelihood, kept between 0 and 2, where every y has an x."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # of extreme values, far beyond 0 and 2
        from sklearn.preprocessing import PowerTransformer  # slow, and of use here alone

        found = PowerTransformer("yeo-johnson", standardize=False).fit(columns).lambdas_
    return np.clip(np.nan_to_num(np.asarray(found, dtype=np.float64), nan=1.0), 0.0, 2.0)


def _skewed(names: tuple[str, ...], columns: FloatArray) -> list[str]:
    """Suggest a transform for columns with a heavy tail."""
    notes = []
    for name, column in zip(names, columns.T, strict=True):
        centred = column / np.abs(column).max()
        centred = centred - centred.mean()
        skewness = float((centred**3).mean() / (centred**2).mean() ** 1.5)
        if abs(skewness) >= SKEWED:
            fits = "log1p" if skewness > 0 and column.min() >= 0 else "yeo-johnson"
            notes.append(
                f"target {name!r} has a heavy tail (skewness {skewness:.1f}); "
                f"data.target_transform={fits} may help"
            )
    return notes


def _separated(target: Target) -> list[str]:
    """Say where classes look like several labels in one cell."""
    joined = [name for name in target.classes if SEPARATOR.search(name)]
    if target.task != "classification" or len(joined) * 2 < len(target.classes):
        return []
    return [
        f"classes such as {joined[0]!r} look like several labels; "
        "data.task=multilabel learns each by itself"
    ]


def _refuse_unseen(target: Target, rows: npt.NDArray[np.int64]) -> None:
    """Refuse classes and labels that the training rows cannot teach."""
    if target.task == "classification":
        counts = np.bincount(target.values[rows], minlength=len(target.classes))
        unseen = counts == 0
        rule = "every class must be among the training rows"
    else:
        counts = target.values[rows].sum(axis=0)
        unseen = (counts == 0) | (counts == len(rows))
        rule = "every label must be there in some training rows and not in others"
    if unseen.any():
        names = [repr(target.classes[place]) for place in np.flatnonzero(unseen)]
        verb = "is" if len(names) == 1 else "are"
        raise DataError(
            f"{rule}, however {listed(names)} {verb} not; merge or drop "
            f"{'it' if verb == 'is' else 'them'}, add rows, or try another data.split_seed"
        )
