"""Foreign weights become a run of the registry: a finished model that learnt from no data we know.

What such a run can be used for follows from what it has: weights to start from, to export, to
average by :mod:`ensemble` in Python; its data set is unknown, so nothing can be compared on it.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.errors import ConfigError, UsageError, ZooError
from zoo.exchange.reading import Weights, read_weights
from zoo.registry import NewRun, Registry, Run, tables
from zoo.registry.records import NO_DATA, Batch, Outcome, digest, finite, label
from zoo.registry.weights import not_finite
from zoo.settings import NAME_RULE, is_name, override
from zoo.usercode import is_reference

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Arrival:
    """Foreign weights that were read and checked, and the run that they may become.

    Attributes:
        request: the run.
        state: the weights.
        metrics: what is known of it.
        notes: what the user should know, a sentence each.
        history: its epochs, as :func:`register` takes them.
        epoch: which of them the weights are of, where that is known.
        fault: what cut its training off, if anything did.
    """

    request: NewRun
    state: Mapping[str, "Tensor"]
    metrics: Mapping[str, float]
    notes: tuple[str, ...]
    history: Sequence[Mapping[str, Any]] = ()
    epoch: int | None = None
    fault: str | None = None


@dataclass(frozen=True)
class Imported:
    """What came of an import.

    Attributes:
        run: in the registry.
        created: whether it was not there before.
        notes: what the user should know, a sentence each.
    """

    run: Run
    created: bool
    notes: tuple[str, ...]


def import_weights(
    registry: Registry,
    path: str | Path,
    name: str,
    *,
    key: str | None = None,
    strip: Sequence[str] = (),
    model: Mapping[str, Any] | None = None,
    metrics: Mapping[str, float] | None = None,
    seed: int | None = None,
) -> Imported:
    """Read weights from a file or a folder and publish them as a finished run.

    The same weights under the same name and seed are the same run, whatever file they came in.

    Args:
        registry: where the run goes.
        path: as :func:`zoo.exchange.reading.read_weights` takes it, as are ``key`` and ``strip``.
        name: of the run.
        model: ``name`` and options of a model of the catalogue; by default what this toolkit noted
            in the file, if it wrote it.
        metrics: figures that are known of it, such as ``{"val_loss": 0.3}``.
        seed: what tells models of one name apart.

    Raises:
        UsageError, UnsafeFileError, ZooError: as :func:`read` and :func:`enter` do.
    """
    arrival = read(path, name, key=key, strip=strip, model=model, metrics=metrics, seed=seed)
    return enter(registry, arrival)


def read(
    path: str | Path,
    name: str,
    *,
    key: str | None = None,
    strip: Sequence[str] = (),
    model: Mapping[str, Any] | None = None,
    metrics: Mapping[str, float] | None = None,
    seed: int | None = None,
) -> Arrival:
    """Read and check what :func:`import_weights` takes; this needs no registry.

    Raises:
        UsageError: where the name cannot be one; and as when reading.
        UnsafeFileError: where the file is damaged, claims what it does not hold, or holds code.
        ZooError: where weights are not finite.
    """
    _check_asked(name, metrics)
    weights = read_weights(path, key=key, strip=strip)
    return _arrival(weights, str(path), name, model, metrics, seed)


def register(
    registry: Registry,
    state: Mapping[str, "Tensor"],
    name: str,
    *,
    model: Mapping[str, Any] | None = None,
    metrics: Mapping[str, float] | None = None,
    seed: int | None = None,
    varied: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
    history: Sequence[Mapping[str, Any]] = (),
    epoch: int | None = None,
    fault: str | None = None,
) -> Imported:
    """Publish what a training loop of one's own ended with as a finished run.

    It is then as if its file had been imported: shown, exported, copied, a start for others.  The
    same weights under the same name, seed and varied settings are the same run.

    Args:
        registry: where the run goes.
        state: the weights, on any device, such as ``module.state_dict()``.
        name: of the run, as are the following, as :func:`import_weights` takes it.
        model: ``name`` and options of a model of the catalogue.
        metrics: figures that are known of it.
        seed: what tells models of one name apart.
        varied: settings that do so too, by their dotted keys, such as ``{"optim.lr": 0.1}``.
        settings: all others; plain values, such as JSON has.
        history: its epochs, oldest first: ``epoch``, from 1, and any of ``train_loss``,
            ``val_loss``, ``train_metric``, ``val_metric`` (accuracies), ``lr``, ``grad_norm`` and
            ``seconds`` since it started.
        epoch: whose weights these are.
        fault: what cut the training off, if anything did.

    Raises:
        UsageError: where the name cannot be one or is that of other runs, metrics are not finite,
            a value of the state is no tensor, or an epoch holds something else.
        ZooError: where weights are not finite or cannot be written.

    >>> import torch
    >>> from tempfile import TemporaryDirectory
    >>> net = torch.nn.Linear(2, 1)
    >>> with TemporaryDirectory() as folder, Registry(f"sqlite:///{folder}/r.db", folder) as zoo:
    ...     run = register(zoo, net.state_dict(), "mine", metrics={"val_loss": 0.3}, seed=1).run
    ...     torch.equal(zoo.load(run.id)["weight"], net.weight)
    True
    """
    import torch

    _check_asked(name, metrics)
    for key, leaf in state.items():
        if not isinstance(leaf, torch.Tensor):
            raise UsageError(
                f"a state dict holds tensors, however {key!r} is {type(leaf).__name__}"
            )
    known = set(tables.history.c.keys()) - {"run_id"}
    for row in history:
        if not {"epoch"} <= row.keys() <= known:
            raise UsageError(
                f"an epoch holds its number and any of {', '.join(sorted(known))}, however one "
                f"holds {', '.join(sorted(row))}"
            )
    held = {key: leaf.detach().cpu() for key, leaf in state.items()}
    weights = Weights(held, {"format": "state dict", "sha256": content(held)})
    arrival = _arrival(
        weights, "the state dict", name, model, metrics, seed, varied=varied, settings=settings
    )
    return enter(registry, replace(arrival, history=history, epoch=epoch, fault=fault))


def _check_asked(name: str, metrics: Mapping[str, float] | None) -> None:
    if not is_name(name):
        raise UsageError(f"--name takes {NAME_RULE}, however it is {name[:200]!r}")
    measured = dict(metrics or {})
    if finite(measured) != measured:
        raise UsageError(f"--metric takes finite numbers, however they are {measured}")


def _arrival(
    weights: Weights,
    place: str,
    name: str,
    model: Mapping[str, Any] | None,
    metrics: Mapping[str, float] | None,
    seed: int | None,
    *,
    varied: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Arrival:
    """Check weights, and make the run of them."""
    for key, tensor in weights.state.items():  # before there is a run
        if not_finite(tensor):
            raise ZooError(f"{place}: weights must be finite, however {key!r} is not")
    built, notes = _model(model, weights)
    config = {**(settings or {}), **({"model": built} if built else {}), "source": weights.source}
    request = NewRun(
        name=name,
        config=override(config, varied or {}),
        config_hash=digest([content(weights.state), built, *([varied] if varied else [])])[:16],
        varied=varied or {},
        task=NO_DATA,
        data_ref=NO_DATA,
        data_fingerprint="",
        split_hash="",
        seed=seed,
        environment={"torch": version("torch")},
    )
    return Arrival(request, weights.state, dict(metrics or {}), (*weights.notes, *notes))


def enter(registry: Registry, arrival: Arrival) -> Imported:
    """Publish what was read as a finished run.

    The same weights under the same name and seed are the same run, whatever file they came in.

    Raises:
        UsageError: where the name is that of other runs.
        ZooError: where weights cannot be written.
    """
    _refuse_others(registry, arrival.request)
    (run,) = registry.add([arrival.request])
    measured = arrival.metrics
    if run.status == "finished":
        if measured and measured != run.metrics:
            raise UsageError(
                f"{run.owner} has these weights already, however with the figures {run.metrics} "
                f"and not {measured}; choose another --name"
            )
        return Imported(run, False, arrival.notes)
    rows = [{**row, "run_id": run.id} for row in arrival.history]
    last = rows[-1] if rows else {}
    end = Outcome(
        run_id=run.id,
        status="finished",
        error=arrival.fault,
        epochs=last.get("epoch"),
        best_epoch=arrival.epoch,
        metrics=finite(measured),
        seconds=last.get("seconds"),
    )
    try:
        kept = registry.put(
            run.id,
            arrival.state,
            kind="best",
            epoch=arrival.epoch,
            metrics=measured,
            outcome=end,
            history=rows,
        )
        registry.write(Batch(history=[*rows], checkpoints=[kept], outcomes=[end]))
    except ZooError as error:
        with suppress(ZooError):  # the first error is the one to tell
            registry.finish(run.id, "failed", error=str(error))
        raise
    return Imported(registry.run(run.id), True, arrival.notes)


def content(state: Mapping[str, "Tensor"]) -> str:
    """SHA-256 of what a state dict holds: names, types, shapes and values, in the order of names.

    >>> import torch
    >>> content({"a": torch.ones(2), "b": torch.ones(1)})[:8]
    'd86ce9d8'
    """
    import torch

    found = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        found.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        found.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def _model(
    given: Mapping[str, Any] | None, weights: Weights
) -> tuple[dict[str, Any] | None, tuple[str, ...]]:
    """Return the settings of the model, if any are known; what a file says of it may be wrong."""
    from zoo.sections import ModelConfig

    if given is not None:
        return ModelConfig.model_validate(given).model_dump(mode="json"), ()
    config = weights.card.get("config")
    told = config.get("model") if isinstance(config, dict) else None
    if not isinstance(told, dict):
        return None, ()
    name = told.get("name")
    try:
        if not isinstance(name, str) or is_reference(name):
            raise ConfigError("it names code")
        return ModelConfig.model_validate(told).model_dump(mode="json"), ()
    except (ConfigError, ValueError) as error:
        return None, (f"the model that the file names is left out: {error}",)


def _refuse_others(registry: Registry, request: NewRun) -> None:
    """Refuse a name that is taken by runs which it could not be told from, or not combined with."""
    for run in registry.named(request.name):
        if run.known_data:
            raise UsageError(
                f"the runs of one name share their data, however {run.owner} learnt from "
                f"{run.data_ref} and an imported model from data unknown; choose another --name"
            )
        asked = label(request.name, request.varied, request.seed)
        if run.label == asked and run.config_hash != request.config_hash:
            raise UsageError(
                f"{asked!r} must name one model, however {run.owner} holds other weights; choose "
                "another --name or --seed"
            )
