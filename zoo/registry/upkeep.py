"""Looking after a registry: what is damaged, what nothing refers to, a catalogue made anew.

The catalogue knows the digest of every file, and every file tells in its header whose it is, so
that each can be checked against the other.
"""

import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from zoo.errors import IntegrityError, NotFoundError, ZooError
from zoo.registry.blobs import Blobs, Entry, open_blobs
from zoo.registry.database import backend
from zoo.registry.records import DONE, OUTCOMES, SEVERAL, Checkpoint, Run
from zoo.registry.registry import Registry
from zoo.registry.weights import header

GRACE_S = 3600.0  # what is younger may be about to be referred to


@dataclass
class Verified:
    """What was looked at, its bytes, and every fault that was found, one line each."""

    runs: int = 0
    files: int = 0
    size: int = 0
    faults: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Garbage:
    """A file that nothing refers to: its name, what it holds, its bytes, its age in seconds."""

    name: str
    what: str
    size: int
    age_s: float


@dataclass
class Rebuilt:
    """The runs that were entered into the catalogue, and what could not be, one line each.

    ``set_aside`` is the new name of a damaged catalogue.
    """

    runs: list[Run] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    set_aside: str = ""


def verify(registry: Registry) -> Verified:
    """Check the catalogue, and the size and SHA-256 of every file that it mentions.

    A finished run must have its weights.

    Raises:
        ZooError: where a place cannot be reached or read; that is not damage.
    """
    runs = {run.id: run for run in registry.runs()}
    found = Verified(len(runs), faults=registry.database.faults())
    kinds: dict[str, set[str]] = defaultdict(set)
    files: dict[tuple[str, int], str] = {}  # a state belongs to many runs
    for kept in registry.every_checkpoint():
        kinds[kept.run_id].add(kept.kind)
        what = "its state of training" if kept.kind == "state" else f"its {kept.kind} weights"
        files.setdefault((kept.sha256, kept.size), f"{runs[kept.run_id].owner}, {what}")
    states = {kept.sha256 for kept in registry.every_checkpoint() if kept.kind == "state"}
    for (sha256, size), owner in files.items():
        found.files += 1
        try:
            (registry.states if sha256 in states else registry.blobs).get(sha256, size, owner)
            found.size += size
        except IntegrityError as error:
            found.faults.append(str(error))
    for run in runs.values():
        if run.status == "finished" and kinds[run.id].isdisjoint(OUTCOMES):
            found.faults.append(f"{run.owner}: is finished, however without weights")
    return found


def collect(
    registry: Registry, *, grace_s: float = GRACE_S, dry_run: bool = False
) -> list[Garbage]:
    """Remove files that nothing refers to and tell which they were; ``dry_run`` removes none.

    What is younger than ``grace_s`` stays, because it may be about to be referred to, and so does
    what belongs to a run that somebody works on.  While anybody works on any run, unfinished files
    stay for an hour at least, whatever ``grace_s`` is: they may be being written.
    """
    now, told = time.time(), []
    holders = registry.holders([run.id for run in registry.runs()]).values()
    working = not all(holder.is_gone for holder in holders)
    unfinished_s = max(grace_s, GRACE_S) if working else grace_s
    for blobs, what in ((registry.blobs, "weights"), (registry.states, "state of training")):
        for stray in blobs.strays():
            if now - stray.modified > unfinished_s:
                told.append(
                    Garbage(stray.path.name, "unfinished", stray.size, now - stray.modified)
                )
                if not dry_run:
                    stray.path.unlink(missing_ok=True)
        old = [entry for entry in blobs.entries() if now - entry.modified > grace_s]
        for entry in _loose(registry, blobs, old):
            told.append(Garbage(entry.sha256, what, entry.size, now - entry.modified))
            if not dry_run:
                blobs.remove(entry.sha256)
    return told


def rebuild(url: str, place: str | Path, *, dry_run: bool = False) -> Rebuilt:
    """Enter what the headers of the files tell into the catalogue, where it is not there already.

    Runs come back with their identifiers, outcomes, histories and weights; lost are those without
    weights, and states of training.  A damaged SQLite file is set aside, never removed.

    Args:
        url: the catalogue; it is made where there is none.
        place: where the files are.
        dry_run: only tell what would be entered.
    """
    done = Rebuilt()
    told = _told(open_blobs(place), done.faults)
    try:
        with Registry(url, place, create=not dry_run) as registry:
            damaged = bool(registry.database.faults())
            if not damaged:
                _enter(registry, told, done, dry_run)
    except IntegrityError:
        damaged = True
    except NotFoundError:  # a dry run makes none
        done.runs = [run for run, _, _ in told]
        return done
    if damaged and dry_run:
        done.runs = [run for run, _, _ in told]
    elif damaged:
        done.set_aside = backend(url).set_aside()
        with Registry(url, place) as registry:
            _enter(registry, told, done, dry_run)
    return done


def _loose(registry: Registry, blobs: Blobs, entries: Sequence[Entry]) -> list[Entry]:
    """Keep the files that the catalogue does not mention and that nobody can be about to."""
    mentioned = _mentioned(registry)
    runs_of = {entry: _runs_of(blobs, entry) for entry in entries if entry.sha256 not in mentioned}
    held = registry.holders({run_id for run_ids in runs_of.values() for run_id in run_ids})
    busy = {run_id for run_id, holder in held.items() if not holder.is_gone}
    mentioned = _mentioned(registry)  # once more: who holds a run no longer has mentioned its files
    return [
        entry
        for entry, run_ids in runs_of.items()
        if entry.sha256 not in mentioned and not busy.intersection(run_ids)
    ]


def _mentioned(registry: Registry) -> set[str]:
    return {kept.sha256 for kept in registry.every_checkpoint()}


def _runs_of(blobs: Blobs, entry: Entry) -> list[str]:
    try:
        card = header(blobs.get(entry.sha256, entry.size, entry.sha256))
    except ZooError:  # damaged, and nobody's
        return []
    return [str(run_id) for run_id in card.get("runs") or [card.get("id", "")]]


Told = tuple[Run, list[Checkpoint], list[dict[str, Any]]]  # a run, its weights, its epochs


def _told(blobs: Blobs, faults: list[str]) -> list[Told]:
    """Read the headers of all files; return what they tell of runs, oldest first."""
    cards: dict[str, list[tuple[dict[str, Any], Entry]]] = defaultdict(list)
    for entry in sorted(blobs.entries(), key=lambda entry: entry.modified):
        try:
            card = header(blobs.get(entry.sha256, entry.size, entry.sha256[:12]), entry.sha256[:12])
        except ZooError as error:
            faults.append(str(error))
            continue
        cards[str(card.get("id", ""))].append((card, entry))
    for _, entry in cards.pop("", []):
        faults.append(f"{entry.sha256[:12]}: its header does not tell whose it is")
    told = []
    for run_id, found in cards.items():
        try:
            told.append(_of_run(found))
        except (ValidationError, KeyError, TypeError):
            faults.append(f"run {run_id[:12]!r}: the header of its file is not that of a run")
    return sorted(told, key=lambda each: each[0].created_at)


def _of_run(found: Sequence[tuple[dict[str, Any], Entry]]) -> Told:
    """Join what the files of one run tell; of two of a kind the younger counts."""
    last, entry = found[-1]
    for card, its_entry in found:
        if card["checkpoint"] in OUTCOMES:
            last, entry = card, its_entry
    over = last["status"] in DONE
    facts = {name.name: last[name.name] for name in fields(Run)}
    facts |= {"status": last["status"] if over else "interrupted"}
    facts |= {"finished_at": _iso(entry) if over else None}
    run = TypeAdapter(Run).validate_python(facts)
    kept = {}
    for card, entry in found:
        key = (card["checkpoint"], card["epoch"] if card["checkpoint"] in SEVERAL else None)
        kept[key] = Checkpoint(
            run_id=run.id,
            kind=card["checkpoint"],
            sha256=entry.sha256,
            size=entry.size,
            epoch=card["epoch"],
            source=card.get("source", "weights"),
            metrics=card.get("checkpoint_metrics", card["metrics"]),
            created_at=_iso(entry),
        )
    history = last.get("history", {})
    epochs = [dict(zip(history, row, strict=True)) for row in zip(*history.values(), strict=True)]
    return run, list(kept.values()), [{"run_id": run.id, **epoch} for epoch in epochs]


def _enter(registry: Registry, told: Sequence[Told], done: Rebuilt, dry_run: bool) -> None:
    """Enter runs that are not there yet, parents first, whatever the clocks said of their age."""
    there = set(registry.by_id(run.id for run, _, _ in told))
    waiting = {run.id: (run, kept, history) for run, kept, history in told if run.id not in there}
    while waiting:
        ready = [it for it in waiting.values() if waiting.keys().isdisjoint(it[0].parents)]
        for run, kept, history in ready or [*waiting.values()]:  # headers that lie make a circle
            del waiting[run.id]
            parents = tuple(parent for parent in run.parents if parent in there)
            if lost := set(run.parents).difference(parents):
                told_lost = ", ".join(sorted(lost))
                done.faults.append(f"{run.owner}: of its parents {told_lost} are lost")
            run = replace(run, parents=parents)
            if dry_run or registry.adopt(run, kept, history):
                there.add(run.id)
                done.runs.append(run)
            else:
                done.faults.append(f"{run.owner}: another run of its name and settings is there")


def _iso(entry: Entry) -> str:
    return datetime.fromtimestamp(entry.modified, UTC).isoformat(timespec="milliseconds")
