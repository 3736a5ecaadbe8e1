"""How much of a training epoch is matrix products: the rest is what could still be saved.

The products of one step of an MLP (forward, gradients of weights, gradients of activations; none of
the first layer's input) are timed alone, each in the fastest of its forms: all members batched or
one after another, and turned round or not.  Their time, over that of a step of the training loop
with all that belongs to it (batches, loss, autograd, Adam, figures), is the share of this machine's
product rate that training reaches at those shapes.

    python benchmarks/rate.py

One core.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from tabulate import tabulate
from torch import Tensor

from zoo import Fit, Member, load
from zoo.choice import Choice
from zoo.config import RunConfig
from zoo.sections import DataConfig

MEMBERS, ROUNDS, ROUND_S = 16, 7, 0.05
DATA = load(DataConfig(ref="digits"))


def least(work: Callable[[], object]) -> float:
    """Return the least seconds of a call, over some rounds of many calls."""
    times = []
    for _ in range(ROUNDS):
        calls, start = 0, time.perf_counter()
        while (spent := time.perf_counter() - start) < ROUND_S:
            work()
            calls += 1
        times.append(spent / calls)
    return min(times)


def product(a: Tensor, b: Tensor) -> float:
    """Return the seconds that K products (K, m, n) @ (K, n, p) take at best."""
    pairs = list(zip(a, b, strict=True))
    forms: list[Callable[[], object]] = [
        lambda: torch.bmm(a, b),
        lambda: torch.bmm(b.mT, a.mT),
        lambda: [torch.mm(one, other) for one, other in pairs],
        lambda: [torch.mm(other.T, one.T) for one, other in pairs],
    ]
    return min(map(least, forms))


def products(sizes: Sequence[int], rows: int) -> tuple[float, float]:
    """Return seconds and floating-point operations of the products of a step of all members."""
    seconds, operations = 0.0, 0.0
    for layer, (inputs, outputs) in enumerate(pairwise(sizes)):
        x, w, g = (
            torch.randn(MEMBERS, *shape)
            for shape in ((rows, inputs), (outputs, inputs), (rows, outputs))
        )
        needed = [(x, w.mT), (g.mT, x)] + ([(g, w)] if layer else [])
        seconds += sum(product(a, b) for a, b in needed)
        operations += 2.0 * MEMBERS * rows * inputs * outputs * len(needed)
    return seconds, operations


def step(hidden: Sequence[int], rows: int, engine: str) -> float:
    """Return the seconds of a step of the training loop, from those of an epoch."""
    config = RunConfig.model_validate(
        {
            "data": {"ref": "digits"},
            "model": {"name": "mlp", "hidden": hidden},
            "train": {"batch_size": rows},
        }
    )
    crowd = [Member(str(seed), config, seed) for seed in range(MEMBERS)]
    fit = Fit(crowd, DATA, choice=Choice(engine, 1, 1, MEMBERS), device="cpu")
    (lane,) = fit.lanes
    lane.train(DATA.train, rows, 1)
    return least(lambda: lane.train(DATA.train, rows, 1)) * rows / len(DATA.train)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.parse_args()
    torch.set_num_threads(1)
    lines = []
    for hidden, rows in (([32, 32], 128), ([64, 64], 128), ([256, 256], 128), ([256, 256], 512)):
        sizes = [64, *hidden, 10]
        alone, operations = products(sizes, rows)
        taken = {engine: step(hidden, rows, engine) for engine in ("stacked", "sequential")}
        engine = min(taken, key=taken.__getitem__)
        lines.append(
            [
                "-".join(map(str, sizes)),
                rows,
                f"{operations / alone / 1e9:.0f}",
                engine,
                f"{operations / taken[engine] / 1e9:.0f}",
                f"{alone / taken[engine]:.0%}",
            ]
        )
    headers = ["MLP", "batch", "products, GFLOP/s", "engine", "training, GFLOP/s", "share"]
    print(f"{MEMBERS} members, digits, one core")
    print(tabulate(lines, headers, tablefmt="github", disable_numparse=True))


if __name__ == "__main__":
    main()
