"""How often nominal 95 % intervals hold a difference that is known: simulated pairs of models.

    python benchmarks/coverage.py

Each line is one kind of figure and one number of test rows.  Ours are percentiles that are expanded
for few rows (``ensemble/statistics.py``); beside them stand plain ones, and BCa (B. Efron, Better
Bootstrap Confidence Intervals, 1987) with plain and with expanded tails, of the same resamples.
"""

import math
import sys
from collections import Counter
from collections.abc import Callable

import torch
from tabulate import tabulate
from torch import Tensor
from torch.nn.functional import softplus
from torch.special import ndtr, ndtri

from ensemble import statistics as ours

Pair = tuple[Tensor, Tensor]
LEVEL = 0.95


def latent(draw: torch.Generator, count: int, correlation: float) -> Tensor:
    """Two standard normal columns that correlate so."""
    shared_N1 = torch.randn(count, 1, generator=draw, dtype=torch.float64)
    own_N2 = torch.randn(count, 2, generator=draw, dtype=torch.float64)
    return math.sqrt(correlation) * shared_N1 + math.sqrt(1 - correlation) * own_N2


def right(draw: torch.Generator, count: int, first: float, second: float) -> Pair:
    """Right and wrong answers of two models of these accuracies, whose mistakes correlate."""
    levels_2 = ndtri(torch.tensor([first, second], dtype=torch.float64))
    a_N, b_N = (latent(draw, count, 0.6) < levels_2).double().unbind(dim=1)
    return a_N, b_N


def squared(draw: torch.Generator, count: int, scale: float, *, heavy: bool = False) -> Pair:
    """Squared errors of RMSE 1 and ``scale``; ``heavy`` ones are Student's with 5 degrees."""
    error_N2 = latent(draw, count, 0.7)
    if heavy:
        freedom_N5 = torch.randn(count, 5, generator=draw, dtype=torch.float64)
        error_N2 = error_N2 * (3 / freedom_N5.square().sum(dim=1, keepdim=True)).sqrt()
    a_N, b_N = (error_N2 * torch.tensor([1.0, scale])).square().unbind(dim=1)
    return a_N, b_N


def losses(draw: torch.Generator, count: int) -> Pair:
    """Negative log-likelihoods of a model that is too sure and one that is not sure enough."""
    odds_N = 2 * torch.randn(count, generator=draw, dtype=torch.float64)
    sign_N = torch.where(torch.rand(count, generator=draw) < odds_N.sigmoid(), -1.0, 1.0)
    noise_N = 0.4 * torch.randn(count, generator=draw, dtype=torch.float64)
    return softplus(sign_N * (1.3 * odds_N + noise_N)), softplus(sign_N * 0.7 * odds_N)


def bca(pair: Pair, finish: Callable[[Tensor], Tensor], excess_S: Tensor, z: float) -> list[float]:
    """Return the percentiles of BCa: corrected for bias and for the skewness of the jackknife."""
    rows_N2 = torch.stack(pair, dim=1)
    a_N, b_N = ((rows_N2.sum(dim=0) - rows_N2) / (len(rows_N2) - 1)).unbind(dim=1)
    left_out_N = finish(a_N) - finish(b_N)
    pulls_N = left_out_N.mean() - left_out_N
    skew = float(pulls_N.pow(3).sum() / (6 * pulls_N.square().sum().pow(1.5)).clamp(min=1e-30))
    below = (1 - excess_S.sign().mean()) / 2  # those at it count half
    bias = float(ndtri(below.clamp(1e-3, 1 - 1e-3)))
    ends = [bias + (bias + side) / (1 - skew * (bias + side)) for side in (z, -z)]
    return ndtr(torch.tensor(ends, dtype=torch.float64)).tolist()


def intervals(pair: Pair, finish: Callable[[Tensor], Tensor], seed: int) -> dict[str, list[float]]:
    """Return the ends of each kind of interval, of the same 1,000 resamples."""
    a_N, b_N = pair
    draw = torch.Generator().manual_seed(seed)
    group_N = torch.randperm(len(a_N), generator=draw)  # so few rows are groups of one
    deltas_S = ours._resampled(a_N, b_N, finish, group_N, 1_000, draw)
    excess_S = deltas_S - (finish(a_N.mean()) - finish(b_N.mean()))
    excess_S = excess_S.where(excess_S.abs() > 1e-12, 0.0)
    wide, plain = ours._tail(LEVEL, len(a_N)), (1 - LEVEL) / 2
    normal = [float(ndtri(torch.tensor(tail, dtype=torch.float64))) for tail in (wide, plain)]
    tails = {
        "ours": [wide, 1 - wide],
        "percentile": [plain, 1 - plain],
        "BCa": bca(pair, finish, excess_S, normal[1]),
        "BCa, expanded": bca(pair, finish, excess_S, normal[0]),
    }
    return {
        name: torch.quantile(deltas_S, torch.tensor(ends, dtype=torch.float64)).tolist()
        for name, ends in tails.items()
    }


def main(repetitions: int) -> None:
    """Print a table of what share of the intervals holds the difference."""
    many = losses(torch.Generator().manual_seed(99), 4_000_000)
    apart = float((many[0] - many[1]).mean())
    mean, root = (lambda means: means), torch.sqrt
    cases = [
        ("accuracy", 200, lambda d: right(d, 200, 0.92, 0.88), mean, 0.04),
        ("accuracy", 400, lambda d: right(d, 400, 0.95, 0.94), mean, 0.01),
        ("accuracy", 30, lambda d: right(d, 30, 0.9, 0.8), mean, 0.1),
        ("NLL", 100, lambda d: losses(d, 100), mean, apart),
        ("NLL", 400, lambda d: losses(d, 400), mean, apart),
        ("RMSE", 30, lambda d: squared(d, 30, 1.1), root, -0.1),
        ("RMSE", 100, lambda d: squared(d, 100, 1.05), root, -0.05),
        ("RMSE, heavy tails", 100, lambda d: squared(d, 100, 1.05, heavy=True), root, -0.05),
    ]
    lines = []
    for name, count, rows, finish, true in cases:
        draw, held = torch.Generator().manual_seed(6), Counter[str]()
        for seed in range(repetitions):
            for kind, (low, high) in intervals(rows(draw), finish, seed).items():
                held[kind] += low - 1e-12 <= true <= high + 1e-12
        lines.append([name, count, *(f"{100 * held[k] / repetitions:.1f} %" for k in held)])
    error = 100 * math.sqrt(LEVEL * (1 - LEVEL) / repetitions)
    print(tabulate(lines, ["figure", "rows", *held], tablefmt="github"))
    print(f"\n{repetitions} repetitions each: +-{error:.1f} points")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2_000)
