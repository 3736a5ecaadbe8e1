"""Members from the registry: their data, their weights, and what they predict.

This is where the arithmetic of :mod:`ensemble` meets the runs of :mod:`zoo`.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ensemble.errors import EmptyError, EnsembleError, listing
from ensemble.metrics import METRICS, AnyMetric, ranking
from ensemble.predictions import pooled
from ensemble.state import State
from zoo import terms
from zoo.checks import build
from zoo.data import Data, Part, load
from zoo.models import restore
from zoo.objective import objective
from zoo.registry import Registry, Run
from zoo.sections import DataConfig, ModelConfig
from zoo.stack import stack
from zoo.stacked import Stacked

PartName = Literal["train", "val", "test"]


class MembersError(EnsembleError):
    """Members that cannot be combined or compared: other data, other classes, other models."""


@dataclass(frozen=True)
class Bench:
    """One data set and the runs that learnt from it: what they weigh and what they predict.

    Weights and outputs are loaded and computed once.
    """

    registry: Registry
    data: Data
    _states: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    _outputs: dict[tuple[str, PartName], Tensor] = field(default_factory=dict)

    @property
    def metric(self) -> AnyMetric:
        """The metric of the task by which members are ranked."""
        return ranking(self.data.task)

    def part(self, name: PartName) -> Part:
        """Return a part of the data."""
        part: Part = getattr(self.data, name)
        return part

    def targets(self, name: PartName) -> Tensor:
        """Return a part's classes (N,), labels (N, L), or values (N,) or (N, T) in their unit."""
        y_N, units = self.part(name).y, self.data.units()
        return units.restore(y_N, predicted=False) if units else y_N

    def state(self, run: Run) -> dict[str, Tensor]:
        """Return the published weights of a run."""
        if run.id not in self._states:
            merged = run.kind == "weights"
            self._states[run.id] = self.registry.load(run.id, "merged" if merged else "best")
        return self._states[run.id]

    def module(self, run: Run) -> nn.Module:
        """Build the model of a run, with initial weights."""
        return build(model_of(run), self.data, seed=run.seed or 0)

    def outputs(self, runs: Sequence[Run], name: PartName) -> Tensor:
        """Return what runs predict for a part (see :meth:`forward`)."""
        missing = [run for run in runs if (run.id, name) not in self._outputs]
        for group in alike(missing):
            outputs_K = self.predictor(group)(self.part(name).x)
            for run, outputs in zip(group, outputs_K, strict=True):
                self._outputs[run.id, name] = outputs
        return torch.stack([self._outputs[run.id, name] for run in runs])

    def predictor(self, runs: Sequence[Run]) -> Callable[[Tensor], Tensor]:
        """Return the function from rows (N, *shape) to what runs that are alike predict.

        Rows may be as a part holds them, or prepared.
        """
        modules = [self.module(run) for run in runs]
        target = runs[0].preprocessing["target"]
        return self.forward(modules, [self.state(run) for run in runs], target)

    def forward(
        self, modules: Sequence[nn.Module], states: Sequence[State], target: Mapping[str, Any]
    ) -> Callable[[Tensor], Tensor]:
        """Return the function from rows (N, *shape) to predictions.

        These are logits (K, N, C) of classes, log-odds (K, N, L) of labels, or values (K, N) or
        (K, N, T) in their unit, float64.

        Args:
            modules: of one model.
            states: the weights of each.
            target: ``preprocessing["target"]`` of the runs.
        """
        for module, state in zip(modules, states, strict=True):
            restore(module, state)
        members = stack(modules)
        engine = Stacked(modules[0], objective(self.data.task), prepare=self.data.prepare)

        @torch.no_grad()
        def predict(x_N: Tensor) -> Tensor:
            return terms.predictions(target, engine.outputs(members, x_N))

        return predict

    def pool(self, function: Callable[..., Tensor], outputs_K: Tensor, **arguments: Any) -> Tensor:
        """Pool what members predict by a method for predictions (see :func:`pooled`)."""
        return pooled(function, outputs_K, self.data.task, **arguments)

    def loss(self, predictions: Tensor, name: PartName) -> float:
        """Return the loss of training, without weights of classes, of predictions for a part.

        Args:
            predictions: log-probabilities (N, C), log-odds (N, L), or values (N,) or (N, T).
            name: of the part.
        """
        units, targets = self.data.units(), self.targets(name)
        if units is None:
            return METRICS[self.data.task]["nll"](predictions, targets)
        error = units.standardise(predictions) - units.standardise(targets)
        return float(error.square().mean())

    def figures(self, predictions: Tensor, name: PartName) -> dict[str, float]:
        """Measure predictions (see :meth:`loss`): the metric, and the loss of training."""
        targets, loss = self.targets(name), self.loss(predictions, name)
        value = self.metric(predictions, targets)
        return {f"{name}_{self.metric.name}": value, f"{name}_loss": loss}


def members(registry: Registry, refs: Sequence[str]) -> list[Run]:
    """Find the models that references name; by default those of the latest training.

    A model averaged from others is a member only where it is named itself, not by a glob.

    Raises:
        EmptyError: where none of them is finished.
        NotFoundError: where a reference matches nothing.
    """
    found = registry.runs(refs) if refs else _latest(registry.runs())
    named = {run.id for run in found if {run.name, run.id, run.label}.intersection(refs)}
    models = [
        run
        for run in found
        if run.status == "finished"
        and (run.kind == "single" or (run.kind == "weights" and run.id in named))
    ]
    if not models:
        raise EmptyError(
            "members are finished models, and averaged ones where they are named; however the "
            f"{len(found)} runs found are none, such as {found[0].label if found else 'none'}"
        )
    return models


def candidates(registry: Registry, refs: Sequence[str]) -> list[Run]:
    """Find the runs that references name, and all that was made of these alone."""
    everything = registry.runs()
    found = registry.runs(refs) if refs else _latest(everything)
    ids = {run.id for run in found}
    products = [run for run in everything if run.parents and ids.issuperset(run.parents)]
    return list({run.id: run for run in [*found, *products]}.values())


def _latest(runs: Sequence[Run]) -> list[Run]:
    """Return the models that the latest training asked for, whenever they were trained."""
    singles = [run for run in runs if run.kind == "single"]
    latest = max((run.requested_at for run in singles), default="")
    return [run for run in singles if run.requested_at == latest]


def bench(registry: Registry, runs: Sequence[Run], frame: Any = None) -> Bench:
    """Load the data that runs have in common; a table from Python is given again.

    Raises:
        EmptyError: without runs.
        MembersError: where runs learnt from other data, split or classes, or the data has changed.
        DataError: where the data cannot be loaded any more.
    """
    if not runs:
        raise EmptyError("there must be at least one finished run, however there is none")
    first = runs[0]
    facts = [
        f"{run.label} has {what} {theirs} and {first.label} has {ours}"
        for run in runs
        for what, theirs, ours in (
            ("data", _content(run), _content(first)),
            ("split", run.split_hash, first.split_hash),
            ("task", run.task, first.task),
            ("classes", run.classes, first.classes),
            ("targets", _targets(run), _targets(first)),
        )
        if theirs != ours
    ]
    if facts:
        raise MembersError(f"members must share their data, however {listing(facts)}")
    data = load(DataConfig.model_validate(first.config["data"]), frame)
    for what, now, then in (
        ("content", data.fingerprint, first.data_fingerprint),
        ("split", data.split_hash, first.split_hash),
    ):
        if now != then:
            raise MembersError(
                f"the data must be what the members learnt from, however the {what} of {data.ref} "
                f"was {then} and is now {now}"
            )
    return Bench(registry, data)


def model_of(run: Run) -> ModelConfig:
    """Return the model settings of a run that has weights."""
    return ModelConfig.model_validate(run.config["model"])


def same_model(runs: Sequence[Run]) -> None:
    """Refuse to average weights of different models.

    Raises:
        MembersError: naming every setting that differs.
    """
    first = _settings(runs[0])
    facts = [
        f"{key} is {settings.get(key)} in {run.label} and {first.get(key)} in {runs[0].label}"
        for run, settings in ((run, _settings(run)) for run in runs)
        for key in {**first, **settings}
        if settings.get(key) != first.get(key)
    ]
    if facts:
        raise MembersError(
            f"only weights of one model can be averaged, however {listing(facts)}; "
            "--mode predictions combines any models"
        )


def _content(run: Run) -> str:
    return f"{run.data_ref} ({run.data_fingerprint})"


def _targets(run: Run) -> list[str]:
    names: list[str] = run.preprocessing["target"]["names"]
    return names


def _settings(run: Run) -> dict[str, Any]:
    settings = {f"model.{key}": value for key, value in model_of(run).model_dump().items()}
    units = run.preprocessing["target"]["units"]
    return settings | ({"data.target_transform": units["transform"]} if units else {})


def alike(runs: Sequence[Run]) -> list[list[Run]]:
    """Group runs by their model and by the unit of their outputs."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        key = model_of(run).model_dump_json() + json.dumps(run.preprocessing["target"])
        groups.setdefault(key, []).append(run)
    return list(groups.values())
