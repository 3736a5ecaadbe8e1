"""The baseline: the plain PyTorch loop that a good engineer writes, one model after another.

The data are tensors already, Adam is the fused one, nothing is read back before an epoch has
ended, and the best epoch's weights are kept.  Only PyTorch is used here.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy


@dataclass(frozen=True)
class Task:
    """What to train: a model per seed, the rows to learn from and those to judge by."""

    build: Callable[[int], nn.Module]
    x: Tensor
    y: Tensor
    val_x: Tensor
    val_y: Tensor
    batch_size: int
    epochs: int
    lr: float


def train(task: Task, seeds: Sequence[int]) -> float:
    """Train a model per seed; return the mean validation accuracy of their best epochs."""
    return sum(_train_one(task, seed) for seed in seeds) / len(seeds)


def best_threads(task: Task, seeds: Sequence[int], counts: Sequence[int]) -> int:
    """Return the number of threads with which these models train fastest, of two tries each."""
    before = torch.get_num_threads()
    taken: dict[int, float] = {}
    for count in [*counts, *counts]:
        torch.set_num_threads(count)
        start = time.perf_counter()
        train(task, seeds)
        taken[count] = min(taken.get(count, torch.inf), time.perf_counter() - start)
    torch.set_num_threads(before)
    return min(taken, key=taken.__getitem__)


def _train_one(task: Task, seed: int) -> float:
    device = task.x.device
    model = task.build(seed).to(device)
    optimiser = torch.optim.Adam(model.parameters(), lr=task.lr, fused=True)
    generator = torch.Generator().manual_seed(seed)
    best_loss, best_accuracy, best_state = torch.inf, 0.0, {}
    for _ in range(task.epochs):
        model.train()
        order = torch.randperm(len(task.y), generator=generator).to(device)
        total = torch.zeros((), device=device)
        for index in order.split(task.batch_size):
            loss = cross_entropy(model(task.x[index]), task.y[index])
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            total += loss.detach() * len(index)
        model.eval()
        with torch.no_grad():
            logits = model(task.val_x)
            val_loss = cross_entropy(logits, task.val_y).item()
            accuracy = (logits.argmax(1) == task.val_y).float().mean().item()
        train_loss = total.item() / len(order)
        assert train_loss < torch.inf
        if val_loss < best_loss:
            best_loss, best_accuracy = val_loss, accuracy
            best_state = {name: value.clone() for name, value in model.state_dict().items()}
    assert best_state
    return best_accuracy
