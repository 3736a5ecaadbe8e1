"""Who is compared: single models, and what was made of them, and what each predicts.

A single model is a pool of one, so that all of them predict, count and cost alike.  Rows come
in portions and few models at a time, so that memory is bounded however many there are of either;
cores share these out (:mod:`ensemble.lanes`).

Shapes: K member, N sample, C class.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import TypeVar

import torch
from torch import Tensor

from ensemble.entries import LABELS, crossfit
from ensemble.errors import EmptyError
from ensemble.heldout import Pool
from ensemble.lanes import in_lanes, shared_out
from ensemble.members import ROW, Bench, PartName, alike
from ensemble.metrics import AnyMetric
from ensemble.pools import pool_of
from ensemble.predictions import check_finite, mean
from ensemble.snapshots import members_of
from zoo.registry import Registry, Run

CELLS = 1 << 21  # numbers that models predict at once on a core, each for all rows
PORTION = 1 << 19  # and all for some rows, of which tallies make many times as many
MADE = ("weights", "predictions", "distilled")  # kinds of runs whose epochs include their parents'
R = TypeVar("R")


@dataclass(frozen=True)
class Entrant:
    """One model, or several that are pooled.

    Attributes:
        run: what it is in the registry.
        runs: the models that predict, one or several.
        pool: from their outputs to predictions.
        trained_epochs: what it took to train everything that it needs.
    """

    table: Bench
    run: Run
    runs: list[Run]
    pool: Pool
    trained_epochs: int

    @property
    def name(self) -> str:
        """The label of its run."""
        return self.run.label

    @cached_property
    def groups(self) -> list[tuple[list[Run], Callable[[Tensor], Tensor]]]:
        """Models that run together, and the function by which they do."""
        return [(group, self.table.predictor(group)) for group in alike(self.runs)]

    def predictions(self, part: PartName) -> Tensor:
        """What it predicts for a part that all its models share (see :meth:`Bench.loss`)."""
        everyone = range(len(self.runs))
        return torch.cat(
            [*self.portions(part, lambda outputs_K, _: self.pool(outputs_K, everyone))]
        )

    def portions(self, part: PartName, look: Callable[[Tensor, slice], R]) -> Iterator[R]:
        """Yield what is seen in what its models predict for some rows after others.

        Args:
            part: the rows, which all its models share.
            look: is given outputs (K, n, ...), and which rows they are for.

        Raises:
            NonFiniteError: naming the models that predict what is no finite number.
        """
        parts = [getattr(self.table.own(group[0]), part) for group, _ in self.groups]
        rows = max(1, PORTION // (len(self.runs) * max(1, len(self.run.classes))))

        def seen(start: int) -> R:
            here = slice(start, start + rows)
            told: dict[str, Tensor] = {}
            for (group, forward), own in zip(self.groups, parts, strict=True):
                outputs_K = forward(own.x[here])
                check_finite(outputs_K, [run.label for run in group], ROW[part], start)
                told |= {run.id: outputs for run, outputs in zip(group, outputs_K, strict=True)}
            return look(torch.stack([told[run.id] for run in self.runs]), here)

        return in_lanes(seen, range(0, len(parts[0].y), rows))

    def validated(self, metric: AnyMetric) -> float:
        """What it is worth on the rows that validate it.

        Of a pool that was fitted on them it is the cross-fitted figure that it was published with:
        measured on the rows that it was fitted on, it would look too good beside the others.
        """
        if self.run.kind == "predictions" and crossfit(metric.name) in self.run.metrics:
            return self.run.metrics[crossfit(metric.name)]
        if len({run.split_hash for run in self.runs}) > 1:
            return metric(*self.table.validation(self.runs, self.pool))
        targets = self.table.targets("val", self.table.own(self.runs[0]))
        return metric(self.predictions("val"), targets)


def entrants(
    registry: Registry, table: Bench, singles: Sequence[Run], products: Sequence[Run]
) -> tuple[list[Entrant], list[Entrant]]:
    """Return single models and products as they enter a comparison."""
    known = ancestors(registry, [*singles, *products])

    def enter(run: Run) -> Entrant:
        return Entrant(table, run, members_of(registry, run), pool_of(run), _epochs(run, known))

    return [enter(run) for run in singles], [enter(run) for run in products]


def found(registry: Registry, runs: Sequence[Run]) -> tuple[list[Run], list[Run]]:
    """Return finished single models, those that products were made of included, and the products.

    Raises:
        EmptyError: where there is no single model.
    """
    finished = [run for run in runs if run.status == "finished"]
    singles = [run for run in ancestors(registry, finished).values() if run.kind == "single"]
    if not singles:
        raise EmptyError("a comparison needs a finished single model, however there is none")
    return singles, [run for run in finished if run.kind != "single"]


def ancestors(registry: Registry, runs: Sequence[Run]) -> dict[str, Run]:
    """Return runs, their parents, and theirs, by identifier."""
    everyone = {run.id: run for run in runs}
    fresh = list(runs)
    while fresh:
        parents = dict.fromkeys(parent for run in fresh for parent in run.parents)
        known = registry.by_id(parents.keys() - everyone.keys())
        fresh = [known[parent] for parent in parents if parent in known]
        everyone |= {run.id: run for run in fresh}
    return everyone


def told_alone(
    table: Bench, singles: Sequence[Entrant], look: Callable[[Entrant, Tensor, Tensor], R]
) -> Iterator[R]:
    """Yield what is seen in what single models predict.

    They run together where they can, as many at once as memory is meant for.

    Args:
        table: their data.
        singles: the models.
        look: is given one, and what it predicts for its validation rows and for the test rows.

    Raises:
        NonFiniteError: naming the models that predict what is no finite number.
    """
    by_id = {entrant.run.id: entrant for entrant in singles}

    def seen(some: Sequence[Run]) -> list[R]:
        data, forward = table.own(some[0]), table.predictor(some)
        val_K, test_K = forward(data.val.x), forward(data.test.x)
        labels = [run.label for run in some]
        check_finite(val_K, labels, ROW["val"])
        check_finite(test_K, labels, ROW["test"])
        told = zip(some, val_K[:, None], test_K[:, None], strict=True)
        return [
            look(by_id[run.id], table.pool(mean, val_1), table.pool(mean, test_1))
            for run, val_1, test_1 in told
        ]

    crowds = []
    for group in alike([entrant.run for entrant in singles]):
        data = table.own(group[0])
        cells = (len(data.val.y) + len(data.test.y)) * max(1, len(data.classes))
        crowds += shared_out(group, max(1, CELLS // cells))
    return chain.from_iterable(in_lanes(seen, crowds))


def _epochs(run: Run, known: Mapping[str, Run]) -> int:
    """Count the epochs of a run and of all that it was made of, each once."""
    fresh, everyone = [run], {run.id: run}
    while fresh:
        parents = [
            known[parent]
            for one in fresh
            if not _rival(one)
            for parent in one.parents
            if parent in known and parent not in everyone
        ]
        fresh = list({parent.id: parent for parent in parents}.values())
        everyone |= {parent.id: parent for parent in fresh}
    return sum(_own_epochs(one, known) for one in everyone.values())


def _own_epochs(run: Run, known: Mapping[str, Run]) -> int:
    """Count the epochs of a run without those of what it was made of."""
    made = run.kind in MADE and not _rival(run)
    theirs = [known[parent].epochs or 0 for parent in run.parents if made and parent in known]
    return (run.epochs or 0) - sum(theirs)


def _rival(run: Run) -> bool:
    """Tell whether a run's parents are what it is measured against, not what it was made of."""
    return run.kind == "baseline" or run.config.get("method") == LABELS
