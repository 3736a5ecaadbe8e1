"""Learning-rate schedules: the factor that a member's learning rate is multiplied by at a step.

A schedule is a function of how far the member is, in epochs, of how long it may train, and, for
``plateau``, of the validation losses so far.  It keeps no state, so a resumed member goes on with
the factor it would have had, and members of one stack may each be at another place of theirs.
"""

import math
from collections.abc import Sequence

from zoo.sections import ScheduleConfig


def factor(
    schedule: ScheduleConfig, epoch: float, epochs: int, losses: Sequence[float], step: float = 0.0
) -> float:
    """Return the share of the learning rate for a step.

    - ``cosine``: from 1 to ``final`` along half a cosine (Loshchilov & Hutter 2017, SGDR,
      arXiv:1608.03983, eq. 5, without restarts).
    - ``step``: times ``factor`` after every ``every`` epochs.
    - ``one-cycle``: from ``start`` up to 1 and down to ``final``, both along half a cosine (Smith &
      Topin 2018, Super-convergence, arXiv:1708.07120); the momentum stays as it is.
    - ``plateau``: times ``factor`` whenever ``patience`` epochs passed, since the last fall too,
      without a lower loss than the lowest so far.

    ``warmup`` rises linearly over so many epochs and then hands over: what follows is as long as
    the epochs that are left.

    Args:
        schedule: the settings.
        epoch: epochs done when the step begins, with fractions: 0 for the first step.
        epochs: the most epochs that the member may train.
        losses: the validation loss of every epoch done.
        step: how long a step is, in epochs; a warm-up counts the step it is for.

    >>> cosine = ScheduleConfig(name="cosine", warmup=2.0, final=0.1)
    >>> [round(factor(cosine, epoch, 10, []), 3) for epoch in (0.0, 1.0, 2.0, 6.0, 10.0)]
    [0.0, 0.5, 1.0, 0.55, 0.1]
    """
    if epoch + step < schedule.warmup:
        return (epoch + step) / schedule.warmup
    done = max(0.0, epoch - schedule.warmup)
    share = min(1.0, done / max(epochs - schedule.warmup, 1e-9))
    match schedule.name:
        case "constant":
            return 1.0
        case "cosine":
            return _glide(1.0, schedule.final, share)
        case "step":
            return float(schedule.factor ** (done // schedule.every))
        case "one-cycle":
            if share < schedule.rise:
                return _glide(schedule.start, 1.0, share / schedule.rise)
            return _glide(1.0, schedule.final, (share - schedule.rise) / (1 - schedule.rise))
        case "plateau":
            return float(schedule.factor ** _falls(losses, schedule.patience))


def _glide(start: float, end: float, share: float) -> float:
    """Go from ``start`` to ``end`` along half a cosine."""
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2


def _falls(losses: Sequence[float], patience: int) -> int:
    """Count how often ``patience`` epochs in a row brought no lower loss.

    >>> _falls([3.0, 2.0, 2.5, 2.5, 2.5, 2.5], patience=2)
    2
    """
    falls, waited, lowest = 0, 0, math.inf
    for loss in losses:
        waited = 0 if loss < lowest else waited + 1
        lowest = min(lowest, loss)
        if waited >= patience:
            falls, waited = falls + 1, 0
    return falls
