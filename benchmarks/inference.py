"""What running the members of an ensemble together is worth, against a loop over their modules.

The loop is plain PyTorch: every module in turn on all rows, without gradients.  Both are warmed up
(the toolkit has measured what suits it) and take turns; the least time of a call counts.  With one
thread it is the processor's time, which other work on the machine does not count into.

    python benchmarks/inference.py            # one core
    python benchmarks/inference.py --threads 2
"""

import argparse
import time
from collections.abc import Callable

import torch
from tabulate import tabulate
from torch import Tensor, nn

from ensemble import forward_many
from zoo.models import build

MEMBERS = 16
BATCHES = (1, 64, 4096)
MODELS: dict[str, tuple[str, dict[str, object], tuple[int, ...]]] = {
    "MLP 64-256-256-10": ("mlp", {"hidden": [256, 256]}, (64,)),
    "MLP 64-64-64-10": ("mlp", {"hidden": [64, 64]}, (64,)),
    "CNN 16-32, 8 x 8 pixels": ("cnn", {}, (1, 8, 8)),
    "CNN 16-32, 28 x 28 pixels": ("cnn", {}, (1, 28, 28)),
    "ResNet of 2 blocks, 8 x 8 pixels": ("resnet", {"blocks": [1, 1]}, (1, 8, 8)),
    "FT-Transformer, 8 columns": ("ft_transformer", {}, (8,)),
}
ROUND_S, ROUNDS = 0.05, 9


def least(contenders: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Return the least seconds of a call of each, over rounds in which they take turns."""
    clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
    seconds = dict.fromkeys(contenders, float("inf"))
    for _ in range(ROUNDS):
        for name, contender in contenders.items():
            end = clock() + ROUND_S
            while (start := clock()) < end:
                contender()
                seconds[name] = min(seconds[name], clock() - start)
    return seconds


def members(name: str, options: dict[str, object], shape: tuple[int, ...]) -> list[nn.Module]:
    """Build modules whose batch norms have seen something."""
    modules = [build(name, options, shape, 10, seed) for seed in range(MEMBERS)]
    for module in modules:
        module.train()(torch.randn(256, *shape))
        module.eval()
    return modules


def measure(modules: list[nn.Module], x_N: Tensor) -> tuple[float, float, str]:
    """Return the seconds of the loop and of the toolkit, and what it takes."""
    forward = forward_many(modules[0], [module.state_dict() for module in modules])
    forward.tune(x_N)
    taken = least(
        {
            "loop": lambda: torch.stack([module(x_N) for module in modules]),
            "toolkit": lambda: forward(x_N),
        }
    )
    (tile,) = forward.tiles.values()
    way = f"{tile.members} x {min(tile.rows, len(x_N))}" if tile.members else "the loop"
    return taken["loop"], taken["toolkit"], way


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", default="", help="models whose names contain this")
    parser.add_argument("--batches", default=",".join(map(str, BATCHES)))
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    lines = []
    for label, (name, options, shape) in MODELS.items():
        if asked.only not in label:
            continue
        modules = members(name, options, shape)
        for rows in map(int, asked.batches.split(",")):
            loop, toolkit, way = measure(modules, torch.randn(rows, *shape))
            ratio = f"{loop / toolkit:.2f}x"
            lines.append([label, rows, f"{loop * 1e3:.3g}", f"{toolkit * 1e3:.3g}", ratio, way])
    headers = [f"{MEMBERS} members", "rows", "loop, ms", "together, ms", "ratio", "members x rows"]
    print(tabulate(lines, headers, tablefmt="github", disable_numparse=True))


if __name__ == "__main__":
    main()
