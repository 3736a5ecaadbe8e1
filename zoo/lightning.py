"""A callback of PyTorch Lightning that records what a ``fit`` ended with in the registry.

It takes notes in memory and writes once, at the end: training waits for nothing.  Of Lightning's
two packages, ``lightning`` brings ``pytorch-lightning`` along, and a Trainer of either takes
callbacks of the other.
"""

import math
import os
import re
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

try:
    from pytorch_lightning import Callback, LightningModule, Trainer
except ModuleNotFoundError:
    raise ModuleNotFoundError(
        "zoo.lightning needs Lightning, however it is not installed; "
        "pip install 'zoo-ensemble[lightning]'"
    ) from None

from zoo.errors import UsageError, ZooError
from zoo.exchange.arriving import register
from zoo.registry import Registry, Run
from zoo.registry.records import finite
from zoo.settings import NAME_RULE, is_name

if TYPE_CHECKING:
    from torch import Tensor

RENAMED = {"train_acc": "train_accuracy", "val_acc": "val_accuracy"}
COLUMNS = {  # of the history, and the figures they hold
    "train_loss": "train_loss",
    "train_metric": "train_accuracy",
    "val_loss": "val_loss",
    "val_metric": "val_accuracy",
}


@dataclass
class Notes:
    """What was seen of one ``fit``.

    Attributes:
        began: when, by the monotonic clock.
        ended: the last epoch, until it is part of the history.
        validated: what was measured in the epoch that runs.
        history: epochs, as :func:`zoo.register` takes them.
        figures: all that was logged by the end of each.
        best: the place in the history of the best epoch, where one is watched for.
        state: its weights.
    """

    began: float
    ended: dict[str, Any] = field(default_factory=dict)
    validated: dict[str, float] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    figures: list[dict[str, float]] = field(default_factory=list)
    best: int | None = None
    state: "dict[str, Tensor]" = field(default_factory=dict)

    def close(self, logged: Mapping[str, float]) -> bool:
        """Add the epoch to the history if one has ended; tell whether that is so."""
        if not self.ended:
            return False
        # Figures of validation that stand may be those of an earlier epoch.
        trained = {key: value for key, value in logged.items() if not key.startswith("val_")}
        figures = trained | self.validated
        row = {column: figures[name] for column, name in COLUMNS.items() if name in figures}
        self.history.append(self.ended | row)
        self.figures.append(figures)
        self.ended, self.validated = {}, {}
        return True

    def is_best(self, monitor: str, mode: str) -> bool:
        """Tell whether the last epoch of the history is the best one until now."""
        score = self.figures[-1].get(monitor, math.nan)
        if self.best is None:
            return math.isfinite(score)
        before = self.figures[self.best][monitor]
        return score > before if mode == "max" else score < before


class RegistryCheckpoint(Callback):  # type: ignore[misc]  # Lightning may not be there
    """Makes a run of every ``fit``: weights, figures, history and hyper-parameters.

    The weights are those of the best epoch where a ``ModelCheckpoint`` has a monitor, by its mode,
    otherwise the last ones.  A ``fit`` that an exception cuts off, Ctrl-C too, is recorded with
    what it came to and what cut it off; on several ranks without a monitor it is not, because the
    others may be gone.  Nor is one in which no epoch ended, or of ``fast_dev_run``.  Rank zero
    records.

    What makes recording impossible is an error where it is known at the start.  At the end it is a
    warning, so that nothing else is lost by it.

    Figures have the names under which they were logged, with ``_`` for other separators.  Those
    called ``train_loss``, ``train_accuracy``, ``val_loss`` and ``val_accuracy`` make the history;
    all others are kept of the epoch whose weights are.

    Attributes:
        run: what the last ``fit`` became; None where it has not ended or left nothing, and on other
            ranks.
    """

    def __init__(
        self,
        name: str,
        *,
        registry: str = "sqlite:///checkpoints/registry.db",
        blobs: str | None = None,
        seed: int | None = None,
        model: Mapping[str, Any] | None = None,
        rename: Mapping[str, str] | None = None,
    ) -> None:
        """Choose what the runs are called and where they go.

        Args:
            name: of the runs; the second ``fit`` of one name and seed becomes ``NAME/fit=2``.
            registry: the URL of the catalogue.
            blobs: where weights are; by default beside a SQLite catalogue.
            seed: what tells runs of one name apart; by default that of ``seed_everything``.
            model: ``name`` and options of a model of the catalogue, where the weights are of one.
            rename: names under which figures are logged, and what they are to be called, such as
                ``{"valid/loss": "val_loss"}``; ``train_acc`` and ``val_acc`` are known.
        """
        self.run: Run | None = None
        self._name, self._model, self._seed = name, model, seed
        self._places = registry, blobs
        self._renamed = RENAMED | dict(rename or {})
        self._notes: Notes | None = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check that there is a place to record in.

        Raises:
            UsageError: where the name cannot be one, or is that of runs whose data are known; where
                the weights are scattered over ranks.
            ZooError: where the registry cannot be used.
        """
        self.run = self._notes = None
        whole = trainer.strategy.lightning_module_state_dict.__qualname__
        if whole != "Strategy.lightning_module_state_dict":
            raise UsageError(
                "weights are recorded by one rank that has them all, however "
                f"{type(trainer.strategy).__name__} scatters them; import its checkpoint instead"
            )
        if trainer.fast_dev_run or not trainer.is_global_zero:
            return
        if not is_name(self._name):
            raise UsageError(f"a name has {NAME_RULE}, however it is {self._name[:200]!r}")
        with Registry(*self._places) as registry:
            for other in registry.named(self._name):
                if other.known_data:
                    raise UsageError(
                        f"the runs of one name share their data, however {other.owner} learnt from "
                        f"{other.data_ref} and a module of Lightning from data unknown; choose "
                        "another name"
                    )
        self._notes = Notes(time.monotonic())

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note the epoch before, whose figures are complete only now."""
        self._close(trainer, pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note what was measured, unless it is the check before training."""
        if self._notes and not trainer.sanity_checking:
            told = self._logged(trainer)
            self._notes.validated = {k: told[k] for k in told if k.startswith("val_")}

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note the time, and the learning rate of the last step."""
        if self._notes:
            seconds = time.monotonic() - self._notes.began
            self._notes.ended = {"epoch": trainer.current_epoch + 1, "seconds": seconds}
            if trainer.optimizers:
                self._notes.ended["lr"] = float(trainer.optimizers[0].param_groups[0]["lr"])

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Record the fit."""
        self._close(trainer, pl_module)
        self._record(trainer, pl_module, None)

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Record what the fit came to."""
        self._close(trainer, pl_module)
        if self._notes and not self._notes.state and trainer.world_size > 1:
            self._notes = None
        told = " ".join(f"{type(exception).__name__}: {exception}".split()).rstrip(": ")
        self._record(trainer, pl_module, f"training was cut off by {told[:300]}")

    def _close(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note an epoch that has ended, and its weights where it is the best one."""
        notes = self._notes
        if notes and notes.close(self._logged(trainer)):
            for kept in trainer.checkpoint_callbacks:
                monitor = getattr(kept, "monitor", None)
                if monitor and notes.is_best(self._called(monitor), kept.mode):
                    notes.best, notes.state = len(notes.history) - 1, copied(pl_module)
                if monitor:
                    break

    def _logged(self, trainer: Trainer) -> dict[str, float]:
        """Return the figures as they stand, each under one name."""
        told = trainer.callback_metrics  # what has a mean of the epoch has its last step, twice
        names = [key for key in told if not key.endswith("_step") or key[:-5] not in told]
        names.sort(key=lambda key: key.endswith("_epoch"))  # it has the last word
        return {self._called(key): float(told[key]) for key in names}

    def _called(self, logged: str) -> str:
        name = re.sub(r"\W+", "_", logged.removesuffix("_epoch"))
        return self._renamed.get(logged, self._renamed.get(name, name))

    def _record(self, trainer: Trainer, pl_module: LightningModule, fault: str | None) -> None:
        """Enter a run with the best weights, or else the last ones."""
        notes, self._notes = self._notes, None
        if notes is None or not notes.history:
            return
        place = len(notes.history) - 1 if notes.best is None else notes.best
        hparams = {**getattr(trainer.datamodule, "hparams", {}), **pl_module.hparams}
        seed = self._seed
        if seed is None and os.environ.get("PL_GLOBAL_SEED", "").isdecimal():
            seed = int(os.environ["PL_GLOBAL_SEED"])
        try:
            with Registry(*self._places) as registry:
                before = sum(run.seed == seed for run in registry.named(self._name))
                self.run = register(
                    registry,
                    notes.state or pl_module.state_dict(),
                    self._name,
                    model=self._model,
                    metrics=finite(notes.figures[place]),
                    seed=seed,
                    varied={"fit": before + 1} if before else {},
                    settings={"hparams": plain(hparams)},
                    history=notes.history,
                    epoch=notes.history[place]["epoch"],
                    fault=fault,
                ).run
        except ZooError as error:
            warnings.warn(f"this fit is not recorded: {error}", stacklevel=2)


def copied(module: LightningModule) -> "dict[str, Tensor]":
    """Copy a module's state to the CPU."""
    return {key: leaf.detach().to("cpu", copy=True) for key, leaf in module.state_dict().items()}


def plain(value: Any) -> Any:
    """Return a value as JSON has it; what it has not, as text.

    >>> plain({"layers": (3, 4), "loss": print, "limit": float("inf")})
    {'layers': [3, 4], 'loss': '<built-in function print>', 'limit': 'inf'}
    """
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    return value if isinstance(value, bool | int | str | None) else str(value)[:200]
