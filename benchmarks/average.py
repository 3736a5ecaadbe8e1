"""Averaging files, against reading them and against what people use; each is a whole process.

The limit reads all files and writes one of their size, in this process, synchronised to the disk
as our result is.  Contenders take turns; slow ones have one.  Memory is the most that a process had
resident, which counts the pages of a mapped file too; ours maps none.

    python benchmarks/average.py --files 8 --millions 220 \\
        --mergekit .../mergekit-pytorch --timm "python .../avg_checkpoints.py"

The script of timm is in its repository, not in its package.
"""

import argparse
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tabulate import tabulate

CLI = Path(__file__).parents[1] / "cli.py"
BLOCK = 1 << 20
AXIS = 2048  # of a square matrix
PROBE = "1.weight"  # in which rounding is checked
WEIGHTED = ("weighted", "multislerp")
BASED = ("task-arithmetic", "ties", "dare", "breadcrumbs", "model-stock")
SLOW = ("mergekit-ties",)

# A process counts as its own what its parent had in memory, so a small one starts it.
MEASURED = """
import resource, subprocess, sys, time
start = time.perf_counter()
done = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL)
seconds = time.perf_counter() - start
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(seconds, used.ru_utime + used.ru_stime, used.ru_maxrss / 1000)
sys.exit(done.returncode)
"""

Paths = Sequence[Path]


def module(millions: int) -> torch.nn.Module:
    """Return square layers with so many million parameters."""
    count = max(2, round(millions * 1e6 / AXIS**2))
    with torch.device("meta"):
        layers = [torch.nn.Linear(AXIS, AXIS) for _ in range(count)]
    return torch.nn.Sequential(*layers).to_empty(device="cpu")


def make(folder: Path, files: int, millions: int, dtype: torch.dtype, pickled: bool) -> None:
    """Write the members."""
    net = module(millions).to(dtype)
    for k in range(files):
        generator = torch.Generator().manual_seed(k)
        for leaf in net.parameters():
            leaf.data.copy_(torch.randn(leaf.shape, generator=generator))
        save_file(net.state_dict(), folder / f"{k}.safetensors")
        if pickled:
            torch.save(net.state_dict(), folder / f"{k}.pt")


def limit(paths: Paths, output: Path, synchronised: bool) -> float:
    """Read all files and write one of their size."""
    start = time.perf_counter()
    block = bytearray(BLOCK)
    with output.open("wb", buffering=0) as out:
        for path in paths:
            with path.open("rb", buffering=0) as file:
                while count := file.readinto(block):
                    if path == paths[0]:
                        out.write(memoryview(block)[:count])
        if synchronised:
            os.fsync(out.fileno())
    return time.perf_counter() - start


def load_file_loop(paths: Paths, output: Path) -> None:
    """Add up state dicts, each loaded as a whole."""
    total = load_file(paths[0])
    for path in paths[1:]:
        for key, leaf in load_file(path).items():
            total[key] += leaf
    save_file({key: leaf / len(paths) for key, leaf in total.items()}, output)


def torch_load_loop(paths: Paths, output: Path) -> None:
    """Do the same with files of torch.save."""
    total = torch.load(paths[0].with_suffix(".pt"), weights_only=True)
    for path in paths[1:]:
        for key, leaf in torch.load(path.with_suffix(".pt"), weights_only=True).items():
            total[key] += leaf
    torch.save({key: leaf / len(paths) for key, leaf in total.items()}, output.with_suffix(".pt"))


def averaged_model(paths: Paths, output: Path) -> None:
    """Use torch.optim.swa_utils, which needs the module."""
    first = load_file(paths[0])
    net = module(round(sum(leaf.numel() for leaf in first.values()) / 1e6))
    net.load_state_dict(first)
    average = torch.optim.swa_utils.AveragedModel(net)
    for path in paths:
        net.load_state_dict(load_file(path))
        average.update_parameters(net)
    save_file(average.module.state_dict(), output)


LOOPS = {
    "load_file": load_file_loop,
    "torch.load": torch_load_loop,
    "AveragedModel": averaged_model,
}


def process(words: Sequence[str]) -> list[float]:
    """Run a command; return its seconds, those of the processors, and the most MB it had."""
    measured = [sys.executable, "-c", MEASURED, *words]
    done = subprocess.run(measured, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{shlex.join(words)}\n{done.stderr}")
    return [float(word) for word in done.stdout.split()]


def mergekit(program: str, method: str, paths: Paths, folder: Path, output: Path) -> list[str]:
    """Return how to run mergekit on bare files; the first is also the base of TIES."""
    lines = [f"merge_method: {method}", "dtype: float32", "models:"]
    for path in paths:
        lines += [f"  - model: {path}", "    parameters: {weight: 1.0, density: 0.2}"]
    if method == "ties":
        lines.append(f"base_model: {paths[0]}")
    config = folder / f"{method}.yml"
    config.write_text("\n".join(lines))
    return [program, str(config), str(output.with_suffix("")), "--quiet"]


def misrounded(output: Path, paths: Paths) -> float:
    """Return which share of one tensor's elements is not the float nearest to the mean."""
    total = torch.zeros(1, dtype=torch.float64)
    for path in paths:
        with safe_open(path, "pt") as file:
            total = total + file.get_tensor(PROBE).double()
    with safe_open(output, "pt") as file:
        found = file.get_tensor(PROBE)
    return float((found != (total / len(paths)).to(found.dtype)).double().mean())


def main() -> None:
    if sys.argv[1:2] == ["--as"]:
        _, _, name, output, *paths = sys.argv
        return LOOPS[name]([Path(path) for path in paths], Path(output))
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--files", type=int, default=8)
    parser.add_argument("--millions", type=int, default=220, help="of parameters")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=Path.cwd(), help="on a disk")
    parser.add_argument("--mergekit", help="the program mergekit-pytorch")
    parser.add_argument("--timm", help="how to run timm's avg_checkpoints.py")
    parser.add_argument("--only", help="names, separated by commas")
    parser.add_argument("--methods", default="uniform,weighted,median", help="of ours")
    asked = parser.parse_args()
    with TemporaryDirectory(dir=asked.folder) as name:
        rows = measure(Path(name), asked)
    headers = ["", "seconds", "of the limit", "CPU seconds", "MB", "misrounded"]
    print(tabulate(rows, headers, tablefmt="github", disable_numparse=True))
    return None


def commands(
    folder: Path, paths: Paths, output: Path, asked: argparse.Namespace
) -> dict[str, list[str]]:
    """Return the command of each contender."""
    ours = [sys.executable, str(CLI), "average", *map(str, paths), "-o", str(output), "--force"]
    loop = [sys.executable, __file__, "--as"]
    found = {}
    for method in asked.methods.split(","):
        words = [*ours, "--method", method]
        if method in WEIGHTED:
            words += ["--set", f"weights={list(range(1, asked.files + 1))}"]
        elif method in BASED:
            words += ["--set", f"base={paths[0]}"]
        found[f"average {method}"] = words
    for name in LOOPS:
        found[name] = [*loop, name, str(output), *map(str, paths)]
    if asked.timm:
        given = ["--input", str(folder), "--filter", "[0-9]*.safetensors", "--no-sort"]
        given += ["--safetensors", "--output", str(output)]
        found["timm's script"] = [*shlex.split(asked.timm), *given]
    if asked.mergekit:
        for method in ("linear", "ties"):
            found[f"mergekit-{method}"] = mergekit(asked.mergekit, method, paths, folder, output)
    return found


def measure(folder: Path, asked: argparse.Namespace) -> list[list[str]]:
    wanted = asked.only.split(",") if asked.only else None
    dtype = getattr(torch, asked.dtype)
    paths = [folder / f"{k}.safetensors" for k in range(asked.files)]
    output = folder / "out.safetensors"
    chosen = {
        name: words
        for name, words in commands(folder, paths, output, asked).items()
        if not wanted or name in wanted
    }
    make(folder, asked.files, asked.millions, dtype, "torch.load" in chosen)
    results: dict[str, list[list[float]]] = {}
    errors: dict[str, float] = {}
    limits: dict[bool, list[float]] = {False: [], True: []}
    for number in range(asked.rounds):
        for synchronised in limits:
            limits[synchronised].append(limit(paths, output, synchronised))
        for name, words in chosen.items():
            if name in SLOW and number:
                continue
            for old in (*folder.glob("out*.safetensors"), *folder.glob("out/*")):
                old.unlink()
            results.setdefault(name, []).append(process(words))
            print(f"{number}: {name}: {results[name][-1][0]:.2f} s", file=sys.stderr, flush=True)
            found = [*folder.glob("out*.safetensors"), *folder.glob("out/*.safetensors")]
            if found and (name == "average uniform" or not name.startswith(("average ", *SLOW))):
                errors[name] = misrounded(found[0], paths)
    best = {synchronised: min(times) for synchronised, times in limits.items()}
    rows = [
        ["reading all, writing one", f"{best[False]:.2f}", f"{best[False] / best[True]:.2f}"],
        ["the limit: and synchronising it", f"{best[True]:.2f}", "1"],
    ]
    for name, runs in results.items():
        seconds, cpu, memory = (min(column) for column in zip(*runs, strict=True))
        told = [name, f"{seconds:.2f}", f"{seconds / best[True]:.2f}", f"{cpu:.2f}"]
        shown = f"{errors[name]:.1%}" if name in errors else ""
        rows.append([*told, f"{memory:,.0f}", shown])
    return rows


if __name__ == "__main__":
    main()
