"""The value that loading gives: tensors in three parts, and all that is known about them."""

from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from zoo.data import images


@dataclass(frozen=True)
class Part:
    """One side of the split.

    Attributes:
        x: float32 (N, *shape), preprocessed; or uint8 (N, *shape), images that
            :meth:`Data.prepare` preprocesses.
        y: int64 (N,) class indices, or float32 (N,) standardised targets for regression.
    """

    x: Tensor
    y: Tensor

    def __len__(self) -> int:
        return len(self.y)


@dataclass(frozen=True)
class Data:
    """A split data set, ready to learn from, with all that is needed to treat new rows alike."""

    ref: str
    task: Literal["classification", "regression"]
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
        """How many numbers a model gives per sample: one per class, or one."""
        return len(self.classes) or 1

    @property
    def target_scale(self) -> float:
        """What a standardised target is multiplied by to be in its own unit; 1 for classes."""
        return float(self.preprocessing["target"]["scale"])

    @property
    def target_offset(self) -> float:
        """What is then added to it; 0 for classes."""
        return float(self.preprocessing["target"]["offset"])
