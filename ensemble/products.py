"""Make one predictor of several members, and save it into the registry with its parents."""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from ensemble.catalogue import Method, Mode, find
from ensemble.connectivity import Preflight, preflight
from ensemble.errors import OptionError
from ensemble.heldout import pooling
from ensemble.likeness import same_model, same_rows
from ensemble.members import Bench, bench
from ensemble.predictions import mean, tasks
from ensemble.recalibration import recalibrate
from ensemble.soup import Soup
from ensemble.state import State, check
from ensemble.supplies import base, supplies
from zoo.errors import ZooError
from zoo.registry import NewRun, Registry, Run
from zoo.registry.records import digest
from zoo.settings import NAME_RULE, is_name

DEFAULTS: Mapping[Mode, str] = {"predictions": "mean", "weights": "greedy-soup"}
BATCH = 256  # rows, or a few more, in a batch from which BatchNorm statistics are estimated


@dataclass(frozen=True)
class Product:
    """What came of combining members.

    Attributes:
        run: the product, as it stands in the registry.
        members: the runs it was chosen from.
        used: those that are in it; a soup may leave some out.
        metric: what the figures on the validation rows are of: ``accuracy`` or ``rmse``.
        val: the product's.
        best: the best member's.
        mean: the mean of the members'.
        flight: what was measured before averaging weights.
    """

    run: Run
    members: list[Run]
    used: list[Run]
    metric: str
    val: float
    best: float
    mean: float
    flight: Preflight | None


def combine(
    registry: Registry,
    runs: Sequence[Run],
    mode: Mode,
    *,
    method: str | None = None,
    options: Mapping[str, Any] | None = None,
    name: str | None = None,
    frame: Any = None,
) -> Product:
    """Combine runs into one predictor and save it.  Everything is chosen on validation rows.

    Where members have folds or draws of their own, each counts by its own validation rows, and the
    product by what those members predict for a row that did not train on it.

    Args:
        registry: where the runs are and the product goes.
        runs: the members: finished, of one data set.
        mode: ``predictions`` keeps every member and pools what they say; ``weights`` makes one
            model by averaging.
        method: of the catalogue; by default ``mean`` and ``greedy-soup``.
        options: the method's, and ``weights`` where it needs them: one number per member, by
            default the inverse of its validation loss (Bates & Granger 1969 for squared errors);
            and ``base``, a reference to the run that all started from, by default what their
            settings tell.
        name: the product's, by default the members' with mode and method.
        frame: the table that the members learnt from, where it was not a file.

    Raises:
        EnsembleError: where members do not fit together, or the method does not fit them.
    """
    table = bench(registry, runs, frame)
    chosen = find(mode, method or DEFAULTS[mode])
    if mode == "weights":
        same_model(runs)
        same_rows(runs)
    table.predict(runs, "val")
    alone = pooling(partial(table.pool, mean), {})
    figures = [table.figures(*table.validation([run], alone)) for run in runs]
    order = list(range(len(runs)))
    if not chosen.ordered:  # the first of members that score alike is then the better one
        order.sort(key=lambda k: figures[k]["val_loss"])
    members = [runs[k] for k in order]
    given = dict(options or {})
    supply: dict[str, Any] = {}
    if "weights" in chosen.needs:
        inverse = [1 / max(figure["val_loss"], 1e-9) for figure in figures]
        weights = _weights(given.pop("weights", inverse), len(runs))
        supply["weights"] = [weights[k] for k in order]
    start: dict[str, Any] = {}
    if "base" in chosen.needs:
        supply["base"], start["base"] = base(table, members, given.pop("base", None))
    arguments = supply | chosen.bind(given)
    make = partial(_average, start=start) if mode == "weights" else _pool
    state, val, used, flight = make(table, members, chosen, arguments)
    run = _save(registry, members, used, mode, chosen, arguments, name, state, val)
    key = f"val_{table.metric.name}"
    values = [figure[key] for figure in figures]
    best = (max if table.metric.direction == "max" else min)(values)
    return Product(
        run, members, used, table.metric.name, val[key], best, sum(values) / len(values), flight
    )


Made = tuple[State | None, dict[str, float], list[Run], Preflight | None]


def _pool(table: Bench, members: list[Run], method: Method, arguments: dict[str, Any]) -> Made:
    """Pool the members' predictions; there are no weights to save."""
    task = table.data.task
    if task not in tasks(method.function):
        raise OptionError(
            f"{method.name} pools predictions of {' or '.join(tasks(method.function))}, however "
            f"the members' task is {task}"
        )
    pool = pooling(partial(table.pool, method.function), arguments)
    return None, table.figures(*table.validation(members, pool)), members, None


def _average(
    table: Bench,
    members: list[Run],
    method: Method,
    arguments: dict[str, Any],
    start: dict[str, Any],
) -> Made:
    """Average the members' weights, with BatchNorm statistics re-estimated before any scoring."""
    module, data = table.module(members[0]), table.own(members[0])
    states = check([table.state(run) for run in members], [run.label for run in members])
    x_N = data.train.x
    batches = x_N.tensor_split(max(1, len(x_N) // BATCH))

    def ready(state: State) -> State:
        """Give an average the statistics it needs; a member has its own."""
        if any(state is member for member in states):
            return state
        return recalibrate(module, state, map(data.prepare, batches))

    def figures(state: State) -> dict[str, float]:
        outputs_K = table.forward([module], [state], data)(data.val.x)
        return table.figures(table.pool(mean, outputs_K), table.targets("val", data))

    sign = 1 if table.metric.direction == "max" else -1
    key = f"val_{table.metric.name}"
    best = max(sign * figures(state)[key] for state in states)

    def score(state: State) -> float:
        """Score by the loss, among those whose metric is no worse than the best member's.

        The metric alone is coarse on few rows: averages that get one row more right by luck, at a
        much higher loss, would win.
        """
        figure = figures(ready(state))
        return -figure["val_loss"] if sign * figure[key] >= best else -math.inf

    flight = preflight(states, lambda state: figures(ready(state))["val_loss"])
    supply = start | ({"score": score} if "score" in method.needs else {})
    supply |= supplies(method.needs, module, states, data)
    merged = method.function(states, **(arguments | supply))
    chosen = merged.members if isinstance(merged, Soup) else range(len(members))
    final = states[chosen[0]] if len(chosen) == 1 else ready(merged)
    return final, figures(final), [members[k] for k in chosen], flight


def _save(
    registry: Registry,
    members: list[Run],
    used: list[Run],
    mode: Mode,
    method: Method,
    arguments: dict[str, Any],
    name: str | None,
    state: State | None,
    metrics: dict[str, float],
) -> Run:
    """Enter the product into the registry; the same product again is the same run."""
    first = members[0]
    config = {
        "mode": mode,
        "method": method.name,
        "arguments": arguments,
        "used": [run.id for run in used],
        "data": first.config["data"],
    }
    if state is not None:
        config["model"] = first.config["model"]
    request = NewRun(
        name=f"{first.name}.{mode}-{method.name}",
        kind=mode,
        config=config,
        config_hash=digest(config)[:16],
        task=first.task,
        classes=first.classes,
        data_ref=first.data_ref,
        data_fingerprint=first.data_fingerprint,
        split_hash=first.split_hash,
        preprocessing=first.preprocessing,
        parents=tuple(run.id for run in members),
        environment=first.environment,
    )
    request = _named(registry, request, name)
    (run,) = registry.add([request])
    epochs = sum(member.epochs or 0 for member in members)
    try:
        registry.publish(
            run.id,
            state or {},  # a pool has none: the header of its file tells what it is
            kind="merged" if state else "pool",
            epoch=None,
            epochs=epochs,
            metrics=metrics,
            seconds=None,
        )
    except ZooError as error:
        registry.finish(run.id, "failed", error=str(error))
        raise
    return registry.run(run.id)


def _named(registry: Registry, request: NewRun, name: str | None) -> NewRun:
    """Give the product its name: as asked, or the first free one made from its members'.

    Raises:
        OptionError: where the name asked for cannot be one, or is another run's.
    """
    base = request.name if name is None else name
    if not is_name(base):
        raise OptionError(f"--save takes {NAME_RULE}, however it is {base!r}")
    own = (request.kind, request.config_hash, request.parents)
    names = (base if k == 1 else f"{base}-{k}" for k in itertools.count(1))
    for free in names:
        taken = {(run.kind, run.config_hash, run.parents) for run in registry.named(free)}
        if taken <= {own}:
            return replace(request, name=free)
        if name is not None:
            raise OptionError(f"--save takes a new name, however {base!r} is that of another run")
    raise AssertionError("there is always another name")


def _weights(given: Any, count: int) -> list[float]:
    """Check weights given by the user; the method itself checks their values."""
    numbers = isinstance(given, list | tuple) and all(
        isinstance(value, int | float) and not isinstance(value, bool) for value in given
    )
    if not numbers or len(given) != count:
        raise OptionError(
            f"weights must be a list of {count} numbers, one per member, however it is {given!r}"
        )
    return [float(value) for value in given]
