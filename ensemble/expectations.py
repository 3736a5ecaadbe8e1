"""What linear pools average, and the way back to what is scored.

Probabilities are expectations of the one-hot class or of the label, values are expectations
already; the mean of members' expectations is that of their equal mixture.

Shapes: K member, N sample, C class, L label, T target; members and rows may be any axes before.
"""

import torch
from torch import Tensor


def expectation(outputs: Tensor, task: str) -> Tensor:
    """Turn outputs into probabilities, values staying as they are.

    Args:
        outputs: logits (..., C) of classes; log-odds (..., L) of labels; values.
        task: ``classification``, ``multilabel`` or ``regression``.

    Returns:
        probabilities (..., C) of classes, float32 or float64 as the logits; of labels (..., L) in
        float64, where few are rounded to one; or the values.

    >>> expectation(torch.tensor([0.0, 0.0]), "classification")
    tensor([0.5000, 0.5000])
    """
    if task == "classification":
        return outputs.to(torch.promote_types(outputs.dtype, torch.float32)).softmax(dim=-1)
    return outputs.double().sigmoid() if task == "multilabel" else outputs


def predicted(expected: Tensor, task: str) -> Tensor:
    """Turn probabilities into log-probabilities (..., C) or log-odds (..., L).

    Probabilities of 0 count as the smallest number above it.

    >>> predicted(torch.tensor([0.25, 0.75], dtype=torch.float64), "classification").exp()
    tensor([0.2500, 0.7500], dtype=torch.float64)
    """
    if task == "regression":
        return expected
    least = torch.finfo(expected.dtype).tiny
    log = expected.clamp_min(least).log()
    return log if task == "classification" else log - (1 - expected).clamp_min(least).log()
