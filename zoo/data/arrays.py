"""Arrays from ``.npy``, ``.npz`` and IDX files.

What a header declares is held against the size of the file before anything is allocated, and
nothing is ever unpickled.
"""

import gzip
import math
import warnings
import zipfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from zoo.errors import DataError

Array = npt.NDArray[Any]
PLAIN = "biufUS"  # truth values, integers, floats, text
SMALL = 2**26  # bytes that a file may unpack to, whatever its own size
RATIO = 100  # how many times its size a larger one may; images need 2 to 20
IDX_TYPES = {8: ">u1", 9: ">i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}
MOST_AXES = 8


def npy(path: Path) -> Array:
    """Read the array of an ``.npy`` file.

    Raises:
        DataError: naming the file and what is wrong with it.
    """
    with reading(path, "an .npy file"), path.open("rb") as file:
        return _array(str(path), file, path.stat().st_size)


def npz_names(path: Path) -> list[str]:
    """Name the arrays of an ``.npz`` file.

    Raises:
        DataError: naming the file and what is wrong with it.
    """
    with reading(path, "an .npz file"), zipfile.ZipFile(path) as archive:
        return [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]


def npz(path: Path, names: Collection[str]) -> dict[str, Array]:
    """Read some arrays of an ``.npz`` file.

    Raises:
        DataError: naming the file and what is wrong with it.
    """
    found = {}
    with reading(path, "an .npz file"), zipfile.ZipFile(path) as archive:
        infos = {name: archive.getinfo(f"{name}.npy") for name in names}
        _refuse_bomb(path, sum(i.file_size for i in infos.values()), path.stat().st_size)
        for name, info in infos.items():
            with archive.open(info) as file:
                found[name] = _array(f"{path}: array {name!r}", file, info.file_size)
    return found


def idx(path: Path) -> Array:
    """Read the array of an IDX file, the format of MNIST; ``.gz`` is unpacked.

    Raises:
        DataError: naming the file and what is wrong with it.
    """
    packed = path.name.endswith(".gz")
    with (
        reading(path, "an IDX file"),
        gzip.open(path) if packed else path.open("rb") as file,
    ):
        magic = file.read(4)
        if (
            len(magic) < 4
            or magic[:2] != b"\0\0"
            or magic[2] not in IDX_TYPES
            or not 1 <= magic[3] <= MOST_AXES
        ):
            raise DataError(
                f"{path}: an IDX file begins with 0, 0, a known type and the number of axes, "
                f"however this begins with {list(magic)}"
            )
        dtype, axes = np.dtype(IDX_TYPES[magic[2]]), magic[3]
        sizes = file.read(4 * axes)
        if len(sizes) < 4 * axes:
            raise DataError(f"{path}: is damaged: it ends within its header")
        shape = tuple(int(size) for size in np.frombuffer(sizes, ">u4"))
        declared = math.prod(shape) * dtype.itemsize
        stored = path.stat().st_size
        if packed:
            _refuse_bomb(path, declared, stored)
        else:
            _refuse_other_size(str(path), shape, dtype, declared, stored - file.tell())
        content = file.read(declared + 1)
        _refuse_other_size(str(path), shape, dtype, declared, len(content))
    return np.frombuffer(content, dtype).reshape(shape)


@contextmanager
def reading(path: Path, kind: str) -> Iterator[None]:
    """Turn whatever comes of reading a file that is not what it should be into one line."""
    try:
        if path.exists() and not path.is_file():
            raise DataError(f"{path}: must be a regular file, however it is none")
        yield
    except DataError:
        raise
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from None
    except MemoryError:
        raise DataError(f"{path}: must fit into memory, however it does not") from None
    except Exception as error:  # a damaged file may raise anything in the library that reads it
        fault = " ".join(str(error).split()) or repr(error)
        raise DataError(
            f"{str(path)!r}: is not {kind}, or damaged: {fault}; write or copy it again"
        ) from None


def _array(place: str, file: IO[bytes], stored: int) -> Array:
    """Read an array in NumPy's format, once its header is known to tell the truth."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of headers that are odd, but can be read
        version = np.lib.format.read_magic(file)
        if version == (1, 0):
            shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        elif version == (2, 0):
            shape, _, dtype = np.lib.format.read_array_header_2_0(file)
        else:
            raise DataError(
                f"{place}: must be of NumPy's format 1.0 or 2.0, however it is of {version}; "
                "save it as a plain array"
            )
        if dtype.kind not in PLAIN:
            raise DataError(
                f"{place}: must hold numbers or text, however it holds {dtype}, which is not read "
                "for safety; save it as a plain array"
            )
        if any(size < 0 for size in shape):
            raise DataError(f"{place}: is damaged: its header declares the shape {shape}")
        declared = math.prod(shape) * dtype.itemsize
        _refuse_other_size(place, shape, dtype, declared, stored - file.tell())
        file.seek(0)
        array: Array = np.lib.format.read_array(file, allow_pickle=False)
    return array


def _refuse_other_size(
    place: str, shape: tuple[int, ...], dtype: np.dtype[Any], declared: int, there: int
) -> None:
    if declared != there:
        raise DataError(
            f"{place}: must hold the {declared} bytes that its header declares ({shape} of "
            f"{dtype.name}), however it holds {'fewer' if there < declared else 'more'}; it is "
            "damaged, or still being written"
        )


def _refuse_bomb(path: Path, declared: int, stored: int) -> None:
    if declared > max(SMALL, RATIO * stored):
        raise DataError(
            f"{path}: may unpack to {RATIO} times its size, however it declares {declared} bytes "
            f"in {stored}; if they are needed, save them uncompressed"
        )
