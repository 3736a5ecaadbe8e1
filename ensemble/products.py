"""Make one predictor of several members, and save it into the registry with its parents."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from ensemble.averaging import average, best_average
from ensemble.catalogue import Method, Mode, find
from ensemble.connectivity import Preflight
from ensemble.errors import OptionError
from ensemble.heldout import pooling
from ensemble.ladder import Ladder, steps
from ensemble.likeness import same_model, same_rows
from ensemble.members import Bench, bench
from ensemble.predictions import mean, tasks
from ensemble.state import State
from ensemble.supplies import base
from zoo.errors import ZooError
from zoo.registry import NewRun, Registry, Run
from zoo.registry.records import digest
from zoo.settings import NAME_RULE, is_name

LADDER = "ladder"  # what a product is called that was made without naming a method


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
        flight: what was measured before averaging weights by a method.
        ladder: what was tried where no method was named.
    """

    run: Run
    members: list[Run]
    used: list[Run]
    metric: str
    val: float
    best: float
    mean: float
    flight: Preflight | None = None
    ladder: Ladder | None = None


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
        method: of the catalogue; by default ``mean`` for predictions; weights climb the ladder of
            :mod:`ensemble.ladder`, which aligns and repairs them where it must.
        options: the method's, or the ladder's (:data:`ensemble.ladder.STEPS`), and ``weights``
            where the method needs them: one number per member, by default the inverse of its
            validation loss (Bates & Granger 1969 for squared errors); and ``base``, a reference to
            the run that all started from, by default what their settings tell.
        name: the product's, by default the members' with mode and method.
        frame: the table that the members learnt from, where it was not a file.

    Raises:
        EnsembleError: where members do not fit together, or the method does not fit them.
    """
    table = bench(registry, runs, frame)
    climbing = mode == "weights" and method is None
    chosen = None if climbing else find(mode, method or "mean")
    climb = steps(options or {}) if chosen is None else {}
    if mode == "weights":
        same_model(runs)
        same_rows(runs)
    table.predict(runs, "val")
    alone = pooling(partial(table.pool, mean), {})
    figures = [table.figures(*table.validation([run], alone)) for run in runs]
    order = list(range(len(runs)))
    if (
        chosen is None or not chosen.ordered
    ):  # the first of members that score alike is then the better one
        order.sort(key=lambda k: figures[k]["val_loss"])
    members = [runs[k] for k in order]
    given = dict(options or {})
    supply: dict[str, Any] = {}
    needs = chosen.needs if chosen else ()
    if "weights" in needs:
        inverse = [1 / max(figure["val_loss"], 1e-9) for figure in figures]
        weights = _weights(given.pop("weights", inverse), len(runs))
        supply["weights"] = [weights[k] for k in order]
    start: dict[str, Any] = {}
    if "base" in needs:
        supply["base"], start["base"] = base(table, members, given.pop("base", None))
    arguments = supply | (chosen.bind(given) if chosen else given)
    if mode == "predictions" and chosen:
        val, made = _pool(table, members, chosen, arguments), None
    else:
        made = average(table, members, chosen, arguments, start) if chosen else None
        made = made or best_average(table, members, **climb)
        val = made.figures
    used = made.used if made else members
    name_of = chosen.name if chosen else LADDER
    state = made.state if made else None
    more = made.epochs if made else 0
    run = _save(registry, members, used, mode, name_of, arguments, name, state, dict(val), more)
    key = f"val_{table.metric.name}"
    values = [figure[key] for figure in figures]
    best = (max if table.metric.direction == "max" else min)(values)
    return Product(
        run=run,
        members=members,
        used=used,
        metric=table.metric.name,
        val=val[key],
        best=best,
        mean=sum(values) / len(values),
        flight=made.flight if made else None,
        ladder=made.ladder if made else None,
    )


def _pool(
    table: Bench, members: list[Run], method: Method, arguments: dict[str, Any]
) -> Mapping[str, float]:
    """Pool the members' predictions; there are no weights to save."""
    task = table.data.task
    if task not in tasks(method.function):
        raise OptionError(
            f"{method.name} pools predictions of {' or '.join(tasks(method.function))}, however "
            f"the members' task is {task}"
        )
    pool = pooling(partial(table.pool, method.function), arguments)
    return table.figures(*table.validation(members, pool))


def _save(
    registry: Registry,
    members: list[Run],
    used: list[Run],
    mode: Mode,
    method: str,
    arguments: dict[str, Any],
    name: str | None,
    state: State | None,
    metrics: dict[str, float],
    more: int,
) -> Run:
    """Enter the product, which took some more epochs than its members, into the registry.

    The same product again is the same run.
    """
    first = members[0]
    config = {
        "mode": mode,
        "method": method,
        "arguments": arguments,
        "used": [run.id for run in used],
        "data": first.config["data"],
    }
    if state is not None:
        config["model"] = first.config["model"]
    request = NewRun(
        name=f"{first.name}.{mode}-{method}",
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
    request = named(registry, request, name)
    (run,) = registry.add([request])
    epochs = sum(member.epochs or 0 for member in members) + more
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


def named(registry: Registry, request: NewRun, name: str | None) -> NewRun:
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
