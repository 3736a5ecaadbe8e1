"""Headers and folders that somebody might send as safetensors; see ``corpus.py``."""

import json
import os
import struct
from collections.abc import Callable
from functools import partial
from pathlib import Path


def header(value: object, data: bytes = b"") -> bytes:
    """Return a safetensors file with this header."""
    text = value if isinstance(value, bytes) else json.dumps(value).encode()
    return struct.pack("<Q", len(text)) + text + data


def claim(dtype: object, shape: object, start: object, end: object) -> dict[str, object]:
    """Return what a header says of a tensor."""
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


FLOAT = claim("F32", [1], 0, 4)
TWICE = b'"w":' + json.dumps(FLOAT).encode()
EMPTY = '"{:x}":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}'
SOUND = header({"w": FLOAT}, bytes(4))

CLAIMS = {  # of one or two tensors over 8 bytes
    "shape_larger_than_its_bytes": {"w": claim("F32", [10**12], 0, 8)},
    "offsets_beyond_the_file": {"w": claim("F32", [10**9], 0, 4 * 10**9)},
    "offsets_backwards": {"w": claim("F32", [1], 8, 4)},
    "offsets_overlap": {"a": claim("F32", [2], 0, 8), "b": claim("F32", [1], 4, 8)},
    "offsets_leave_a_hole": {"a": claim("U8", [1], 0, 1), "b": claim("F32", [1], 4, 8)},
    "bytes_left_over": {"w": FLOAT},
    "type_unknown": {"w": claim("PICKLE", [2], 0, 8)},
    "shape_negative": {"w": claim("F32", [-1, -2], 0, 8)},
    "shape_true": {"w": claim("F64", [True], 0, 8)},
    "shape_beyond_64_bits": {"w": claim("F32", [0, 2**80], 0, 0), "b": claim("F64", [1], 0, 8)},
    "shape_of_many_axes": {"w": claim("F64", [1] * 1000, 0, 8)},
}
CONTENTS: dict[str, Callable[[], bytes]] = {
    "empty": bytes,
    "header_beyond_the_file": lambda: b"\xff" * 7 + b"\x7f" + b"{}",
    "header_of_many_tensors": lambda: header(
        f"{{{','.join(EMPTY.format(i) for i in range(240_000))}}}".encode()
    ),
    "header_of_many_lists": lambda: header(b'{"w":[' + b"[]," * 4_000_000 + b"[]]}"),
    "header_nested_deeply": lambda: header(b'{"w":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    "header_cut_short": lambda: header(b'{"w":{"dtype":"F32"'),
    "header_not_an_object": lambda: header([1, 2]),
    "header_key_twice": lambda: header(b"{" + TWICE + b"," + TWICE + b"}", bytes(4)),
    "header_lone_surrogate": lambda: header({"\ud800": FLOAT}, bytes(4)),
    "metadata_not_text": lambda: header({"__metadata__": {"zoo": {"config": 1}}}),
    "card_not_an_object": lambda: header({"__metadata__": {"zoo": "[[]]"}, "w": FLOAT}, bytes(4)),
    **{name: partial(header, content, bytes(8)) for name, content in CLAIMS.items()},
}


def folder(path: Path, index: object, config: str | None = None) -> None:
    """Make a folder of Hugging Face with an index."""
    path.mkdir()
    (path / "model.safetensors.index.json").write_text(json.dumps(index))
    (path / "a.safetensors").write_bytes(SOUND)
    if config is not None:
        (path / "config.json").write_text(config)


def device(path: Path) -> None:
    """Name a device as a shard."""
    folder(path, {"weight_map": {"w": "zero.safetensors"}})
    (path / "zero.safetensors").symlink_to("/dev/zero")


def pipe(path: Path) -> None:
    """Name a pipe as a shard; whoever opens it waits for a writer."""
    folder(path, {"weight_map": {"w": "pipe.safetensors"}})
    os.mkfifo(path / "pipe.safetensors")


def _shard(name: object, tensor: str = "w") -> Callable[[Path], None]:
    return partial(folder, index={"weight_map": {tensor: name}})


def _config(text: str) -> Callable[[Path], None]:
    return partial(folder, index={"weight_map": {"w": "a.safetensors"}}, config=text)


FOLDERS: dict[str, Callable[[Path], None]] = {
    "hf_shard_outside": _shard("../payload.safetensors"),
    "hf_shard_absolute": _shard("/etc/passwd.safetensors"),
    "hf_shard_is_a_device": device,
    "hf_shard_is_a_pipe": pipe,
    "hf_shard_missing": _shard("b.safetensors"),
    "hf_shard_a_number": _shard(1),
    "hf_tensors_differ": _shard("a.safetensors", "v"),
    "hf_index_is_a_list": partial(folder, index=[1]),
    "hf_config_nested_deeply": _config('{"a":' * 900 + "1" + "}" * 900),
    "hf_config_of_20_megabytes": _config('{"a": "' + "b" * (20 << 20) + '"}'),
}


def make(target: Path) -> None:
    """Write every file and folder."""
    for name, content in CONTENTS.items():
        (target / f"{name}.safetensors").write_bytes(content())
    for name, write in FOLDERS.items():
        write(target / name)
