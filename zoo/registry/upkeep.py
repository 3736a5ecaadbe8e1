"""Looking after a registry: what is damaged, what nothing refers to, a catalogue made anew.

The catalogue knows the digest of every file, and every file tells in its header whose it is, so
that each can be checked against the other.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from zoo.errors import IntegrityError, NotFoundError, UnsafeFileError, UsageError, ZooError
from zoo.registry.blobs import Blobs, Entry, open_blobs
from zoo.registry.checking import check_epochs, checkpoints_of, run_of
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
    runs, checkpoints = registry.everything()
    found = Verified(len(runs), faults=registry.database.faults())
    owners = {run.id: run.owner for run in runs}
    kinds: dict[str, set[str]] = defaultdict(set)
    files: dict[File, str] = {}  # a state belongs to many runs
    for kept in checkpoints:
        kinds[kept.run_id].add(kept.kind)
        what = "its state of training" if kept.kind == "state" else f"its {kept.kind} weights"
        files.setdefault(_file(kept), f"{owners.get(kept.run_id, kept.run_id)}, {what}")
    faults: dict[File, str] = {}
    for (is_state, sha256, size), owner in files.items():
        found.files += 1
        try:
            (registry.states if is_state else registry.blobs).get(sha256, size, owner)
            found.size += size
        except IntegrityError as error:
            faults[is_state, sha256, size] = str(error)
    # A state of training is removed when the next one is saved: look once more what is mentioned.
    mentioned = set(map(_file, registry.every_checkpoint())) if faults else set()
    found.faults += [fault for file, fault in faults.items() if file in mentioned]
    for run in runs:
        if run.status == "finished" and kinds[run.id].isdisjoint(OUTCOMES):
            found.faults.append(f"{run.owner}: is finished, however without weights")
    return found


def collect(
    registry: Registry,
    *,
    grace_s: float = GRACE_S,
    dry_run: bool = False,
    say: Callable[[str], None] = lambda text: None,
) -> list[Garbage]:
    """Remove files that nothing refers to and tell which they were; ``dry_run`` removes none.

    What is younger than ``grace_s`` stays, because it may be about to be referred to, and so does
    what belongs to a run that somebody works on.  While anybody works on any run, unfinished files
    stay for an hour at least, whatever ``grace_s`` is: they may be being written.  Files of runs
    that this catalogue does not know stay: they are of another catalogue, or of a lost one.

    Args:
        registry: what is looked after.
        grace_s: in seconds.
        dry_run: only tell what would be removed.
        say: is told what stays for another reason than its age.
    """
    now, told = time.time(), []
    working = not all(holder.is_gone for holder in registry.holders().values())
    unfinished_s = max(grace_s, GRACE_S) if working else grace_s
    foreign: dict[Entry, str] = {}
    for blobs, what in ((registry.blobs, "weights"), (registry.states, "state of training")):
        for stray in blobs.strays():
            if now - stray.modified > unfinished_s and (dry_run or _unlinked(stray.path, say)):
                age_s = now - stray.modified
                told.append(Garbage(stray.path.name, "unfinished", stray.size, age_s))
        old = [entry for entry in blobs.entries() if now - entry.modified > grace_s]
        loose, others = _loose(registry, blobs, old)
        foreign |= others
        for entry in loose:
            if dry_run or blobs.remove(entry.sha256, since=entry.modified):
                told.append(Garbage(entry.sha256, what, entry.size, now - entry.modified))
            else:
                say(f"{entry.sha256} stays: it was just written anew, or may not be removed")
    if foreign:
        size = sum(entry.size for entry in foreign)
        say(
            f"{len(foreign)} files, {size:,} bytes, stay: they are of runs that this catalogue does"
            f" not know, such as {min(foreign.values())[:12]}; either of another catalogue at this"
            " place, or rebuild brings them back"
        )
    return told


def rebuild(url: str, place: str | Path, *, dry_run: bool = False) -> Rebuilt:
    """Enter what the headers of the files tell into the catalogue, where it is not there already.

    Runs come back with their identifiers, outcomes, histories and weights; lost are those without
    weights, and states of training.  A damaged SQLite file is set aside, never removed.

    Args:
        url: the catalogue; it is made where there is none.
        place: where the files are.
        dry_run: only tell what would be entered.

    Raises:
        NotFoundError: where there are no files.
    """
    done = Rebuilt()
    blobs = open_blobs(place)
    told = _told(blobs, done.faults)
    if not told and not done.faults:
        raise NotFoundError(f"{blobs.place} holds no weights; name their place with --blobs")
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


File = tuple[bool, str, int]  # whether it is a state of training, its SHA-256, its bytes


def _file(kept: Checkpoint) -> File:
    return kept.kind == "state", kept.sha256, kept.size


def _unlinked(path: Path, say: Callable[[str], None]) -> bool:
    """Remove an unfinished file; say whether that went well."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        say(f"{path} stays: it cannot be removed: {error.strerror}")
        return False
    return True


def _loose(
    registry: Registry, blobs: Blobs, entries: Sequence[Entry]
) -> tuple[list[Entry], dict[Entry, str]]:
    """Keep the files that the catalogue does not mention and that nobody can be about to.

    Returns:
        those, and apart from them the files of runs that it does not know, with one of these runs.
    """
    mentioned = _mentioned(registry)
    runs_of = {entry: _runs_of(blobs, entry) for entry in entries if entry.sha256 not in mentioned}
    named = {run_id for run_ids in runs_of.values() for run_id in run_ids}
    known = registry.by_id(named).keys()
    busy = {key for key, holder in registry.holders(named).items() if not holder.is_gone}
    mentioned = _mentioned(registry)  # once more: who holds a run no longer has mentioned its files
    free = {
        entry: run_ids
        for entry, run_ids in runs_of.items()
        if entry.sha256 not in mentioned and not busy.intersection(run_ids)
    }
    foreign = {entry: ids[0] for entry, ids in free.items() if ids and known.isdisjoint(ids)}
    return [entry for entry in free if entry not in foreign], foreign


def _mentioned(registry: Registry) -> set[str]:
    return {kept.sha256 for kept in registry.every_checkpoint()}


def _runs_of(blobs: Blobs, entry: Entry) -> list[str]:
    try:
        card = header(blobs.get(entry.sha256, entry.size, entry.sha256))
    except ZooError:  # damaged, and nobody's
        return []
    told = card.get("runs", [card["id"]] if "id" in card else [])
    return [str(run_id) for run_id in told] if isinstance(told, list) else []


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
        except UnsafeFileError as error:
            faults.append(str(error))
        except (KeyError, TypeError, AttributeError, ValueError):  # a header may hold anything
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
    run = run_of(facts)
    kept = {}
    for card, entry in found:
        key = (card["checkpoint"], card["epoch"] if card["checkpoint"] in SEVERAL else None)
        kept[key] = {
            "run_id": run.id,
            "kind": card["checkpoint"],
            "sha256": entry.sha256,
            "size": entry.size,
            "epoch": card["epoch"],
            "source": card.get("source", "weights"),
            "metrics": card.get("checkpoint_metrics", card["metrics"]),
            "created_at": _iso(entry),
        }
    history = last.get("history", {})
    epochs = [
        {"run_id": run.id, **dict(zip(history, row, strict=True))}
        for row in zip(*history.values(), strict=True)
    ]
    check_epochs(epochs, run.owner)
    return run, checkpoints_of(list(kept.values()), run.owner), epochs


def _enter(registry: Registry, told: Sequence[Told], done: Rebuilt, dry_run: bool) -> None:
    """Enter runs that are not there yet, parents first, whatever the clocks said of their age."""
    there = {run.id for run in registry.runs()}  # all: each of them must be readable
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
            try:
                entered = dry_run or registry.adopt(run, kept, history)
            except UsageError as error:  # such as text that the database cannot hold
                done.faults.append(f"{run.owner}: {error}")
                continue
            if entered:
                there.add(run.id)
                done.runs.append(run)
            else:
                done.faults.append(f"{run.owner}: another run of its name and settings is there")


def _iso(entry: Entry) -> str:
    return datetime.fromtimestamp(entry.modified, UTC).isoformat(timespec="milliseconds")
