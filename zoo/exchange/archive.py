"""The container of a ``.pt`` file: a zip archive, checked before PyTorch sees it.

``torch.save`` stores every record as it is, one after another, under one folder.  Nothing else is
taken, so that no record can be larger than its file, and no two programs can read the same bytes
in two ways.
"""

import re
import struct
import zipfile
from typing import BinaryIO

from zoo.errors import UnsafeFileError

MOST_RECORDS = 100_000
MOST_DIRECTORY = 32 << 20  # bytes that list the records
END, END_SIZE = struct.Struct("<4s4H2LH"), 22
LOCATOR, LOCATOR_SIZE = struct.Struct("<4sLQL"), 20
END64, END64_SIZE = struct.Struct("<4sQ2H2L4Q"), 56
LOCAL_SIZE = 30  # of a record's own header, without its name
ENTRY = b"PK\x01\x02"
KNOWN = re.compile(
    r"data\.pkl|version|byteorder|\.format_version|\.storage_alignment|\.data/serialization_id"
    r"|data/[0-9]{1,20}"
)
ELSEWHERE = "where it was made, save the state dict alone by torch.save, or as safetensors"


def records(file: BinaryIO, size: int, place: str) -> dict[str, int]:
    """Return the records of an archive, without its folder's name, and their sizes in bytes.

    Args:
        file: of which nothing is read but its directory.
        size: of the file, in bytes.
        place: how messages name the file.

    Raises:
        UnsafeFileError: where it is not what ``torch.save`` writes.
    """
    try:
        _check_directory(file, size)
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
        return _check_entries(entries, size)
    except (ValueError, OverflowError, OSError, struct.error, zipfile.BadZipFile) as error:
        raise UnsafeFileError(f"{place}: is not a sound .pt file: {error}") from None


def read(file: BinaryIO, name: str, place: str) -> bytes:
    """Return one record of an archive that was checked.

    Raises:
        UnsafeFileError: where its bytes are damaged.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            folder = archive.namelist()[0].partition("/")[0]
            return archive.read(f"{folder}/{name}")
    except (ValueError, OSError, EOFError, struct.error, zipfile.BadZipFile) as error:
        raise UnsafeFileError(f"{place}: is not a sound .pt file: {error}") from None


def _check_directory(file: BinaryIO, size: int) -> None:
    """Check that the directory is short, and lies where every reader looks for it."""
    if size < END_SIZE:
        raise ValueError("it is cut short")
    file.seek(size - END_SIZE)
    sign, *_, length, start, comment = END.unpack(file.read(END_SIZE))
    if sign != b"PK\x05\x06" or comment:
        raise ValueError("it must end in the directory of a zip archive, however it does not")
    end = size - END_SIZE
    if end >= LOCATOR_SIZE + END64_SIZE:
        file.seek(end - LOCATOR_SIZE)
        sign, _, place, _ = LOCATOR.unpack(file.read(LOCATOR_SIZE))
        if sign == b"PK\x06\x07":  # more records, or bytes, than 16 or 32 bits can tell
            end -= LOCATOR_SIZE + END64_SIZE
            if place != end:
                raise ValueError("the two ends of its directory must agree, however they do not")
            file.seek(end)
            *_, length, start = END64.unpack(file.read(END64_SIZE))
    if length > MOST_DIRECTORY or start + length != end:
        raise ValueError(
            f"its directory must lie at its end and have at most {MOST_DIRECTORY} bytes, however "
            f"it has {length} from {start}"
        )
    file.seek(start)
    if (count := file.read(length).count(ENTRY)) > MOST_RECORDS:
        raise ValueError(f"at most {MOST_RECORDS} records, however there are about {count}")


def _check_entries(entries: list[zipfile.ZipInfo], size: int) -> dict[str, int]:
    """Check names and places of the records."""
    found: dict[str, int] = {}
    folders = set()
    end = 0
    for entry in sorted(entries, key=lambda entry: entry.header_offset):
        folder, _, name = entry.filename.partition("/")
        folders.add(folder)
        if name.startswith("code/") or name == "constants.pkl":
            raise ValueError(f"it is a TorchScript program, which is code; {ELSEWHERE}")
        if not KNOWN.fullmatch(name):
            raise ValueError(f"torch.save writes no record named {name!r}; {ELSEWHERE}")
        if name in found:
            raise ValueError(f"a record may be there once, however {name!r} is there twice")
        if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1:
            raise ValueError(f"torch.save does not compress or encrypt, however {name!r} is")
        if entry.compress_size != entry.file_size:
            raise ValueError(f"{name!r} claims {entry.file_size} bytes of {entry.compress_size}")
        if entry.header_offset < end:
            raise ValueError(f"records may not overlap, however {name!r} does")
        end = entry.header_offset + LOCAL_SIZE + entry.file_size
        found[name] = entry.file_size
    if end > size or len(folders) > 1 or not {"data.pkl", "version"} <= found.keys():
        raise ValueError("it must hold data.pkl in one folder, however it does not")
    return found
