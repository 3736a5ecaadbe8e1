"""Members of unequal worth with the truth, for every task."""

from collections.abc import Callable

import torch
from torch import Tensor

from ensemble.scores import label_nll, nll, squared_error

LOSSES = {"classification": nll, "multilabel": label_nll, "regression": squared_error}


def case(task: str, count: int = 6, rows: int = 60, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Members of unequal worth, and the truth."""
    generator = torch.Generator().manual_seed(seed)

    def noise(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    worth_K = torch.linspace(0.3, 1.5, count, dtype=torch.float64)
    if task == "regression":
        truth_N = noise(rows)
        return truth_N + (2 - worth_K)[:, None] * noise(count, rows), truth_N
    if task == "multilabel":
        labels_NL = (noise(rows, 3) > 0).double()
        signal = 2 * labels_NL - 1
        return worth_K[:, None, None] * signal + noise(count, rows, 3), labels_NL
    labels_N = torch.randint(4, (rows,), generator=generator)
    signal_NC = 2 * torch.nn.functional.one_hot(labels_N, 4).double()
    return worth_K[:, None, None] * signal_NC + noise(count, rows, 4), labels_N


def loss_of(task: str, truth: Tensor) -> Callable[[Tensor], float]:
    """The mean loss of pooled predictions."""
    return lambda predictions: float(LOSSES[task](predictions, truth).mean())
