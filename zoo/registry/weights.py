"""Weights as bytes: safetensors whose header tells the whole story of the run."""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from zoo.errors import ZooError

if TYPE_CHECKING:
    from torch import Tensor

# One header key, because safetensors writes several in no fixed order.
HEADER = "zoo"


def encode(
    state: Mapping[str, "Tensor"], card: Mapping[str, Any], owner: str, *, finite: bool = True
) -> bytes:
    """Write a state dict of any device and layout; ``card`` goes into the header as JSON.

    Names that share memory (tied weights) are each written in full.

    Raises:
        ZooError: where a value is not finite, unless it may be; ``owner`` leads the message.
    """
    from safetensors.torch import save
    from torch import isfinite

    plain: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, value in state.items():
        tensor = value.detach().cpu().contiguous()
        broken = tensor.numel() - int(isfinite(tensor).sum()) if finite else 0
        if broken:
            raise ZooError(
                f"{owner}: weights must be finite, however {broken} of {tensor.numel()}"
                f" values of {name!r} are not; nothing was published"
            )
        storage = tensor.untyped_storage().data_ptr()
        plain[name] = tensor.clone() if storage in seen else tensor
        seen.add(storage)
    return save(plain, metadata={"format": "pt", HEADER: json.dumps(card)})


def decode(data: bytes) -> dict[str, "Tensor"]:
    """Read a state dict that :func:`encode` wrote, on the CPU."""
    from safetensors.torch import load

    return load(data)


def header(data: bytes) -> dict[str, Any]:
    """Read the card that :func:`encode` wrote; empty where someone else wrote the file."""
    length = int.from_bytes(data[:8], "little")
    metadata = json.loads(data[8 : 8 + length]).get("__metadata__", {})
    card: dict[str, Any] = json.loads(metadata.get(HEADER, "{}"))
    return card
