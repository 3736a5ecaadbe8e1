"""Many models of one architecture, run together on the same rows."""

import copy
from collections.abc import Sequence

from torch import nn

from ensemble.errors import EmptyError
from ensemble.functional import refuse_misfit
from ensemble.state import State
from zoo.inference import Inference


def forward_many(module: nn.Module, states: Sequence[State]) -> Inference:
    """Return the function from rows (N, *shape) to what a module returns with each of K states.

    It returns (K, N, ...), computed without gradients, in evaluation mode, in the way that is the
    fastest for so many rows on this machine: all members in one recorded program, some rows at a
    time, or a plain loop.  That is measured for each doubling of N, once a tenth of a second has
    been spent on it, or at once by ``tune(x_N)``; it is never slower than the loop but for that.
    All ways agree to float tolerance.  Modules that cannot be recorded are looped over.

    Args:
        module: lends its architecture, and is left as it was; it returns one tensor, rows first.
        states: K state dicts that fit it, on the device of the rows; they are copied.

    Raises:
        EmptyError: without states.
        StateMismatchError: listing all in which a state does not fit the module.

    >>> import torch
    >>> module = nn.Linear(1, 1)
    >>> states = [{"weight": torch.tensor([[w]]), "bias": torch.zeros(1)} for w in (1.0, 2.0)]
    >>> forward_many(module, states)(torch.tensor([[1.0], [10.0]])).squeeze(2)
    tensor([[ 1., 10.],
            [ 2., 20.]])
    """
    if not states:
        raise EmptyError("there must be at least one state, however none was given")
    refuse_misfit(module, states)
    modules = []
    for state in states:
        own = copy.deepcopy(module)
        own.load_state_dict(state)
        modules.append(own)
    return Inference(modules)
