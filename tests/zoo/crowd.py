"""Members to train, and a plain loop of PyTorch that says what each of them must become.

The loop is one module, ``torch.optim``, one member; of this project it takes the order of rows, the
shares of mixup, the factor of the learning rate and the rule of stopping, each tested by itself.
"""

import copy
import math
import os
from collections import deque
from dataclasses import replace
from functools import cache

import torch
import torch.nn.functional as F  # noqa: N812  # its name everywhere
from sklearn.metrics import balanced_accuracy_score
from torch.optim.swa_utils import update_bn

from zoo import models
from zoo.config import RunConfig
from zoo.data import Part, load
from zoo.fit import Fit
from zoo.reports import Member
from zoo.schedules import factor
from zoo.sections import DataConfig
from zoo.slots import Slot, mixing, order
from zoo.stopping import EarlyStopping
from zoo.weighting import class_weights

DEVICE = os.environ.get("ZOO_TEST_DEVICE", "cpu")  # cuda: the same tests on a GPU
torch.backends.cudnn.allow_tf32 = False  # 10 bits of fraction are not enough to compare by
CLOSE = {"rtol": 1e-3, "atol": 1e-4}
TORCH = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}


@cache
def data(ref, rows=None):
    """Load a data set, perhaps with fewer training rows."""
    loaded = load(DataConfig(ref=ref))
    if rows is None:
        return loaded
    train, val = loaded.train, loaded.val
    return replace(
        loaded, train=Part(train.x[:rows], train.y[:rows]), val=Part(val.x[:60], val.y[:60])
    )


def settings(ref="iris", **changes):
    """Return settings of a short training; ``changes`` are sections."""
    base = {
        "data": {"ref": ref},
        "model": {"name": "mlp", "hidden": [8]},
        "optim": {"name": "adam", "lr": 0.03},
        "train": {"epochs": 6, "batch_size": 32},
        "stop": {"patience": 3},
    }
    for section, values in changes.items():
        fresh = section in ("model", "optim") and "name" in values
        base[section] = dict(values) if fresh else {**base.get(section, {}), **values}
    return RunConfig.model_validate(base)


def members(*configs):
    """Number the settings as members m0, m1 ... with seeds 0, 1 ..."""
    return [Member(f"m{k}", config, k) for k, config in enumerate(configs)]


def train(crowd, source, **options):
    """Train members to their end; return (epochs by key, ends by key)."""
    if "choice" not in options:
        options.setdefault("engine", "stacked")
    options.setdefault("device", DEVICE)
    history = {member.key: [] for member in crowd}
    ends = {}
    for happened in Fit(crowd, source, **options):
        for epoch in happened.epochs:
            history[epoch.key].append(epoch)
        for end in happened.finished:
            assert end.key not in ends
            ends[end.key] = end
    assert ends.keys() == history.keys()
    for key, end in ends.items():
        assert [epoch.epoch for epoch in history[key]] == list(range(1, end.epochs + 1))
    return history, ends


def figures(module, x, y, task, units=None):
    """Return loss, metric in the user's unit and, for classes, balanced accuracy, by libraries."""
    with torch.no_grad():
        outputs = module.eval()(x)
    loss, score = _loss(outputs, y, task).item(), _score(outputs, y, task, units).item()
    if task == "regression":
        return loss, math.sqrt(score)
    if task == "multilabel":
        return loss, score
    return loss, score, balanced_accuracy_score(y, outputs.argmax(1))


def solo(member, source):
    """Train one member by a plain loop.

    Returns:
        The history, a dictionary of figures per epoch; the number of the best epoch; its state.
    """
    config, task, units = member.config, source.task, source.units()
    wanted, keep = config.train, config.keep
    module = models.build(
        config.model.name, config.model.options, source.shape, source.outputs, member.seed
    )
    optimiser = _optimiser(config.optim, module)
    averages = _Averages(keep, wanted.epochs, module)
    watchers = [
        EarlyStopping(
            monitor.direction,
            monitor.patience,
            monitor.min_delta,
            relative=monitor.relative,
            start_from_epoch=monitor.start_from_epoch,
            threshold=math.nan if monitor.threshold is None else monitor.threshold,
        )
        for monitor in config.stop.monitors
    ]
    history, losses, state = [], [], None
    for epoch in range(1, wanted.epochs + 1):
        slot = Slot(member, epoch=epoch - 1)
        batches = order(slot, len(source.train)).split(wanted.batch_size)
        batches = [index for index in batches if len(index) > 1 or wanted.batch_size == 1]
        mix = mixing([slot], len(batches))
        total = dict.fromkeys(("train_loss", "train_score", "grad_norm"), 0.0)
        for step, index in enumerate(batches):
            share = 1.0 if mix is None else mix[step, 0].item()
            x, y = source.train.x[index], source.train.y[index]
            outputs = module.train()(share * x + (1 - share) * x.flip(0))
            asked = wanted.label_smoothing, class_weights(wanted, source)
            loss = share * _loss(outputs, y, task, *asked)
            loss = loss + (1 - share) * _loss(outputs, y.flip(0), task, *asked)
            optimiser.zero_grad()
            (loss + _penalty(module, wanted)).backward()
            norm = torch.cat([p.grad.flatten() for p in module.parameters()]).norm()
            if wanted.clip_value:
                torch.nn.utils.clip_grad_value_(module.parameters(), wanted.clip_value)
            if wanted.clip_norm:
                torch.nn.utils.clip_grad_norm_(module.parameters(), wanted.clip_norm)
            done, count = epoch - 1 + step / len(batches), 1 / len(batches)
            rate = factor(config.schedule, done, wanted.epochs, losses, count)
            for group in optimiser.param_groups:
                group["lr"] = config.optim.lr * rate
            optimiser.step()
            averages.after_step(module)
            score = _score(outputs, y, task, units)
            parts = {"train_loss": loss, "train_score": score, "grad_norm": norm}
            rows = sum(map(len, batches))
            for name, value in parts.items():
                total[name] += value.item() * len(index) / rows
        averages.after_epoch(module, epoch)
        there = {"weights": module, **averages.modules(source.train.x)}
        val = {n: figures(m, source.val.x, source.val.y, task, units) for n, m in there.items()}
        losses.append(val["weights"][0])
        history.append({**total, "lr": config.optim.lr * rate, **val})
        seen = []
        for watcher, monitor in zip(watchers, config.stop.monitors, strict=True):
            column = {"loss": 0, "balanced_accuracy": 2}.get(monitor.metric, 1)
            pick = min if monitor.direction == "min" else max
            best = pick(val, key=lambda name: val[name][column])
            seen.append(watcher.update(val[best][column]))
            if len(seen) == 1 and seen[0].improved:
                state = copy.deepcopy(there[best].state_dict())
        if {"any": any, "all": all}[config.stop.when](said.stop for said in seen):
            break
    return history, watchers[0].best_epoch.item(), state


def agrees_with_solo(crowd, source, **options):
    """Check every member against the plain loop; return the numbers of epochs."""
    expected = {member.key: solo(member, source) for member in crowd}
    history, ends = train(crowd, source, **options)
    agree(history, ends, expected, source)
    return [ends[member.key].epochs for member in crowd]


def agree(history, ends, expected, source):
    """Check what members became against what :func:`solo` says of them."""
    for key, (told, best_epoch, state) in expected.items():
        end = ends[key]
        assert end.status == "finished"
        assert len(history[key]) == len(told)
        for got, figure in zip(history[key], told, strict=True):
            score = figure["train_score"]
            if source.task == "regression":
                score = math.sqrt(score)
            names = [name for name in figure if name in ("ema", "swa", "lawa")]
            balanced = [got.val_balanced_accuracy] * (got.val_balanced_accuracy is not None)
            pairs = [(got.val_loss, got.val_metric, *balanced)]
            pairs += [got.averages[name] for name in names]
            torch.testing.assert_close(
                torch.tensor([got.train_loss, got.train_metric, got.grad_norm, got.lr]),
                torch.tensor([figure["train_loss"], score, figure["grad_norm"], figure["lr"]]),
                **CLOSE,
            )
            theirs = [figure[name][: len(pairs[0])] for name in ("weights", *names)]
            torch.testing.assert_close(torch.tensor(pairs), torch.tensor(theirs), **CLOSE)
        assert end.best.epoch == best_epoch
        assert end.state.keys() == state.keys()
        for name in state:
            torch.testing.assert_close(end.state[name], state[name], **CLOSE)


def same_end(one, other, *, exact=True):
    """Check that two ends are those of the same member, seconds apart."""
    assert (one.status, one.epochs) == (other.status, other.epochs)
    assert (one.best is None) == (other.best is None)
    if one.best is None:
        assert one.state is other.state is None
        return
    assert one.best.epoch == other.best.epoch
    tolerance = {"rtol": 0, "atol": 0} if exact and DEVICE == "cpu" else CLOSE
    for name in ("train_loss", "train_metric", "val_loss", "val_metric", "lr", "grad_norm"):
        value = torch.tensor([getattr(end.best, name) for end in (one, other)])
        torch.testing.assert_close(value[0], value[1], **tolerance)
    for name in one.state:
        torch.testing.assert_close(one.state[name], other.state[name], **tolerance)
    assert [kept.kind for kept in one.kept] == [kept.kind for kept in other.kept]
    for mine, theirs in zip(one.kept, other.kept, strict=True):
        for name in mine.state:
            torch.testing.assert_close(mine.state[name], theirs.state[name], **tolerance)


def _optimiser(setting, module):
    """Return torch.optim's optimiser, biases and norms in a group of their own."""
    named = setting.model_dump(exclude={"name", "decay"})
    weights = [p for p in module.parameters() if p.ndim >= 2]
    rest = [p for p in module.parameters() if p.ndim < 2]
    decay = named["weight_decay"] if setting.decay == "all" else 0.0
    groups = [{"params": weights}, {"params": rest, "weight_decay": decay}]
    return TORCH[setting.name](groups, **named)


def _loss(outputs, y, task, smoothing=0.0, weights=None):
    if task == "regression":
        return F.mse_loss(outputs, y.reshape(outputs.shape))
    if task == "multilabel":
        soft = y * (1 - smoothing) + smoothing / 2
        return F.binary_cross_entropy_with_logits(outputs, soft, pos_weight=weights)
    knobs = {"label_smoothing": smoothing, "weight": weights, "reduction": "none"}
    return F.cross_entropy(outputs, y, **knobs).mean()


def _score(outputs, y, task, units):
    """Return what the metric averages; squared errors in the user's unit."""
    if task == "regression":
        values, targets = units.restore(outputs), units.restore(y, predicted=False)
        return F.mse_loss(values, targets.reshape(values.shape))
    right = (outputs > 0) == (y > 0) if task == "multilabel" else outputs.argmax(1) == y
    return right.reshape(len(y), -1).all(1).float().mean()


def _penalty(module, wanted):
    weights = [p for p in module.parameters() if p.ndim >= 2]
    absolute, squared = sum(p.abs().sum() for p in weights), sum((p * p).sum() for p in weights)
    return wanted.l1 * absolute + wanted.l2 * squared


class _Averages:
    """Averages of a module's parameters, kept as lists of what goes into them."""

    def __init__(self, keep, epochs, module):
        self.keep = keep
        self.begin = math.inf if keep.swa is None else keep.swa * epochs
        self.ema = copy.deepcopy(module)
        self.swa = []
        self.lawa = deque(maxlen=keep.lawa or 1)

    def after_step(self, module):
        decay = self.keep.ema or 0.0
        with torch.no_grad():
            for mean, value in zip(self.ema.parameters(), module.parameters(), strict=True):
                mean.mul_(decay).add_(value, alpha=1 - decay)

    def after_epoch(self, module, epoch):
        self.ema.load_state_dict({**module.state_dict(), **dict(self.ema.named_parameters())})
        self.lawa.append(copy.deepcopy(module))
        if epoch > self.begin:
            self.swa.append(copy.deepcopy(module))

    def modules(self, train_x):
        """Return those asked for and begun, with statistics of their own."""
        there = {}
        if self.keep.ema is not None:
            there["ema"] = copy.deepcopy(self.ema)
        for name in ("swa", "lawa"):
            collected = list(getattr(self, name))
            if getattr(self.keep, name) is not None and collected:
                there[name] = copy.deepcopy(collected[-1])
                columns = zip(*(m.parameters() for m in collected), strict=True)
                with torch.no_grad():
                    for mean, values in zip(there[name].parameters(), columns, strict=True):
                        mean.copy_(torch.stack(values).mean(0))
        for module in there.values():
            counters = {n: b.clone() for n, b in module.named_buffers() if b.dtype == torch.int64}
            update_bn([train_x], module)
            module.load_state_dict({**module.state_dict(), **counters})
        return there
