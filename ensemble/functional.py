"""A module as a function of its state."""

from torch import Tensor, nn

from ensemble.errors import StateMismatchError
from ensemble.state import State, differences


def arguments(module: nn.Module, state: State) -> dict[str, Tensor]:
    """Return what ``torch.func.functional_call`` needs of a state, which is checked to fit.

    Of tied weights it takes one name alone, since it tells by identity whether they agree, and a
    state dict has a tensor for each.  Raises :class:`StateMismatchError` listing every difference.

    >>> import torch
    >>> net = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False))
    >>> net[1].weight = net[0].weight
    >>> arguments(net, {"0.weight": torch.ones(1, 1), "1.weight": torch.ones(1, 1)})
    {'0.weight': tensor([[1.]])}
    """
    if found := differences([module.state_dict(), state], ["the module", "the state"]):
        raise StateMismatchError("the state must fit the module", found)
    names = [name for name, _ in (*module.named_parameters(), *module.named_buffers())]
    return {name: state[name] for name in names if name in state}
