"""RegMean: the linear layer whose outputs are closest to those of every member on its own inputs.

Jin et al. 2023, Dataless knowledge fusion by merging weights of language models, arXiv:2212.09849,
equation 2: with the inputs Xᵢ of member i's layer and Gᵢ = XᵢᵀXᵢ,

    W = (Σ Gᵢ)⁻¹ Σ Gᵢ Wᵢ        (W as inputs x outputs)

after the elements of Gᵢ off its diagonal are multiplied by alpha < 1 (section 3.3).  All other
parameters are averaged.  It is solved, in float64, for the difference from the plain mean: where
inputs say nothing, such as pixels that are always black, the mean remains, and equal members come
back bit for bit.  Members of different initialisations have to be aligned first.
"""

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ensemble.catalogue import method
from ensemble.errors import OptionError
from ensemble.functional import Batch, arguments, inputs_of
from ensemble.state import State, check, check_known, leafwise, mix

ROOM = 1 << 22  # elements of the unfolded inputs that are held at once
SOUND = 1e-12  # of an input's square: what others leave of it beyond the rounding of sums


@method("regmean", mode="weights", paper="Jin et al. 2023, arXiv:2212.09849")
def regmean(
    states: Iterable[State], grams: Sequence[Mapping[str, Tensor]], *, alpha: float = 0.95
) -> dict[str, Tensor]:
    """Merge linear and convolutional layers by regression on their inputs, and average the rest.

    Args:
        states: the members.
        grams: for each member by the key of a layer's weight the Gram matrix of the layer's
            inputs, (inputs, inputs), or (groups, inputs, inputs) for a convolution; see
            :func:`gram_matrices`.
        alpha: what Gram matrices are multiplied by off their diagonals; 0 weighs every input by
            itself, 1 is plain regression.

    Raises:
        OptionError: where ``grams`` has not one mapping per member, or alpha is not from 0 to 1.
        StateMismatchError: listing all that differs between members, or from their matrices.
        NonFiniteError: for NaN or infinity in a member or its matrices.
        EmptyError: without members.

    >>> members = [{"weight": torch.tensor([[2.0, 0.0]])}, {"weight": torch.tensor([[0.0, 4.0]])}]
    >>> grams = [{"weight": torch.diag(torch.tensor(g))} for g in ([3.0, 0.0], [1.0, 0.0])]
    >>> regmean(members, grams)
    {'weight': tensor([[1.5000, 2.0000]])}
    """
    members = check(states)
    if not 0 <= alpha <= 1:
        raise OptionError(f"alpha must be from 0 to 1, however it is {alpha}")
    check_known(members, grams, "Gram matrix", _fits)
    count = len(members)

    def merge(key: str, leaves: Sequence[Tensor]) -> Tensor:
        if key not in grams[0]:
            return mix(leaves, [1 / count] * count)
        mean = mix([leaf.to(torch.float64) for leaf in leaves], [1 / count] * count)
        total, pull = torch.zeros(()), torch.zeros(())
        for leaf, gram in zip(leaves, (known[key] for known in grams), strict=True):
            gram_GDD = _damped(gram.to(leaf.device, torch.float64), alpha)
            groups, inputs = gram_GDD.shape[:2]
            away_GOD = (leaf.to(torch.float64) - mean).reshape(groups, -1, inputs)
            total, pull = total + gram_GDD, pull + gram_GDD @ away_GOD.mT
        return mean + _solved(total, pull).mT.reshape(mean.shape)

    return leafwise(members, merge)


@torch.no_grad()
def gram_matrices(module: nn.Module, state: State, batches: Iterable[Batch]) -> dict[str, Tensor]:
    """Return XᵀX of the inputs of every linear and convolutional layer, by its weight's key.

    It is (inputs, inputs), or (groups, inputs, inputs) for convolutions over one or two
    dimensions, where the inputs are those of a kernel and the rows all of its positions; float64.
    Layers that ``batches`` never reach are left out.

    Args:
        module: lends its architecture, and is left as it was.
        state: the weights, which the inputs of later layers depend on.
        batches: inputs with rows first, or sequences that start with one, on the device of the
            state; they pass through in eval mode.

    Raises:
        StateMismatchError: for a state that does not fit the module.
        EmptyError: without batches.

    >>> module = nn.Linear(2, 1)
    >>> gram_matrices(module, module.state_dict(), [torch.tensor([[1.0, 2.0], [0.0, 3.0]])])
    {'weight': tensor([[ 1.,  2.],
            [ 2., 13.]], dtype=torch.float64)}
    """
    twin = copy.deepcopy(module).eval()
    given = arguments(twin, state)
    found: dict[str, Tensor] = {}

    def watch(name: str, layer: nn.Module) -> None:
        def add(layer: nn.Module, given: tuple[Any, ...]) -> None:
            gram = _gram(layer, given[0])
            found[name] = found[name] + gram if name in found else gram

        layer.register_forward_pre_hook(add)

    for name, layer in twin.named_modules():
        if isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d):
            watch(f"{name}.weight" if name else "weight", layer)
    for x_N in inputs_of(batches, "Gram matrices need"):
        functional_call(twin, given, (x_N,))
    return found


def _gram(layer: nn.Module, x: Tensor) -> Tensor:
    if isinstance(layer, nn.Linear):
        rows_ND = x.reshape(-1, x.shape[-1]).to(torch.float64)
        return rows_ND.mT @ rows_ND
    assert isinstance(layer, nn.Conv1d | nn.Conv2d)
    planes = isinstance(layer, nn.Conv1d)
    one = (1,) if planes else ()
    size, stride = (*one, *layer.kernel_size), (*one, *layer.stride)
    dilation = (*one, *layer.dilation)
    x = nn.functional.pad(
        x,
        layer._reversed_padding_repeated_twice,
        "constant" if layer.padding_mode == "zeros" else layer.padding_mode,
    )
    x_NCHW = x.unsqueeze(-2) if planes else x
    inputs = layer.weight[0].numel()
    total_GDD = x.new_zeros(layer.groups, inputs, inputs, dtype=torch.float64)
    rows = max(1, ROOM // (x_NCHW[0].numel() * size[0] * size[1]))
    for some_NCHW in torch.split(x_NCHW, rows):
        columns_NDL = nn.functional.unfold(some_NCHW, size, dilation, 0, stride)
        columns_NGDL = columns_NDL.view(len(some_NCHW), layer.groups, inputs, -1)
        rows_GDM = columns_NGDL.permute(1, 2, 0, 3).flatten(2).to(torch.float64)
        total_GDD += rows_GDM @ rows_GDM.mT
    return total_GDD


def _damped(gram: Tensor, alpha: float) -> Tensor:
    gram_GDD = gram if gram.ndim == 3 else gram.unsqueeze(0)
    return alpha * gram_GDD + (1 - alpha) * torch.diag_embed(gram_GDD.diagonal(dim1=1, dim2=2))


def _solved(gram_GDD: Tensor, pull_GDO: Tensor) -> Tensor:
    """Solve for what the inputs determine; the rest is zero."""
    silent_GD = gram_GDD.diagonal(dim1=1, dim2=2) == 0
    sound_GDD = gram_GDD + torch.diag_embed(silent_GD.to(torch.float64))
    factor_GDD, failed_G = torch.linalg.cholesky_ex(sound_GDD)
    left_GD = factor_GDD.diagonal(dim1=1, dim2=2).square()
    sound_GD = left_GD > SOUND * sound_GDD.diagonal(dim1=1, dim2=2)
    if sound_GD.all() and not failed_G.any():
        return torch.cholesky_solve(pull_GDO, factor_GDD)
    solution: Tensor = torch.linalg.pinv(gram_GDD, rtol=SOUND, hermitian=True) @ pull_GDO
    return solution


def _fits(leaf: Tensor | None, gram: Tensor) -> bool:
    shape = gram.shape
    return (
        leaf is not None
        and leaf.ndim > 1
        and not leaf.is_complex()
        and len(shape) in (2, 3)
        and shape[-1] == shape[-2] == leaf[0].numel()
        and (len(shape) == 2 or len(leaf) % shape[0] == 0)
    )
