"""Raw rows become a source: shared out once, and prepared by what each member's own rows ask.

What is common to all members stands outside of ``prepare``, what is fitted inside.
"""

import hashlib
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any

import numpy as np
import pandas as pd
import torch
from pandas.api.types import is_integer_dtype
from torch import Tensor

from zoo.data import arrow, builtin, cells, fitting, images, leaks, roles, sources, tabular
from zoo.data.dataset import Data, Part, Source
from zoo.data.sharing import Parts, columns, share_out
from zoo.data.split import IntArray
from zoo.data.targets import Target, as_target, as_targets
from zoo.data.words import text
from zoo.errors import DataError
from zoo.sections import DataConfig
from zoo.settings import column_name


def table(config: DataConfig, frame: pd.DataFrame, wanted: str | tuple[str, ...]) -> Source:
    """Make a source of raw columns, one or several of them targets.

    Raises:
        DataError: where a column is missing, or rows cannot be split or learnt from.
    """
    names = list(map(column_name, [wanted] if isinstance(wanted, str) else wanted))
    for name in names:
        if config.columns.get(name) == "drop":
            raise DataError(
                f"data.target must be a column that is kept, however data.columns drops {name!r}; "
                "leave it out there"
            )
        arrow.check_column("target", name, frame.columns, config.ref)
    fingerprint = _digest(chain(("table", *names), tabular.content(frame)))
    known = ~np.any([cells.missing(frame[name]) for name in names], axis=0)
    notes = []
    if not known.all():
        listed = " or ".join(map(repr, names))
        notes.append(f"{(~known).sum()} rows without a value in {listed} were left out")
    dropped = [column for column, kind in config.columns.items() if kind == "drop"]
    notes += [f"column {column!r} was dropped, as data.columns asks" for column in dropped]
    frame = frame if known.all() else frame[known]
    several = len(names) > 1
    target = (
        as_targets(frame[names], config.task)
        if several
        else as_target(frame[names[0]], config.task)
    )
    features = frame.drop(columns=[*names, *columns(config)], errors="ignore")
    kinds = tabular.kinds(features)
    identifiers = roles.identifiers(features, kinds, config.columns)
    for name in identifiers.keys() & sources.path_columns(features):
        identifiers[name] += f'; data.image = "{name}" learns from the images that they name'
    features = features.drop(columns=list(identifiers))
    # Rows that differ in nothing else are copies of each other.
    naming = [name for name in identifiers if name != config.time and len(features.columns)]
    sharing = share_out(config, frame.drop(columns=naming), target)
    schema: dict[str, str] = {**kinds, **dict.fromkeys(columns(config), "split")}
    schema |= dict.fromkeys(names, target.task)
    numbers = frame.index.to_numpy()

    def prepare(parts: Parts) -> Data:
        fitted, fit_notes = tabular.fit(
            features,
            kinds,
            rows=parts[0],
            how=config.scaling,
            declared=config.columns,
            identifiers=identifiers,
        )
        x, gaps = tabular.encode(fitted, features, parts)
        told = [*notes, target.note, *fit_notes, *sharing.notes]
        told += [
            f"column {column!r}: {count} val and test cells hold values unseen in training, "
            "encoded as unknown (all zeros)"
            for (column, what), count in (gaps[1] + gaps[2]).items()
            if what == "unseen"
        ]
        told += _suspicions(features, target, parts[0])
        return _data(config, fitted, target, x, parts, fingerprint, schema, numbers, told)

    return Source(sharing, prepare)


def _suspicions(features: pd.DataFrame, target: Target, rows: IntArray) -> list[str]:
    """Say which columns alone tell a target, or one of several, in the training rows."""
    is_class = target.task != "regression"
    values_NT = target.values.reshape(len(target.values), -1)
    values_NT = values_NT.astype(np.int64) if is_class else values_NT
    names = target.classes if target.task == "multilabel" else target.names
    return [
        f"column {column!r} alone tells {share:.2%} of {name!r}: is it the target by another name? "
        f'data.columns = {{"{column}" = "drop"}} leaves it out'
        for name, values_N in zip(names, values_NT.T, strict=True)
        for column, share in leaks.suspects(features, values_N, is_class, rows).items()
    ]


def pictures(config: DataConfig, found: sources.Images) -> Source:
    """Make a source of raw images; whole numbers as labels are classes, unless the task says so.

    Raises:
        DataError: where a setting is for tables, or images cannot be split or learnt from.
    """
    for key in ("columns", "scaling"):
        if key in config.model_dump(exclude_defaults=True):
            raise DataError(
                f"data.{key} is for tables, however {config.ref!r} holds images; leave it out"
            )
    if config.split != "random":
        raise DataError(
            f"data.split {config.split!r} needs a table with a column for it, however "
            f"{config.ref!r} holds images; leave it out"
        )
    pixels, labels, notes = found.pixels, found.labels, list(found.notes)
    whole, known = is_integer_dtype(labels.dtype), ~cells.missing(labels)
    if whole and known.all():
        named: str | bytes = labels.to_numpy().astype("<i8").tobytes()
    else:
        named = "\x1f".join(word or "\x1e" for word in text(labels))
    fingerprint = _digest(("images", str(pixels.shape), images.content(pixels), named))
    if not known.all():
        notes.append(f"{(~known).sum()} images without a label were left out")
        pixels, labels = pixels[known], labels[known]
    target = as_target(labels, config.task or ("classification" if whole else None))
    distinct = images.digests(pixels).assign(label=labels.to_numpy())
    sharing = share_out(config, distinct, target)
    schema = {"image": "x".join(map(str, pixels.shape[1:])), target.names[0]: target.task}
    places = labels.index.to_numpy()
    notes += [target.note] if config.ref not in builtin.IMAGES else []
    told = [*notes, *sharing.notes]

    def prepare(parts: Parts) -> Data:
        raw = [pixels[rows] for rows in parts]
        fitted = images.fit(raw[0])
        fitted |= {"size": list(config.size)} if config.size else {}
        fitted |= {"image": config.image} if config.image else {}
        x = [images.hold(fitted, part) for part in raw]
        return _data(config, fitted, target, x, parts, fingerprint, schema, places, told)

    return Source(sharing, prepare)


def _data(
    config: DataConfig,
    fitted: dict[str, Any],
    target: Target,
    x: Sequence[Tensor],
    parts: Parts,
    fingerprint: str,
    schema: dict[str, str],
    row_numbers: IntArray,
    notes: list[str],
) -> Data:
    """Put the pieces together; targets are fitted on the train part."""
    fitted["target"], y_N, target_notes = fitting.fit(target, parts[0], config.target_transform)
    y = [y_N[torch.from_numpy(rows)] for rows in parts]
    fitted["schema"] = {"columns": schema, "hash": _digest(chain(*schema.items()))}
    places = [row_numbers[rows].astype("<i8").tobytes() for rows in parts]
    if config.own:
        fitted["common_split"] = _digest((fingerprint, "test", places[2]))
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
        rows=(row_numbers[parts[0]], row_numbers[parts[1]], row_numbers[parts[2]]),
    )


def _digest(pieces: Iterable[str | bytes | memoryview]) -> str:
    """Return 16 hexadecimal digits of the SHA-256 of the pieces and where each ends."""
    digest = hashlib.sha256()
    for piece in pieces:
        data = piece.encode("utf-8", "surrogatepass") if isinstance(piece, str) else piece
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()[:16]
