"""Which rows to learn from: a reference becomes one :class:`Data` with a train, val and test part.

``ref -> raw rows -> duplicates grouped -> split -> preprocessing fitted on train -> tensors``

Everything fitted is plain JSON in :attr:`Data.preprocessing`; :func:`apply` turns new rows into
tensors with it, by the very code that prepared the validation and test rows.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy.typing as npt
import pandas as pd
from torch import Tensor

from zoo.data import arrow, builtin, files, images, making, sources, tabular
from zoo.data.dataset import Data, Part, Source, of_tensors
from zoo.data.opening import naming
from zoo.data.sharing import columns
from zoo.errors import DataError, nearest
from zoo.sections import DataConfig

__all__ = [
    "Data",
    "Loader",
    "Part",
    "Source",
    "apply",
    "apply_counting",
    "load",
    "of_tensors",
    "open_source",
    "read_chunks",
    "read_rows",
]


def load(config: DataConfig, frame: Any = None) -> Data:
    """Load a table, images or a built-in data set, split, and preprocess as its train rows ask.

    A built-in name comes first; a file of the same name is reached as ``./name``.  The same
    settings and content give the same tensors on every machine.

    Args:
        config: which data, and how they are prepared.
        frame: the table itself, of pandas, polars or Arrow; ``config.ref`` is then only its name.

    Raises:
        DataError: what cannot be found, read, split or learnt from.

    >>> data = load(DataConfig(ref="iris"))
    >>> data.task, data.classes, data.shape
    ('classification', ('setosa', 'versicolor', 'virginica'), (4,))
    >>> len(data.train), len(data.val), len(data.test)
    (90, 30, 30)
    >>> houses = pd.DataFrame({"area": range(50), "price": [2.5 * i for i in range(50)]})
    >>> load(DataConfig(ref="houses", target="price"), houses).task
    'regression'
    """
    return open_source(config, frame).data(config.fold)


def open_source(config: DataConfig, frame: Any = None) -> Source:
    """Read the rows and hold out the test part once; members' data are prepared from it.

    Args:
        config: which data, and how they are prepared.
        frame: as :func:`load` takes it.

    Raises:
        DataError: what cannot be found, read or split.

    >>> source = open_source(DataConfig(ref="iris", folds=4))
    >>> [len(source.data(fold).val) for fold in range(4)]
    [30, 31, 30, 29]
    """
    built_in = frame is None and config.ref in (*builtin.IMAGES, *builtin.TABLES)
    if built_in and config.ref in builtin.IMAGES:
        return making.pictures(config, _built_in(config))
    path = _path(config.ref) if frame is None and not built_in else None
    if path and sources.kind(path, config.image):
        return making.pictures(config, sources.read(config, path))
    _refuse_image_keys(config)
    target = config.target or ("target" if built_in else None)
    with naming(path) if path else nullcontext():
        if path:
            table = files.read(path, config.columns, _texts(config))
        else:
            rows = builtin.TABLES[config.ref]() if built_in else frame
            table = arrow.from_python(rows, config.columns, config.ref, _texts(config))
        if target is None:
            raise DataError(
                f"data.target must name the column to predict, however it is not given for "
                f"{config.ref}; its columns are {', '.join(map(repr, table.columns))}"
            )
        return making.table(config, table, target)


class Loader:
    """Loads what members learn from; what they have in common is read once.

    Args:
        frame: the table, as :func:`load` takes it, where it is not a file.
    """

    def __init__(self, frame: Any = None) -> None:
        self._frame = frame
        self._shared: dict[str, Data] = {}
        self._sources: dict[str, Source] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Travel to another process without what only this one can hold: it is read again."""
        return {**vars(self), "_sources": {}}

    def data(self, config: DataConfig) -> Data:
        """Return what :func:`load` does.

        Raises:
            DataError: what cannot be found, read, split or learnt from.
        """
        key = config.model_copy(update={"fold": None}).model_dump_json()
        if config.own:
            if key not in self._sources:
                self._sources[key] = open_source(config, self._frame)
            return self._sources[key].data(config.fold)
        if key not in self._shared:
            self._shared[key] = load(config, self._frame)
        return self._shared[key]


def apply(preprocessing: dict[str, Any], rows: Any) -> Tensor:
    """Prepare new rows exactly as the training rows were.

    Args:
        preprocessing: :attr:`Data.preprocessing`, or the same read back from JSON.
        rows: for a table a DataFrame, its columns matched by name; for images a raw array
            (N, *shape) in the unit of the source.

    Returns:
        float32 (N, *shape).

    Raises:
        DataError: a column is missing, a cell cannot be read, or a shape differs.
    """
    return apply_counting(preprocessing, rows)[0]


def apply_counting(preprocessing: dict[str, Any], rows: Any) -> tuple[Tensor, tabular.Gaps]:
    """Prepare new rows as :func:`apply` does.

    Returns:
        float32 (N, *shape); and how many cells of which column are missing, or hold a category that
        was not there in training (unseen).

    Raises:
        DataError: as by :func:`apply`.
    """
    if preprocessing["kind"] == "images":
        return images.apply(preprocessing, rows), Counter()
    return tabular.apply(preprocessing, rows)


def read_rows(preprocessing: dict[str, Any], path: Path) -> pd.DataFrame | npt.NDArray[Any]:
    """Read new rows for :func:`apply`; a column or array of labels is not needed.

    Returns:
        for a table a frame, categories as they are written; for images the raw pixels (N, *shape)
        of a file or folder of images of any kind.

    Raises:
        DataError: the file cannot be read, or holds a table where the data learnt from were images.
    """
    if preprocessing["kind"] == "images":
        return sources.rows(preprocessing, path)[0]
    portions = list(read_chunks(preprocessing, path, rows=1 << 30))
    return portions[0] if len(portions) == 1 else pd.concat(portions)


def read_chunks(
    preprocessing: dict[str, Any], path: Path, rows: int = 1 << 16
) -> Iterator[pd.DataFrame]:
    """Read the rows of a table for :func:`apply`, portion by portion: it may exceed the memory.

    Args:
        preprocessing: :attr:`Data.preprocessing` of a table.
        path: of a file in any format that :func:`load` reads.
        rows: the most rows of a portion; they are numbered through.

    Raises:
        DataError: the file cannot be read.
    """
    if sources.kind(path):
        raise DataError(
            f"{path}: must be a table, as was learnt from, however by its name it holds images"
        )
    kinds = {column["name"]: column["kind"] for column in preprocessing["columns"]}
    as_written = [c["name"] for c in preprocessing["columns"] if c.get("as_written")]
    return files.chunks(path, kinds, as_written, rows)


def _path(ref: str) -> Path:
    path = Path(ref)
    try:
        is_path = bool(path.suffix) or path.name != ref or path.exists()
    except (OSError, ValueError):
        is_path = True  # a name that no file can have; reading says why
    if not is_path:
        known = [*builtin.IMAGES, *builtin.TABLES]
        raise DataError(
            f"data.ref must be a built-in name or the path of a file or folder, however {ref!r} "
            f"is neither{nearest(ref, known)}"
        )
    return path


def _texts(config: DataConfig) -> list[str]:
    """Name the columns whose cells are names, even if they look like numbers."""
    classes = config.task in ("classification", "multilabel") and isinstance(config.target, str)
    return [*columns(config), *([str(config.target)] if classes else [])]


def _refuse_image_keys(config: DataConfig) -> None:
    for key, value in (("image", config.image), ("size", config.size)):
        if value is not None:
            raise DataError(
                f"data.{key} is for files of images, however {config.ref!r} is of another kind; "
                "leave it out"
            )


def _built_in(config: DataConfig) -> sources.Images:
    """Return a built-in set of images."""
    if config.target is not None:
        raise DataError(
            f"data.target is for tables, however {config.ref!r} holds images; leave it out"
        )
    if config.task not in (None, "classification"):
        raise DataError(
            f"data.task {config.task!r} needs a table, however {config.ref!r} holds images "
            "in classes; leave it out"
        )
    _refuse_image_keys(config)
    pixels, labels = builtin.IMAGES[config.ref]()
    return sources.Images(pixels, pd.Series(labels, name="label"))
