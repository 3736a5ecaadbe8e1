"""Training of every task: each member becomes what a plain loop makes of it, in both engines."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from crowd import agrees_with_solo, members, settings, solo, train
from sklearn import metrics as sk
from sklearn.utils.class_weight import compute_class_weight

from zoo import models
from zoo.checks import check
from zoo.config import parse
from zoo.data import Part, load
from zoo.errors import ConfigError
from zoo.sections import DataConfig, TrainConfig
from zoo.weighting import class_weights


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """Load one table for several tasks; its features tell something of each."""
    drawn = np.random.default_rng(0)
    x = drawn.normal(size=(150, 3))
    noisy = x + 0.7 * drawn.normal(size=x.shape)
    table = {"u": x[:, 0], "v": x[:, 1], "w": x[:, 2]}
    table |= {"p": 5 + 2 * noisy[:, 0], "q": 100 * noisy[:, 1], "heavy": np.exp(2 * noisy[:, 2])}
    table |= {"a": noisy[:, 0] > 0, "b": noisy[:, 1] > 1, "c": noisy[:, 2] > -1}
    table |= {"few": np.where(noisy[:, 0] > 1, "rare", np.where(noisy[:, 1] > 0, "y", "z"))}
    path = tmp_path_factory.mktemp("tasks") / "table.csv"
    pd.DataFrame(table).to_csv(path, index=False)

    def of(target, **options):
        names = target if isinstance(target, list) else [target]
        columns = pd.DataFrame(table)[["u", "v", "w", *names]]
        own = path.with_name(f"{'-'.join(names)}.csv")
        columns.to_csv(own, index=False)
        return load(DataConfig(ref=str(own), target=target, **options))

    return {
        "labels": of(["a", "b", "c"]),
        "several": of(["p", "q"]),
        "several log": of(["heavy", "p"], target_transform="yeo-johnson"),
        "log": of("heavy", target_transform="log1p"),
        "classes": of("few"),
    }


MANY = {"keep": {"ema": 0.9}, "optim": {"lr": 0.05}}
CASES = {
    "labels": ("labels", {}),
    "labels by accuracy": ("labels", {"stop": {"metric": "accuracy"}}),
    "labels with all": (
        "labels",
        {
            "train": {
                "label_smoothing": 0.1,
                "mixup": 0.4,
                "class_weights": "balanced",
                "batch_size": 32,
            }
        },
    ),
    "several": ("several", {"stop": {"metric": "rmse"}}),
    "several mixed": ("several", {"train": {"mixup": 0.4, "batch_size": 32}}),
    "several log": ("several log", {"stop": {"metric": "rmse"}}),
    "log": ("log", {"stop": {"metric": "rmse"}, **MANY}),
    "classes": ("classes", {"train": {"class_weights": [5.0, 1.0, 0.5], "batch_size": 32}}),
    "classes with all": (
        "classes",
        {
            "train": {
                "label_smoothing": 0.1,
                "mixup": 0.4,
                "class_weights": "balanced",
                "batch_size": 32,
            }
        },
    ),
    "balanced accuracy": ("classes", {"stop": {"metric": "balanced_accuracy"}, **MANY}),
}


@pytest.mark.parametrize("engine", ["stacked", "sequential"])
@pytest.mark.parametrize("case", CASES)
def test_a_whole_training_agrees_with_a_plain_loop_for_each_member(case, engine, sources):
    name, changes = CASES[case]
    stop = {"patience": 2, **changes.get("stop", {})}
    wanted = {"epochs": 8, **changes.get("train", {})}
    config = settings("t", **{"optim": {"lr": 0.05}, **changes, "train": wanted, "stop": stop})
    agrees_with_solo(members(*[config] * 3), sources[name], engine=engine)


@pytest.mark.parametrize("engine", ["stacked", "sequential"])
@pytest.mark.parametrize("name", ["labels", "classes"])
def test_members_of_one_stack_have_weights_of_their_own(name, engine, sources):
    weights = ["balanced", [1, 1, 1], [9, 1, 0.25]]
    crowd = [settings("t", train={"epochs": 2, "class_weights": w}) for w in weights]
    agrees_with_solo(members(*crowd), sources[name], engine=engine)
    first, second, _ = (solo(m, sources[name])[0] for m in members(*crowd))
    assert first[0]["train_loss"] != pytest.approx(second[0]["train_loss"], rel=1e-3)


@pytest.mark.parametrize("engine", ["stacked", "sequential"])
@pytest.mark.parametrize("name", ["labels", "several", "classes"])
def test_parts_of_a_batch_add_up_to_it(name, engine, sources):
    weights = {"class_weights": [2, 1, 3]} if name != "several" else {}
    one, parts = (
        settings("t", train={"epochs": 2, "mixup": 0.3, "accumulate": count, **weights})
        for count in (1, 3)
    )
    first, _ = train(members(one), sources[name], engine=engine)
    second, _ = train(members(parts), sources[name], engine=engine)
    for whole, summed in zip(first["m0"], second["m0"], strict=True):
        assert summed.val_loss == pytest.approx(whole.val_loss, rel=1e-4)
        assert summed.train_loss == pytest.approx(whole.train_loss, rel=1e-4)


def test_balanced_accuracy_is_watched_and_told(sources):
    source = sources["classes"]
    config = settings("t", stop={"metric": "balanced_accuracy"}, train={"epochs": 5})
    history, ends = train(members(config), source)
    best = max(history["m0"], key=lambda epoch: epoch.val_balanced_accuracy)
    assert ends["m0"].best == best
    told, _, state = solo(members(config)[0], source)
    assert best.val_balanced_accuracy == pytest.approx(told[best.epoch - 1]["weights"][2])
    assert state is not None


@pytest.mark.filterwarnings("ignore:y_pred contains classes")
def test_a_class_that_no_row_validates_has_no_part_in_balanced_accuracy():
    kinds = np.array(["a", "b", "c"])[np.arange(120) % 3]
    kinds[90:110] = np.array(["a", "b"])[np.arange(20) % 2]
    frame = pd.DataFrame({"x": np.random.default_rng(0).normal(size=120), "kind": kinds})
    frame["part"] = ["train"] * 90 + ["val"] * 20 + ["test"] * 10
    data = load(DataConfig(ref="t", target="kind", split="column", part="part"), frame)
    config = settings("t", stop={"metric": "balanced_accuracy"}, train={"epochs": 2})
    history, ends = train(members(config), data, engine="auto")
    told, *_ = solo(members(config)[0], data)
    assert ends["m0"].status == "finished"
    for epoch, row in zip(history["m0"], told, strict=True):
        assert epoch.val_balanced_accuracy == pytest.approx(row["weights"][2])


def test_a_model_that_no_memory_can_hold_is_refused_in_a_line(sources, monkeypatch):
    def build(*_, **__):
        raise MemoryError  # which says nothing

    monkeypatch.setattr("zoo.checks.build", build)
    with pytest.raises(ConfigError, match=r"cannot be built with these options: MemoryError\(\)"):
        check(settings("t"), sources["classes"])


def test_balanced_weights_are_scikit_learns(sources):
    source, asked = sources["classes"], TrainConfig(class_weights="balanced")
    expected = compute_class_weight("balanced", classes=np.arange(3), y=source.train.y.numpy())
    np.testing.assert_allclose(class_weights(asked, source), expected, rtol=1e-6)
    labels = sources["labels"].train.y
    with_C, all_C = labels.sum(0), len(labels)
    torch.testing.assert_close(class_weights(asked, sources["labels"]), (all_C - with_C) / with_C)


def test_balanced_weights_are_1_for_a_class_in_no_row_and_a_label_in_none_or_all(sources):
    asked, source = TrainConfig(class_weights="balanced"), sources["classes"]
    here = source.train.y < 2
    some = replace(source, train=Part(source.train.x[here], source.train.y[here]))
    two = compute_class_weight("balanced", classes=np.arange(2), y=some.train.y.numpy())
    np.testing.assert_allclose(class_weights(asked, some), [*two, 1], rtol=1e-6)
    source = sources["labels"]
    odds = class_weights(asked, source)[0]
    y = torch.stack([source.train.y[:, 0], *torch.eye(2)[1].expand(len(source.train), 2).T], dim=1)
    some = replace(source, train=Part(source.train.x, y))
    assert class_weights(asked, some).tolist() == [odds, 1, 1]


def test_the_rmse_of_several_targets_is_scikit_learns(sources):
    source = sources["several log"]
    config = settings("t", train={"epochs": 3})
    _, ends = train(members(config), source)
    module = models.build("mlp", config.model.options, source.shape, source.outputs, 0)
    module.load_state_dict(ends["m0"].state)
    with torch.no_grad():
        outputs = module.eval()(source.val.x)
    units = source.units()
    pair = units.restore(source.val.y, predicted=False), units.restore(outputs)
    expected = np.sqrt(sk.mean_squared_error(*pair))
    assert ends["m0"].best.val_metric == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    ("name", "changes", "says"),
    [
        (
            "classes",
            {"train": {"class_weights": [1, 2]}},
            r"3 classes \(rare, y, z\), however they",
        ),
        ("several", {"train": {"class_weights": "balanced"}}, "is for classes"),
        ("several", {"train": {"label_smoothing": 0.1}}, "is for classes"),
        ("labels", {"stop": {"metric": "balanced_accuracy"}}, "loss or accuracy for multilabel"),
        ("several", {"stop": {"metric": "accuracy"}}, "loss or rmse for regression"),
    ],
)
def test_settings_that_do_not_suit_the_task_are_refused(name, changes, says, sources):
    with pytest.raises(ConfigError, match=says):
        check(settings("t", **changes), sources[name])


@pytest.mark.parametrize("weights", ["equal", [], [1, 0], [1, -1], [1, "a"], [True, 1], 3])
def test_weights_that_are_none_are_refused(weights):
    with pytest.raises(ConfigError, match=r"train\.class_weights: takes balanced or a list"):
        parse({"data": {"ref": "iris"}, "train": {"class_weights": weights}})
