"""Methods that mergekit has too give its numbers (``benchmarks/mergekit_fixtures.py`` wrote them).

Where there is a difference on purpose, its test says which.
"""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ensemble import trimming
from ensemble.average import uniform, weighted
from ensemble.spherical import multislerp, slerp
from ensemble.stock import model_stock
from ensemble.task_vectors import (
    breadcrumbs,
    dare,
    dare_norm,
    dare_norm_ties,
    dare_ties,
    task_arithmetic,
    ties,
)

FOLDER = Path(__file__).parent / "mergekit"
BASE, A, B, C = (load_file(FOLDER / f"{name}.safetensors") for name in ("base", "a", "b", "c"))
MEMBERS = [A, B, C]


def agree(mine, case, factor=1.0):
    """Compare with mergekit, whose difference from the base may want a factor."""
    theirs = load_file(FOLDER / f"{case}.safetensors")
    for key, leaf in mine.items():
        wanted = theirs[key] if factor == 1 else BASE[key] + factor * (theirs[key] - BASE[key])
        torch.testing.assert_close(leaf, wanted, rtol=0, atol=3e-6)
        assert not torch.equal(leaf, A[key])


def test_linear():
    agree(weighted(MEMBERS, [1, 1, 2]), "linear")


def test_slerp():
    agree(slerp([A, B], t=0.3), "slerp")


def test_multislerp_without_steps():
    agree(multislerp(MEMBERS, [0.5, 0.3, 0.2], steps=0), "multislerp")


def test_multislerp_with_steps_is_its_karcher():
    agree(multislerp(MEMBERS, [1, 1, 1]), "karcher")
    close = load_file(FOLDER / "karcher.safetensors")
    start = multislerp(MEMBERS, [1, 1, 1], steps=0)
    assert any((start[key] - close[key]).abs().max() > 1e-4 for key in close)


def test_task_arithmetic():
    agree(task_arithmetic(MEMBERS, BASE, scale=0.4), "task_arithmetic")


def test_ties():
    agree(ties(MEMBERS, BASE, density=0.4, scale=1.5), "ties")


def test_breadcrumbs():
    agree(breadcrumbs(MEMBERS, BASE, density=0.3, gamma=0.1, scale=0.5), "breadcrumbs")


def test_model_stock():
    agree(model_stock(MEMBERS, BASE), "model_stock")


@pytest.mark.parametrize(
    ("method", "case", "factor"),
    [
        (dare_norm, "dare_linear", 1.0),  # by default mergekit restores the L1 norm
        (dare_norm_ties, "dare_ties", 1.0),
        (dare, "dare_linear_unscaled", 2.0),  # 1 / p of the paper, which mergekit does not have
        (dare_ties, "dare_ties_unscaled", 2.0),
    ],
)
def test_dare_with_the_elements_that_mergekit_drew(method, case, factor, monkeypatch):
    theirs = load_file(FOLDER / f"{case}.safetensors")

    def drawn(seed, key, density):
        kept = theirs[f"{key}.kept"].flatten(1)
        assert 0 < kept.float().mean() < 1
        return lambda tau_KN: tau_KN * kept

    monkeypatch.setattr(trimming, "_thinning", drawn)
    agree(method(MEMBERS, BASE, density=0.5, scale=1.0), case, factor)


def test_sums_of_bfloat16_are_more_exact_than_in_bfloat16():
    states = [{key: leaf.bfloat16() for key, leaf in state.items()} for state in MEMBERS]
    exact = uniform([{key: leaf.double() for key, leaf in state.items()} for state in states])
    mine = uniform(states)
    assert all(torch.equal(mine[key], exact[key].bfloat16()) for key in exact)
