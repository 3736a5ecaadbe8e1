"""Make one predictor of several members, and save it into the registry with its parents."""

import itertools
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from ensemble.averaging import Merged, average, best_average
from ensemble.catalogue import Method, Mode, find
from ensemble.connectivity import Preflight
from ensemble.errors import OptionError
from ensemble.heldout import mean_pool
from ensemble.ladder import Ladder, steps
from ensemble.lanes import in_lanes
from ensemble.likeness import same_model, same_rows
from ensemble.members import bench
from ensemble.metrics import rank
from ensemble.pools import Pooled, pool
from ensemble.shares import listed
from ensemble.snapshots import described, origin, snapshots, trained_epochs
from ensemble.supplies import base
from zoo.errors import ZooError
from zoo.registry import NewRun, Registry, Run
from zoo.registry.records import Kind, digest
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
        pooled: what was fitted to pool predictions.
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
    pooled: Pooled | None = None


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
            validation loss (Bates & Granger 1969 for squared errors); ``base``, a reference to the
            run that all started from, by default what their settings tell; ``metric``, what a
            selection goes by, by default what stopped the training; of predictions also
            ``calibration``, one of :data:`ensemble.calibration.KINDS`; and ``snapshots``, which
            checkpoints of the runs are the members (:func:`ensemble.snapshots.snapshots`).
        name: the product's, by default the members' with mode and method.
        frame: the table that the members learnt from, where it was not a file.

    Raises:
        EnsembleError: where members do not fit together, or the method does not fit them.
    """
    given = dict(options or {})
    if (kind := given.pop("snapshots", None)) is not None:
        runs = snapshots(registry, runs, kind)
    table = bench(registry, runs, frame)
    climbing = mode == "weights" and method is None
    chosen = None if climbing else find(mode, method or "mean")
    climb = steps(given) if chosen is None else {}
    if mode == "weights":
        same_model(runs)
        same_rows(runs)
    table.predict(runs, "val")
    alone = mean_pool(table.data.task)
    figures = [*in_lanes(lambda run: table.figures(*table.validation([run], alone)), runs)]
    order = list(range(len(runs)))
    if not (chosen and chosen.ordered):  # the first of members that score alike is the better one
        order.sort(key=lambda k: figures[k]["val_loss"])
    members = [runs[k] for k in order]
    supply: dict[str, Any] = {}
    needs = chosen.needs if chosen else ()
    if "weights" in needs:
        inverse = [1 / max(figure["val_loss"], 1e-9) for figure in figures]
        weights = listed(given.pop("weights", inverse), len(runs), "member")
        supply["weights"] = [weights[k] for k in order]
    start: dict[str, Any] = {}
    if "base" in needs:
        supply["base"], start["base"] = base(table, members, given.pop("base", None))
    by_predictions = mode == "predictions"
    calibration = given.pop("calibration", None) if by_predictions else None
    metric = given.pop("metric", None) if by_predictions and "score" in needs else None
    arguments = supply | (chosen.bind(given) if chosen else given)
    made: Pooled | Merged
    if by_predictions and chosen:
        made = pool(table, members, chosen, arguments, metric=metric, calibration=calibration)
    elif chosen:
        made = average(table, members, chosen, arguments, start)
    else:
        made = best_average(table, members, **climb)
    asked = arguments | ({"metric": metric} if metric is not None else {})
    run = _save(registry, members, mode, chosen, asked, made, name)
    key = f"val_{table.metric.name}"
    values = [figure[key] for figure in figures]
    best = min(values, key=lambda value: rank(value, table.metric.direction))
    return Product(
        run=run,
        members=members,
        used=made.used,
        metric=table.metric.name,
        val=made.figures[key],
        best=best,
        mean=sum(values) / len(values),
        flight=made.flight if isinstance(made, Merged) else None,
        ladder=made.ladder if isinstance(made, Merged) else None,
        pooled=made if isinstance(made, Pooled) else None,
    )


def _save(
    registry: Registry,
    members: list[Run],
    mode: Mode,
    method: Method | None,
    arguments: dict[str, Any],
    made: Pooled | Merged,
    name: str | None,
) -> Run:
    """Enter the product, which took some more epochs than its members, into the registry.

    The same product again is the same run.
    """
    first = members[0]
    called = method.name if method else LADDER
    config = {"mode": mode, "method": called, "arguments": arguments, "data": first.config["data"]}
    config |= described(made.used)
    if isinstance(made, Merged):
        config["model"] = first.config["model"]
    else:
        fitted = {"found": made.found, "calibration": made.calibration}
        config |= {what: told for what, told in fitted.items() if told is not None}
        called += f"-{made.calibration['kind']}" if made.calibration else ""
    request = requested(f"{first.name}.{mode}-{called}", mode, config, members)
    request = named(registry, request, name)
    (run,) = registry.add([request])
    more = made.epochs if isinstance(made, Merged) else 0
    try:
        registry.publish(
            run.id,
            # A pool has no weights: the header of its file tells what it is.
            made.state if isinstance(made, Merged) else {},
            kind="merged" if isinstance(made, Merged) else "pool",
            epoch=None,
            epochs=trained_epochs(members) + more,
            metrics=made.figures,
            seconds=None,
        )
    except ZooError as error:
        with suppress(ZooError):  # the first error is the one to tell
            registry.finish(run.id, "failed", error=str(error))
        raise
    return registry.run(run.id)


def requested(name: str, kind: Kind, config: Mapping[str, Any], members: Sequence[Run]) -> NewRun:
    """Ask for a run that is made of others, whose data and split it has."""
    first = members[0]
    return NewRun(
        name=name,
        kind=kind,
        config=config,
        config_hash=digest(config)[:16],
        task=first.task,
        classes=first.classes,
        data_ref=first.data_ref,
        data_fingerprint=first.data_fingerprint,
        split_hash=first.split_hash,
        preprocessing=first.preprocessing,
        parents=tuple(dict.fromkeys(map(origin, members))),
        environment=first.environment,
    )


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
