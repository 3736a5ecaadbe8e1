"""Learned soup: how much of each member is found by gradient descent on validation data.

Wortsman et al. 2022, Model soups, arXiv:2203.05482, section 2 and appendix I: the weights are the
softmax of free coefficients a, one per member, or per member and layer, and a minimises the loss of
Σ softmax(a)ᵢ θᵢ.  The chain rule needs no graph through the average, only the loss's gradient g at
it: ∂L/∂wᵢ = ⟨g, θᵢ⟩.
"""

import copy
import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ensemble.catalogue import method
from ensemble.errors import NonFiniteError, OptionError
from ensemble.functional import arguments
from ensemble.state import State, check, float_leaves, leafwise, mix, pieces


@method("learned-soup", mode="weights", paper="Wortsman et al. 2022, arXiv:2203.05482")
def learned_soup(
    states: Iterable[State],
    loss: Callable[[State], Tensor],
    *,
    steps: int = 50,
    rate: float = 0.1,
    by_layer: bool = False,
) -> dict[str, Tensor]:
    """Average with weights that minimise a differentiable validation loss.

    They start equal, are moved by Adam, and those of the lowest loss count: the result is never
    worse on the validation data than :func:`ensemble.average.uniform`.

    Args:
        states: the members.
        loss: maps a state to a differentiable scalar, lower is better, such as
            :func:`functional_loss` makes.  It is called steps + 1 times and must not change the
            state.
        steps: of Adam.
        rate: its learning rate; after n steps a coefficient has moved by at most about n x rate.
        by_layer: give each layer, all that is alike up to the last dot of its keys, weights of its
            own.

    Raises:
        OptionError: for negative steps, a rate that is not positive, or a loss without gradients.
        NonFiniteError: for NaN or infinity in a member, or in the loss of the uniform average.
        EnsembleError: as ``uniform`` does.

    >>> members = [{"w": torch.tensor([x])} for x in (0.0, 4.0)]
    >>> soup = learned_soup(members, lambda state: (state["w"] - 3).square().sum())
    >>> round(float(soup["w"]), 2)
    3.0
    """
    members = check(states)
    if steps < 0 or rate <= 0:
        raise OptionError(
            f"steps must be at least 0 and rate positive, however they are {steps} and {rate}"
        )
    layers = {key: key.rpartition(".")[0] if by_layer else "" for key in members[0]}
    rows = {layer: row for row, layer in enumerate(dict.fromkeys(layers.values()))}
    row = {key: rows[layer] for key, layer in layers.items()}
    free_LK = torch.zeros(len(rows), len(members), dtype=torch.float64, requires_grad=True)
    adam = torch.optim.Adam([free_LK], lr=rate)
    best_LK, lowest = free_LK.detach().clone(), math.inf
    for step in range(steps + 1):
        weight_LK = free_LK.softmax(1)
        value, slope_LK = _slope(members, loss, weight_LK.detach(), row)
        if not step and not math.isfinite(value):
            raise NonFiniteError(f"the loss of the average must be finite, however it is {value}")
        if value < lowest:
            best_LK, lowest = free_LK.detach().clone(), value
        if not slope_LK.isfinite().all():
            break
        adam.zero_grad()
        weight_LK.backward(slope_LK)  # type: ignore[no-untyped-call]
        adam.step()
    return _soup(members, best_LK.softmax(1), row)


def functional_loss(
    module: nn.Module, x: Tensor, y: Tensor, criterion: Callable[[Tensor, Tensor], Tensor]
) -> Callable[[State], Tensor]:
    """Return the function from a state to criterion(outputs, y), differentiable.

    ``module`` lends its architecture, is left as it was, and runs in eval mode.  Buffers count as
    constants: BatchNorm has no derivative by its statistics.  Raises :class:`StateMismatchError`
    for a state that does not fit the module.

    >>> loss = functional_loss(nn.Linear(1, 1), torch.ones(3, 1), torch.zeros(3, 1),
    ...                        nn.functional.mse_loss)
    >>> float(loss({"weight": torch.tensor([[2.0]]), "bias": torch.tensor([1.0])}))
    9.0
    """
    twin = copy.deepcopy(module).eval()
    fixed = {name for name, _ in twin.named_buffers()}

    def loss(state: State) -> Tensor:
        given = arguments(twin, state)
        given |= {name: given[name].detach() for name in fixed & given.keys()}
        return criterion(functional_call(twin, given, (x,)), y)

    return loss


def _soup(members: tuple[State, ...], weight_LK: Tensor, row: dict[str, int]) -> dict[str, Tensor]:
    table = weight_LK.tolist()
    return leafwise(members, lambda key, leaves: mix(leaves, table[row[key]]))


def _slope(
    members: tuple[State, ...],
    loss: Callable[[State], Tensor],
    weight_LK: Tensor,
    row: dict[str, int],
) -> tuple[float, Tensor]:
    """Return the loss of an average and its derivative (L, K) by the weights."""
    soup = _soup(members, weight_LK, row)
    keys = [key for key, _ in float_leaves(members)]
    for key in keys:
        soup[key].requires_grad_()  # tied leaves are one tensor
    with torch.enable_grad():
        value = loss(soup)
    if not value.requires_grad:
        raise OptionError(
            "loss must be differentiable by the state, however its value does not require gradients"
        )
    slopes = torch.autograd.grad(value, [soup[key] for key in keys], allow_unused=True)
    slope_LK = torch.zeros_like(weight_LK)
    for (key, leaves), slope in zip(float_leaves(members), slopes, strict=True):
        if slope is not None:
            real = torch.view_as_real(slope) if slope.is_complex() else slope
            for values_KN in pieces([*leaves, real]):
                slope_LK[row[key]] += (values_KN[:-1] @ values_KN[-1]).cpu()
    return float(value.detach()), slope_LK
