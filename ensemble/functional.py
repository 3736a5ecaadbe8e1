"""A module as a function of its state, and of batches."""

from collections.abc import Iterable, Iterator, Sequence
from typing import TypeAlias

from torch import Tensor, nn

from ensemble.errors import EmptyError, StateMismatchError
from ensemble.state import State, differences

Batch: TypeAlias = Tensor | Sequence[Tensor]


def refuse_misfit(module: nn.Module, states: Sequence[State]) -> None:
    """Refuse states that do not fit a module.

    Raises :class:`StateMismatchError` listing every difference.
    """
    names = [f"state #{k}" for k in range(len(states))] if len(states) > 1 else ["the state"]
    if found := differences([module.state_dict(), *states], ["the module", *names]):
        raise StateMismatchError("states must fit the module", found)


def inputs_of(batches: Iterable[Batch], what: str) -> Iterator[Tensor]:
    """Yield what a module is given of each batch: the first of several tensors.

    Raises :class:`EmptyError` where there is no batch; ``what`` needs one.
    """
    empty = True
    for batch in batches:
        yield batch if isinstance(batch, Tensor) else batch[0]
        empty = False
    if empty:
        raise EmptyError(f"{what} at least one batch, however none was given")


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
    refuse_misfit(module, [state])
    names = [name for name, _ in (*module.named_parameters(), *module.named_buffers())]
    return {name: state[name] for name in names if name in state}
