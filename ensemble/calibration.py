"""Probabilities that come true as often as they say: fitted on validation rows, after pooling.

A pool of several well calibrated members is less certain than they are, and than it should be, so
it is the pool that is calibrated (R. Rahaman & A. Thiery, Uncertainty Quantification and Deep
Ensembles, NeurIPS 2021, arXiv:2007.08792).

===============  ================================================  ===============================
kind             from predictions z = log p, or log-odds           source
===============  ================================================  ===============================
``temperature``  softmax(z / T)                                    Guo et al. 2017,
                                                                   arXiv:1706.04599, section 4.2
``vector``       softmax(a z + b), a and b one number per class    the same
``isotonic``     a rising step line of each class's probability,   Zadrozny & Elkan 2002, KDD
                 then divided by their sum
===============  ================================================  ===============================

Of several labels each is a choice of two: T is common to all, the rest is each label's own.

What is fitted is plain JSON.  ``1 / T`` and ``a`` have a normal prior around 1, ``b`` around 0, of
deviation 1 each: it is nothing beside hundreds of rows, and where few rows are all right it keeps
them finite.  Isotonic levels stay 1 / (N + 2) off 0 and 1 (Laplace's rule of succession), since N
rows without a case do not make it impossible.

Shapes: N sample, C class, L label.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from ensemble.errors import EnsembleError, NonFiniteError, OptionError, nearest
from ensemble.expectations import expectation, predicted

KINDS = ("temperature", "vector", "isotonic")
LEAST = 0.01  # of 1 / T and of a: more is never certain the other way round


def calibrate(predictions: Tensor, labels: Tensor, task: str, kind: str) -> dict[str, Any]:
    """Fit a calibration to predictions of validation rows.

    Args:
        predictions: log-probabilities (N, C) of classes, or log-odds (N, L) of labels.
        labels: int64 (N,) classes, or (N, L) labels of 0 and 1.
        task: ``classification`` or ``multilabel``.
        kind: ``temperature``, ``vector`` or ``isotonic``.

    Returns:
        what :func:`calibrated` takes: ``kind``, and ``temperature``; or ``scales`` and ``shifts``;
        or ``lines``, of each class the ``knots`` and their ``levels``.

    Raises:
        OptionError: an unknown kind, or a task without probabilities.
        EnsembleError: shapes that differ, or no rows.
        NonFiniteError: predictions that are NaN or infinite.

    >>> log_NC = torch.tensor([[0.9, 0.1]]).log().repeat(1000, 1)
    >>> labels_N = (torch.arange(1000) % 10 > 6).long()
    >>> found = calibrate(log_NC, labels_N, "classification", "temperature")
    >>> calibrated(log_NC[:1], "classification", found).exp().round(decimals=2)
    tensor([[0.7000, 0.3000]], dtype=torch.float64)
    """
    if kind not in KINDS:
        raise OptionError(f"no calibration is called {kind!r}{nearest(str(kind), KINDS)}")
    if task == "regression":
        raise OptionError(f"{kind} calibrates probabilities, however the task is regression")
    if len(predictions) != len(labels) or predictions.ndim != 2 or not len(labels):
        raise EnsembleError(
            "a calibration needs predictions and labels of some rows, however: "
            f"{tuple(predictions.shape)} and {tuple(labels.shape)}"
        )
    if bool((bad_N := ~predictions.isfinite().all(dim=1)).any()):
        raise NonFiniteError(
            "a calibration needs finite predictions, however those of row "
            f"{int(bad_N.nonzero()[0])} are not; give a probability of 0 a small one"
        )
    if kind == "isotonic":
        return {"kind": kind, **_isotonic(expectation(predictions.double(), task), labels)}
    if kind == "temperature":
        (scale,), _ = _scaled(predictions.double(), labels, task, 1, 0)
        return {"kind": kind, "temperature": 1 / scale}
    width = predictions.shape[1]
    scales, shifts = _scaled(predictions.double(), labels, task, width, width)
    return {"kind": kind, "scales": scales, "shifts": shifts}


def calibrated(predictions: Tensor, task: str, calibration: Mapping[str, Any]) -> Tensor:
    """Apply what :func:`calibrate` returned: float64, of the same shape.

    Rows that are NaN stay so.

    >>> log_NC = torch.tensor([[0.8, 0.2]]).log()
    >>> calibrated(log_NC, "classification", {"kind": "temperature", "temperature": 2.0}).exp()
    tensor([[0.6667, 0.3333]], dtype=torch.float64)
    """
    predictions = predictions.double()
    told: Tensor
    match calibration["kind"]:
        case "temperature":
            told = predictions / calibration["temperature"]
        case "vector":
            scales, shifts = (_numbers(calibration[name]) for name in ("scales", "shifts"))
            told = predictions * scales + shifts
        case _:
            columns = expectation(predictions, task).unbind(dim=1)
            lines = zip(columns, calibration["lines"], strict=True)
            shares = [_along(share_N, **line) for share_N, line in lines]
            told = predicted(torch.stack(shares, dim=1), task)
    return told.log_softmax(dim=1) if task == "classification" else told


def _scaled(
    predictions: Tensor, labels: Tensor, task: str, scales: int, shifts: int
) -> tuple[list[float], list[float]]:
    """Fit so many scales and shifts; the minimisation is convex."""
    from scipy.optimize import minimize

    def loss(numbers: Any) -> tuple[float, Any]:
        own = torch.from_numpy(numbers).requires_grad_()
        scale, shift = own[:scales], own[scales:]
        told = predictions * scale + (shift if shifts else 0)
        if task == "classification":
            nll = -told.log_softmax(dim=1).gather(1, labels[:, None]).sum()
        else:
            nll = -logsigmoid(torch.where(labels == 1, told, -told)).sum()
        total = nll + ((scale - 1).square().sum() + shift.square().sum()) / 2
        (slope,) = torch.autograd.grad(total, own)
        return float(total.detach()), slope.numpy()

    found = minimize(
        loss,
        [1.0] * scales + [0.0] * shifts,
        jac=True,
        method="L-BFGS-B",
        bounds=[(LEAST, None)] * scales + [(None, None)] * shifts,
        options={"ftol": 1e-14, "gtol": 1e-9, "maxiter": 10_000},
    )
    numbers = found.x.tolist()
    return numbers[:scales], numbers[scales:]


def _isotonic(shares_NC: Tensor, labels: Tensor) -> dict[str, Any]:
    """Fit each class against the rest, or each label."""
    from sklearn.isotonic import IsotonicRegression

    least = 1 / (len(labels) + 2)
    lines = []
    for place, share_N in enumerate(shares_NC.unbind(dim=1)):
        there_N = labels[:, place] if labels.ndim == 2 else labels == place
        line = IsotonicRegression(y_min=least, y_max=1 - least)
        line.fit(share_N.numpy(), there_N.double().numpy())
        knots, levels = line.X_thresholds_.tolist(), line.y_thresholds_.tolist()
        lines.append({"knots": knots, "levels": levels})
    return {"lines": lines}


def _along(share_N: Tensor, knots: Sequence[float], levels: Sequence[float]) -> Tensor:
    """Interpolate between knots, level beyond the first and the last."""
    at, level = _numbers(knots), _numbers(levels)
    if len(at) == 1:
        return torch.where(share_N.isnan(), torch.nan, level[0])
    if torch.compiler.is_exporting():  # ONNX has no search
        right_N = (at < share_N[:, None]).sum(dim=1)
    else:
        right_N = torch.searchsorted(at, share_N.contiguous())
    right_N = right_N.clamp(1, len(at) - 1)
    left_N = right_N - 1
    step_N = ((share_N - at[left_N]) / (at[right_N] - at[left_N])).clamp(0, 1)
    return level[left_N] + step_N * (level[right_N] - level[left_N])


def _numbers(values: Sequence[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)
