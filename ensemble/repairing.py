"""REPAIR: give the units of an averaged network the statistics that its members' units have.

Averaging makes the sums that enter the units shrink: of K members whose sums agree by a correlation
r, the share (1 + (K - 1) r) / K of the variance is kept, and layer after layer less is left.
Jordan, Sedghi, Saukh, Entezari & Neyshabur 2022, REPAIR: REnormalizing Permuted Activations for
Interpolation Repair, arXiv:2211.08403, eqs. 2 and 3, set this right for each channel of each linear
and convolutional layer, before its activation.  With means μᵢ and standard deviations sᵢ of the
members, and m and s of their average,

    W' = W S/s,   b' = μ + (b - m) S/s,   where μ = Σ wᵢ μᵢ and S = Σ wᵢ sᵢ,

so that the result is a plain state of the same architecture.  Standard deviations are averaged, not
variances.  Three things differ from the paper's code:

* It inserts BatchNorm layers, and one pass in train mode normalises each batch by its own
  statistics.  Here that pass is the first.  Passes follow that measure all batches together, until
  no channel is off by a thousandth of its S, or every layer had its pass; so, without BatchNorm,
  the result does not depend on how rows are cut into batches.  A single batch is exact in one pass.
* The output layer is repaired too.  The average of 8 aligned MLPs 784-512-512-10 on MNIST-5k is
  right for 81.5 % of the test rows, 84.8 % repaired without and 92.4 % with it (its members: 93.7).
* The variance gets no small number added.  Channels whose s is below S/1000, or no more than what
  rounding makes of a constant, are dead: they keep their scale, and only their mean is set.
"""

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ensemble.errors import NonFiniteError, OptionError, listing
from ensemble.functional import Batch, inputs_of, refuse_misfit
from ensemble.layers import Layer, Transposed, axis, left
from ensemble.moments import Moments, moments
from ensemble.recalibration import norms, recalibrate, refuse_lone_values
from ensemble.shares import normalised
from ensemble.state import State, blend, check

DEAD = 1e-3  # of S: no average of fewer than a million members shrinks a live channel so far
CLOSE = 1e-3  # of S: what a channel may be off


class Repaired(dict[str, Tensor]):
    """A state that remembers how it was repaired; as a dict it loads like any other.

    ``layers`` are the names of those that were rescaled; of these, ``scaled`` have no bias, and so
    only their standard deviations were set.  ``left`` says of every other layer why it was not.
    """

    def __init__(
        self,
        state: State,
        layers: Iterable[str],
        scaled: Iterable[str],
        left: Mapping[str, str],
    ) -> None:
        super().__init__(state)
        self.layers = tuple(layers)
        self.scaled = tuple(scaled)
        self.left = dict(left)


class Goal(NamedTuple):
    """What the means and standard deviations of each channel shall be."""

    mean_C: Tensor
    std_C: Tensor


def repair(
    module: nn.Module,
    states: Iterable[State],
    merged: State,
    batches: Iterable[Batch],
    weights: Sequence[float] | Tensor | None = None,
) -> Repaired:
    """Return a copy of ``merged`` whose units have the members' mean statistics on ``batches``.

    This is all that an average needs before it is scored: BatchNorm's running statistics, where
    there are any, are re-estimated as by :func:`ensemble.recalibration.recalibrate`.  A layer that
    only BatchNorm reads is left: BatchNorm undoes whatever is done to it.  Left as well are layers
    that share parameters with others, whose weights are computed from others (parametrizations), or
    that are called several times, or not at all, for a batch.

    Everything is in eval mode but the average's BatchNorm.  ``module`` lends its architecture and
    is left as it was.

    Args:
        module: one that all states fit.
        states: the members, aligned if need be.
        merged: their average.
        batches: input tensors with rows first, or sequences that start with one, on the device of
            the states; they are gone through several times and held in memory.  A few thousand rows
            of the training data will do, in batches as large as memory allows.
        weights: of the members in the average; by default they are equal.

    Raises:
        StateMismatchError: for states that do not fit each other or the module.
        NonFiniteError: for states, or activations, that hold NaN or infinity.
        EmptyError: without members or batches.
        OptionError: for weights that are no weights, or a batch too small to have a variance.

    >>> module = nn.Sequential(nn.Linear(1, 1), nn.ReLU())
    >>> one = {"0.weight": torch.tensor([[1.0]]), "0.bias": torch.tensor([0.0])}
    >>> two = {"0.weight": torch.tensor([[3.0]]), "0.bias": torch.tensor([4.0])}
    >>> shrunk = {"0.weight": torch.tensor([[0.5]]), "0.bias": torch.tensor([1.0])}
    >>> state = repair(module, [one, two], shrunk, [torch.tensor([[-1.0], [1.0]])])
    >>> state, state.layers
    ({'0.weight': tensor([[2.]]), '0.bias': tensor([2.])}, ('0',))
    """
    return repairer(module, states, batches)(merged, weights)


@torch.no_grad()
def repairer(
    module: nn.Module, states: Iterable[State], batches: Iterable[Batch]
) -> Callable[..., Repaired]:
    """Measure the members once, and return what repairs averages of them.

    The function takes ``merged`` and, perhaps, ``weights``; see :func:`repair`, which is the same
    for a single average.

    >>> module = nn.Linear(1, 1, bias=False)
    >>> members = [{"weight": torch.tensor([[x]])} for x in (1.0, 3.0)]
    >>> repaired = repairer(module, members, [torch.tensor([[-1.0], [1.0]])])
    >>> repaired(members[0]), repaired(members[0], [1, 0]), repaired(members[0]).scaled
    ({'weight': tensor([[2.]])}, {'weight': tensor([[1.]])}, ('',))
    """
    members = check(states)
    refuse_misfit(module, members[:1])
    given = list(inputs_of(batches, "REPAIR needs"))
    reasons = left(module, _twin(module, members[0]), given[0][:2])
    layers = {n: m for n, m in module.named_modules() if isinstance(m, Layer) and n not in reasons}
    measured_K = [
        _measure(_twin(module, state), layers, given, f"member #{k}")
        for k, state in enumerate(members if layers else ())
    ]

    def repaired(merged: State, weights: Sequence[float] | Tensor | None = None) -> Repaired:
        (state,) = check([merged], ["the average"])
        refuse_misfit(module, [state])
        shares = normalised([1.0] * len(members) if weights is None else weights, len(members))
        told = {n: _goal([moments[n] for moments in measured_K], shares) for n in layers}
        result = _rescaled(module, blend([state], [1.0]), layers, told, given)
        scaled = [name for name, layer in layers.items() if layer.bias is None]
        return Repaired(recalibrate(module, result, given), layers, scaled, reasons)

    return repaired


@torch.no_grad()
def _rescaled(
    module: nn.Module,
    state: dict[str, Tensor],
    layers: Mapping[str, Layer],
    goals: Mapping[str, Goal],
    given: Sequence[Tensor],
) -> dict[str, Tensor]:
    """Rescale the layers of a state, in place, until their statistics are the goals."""
    for passed in range(len(layers)):
        twin = _twin(module, state)
        for norm in norms(twin):
            norm.train()
            norm.register_forward_pre_hook(refuse_lone_values)
        # In the first pass every layer reads what those before it shall give.
        found = _measure(twin, layers, given, "the average", {} if passed else goals)
        if passed and all(_is_close(layer, goals[n], found[n]) for n, layer in layers.items()):
            break
        for name, layer in layers.items():
            _fuse(state, name, layer, *_correction(layer, goals[name], found[name]))
        if len(given) == 1:  # its own statistics are those of all rows
            break
    return state


def _measure(
    twin: nn.Module,
    layers: Iterable[str],
    given: Iterable[Tensor],
    who: str,
    goals: Mapping[str, Goal] | None = None,
) -> dict[str, Moments]:
    """Measure what layers give, over all batches.

    Args:
        twin: the module; it is called, and must not be used again.
        layers: their names.
        given: the inputs of each batch.
        who: is measured, for errors.
        goals: of those layers that shall give each batch with these statistics.
    """
    found: dict[str, Moments] = {}

    def watch(name: str, layer: Layer, output: Tensor) -> Tensor | None:
        if not output.numel():
            return None
        channels = axis(layer, output)
        here = moments(output, channels)
        found[name] = found[name].plus(here) if name in found else here
        if not goals:
            return None
        gain_C, shift_C = (
            value.to(output.dtype).view(-1, *(1 for _ in output.shape[channels + 1 :]))
            for value in _correction(layer, goals[name], here)
        )
        return output * gain_C + shift_C

    for name in layers:
        twin.get_submodule(name).register_forward_hook(
            lambda layer, _, output, name=name: watch(name, layer, output)
        )
    for x_N in given:
        twin(x_N)
    for name in layers:
        count = found[name].values if name in found else 0
        if count < 2:
            raise OptionError(
                f"REPAIR needs two or more values per channel, however {name!r} gave {count}: "
                "give more rows"
            )
    bad = [repr(n) for n, own in found.items() if not bool(own.square_C.isfinite().all())]
    if bad:
        raise NonFiniteError(
            f"activations must be finite, however, in {who}, they are not: {listing(bad)}"
        )
    return found


def _fuse(
    state: dict[str, Tensor], name: str, layer: Layer, gain_C: Tensor, shift_C: Tensor
) -> None:
    """Let the weights of a layer multiply and move what it gives."""
    key = f"{name}." if name else ""
    weight = state[f"{key}weight"]
    if isinstance(layer, Transposed):  # (in, out / groups, ...): a group is a block of inputs
        blocks = weight.double().view(layer.groups, -1, *weight.shape[1:])
        gain = gain_C.view(layer.groups, 1, -1, *(1 for _ in weight.shape[2:]))
        scaled = (blocks * gain).flatten(0, 1)
    else:
        scaled = weight.double() * gain_C.view(-1, *(1 for _ in weight.shape[1:]))
    state[f"{key}weight"] = scaled.to(weight.dtype)
    if layer.bias is not None:
        bias = state[f"{key}bias"]
        state[f"{key}bias"] = (bias.double() * gain_C + shift_C).to(bias.dtype)


def _goal(moments_K: Sequence[Moments], shares: Sequence[float]) -> Goal:
    """Return Σ wᵢ μᵢ and Σ wᵢ sᵢ."""
    pairs = list(zip(moments_K, shares, strict=True))
    mean_C = torch.stack([moments.mean_C * share for moments, share in pairs]).sum(0)
    return Goal(mean_C, torch.stack([moments.std_C * share for moments, share in pairs]).sum(0))


def _correction(layer: Layer, goal: Goal, found: Moments) -> tuple[Tensor, Tensor]:
    """Return what each channel is to be multiplied by, and then moved by."""
    least_C = torch.maximum(DEAD * goal.std_C, _rounding(layer) * found.mean_C.abs())
    gain_C = torch.where(found.std_C > least_C, goal.std_C / found.std_C, 1.0)
    shift_C = goal.mean_C - found.mean_C * gain_C
    return gain_C, shift_C if layer.bias is not None else torch.zeros_like(shift_C)


def _is_close(layer: Layer, goal: Goal, found: Moments) -> bool:
    """Tell whether every channel has its goal, as far as the weights' precision allows."""
    gain_C, shift_C = _correction(layer, goal, found)
    most, rounding = max(CLOSE, 2 * _rounding(layer)), _rounding(layer)
    allowed_C = most * goal.std_C + rounding * goal.mean_C.abs()
    return bool(((gain_C - 1).abs() <= most).all() & (shift_C.abs() <= allowed_C).all())


def _rounding(layer: Layer) -> float:
    """Return the share of a number that its rounding to the weights' precision may add or take."""
    return 2 * torch.finfo(layer.weight.dtype).eps


def _twin(module: nn.Module, state: State) -> nn.Module:
    """Return a copy of the module that holds a copy of the state, in eval mode."""
    twin = copy.deepcopy(module).eval()
    twin.load_state_dict({key: leaf.clone() for key, leaf in state.items()}, assign=True)
    return twin
