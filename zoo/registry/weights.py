"""Weights as bytes: safetensors whose header tells the whole story of the run."""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from zoo.errors import UnsafeFileError, ZooError
from zoo.registry import layout
from zoo.registry.values import to_json

if TYPE_CHECKING:
    from torch import Tensor

HEADER = "zoo"  # the key of the metadata that holds the card


def encode(
    state: Mapping[str, "Tensor"], card: Mapping[str, Any], owner: str, *, finite: bool = True
) -> bytes:
    """Write a state dict of any device and layout; ``card`` goes into the header as JSON.

    The same values give the same bytes.  Names that share memory (tied weights) are each written in
    full.

    Raises:
        ZooError: where a value is not finite, unless it may be; ``owner`` leads the message.
    """
    from safetensors.torch import save

    plain: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, value in state.items():
        tensor = value.detach().cpu().contiguous()
        broken = not_finite(tensor) if finite else 0
        if broken:
            raise ZooError(
                f"{owner}: weights must be finite, however {broken} of {tensor.numel()}"
                f" values of {name!r} are not; nothing was published"
            )
        storage = tensor.untyped_storage().data_ptr()
        plain[name] = tensor.clone() if storage in seen else tensor
        seen.add(storage)
    data = _settled(save(plain, metadata={"format": "pt", HEADER: to_json(card)}))
    layout.read(data, owner)  # what could not be read back is not written
    return data


def _settled(data: bytes) -> bytes:
    """Write metadata in the order of their keys: safetensors has none, and a digest needs one."""
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # so that the tensors are aligned
    return b"".join([len(text).to_bytes(8, "little"), text, memoryview(data)[end:]])


def not_finite(tensor: "Tensor") -> int:
    """Count the values that are NaN or infinite.

    >>> import torch
    >>> not_finite(torch.tensor([1.0, torch.nan]).to(torch.float8_e5m2))
    1
    """
    small = tensor.is_floating_point() and tensor.itemsize == 1  # isfinite knows none of these
    return tensor.numel() - int((tensor.float() if small else tensor).isfinite().sum())


def decode(data: bytes, owner: str = "weights") -> dict[str, "Tensor"]:
    """Read a state dict that :func:`encode` wrote, on the CPU.

    Raises:
        UnsafeFileError: where the header is not sound; ``owner`` leads the message.
    """
    from safetensors.torch import load

    layout.read(data, owner)
    return load(data)


def header(data: bytes, owner: str = "weights") -> dict[str, Any]:
    """Read the card that :func:`encode` wrote; empty where someone else wrote the file.

    Raises:
        UnsafeFileError: where the header is not sound, or its card is not an object.
    """
    return card_of(layout.read(data, owner), owner)


def card_of(found: layout.Layout, owner: str) -> dict[str, Any]:
    """Read the card in a header that was checked.

    Raises:
        UnsafeFileError: where it is not a JSON object.
    """
    try:
        card = layout.parse_json(found.metadata.get(HEADER, "{}").encode())
        if isinstance(card, dict):
            return card
    except ValueError:
        pass
    raise UnsafeFileError(f"{owner}: the key {HEADER!r} of its header must be a JSON object")
