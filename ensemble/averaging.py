"""One model of several runs by averaging their weights, scored on their validation rows."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor, nn

from ensemble.catalogue import Method
from ensemble.connectivity import Preflight, preflight
from ensemble.healing import healer
from ensemble.ladder import Ladder, climb
from ensemble.members import Bench
from ensemble.metrics import rank
from ensemble.predictions import mean
from ensemble.recalibration import recalibrate
from ensemble.soup import Soup
from ensemble.state import State, check
from ensemble.supplies import supplies
from zoo.data import Data
from zoo.registry import Run

BATCH = 256  # rows, or a few more, in a batch from which statistics are estimated


@dataclass(frozen=True)
class Merged:
    """What came of averaging: the state, its validation figures, whose weights are in it.

    ``epochs`` counts those that this took, ``flight`` is what was measured before a method was
    applied, ``ladder`` what was tried without one.
    """

    state: State
    figures: Mapping[str, float]
    used: list[Run]
    epochs: int = 0
    flight: Preflight | None = None
    ladder: Ladder | None = None


@dataclass(frozen=True)
class Scale:
    """Where states of the members' module are weighed."""

    table: Bench
    members: list[Run]

    @cached_property
    def data(self) -> Data:
        """What the members learnt from."""
        return self.table.own(self.members[0])

    @cached_property
    def module(self) -> nn.Module:
        """The members' module."""
        return self.table.module(self.members[0])

    @cached_property
    def states(self) -> tuple[State, ...]:
        """The members' weights."""
        names = [run.label for run in self.members]
        return check([self.table.state(run) for run in self.members], names)

    @cached_property
    def batches(self) -> list[Tensor]:
        """Training inputs, as the module takes them."""
        x_N = self.data.train.x
        return [self.data.prepare(x) for x in x_N.tensor_split(max(1, len(x_N) // BATCH))]

    def figures(self, state: State) -> dict[str, float]:
        """Return the validation figures of a state."""
        outputs_K = self.table.forward([self.module], [state], self.data)(self.data.val.x)
        return self.table.figures(
            self.table.pool(mean, outputs_K), self.table.targets("val", self.data)
        )

    @cached_property
    def _best(self) -> float:
        return min(self._rank(self.figures(state)) for state in self.states)

    def _rank(self, figures: Mapping[str, float]) -> float:
        metric = self.table.metric
        return rank(figures[f"val_{metric.name}"], metric.direction)

    def worth(self, figures: Mapping[str, float]) -> float:
        """Judge by the loss, among those whose metric is no worse than the best member's.

        The metric alone is coarse on few rows: averages that get one row more right by luck, at a
        much higher loss, would win.
        """
        return -figures["val_loss"] if self._rank(figures) <= self._best else -math.inf


def average(
    table: Bench,
    members: list[Run],
    method: Method,
    arguments: Mapping[str, Any],
    start: Mapping[str, Any],
) -> Merged:
    """Average by a method, with BatchNorm statistics re-estimated before any scoring."""
    scale = Scale(table, members)

    def ready(state: State) -> State:
        """Give an average the statistics it needs; a member has its own."""
        if any(state is member for member in scale.states):
            return state
        return recalibrate(scale.module, state, scale.batches)

    def score(state: State) -> float:
        return scale.worth(scale.figures(ready(state)))

    flight = preflight(scale.states, lambda state: scale.figures(ready(state))["val_loss"])
    supply = {**start, **({"score": score} if "score" in method.needs else {})}
    supply |= supplies(method.needs, scale.module, scale.states, scale.data)
    merged = method.function(scale.states, **(dict(arguments) | supply))
    chosen = merged.members if isinstance(merged, Soup) else range(len(members))
    final = scale.states[chosen[0]] if len(chosen) == 1 else ready(merged)
    return Merged(final, scale.figures(final), [members[k] for k in chosen], flight=flight)


def best_average(
    table: Bench,
    members: Sequence[Run],
    *,
    align: bool | str = "auto",
    repair: bool = True,
    heal: bool = False,
) -> Merged:
    """Climb the ladder: whatever the members' origin, the best that can be made of them.

    Args:
        table: where the members' data are.
        members: of one model.
        align: as :func:`~ensemble.ladder.climb` takes it.
        repair: the same.
        heal: whether the best average is trained on for a quarter of a member's epochs.

    Raises:
        EnsembleError: as ``climb`` does, or where a quarter of the epochs is none.
    """
    scale = Scale(table, list(members))
    ladder = climb(
        scale.module,
        scale.states,
        scale.batches,
        scale.figures,
        scale.worth,
        align=align,
        repair=repair,
        heal=healer(table, members) if heal else None,
    )
    best = ladder.best
    return Merged(
        best.state,
        best.figures,
        [members[k] for k in best.used],
        sum(rung.epochs for rung in ladder.rungs),
        ladder=ladder,
    )
