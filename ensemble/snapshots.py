"""Checkpoints of a training as members, and the members that a product has.

G. Huang et al., Snapshot Ensembles: Train 1, Get M for Free, ICLR 2017, arXiv:1704.00109: models
of one training, taken at several epochs, are pooled like models of their own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ensemble.entries import pool_entry
from ensemble.errors import EmptyError, OptionError, nearest
from zoo.errors import UnsafeFileError
from zoo.registry import Checkpoint, Registry, Run
from zoo.registry.records import CheckpointKind

KINDS: Mapping[str, tuple[CheckpointKind, ...]] = {"epoch": ("epoch",), "top": ("best", "top")}


@dataclass(frozen=True, kw_only=True)
class Snapshot(Run):
    """A run as it was at one of its epochs; ``metrics`` and ``best_epoch`` are those of then."""

    checkpoint: Checkpoint

    @property
    def label(self) -> str:
        """The run's reference, and the epoch."""
        return f"{super().label} at epoch {self.checkpoint.epoch}"


def snapshots(registry: Registry, runs: Sequence[Run], kind: Any) -> list[Run]:
    """Take the checkpoints of runs as members, the earliest first.

    Args:
        registry: where the runs are.
        runs: finished models.
        kind: ``epoch`` for those of every so many epochs (``keep.every``), ``top`` for those of the
            best epochs (``keep.top``).

    Raises:
        OptionError: an unknown kind.
        EmptyError: a run that has none.
    """
    if not isinstance(kind, str) or kind not in KINDS:
        raise OptionError(f"no snapshots are called {kind!r}{nearest(str(kind), KINDS)}")
    found: list[Run] = []
    for run in runs:
        kept = [c for c in registry.checkpoints(run.id) if c.kind in KINDS[kind]]
        if len(kept) < (2 if kind == "top" else 1):
            setting = "keep.every" if kind == "epoch" else "keep.top"
            raise EmptyError(
                f"snapshots are checkpoints of training, however {run.label} has none of them; "
                f"train it with --set {setting}=5"
            )
        found += [_snapshot(run, c) for c in sorted(kept, key=lambda c: c.epoch or 0)]
    return found


def origin(run: Run) -> str:
    """Return the identifier under which the registry knows a member."""
    return run.checkpoint.run_id if isinstance(run, Snapshot) else run.id


def trained_epochs(members: Sequence[Run]) -> int:
    """Count the epochs that trained members, each training once."""
    return sum({origin(run): run.epochs or 0 for run in members}.values())


def weights_of(registry: Registry, run: Run) -> dict[str, Tensor]:
    """Load a member's weights.

    Raises:
        NotFoundError, IntegrityError: as :meth:`Registry.load`.
    """
    if isinstance(run, Snapshot):
        return registry.load(run.checkpoint.run_id, run.checkpoint.kind, run.checkpoint.epoch)
    return registry.load(run.id, "merged" if run.kind == "weights" else "best")


def described(members: Sequence[Run]) -> dict[str, Any]:
    """Write which members a product has, for its settings; :func:`members_of` reads it."""
    told: dict[str, Any] = {"used": [origin(run) for run in members]}
    if any(isinstance(run, Snapshot) for run in members):
        told["checkpoints"] = [
            [run.checkpoint.kind, run.checkpoint.epoch] if isinstance(run, Snapshot) else None
            for run in members
        ]
    return told


def members_of(registry: Registry, run: Run) -> list[Run]:
    """Return the members that a pool runs, in the order of its weights.

    Any other run is a pool of one: itself.

    Raises:
        EmptyError: where a checkpoint is not there any more.
        UnsafeFileError: where the entry is damaged.
    """
    if run.kind != "predictions":
        return [run]
    entry = pool_entry(run)
    known = registry.by_id(entry.used)
    members = []
    for key, place in zip(entry.used, entry.checkpoints or [None] * len(entry.used), strict=True):
        if key not in known:
            raise UnsafeFileError(f"{run.owner}: is damaged: not all of its members are there")
        member = known[key]
        if place is not None:
            kind, epoch = place
            there = [c for c in registry.checkpoints(key) if (c.kind, c.epoch) == place]
            if not there:
                raise EmptyError(
                    f"{run.label} needs the {kind!r} weights of {member.label} at epoch {epoch}, "
                    "however they are not there any more; combine anew"
                )
            member = _snapshot(member, there[0])
        members.append(member)
    return members


def _snapshot(run: Run, checkpoint: Checkpoint) -> Snapshot:
    then = {"id": f"{run.id}:{checkpoint.kind}:{checkpoint.epoch}", "checkpoint": checkpoint}
    then |= {"metrics": checkpoint.metrics, "best_epoch": checkpoint.epoch}
    return Snapshot(**{**vars(run), **then})
