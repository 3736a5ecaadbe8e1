"""Outputs in the user's terms: classes by name with their probabilities, values in their unit.

``outputs of a model -> predictions -> columns``: pooling and scoring work on predictions, what is
written for people are columns.  The target is ``preprocessing["target"]`` of a run or of the data.

Shapes: N sample, C class or label, T target; a member's axis may come before them.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from zoo.units import Units


def predictions(target: Mapping[str, Any], outputs: Tensor) -> Tensor:
    """Turn what a model puts out into what it predicts.

    Args:
        target: ``preprocessing["target"]``.
        outputs: float (..., N, C) logits, or (..., N, T) standardised values.

    Returns:
        The logits as they are; values in the user's unit, float64 (..., N, T), or (..., N) where
        there is one target.
    """
    if target["task"] != "regression":
        return outputs
    values = Units(target["units"], outputs.device).restore(outputs)
    return values.squeeze(-1) if len(target["names"]) == 1 else values


def columns(target: Mapping[str, Any], predicted: Tensor) -> dict[str, npt.NDArray[Any]]:
    """Write predictions of one model or of one pool as named columns of N cells.

    Args:
        target: ``preprocessing["target"]``.
        predicted: logits or log-probabilities (N, C); the log-odds (N, C) of labels; or values in
            the user's unit, (N,) or (N, T).

    Returns:
        For classes the most probable one as ``prediction``, then the probability of each as
        ``p_CLASS``.  For labels 0 or 1 under each label's name, 1 where its probability exceeds
        1/2, then ``p_LABEL``.  For one quantity its value as ``prediction``, for several the
        values under their names.

    >>> import torch
    >>> told = {"names": ["ill"], "task": "classification", "classes": ["no", "yes"]}
    >>> columns(told, torch.tensor([[0.25, 0.75]]).log())
    {'prediction': array(['yes'], dtype=object), 'p_no': array([0.25]), 'p_yes': array([0.75])}
    """
    predicted = predicted.detach().cpu().double()
    names, classes = target["names"], target["classes"]
    if target["task"] == "regression":
        values = predicted.reshape(len(predicted), len(names)).numpy()
        return dict(zip(names if len(names) > 1 else ["prediction"], values.T, strict=True))
    if target["task"] == "multilabel":
        decided = dict(zip(classes, (predicted > 0).long().numpy().T, strict=True))
        shares = predicted.sigmoid().numpy()
    else:
        place_N = predicted.argmax(dim=1).numpy()
        decided = {"prediction": np.array(classes, dtype=object)[place_N]}
        shares = predicted.softmax(dim=1).numpy()
    named = (f"p_{name}" for name in classes)
    return {**decided, **dict(zip(named, shares.T, strict=True))}
