"""Weights from anywhere, read without trust: ``.safetensors``, ``.pt``, sharded folders.

What a file claims is checked before anything is allocated for it; see
:mod:`zoo.registry.layout` and :mod:`zoo.exchange.symbols`.
"""

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from io import BufferedReader
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.errors import UnsafeFileError, UsageError
from zoo.exchange import archive, symbols
from zoo.exchange.choosing import candidates, choose, stripped
from zoo.exchange.opening import CONFIG, INDEX, MOST_JSON, opened, read_json, shards
from zoo.registry import layout
from zoo.registry.records import digest
from zoo.registry.weights import HEADER, card_of

if TYPE_CHECKING:
    from torch import Tensor

MOST_CONFIG = 1 << 20  # bytes of a config.json that is kept
MOST_PICKLE = 16 << 20  # bytes
EXPANSION = 4  # times the bytes of the file that its tensors may take, sharing storages
PICKLES = (".pt", ".pth", ".ckpt", ".bin")
ZIP = b"PK\x03\x04"


@dataclass(frozen=True)
class Weights:
    """Weights that were read.

    Attributes:
        state: on the CPU.
        source: where they come from, as data: file, format, SHA-256, what was chosen and stripped.
        card: what this toolkit noted in a file that it wrote; empty otherwise.
        notes: what the user should know, a sentence each.
    """

    state: dict[str, "Tensor"]
    source: dict[str, Any]
    card: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def read_weights(path: str | Path, *, key: str | None = None, strip: Sequence[str] = ()) -> Weights:
    """Read weights from a file, or a folder of Hugging Face; nothing in it is executed.

    Args:
        path: ``.safetensors``; what ``torch.save`` wrote (told by its content, not its name); or a
            folder with ``model.safetensors.index.json`` or one ``.safetensors``.
        key: where in a checkpoint the weights are, such as ``state_dict``; needed where there are
            several sets.
        strip: prefixes to take off the names, one after another.

    Raises:
        UsageError: where there is no such file, the choice is not clear, or a prefix fits nothing.
        UnsafeFileError: where a file is damaged, claims what it does not hold, or holds code.

    >>> from tempfile import TemporaryDirectory
    >>> import torch
    >>> with TemporaryDirectory() as folder:
    ...     torch.save({"state_dict": {"model.w": torch.zeros(2)}, "epoch": 3}, f"{folder}/last.pt")
    ...     weights = read_weights(f"{folder}/last.pt", strip=["model."])
    >>> weights.state, weights.source["key"]
    ({'w': tensor([0., 0.])}, 'state_dict')
    """
    path = Path(path)
    is_folder = os.path.isdir(path)  # noqa: PTH112 - which does not raise, whatever the name
    weights = _from_folder(path) if is_folder else _from_file(path, key)
    if key is not None and "key" not in weights.source:
        raise UsageError(f"--key is for .pt files, however {path} is none")
    state, notes = stripped(weights.state, strip, path)
    if not state:
        raise UsageError(f"{path}: weights must hold tensors, however there are none")
    for name in state:
        if not name or len(name) > 1000 or not _encodes(name):
            raise UnsafeFileError(
                f"{path}: names of tensors are text, however one is {name[:100]!r}"
            )
    source = weights.source | ({"stripped": list(strip)} if strip else {})
    return replace(weights, state=state, source=source, notes=notes)


def _from_file(path: Path, key: str | None) -> Weights:
    with opened(path) as (file, size):
        source = {
            "file": _text(path.name),
            "sha256": hashlib.file_digest(file, "sha256").hexdigest(),
        }
        file.seek(0)
        start = file.read(9)
        if start.startswith(ZIP):
            chosen, state = _from_archive(file, size, key, path)
            return Weights(state, {**source, "format": "pt", "key": chosen})
        is_header = start[8:] == b"{"  # of safetensors, which may begin with any length
        if not is_header and (start[:1] == b"\x80" or path.suffix in PICKLES):
            raise UnsafeFileError(
                f"{path}: must be a zip archive, as torch.save writes since version 1.6, however "
                f"it is not; {archive.ELSEWHERE}"
            )
        state, card = _from_safetensors(file, size, path)
    return Weights(state, {**source, "format": "safetensors"}, card)


def _from_folder(folder: Path) -> Weights:
    """Read the shards that an index names, or the only file there is."""
    index = folder / INDEX
    if index.exists():
        with opened(index, MOST_JSON) as (file, _):
            names = shards(file.read(), str(index))
    else:
        names = {found.name: set() for found in sorted(folder.glob("*.safetensors"))}
        if len(names) != 1:
            raise UsageError(
                f"{folder}: must hold {INDEX} or one .safetensors file, however it has "
                f"{len(names)}; name a file"
            )
    state: dict[str, Tensor] = {}
    hashes: dict[str, str] = {}
    card: dict[str, Any] = {}
    for name, expected in names.items():
        with opened(folder / name) as (file, size):
            hashes[name] = hashlib.file_digest(file, "sha256").hexdigest()
            part, card = _from_safetensors(file, size, folder / name)
        if expected and expected != part.keys():
            odd = sorted(expected ^ part.keys())[0]
            raise UnsafeFileError(
                f"{folder / name}: must hold the tensors that {INDEX} names, however they differ "
                f"in {odd!r}"
            )
        state |= part
    source: dict[str, Any] = {"file": _text(folder.resolve().name), "sha256": digest(hashes)}
    source |= {"format": "huggingface", "files": hashes}
    if (folder / CONFIG).exists() and not card:  # which tells the same, of what we wrote
        source["config"] = read_json(folder / CONFIG, MOST_CONFIG)
    return Weights(state, source, card)


def _from_safetensors(
    file: BufferedReader, size: int, path: Path
) -> tuple[dict[str, "Tensor"], dict[str, Any]]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    def fetch(start: int, count: int) -> bytes:
        file.seek(start)
        return file.read(count)

    found = layout.parse(fetch, size, str(path))
    card = card_of(found, str(path)) if HEADER in found.metadata else {}
    try:
        return load_file(path), card
    except (SafetensorError, OSError) as error:
        raise UnsafeFileError(f"{path}: is not sound safetensors: {error}") from None


def _from_archive(
    file: BufferedReader, size: int, key: str | None, path: Path
) -> tuple[str, dict[str, "Tensor"]]:
    """Read the chosen state dict of a checkpoint; return where it was, and it."""
    from torch import Tensor, load

    records = archive.records(file, size, str(path))
    if records["data.pkl"] > MOST_PICKLE:  # before it is read
        raise UnsafeFileError(
            f"{path}: its pickle may have {MOST_PICKLE} bytes, however it has {records['data.pkl']}"
        )
    told = symbols.read(archive.read(file, "data.pkl", str(path)), records, str(path))
    keys = choose(candidates(told), key, path)
    claims = told
    for part in keys:
        claims = claims[part]
    total = sum(claim.size for claim in claims.values())
    if total > EXPANSION * size:
        raise UnsafeFileError(
            f"{path}: its tensors may take {EXPANSION} times the bytes of the file, however they "
            f"take {total}"
        )
    file.seek(0)
    try:
        state = load(file, map_location="cpu", weights_only=True)
    except Exception:  # whatever PyTorch raises, its text advises to trust the file
        raise UnsafeFileError(f"{path}: PyTorch cannot read it; {archive.ELSEWHERE}") from None
    for part in keys:
        state = state[part]
    for name, tensor in state.items():
        if not isinstance(tensor, Tensor) or tensor.nbytes != claims[name].size:
            raise UnsafeFileError(f"{path}: {name!r} is not the tensor that its pickle describes")
    return ".".join(keys), {name: tensor.detach() for name, tensor in state.items()}


def _text(name: str) -> str:
    """Return a file's name as text, whatever bytes it has."""
    return name.encode("utf-8", "replace").decode()


def _encodes(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
