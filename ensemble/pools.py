"""One predictor of several runs by pooling what they say, fitted and measured on validation rows.

What is fitted (a selection, weights, a stack, a calibration) would look too good on the rows that
it was fitted on.  So its figures are cross-fitted: a fifth of the rows is predicted by what the
other four fifths give, five times over.  The product itself is fitted on all of them.

Shapes: K member, G learner (one member, or those that differ in seed and fold alone), N sample.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from timeit import repeat
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ensemble import catalogue, metrics
from ensemble.calibration import calibrate, calibrated
from ensemble.catalogue import Method
from ensemble.entries import crossfit, pool_entry
from ensemble.errors import EmptyError, EnsembleError, OptionError
from ensemble.heldout import Pool, mean_pool, pooling
from ensemble.learners import evidence
from ensemble.members import Bench, alike, model_of
from ensemble.predictions import pooled, tasks
from zoo.choice import threads
from zoo.data.folds import kfold
from zoo.errors import UnsafeFileError
from zoo.registry import Run
from zoo.registry.records import finite

FOLDS = 5
TIMINGS = 30
LOSS = "loss"
SHOWN = ("nll", "brier", "ece")  # before and after a calibration


@dataclass(frozen=True)
class Pooled:
    """What came of pooling.

    Attributes:
        figures: on the validation rows; where anything is fitted cross-fitted, and of every metric.
        used: the members that are run for a prediction, in the order of ``found``.
        found: what was fitted: the arguments of the function that pools; None of a plain pool.
        calibration: as :func:`ensemble.calibration.calibrate` gives it.
        before: NLL, Brier score and the like without the calibration.
        after: the same with it.
    """

    figures: Mapping[str, float]
    used: list[Run]
    found: Mapping[str, Any] | None = None
    calibration: Mapping[str, Any] | None = None
    before: Mapping[str, float] | None = None
    after: Mapping[str, float] | None = None


def pool(
    table: Bench,
    members: list[Run],
    method: Method,
    arguments: Mapping[str, Any],
    *,
    metric: Any = None,
    calibration: Any = None,
) -> Pooled:
    """Pool the members' predictions by a method, and calibrate what comes of it.

    Args:
        table: their data, and what they predict.
        members: finished runs.
        method: of the catalogue.
        arguments: its options, and weights if it needs them.
        metric: what a selection goes by: ``loss``, or a metric of the task; by default what
            stopped the training (``stop.metric``).
        calibration: ``temperature``, ``vector`` or ``isotonic``; by default none.

    Raises:
        OptionError: where the method or the calibration does not fit the task, or is unknown.
        EmptyError: where there are too few rows to choose by.
        EnsembleError: where the method finds nothing.
    """
    task = table.data.task
    if task not in tasks(method.function):
        raise OptionError(
            f"{method.name} pools predictions of {' or '.join(tasks(method.function))}, however "
            f"the members' task is {task}"
        )
    fits = method.applies is not None
    if fits:
        trial = _fitted(table, members, method, arguments, metric)
    else:
        trial = _plain(table, members, method, arguments)
    targets, everywhere = trial.targets, torch.arange(len(trial.targets))
    found, predictions = trial.fit(everywhere)
    if not fits and calibration is None:
        return Pooled(table.figures(predictions, targets), members)

    def calibrating(rows_N: Tensor, predictions: Tensor) -> dict[str, Any]:
        return calibrate(predictions[rows_N], targets[rows_N], task, calibration)

    fitted = None if calibration is None else calibrating(everywhere, predictions)
    before = torch.empty_like(predictions, dtype=torch.float64)
    after = before.clone()
    for here_N in _parts(targets, task):
        rest_N = everywhere[~torch.isin(everywhere, here_N)]
        _, predictions = trial.fit(rest_N)
        before[here_N] = predictions[here_N].double()
        if fitted is not None:
            mended = calibrated(predictions, task, calibrating(rest_N, predictions))
            after[here_N] = mended[here_N]
    used, own = _of_members(found, members, trial.learner_K)
    if fitted is None:
        return Pooled(_every_figure(table, before, targets), used, own)
    return Pooled(
        figures=_every_figure(table, after, targets),
        used=used,
        found=own,
        calibration=fitted,
        before=_shown(before, targets, task),
        after=_shown(after, targets, task),
    )


def pool_of(run: Run) -> Pool:
    """Return the function that pools what the members of a pool say.

    Any other run is a pool of one, which says what it says.

    Raises:
        UnsafeFileError: where its entry is damaged; the function too, where what was fitted is.
    """
    if run.kind != "predictions":
        return mean_pool(run.task)
    entry = pool_entry(run)
    method = catalogue.find("predictions", entry.method)
    plain = pooling(
        partial(pooled, _applied(method), task=run.task), entry.found or entry.arguments
    )

    def together(outputs_K: Tensor, members: Sequence[int]) -> Tensor:
        try:
            predictions = plain(outputs_K, members)
            if entry.calibration is None:
                return predictions
            return calibrated(predictions, run.task, entry.calibration)
        except (TypeError, KeyError, IndexError, AttributeError, RuntimeError, ValueError) as error:
            if isinstance(error, EnsembleError):
                raise
            raise UnsafeFileError(
                f"{run.owner}: is damaged: what was fitted does not pool its members: {error}"
            ) from error

    return together


def weights_in(run: Run) -> list[float] | None:
    """Return what each member of a run weighs; None where all weigh the same."""
    if run.kind != "predictions":
        return None
    entry = pool_entry(run)
    weights: list[float] | None = (entry.found or entry.arguments).get("weights")
    return weights


def stopwatch(
    table: Bench, learners: Sequence[Sequence[Run]]
) -> Callable[[Sequence[int], int], float]:
    """Return the function that measures how long some learners take for a number of rows.

    Models that are alike run together, and each number of them is measured once: the shortest of
    30 times, in milliseconds, on one thread.
    """
    known: dict[tuple[str, int, int], float] = {}

    def measured(runs: Sequence[Run], batch: int) -> float:
        x_N = table.own(runs[0]).val.x
        x_N = x_N[torch.arange(batch) % len(x_N)]
        forward = table.predictor(runs)
        return 1e3 * min(repeat(lambda: forward(x_N), number=1, repeat=TIMINGS))

    def cost(chosen: Sequence[int], batch: int) -> float:
        total = 0.0
        for runs in alike([run for g in chosen for run in learners[g]]):
            key = (model_of(runs[0]).model_dump_json(), len(runs), batch)
            if key not in known:
                with threads(1):
                    known[key] = measured(runs, batch)
            total += known[key]
        return total

    return cost


@dataclass(frozen=True)
class _Trial:
    """What is fitted, on whichever of the rows.

    ``fit`` takes the numbers of rows, and returns what is found on them, and what that predicts for
    all rows.
    """

    fit: Callable[[Tensor], tuple[Mapping[str, Any] | None, Tensor]]
    targets: Tensor
    learner_K: Sequence[int]


def _plain(
    table: Bench, members: list[Run], method: Method, arguments: Mapping[str, Any]
) -> _Trial:
    """Pool by a method that finds nothing."""
    plain = pooling(partial(table.pool, method.function), arguments)
    predictions, targets = table.validation(members, plain)
    return _Trial(lambda rows_N: (None, predictions), targets, range(len(members)))


def _fitted(
    table: Bench,
    members: list[Run],
    method: Method,
    arguments: Mapping[str, Any],
    metric: Any,
) -> _Trial:
    """Pool by a method that looks at the targets first."""
    task = table.data.task
    seen = evidence(table, members)
    worth = _worth(table, members, metric)
    learners = [
        [run for run, of in zip(members, seen.learner_K, strict=True) if of == g]
        for g in range(len(seen.outputs_G))
    ]
    cost = stopwatch(table, learners)

    def fit(rows_N: Tensor) -> tuple[Mapping[str, Any], Tensor]:
        here = seen.targets[rows_N]
        supply: dict[str, Any] = {
            "task": task,
            "labels": here,
            "score": lambda predictions: worth(predictions, here),
            "loss": lambda predictions: table.loss(predictions, here),
            "cost": cost,
        }
        needed = {need: supply[need] for need in method.needs}
        found = method.function(seen.outputs_G[:, rows_N], **needed, **arguments)
        return found, pooled(_applied(method), seen.outputs_G, task, **found)

    return _Trial(fit, seen.targets, seen.learner_K)


def _worth(table: Bench, members: Sequence[Run], metric: Any) -> Callable[[Tensor, Tensor], float]:
    """Return what a selection goes by, the higher the better."""
    name = members[0].config.get("stop", {}).get("metric", LOSS) if metric is None else str(metric)
    if name == LOSS:
        return lambda predictions, targets: -table.loss(predictions, targets)
    found = metrics.find(table.data.task, name)
    return lambda *told: -metrics.rank(found(*told), found.direction)


def _applied(method: Method) -> Callable[..., Tensor]:
    """Return the function that pools in the end."""
    return method.applies or method.function


def _parts(targets: Tensor, task: str) -> list[Tensor]:
    """Deal rows to parts, classes evenly; the same ones every time."""
    count = len(targets)
    folds = min(FOLDS, count // 2)
    if folds < 2:
        raise EmptyError(
            "what is fitted needs four validation rows at least, however there are "
            f"{count}; --method mean needs none"
        )
    strata = targets.numpy() if task == "classification" else np.zeros(count, np.int64)
    part_N = torch.from_numpy(kfold(np.arange(count), strata, folds, seed=[0]))
    return [(part_N == part).nonzero().flatten() for part in range(folds)]


def _of_members(
    found: Mapping[str, Any] | None, members: list[Run], learner_K: Sequence[int]
) -> tuple[list[Run], Mapping[str, Any] | None]:
    """Return the members that count, and what was found in terms of them."""
    if found is None:
        return members, None
    if "weights" not in found:
        grouped = list(learner_K) != list(range(len(members)))
        return members, {**found, **({"learners": list(learner_K)} if grouped else {})}
    sizes = Counter(learner_K)
    weights = [found["weights"][g] / sizes[g] for g in learner_K]
    used = [k for k, weight in enumerate(weights) if weight > 0]
    return [members[k] for k in used], {"weights": [weights[k] for k in used]}


def _every_figure(table: Bench, predictions: Tensor, targets: Tensor) -> dict[str, float]:
    """Measure by every metric: what was fitted cannot be measured so again when it is compared."""
    known = metrics.METRICS[table.data.task]
    figures = {crossfit(name): metric(predictions, targets) for name, metric in known.items()}
    return table.figures(predictions, targets) | finite(figures)


def _shown(predictions: Tensor, targets: Tensor, task: str) -> dict[str, float]:
    known = metrics.METRICS[task]
    return {name: known[name](predictions, targets) for name in SHOWN if name in known}
