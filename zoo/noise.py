"""Random numbers as a function of a seed and a position, not of a hidden generator's state.

A member's dropout masks must not depend on who else is in the stack, on how far the others are, or
on what was drawn before a restart.  So every number is a hash of (the member's seed for this step,
the place of the draw in the network, the place of the number in the tensor), computed for all
members at once with the integer operations that every device has, giving the same bits on each.

The hash is the 32-bit finaliser "lowbias32" of C. Wellons' hash prospector (2018), whose avalanche
bias (0.17 %) is far below what a dropout mask could show.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
MASK = 0xFFFFFFFF


class Stream:
    """The draws of one forward pass, in the order in which the network makes them.

    Without a member axis (``alone``) the one member draws what it would draw within a stack.
    """

    def __init__(self, seed_K: Tensor, *, alone: bool = False) -> None:
        self.seed_K = seed_K
        self.alone = alone
        self.draws = 0

    def draw(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Carry out a random operation with numbers of this stream, or return None.

        Known are the operations of dropout and ``torch.rand_like``, on tensors (K, ...).
        """
        tensor = args[0] if args and isinstance(args[0], Tensor) else None
        if func not in KNOWN or tensor is None:
            return None
        shaped = tensor.unsqueeze(0) if self.alone else tensor
        if shaped.shape[:1] != self.seed_K.shape:
            return None
        self.draws += 1
        uniform = uniform_like(shaped, self.seed_K, self.draws).view(tensor.shape)
        if func is aten.rand_like.default:
            return uniform.to(kwargs.get("dtype") or tensor.dtype)
        probability = args[1] if len(args) > 1 else kwargs.get("p", 0.5)
        if func is aten.native_dropout.default:
            keep = uniform < 1 - probability
            return tensor * keep / (1 - probability), keep
        hit = uniform < probability
        return tensor.copy_(hit) if func is aten.bernoulli_.float else hit.to(tensor.dtype)


class Watcher(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch has no types here
    """Sees every operation that reaches the kernels."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Keep PyTorch from importing its compiler, which takes two seconds, at the first call."""
        return False


class Own(Watcher):
    """Lets a module that runs alone draw the numbers that it would draw within a stack."""

    def __init__(self, seed_1: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch has no types here
        self.stream = Stream(seed_1, alone=True)
        self.drew = self.from_generator = False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if not is_random(func, args):
            return func(*args, **kwargs)
        self.drew = True
        drawn = self.stream.draw(func, args, kwargs)
        self.from_generator |= drawn is None
        return func(*args, **kwargs) if drawn is None else drawn


def is_random(func: Any, args: tuple[Any, ...]) -> bool:
    """Tell whether an operation draws random numbers; attention without dropout does not."""
    if torch.Tag.nondeterministic_seeded not in func.tags:
        return False
    for position, argument in enumerate(func._schema.arguments):
        if argument.name == "dropout_p":
            return bool(args[position] if position < len(args) else argument.default_value)
    return True


KNOWN = {
    aten.bernoulli.p,
    aten.bernoulli_.float,
    aten.native_dropout.default,
    aten.rand_like.default,
}


def uniform_like(tensor: Tensor, seed_K: Tensor, draw: int) -> Tensor:
    """Return float32 numbers in [0, 1), shape of ``tensor`` (K, ...), hashed from seed and place.

    >>> seed_K = torch.tensor([7, 8, 7])
    >>> u = uniform_like(torch.empty(3, 1000), seed_K, draw=1)
    >>> bool((u[0] == u[2]).all()), bool((u[0] == u[1]).any()), 0.45 < u.mean().item() < 0.55
    (True, False, True)
    """
    shape = tensor.shape
    place = torch.arange(shape[1:].numel(), dtype=torch.int32, device=tensor.device)
    place_1D = _hash(place + _wrap(draw * 0x9E3779B9)).unsqueeze(0)
    seed_K1 = _hash(_hash(seed_K.to(torch.int32)) ^ _wrap(draw * 0x85EBCA6B)).unsqueeze(1)
    bits = _hash(place_1D ^ seed_K1)
    return ((bits >> 8) & 0xFFFFFF).to(torch.float32).mul(2**-24).view(shape)


def normal_like(tensor: Tensor, seed_K: Tensor, draw: int) -> Tensor:
    """Return standard normal numbers, shape of ``tensor`` (K, ...), from :func:`uniform_like`.

    >>> z = normal_like(torch.empty(1, 20_000), torch.tensor([7]), draw=1)
    >>> bool(z.mean().abs() < 0.02), bool((z.std() - 1).abs() < 0.02), bool(z.isfinite().all())
    (True, True, True)
    """
    odd = 2 * uniform_like(tensor, seed_K, draw) - 1 + 2**-24  # never -1 or 1: 24 bits are drawn
    return torch.erfinv(odd) * math.sqrt(2)


def _hash(x: Tensor) -> Tensor:
    """Mix int32 bits (lowbias32); the shifts are arithmetic, so the copies of the sign are cut."""
    x = (x ^ ((x >> 16) & 0xFFFF)) * 0x7FEB352D
    x = (x ^ ((x >> 15) & 0x1FFFF)) * _wrap(0x846CA68B)
    return x ^ ((x >> 16) & 0xFFFF)


def _wrap(value: int) -> int:
    """Bring a number into the range of int32, as the hardware would."""
    return ((value + 2**31) & MASK) - 2**31
