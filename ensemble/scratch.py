"""Train members on a table and make one predictor of them, leaving nothing behind.

The path is that of ``train-many`` and ``ensemble``, in a registry that lasts as long as the call.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from tempfile import TemporaryDirectory
from typing import Any, Literal

import pandas as pd
from torch import Tensor

from ensemble.catalogue import Mode
from ensemble.errors import DivergedError, OptionError, nearest
from ensemble.products import combine
from ensemble.snapshots import members_of, weights_of
from ensemble.students import distill_runs
from zoo.config import parse
from zoo.engines import EngineName
from zoo.errors import InterruptedRunsError, RunsFailedError
from zoo.planning import plan
from zoo.registry import Registry, Run
from zoo.training import train_many

MODES = ("predictions", "weights", "distill", "single")


@dataclass(frozen=True)
class Made:
    """What came of it: plain values, which can be pickled.

    Attributes:
        product: the run that predicts.
        used: the runs whose outputs it pools; the product itself where it is one model.
        weights: the state dict of each of these, by its identifier.
        members: all that were trained to the end.
        diverged: those that were not.
    """

    product: Run
    used: list[Run]
    weights: dict[str, dict[str, Tensor]]
    members: list[Run]
    diverged: list[Run]


def train_and_combine(
    asked: Mapping[str, Any],
    frame: pd.DataFrame,
    *,
    mode: str = "predictions",
    method: str | None = None,
    options: Mapping[str, Any] | None = None,
    engine: EngineName | Literal["auto"] = "auto",
) -> Made:
    """Train the members that settings ask for, and make one predictor of them.

    Args:
        asked: settings as :func:`zoo.config.parse` takes them.
        frame: the table to learn from.
        mode: one of :data:`MODES`; ``single`` is the best member on the validation rows.
        method: for ``predictions`` and ``weights``, see :func:`ensemble.products.combine`.
        options: for all modes but ``single``: the method's, or those of
            :func:`ensemble.students.distill_runs`.
        engine: ``auto`` measures both and takes the faster.

    Raises:
        OptionError: where the mode is unknown, or method and options do not suit it.
        DivergedError: where no member came to finite weights.
        RunsFailedError: where a member failed.
        ConfigError, DataError, EnsembleError: as training and combining raise them.

    >>> frame = pd.DataFrame({"x": range(50), "y": [2.5 * x for x in range(50)]})
    >>> asked = {"data": {"ref": "X", "target": "y"}, "seeds": 2, "train": {"epochs": 1}}
    >>> made = train_and_combine(asked, frame, engine="stacked")
    >>> made.product.kind, len(made.used), len(made.weights)
    ('predictions', 2, 2)
    """
    _check(mode, method, options)
    with TemporaryDirectory() as folder, Registry(f"sqlite:///{folder}/r.db", folder) as registry:
        runs = _trained(asked, frame, registry, engine)
        members = [run for run in runs if run.status == "finished"]
        if not members:
            seeds = ", ".join(str(run.seed) for run in runs)
            raise DivergedError(
                f"at least one member must end with finite weights, however all diverged (seeds "
                f"{seeds}); lower optim.lr, or set train.clip_norm"
            )
        if mode == "single":
            product = registry.run(f"{members[0].name}@best")
        elif mode == "distill":
            product = distill_runs(registry, members, options=options, frame=frame).run
        else:
            kind: Mode = "weights" if mode == "weights" else "predictions"
            product = combine(
                registry, members, kind, method=method, options=options, frame=frame
            ).run
        used = members_of(registry, product)
        weights = {run.id: weights_of(registry, run) for run in used}
    diverged = [run for run in runs if run.status == "diverged"]
    return Made(product, used, weights, members, diverged)


def _check(mode: str, method: str | None, options: Mapping[str, Any] | None) -> None:
    if mode not in MODES:
        raise OptionError(f"no mode is called {mode!r}{nearest(str(mode), MODES)}")
    if method is not None and mode in ("distill", "single"):
        raise OptionError(
            f"mode {mode!r} has no methods, however {method!r} is given; leave it out"
        )
    if options and mode == "single":
        raise OptionError("mode 'single' has no options, however some are given; leave them out")


def _trained(
    asked: Mapping[str, Any],
    frame: pd.DataFrame,
    registry: Registry,
    engine: EngineName | Literal["auto"],
) -> list[Run]:
    """Train all members; what was interrupted is lost with the registry."""
    try:
        runs = train_many(plan(parse(asked), registry, frame=frame), registry, engine=engine)
    except InterruptedRunsError:
        raise KeyboardInterrupt from None
    failed = [run for run in runs if run.status == "failed"]
    if failed:
        raise RunsFailedError(
            f"every member must train, however {len(failed)} of {len(runs)} failed, the first "
            f"with: {failed[0].error}"
        )
    return runs
