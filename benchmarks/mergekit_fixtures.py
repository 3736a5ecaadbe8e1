"""Write what mergekit makes of three small members, for the tests to compare with.

mergekit pins versions that this project does not have, so it has an environment of its own, and its
results are kept in ``tests/ensemble/mergekit``.  To write them anew:

    python -m venv /tmp/mergekit && /tmp/mergekit/bin/pip install mergekit==0.1.5 torch==2.13.0
    /tmp/mergekit/bin/python benchmarks/mergekit_fixtures.py
"""

from pathlib import Path
from tempfile import TemporaryDirectory

import mergekit.sparsify
import torch
from mergekit.graph import Executor
from mergekit.merge import MergeOptions
from mergekit.scripts.merge_raw_pytorch import RawPyTorchMergeConfig, plan_flat_merge
from safetensors.torch import load_file, save_file

HERE = Path(__file__).parents[1] / "tests" / "ensemble" / "mergekit"
SHAPES = {"attention.weight": (6, 5), "conv.weight": (4, 2, 3, 3), "norm.weight": (7,)}
NAMES = ("base", "a", "b", "c")
ONE = [{"weight": 1.0}] * 3
CASES = {
    "linear": ("linear", [{"weight": w} for w in (1.0, 1.0, 2.0)], {}, None),
    "slerp": ("slerp", [{}, {}], {"t": 0.3}, "a"),
    "multislerp": ("multislerp", [{"weight": w} for w in (0.5, 0.3, 0.2)], {}, None),
    "karcher": ("karcher", [{}, {}, {}], {"max_iter": 100, "tol": 1e-9}, None),
    "task_arithmetic": ("task_arithmetic", ONE, {"lambda": 0.4}, "base"),
    "ties": ("ties", [{"weight": 1.0, "density": 0.4}] * 3, {"lambda": 1.5}, "base"),
    "breadcrumbs": (
        "breadcrumbs",
        [{"weight": 1.0, "density": 0.3, "gamma": 0.1}] * 3,
        {"lambda": 0.5},
        "base",
    ),
    "model_stock": ("model_stock", [{}, {}, {}], {}, "base"),
    **{
        f"{name}{suffix}": (
            name,
            [{"weight": 1.0, "density": 0.5}] * 3,
            {"rescale": rescale, "normalize": name == "dare_ties"},
            "base",
        )
        for name in ("dare_linear", "dare_ties")
        for suffix, rescale in (("", True), ("_unscaled", False))
    },
}


def members():
    """Draw a base, and members that went a common way from it and ways of their own."""
    generator = torch.Generator().manual_seed(0)
    states = {name: {} for name in NAMES}
    for key, shape in SHAPES.items():
        base, common, *own = torch.randn(len(NAMES) + 1, *shape, generator=generator)
        states["base"][key] = base
        for name, way in zip(NAMES[1:], own, strict=True):
            states[name][key] = base + 0.3 * common + 0.2 * way
    return states


def masks(record):
    """Let mergekit draw what DARE keeps, and note it by key in the order of the members."""

    def bernoulli(chance, original=torch.bernoulli):
        mask = original(chance)
        (key,) = [key for key, shape in SHAPES.items() if shape == tuple(mask.shape)]
        record.setdefault(key, []).append(mask.bool())
        return mask

    return bernoulli


def main():
    """Run every case as ``mergekit-pytorch`` does."""
    for name, state in members().items():
        save_file(state, HERE / f"{name}.safetensors")
    for case, (method, parameters, common, base) in CASES.items():
        inputs = NAMES[1 : 1 + len(parameters)]
        config = RawPyTorchMergeConfig(
            merge_method=method,
            models=[
                {"model": str(HERE / f"{name}.safetensors"), "parameters": own}
                for name, own in zip(inputs, parameters, strict=True)
            ],
            parameters=common,
            base_model=None if base is None else str(HERE / f"{base}.safetensors"),
        )
        drawn = {}
        torch.manual_seed(1)
        mergekit.sparsify.torch.bernoulli, saved = masks(drawn), torch.bernoulli
        with TemporaryDirectory() as out:
            Executor(plan_flat_merge(config, out, False, False, MergeOptions())).execute()
            result = load_file(Path(out) / "model.safetensors")
        mergekit.sparsify.torch.bernoulli = saved
        kept = {f"{key}.kept": torch.stack(rows) for key, rows in drawn.items()}
        save_file(result | kept, HERE / f"{case}.safetensors")


if __name__ == "__main__":
    main()
