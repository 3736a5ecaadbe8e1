"""What is kept of task vectors; see :mod:`ensemble.task_vectors` for whence it comes."""

import hashlib
from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from ensemble.errors import OptionError
from ensemble.ranks import kth_largest
from ensemble.shares import whole
from ensemble.state import pieces

Trimmed: TypeAlias = Callable[[Tensor], Tensor]
"""Some elements of task vectors (K, n) -> what is kept of them; called in the elements' order."""
Trim: TypeAlias = Callable[[str, Sequence[Tensor], Tensor], Trimmed]
"""Key, members' leaves and base -> how their task vectors are trimmed."""


def everything(key: str, leaves: Sequence[Tensor], base: Tensor) -> Trimmed:
    """Keep task vectors as they are."""
    return lambda tau_KN: tau_KN


def largest(density: float, gamma: float) -> Trim:
    """Keep a share of the elements, the largest ones that are left without a share ``gamma``.

    Raises :class:`OptionError` for a share out of range.
    """
    _refuse_density(density)
    if not 0 <= gamma < 1:
        raise OptionError(f"gamma must be at least 0 and below 1, however it is {gamma}")

    def trim(key: str, leaves: Sequence[Tensor], base: Tensor) -> Trimmed:
        count = base.numel()
        kept = max(1, whole(density, count))
        dropped = min(whole(gamma, count), count - kept)
        least_K = kth_largest(leaves, base, dropped + kept)
        # What hardshrink leaves is strictly larger, and what equals the least is to be kept.
        below_K = least_K.nextafter(torch.zeros_like(least_K)).tolist()
        if not dropped:
            return lambda tau_KN: _above(tau_KN, below_K)
        most_K = kth_largest(leaves, base, dropped + 1).tolist()
        return lambda tau_KN: _above(tau_KN, below_K) - _above(tau_KN, most_K)

    return trim


def _above(tau_KN: Tensor, bound_K: Sequence[float]) -> Tensor:
    """Keep what is larger than each member's bound, whatever its sign."""
    kept_KN = torch.empty_like(tau_KN)
    for kept_N, tau_N, bound in zip(kept_KN, tau_KN, bound_K, strict=True):
        torch.hardshrink(tau_N, bound, out=kept_N)
    return kept_KN


def random(density: float, seed: int, norm: bool) -> Trim:
    """Keep each element by chance; then divide by it, or restore the L1 norm with ``norm``.

    Raises :class:`OptionError` for a density out of range.
    """
    _refuse_density(density)

    def trim(key: str, leaves: Sequence[Tensor], base: Tensor) -> Trimmed:
        thin = _thinning(seed, key, density)
        factor_K1: Tensor | float = 1 / density
        if norm:
            factor_K1 = _lost(leaves, base, _thinning(seed, key, density))
        return lambda tau_KN: thin(tau_KN) * factor_K1

    return trim


def _lost(leaves: Sequence[Tensor], base: Tensor, thin: Trimmed) -> Tensor:
    """Return how often the L1 norm (K, 1) of what is kept goes into that of the whole."""
    whole_K1 = torch.zeros(len(leaves), 1, dtype=torch.float64, device=base.device)
    kept_K1 = whole_K1.clone()
    for values_KN in pieces([*leaves, base]):
        tau_KN = values_KN[:-1] - values_KN[-1]
        whole_K1 += tau_KN.abs().sum(1, keepdim=True)
        kept_K1 += thin(tau_KN).abs().sum(1, keepdim=True)
    return whole_K1 / kept_K1.where(kept_K1 > 0, 1.0)


def _thinning(seed: int, key: str, density: float) -> Trimmed:
    """Return the function that drops elements of the pieces (K, n) that it is called with."""
    generators: list[torch.Generator] = []

    def thin(tau_KN: Tensor) -> Tensor:
        for member in range(len(generators), len(tau_KN)):
            name = f"{seed}:{member}:{key}".encode()
            number = int.from_bytes(hashlib.blake2b(name, digest_size=8).digest())
            generators.append(torch.Generator().manual_seed(number >> 1))
        chance_KN = torch.stack([torch.rand(tau_KN.shape[1], generator=g) for g in generators])
        return torch.where(chance_KN.to(tau_KN.device) < density, tau_KN, 0.0)

    return thin


def _refuse_density(density: float) -> None:
    if not 0 < density <= 1:
        raise OptionError(f"density must be above 0 and at most 1, however it is {density}")
