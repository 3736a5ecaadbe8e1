"""The value that loading gives: tensors in three parts, and all that is known about them."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor

from zoo.data.sharing import Parts, Sharing

KEPT = 4  # members' own data that are held at once; others are prepared anew


@dataclass(frozen=True)
class Part:
    """One side of the split.

    Attributes:
        x: float32 (N, *shape), preprocessed.
        y: int64 (N,) class indices, or float32 (N,) standardised targets for regression.
    """

    x: Tensor
    y: Tensor

    def __len__(self) -> int:
        return len(self.y)


@dataclass(frozen=True)
class Data:
    """A split data set, ready to learn from, with all that is needed to treat new rows alike.

    Attributes:
        split_hash: of which rows are in which part.
        rows: int64 (N,) for each part, the numbers of its rows in the data, from 0; a row that was
            drawn twice is there twice.
    """

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
    rows: Parts

    @property
    def common_split(self) -> str:
        """What members that are compared share: the whole split, or the test rows with folds."""
        return str(self.preprocessing.get("common_split", self.split_hash))

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one sample."""
        return tuple(self.train.x.shape[1:])

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


@dataclass(frozen=True)
class Source:
    """Rows that were read once, from which the data of every member is prepared.

    Attributes:
        sharing: which rows go where.
        prepare: fits the preprocessing on the train rows and applies it to all.
    """

    sharing: Sharing
    prepare: Callable[[Parts], Data]
    _latest: dict[int | None, Data] = field(default_factory=dict)

    def data(self, fold: int | None = None) -> Data:
        """Return what a member learns from.

        Args:
            fold: the member's own, see :meth:`zoo.splitting.SplitConfig.of_seed`.

        Raises:
            DataError: where its rows cannot be learnt from.
        """
        if fold not in self._latest:
            made = self.prepare(self.sharing.of(fold))
            for old in list(self._latest)[: len(self._latest) - KEPT + 1]:
                del self._latest[old]
            self._latest[fold] = made
        return self._latest[fold]
