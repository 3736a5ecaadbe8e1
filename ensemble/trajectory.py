"""Averages over the checkpoints of one training, given from the earliest to the latest.

- EMA: θ ← d θ + (1 - d) θₜ from θ = θ₁ (Polyak & Juditsky 1992 with exponential weights;
  Morales-Brotons et al. 2024, Exponential moving average of weights in deep learning,
  arXiv:2411.18704, equation 1).
- SWA: the mean of all (Izmailov et al. 2018, Averaging weights leads to wider optima and better
  generalization, arXiv:1803.05407, Algorithm 1).
- LAWA: the mean of the latest k (Kaddour 2022, Stop wasting my time! Saving days of ImageNet and
  BERT training with latest weight averaging, arXiv:2209.14981).

They agree with ``torch.optim.swa_utils.AveragedModel`` to the rounding of its float32 sums; like
there, integer leaves are those of the latest checkpoint.  BatchNorm statistics want
:func:`ensemble.recalibration.recalibrate` afterwards.
"""

from collections.abc import Iterable

from torch import Tensor

from ensemble.catalogue import method
from ensemble.errors import OptionError
from ensemble.state import State, blend, check


@method("ema", mode="weights", paper="Morales-Brotons et al. 2024, arXiv:2411.18704", ordered=True)
def ema(states: Iterable[State], *, decay: float = 0.9) -> dict[str, Tensor]:
    """Average checkpoints with weights that decay exponentially into the past.

    ``decay`` is d above, from 0 (the latest alone) to 1 (the earliest alone).  Between checkpoints
    of epochs it is smaller than the 0.999 that is usual between steps.  Raises as
    :func:`ensemble.average.uniform` does, and :class:`OptionError` for a decay out of range.

    >>> import torch
    >>> ema([{"w": torch.tensor(x)} for x in (0.0, 4.0, 8.0)], decay=0.5)
    {'w': tensor(5.)}
    """
    members = check(states)
    if not 0 <= decay <= 1:
        raise OptionError(f"decay must be from 0 to 1, however it is {decay}")
    last = len(members) - 1
    weights = [(1 - decay) * decay ** (last - i) for i in range(1, last + 1)]
    return _latest(members, [decay**last, *weights])


@method("swa", mode="weights", paper="Izmailov et al. 2018, arXiv:1803.05407", ordered=True)
def swa(states: Iterable[State]) -> dict[str, Tensor]:
    """Average all checkpoints with equal weights.

    Raises as :func:`ensemble.average.uniform` does, from which it differs in the integer leaves.

    >>> import torch
    >>> swa([{"w": torch.tensor(2.0), "steps": torch.tensor(n)} for n in (10, 20)])
    {'w': tensor(2.), 'steps': tensor(20)}
    """
    members = check(states)
    return _latest(members, [1 / len(members)] * len(members))


@method("lawa", mode="weights", paper="Kaddour 2022, arXiv:2209.14981", ordered=True)
def lawa(states: Iterable[State], *, k: int = 5) -> dict[str, Tensor]:
    """Average the latest k checkpoints, or all where there are fewer.

    Raises as :func:`ensemble.average.uniform` does, and :class:`OptionError` for k below one.

    >>> import torch
    >>> lawa([{"w": torch.tensor(x)} for x in (0.0, 4.0, 8.0)], k=2)
    {'w': tensor(6.)}
    """
    members = check(states)
    if k < 1:
        raise OptionError(f"k must be at least 1, however it is {k}")
    return swa(members[-k:])


def _latest(members: tuple[State, ...], weights: list[float]) -> dict[str, Tensor]:
    """Average, and take from the latest what is not averaged."""
    return blend(members[::-1], weights[::-1])
