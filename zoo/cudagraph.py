"""A recorded program as one CUDA graph: all its kernels start with a single launch.

On a GPU a step of small networks takes as long as Python needs to start its kernels, one by one,
whatever the width of the stack.  A graph starts them all at once (``torch.cuda.graph``).
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


class Graph:
    """A program that is bound to its places in memory.

    Args:
        program: takes ``(*fixed, *given)`` and returns tensors; reads no value back to the host.
        fixed: inputs that are used, and written, where they lie.
        given: inputs whose values are copied to places of the graph's own at every call.
    """

    def __init__(
        self,
        program: Callable[..., list[Tensor]],
        fixed: Sequence[Tensor],
        given: Sequence[Tensor],
    ) -> None:
        self.program, self.fixed = program, fixed  # whose memory must live as long as the graph
        self.given = [tensor.clone() for tensor in given]
        before = [tensor.clone() for tensor in fixed]
        stream = torch.cuda.Stream(given[0].device)  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream(given[0].device))
        with torch.cuda.stream(stream):  # libraries plan, and allocate, at their first call
            program(*fixed, *self.given)
        torch.cuda.current_stream(given[0].device).wait_stream(stream)
        for tensor, value in zip(fixed, before, strict=True):  # the call has counted as a step
            tensor.copy_(value)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph, capture_error_mode="thread_local"):
            self.results = program(*fixed, *self.given)

    def __call__(self, *given: Tensor) -> list[Tensor]:
        """Run the program; the results are overwritten by the next call."""
        torch._foreach_copy_(self.given, list(given))
        self.graph.replay()
        return self.results
