"""Which rows to learn from: a reference becomes one :class:`Data` with a train, val and test part.

``ref -> raw rows -> duplicates grouped -> split -> preprocessing fitted on train -> tensors``

Everything fitted is plain JSON in :attr:`Data.preprocessing`; :func:`apply` turns new rows into
tensors with it, by the very code that prepared the validation and test rows.
"""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from zoo.data import builtin, cells, files, fitting, images, tabular
from zoo.data.dataset import Data, Part
from zoo.data.split import IntArray, grouped, split
from zoo.data.targets import Target, as_target, as_targets
from zoo.errors import DataError, nearest
from zoo.sections import DataConfig

__all__ = ["Data", "Part", "apply", "load", "read_rows"]


def load(config: DataConfig) -> Data:
    """Load a built-in data set or a CSV file, split it, and preprocess it as its train rows ask.

    A built-in name comes first; a file of the same name is reached as ``./name``.  The same
    settings and content give the same tensors on every machine.

    Raises:
        DataError: what cannot be found, read, split or learnt from.

    >>> data = load(DataConfig(ref="iris"))
    >>> data.task, data.classes, data.shape
    ('classification', ('setosa', 'versicolor', 'virginica'), (4,))
    >>> len(data.train), len(data.val), len(data.test)
    (90, 30, 30)
    """
    if config.ref in builtin.IMAGES:
        return _images(config)
    if config.ref in builtin.TABLES:
        return _table(config, builtin.TABLES[config.ref](), config.target or "target")
    path = _path(config.ref)
    frame = files.read(path)
    if config.target is None:
        raise DataError(
            f"data.target must name the column to predict, however it is not given for {path}; "
            f"its columns are {', '.join(map(repr, frame.columns))}"
        )
    return _table(config, frame, config.target)


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


def read_rows(preprocessing: dict[str, Any], path: Path) -> pd.DataFrame:
    """Read the rows of a CSV file for :func:`apply`, categories as they are written.

    Raises:
        DataError: the file cannot be read, or the data learnt from were images.
    """
    if preprocessing["kind"] == "images":
        raise DataError(
            f"{path}: a CSV file holds a table, however these models were trained on images"
        )
    columns = preprocessing["columns"]
    return files.read(path, [c["name"] for c in columns if c["kind"] == "categorical"])


def _path(ref: str) -> Path:
    path = Path(ref)
    try:
        is_path = bool(path.suffix) or path.name != ref or path.exists()
    except (OSError, ValueError):
        is_path = True  # a name that no file can have; reading says why
    if not is_path:
        known = [*builtin.IMAGES, *builtin.TABLES]
        raise DataError(
            f"data.ref must be a built-in name or the path of a CSV file, however {ref!r} is "
            f"neither{nearest(ref, known)}"
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
    fingerprint = _digest("table", *names, *tabular.content(frame))
    known = ~np.any([cells.missing(frame[name]) for name in names], axis=0)
    notes = []
    if not known.all():
        listed = " or ".join(map(repr, names))
        notes.append(f"{(~known).sum()} rows without a value in {listed} were left out")
    numbered = files.row_numbers(frame)
    if numbered is not None and numbered not in names:
        notes.append(f"the unnamed column {numbered!r}, which only numbers the rows, was dropped")
        frame = frame.drop(columns=numbered)
    frame = frame[known]
    several = len(names) > 1
    target = (
        as_targets(frame[names], config.task)
        if several
        else as_target(frame[names[0]], config.task)
    )
    features = frame.drop(columns=names)
    kinds = tabular.kinds(features)
    parts, repeats = _split(config, frame, target)

    fitted, fit_notes = tabular.fit(features.iloc[parts[0]], kinds)
    unseen = tabular.unseen(fitted, features.iloc[np.concatenate(parts[1:])])
    notes += [target.note, *fit_notes, *repeats]
    notes += [
        f"column {column!r}: {count} val and test cells hold values unseen in training, "
        "encoded as unknown (all zeros)"
        for column, count in unseen.items()
    ]
    x = tuple(tabular.apply(fitted, features.iloc[rows]) for rows in parts)
    return _data(config, fitted, target, x, parts, fingerprint, frame.index.to_numpy(), notes)


def _images(config: DataConfig) -> Data:
    """Make Data of a built-in set of images."""
    if config.target is not None:
        raise DataError(
            f"data.target is for tables, however {config.ref!r} holds images; leave it out"
        )
    if config.task not in (None, "classification"):
        raise DataError(
            f"data.task {config.task!r} needs a table, however {config.ref!r} holds images "
            "in classes; leave it out"
        )
    pixels, labels = builtin.IMAGES[config.ref]()
    target = as_target(pd.Series(labels, name="label"), "classification")
    flat = pd.DataFrame(pixels.reshape(len(pixels), -1))
    fingerprint = _digest(
        "images", str(pixels.shape), pixels.astype("<f8").tobytes(), labels.astype("<i8").tobytes()
    )
    parts, repeats = _split(config, flat.assign(label=labels), target)
    fitted = images.fit(pixels[parts[0]])
    x = tuple(images.apply(fitted, pixels[rows]) for rows in parts)
    places = np.arange(len(pixels))
    return _data(config, fitted, target, x, parts, fingerprint, places, repeats)


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
        split_hash=_digest(fingerprint, *places),
        notes=(*notes, *target_notes),
    )


def _digest(*pieces: str | bytes) -> str:
    """Return 16 hexadecimal digits of the SHA-256 of the pieces and where each ends."""
    digest = hashlib.sha256()
    for piece in pieces:
        data = piece.encode("utf-8", "surrogatepass") if isinstance(piece, str) else piece
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()[:16]
