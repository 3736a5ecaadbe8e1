"""BatchNorm statistics of an averaged state, estimated anew.

An average of weights does not have the average of the members' activations, so the running means
and variances it inherits are wrong.  Izmailov et al. 2018, Averaging weights leads to wider optima
and better generalization (SWA), arXiv:1803.05407, section 3.2: one more pass over training data.
"""

import copy
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ensemble.errors import NonFiniteError, OptionError, listing
from ensemble.functional import Batch, inputs_of, refuse_misfit
from ensemble.state import State, blend, is_finite


@torch.no_grad()
def recalibrate(module: nn.Module, state: State, batches: Iterable[Batch]) -> dict[str, Tensor]:
    """Return a copy of ``state`` whose BatchNorm statistics are those of ``batches``.

    Each batch is an input tensor with rows first, or a sequence that starts with one, on the
    device of the state.  Batches pass through in train mode for BatchNorm, each normalised by its
    own statistics, and in eval mode for all else, such as dropout.  Running means and variances
    become the averages of the batches' means and unbiased variances, weighted by the number of
    values behind each; with equal batches this is ``torch.optim.swa_utils.update_bn``.
    ``num_batches_tracked`` counts the batches.

    ``module`` lends its architecture and is left as it was.  A state without BatchNorm statistics
    is returned as a copy and ``batches`` is not touched.  Raises :class:`StateMismatchError` for a
    state that does not fit the module, :class:`EmptyError` without batches, :class:`OptionError`
    for a batch too small to have a variance, :class:`NonFiniteError` for statistics that are not
    finite.

    >>> norm = nn.BatchNorm1d(1)
    >>> state = recalibrate(norm, norm.state_dict(), [torch.tensor([[2.0], [4.0]])])
    >>> state["running_mean"], state["running_var"]
    (tensor([3.]), tensor([2.]))
    """
    refuse_misfit(module, [state])
    result = blend([state], [1.0])
    if not norms(module):
        return result
    twin = copy.deepcopy(module).eval()
    twin.load_state_dict(result, assign=True)
    values = dict.fromkeys(norms(twin), 0)

    def weigh(norm: _BatchNorm, given: tuple[Tensor, ...]) -> None:
        """Let this batch count by its share of the values seen so far."""
        refuse_lone_values(norm, given)
        here = given[0].numel() // norm.num_features
        if not values[norm]:
            norm.reset_running_stats()
        values[norm] += here
        norm.momentum = here / values[norm]

    for norm in values:
        norm.train()
        norm.register_forward_pre_hook(weigh)
    for x_N in inputs_of(batches, "BatchNorm needs"):
        twin(x_N)
    fresh = twin.state_dict()
    if bad := [repr(key) for key in state if not is_finite(fresh[key])]:
        raise NonFiniteError(f"the state must be finite after this, however: {listing(bad)}")
    return {key: fresh[key] for key in state}


def refuse_lone_values(norm: _BatchNorm, given: tuple[Tensor, ...]) -> None:
    """Refuse a batch that has no variance.

    Raises:
        OptionError: where it brings one value of a channel, or none.
    """
    values = given[0].numel() // norm.num_features
    if values < 2:
        raise OptionError(
            "BatchNorm needs two or more values per channel in every batch, however one of "
            f"shape {tuple(given[0].shape)} has {values}: drop it, or change the batch size"
        )


def norms(module: nn.Module) -> list[_BatchNorm]:
    """Return the layers of a module that have running statistics."""
    return [m for m in module.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]
