"""What only the data can tell of a run's settings, and which runs may share a stack."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from zoo import augment, models
from zoo.config import RunConfig
from zoo.data import Data, tabular
from zoo.errors import ConfigError, DataError, first_line
from zoo.registry.records import metric_of
from zoo.registry.values import to_json
from zoo.sections import ModelConfig
from zoo.weighting import class_weights

MOST_FITTED = 4 << 20  # bytes of JSON


def shape_key(config: RunConfig, *, of_fold: bool = True) -> tuple[object, ...]:
    """Return what members must have in common to train in one stack.

    Args:
        config: the settings of one of them.
        of_fold: without it, what stacks of different folds have in common too.
    """
    train, keep = config.train, config.keep
    return (
        config.data.model_dump_json(exclude=None if of_fold else {"fold"}),
        config.model.model_dump_json(),
        config.optim.name,
        train.batch_size,
        train.accumulate,
        train.precision,
        bool(train.label_smoothing),
        bool(train.mixup),
        bool(train.class_weights),
        tuple((monitor.metric, monitor.direction) for monitor in config.stop.monitors),
        keep.ema is None,
        keep.swa is None,
        keep.lawa,
        keep.optimiser,
        config.augment,
    )


def build(model: ModelConfig, data: Data, seed: int) -> nn.Module:
    """Build an untrained model for the data."""
    options = completed(model.options, data.preprocessing)
    return models.build(model.name, options, data.shape, data.outputs, seed)


def completed(options: Mapping[str, Any], preprocessing: Mapping[str, Any]) -> dict[str, Any]:
    """Return a model's options; one named ``column_widths`` that is empty is found from a table."""
    if options.get("column_widths") == [] and preprocessing.get("kind") == "table":
        return {**options, "column_widths": tabular.widths(preprocessing)}
    return dict(options)


def batch_size(config: RunConfig, data: Data) -> int:
    """Return how many rows a step takes: as set, or 128, or all rows where there are fewer.

    Where members have rows of their own, half of the rows beside the test part stand for all: the
    folds need not be of one size, and the settings are to be the same in each.
    """
    rows = len(data.train)
    if config.data.own:
        rows = min(rows, len(np.union1d(*data.rows[:2])) // 2)
    return config.train.batch_size or min(128, rows)


def check_fitted(data: Data) -> None:
    """Check that what was fitted to the data fits into the header of a file of weights.

    Raises:
        DataError: where it does not.
    """
    size = len(to_json(data.preprocessing))
    if size > MOST_FITTED:
        raise DataError(
            f"every model keeps what prepares its rows, so that it has at most {MOST_FITTED:,}"
            f" bytes, however for {data.ref} it has {size:,}; drop columns by data.columns, or"
            " leave out data.scaling quantile"
        )


def check(
    config: RunConfig,
    data: Data,
    state: Mapping[str, Tensor] | None = None,
    module: nn.Module | None = None,
) -> None:
    """Check what only the data can tell of a run's settings.

    Args:
        config: the settings.
        data: what is learnt from.
        state: the weights to start from, if any are given.
        module: the model itself, where settings do not say what it is.

    Raises:
        ConfigError: where the model, the batch size or the monitored metric do not suit the data.
        MismatchError: where the weights do not fit the model.
    """
    try:
        module = build(config.model, data, seed=0) if module is None else module
    except (RuntimeError, MemoryError) as error:
        raise ConfigError(
            f"model: cannot be built with these options: {first_line(error)}"
        ) from error
    models.check_outputs(module, data.shape, data.outputs)
    if state:
        models.restore(module, state)
    augment.check(config.augment, data.shape)
    train, rows, size = config.train, len(data.train), batch_size(config, data)
    if size > rows:
        raise ConfigError(
            f"train.batch_size: must be at most the {rows} training rows, however it is {size}"
        )
    if train.accumulate > size:
        raise ConfigError(
            f"train.accumulate: must be at most train.batch_size ({size}), however it is "
            f"{train.accumulate}"
        )
    if size // train.accumulate == 1 and any(isinstance(m, _BatchNorm) for m in module.modules()):
        key = "train.accumulate" if train.accumulate > 1 else "train.batch_size"
        raise ConfigError(
            f"{key}: BatchNorm needs 2 rows or more at a time, however a batch of {size} in "
            f"{train.accumulate} parts has 1"
        )
    known = ["loss", metric_of(data.task)]
    known += ["balanced_accuracy"] if data.task == "classification" else []
    for monitor in config.stop.monitors:
        if monitor.metric not in known:
            raise ConfigError(
                f"stop.metric: must be {' or '.join(known)} for {data.task}, however it is "
                f"{monitor.metric}"
            )
    if config.stop.start_from_epoch > train.epochs:
        raise ConfigError(
            f"stop.start_from_epoch: must be at most train.epochs ({train.epochs}), or no epoch "
            f"can be the best, however it is {config.stop.start_from_epoch}"
        )
    if train.label_smoothing and data.task == "regression":
        raise ConfigError("train.label_smoothing: is for classes, however the task is regression")
    class_weights(train, data)
