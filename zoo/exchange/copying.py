"""Runs from one registry into another, whatever each is kept in: ``push`` and ``pull``.

A run keeps its identifier, so that what names it goes on to.  Its weights go first, byte by byte,
and are verified where they arrive; then one transaction enters it.  So copying may be cut off at
any point, and begins again where it was.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from zoo.errors import IntegrityError, MismatchError, NotFoundError, UnsafeFileError, ZooError
from zoo.exchange.arriving import content
from zoo.registry import Checkpoint, Registry, Run, layout
from zoo.registry.adopting import identity
from zoo.registry.checking import check_epochs, checkpoints_of, run_of
from zoo.registry.records import DONE
from zoo.registry.weights import decode

Outcome = Literal["copied", "there", "skipped", "refused"]


@dataclass(frozen=True)
class Copied:
    """What became of one run.

    Attributes:
        run: as it is in the source.
        outcome: ``copied``, or ``there`` already; ``skipped``, because it has not ended; or
            ``refused``.
        error: why it was refused.
        note: why it was not copied, in a sentence.
    """

    run: Run
    outcome: Outcome
    error: ZooError | None = None
    note: str = ""


def copy_runs(source: Registry, target: Registry, refs: Sequence[str]) -> list[Copied]:
    """Copy runs with their parents, histories and checkpoints; the state of training stays.

    What is in the target already is left as it is.

    Args:
        source: where runs are read.
        target: where they are entered.
        refs: which runs.

    Returns:
        what became of each, in the order of the source, where parents come first.

    Raises:
        NotFoundError, UsageError: where a reference cannot be resolved.
        ZooError: where the target cannot be written; what was entered stays, and the same call
            goes on from there.
    """
    here = {run.id: run for run in target.runs()}
    known = {identity(run): run for run in here.values()}
    ids: dict[str, str] = {}  # of the source -> of the same run in the target
    told = []
    for run in _with_ancestors(source, refs):
        try:
            told.append(_copy(source, target, run, ids, here, known))
        except (IntegrityError, MismatchError, NotFoundError, UnsafeFileError) as error:
            told.append(Copied(run, "refused", error, str(error)))
    return told


def _copy(
    source: Registry,
    target: Registry,
    run: Run,
    ids: dict[str, str],
    here: Mapping[str, Run],
    known: Mapping[str, Run],
) -> Copied:
    """Copy one run whose parents were seen to; enter it into ``ids`` where it is in the target."""
    run_of(vars(run))
    if run.status not in DONE:
        return Copied(run, "skipped", note=f"is {run.status}; only runs that have ended are copied")
    missing = [parent for parent in run.parents if parent not in ids]
    if missing:
        raise NotFoundError(f"{run.owner} needs its parent {missing[0]}, which was not copied")
    arriving = _with_parents(run, ids)
    twin = known.get(identity(arriving))
    if twin is None and run.id in here:
        raise MismatchError(f"{run.owner} has the identifier of another run, {here[run.id].owner}")
    if twin is None:
        checkpoints, history = _told(source, run)
        for checkpoint in checkpoints:
            _deliver(source, target, run, checkpoint)
        if target.adopt(arriving, checkpoints, history):
            ids[run.id] = run.id
            return Copied(run, "copied")
        raise MismatchError(f"{run.owner} was entered by somebody else meanwhile; copy once more")
    if twin.status not in DONE or not _same_weights(source, run, target, twin):
        raise MismatchError(
            f"{run.owner} must be the same model in both registries, however {twin.owner} in the "
            f"other one is {twin.status} and has other weights, or none"
        )
    ids[run.id] = twin.id
    return Copied(run, "there")


def _with_ancestors(source: Registry, refs: Sequence[str]) -> list[Run]:
    """Return runs that references name and all they were made of; parents are the older ones."""
    everything = source.runs()
    known = {run.id: run for run in everything}
    wanted: set[str] = set()
    waiting = [run.id for run in source.runs(refs)]
    while waiting:
        key = waiting.pop()
        if key in known and key not in wanted:
            wanted.add(key)
            waiting += known[key].parents
    return [run for run in everything if run.id in wanted]


def _told(source: Registry, run: Run) -> tuple[list[Checkpoint], list[dict[str, Any]]]:
    """Return checkpoints and history of a run; a database may hold anything in any column."""
    history = source.history(run.id)
    check_epochs(history, run.owner)
    told = [vars(checkpoint) for checkpoint in source.checkpoints(run.id)]
    return checkpoints_of(told, run.owner), history


def _deliver(source: Registry, target: Registry, run: Run, checkpoint: Checkpoint) -> None:
    """Let the target hold a checkpoint in full; what is there already is not sent again.

    What arrived before its run is entered stays: a collector leaves runs alone that it never heard
    of.
    """
    try:
        target.content(checkpoint, run.owner)
    except IntegrityError:
        data = source.content(checkpoint, run.owner)
        layout.read(data, run.owner)
        target.receive(data)
        target.content(checkpoint, run.owner)


def _same_weights(source: Registry, run: Run, target: Registry, twin: Run) -> bool:
    """Tell whether two runs have the same model, in the same bytes or with the same values."""
    ours, theirs = _weights(source, run), _weights(target, twin)
    if ours is None or theirs is None:
        return ours is theirs
    if ours.sha256 == theirs.sha256:
        return True
    states = [
        decode(registry.content(checkpoint, one.owner), one.owner)
        for registry, one, checkpoint in ((source, run, ours), (target, twin, theirs))
    ]
    return content(states[0]) == content(states[1])


def _weights(registry: Registry, run: Run) -> Checkpoint | None:
    """Return the checkpoint that is the model, if the run has one."""
    found = [c for c in registry.checkpoints(run.id) if c.kind in ("best", "merged")]
    return found[0] if found else None


def _with_parents(run: Run, ids: Mapping[str, str]) -> Run:
    """Name the parents as the target does, where the same runs were made there too."""
    config = dict(run.config)
    if isinstance(used := config.get("used"), list):
        config["used"] = [ids.get(str(key), key) for key in used]
    return replace(run, parents=tuple(ids[key] for key in run.parents), config=config)
