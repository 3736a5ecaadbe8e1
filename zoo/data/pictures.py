"""Files of images, decoded by Pillow in threads into one array of bytes."""

import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, UnidentifiedImageError

from zoo.errors import DataError, listed
from zoo.memory import available

# What Pillow reads by itself; for others, such as EPS, it would start programs.
FORMATS = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM")
MODES = {"1": "L", "L": "L", "P": "RGB", "RGB": "RGB", "RGBA": "RGBA"}
CHANNELS = {"L": 1, "RGB": 3, "RGBA": 4}
MOST_PIXELS = 2**26  # of one image
Bytes = npt.NDArray[np.uint8]
Look = tuple[str, tuple[int, int]]  # mode, and width and height
T = TypeVar("T")


def decode(
    paths: Sequence[Path],
    size: tuple[int, int] | None = None,
    remedy: str = "resize them, or ask for data.size = [HEIGHT, WIDTH]",
) -> Bytes:
    """Decode image files: uint8 (N, channels, height, width), greyscale or colours.

    Args:
        paths: of the files.
        size: height and width that all are resized to (bilinear, without aliasing).
        remedy: of sizes that differ.

    Raises:
        DataError: naming files that cannot be read, or that differ in mode or, unless they are
            resized, in size; or where all do not fit into memory.
    """
    Image.init()
    with warnings.catch_warnings(), ThreadPoolExecutor() as pool:
        warnings.simplefilter("ignore")  # of odd metadata; sizes are checked below
        looks = _all(paths, pool.map(_look, paths))
        modes = [mode for mode, _ in looks]
        _refuse_mixture(paths, modes, "mode", "convert them to one")
        if modes[0] not in MODES:
            raise DataError(
                f"images must be greyscale, RGB or RGBA with 8 bits, however {paths[0]} is of "
                f"Pillow's mode {modes[0]}; convert them"
            )
        if size is None:
            sides = [f"{width} x {height}" for _, (width, height) in looks]
            _refuse_mixture(paths, sides, "size", remedy)
            width, height = looks[0][1]
        else:
            height, width = size
        mode = MODES[modes[0]]
        shape = (len(paths), CHANNELS[mode], height, width)
        needed, free = int(np.prod(shape)), available(torch.device("cpu"))
        if needed > free:
            raise DataError(
                f"{len(paths)} images of {width} x {height} take {needed / 1e9:.1f} GB, however "
                f"{free / 1e9:.1f} GB of memory are free; data.size makes them smaller"
            )
        pixels = np.empty(shape, np.uint8)

        def fill(number: int) -> str | None:
            def decoded(image: Image.Image) -> None:
                image = image.convert(mode)
                if size is not None:
                    image = image.resize((width, height), Image.Resampling.BILINEAR)
                pixels[number] = np.asarray(image).reshape(height, width, -1).transpose(2, 0, 1)

            return _opened(paths[number], decoded)

        _all(paths, pool.map(fill, range(len(paths))))
    return pixels


def of_classes(folder: Path) -> tuple[list[Path], list[str], list[str]]:
    """List a folder of class folders: the images, their classes, and notes on what is left out.

    Raises:
        DataError: naming what is not such a folder.
    """
    entries = _entries(folder)
    classes = [entry for entry in entries if entry.is_dir()]
    if len(classes) < 2:
        there = f"one, {classes[0].name!r}" if classes else "none"
        raise DataError(
            f"{folder} is a directory, which must hold a folder of images for each of two classes "
            f"or more, however it holds {there}; for a table, name its file"
        )
    paths, labels = [], []
    for place in classes:
        images = _entries(place)
        inner = [entry for entry in images if entry.is_dir()]
        if inner:
            raise DataError(
                f"{place}: a class folder holds images alone, however it holds the folder "
                f"{inner[0].name!r}; if its folders are the classes, name {place}"
            )
        if not images:
            raise DataError(f"{place}: a class folder holds images, however it is empty; remove it")
        paths += images
        labels += [place.name] * len(images)
    outside = len(entries) - len(classes)
    notes = [f"{outside} files outside the class folders were left out"] if outside else []
    return paths, labels, notes


def of_folder(folder: Path) -> list[Path]:
    """List the images in a folder, or in its folders.

    Raises:
        DataError: there are none.
    """
    entries = _entries(folder)
    paths = [entry for entry in entries if not entry.is_dir()]
    if not paths:
        paths = [path for entry in entries for path in _entries(entry) if not path.is_dir()]
    if not paths:
        raise DataError(f"{folder}: must hold images, however there are none")
    return paths


def below(folder: Path, names: Iterable[str | None]) -> list[Path]:
    """Return the paths of files that a table in ``folder`` names.

    Raises:
        DataError: naming the first row whose path is missing, leads out of the folder, or to no
            file.
    """
    root = folder.resolve()
    paths = []
    for number, name in enumerate(names, start=1):
        if name is None:
            raise DataError(f"every row must name an image, however row {number} names none")
        outside = PureWindowsPath(name).anchor or ".." in (
            *PurePosixPath(name).parts,
            *PureWindowsPath(name).parts,
        )
        try:
            path = folder / name
            if outside or not path.resolve().is_relative_to(root):
                raise DataError(
                    f"paths must stay within the table's folder, {folder}, however row {number} "
                    f"names {name!r}"
                )
            found = path.is_file()
        except (OSError, ValueError, RuntimeError):  # a name that no file can have, a loop of links
            found = False
        if not found:
            raise DataError(
                f"every row must name a file in {folder}, however row {number} names {name!r}, "
                "which is none"
            )
        paths.append(path)
    return paths


def _entries(folder: Path) -> list[Path]:
    """Return what is in a folder by name, but for hidden files."""
    try:
        found = sorted(folder.iterdir(), key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(f"{folder}: cannot be read: {error.strerror}") from None
    return [entry for entry in found if not entry.name.startswith(".")]


def _look(path: Path) -> Look | str:
    """Return mode and size of an image, or what is wrong with the file."""
    if not path.is_file():
        return "it is no file"
    return _opened(path, lambda image: (image.mode, image.size))


def _opened(path: Path, work: Callable[[Image.Image], T]) -> T | str:
    """Do something with an image; return what comes of it, or what is wrong with the file."""
    try:
        with Image.open(path, formats=FORMATS) as image:
            if image.width * image.height > MOST_PIXELS:
                return f"it is larger than {MOST_PIXELS} pixels"
            return work(image)
    except UnidentifiedImageError:
        return f"it is none of {', '.join(FORMATS)}"
    except Exception as error:  # a damaged file may raise anything in its decoder
        return " ".join(str(error).split()) or repr(error)


def _all(paths: Sequence[Path], results: Iterable[T | str]) -> list[T]:
    """Return what came of every file, or name those with which something is wrong."""
    good, bad = [], []
    for path, result in zip(paths, results, strict=True):
        if isinstance(result, str):
            bad.append(f"{path} ({result})")
        else:
            good.append(result)
    if bad:
        raise DataError(
            f"every file must be an image, however {len(bad)} of {len(paths)} cannot be read as "
            f"one: {listed(bad)}; mend or remove them"
        )
    return good


def _refuse_mixture(paths: Sequence[Path], values: Sequence[str], what: str, remedy: str) -> None:
    if len(set(values)) > 1:
        usual, count = Counter(values).most_common(1)[0]
        path, other = next((p, v) for p, v in zip(paths, values, strict=True) if v != usual)
        raise DataError(
            f"images must be of one {what}, however {count} of {len(paths)} are {usual} and "
            f"{path} is {other}; {remedy}"
        )
