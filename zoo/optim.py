"""Optimisers over stacked parameters: each member has its own settings and its own step count.

The arithmetic is PyTorch's own: the fused kernels behind ``torch.optim.Adam(fused=True)`` and its
siblings, called on the rows of the stack, one call for all members with the same settings.  One
pass over memory makes them three to six times faster than the same formulas in tensor operations,
and they agree with ``torch.optim`` to the last bit.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from zoo.config import SGD, Adam, AdamW

Setting = SGD | Adam | AdamW
Rows = list[Tensor]


class Optimiser:
    """The optimiser of K members."""

    def __init__(self, settings: Sequence[Setting], flat_KP: Tensor) -> None:
        """Start with empty state.

        Args:
            settings: of each member; all of one kind.
            flat_KP: the parameters to be updated; only shape, dtype and device are used.
        """
        slots, self.rule = KINDS[settings[0].name]
        self.settings = list(settings)
        self.state = [torch.zeros_like(flat_KP) for _ in range(slots)]
        self.step_K = torch.zeros(len(flat_KP), device=flat_KP.device)

    def assign(self, k: int, setting: Setting) -> None:
        """Give place ``k`` to a new member: its settings, and empty state."""
        self.settings[k] = setting
        for array in (*self.state, self.step_K):
            array[k] = 0

    def take(self, members: list[int]) -> None:
        """Keep only the given members, in this order."""
        self.settings = [self.settings[k] for k in members]
        self.state = [array[members] for array in self.state]
        self.step_K = self.step_K[members]

    def update(self, flat_KP: Tensor, gradient_KP: Tensor) -> None:
        """Take one step: ``flat_KP`` is updated in place."""
        self.step_K += 1
        arrays = [flat_KP, gradient_KP, *self.state, self.step_K]
        rows = [array.unbind() for array in arrays]
        for setting in dict.fromkeys(self.settings):
            alike = [k for k, other in enumerate(self.settings) if other == setting]
            parameters, gradients, *state, steps = ([row[k] for k in alike] for row in rows)
            self.rule(setting, parameters, gradients, state, steps)


def _sgd(setting: SGD, parameters: Rows, gradients: Rows, state: list[Rows], _: Rows) -> None:
    """Momentum as in torch.optim.SGD: the first velocity is the gradient."""
    torch._fused_sgd_(
        parameters,
        gradients,
        state[0] if setting.momentum else [],
        weight_decay=setting.weight_decay,
        momentum=setting.momentum,
        lr=setting.lr,
        dampening=0.0,
        nesterov=setting.nesterov,
        maximize=False,
        is_first_step=False,  # the velocity starts at zero, which makes the first one the gradient
    )


def _adam(
    setting: Adam | AdamW, parameters: Rows, gradients: Rows, state: list[Rows], steps: Rows
) -> None:
    """Kingma & Ba 2015, Algorithm 1; or Loshchilov & Hutter 2019, Algorithm 2, decay apart."""
    first, second = state
    kernel = torch._fused_adam_ if isinstance(setting, Adam) else torch._fused_adamw_
    kernel(
        parameters,
        gradients,
        first,
        second,
        [],
        steps,
        lr=setting.lr,
        beta1=setting.betas[0],
        beta2=setting.betas[1],
        weight_decay=setting.weight_decay,
        eps=setting.eps,
        amsgrad=False,
        maximize=False,
    )


# name -> how many (K, P) arrays of state, and the rule
KINDS: dict[str, tuple[int, Callable[..., None]]] = {
    "sgd": (1, _sgd),
    "adam": (2, _adam),
    "adamw": (2, _adam),
}
