"""Two ways to compute the gradients and outputs of a stack, and what they have in common.

:class:`~zoo.stacked.Stacked` runs all members in one program, recorded once per shape.
:class:`~zoo.sequential.Sequential` runs them one after another as ordinary modules whose parameters
are the rows of the stack.  Both leave the arithmetic of the loss and of autograd to PyTorch and
agree to float tolerance.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal, Protocol

import torch
import torch.nn.functional as F  # noqa: N812  # its name everywhere
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from zoo.memory import Footprint
from zoo.stack import Stack

EVALUATION_ROWS = 512  # at a time, at most
LEAST_ROWS = 8  # at a time, whatever they take
CACHED = 1 << 26  # bytes of what all operations on the rows at a time make: more leave the caches
EngineName = Literal["stacked", "sequential"]
Precision = Literal["float32", "bfloat16"]
Knobs = Mapping[str, Tensor]
Prepare = Callable[[Tensor], Tensor]


class Engine(Protocol):
    """What the training loop asks of an engine; threads may share one, each with its own stack.

    Attributes:
        records: whether each width of the stack costs a recording.
        probe: how many members must be timed to know the speed of all.
        shares_generator: whether a step was seen to draw from PyTorch's one generator, so that
            threads would draw each other's numbers.
        prepare: makes float32 of rows that are held as bytes, and leaves others as they are; all
            but ``step`` does it to each portion.
    """

    name: EngineName
    records: bool
    probe: int
    shares_generator: bool
    prepare: Prepare

    def step(
        self, stack: Stack, x_KN: Tensor, y_KN: Tensor, seed_K: Tensor, knobs: Knobs
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Run one training batch per member, updating the stack's buffers in place.

        Args:
            stack: the members.
            x_KN: float32 (K, N, *shape), one batch per member.
            y_KN: (K, N), or (K, N, T) where there are several, its targets.
            seed_K: int64 (K,), seeds of the step's random numbers (dropout).
            knobs: what the loss takes besides: (K,), or (K, C) by class, or like the targets.

        Returns:
            loss (K,), score (K,), and the gradient of each member's own loss (K, P).
        """
        ...

    def evaluate(self, stack: Stack, x_N: Tensor, *told: Tensor) -> Tensor:
        """Return every member's figures (F, K) over the rows, in evaluation mode.

        They are those of :meth:`zoo.objective.Objective.figures`: loss, score and perhaps one more.
        ``told`` are the targets of the rows and perhaps, rows first too, what a teacher says.
        """
        ...

    def outputs(self, stack: Stack, x_N: Tensor) -> Tensor:
        """Return the outputs (K, N, C) of every member, in evaluation mode, for the rows."""
        ...

    def normalise(self, stack: Stack, x_N: Tensor) -> None:
        """Overwrite BatchNorm's statistics with those of the rows, of each member anew.

        Rows pass in portions; a running mean or variance becomes the mean over the portions,
        weighted by their rows (with equal ones that of ``torch.optim.swa_utils.update_bn``).
        """
        ...


def portions(x_N: Tensor, most: int = EVALUATION_ROWS) -> tuple[Tensor, ...]:
    """Cut rows into nearly equal portions."""
    return x_N.tensor_split(max(1, -(-len(x_N) // most)))


def row_bytes(module: nn.Module, x_N: Tensor) -> int:
    """Return what the operations on each row make, of a module in evaluation mode on a CPU."""
    if x_N.is_cuda:
        return 0
    made = Footprint()
    with torch.no_grad(), made:
        module(x_N)
    return made.bytes // max(1, len(x_N))


def cached_rows(each: int) -> int:
    """Return how many rows of so many bytes each to compute at a time.

    >>> cached_rows(0), cached_rows(1 << 18), cached_rows(1 << 30)
    (512, 256, 8)
    """
    return min(EVALUATION_ROWS, max(LEAST_ROWS, CACHED // max(1, each)))


def as_is(tensor: Tensor) -> Tensor:
    """Return the very tensor."""
    return tensor


def weighted_mean(measured: Sequence[tuple[int, Tensor]]) -> Tensor:
    """Average the figures (F, K) of portions, each weighing as many rows as it has."""
    rows = sum(count for count, _ in measured)
    return torch.stack([figures_FK * (count / rows) for count, figures_FK in measured]).sum(0)


class Bfloat16(TorchFunctionMode):
    """Computes products in bfloat16, and what is sensitive in float32; weights stay float32.

    ``torch.autocast`` is the same idea, but under ``vmap`` it misses some products, such as those
    with a bias, and hands BatchNorm inputs of another type than its statistics have.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func in PRODUCTS:
            args, kwargs = _cast((args, kwargs), torch.bfloat16)
        elif func in SENSITIVE:
            args, kwargs = _cast((args, kwargs), torch.float32)
        return func(*args, **(kwargs or {}))


def _cast(values: Any, dtype: torch.dtype) -> Any:
    return pytree.tree_map_only(
        Tensor, lambda x: x.to(dtype) if x.is_floating_point() else x, values
    )


def casting(precision: Precision) -> AbstractContextManager[object]:
    """Let products inside the block use a precision; weights are cast anew at each use."""
    return Bfloat16() if precision == "bfloat16" else nullcontext()


PRODUCTS = {
    F.linear,
    F.bilinear,
    F.conv1d,
    F.conv2d,
    F.conv3d,
    F.conv_transpose1d,
    F.conv_transpose2d,
    F.conv_transpose3d,
    F.scaled_dot_product_attention,
    F.multi_head_attention_forward,
    torch.matmul,
    torch.mm,
    torch.bmm,
    torch.addmm,
    torch.baddbmm,
    torch.einsum,
    Tensor.matmul,
    Tensor.__matmul__,
    Tensor.mm,
    Tensor.bmm,
}
SENSITIVE = {
    F.batch_norm,
    F.layer_norm,
    F.group_norm,
    F.instance_norm,
    F.rms_norm,
    F.softmax,
    F.log_softmax,
    torch.softmax,
    torch.log_softmax,
    Tensor.softmax,
    Tensor.log_softmax,
}


def for_statistics(module: nn.Module) -> nn.Module:
    """Make a module take over the statistics of each batch, and change in nothing else."""
    for part in module.eval().modules():
        if isinstance(part, _BatchNorm):
            part.train()
            part.momentum = 1.0
    return module


def statistics(module: nn.Module, names: Iterable[str]) -> list[str]:
    """Name the buffers, among ``names``, that hold BatchNorm's running means and variances."""
    prefixes = {name for name, part in module.named_modules() if isinstance(part, _BatchNorm)}
    return [
        name
        for name in names
        if name.rpartition(".")[0] in prefixes and name.endswith(("running_mean", "running_var"))
    ]
