"""Ways to align members, and what they take: how good the average is, and how many seconds.

    python benchmarks/alignment.py mlp-mnist5k --repetitions 3

For MLPs without norms, MergeMany is measured beside ours as its authors write it (Ainsworth et al.
2023, arXiv:2209.04836, algorithms 1 and 3): a linear assignment by SciPy for each layer, NumPy in
float64, one layer and one member after another.  Seconds are those of the least of the repetitions
and count all from the members' states to their aligned states, reading activations too.
"""

import argparse
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from tabulate import tabulate
from trained import CASES, Trained, train

from ensemble import activations, align, recalibrate, repair, symmetry, uniform
from ensemble.alignment import STRATEGIES, Strategy
from ensemble.state import State

Matrix = NDArray[np.float64]
Way = Callable[[Trained], Sequence[State]]


def ours(trained: Trained, strategy: Strategy, by: str) -> Sequence[State]:
    """Align as a user does; ``by`` weights, activations, or both, as the ladder does: by
    activations to one reference, and from there by weights."""
    module, states, batches = trained.module, trained.states, trained.batches()
    found = symmetry(module, batches[0][:2])
    if by != "weights":
        read = activations(module, states, batches, found)
        first = strategy if by == "activations" else "reference"
        states = align(states, found, activations=read, strategy=first)
    return states if by == "activations" else align(states, found, strategy=strategy)


class Layers:
    """The weights of an MLP and the orders of its hidden units, as a plain loop has them."""

    def __init__(self, state: State) -> None:
        leaves = [leaf.double().numpy() for leaf in state.values()]
        self.weights, self.biases = leaves[::2], leaves[1::2]
        assert all(leaf.ndim == 2 for leaf in self.weights), "the plain loop takes MLPs alone"
        self.orders = [np.arange(len(bias)) for bias in self.biases]

    def weight(self, layer: int) -> Matrix:
        """Return a layer's weights in the present orders of its inputs and outputs."""
        weight = self.weights[layer][self.orders[layer]]
        return weight[:, self.orders[layer - 1]] if layer else weight


def plain_match(weights: Sequence[Matrix], biases: Sequence[Matrix], other: Layers) -> None:
    """Algorithm 1: let each layer in turn take the order that agrees best."""
    generator = np.random.default_rng(0)
    for _ in range(100):
        moved = False
        for layer in generator.permutation(len(weights) - 1):
            own = other.weights[layer]
            own = own[:, other.orders[layer - 1]] if layer else own
            above = other.weights[layer + 1][other.orders[layer + 1]]
            agreement = weights[layer] @ own.T
            agreement += weights[layer + 1].T @ above
            agreement += np.outer(biases[layer], other.biases[layer])
            rows, columns = linear_sum_assignment(agreement, maximize=True)
            before = agreement[rows, other.orders[layer]].sum()
            if agreement[rows, columns].sum() > before + 1e-12:
                other.orders[layer], moved = columns, True
        if not moved:
            return


def plain_merge_many(trained: Trained) -> Sequence[State]:
    """Algorithm 3: match each member in turn to the mean of the others."""
    members = [Layers(state) for state in trained.states]
    depth = len(members[0].weights)
    generator = np.random.default_rng(0)
    moved = True
    while moved:
        moved = False
        for k in generator.permutation(len(members)):
            others = [other for i, other in enumerate(members) if i != k]
            weights = [np.mean([each.weight(i) for each in others], 0) for i in range(depth)]
            biases = [
                np.mean([each.biases[i][each.orders[i]] for each in others], 0)
                for i in range(depth)
            ]
            before = members[k].orders[:]
            plain_match(weights, biases, members[k])
            moved |= any((a != b).any() for a, b in zip(before, members[k].orders, strict=True))
    return [_state(each, trained.states[0]) for each in members]


def _state(layers: Layers, like: State) -> State:
    leaves = []
    for i, bias in enumerate(layers.biases):
        leaves += [layers.weight(i), bias[layers.orders[i]]]
    pairs = zip(like, leaves, strict=True)
    return {key: torch.from_numpy(np.ascontiguousarray(leaf)).float() for key, leaf in pairs}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("cases", nargs="+", choices=CASES)
    parser.add_argument("--members", type=int, default=8)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--without", nargs="*", default=[], help="rows to leave out")
    asked = parser.parse_args()
    for name in asked.cases:
        ways: dict[str, Way] = {"not aligned": lambda trained: trained.states}
        for strategy in STRATEGIES:
            for by in ("weights", "activations", "both"):
                ways[f"{strategy}, {by}"] = partial(ours, strategy=strategy, by=by)
        if CASES[name].model == "mlp":
            ways["plain MergeMany"] = plain_merge_many
        ways = {way: function for way, function in ways.items() if way not in asked.without}
        seconds: dict[str, list[float]] = defaultdict(list)
        figures: dict[str, list[tuple[float, float]]] = defaultdict(list)
        for repetition in range(asked.repetitions):
            trained = train(name, "independent", asked.members, repetition)
            batches = trained.batches()
            singles = [trained.figures(state, "test")["accuracy"] for state in trained.states]
            figures["mean single"].append((statistics.fmean(singles), statistics.fmean(singles)))
            for way, function in ways.items():
                start = time.perf_counter()
                aligned = function(trained)
                seconds[way].append(time.perf_counter() - start)
                merged = uniform(aligned)
                states = (
                    recalibrate(trained.module, merged, batches),
                    repair(trained.module, aligned, merged, batches),
                )
                bare, repaired = (trained.figures(each, "test")["accuracy"] for each in states)
                figures[way].append((bare, repaired))
                print(f"{repetition} {way}: {seconds[way][-1]:.2f} s", file=sys.stderr, flush=True)
        rows = [
            [
                way,
                f"{min(seconds[way]):.2f}" if way in seconds else "",
                *map(_cell, zip(*told, strict=True)),
            ]
            for way, told in figures.items()
        ]
        headers = ["", "seconds", "average", "+ REPAIR"]
        print(f"\n{name}, K = {asked.members}, {asked.repetitions} repetitions\n")
        print(tabulate(rows, headers, tablefmt="github", disable_numparse=True))


def _cell(values: Sequence[float]) -> str:
    shares = [100 * value for value in values]
    spread = f" ± {statistics.stdev(shares):.1f}" if len(shares) > 1 else ""
    return f"{statistics.fmean(shares):.1f}{spread}"


if __name__ == "__main__":
    main()
