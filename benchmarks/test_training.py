"""16 seeds of one model: :class:`zoo.fit.Fit` against the best plain PyTorch loop.

Both train the same models from the same initial weights for the same number of epochs on the same
rows, and evaluate as often.  Timed is all there is to it, the choice of the engine included.  What
is asserted is that both learn equally well; times are only reported, as ratios within one session.
"""

import time
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Line, Report
from plain import Task, best_threads, train
from pytest_benchmark.fixture import BenchmarkFixture
from sklearn.datasets import load_digits, make_classification

from zoo import models
from zoo.choice import described
from zoo.config import RunConfig
from zoo.data import Data, Part
from zoo.fit import Fit
from zoo.reports import Member

SEEDS = range(16)
LR = 3e-3


@dataclass(frozen=True)
class Case:
    """A model and how to train it; ``target`` is the least ratio aimed at."""

    model: str
    options: dict[str, Any]
    features: int
    classes: int
    batch_size: int
    epochs: int
    target: float


CASES = {
    "mlp 20-32-32-2, batch 32": Case("mlp", {"hidden": (32, 32)}, 20, 2, 32, 8, 7.0),
    "mlp 20-64-64-2, batch 128": Case("mlp", {"hidden": (64, 64)}, 20, 2, 128, 25, 3.0),
    "mlp 64-256-256-10, batch 512": Case("mlp", {"hidden": (256, 256)}, 64, 10, 512, 12, 0.95),
    "cnn on digits, batch 128": Case("cnn", {}, 64, 10, 128, 12, 0.95),
    "resnet on digits, batch 128": Case(
        "resnet", {"blocks": (1, 1), "width": 8}, 64, 10, 128, 6, 0.95
    ),
}


@cache
def data_of(name: str) -> Data:
    case = CASES[name]
    if case.model in ("cnn", "resnet"):
        pixels, labels = load_digits(return_X_y=True)
        x = torch.tensor(pixels, dtype=torch.float32).view(-1, 1, 8, 8) / 16
        rows = 1408
    else:
        pixels, labels = make_classification(
            4096 + 1024,
            case.features,
            n_informative=min(case.features, 16),
            n_redundant=0,
            n_classes=case.classes,
            class_sep=1.5,
            random_state=0,
        )
        x = torch.tensor(pixels, dtype=torch.float32)
        rows = 4096
    y = torch.tensor(labels, dtype=torch.int64)
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(0))
    x, y = x[order], y[order]
    val = Part(x[rows:], y[rows:])
    return Data(
        ref="benchmark",
        task="classification",
        train=Part(x[:rows], y[:rows]),
        val=val,
        test=val,
        classes=tuple(map(str, range(case.classes))),
        preprocessing={"kind": "images", "target": {"names": ["class"], "units": []}},
        fingerprint="",
        split_hash="",
        notes=(),
        rows=(np.arange(rows), np.arange(rows, len(y)), np.arange(rows, len(y))),
    )


@cache
def settings(name: str) -> RunConfig:
    case = CASES[name]
    return RunConfig.model_validate(
        {
            "data": {"ref": "benchmark"},
            "model": {"name": case.model, **case.options},
            "optim": {"name": "adam", "lr": LR},
            "train": {"epochs": case.epochs, "batch_size": case.batch_size},
            "stop": {"patience": case.epochs + 1},  # all train to the end
        }
    )


@cache
def task_of(name: str) -> Task:
    data, case = data_of(name), CASES[name]
    return Task(
        build=lambda seed: models.build(case.model, case.options, data.shape, data.outputs, seed),
        x=data.train.x,
        y=data.train.y,
        val_x=data.val.x,
        val_y=data.val.y,
        batch_size=case.batch_size,
        epochs=case.epochs,
        lr=LR,
    )


def zoo(name: str) -> tuple[float, str]:
    """Train by the toolkit; return the mean validation accuracy and the engine's name."""
    members = [Member(str(seed), settings(name), seed) for seed in SEEDS]
    fit = Fit(members, data_of(name), device="cpu")
    finished = [end for happened in fit for end in happened.finished]
    assert [end.epochs for end in finished] == [CASES[name].epochs] * len(SEEDS)
    best = [end.best.val_metric for end in finished if end.best]
    assert len(best) == len(SEEDS)
    return sum(best) / len(best), described(fit.choice, fit.setup.device)


@pytest.mark.parametrize("name", CASES)
def test_16_seeds(benchmark: BenchmarkFixture, report: Report, name: str) -> None:
    """Time the toolkit, and before each round the plain loop, so that they take turns."""
    task, threads = task_of(name), torch.get_num_threads()
    plain_threads = best_threads(task, SEEDS[:2], sorted({1, threads}))
    expected: list[float] = []
    seconds: list[float] = []

    def plain() -> None:
        torch.set_num_threads(plain_threads)
        start = time.perf_counter()
        expected.append(train(task, SEEDS))
        seconds.append(time.perf_counter() - start)
        torch.set_num_threads(threads)

    accuracy, engine = benchmark.pedantic(zoo, (name,), setup=plain, rounds=3, warmup_rounds=1)
    assert accuracy == pytest.approx(expected[0], abs=0.03)
    if benchmark.stats:  # there are none under --benchmark-disable
        line = Line(name, min(seconds), benchmark.stats.stats.min, engine, CASES[name].target)
        benchmark.extra_info.update(vars(line), ratio=line.ratio)
        report.append(line)
