"""Mistakes in settings: each is one clear sentence that begins with its key."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zoo.config import Config, RunConfig, parse
from zoo.errors import ConfigError

IRIS = {"data": {"ref": "iris"}}


def refused(**changes):
    with pytest.raises(ConfigError) as caught:
        parse({**IRIS, **changes})
    return str(caught.value)


MISTAKES = [
    ({"data": {}}, "data.ref: is required"),
    ({"trian": {}}, "trian: no such key; did you mean 'train'?"),
    ({"train": {"epoch": 1}}, "train.epoch: no such key; did you mean 'epochs'?"),
    ({"optim": {"lrr": 1}}, "optim.lrr: no such key; did you mean 'lr'?"),
    ({"optim": {"name": "sgd", "betas": [0, 0]}}, "optim.betas: no such key"),
    ({"optim": {"name": "adm"}}, "optim.name: no such optimiser; did you mean 'adam'?"),
    ({"optim": {"name": 5}}, "optim.name: no such optimiser"),
    ({"optim": "sgd"}, "optim: "),
    ({"model": "mlp"}, "model: "),
    ({"model": {"name": 5}}, "model.name: "),
    ({"optim": {"lr": "fast"}}, "optim.lr: should be a valid number"),
    ({"grid": {"optim.lr": ["fast"]}}, "optim.lr: should be a valid number"),
    ({"optim": {"lr": 0}}, "optim.lr: should be greater than 0, however it is 0"),
    ({"optim": {"lr": -1}}, "optim.lr: should be greater than 0, however it is -1"),
    ({"optim": {"lr": math.nan}}, "optim.lr: should be a finite number, however it is nan"),
    ({"optim": {"lr": math.inf}}, "optim.lr: should be a finite number, however it is inf"),
    ({"optim": {"weight_decay": -0.1}}, "optim.weight_decay: should be greater"),
    ({"optim": {"name": "sgd", "momentum": 1}}, "optim.momentum: should be less than 1"),
    ({"optim": {"betas": [0.9, 1.0]}}, "optim.betas.1: should be less than 1"),
    ({"optim": {"betas": [0.9]}}, "optim.betas"),
    ({"train": {"epochs": 0}}, "train.epochs: should be greater"),
    ({"train": {"epochs": 1.5}}, "train.epochs: should be a valid integer"),
    ({"train": {"batch_size": 0}}, "train.batch_size: should be greater"),
    ({"stop": {"patience": 0}}, "stop.patience: should be greater"),
    ({"stop": {"min_delta": -1}}, "stop.min_delta: should be greater"),
    ({"stop": {"min_delta": math.nan}}, "stop.min_delta: should be"),
    (
        {"stop": {"metric": "acc"}},
        "stop.metric: should be 'loss', 'accuracy', 'balanced_accuracy' or 'rmse'",
    ),
    ({"optim": {"decay": "some"}}, "optim.decay: should be 'weights' or 'all'"),
    ({"init": 5}, "init: should be a valid dictionary"),
    ({"init": ""}, "init: source is required for mode run"),
    ({"init": {"mode": "file"}}, "init: source is required for mode file"),
    ({"init": {"source": "a"}}, "init: source and epoch have no meaning for mode independent"),
    ({"init": {"mod": "shared"}}, "init.mod: no such key; did you mean 'mode'?"),
    ({"schedule": {"name": "cosin"}}, "schedule.name: should be 'constant', 'cosine', 'step'"),
    ({"schedule": {"warmup": -1}}, "schedule.warmup: should be greater than or equal to 0"),
    ({"schedule": {"rise": 1}}, "schedule.rise: should be less than 1"),
    ({"train": {"accumulate": 0}}, "train.accumulate: should be greater"),
    ({"train": {"clip_norm": 0}}, "train.clip_norm: should be greater than 0"),
    ({"train": {"label_smoothing": 1}}, "train.label_smoothing: should be less than 1"),
    ({"train": {"precision": "float16"}}, "train.precision: should be 'float32' or 'bfloat16'"),
    ({"stop": {"when": "some"}}, "stop.when: should be 'any' or 'all'"),
    ({"stop": {"threshold": math.inf}}, "stop.threshold: should be a finite number"),
    ({"stop": {"also": {}}}, "stop.also: should be a valid list"),
    ({"stop": {"also": [{"patince": 3}]}}, "stop.also.0.patince: no such key; did you mean 'pat"),
    ({"stop": {"also": [{"also": []}]}}, "stop.also.0.also: no such key"),
    ({"stop": {"also": [{"metric": "rmse", "mode": "max"}]}}, "stop.also.0: the mode of rmse is"),
    ({"keep": {"ema": 1}}, "keep.ema: should be less than 1"),
    ({"keep": {"lawa": 1}}, "keep.lawa: should be greater than or equal to 2"),
    ({"keep": {"lst": True}}, "keep.lst: no such key; did you mean 'last'?"),
    ({"data": {"ref": "iris", "val": 0.5, "test": 0.5}}, "data: val and test must leave rows"),
    ({"data": {"ref": "iris", "val": 0}}, "data.val: should be greater than 0"),
    ({"data": {"ref": "iris", "split": "grup"}}, "data.split: should be 'random', 'group'"),
    (
        {"data": {"ref": "iris", "split": "group"}},
        "data: split 'group' needs a column, however none is named; set data.group",
    ),
    (
        {"data": {"ref": "iris", "time": "day"}},
        "data: time is for split 'time', however split is 'random'; set both",
    ),
    ({"data": {"ref": "iris", "folds": 1}}, "data.folds: should be greater than or equal to 2"),
    ({"data": {"ref": "iris", "repeats": 2}}, "data: repeats need folds, however only repeats=2"),
    (
        {"data": {"ref": "iris", "folds": 2, "bootstrap": True}},
        "data: a member has a fold or a bootstrap draw, however both are asked for",
    ),
    (
        {"data": {"ref": "iris", "folds": 2, "split": "time", "time": "day"}},
        "data: folds and draws would train on rows later than those that validate",
    ),
    (
        {"data": {"ref": "iris", "folds": 2, "fold": 2}},
        "data: fold must be below folds x repeats (2), however it is 2",
    ),
    ({"data": {"ref": "iris", "fold": 2}}, "data: fold is for folds or bootstrap, however neither"),
    ({"data": {"ref": "iris", "test": 1}}, "data.test: should be less than 1"),
    ({"data": {"ref": "iris", "split_seed": -1}}, "data.split_seed: should be greater"),
    ({"seeds": [1, 2, 1]}, "seeds: a seed may be given once, however 1 came twice"),
    ({"seeds": "1,1-2"}, "seeds: a seed may be given once, however 1 came twice"),
    ({"seeds": 0}, "seeds: at least one seed is needed"),
    ({"seeds": []}, "seeds: at least one seed is needed"),
    ({"seeds": -1}, "seeds: takes a count"),
    ({"seeds": "some"}, "seeds: takes a count"),
    ({"seeds": "5-3"}, "seeds: a range goes upwards"),
    ({"seeds": 100_001}, "seeds: at most 100000 seeds"),
    ({"seeds": [2**31]}, "seeds.0: should be less than"),
    ({"seeds": True}, "seeds: takes a count"),
    ({"name": ""}, "name: "),
    ({"name": "-x"}, "name: a name holds up to 100 letters"),
    ({"name": "a/b"}, "name: a name holds up to 100 letters"),
    ({"grid": 5}, "grid: should be a valid dictionary"),
    ({"grid": {"optim.lrr": [1]}}, "optim.lrr: no such key; did you mean 'lr'?"),
    ({"grid": {"seeds": [1, 2]}}, "seeds: no such key"),
    ({"grid": {"optim.lr": [0.1, None]}}, "optim.lr: should be a valid number"),
    ({"grid": {"optim.lr.x": [1]}, "optim": {"lr": 1}}, "optim.lr.x: lr is a value, not a table"),
    ({"grid": {"train.epochs": [1, 0]}}, "train.epochs: should be greater"),
]


@pytest.mark.parametrize(("changes", "message"), MISTAKES)
def test_a_mistake_is_one_sentence_that_begins_with_its_key(changes, message):
    told = refused(**changes)
    assert told.startswith(message)
    assert "\n" not in told
    assert "pydantic" not in told


def test_a_grid_key_without_values_is_refused():
    assert refused(grid={"optim.lr": []}).startswith(("optim.lr", "grid"))


def test_a_grid_over_the_zoos_name_is_refused_by_that_key():
    assert refused(grid={"name": ["a", "b"]}).startswith("name: ")


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"optim": {"name": "sgd", "nesterov": 1}}, "optim.nesterov"),
        ({"optim": {"name": "sgd", "nesterov": "yes"}}, "optim.nesterov"),
        ({"optim": {"lr": True}}, "optim.lr"),
        ({"train": {"epochs": True}}, "train.epochs"),
    ],
)
def test_nothing_is_silently_converted_to_or_from_true(change, key):
    assert refused(**change).startswith(key)


def test_every_mistake_is_named_at_once():
    told = refused(optim={"lr": -1}, train={"epochs": 0})
    assert "optim.lr: " in told
    assert "train.epochs: " in told


VALUES = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-3, 3),
        st.floats(),
        st.sampled_from(["", "iris", "sgd", "mlp", "loss", "1", "0-3"]),
    ),
    lambda inner: st.lists(inner, max_size=2),
    max_leaves=3,
)
KEYS = sorted(
    {
        "name",
        "seeds",
        "data",
        "model",
        "optim",
        "data.ref",
        "model.name",
        "model.hidden",
        "optim.name",
        "optim.lr",
        "optim.betas",
        "train.epochs",
        "stop.metric",
        "stop.also",
        "init",
        "init.mode",
        "schedule.name",
        "keep.ema",
        "stop.patience.x",
        "",
        ".",
        "unknown.key",
    }
)


@settings(max_examples=150, deadline=None)
@given(
    sections=st.dictionaries(
        st.sampled_from([*RunConfig.model_fields, "seeds", "name", "other"]),
        st.one_of(
            VALUES, st.dictionaries(st.sampled_from(["ref", "name", "lr", "x"]), VALUES, max_size=2)
        ),
        max_size=3,
    ),
    grid=st.one_of(VALUES, st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=3)),
)
def test_any_settings_are_understood_or_refused_as_a_config_error(sections, grid):
    try:
        parsed = parse({**IRIS, **sections, "grid": grid})
    except ConfigError:
        return
    assert isinstance(parsed, Config)
    assert parsed.runs()
