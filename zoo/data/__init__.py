"""Which rows to learn from: a reference becomes one :class:`Data` with a train, val and test part.

``ref -> raw rows -> duplicates grouped -> split -> preprocessing fitted on train -> tensors``

Everything fitted is plain JSON in :attr:`Data.preprocessing`; :func:`apply` turns new rows into
tensors with it, by the very code that prepared the validation and test rows.
"""

import hashlib
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from pandas.api.types import is_integer_dtype
from torch import Tensor

from zoo.data import arrow, builtin, cells, files, fitting, images, leaks, sources, tabular
from zoo.data.dataset import Data, Part
from zoo.data.split import IntArray, grouped, split
from zoo.data.targets import Target, as_target, as_targets
from zoo.errors import DataError, nearest
from zoo.sections import DataConfig

__all__ = ["Data", "Part", "apply", "load", "read_chunks", "read_rows"]


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
    if frame is not None:
        _refuse_image_keys(config)
        table = arrow.from_python(frame, config.columns, config.ref)
    elif config.ref in builtin.IMAGES:
        return _images(config, _built_in(config))
    elif config.ref in builtin.TABLES:
        _refuse_image_keys(config)
        table = arrow.from_python(builtin.TABLES[config.ref](), config.columns, config.ref)
        return _table(config, table, config.target or "target")
    else:
        path = _path(config.ref)
        if sources.kind(path, config.image):
            return _images(config, sources.read(config, path))
        _refuse_image_keys(config)
        table = files.read(path, config.columns)
    if config.target is None:
        raise DataError(
            f"data.target must name the column to predict, however it is not given for "
            f"{config.ref}; its columns are {', '.join(map(repr, table.columns))}"
        )
    return _table(config, table, config.target)


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
    if preprocessing["kind"] == "images":
        return images.apply(preprocessing, rows)
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
        return sources.rows(preprocessing, path)
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
    columns = preprocessing["columns"]
    kinds = {c["name"]: c["kind"] for c in columns if c["kind"] != "empty"}
    as_written = [c["name"] for c in columns if c.get("as_written")]
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


def _table(config: DataConfig, frame: pd.DataFrame, wanted: str | tuple[str, ...]) -> Data:
    """Make Data of raw columns, one or several of them targets."""
    names = [wanted] if isinstance(wanted, str) else list(wanted)
    for name in names:
        if name not in frame.columns:
            raise DataError(
                f"data.target must be a column of {config.ref}, however it has no {name!r}"
                f"{nearest(name, frame.columns)}"
            )
    fingerprint = _digest(chain(("table", *names), tabular.content(frame)))
    known = ~np.any([cells.missing(frame[name]) for name in names], axis=0)
    notes = []
    if not known.all():
        listed = " or ".join(map(repr, names))
        notes.append(f"{(~known).sum()} rows without a value in {listed} were left out")
    numbered = files.row_numbers(frame)
    if numbered is not None and numbered not in names:
        notes.append(f"the unnamed column {numbered!r}, which only numbers the rows, was dropped")
        frame = frame.drop(columns=numbered)
    dropped = [column for column, kind in config.columns.items() if kind == "drop"]
    notes += [f"column {column!r} was dropped, as data.columns asks" for column in dropped]
    frame = frame if known.all() else frame[known]
    several = len(names) > 1
    target = (
        as_targets(frame[names], config.task)
        if several
        else as_target(frame[names[0]], config.task)
    )
    features = frame.drop(columns=names)
    kinds = tabular.kinds(features)
    parts, repeats = _split(config, frame, target)

    fitted, fit_notes = tabular.fit(
        features, kinds, rows=parts[0], how=config.scaling, declared=config.columns
    )
    unseen = tabular.unseen(fitted, features, np.concatenate(parts[1:]))
    suspects = leaks.suspects(features, target.values, bool(target.classes), parts[0])
    notes += [target.note, *fit_notes, *repeats]
    notes += [
        f"column {column!r}: {count} val and test cells hold values unseen in training, "
        "encoded as unknown (all zeros)"
        for column, count in unseen.items()
    ]
    notes += [
        f"column {column!r} alone tells {share:.2%} of {name!r}: is it the target by another name? "
        f'data.columns = {{"{column}" = "drop"}} leaves it out'
        for column, share in suspects.items()
    ]
    x = tuple(tabular.encode(fitted, features, parts))
    return _data(config, fitted, target, x, parts, fingerprint, frame.index.to_numpy(), notes)


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


def _images(config: DataConfig, found: sources.Images) -> Data:
    """Make Data of raw images; whole numbers as labels are classes, unless the task says so."""
    for key in ("columns", "scaling"):
        if key in config.model_dump(exclude_defaults=True):
            raise DataError(
                f"data.{key} is for tables, however {config.ref!r} holds images; leave it out"
            )
    pixels, labels, notes = found.pixels, found.labels, list(found.notes)
    whole, known = is_integer_dtype(labels.dtype), ~cells.missing(labels)
    if whole and known.all():
        named: str | bytes = labels.to_numpy().astype("<i8").tobytes()
    else:
        named = "\x1f".join(word or "\x1e" for word in cells.text(labels))
    fingerprint = _digest(("images", str(pixels.shape), images.content(pixels), named))
    if not known.all():
        notes.append(f"{(~known).sum()} images without a label were left out")
        pixels, labels = pixels[known], labels[known]
    target = as_target(labels, config.task or ("classification" if whole else None))
    distinct = images.digests(pixels).assign(label=labels.to_numpy())
    parts, repeats = _split(config, distinct, target)
    raw = [pixels[rows] for rows in parts]
    fitted = images.fit(raw[0])
    fitted |= {"size": list(config.size)} if config.size else {}
    fitted |= {"image": config.image} if config.image else {}
    x = tuple(images.hold(fitted, part) for part in raw)
    places = labels.index.to_numpy()
    notes += [target.note] if config.ref not in builtin.IMAGES else []
    return _data(config, fitted, target, x, parts, fingerprint, places, [*notes, *repeats])


def _split(
    config: DataConfig, rows: pd.DataFrame, target: Target
) -> tuple[tuple[IntArray, IntArray, IntArray], list[str]]:
    """Split the rows, keeping exact copies together, and say how many there are."""
    groups = grouped(rows)
    parts = split(
        groups, target.strata, config.val, config.test, config.split_seed, names=target.classes
    )
    copies = len(groups) - len(np.unique(groups))
    note = f"{copies} rows repeat another row exactly; copies were kept in the same part"
    return parts, [note] if copies else []


def _data(
    config: DataConfig,
    fitted: dict[str, Any],
    target: Target,
    x: tuple[Tensor, ...],
    parts: tuple[IntArray, IntArray, IntArray],
    fingerprint: str,
    row_numbers: IntArray,
    notes: list[str],
) -> Data:
    """Put the pieces together; targets are fitted on the train part."""
    fitted["target"], y_N, target_notes = fitting.fit(target, parts[0], config.target_transform)
    y = [y_N[torch.from_numpy(rows)] for rows in parts]
    places = [row_numbers[rows].astype("<i8").tobytes() for rows in parts]
    return Data(
        ref=config.ref,
        task=target.task,
        train=Part(x[0], y[0]),
        val=Part(x[1], y[1]),
        test=Part(x[2], y[2]),
        classes=target.classes,
        preprocessing=fitted,
        fingerprint=fingerprint,
        split_hash=_digest((fingerprint, *places)),
        notes=(*notes, *target_notes),
    )


def _digest(pieces: Iterable[str | bytes | memoryview]) -> str:
    """Return 16 hexadecimal digits of the SHA-256 of the pieces and where each ends."""
    digest = hashlib.sha256()
    for piece in pieces:
        data = piece.encode("utf-8", "surrogatepass") if isinstance(piece, str) else piece
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()[:16]
