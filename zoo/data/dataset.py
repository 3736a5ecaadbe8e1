"""The value that loading gives: tensors in three parts, and all that is known about them."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zoo.data import images
from zoo.data.sharing import Parts, Sharing
from zoo.sections import Task
from zoo.units import Units

KEPT = 4  # members' own data that are held at once; others are prepared anew


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
    """A split data set, ready to learn from, with all that is needed to treat new rows alike.

    Attributes:
        ref: what the data are called.
        classes: of the outputs of a model, classes or labels by name; () for quantities.
        preprocessing: all that was fitted, as JSON; :func:`zoo.data.apply` prepares new rows by it.
        fingerprint: of the raw content.
        split_hash: of which rows are in which part.
        notes: what a user should know, a sentence each.
        rows: int64 (N,) for each part, the numbers of its rows in the data, from 0; a row that was
            drawn twice is there twice.
    """

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
    rows: Parts

    @property
    def has_own_rows(self) -> bool:
        """Whether other members have other training and validation rows: folds, or draws."""
        return "common_split" in self.preprocessing

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


def of_tensors(train: Part, val: Part, task: Task, outputs: int) -> Data:
    """Make data of tensors that are ready to be learnt from; of their origin nothing is known.

    Args:
        train: rows, as models take them, and their targets.
        val: the same.
        task: which it is.
        outputs: how many numbers a model gives per row.

    >>> part = Part(torch.zeros(3, 2), torch.tensor([0, 1, 1]))
    >>> of_tensors(part, part, "classification", 2).classes
    ('0', '1')
    """
    names = [str(place) for place in range(outputs)]
    classes = () if task == "regression" else tuple(names)
    target = {"task": task, "names": names, "classes": classes, "units": None}
    nobody = np.empty(0, dtype=np.int64)
    return Data(
        ref="tensors",
        task=task,
        train=train,
        val=val,
        test=Part(val.x[:0], val.y[:0]),
        classes=classes,
        preprocessing={"kind": "tensors", "target": target},
        fingerprint="",
        split_hash="",
        notes=(),
        rows=(nobody, nobody, nobody),
    )


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
