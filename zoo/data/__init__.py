"""Which rows to learn from: a reference becomes one :class:`Data` with a train, val and test part.

``ref -> raw rows -> duplicates grouped -> split -> preprocessing fitted on train -> tensors``

Everything fitted is plain JSON in :attr:`Data.preprocessing`; :func:`apply` turns new rows into
tensors with it, by the very code that prepared the validation and test rows.
"""

import hashlib
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from zoo.data import builtin, cells, files, images, tabular
from zoo.data.dataset import Data, Part, Source
from zoo.data.sharing import Parts, columns, share_out
from zoo.data.split import IntArray
from zoo.data.targets import Target, as_target, standardisation
from zoo.errors import DataError, nearest
from zoo.sections import DataConfig

__all__ = ["Data", "Loader", "Part", "Source", "apply", "load", "open_source", "read_rows"]


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
    return open_source(config).data(config.fold)


def open_source(config: DataConfig) -> Source:
    """Read the rows and hold out the test part once; members' data are prepared from it.

    Raises:
        DataError: what cannot be found, read or split.

    >>> source = open_source(DataConfig(ref="iris", folds=4))
    >>> [len(source.data(fold).val) for fold in range(4)]
    [30, 31, 30, 29]
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


class Loader:
    """Loads what members learn from; what they have in common is read once."""

    def __init__(self) -> None:
        self._shared: dict[str, Data] = {}
        self._sources: dict[str, Source] = {}

    def data(self, config: DataConfig) -> Data:
        """Return what :func:`load` does.

        Raises:
            DataError: what cannot be found, read, split or learnt from.
        """
        key = config.model_copy(update={"fold": None}).model_dump_json()
        if config.own:
            if key not in self._sources:
                self._sources[key] = open_source(config)
            return self._sources[key].data(config.fold)
        if key not in self._shared:
            self._shared[key] = load(config)
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


def _table(config: DataConfig, frame: pd.DataFrame, name: str) -> Source:
    """Make a source of raw columns, one of them the target."""
    if name not in frame.columns:
        raise DataError(
            f"data.target must be a column of {config.ref}, however it has no {name!r}"
            f"{nearest(name, frame.columns)}"
        )
    fingerprint = _digest("table", name, *tabular.content(frame))
    known = ~cells.missing(frame[name])
    notes = []
    if not known.all():
        notes.append(f"{(~known).sum()} rows without a value in {name!r} were left out")
    numbered = files.row_numbers(frame)
    if numbered is not None and numbered != name:
        notes.append(f"the unnamed column {numbered!r}, which only numbers the rows, was dropped")
        frame = frame.drop(columns=numbered)
    frame = frame[known]
    target = as_target(frame[name], config.task)
    sharing = share_out(config, frame, target)
    features = frame.drop(columns=[name, *columns(config)])
    kinds = tabular.kinds(features)
    schema = {**kinds, **dict.fromkeys(columns(config), "split"), name: target.task}

    def prepare(parts: Parts) -> Data:
        fitted, fit_notes = tabular.fit(features.iloc[parts[0]], kinds)
        unseen = tabular.unseen(fitted, features.iloc[np.concatenate(parts[1:])])
        told = [*notes, target.note, *fit_notes, *sharing.notes]
        told += [
            f"column {column!r}: {count} val and test cells hold values unseen in training, "
            "encoded as unknown (all zeros)"
            for column, count in unseen.items()
        ]
        x = tuple(tabular.apply(fitted, features.iloc[rows]) for rows in parts)
        numbers = frame.index.to_numpy()
        return _data(config, fitted, target, x, parts, fingerprint, schema, numbers, told)

    return Source(sharing, prepare)


def _images(config: DataConfig) -> Source:
    """Make a source of a built-in set of images."""
    if config.split != "random":
        raise DataError(
            f"data.split {config.split!r} needs a table with a column for it, however "
            f"{config.ref!r} holds images; leave it out"
        )
    if config.target is not None:
        raise DataError(
            f"data.target is for tables, however {config.ref!r} holds images; leave it out"
        )
    if config.task == "regression":
        raise DataError(
            f"data.task 'regression' needs a numeric target, however {config.ref!r} holds images "
            "in classes; leave it out"
        )
    pixels, labels = builtin.IMAGES[config.ref]()
    target = as_target(pd.Series(labels, name="label"), "classification")
    flat = pd.DataFrame(pixels.reshape(len(pixels), -1))
    fingerprint = _digest(
        "images", str(pixels.shape), pixels.astype("<f8").tobytes(), labels.astype("<i8").tobytes()
    )
    sharing = share_out(config, flat.assign(label=labels), target)
    schema = {"image": "x".join(map(str, pixels.shape[1:])), "label": target.task}
    places = np.arange(len(pixels))

    def prepare(parts: Parts) -> Data:
        fitted = images.fit(pixels[parts[0]])
        x = tuple(images.apply(fitted, pixels[rows]) for rows in parts)
        told = [*sharing.notes]
        return _data(config, fitted, target, x, parts, fingerprint, schema, places, told)

    return Source(sharing, prepare)


def _data(
    config: DataConfig,
    fitted: dict[str, Any],
    target: Target,
    x: tuple[Tensor, ...],
    parts: Parts,
    fingerprint: str,
    schema: dict[str, str],
    row_numbers: IntArray,
    notes: list[str],
) -> Data:
    """Put the pieces together; regression targets are standardised by the train part."""
    offset, scale = standardisation(target, parts[0])
    values = target.values if target.classes else (target.values - offset) / scale
    dtype = torch.int64 if target.classes else torch.float32
    y = [torch.from_numpy(values[rows]).to(dtype) for rows in parts]
    fitted["target"] = {
        "name": target.name,
        "task": target.task,
        "classes": list(target.classes),
        "offset": offset,
        "scale": scale,
    }
    fitted["schema"] = {"columns": schema, "hash": _digest(*chain(*schema.items()))}
    places = [row_numbers[rows].astype("<i8").tobytes() for rows in parts]
    if config.own:
        fitted["common_split"] = _digest(fingerprint, "test", places[2])
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
        notes=tuple(notes),
        rows=(row_numbers[parts[0]], row_numbers[parts[1]], row_numbers[parts[2]]),
    )


def _digest(*pieces: str | bytes) -> str:
    """Return 16 hexadecimal digits of the SHA-256 of the pieces and where each ends."""
    digest = hashlib.sha256()
    for piece in pieces:
        data = piece.encode("utf-8", "surrogatepass") if isinstance(piece, str) else piece
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()[:16]
