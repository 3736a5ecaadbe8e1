"""Which epoch of a member is its best, when it ends, and which weights are kept of it."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from zoo.config import RunConfig
from zoo.reports import Epoch, Finished, Kept, Source
from zoo.sections import Monitor
from zoo.slots import Slot
from zoo.stack import Stack
from zoo.state import TrainState
from zoo.stopping import Seen

WORSE = "stop.divergence was passed before any epoch could be the best"
NOT_FINITE = "the loss was not finite before any epoch could be the best; try a smaller optim.lr"
T = TypeVar("T", Tensor, float)
Figures = Mapping[Source, Tensor]  # (F, K), what is watched of the weights and of their averages
FIGURES = ("val_loss", "val_metric", "val_balanced_accuracy")  # of an epoch, in this order


@dataclass(frozen=True)
class Judged:
    """What an epoch was for K members.

    Attributes:
        improved: whose best epoch it is.
        stop: who has waited long enough, or reached what was asked for.
        diverged: who is lost.
        source: the weights, or which average of them, that were the best of the epoch.
    """

    improved: list[bool]
    stop: list[bool]
    diverged: list[bool]
    source: list[Source]


def judge(
    state: TrainState, configs: Sequence[RunConfig], val_FK: Figures, finite_K: Tensor
) -> Judged:
    """Show the epoch to every monitor, and keep the weights of the members that improved.

    The score of an epoch is that of the weights or of the best of their averages.

    Args:
        state: the members; its best weights are updated.
        configs: their settings.
        val_FK: validation figures, on the CPU; the weights' own first.
        finite_K: bool (K,), whose own figures are all finite.
    """
    names = list(val_FK)
    begun = [state.running[name].count_K > 0 for name in names if name != "weights"]
    usable_AK = finite_K & torch.stack([finite_K, *begun])
    seen: list[Seen] = []
    source_K = torch.zeros(len(state), dtype=torch.int64)
    for watcher, monitor in zip(state.stopping, configs[0].stop.monitors, strict=True):
        score_AK = torch.stack([_watched(monitor, val_FK[name]) for name in names]).double()
        loss_AK = (watcher.sign * score_AK).where(usable_AK & score_AK.isfinite(), torch.inf)
        loss_K, best_K = loss_AK.min(0)
        source_K = source_K if seen else best_K
        seen.append(watcher.update((watcher.sign * loss_K).where(loss_K.isfinite(), torch.nan)))
    for index, name in enumerate(names):
        better = (seen[0].improved & (source_K == index)).nonzero()[:, 0].tolist()
        state.improve(better, name)
    first = state.stopping[0]
    # Nobody waits longer than the monitor that decides, which must have had a best to keep.
    counts_K = first.epoch >= first.settings["start_from_epoch"]
    stops = torch.stack([said.stop for said in seen]) & counts_K
    all_K = torch.tensor([config.stop.when == "all" for config in configs])
    strict_K = torch.tensor([config.stop.check_finite for config in configs])
    lost_K = torch.stack([said.diverged for said in seen]).any(0)
    return Judged(
        seen[0].improved.tolist(),
        torch.where(all_K, stops.all(0), stops.any(0)).tolist(),
        (lost_K | (~finite_K & strict_K)).tolist(),
        [names[index] for index in source_K.tolist()],
    )


def begin(state: TrainState, k: int, slot: Slot, val: Sequence[float]) -> Epoch:
    """Let the trained weights that member ``k`` starts from be its first best, as epoch 0."""
    nan = (torch.nan, torch.nan, torch.nan)
    slot.best = epoch_of(slot, 0.0, nan, {"weights": val})
    for watcher, monitor in zip(state.stopping, slot.member.config.stop.monitors, strict=True):
        watcher.begin(k, _watched(monitor, val))
    state.improve([k], "weights")
    return slot.best


def epoch_of(
    slot: Slot, rate: float, train: Sequence[float], val: Mapping[Source, Sequence[float]]
) -> Epoch:
    """Collect the figures of a member's epoch.

    Args:
        slot: the member.
        rate: what its learning rate was multiplied by.
        train: loss, metric and gradient norm.
        val: what is watched of the weights, and of their averages.
    """
    train_loss, train_metric, grad_norm = train
    val_loss, val_metric, *extra = val["weights"]
    return Epoch(
        slot.member.key,
        slot.epoch,
        train_loss,
        train_metric,
        val_loss,
        val_metric,
        lr=slot.member.config.optim.lr * rate,
        grad_norm=grad_norm,
        seconds=slot.seconds,
        averages={name: figures for name, figures in val.items() if name != "weights"},
        val_balanced_accuracy=extra[0] if extra else None,
    )


def seen_as(epoch: Epoch, source: Source) -> Epoch:
    """Return the epoch with the figures of an average of its weights."""
    if source == "weights":
        return epoch
    figures: dict[str, Any] = dict(zip(FIGURES, epoch.averages[source], strict=False))
    return replace(epoch, source=source, **figures)


def keep(state: TrainState, k: int, slot: Slot, epoch: Epoch, source: Source) -> list[Kept]:
    """Remember the epoch where it is among the best; return the weights to be kept now."""
    asked, stop = slot.member.config.keep, slot.member.config.stop
    if asked.top > 1 and slot.epoch >= stop.start_from_epoch:
        shown = seen_as(epoch, source)

        def rank(epoch: Epoch) -> float:
            sign = 1 if stop.direction == "min" else -1
            figures: list[float] = [getattr(epoch, figure) for figure in FIGURES]
            return sign * _watched(stop, figures)

        if len(slot.top) < asked.top or rank(shown) < rank(slot.top[-1].epoch):
            fresh = Kept("top", shown, weights(state.source(source), k))
            ranked = sorted([*slot.top, fresh], key=lambda kept: rank(kept.epoch))
            slot.top = ranked[: asked.top]
    if asked.every and slot.epoch % asked.every == 0:
        return [Kept("epoch", epoch, weights(state.stack, k))]
    return []


def finish(state: TrainState, k: int, slot: Slot, epoch: Epoch, *, diverged: bool) -> Finished:
    """Return what is left of a member at its end; ``epoch`` is its last.

    A member without a best epoch has diverged, whatever its settings tolerate.
    """
    best, asked = slot.best, slot.member.config.keep
    others = [kept for kept in slot.top if best and kept.epoch.epoch != best.epoch]
    kept = others[: asked.top - 1]
    if best and state.best_optimiser:
        rows = {name: row[k].clone().cpu() for name, row in state.best_optimiser.items()}
        kept.append(Kept("optimiser", best, rows))
    if asked.last and not diverged and _finite(epoch):
        kept.append(Kept("last", epoch, weights(state.stack, k)))
    for name, average in state.running.items():
        if name in epoch.averages and not diverged and _finite(seen_as(epoch, name)):
            kept.append(Kept(name, seen_as(epoch, name), weights(average.stack, k)))
    return Finished(
        slot.member.key,
        "finished" if best and not diverged else "diverged",
        best,
        weights(state.best, k) if best else None,
        kept,
        slot.epoch,
        slot.seconds,
        "" if best else WORSE if _finite(epoch) else NOT_FINITE,
    )


def _finite(epoch: Epoch) -> bool:
    """Tell whether weights whose figures these are can be sound."""
    return math.isfinite(epoch.train_loss) and math.isfinite(epoch.val_loss)


def weights(members: Stack, k: int) -> dict[str, Tensor]:
    """Return a member's state dict, copied to the CPU."""
    return {name: value.cpu() for name, value in members.state(k).items()}


def _watched(monitor: Monitor, figures: Iterable[T]) -> T:
    """Pick what a monitor watches from loss, metric and perhaps balanced accuracy."""
    place = {"loss": 0, "balanced_accuracy": 2}.get(monitor.metric, 1)
    return list(figures)[place]
