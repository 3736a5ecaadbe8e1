"""What classes weigh in the training loss, so that rare ones are not neglected."""

import torch
from torch import Tensor

from zoo.data import Data
from zoo.errors import ConfigError, listed
from zoo.sections import TrainConfig


def class_weights(train: TrainConfig, data: Data) -> Tensor:
    """Return the weight of each class or label, float32 (C,); ones where none are asked for.

    ``balanced`` is rows / (classes x rows of the class) as in scikit-learn, after G. King & L. Zeng
    2001, Logistic Regression in Rare Events Data; its mean over the training rows is 1.  For labels
    it is the number of training rows without the label over that with it, and weighs those.  It is
    1 for a class that no training row has, and for a label that all have or none.

    Args:
        train: the settings.
        data: what is learnt from; the training rows alone are counted.

    Raises:
        ConfigError: where the weights are not one for each class, or there are no classes.
    """
    asked, count = train.class_weights, len(data.classes)
    if asked is None:
        return torch.ones(count)
    if not count:
        raise ConfigError("train.class_weights: is for classes, however the task is regression")
    if asked != "balanced":
        if len(asked) != count:
            raise ConfigError(
                f"train.class_weights: must be one for each of the {count} classes "
                f"({listed(data.classes)}), however they are {len(asked)}"
            )
        return torch.tensor(asked, dtype=torch.float32)
    rows, y = len(data.train), data.train.y
    if data.task == "multilabel":
        with_C = y.double().sum(0)
        return torch.where(with_C * (rows - with_C) > 0, (rows - with_C) / with_C, 1.0).float()
    count_C = y.bincount(minlength=count).double()
    return torch.where(count_C > 0, rows / ((count_C > 0).sum() * count_C), 1.0).float()
