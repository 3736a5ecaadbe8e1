"""What a training will do, before it does anything: data, settings and first weights, checked."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from zoo.checks import batch_size, check, check_fitted
from zoo.config import Config, RunConfig, parse
from zoo.data import Data, Loader
from zoo.errors import ConfigError, MismatchError, NotFoundError, UsageError, listed
from zoo.exchange.opening import opened
from zoo.registry import NewRun, Registry, Run
from zoo.registry.checking import check_usable
from zoo.registry.records import Checkpoint, changed, differences
from zoo.registry.weights import decode, header
from zoo.reports import Member
from zoo.sections import DataConfig, InitConfig
from zoo.settings import override

NOT_CHANGED = ("init", "seeds", "name", "grid")  # where a run goes on
FROM = ("best", "epoch", "top", "last", "merged")  # checkpoints to branch from, preferred first


@dataclass(frozen=True)
class Plan:
    """What a ``train-many`` will do.

    Attributes:
        title: the name of the zoo.
        data: what the first run learns from; what the others do is the same, or, where members have
            rows of their own, given by :meth:`data_of`.
        requests: every run asked for, in order.
        weights: SHA-256 -> weights that runs start from.
        optimisers: SHA-256 of such weights, and an optimiser's name -> its state that was kept
            with them.
        loader: reads the data of other members.
    """

    title: str
    data: Data
    requests: list[NewRun]
    weights: Mapping[str, Mapping[str, Tensor]]
    optimisers: Mapping[tuple[str, str], Mapping[str, Tensor]]
    loader: Loader

    def data_of(self, member: Member) -> Data:
        """Return what a member learns from."""
        return self.loader.data(member.config.data)

    def member(self, run: Run) -> Member:
        """Return a run of this plan as a member to train."""
        config = RunConfig.model_validate(run.config)
        source = config.init.sha256 or ""
        optimiser = self.optimisers.get((source, config.optim.name))
        return Member(run.id, config, run.seed or 0, self.weights.get(source), optimiser)


@dataclass(frozen=True)
class _Start:
    """First weights that were found, and the state of the optimiser of that name."""

    init: InitConfig
    state: Mapping[str, Tensor]
    optimiser: Mapping[str, Tensor] | None = None
    name: str = ""


def plan(config: Config, registry: Registry | None = None, *, frame: Any = None) -> Plan:
    """Load the data and check every setting against it; nothing is written.

    Args:
        config: what is asked for.
        registry: where weights to start from are looked up, if any run is to start from another.
        frame: the table, of pandas, polars or Arrow; ``data.ref`` is then only its name.

    Raises:
        DataError, ConfigError: where the data or a setting will not do.
        NotFoundError: where weights to start from are not there.
    """
    for run, _ in config.cells:
        if run.init.sha256 or run.init.trained:
            raise ConfigError("init: sha256 and trained are found when planning; leave them out")
    data = config.cells[0][0].data
    if data.fold is not None:
        raise ConfigError(
            f"data.fold: follows from the seed, however it is set to {data.fold}; leave it out, "
            "and choose seeds"
        )
    loader = Loader(frame)
    loader.data(data.of_seed(config.seeds[0]))  # before any weights are looked for
    starts = {run.init: _find(run.init, registry) for run, _ in config.cells}
    runs = [
        (
            run.model_copy(update={"init": starts[run.init].init, "data": run.data.of_seed(seed)}),
            varied | ({"fold": data.of_seed(seed).fold} if data.folds else {}),
            seed,
            (),
        )
        for run, varied, seed in config.runs()
    ]
    planned = _planned(config.name, loader, runs, starts.values())
    notes = (*planned.data.notes, *_uneven(data, config.seeds))
    return replace(planned, data=replace(planned.data, notes=notes))


def continuation(
    registry: Registry,
    refs: Sequence[str],
    epochs: int,
    changes: Mapping[str, Any],
    name: str | None,
    *,
    frame: Any = None,
) -> Plan:
    """Plan to train finished runs on, each as a child of its own.

    A child starts from the best weights of its parent, and from the optimiser's state where that
    was kept and the optimiser is the same; its epochs count anew, its data order goes on.

    Args:
        registry: where the runs are.
        refs: which runs.
        epochs: the most epochs to train.
        changes: dotted key -> value, settings that shall differ from the parents'.
        name: of the children; by default the parents' with ``-continued``.
        frame: the table they learnt from, where it was not a file.

    Raises:
        NotFoundError, MismatchError: where there are no such runs, or they learnt from other data.
        ConfigError: where a setting has no meaning for runs that go on.
    """
    for key in changes:
        if key.partition(".")[0] in NOT_CHANGED or key == "train.epochs":
            raise ConfigError(
                f"--set {key}: has no meaning for runs that go on; they start from their parents' "
                "best weights with their seeds, --epochs says how long and --name how they are "
                "called (train-many --set init=REF starts new runs from another epoch)"
            )
    files = [ref for ref in refs if ref.endswith(".safetensors")]
    others = [ref for ref in refs if ref not in files]
    found = {file: _told(file) for file in files}
    found |= {run.id: run for run in (registry.runs(others) if others else []) if run.metrics}
    sources = {source: run for source, run in found.items() if run.kind == "single"}
    parents = list(sources.values())
    if not parents:
        raise NotFoundError(
            f"only trained models can be continued, however {', '.join(refs)} names none"
        )
    first = parents[0]
    for run in parents:
        if not run.known_data:
            raise MismatchError(
                f"only models whose data are known can be continued, however {run.label} was "
                f"imported; train-many --set init={run.label} begins with its weights"
            )
        check_usable(run)
        apart = [f"{what} {theirs} and {ours}" for what, theirs, ours in differences(run, first)]
        if run.name != first.name:
            apart.append(f"name {run.name} and {first.name}")
        if apart:
            raise MismatchError(
                f"runs continued together must share their name and data, however "
                f"{run.label} and {first.label} have {'; '.join(apart)}"
            )
    known = registry.by_id(parent.id for parent in parents)  # not those of other registries' files
    runs, starts = [], []
    for source, parent in sources.items():
        settings = override(parent.config, {**changes, "train.epochs": epochs})
        settings["init"] = {"mode": "file" if source in files else "run", "source": source}
        config, _ = parse(settings).cells[0]
        start = _find(config.init, registry)
        starts.append(start)
        child = config.model_copy(update={"init": start.init})
        origin = (parent.id,) if parent.id in known else ()
        runs.append((child, parent.varied, parent.seed or 0, origin))
    return _planned(name or f"{first.name}-continued", Loader(frame), runs, starts, parents)


def _refuse_change(data: Data, parent: Run) -> None:
    """Refuse data that is not what a run to be continued learnt from."""
    for what, then, now in changed(data, parent):
        raise MismatchError(
            f"{parent.label} can be continued on its own data only, however the {what} of "
            f"{data.ref} has changed: it was {then} and is now {now}"
        )


def _uneven(data: DataConfig, seeds: Sequence[int]) -> list[str]:
    """Say so where the folds do not have equally many members."""
    if not data.folds:
        return []
    folds = range(data.folds * data.repeats)
    counts = Counter(data.of_seed(seed).fold for seed in seeds)
    if len({counts[fold] for fold in folds}) == 1:
        return []
    told = listed([f"fold {fold} has {counts[fold]}" for fold in folds], most=10)
    return [
        f"{len(seeds)} seeds do not go round {len(folds)} folds evenly: {told}; rows of a "
        "fold without a member have no out-of-fold prediction"
    ]


def _planned(
    title: str, loader: Loader, runs: Any, starts: Any, parents: Sequence[Run] = ()
) -> Plan:
    """Ask for runs, those that are continued with their parents, in the same order."""
    found = {start.init.sha256: start for start in starts if start.init.sha256}
    own: dict[str, list[int]] = {}
    for place, (asked, *_) in enumerate(runs):
        own.setdefault(asked.data.model_dump_json(), []).append(place)
    requests: dict[int, NewRun] = {}
    for places in own.values():  # one after another, since not all are held at once
        data = loader.data(runs[places[0]][0].data)
        for place in places[: len(parents)]:
            _refuse_change(data, parents[place])
        some = [runs[place] for place in places]
        requests |= dict(zip(places, _requests(title, data, some, found), strict=True))
    weights = {key: start.state for key, start in found.items()}
    optimisers = {(key, s.name): s.optimiser for key, s in found.items() if s.optimiser}
    ordered = [requests[place] for place in range(len(runs))]
    return Plan(title, loader.data(runs[0][0].data), ordered, weights, optimisers, loader)


def _requests(title: str, data: Data, runs: Any, found: Mapping[str, _Start]) -> list[NewRun]:
    """Check the settings of runs on the same rows, and ask for them."""
    check_fitted(data)
    requests = []
    checked: set[str] = set()
    for asked, varied, seed, parents in runs:
        train = asked.train.model_copy(update={"batch_size": batch_size(asked, data)})
        run = asked.model_copy(update={"train": train})
        config_hash = run.hash
        if config_hash not in checked:
            start = found.get(run.init.sha256)
            check(run, data, start.state if start else None)
            checked.add(config_hash)
        requests.append(
            NewRun(
                name=title,
                config=run.model_dump(mode="json"),
                config_hash=config_hash,
                task=data.task,
                data_ref=data.ref,
                data_fingerprint=data.fingerprint,
                split_hash=data.split_hash,
                seed=seed,
                varied=varied,
                classes=list(data.classes),
                preprocessing=data.preprocessing,
                parents=parents,
                environment={"torch": version("torch")},
            )
        )
    return requests


def _find(init: InitConfig, registry: Registry | None) -> _Start:
    """Find the weights that runs are to start from, and what identifies them."""
    if init.mode == "file":
        return _from_file(init)
    if init.mode == "run":
        if registry is None:
            raise ConfigError("init.source: a run is looked up in a registry, however none is open")
        return _from_run(init, registry)
    return _Start(init, {})


def _from_file(init: InitConfig) -> _Start:
    content, state, card = _read(init.source or "")
    config = card.get("config")
    init_before = config.get("init") if isinstance(config, dict) else None
    before = init_before.get("trained") if isinstance(init_before, dict) else 0
    counts = [count for count in (before, card.get("epoch")) if type(count) is int and count > 0]
    found = {"sha256": sha256(content).hexdigest(), "trained": sum(counts)}
    return _Start(init.model_copy(update=found), state)


def _told(path: str) -> Run:
    """Return the run that a file of weights tells of."""
    _, _, card = _read(path)
    if "config" not in card:
        raise ConfigError(
            f"{path}: holds weights but no settings; train-many takes it by --set init={path}"
        )
    try:
        return TypeAdapter(Run).validate_python(card)
    except ValidationError as error:
        where = ".".join(map(str, error.errors()[0]["loc"]))
        raise ConfigError(f"{path}: what it tells of its run is damaged: {where}") from None


def _read(path: str) -> tuple[bytes, dict[str, Tensor], dict[str, Any]]:
    """Return the bytes of a file, its weights, and the card in its header."""
    try:
        with opened(Path(path)) as (file, _):
            content = file.read()
        return content, decode(content), header(content)
    except UsageError as error:
        raise ConfigError(str(error)) from None
    except Exception as error:  # the parser of safetensors raises its own
        raise ConfigError(f"{path}: is not a safetensors file: {error}") from None


def _from_run(init: InitConfig, registry: Registry) -> _Start:
    run = registry.run(init.source or "")
    kept = registry.checkpoints(run.id)
    if init.epoch is None:
        asked, wanted = "its best", [c for c in kept if c.kind in ("best", "merged")]
    else:
        asked = str(init.epoch)
        wanted = [c for c in kept if c.kind in FROM and c.epoch == init.epoch]
    if not wanted:
        epochs = sorted({c.epoch for c in kept if c.kind in FROM and c.epoch is not None})
        raise NotFoundError(
            f"init.epoch: {run.owner} has weights of epochs {', '.join(map(str, epochs)) or 'none'}"
            f", however {asked} was asked for; keep.every=N keeps those of every N epochs"
        )
    chosen: Checkpoint = min(wanted, key=lambda c: FROM.index(c.kind))
    before = run.config.get("init", {}).get("trained", 0)
    found = {"sha256": chosen.sha256, "trained": before + (chosen.epoch or 0)}
    optimiser = None
    if any(c.kind == "optimiser" and c.epoch == chosen.epoch for c in kept):
        optimiser = registry.load(run.id, "optimiser")
    state = registry.load(run.id, chosen.kind, chosen.epoch)
    name = run.config.get("optim", {}).get("name", "")
    return _Start(init.model_copy(update=found), state, optimiser, name)
