"""The value that loading gives: tensors in three parts, and all that is known about them."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from zoo.data import images
from zoo.sections import Task
from zoo.units import Units


@dataclass(frozen=True)
class Part:
    """One side of the split.

    Attributes:
        x: float32 (N, *shape), preprocessed; or uint8 (N, *shape), images that
            :meth:`Data.prepare` preprocesses.
        y: int64 (N,) class indices; float32 (N, L), 1 where a row has one of L labels and else 0;
            or float32 (N,) one standardised quantity or (N, T) several.
    """

    x: Tensor
    y: Tensor

    def __len__(self) -> int:
        return len(self.y)


@dataclass(frozen=True)
class Data:
    """A split data set, ready to learn from, with all that is needed to treat new rows alike."""

    ref: str
    task: Task
    train: Part
    val: Part
    test: Part
    classes: tuple[str, ...]
    preprocessing: dict[str, Any]
    fingerprint: str
    split_hash: str
    notes: tuple[str, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one sample."""
        return tuple(self.train.x.shape[1:])

    def prepare(self, x: Tensor) -> Tensor:
        """Return rows (N, *shape) of a part as models take them: float32, on the same device.

        Images that are held as bytes are standardised; whatever is prepared already is returned
        as it is.
        """
        return images.prepare(self.preprocessing, x)

    @property
    def outputs(self) -> int:
        """How many numbers a model gives per sample: one per class, label or quantity."""
        return len(self.classes) or len(self.preprocessing["target"]["names"])

    def units(self, device: torch.device | str | None = None) -> Units | None:
        """Return what standardised targets stand for; None for classes and labels."""
        fitted = self.preprocessing["target"]["units"]
        return Units(fitted, device) if fitted else None
