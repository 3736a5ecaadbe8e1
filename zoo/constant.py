"""The constant predictor, which says the same of every row: what a model has to beat.

The best one is meant, which knows the targets it is scored on: the share of each class or label
among the validation rows, or the mean of their quantities.  No constant output has a lower loss.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from zoo.curves import REMEDY
from zoo.data import Data
from zoo.planning import Plan
from zoo.registry import Run

NAMED = 5  # models, in a message
ERRORS = 2.0  # standard errors by which an accuracy may exceed the constant's by luck
ROUNDING = 1e-4  # relative, of a loss in float32
SAME = {
    "classification": "the most frequent class",
    "multilabel": "the most frequent labels",
    "regression": "the mean",
}


@dataclass(frozen=True)
class Constant:
    """What the best constant predictor reaches on validation rows.

    Attributes:
        loss: as that of a model.
        accuracies: metric -> the highest value that a constant prediction reaches by luck; none
            for quantities, of which the loss says all.
    """

    loss: float
    accuracies: dict[str, float]

    def suffices(self, run: Run) -> bool:
        """Whether a run is no better: neither its probabilities nor its decisions.

        Training with class weights aims at another loss, so that balanced accuracy alone tells.
        """
        weighted = run.config["train"].get("class_weights") and run.watched == "accuracy"
        if weighted or run.metrics.get("val_loss", 0.0) < self.loss * (1 - ROUNDING):
            return False
        most = self.accuracies.get(run.watched, math.inf)
        return run.metrics.get(f"val_{run.watched}", math.inf) <= most


def constant(data: Data) -> Constant:
    """Find what the best constant predictor reaches on the validation rows.

    >>> from zoo.data.dataset import Part, of_tensors
    >>> part = Part(torch.zeros(4, 1), torch.tensor([0, 1, 1, 1]))
    >>> found = constant(of_tensors(part, part, "classification", 2))
    >>> round(found.loss, 4), found.accuracies["accuracy"] > 0.75
    (0.5623, True)
    """
    y, rows = data.val.y, len(data.val)
    if data.task == "regression":
        return Constant(float((y - y.mean(0)).square().mean()), {})
    if data.task == "multilabel":
        share_L = y.double().mean(0)
        loss = (torch.special.entr(share_L) + torch.special.entr(1 - share_L)).mean()
        shares = {"accuracy": int(np.unique(y, axis=0, return_counts=True)[1].max()) / rows}
    else:
        count_C = y.bincount()
        loss = torch.special.entr(count_C.double() / rows).sum()
        shares = {
            "accuracy": int(count_C.max()) / rows,
            "balanced_accuracy": 1 / int((count_C > 0).sum()),
        }
    return Constant(
        float(loss),
        {
            metric: share + ERRORS * math.sqrt(share * (1 - share) / rows)
            for metric, share in shares.items()
        },
    )


def no_better(plan: Plan, runs: Sequence[Run]) -> list[Run]:
    """Return the finished runs of a plan that are no better than the constant predictor."""
    ended = [run for run in runs if run.status == "finished"]
    first = constant(plan.data)
    found = [run for run in ended if first.suffices(run)]
    if not plan.data.has_own_rows:
        return found
    own: dict[str, Constant] = {}
    for run in found:
        if run.split_hash not in own:
            own[run.split_hash] = constant(plan.data_of(plan.member(run)))
    return [run for run in found if own[run.split_hash].suffices(run)]


def warning(plan: Plan, runs: Sequence[Run]) -> str:
    """Name the runs that are no better than the constant predictor, with the remedy, in one line.

    It is empty where there are none.
    """
    found = no_better(plan, runs)
    if not found:
        return ""
    named = ", ".join(run.label for run in found[:NAMED])
    more = f" and {len(found) - NAMED} more" if len(found) > NAMED else ""
    return (
        f"{len(found)} of {len(runs)} models {'is' if len(found) == 1 else 'are'} no better than "
        f"always predicting {SAME[plan.data.task]}: {named}{more}; {REMEDY}, or train for more "
        "epochs"
    )
