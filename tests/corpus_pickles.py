"""Archives and pickles that somebody might send as ``.pt``; see ``corpus.py``.

Those that try to run code would leave a file named ``EXECUTED`` in the working directory.
"""

import io
import os
import pickle
import struct
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

FILES: dict[str, Callable[[Path], None]] = {}
SIDE_EFFECT = "EXECUTED"


def file(name: str) -> Callable[[Callable[[Path], None]], Callable[[Path], None]]:
    """Register the maker of a file."""

    def register(make: Callable[[Path], None]) -> Callable[[Path], None]:
        FILES[name] = make
        return make

    return register


def archive(data: bytes, records: dict[str, bytes] | None = None, top: str = "archive/") -> bytes:
    """Return what torch.save would write around a pickle."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_STORED) as made:
        made.writestr(f"{top}data.pkl", data)
        made.writestr(f"{top}byteorder", "little")
        for name, record in (records or {}).items():
            made.writestr(f"{top}{name}", record)
        made.writestr(f"{top}version", "3\n")
    return content.getvalue()


def call(name: str, arguments: bytes) -> bytes:
    """Return a pickle that calls a function: {"w": name(*arguments)}."""
    module, _, function = name.rpartition(".")
    called = f"c{module}\n{function}\n".encode() + arguments + b"R"
    return b"\x80\x02}" + text("w") + called + b"s."


def text(value: str) -> bytes:
    """Push text."""
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def number(value: int) -> bytes:
    """Push a number."""
    encoded = pickle.encode_long(value)
    return b"\x8a" + bytes([len(encoded)]) + encoded


def storage(count: int, key: str = "0") -> bytes:
    """Push a storage of so many floats."""
    return (
        b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text(key) + text("cpu")
        + number(count) + b"tQ"
    )  # fmt: skip


def tensor(count: int, shape: bytes, stride: bytes, offset: int = 0) -> bytes:
    """Return a pickle of {"w": a tensor over the storage "0"}."""
    arguments = b"(" + storage(count) + number(offset) + shape + stride
    arguments += b"\x89ccollections\nOrderedDict\n)Rt"
    return call("torch._utils._rebuild_tensor_v2", arguments)


class Payload:
    """Runs a command where it is unpickled."""

    def __reduce__(self):
        return os.system, (f"touch {SIDE_EFFECT}",)


class Evaluated:
    """Runs Python where it is unpickled."""

    def __reduce__(self):
        return eval, (f"open({SIDE_EFFECT!r}, 'w')",)


@file("payload.pt")
def _(path: Path) -> None:
    path.write_bytes(archive(pickle.dumps({"state_dict": {"w": Payload()}}, protocol=2)))


@file("payload_eval.pth")
def _(path: Path) -> None:
    path.write_bytes(archive(pickle.dumps({"epoch": 1, "extra": [Evaluated()]}, protocol=2)))


@file("payload_protocol4.pt")
def _(path: Path) -> None:
    path.write_bytes(archive(pickle.dumps(Payload(), protocol=4)))


@file("payload_legacy.pt")
def _(path: Path) -> None:
    path.write_bytes(pickle.dumps(Payload(), protocol=2))


@file("payload_text_pickle.pt")
def _(path: Path) -> None:
    path.write_bytes(f"cos\nsystem\n(S'touch {SIDE_EFFECT}'\ntR.".encode())


@file("payload.safetensors")
def _(path: Path) -> None:
    path.write_bytes(pickle.dumps(Payload(), protocol=2))


@file("payload_in_a_storage_key.pt")
def _(path: Path) -> None:
    data = tensor(2, b"K\x02\x85", b"K\x01\x85").replace(text("0"), text("../../etc/passwd"))
    path.write_bytes(archive(data, {"data/0": b"\0" * 8}))


@file("legacy_with_tensors.pt")
def _(path: Path) -> None:
    import torch

    torch.save({"w": torch.ones(2)}, path, _use_new_zipfile_serialization=False)


@file("a_whole_module.pt")
def _(path: Path) -> None:
    import torch

    torch.save(torch.nn.Linear(2, 2), path)


@file("torchscript.pt")
def _(path: Path) -> None:
    path.write_bytes(archive(b"\x80\x02}.", {"code/__torch__.py": b"", "constants.pkl": b""}))


@file("stride_zero.pt")
def _(path: Path) -> None:
    huge = number(10**6) * 2 + b"\x86"
    path.write_bytes(archive(tensor(2, huge, b"K\x00K\x00\x86"), {"data/0": b"\0" * 8}))


@file("storage_claims_more.pt")
def _(path: Path) -> None:
    shape = number(10**11) + b"\x85"
    path.write_bytes(archive(tensor(10**11, shape, b"K\x01\x85"), {"data/0": b"\0" * 8}))


@file("storage_of_the_neighbour.pt")
def _(path: Path) -> None:
    data = tensor(2, b"K\x02\x85", b"K\x01\x85", offset=1)
    path.write_bytes(archive(data, {"data/0": b"\0" * 8, "data/1": b"\x42" * 800}))


@file("many_tensors_of_one_storage.pt")
def _(path: Path) -> None:
    import torch

    whole = torch.zeros(1 << 20)
    torch.save({f"w{i}": whole for i in range(2000)}, path)  # 4 MB that become 8 GB


@file("negative_size.pt")
def _(path: Path) -> None:
    path.write_bytes(archive(tensor(2, number(-4) + b"\x85", b"K\x01\x85"), {"data/0": b"\0" * 8}))


@file("size_beyond_64_bits.pt")
def _(path: Path) -> None:
    shape, stride = b"(" + number(2**40) * 3 + b"K\x00t", b"(" + b"K\x00" * 4 + b"t"
    path.write_bytes(archive(tensor(2, shape, stride), {"data/0": b"\0" * 8}))


@file("bytearray_of_a_terabyte.pt")
def _(path: Path) -> None:
    path.write_bytes(archive(call("__builtin__.bytearray", number(10**12) + b"\x85")))


@file("tensor_of_a_terabyte.pt")
def _(path: Path) -> None:
    path.write_bytes(archive(call("torch.Tensor", number(2 * 10**11) + b"\x85")))


@file("hash_that_takes_years.pt")
def _(path: Path) -> None:
    data = b"\x80\x02})q\x00"  # each tuple holds the one before twice
    for k in range(60):
        data += b"h" + bytes([k]) + b"\x86q" + bytes([k + 1])
    path.write_bytes(archive(data + b"K\x01s."))


@file("a_billion_lists.pt")
def _(path: Path) -> None:
    data = b"\x80\x02}" + text("w") + b"](]q\x00"  # each list holds the one before twice
    for k in range(60):
        data += b"](h" + bytes([k]) + b"h" + bytes([k]) + b"eq" + bytes([k + 1])
    path.write_bytes(archive(data + b"es."))


@file("dictionaries_in_themselves.pt")
def _(path: Path) -> None:
    path.write_bytes(archive(b"\x80\x02}q\x00" + text("w") + b"h\x00s."))


@file("nested_ten_thousand_deep.pt")
def _(path: Path) -> None:
    path.write_bytes(archive(b"\x80\x02)" + b"\x85" * 10_000 + b"."))


@file("three_million_instructions.pt")
def _(path: Path) -> None:
    path.write_bytes(archive(b"\x80\x02" + b"N" * 3_000_000 + b"."))


@file("text_of_four_gigabytes.pt")
def _(path: Path) -> None:
    path.write_bytes(archive(b"\x80\x02X\xff\xff\xff\xffabc."))


@file("shadowed_attributes.pt")
def _(path: Path) -> None:
    data = b"\x80\x02ccollections\nOrderedDict\n)R}" + text("items") + b"K\x01sb."
    path.write_bytes(archive(data))


@file("a_large_pickle.pt")
def _(path: Path) -> None:
    path.write_bytes(archive(b"\x80\x02" + b"}" * (40 << 20)))


@file("not_a_pickle.pt")
def _(path: Path) -> None:
    path.write_bytes(archive(b"PK\x03\x04 is no pickle"))


@file("bomb.pt")
def _(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as made:
        data = tensor(50 << 20, number(50 << 20) + b"\x85", b"K\x01\x85")
        made.writestr("archive/data.pkl", data, zipfile.ZIP_STORED)
        with made.open("archive/data/0", "w") as record:
            for _chunk in range(200):
                record.write(bytes(1 << 20))
        made.writestr("archive/version", "3\n")


@file("overlapping_records.pt")
def _(path: Path) -> None:
    content = bytearray(archive(b"\x80\x02}.", {"data/0": b"\0" * 64, "data/1": b"\0" * 64}))
    place = content.index(b"PK\x01\x02")
    entries = [place]
    while (place := content.find(b"PK\x01\x02", place + 4)) > 0:
        entries.append(place)
    content[entries[3] + 42 : entries[3] + 46] = content[entries[2] + 42 : entries[2] + 46]
    path.write_bytes(content)


@file("quarter_of_a_million_records.pt")
def _(path: Path) -> None:
    entry = struct.pack("<4s6H3L5H2L", b"PK\x01\x02", *[0] * 6, 0, 0, 0, 3, *[0] * 4, 0, 0) + b"a/b"
    listed = entry * 250_000
    start = b"PK\x03\x04" + bytes(26)
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 1, 1, len(listed), len(start), 0)
    path.write_bytes(start + listed + end)


@file("directory_of_four_gigabytes.pt")
def _(path: Path) -> None:
    content = bytearray(archive(b"\x80\x02}."))
    content[-10:-6] = b"\xf0\xff\xff\xff"
    path.write_bytes(content)


@file("two_directories.pt")
def _(path: Path) -> None:
    content = archive(b"\x80\x02}.")
    path.write_bytes(content + content[content.index(b"PK\x01\x02") :])


@file("records_outside.pt")
def _(path: Path) -> None:
    path.write_bytes(archive(b"\x80\x02}.", {"../../../x": b""}))


@file("records_absolute.pt")
def _(path: Path) -> None:
    path.write_bytes(archive(b"\x80\x02}.", top="/etc/"))


@file("records_twice.pt")
def _(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as made, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for data in (b"\x80\x02}.", pickle.dumps(Payload(), protocol=2)):
            made.writestr("archive/data.pkl", data)
        made.writestr("archive/version", "3\n")


@file("encrypted.pt")
def _(path: Path) -> None:
    content = bytearray(archive(b"\x80\x02}."))
    content[content.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)


@file("truncated.pt")
def _(path: Path) -> None:
    path.write_bytes(archive(tensor(2, b"K\x02\x85", b"K\x01\x85"), {"data/0": b"\0" * 8})[:300])


@file("empty.pt")
def _(path: Path) -> None:
    path.write_bytes(b"")


@file("pipe.pt")
def _(path: Path) -> None:
    os.mkfifo(path)
