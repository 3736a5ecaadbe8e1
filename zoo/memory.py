"""How many members fit into memory."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo import noise
from zoo.program import leaves, storage

SHARE = 0.5  # of the free memory that a stack may take: estimates err, and others live here too
COPIES = 8  # of a member's parameters: weights, best, gradient, optimiser, averages, states
CGROUP = Path("/sys/fs/cgroup")


class Footprint(noise.Watcher):
    """Adds up the bytes of all results that operations allocate; an upper bound of their peak."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch has no types here
        self.bytes: int = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        known = set(map(storage, leaves((args, kwargs), Tensor)))
        self.bytes += sum(t.nbytes for t in leaves(result, Tensor) if storage(t) not in known)
        return result


def most_members(bytes_each: int, device: torch.device) -> int:
    """Say how many members of that size the device has room for; at least one."""
    return max(1, int(available(device) * SHARE) // max(bytes_each, 1))


def available(device: torch.device) -> int:
    """Return the bytes that are free on a device; on a CPU, within the limits of a container."""
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + cached
    free = [1 << 62]
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free += [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")]
        limit = (CGROUP / "memory.max").read_text().strip()
        if limit != "max":
            told = dict(map(str.split, (CGROUP / "memory.stat").read_text().splitlines()))
            used = int((CGROUP / "memory.current").read_text())
            # Pages of files that nobody has used lately are given back when they are needed.
            free.append(int(limit) - used + int(told.get("inactive_file", 0)))
    except (OSError, ValueError):  # another system: what could be read stands
        pass
    return max(0, min(free))


def is_exhausted(error: BaseException) -> bool:
    """Tell whether an error means that memory ran out."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
