"""Members from the registry: their data, their weights, and what they predict.

This is where the arithmetic of :mod:`ensemble` meets the runs of :mod:`zoo`.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from threading import RLock
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from ensemble.entries import settings_of
from ensemble.errors import EmptyError, EnsembleError, listing
from ensemble.heldout import OutOfFold, Pool, assemble
from ensemble.lanes import in_lanes, shared_out
from ensemble.metrics import METRICS, AnyMetric, ranking
from ensemble.naming import names, renumbered, reordered
from ensemble.predictions import check_finite, pooled
from ensemble.snapshots import weights_of
from ensemble.state import State
from zoo import terms
from zoo.checks import build
from zoo.data import Data, Loader, Part
from zoo.inference import Inference
from zoo.models import restore
from zoo.registry import Registry, Run
from zoo.registry.checking import check_usable
from zoo.registry.records import changed, differences
from zoo.sections import DataConfig, ModelConfig

PartName = Literal["train", "val", "test"]
ROW = {"train": "training row", "val": "validation row", "test": "test row"}


class MembersError(EnsembleError):
    """Members that cannot be combined or compared: other data, other classes, other models."""


@dataclass(frozen=True)
class Bench:
    """One data set and the runs that learnt from it: what they weigh and what they predict.

    Weights and outputs are loaded and computed once.

    Attributes:
        config: what the first run learnt from.
        data: the same, loaded.  The others have the same test rows, with folds or draws training
            and validation rows of their own, and whatever preprocessing they ask for
            (:meth:`own`).
    """

    registry: Registry
    config: DataConfig
    data: Data
    loader: Loader
    _states: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    _outputs: dict[tuple[str, PartName], Tensor] = field(default_factory=dict)
    _turn: RLock = field(default_factory=RLock)  # with the loader and the global random state

    @property
    def metric(self) -> AnyMetric:
        """The metric of the task by which members are ranked."""
        return ranking(self.data.task)

    def own(self, run: Run) -> Data:
        """Return what a run learnt from.

        Raises:
            MembersError: where it has changed.
        """
        config = settings_of(run, "data", DataConfig).model_copy(update={"ref": self.config.ref})
        if config == self.config:
            return self.data
        with self._turn:
            data = self.loader.data(config)
        _refuse_change(data, run)
        return data

    def targets(self, name: PartName, data: Data | None = None) -> Tensor:
        """Return a part's classes (N,), labels (N, L), or values (N,) or (N, T) in their unit.

        Args:
            name: of the part.
            data: by default of the first run's data.
        """
        data = data or self.data
        y_N, units = _part(data, name).y, data.units()
        theirs, ours = names(data.preprocessing), names(self.data.preprocessing)
        if data.task == "classification":
            return renumbered(y_N, theirs, ours)
        return reordered(units.restore(y_N, predicted=False) if units else y_N, theirs, ours)

    def state(self, run: Run) -> dict[str, Tensor]:
        """Return the published weights of a run."""
        if run.id not in self._states:
            self._states[run.id] = weights_of(self.registry, run)
        return self._states[run.id]

    def module(self, run: Run) -> nn.Module:
        """Build the model of a run, with initial weights."""
        return build(model_of(run), self.own(run), seed=run.seed or 0)

    def outputs(self, runs: Sequence[Run], name: PartName) -> Tensor:
        """Return what runs predict for a part (see :meth:`forward`).

        For ``val`` the runs must have the same validation rows; see :meth:`validation`.
        """
        self.predict(runs, name)
        return torch.stack([self._outputs[run.id, name] for run in runs])

    def out_of_fold(self, runs: Sequence[Run]) -> OutOfFold:
        """Return what runs predict for the validation rows of each; see :func:`out_of_fold`."""
        self.predict(runs, "val")
        train, val, _ = self.data.rows
        return assemble(
            torch.from_numpy(np.concatenate([train, val])),
            torch.cat([self.targets("train"), self.targets("val")]),
            [
                (torch.from_numpy(self.own(run).rows[1]), self._outputs[run.id, "val"])
                for run in runs
            ],
            self.data.task,
        )

    def validation(self, runs: Sequence[Run], pool: Pool) -> tuple[Tensor, Tensor]:
        """Pool what runs predict for the rows that validate them.

        These are their common validation rows.  Where each has its own, they are all of them, and
        each is predicted by those of the runs that did not train on it.

        Returns:
            log-probabilities (N, C), log-odds (N, L), or values (N,) or (N, T); and their targets.
        """
        if len({run.split_hash for run in runs}) == 1:
            outputs_K = self.outputs(runs, "val")
            return pool(outputs_K, range(len(runs))), self.targets("val", self.own(runs[0]))
        told = self.out_of_fold(runs)
        predictions = told.pooled(pool)
        known_N = ~predictions.view(len(predictions), -1).isnan().any(dim=1)
        return predictions[known_N], told.targets_N[known_N]

    def predict(self, runs: Sequence[Run], name: PartName) -> None:
        """Compute what runs predict for a part of their own data, those together that can be."""
        missing = [run for run in runs if (run.id, name) not in self._outputs]

        def told(some: Sequence[Run]) -> Tensor:
            outputs_K = self.predictor(some)(_part(self.own(some[0]), name).x)
            check_finite(outputs_K, [run.label for run in some], ROW[name])
            return outputs_K

        crowds = [some for group in alike(missing) for some in shared_out(group)]
        for some, outputs_K in zip(crowds, in_lanes(told, crowds), strict=True):
            for run, outputs in zip(some, outputs_K, strict=True):
                self._outputs[run.id, name] = outputs

    def predictor(self, runs: Sequence[Run]) -> Callable[[Tensor], Tensor]:
        """Return the function from rows (N, *shape) to what runs that are :func:`alike` predict.

        Rows may be as a part of the runs' own data holds them, or prepared by it.  Classes, labels
        and targets come in the order of the first run's data.
        """
        with self._turn:
            modules = [self.module(run) for run in runs]
            forward = self.forward(modules, [self.state(run) for run in runs], self.own(runs[0]))
        theirs, ours = names(runs[0].preprocessing), names(self.data.preprocessing)
        return lambda x_N: reordered(forward(x_N), theirs, ours)

    def forward(
        self, modules: Sequence[nn.Module], states: Sequence[State], data: Data
    ) -> Callable[[Tensor], Tensor]:
        """Return the function from rows (N, *shape) to predictions.

        These are logits (K, N, C) of classes, log-odds (K, N, L) of labels, or values (K, N) or
        (K, N, T) in their unit, float64.

        Args:
            modules: of one model.
            states: the weights of each.
            data: what the runs learnt from.
        """
        for module, state in zip(modules, states, strict=True):
            restore(module, state)
        outputs = Inference(modules, data.prepare)
        target = data.preprocessing["target"]
        return lambda x_N: terms.predictions(target, outputs(x_N))

    def pool(self, function: Callable[..., Tensor], outputs_K: Tensor, **arguments: Any) -> Tensor:
        """Pool what members predict by a method for predictions (see :func:`pooled`)."""
        return pooled(function, outputs_K, self.data.task, **arguments)

    def loss(self, predictions: Tensor, targets: Tensor) -> float:
        """Return the loss of training, without weights of classes, in the first run's units.

        Args:
            predictions: log-probabilities (N, C), log-odds (N, L), or values (N,) or (N, T).
            targets: see :meth:`targets`.
        """
        units = self.data.units()
        if units is None:
            return METRICS[self.data.task]["nll"](predictions, targets)
        error = units.standardise(predictions) - units.standardise(targets)
        return float(error.square().mean())

    def figures(self, predictions: Tensor, targets: Tensor) -> dict[str, float]:
        """Measure predictions for validation rows (see :meth:`loss`): the metric, and the loss."""
        value, loss = self.metric(predictions, targets), self.loss(predictions, targets)
        return {f"val_{self.metric.name}": value, "val_loss": loss}


def members(registry: Registry, refs: Sequence[str]) -> list[Run]:
    """Find the models that references name; by default those of the latest training.

    A model made of others is a member only where it is named itself, not by a glob.

    Raises:
        EmptyError: where none of them is finished.
        NotFoundError: where a reference matches nothing.
    """
    found = registry.runs(refs) if refs else registry.latest()
    named = {run.id for run in found if {run.name, run.id, run.label}.intersection(refs)}
    models = [
        run
        for run in found
        if run.status == "finished"
        and (run.kind == "single" or (run.kind in ("weights", "distilled") and run.id in named))
    ]
    if not models:
        raise EmptyError(
            "members are finished models, and those made of others where they are named; however "
            f"none of {len(found)} is: {''.join(f'{r.label} is {r.status}' for r in found[:1])}"
        )
    return models


def candidates(registry: Registry, refs: Sequence[str]) -> list[Run]:
    """Find the runs that references name, and all that was made of these alone."""
    found = registry.runs(refs) if refs else registry.latest()
    products = registry.made_of([run.id for run in found])
    return list({run.id: run for run in [*found, *products]}.values())


def bench(registry: Registry, runs: Sequence[Run], frame: Any = None) -> Bench:
    """Load the data that runs have in common; a table from Python is given again.

    Raises:
        EmptyError: without runs.
        MembersError: where runs learnt from other data, split or classes, or the data has changed,
            or is not known.
        UnsafeFileError: where what the registry says of a run is damaged.
        DataError: where the data cannot be loaded any more.
    """
    if not runs:
        raise EmptyError("there must be at least one finished run, however there is none")
    for run in runs:
        refuse_unknown_data(run)
        check_usable(run)
    first = runs[0]
    apart: dict[tuple[Any, ...], str] = {}  # runs that differ alike are told of once
    for run in runs:
        for what, theirs, ours in (
            *differences(run, first),
            ("task", run.task, first.task),
            ("classes", str(sorted(run.classes)), str(sorted(first.classes))),
            ("targets", str(sorted(_targets(run))), str(sorted(_targets(first)))),
        ):
            if theirs != ours:
                fact = f"{run.label} has {what} {theirs} and {first.label} has {ours}"
                apart.setdefault((what, theirs), fact)
    if apart:
        raise MembersError(
            f"members must share their data and test rows, however {listing([*apart.values()])}; "
            "name those of one kind alone"
        )
    config, loader = settings_of(first, "data", DataConfig), Loader(frame)
    data = loader.data(config)
    _refuse_change(data, first)
    return Bench(registry, config, data, loader)


def out_of_fold(registry: Registry, runs: Sequence[Run], frame: Any = None) -> OutOfFold:
    """Return what members predict for the rows that they did not train on.

    With ``data.folds`` every row beside the test part has a prediction of one member per repeat,
    once every fold has a member; with ``data.bootstrap`` of about a third of the members.  Without
    either, only the validation rows have any.

    Args:
        registry: where the runs are.
        runs: finished models on the same data and test rows.
        frame: the table that the members learnt from, where it was not a file.

    Raises:
        EmptyError, MembersError, DataError: as for an ensemble.
    """
    return bench(registry, runs, frame).out_of_fold(runs)


def _part(data: Data, name: PartName) -> Part:
    part: Part = getattr(data, name)
    return part


def refuse_unknown_data(run: Run) -> None:
    """Refuse a model that was trained elsewhere.

    Raises:
        MembersError: where it is not known what it learnt from.
    """
    if not run.known_data:
        raise MembersError(
            f"only models whose data are known predict, or are compared and combined, however "
            f"{run.label} was imported; train it on (train-many --set init={run.label}), or "
            "average its weights in Python"
        )


def _refuse_change(data: Data, run: Run) -> None:
    """Refuse data that is not what a run learnt from."""
    for what, then, now in changed(data, run):
        raise MembersError(
            f"the data must be what the members learnt from, however the {what} of {data.ref} "
            f"was {then} and is now {now}"
        )


def model_of(run: Run) -> ModelConfig:
    """Return the model settings of a run that has weights."""
    return settings_of(run, "model", ModelConfig)


def _targets(run: Run) -> list[str]:
    names: list[str] = run.preprocessing["target"]["names"]
    return names


def alike(runs: Sequence[Run]) -> list[list[Run]]:
    """Group runs by their model, the rows they learnt from and how these were prepared."""
    groups: dict[tuple[str, ...], list[Run]] = {}
    for run in runs:
        prepared = json.dumps(run.preprocessing)
        key = (run.split_hash, prepared, model_of(run).model_dump_json())
        groups.setdefault(key, []).append(run)
    return list(groups.values())
