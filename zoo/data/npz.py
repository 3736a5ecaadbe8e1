"""Which arrays of an ``.npz`` file are images, and which are their labels."""

import re
from pathlib import Path
from typing import Literal

import numpy as np

from zoo.data import arrays
from zoo.data.arrays import Array
from zoo.errors import DataError

PART = "(train|val|valid|validation|test)"
ARRAY_NAMES = re.compile(
    rf"(?:{PART}_)?(?:(x|images?|data|pixels)|(?:y|labels?|targets?))(?:_{PART})?", re.IGNORECASE
)


def roles(path: Path) -> dict[str, dict[Literal["x", "y"], str]]:
    """Tell by their names which arrays of an ``.npz`` are images and labels of each part."""
    found: dict[str, dict[Literal["x", "y"], str]] = {}
    present = arrays.npz_names(path)
    for name in present:
        if match := ARRAY_NAMES.fullmatch(name):
            before, is_x, after = match.groups()
            part = found.setdefault((before or after or "").lower(), {})
            role: Literal["x", "y"] = "x" if is_x else "y"
            if role in part:
                raise DataError(
                    f"{path}: needs one array of images and one of labels, however {part[role]!r} "
                    f"and {name!r} could both be that; remove one"
                )
            part[role] = name
    if not any("x" in part for part in found.values()):
        raise DataError(
            f"{path}: arrays must be called x and y (or images and labels, data and target; in "
            "parts x_train, y_train, x_test, y_test), however these are called "
            f"{', '.join(map(repr, present)) or 'nothing'}; rename them"
        )
    return found


def pairs(path: Path) -> list[tuple[Array, Array]]:
    """Read images and labels of every part of an ``.npz``."""
    parts = roles(path).values()
    for part in parts:
        if len(part) < 2:
            (lone,) = part.values()
            raise DataError(
                f"{path}: images and their labels come in pairs, such as x_train and y_train, "
                f"however {lone!r} is alone; add the other, or remove it"
            )
    found = arrays.npz(path, [name for part in parts for name in part.values()])
    return [(found[part["x"]], found[part["y"]]) for part in parts]


def joined(parts: list[Array], path: Path) -> Array:
    """Join the images of all parts."""
    shapes = {part.shape[1:] for part in parts}
    if len(shapes) > 1:
        raise DataError(
            f"{path}: images must have one shape, however they have "
            f"{' and '.join(map(str, sorted(shapes)))}"
        )
    return parts[0] if len(parts) == 1 else np.concatenate(parts)
