"""Where images come from: files of arrays, folders of pictures, tables of paths.

Whatever the source, images become (N, channels, height, width), and labels one column.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from pandas.api.types import is_float_dtype

from zoo.data import arrays, arrow, files, npz, pictures
from zoo.data.arrays import Array
from zoo.errors import DataError
from zoo.sections import DataConfig
from zoo.settings import column_name

Kind = Literal["npz", "npy", "idx", "folder", "paths"]
CHANNELS = (1, 3, 4)
SUFFIXES = (".png", ".jpg", ".jpeg", ".gif", ".bmp", ".tif", ".tiff", ".webp", ".ppm")
IDX = re.compile(r"[-.]idx(\d(-\w+)?)?(\.gz)?$")
IDX_AXES = re.compile(r"idx\d")


@dataclass(frozen=True)
class Images:
    """Raw images and what they show.

    Attributes:
        pixels: uint8 (N, C, H, W), or another type of number in the unit of the source.
        labels: (N,), in order.
        notes: what was done to them, in sentences.
    """

    pixels: Array
    labels: pd.Series
    notes: tuple[str, ...] = ()


def kind(path: Path, image: str | None = None) -> Kind | None:
    """Tell which source of images a path is by its name; None for all else, such as a table.

    Args:
        path: need not exist.
        image: the column of paths, where the file is a table of these.

    >>> kind(Path("mnist.npz")), kind(Path("train-images-idx3-ubyte.gz")), kind(Path("a.csv"))
    ('npz', 'idx', None)
    """
    if image is not None:
        return "paths"
    if path.suffix.lower() == ".npz":
        return "npz"
    if path.suffix.lower() == ".npy":
        return "npy"
    if IDX.search(path.name):
        return "idx"
    try:
        return "folder" if path.is_dir() else None
    except OSError:  # a name that no file can have; reading says why
        return None


def read(config: DataConfig, path: Path) -> Images:
    """Read images and their labels.

    Raises:
        DataError: naming the file that cannot be read, or what does not fit together.
    """
    source = kind(path, config.image)
    if source in ("npz", "folder") and config.target is not None:
        raise DataError(
            f"data.target is for tables and for images whose labels lie elsewhere, however {path} "
            "has its own; leave it out"
        )
    if source in ("npz", "npy", "idx") and config.size is not None:
        raise DataError(
            f"data.size is for files of one image each, however {path} holds an array; leave it out"
        )
    if source == "folder":
        paths, classes, left_out = pictures.of_classes(path)
        labels = pd.Series(classes, name="label", dtype=object)
        return Images(pictures.decode(paths, config.size), labels, tuple(left_out))
    if source == "paths":
        return _table(config, path)
    notes = []
    if source == "npz":
        pairs = npz.pairs(path)
    else:
        place = _labels_of(path, _target(config))
        pairs = [(_array(path), _array(place))]
        notes.append(f"the labels are those of {place.name}")
    labels = pd.concat([_labels(y, len(x), path) for x, y in pairs], ignore_index=True)
    pixels, turned = layout(npz.joined([x for x, _ in pairs], path), path)
    return Images(pixels, labels, (*notes, *turned))


def rows(preprocessing: Mapping[str, Any], path: Path) -> tuple[Array, list[str] | None]:
    """Read raw images of any source without their labels.

    Returns:
        (N, C, H, W); and where every image is a file, their names as the source has them.

    Raises:
        DataError: naming the file that cannot be read.
    """
    source = kind(path)
    if source in ("folder", None):
        found = pictures.of_folder(path) if source else _named(preprocessing.get("image"), path)
        size = tuple(preprocessing["size"]) if preprocessing.get("size") else None
        remedy = "resize them to {1} x {2}, as those that were learnt from".format(
            *preprocessing["shape"]
        )
        root = path if source else path.parent
        names = [place.relative_to(root).as_posix() for place in found]
        return pictures.decode(found, size, remedy), names
    if source == "npz":
        wanted = [names["x"] for names in npz.roles(path).values() if "x" in names]
        return layout(npz.joined([*arrays.npz(path, wanted).values()], path), path)[0], None
    return layout(_array(path), path)[0], None


def path_columns(frame: pd.DataFrame) -> list[str]:
    """Name the columns of text whose cells are called as files of images are.

    >>> path_columns(pd.DataFrame({"a": pd.Categorical(["1.png", "2.JPG"]), "b": [1, 2]}))
    ['a']
    """
    texts = frame.select_dtypes("category")
    return [
        name
        for name in texts.columns
        if len(texts[name].cat.categories)
        and all(str(word).lower().endswith(SUFFIXES) for word in texts[name].cat.categories)
    ]


def layout(raw: Array, path: Path) -> tuple[Array, list[str]]:
    """Bring images into the order (N, C, H, W), whole numbers from 0 to 255 as bytes.

    Args:
        raw: (N, H, W), (N, C, H, W) or (N, H, W, C).
        path: where they are from, for errors.

    Returns:
        the images, and a note where axes were exchanged.

    Raises:
        DataError: where they are no images, or which axis is which cannot be told.

    >>> layout(np.zeros((5, 8, 8, 3)), Path("x.npy"))[1]
    ['images (8, 8, 3) were turned to (3, 8, 8), channels first']
    """
    shape, notes = raw.shape, []
    if raw.dtype.kind not in "biuf":
        raise DataError(f"{path}: pixels must be numbers, however they are {raw.dtype.name}")
    if len(shape) == 3:
        raw = raw.reshape(len(raw), 1, *shape[1:])
    elif len(shape) != 4 or (shape[1] in CHANNELS) == (shape[3] in CHANNELS):
        raise DataError(
            f"{path}: images must be (N, height, width), (N, channels, height, width) or (N, "
            f"height, width, channels) with 1, 3 or 4 channels, however these are {shape}, of "
            "which it cannot be told; save them in another shape"
        )
    elif shape[3] in CHANNELS:
        raw = raw.transpose(0, 3, 1, 2)
        notes = [f"images {shape[1:]} were turned to {raw.shape[1:]}, channels first"]
    if not math.prod(shape):
        raise DataError(f"{path}: must hold images, however their shape is {shape}: none")
    if raw.dtype.kind != "f":
        if raw.min() >= 0 and raw.max() <= 255:
            raw = raw.astype(np.uint8, copy=False)
    else:
        for number, image in enumerate(raw):
            if not np.isfinite(image).all():
                raise DataError(
                    f"{path}: pixels must be finite numbers, however some of image {number} (the "
                    "first is 0) are not"
                )
    return np.ascontiguousarray(raw, raw.dtype.newbyteorder("=")), notes


def _target(config: DataConfig) -> str | None:
    """Return the name of the one target that images have."""
    if isinstance(config.target, tuple):
        raise DataError(
            f"images have one target, however data.target names {len(config.target)}; name one"
        )
    return config.target


def _table(config: DataConfig, path: Path) -> Images:
    """Read the images that a table names, and their labels."""
    target = column_name(_target(config) or "")
    if not target:
        raise DataError(
            f"data.target must name the column of labels, however it is not given for {path}"
        )
    texts = [config.image or "", *([target] if config.task == "classification" else [])]
    frame = files.read(path, {}, texts)
    arrow.check_column("target", target, frame.columns, path)
    labels = frame[target]
    if is_float_dtype(labels):  # perhaps only since some are missing
        labels = labels.convert_dtypes()
    paths = _paths(frame, config.image or "", path)
    return Images(pictures.decode(paths, config.size), labels)


def _paths(frame: pd.DataFrame, column: str, path: Path) -> list[Path]:
    """Return the files that a column of a table names."""
    arrow.check_column("image", column, frame.columns, path)
    names = [None if pd.isna(name) else str(name) for name in frame[column]]
    return pictures.below(path.parent, names)


def _named(column: str | None, path: Path) -> list[Path]:
    """Return the files that a table of new images names, in a column that is known or found."""
    if column is not None:
        frame = pd.concat(files.chunks(path, {column: "categorical"}, [column], 1 << 16))
        return _paths(frame, column, path)
    frame = files.read(path, {})
    found = path_columns(frame)
    if len(found) != 1:
        raise DataError(
            f"{path}: new images are a folder, an array, or a table with one column of their paths,"
            f" however {' and '.join(map(repr, found)) or 'no column'} holds paths that end as "
            "those of images do"
        )
    return _paths(frame, found[0], path)


def _array(path: Path) -> Array:
    return arrays.npy(path) if kind(path) == "npy" else arrays.idx(path)


def _labels_of(path: Path, target: str | None) -> Path:
    """Find the file of labels that belongs to a file of images."""
    if target is not None:
        return Path(target)
    name = IDX_AXES.sub("idx1", path.name.replace("images", "labels"))
    if kind(path) == "idx" and name != path.name:
        bare = name.removesuffix(".gz")
        for beside in (name, bare, f"{bare}.gz"):
            if path.with_name(beside).exists():
                return path.with_name(beside)
        fact = f"there is no {name} beside {path}"
    else:
        fact = f"it is not given for {path}"
    raise DataError(f"data.target must name the file of labels, however {fact}")


def _labels(raw: Array, images: int, path: Path) -> pd.Series:
    """Return labels (N,) or (N, 1) as a column."""
    if raw.ndim != 1 and not (raw.ndim == 2 and raw.shape[1] == 1):
        raise DataError(
            f"{path}: labels must be (N,), one for each image, however their shape is {raw.shape}"
        )
    if len(raw) != images:
        raise DataError(
            f"{path}: every image needs its label, however there are {images} images and "
            f"{len(raw)} labels"
        )
    flat = raw.reshape(-1)
    try:
        if flat.dtype.kind == "S":
            flat = np.char.decode(flat, "utf-8")
        if flat.dtype.kind == "U":
            return pd.Series(flat.astype(object), name="label")
    except ValueError as error:
        raise DataError(f"{path}: labels must be UTF-8 text, however {error}") from None
    native = np.float64 if flat.dtype.kind == "f" else flat.dtype.newbyteorder("=")
    return pd.Series(flat.astype(native), name="label")
