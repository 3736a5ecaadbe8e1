"""Training at its edges: divergence, odd batches, what does not suit, what may share a stack."""

import math
from dataclasses import replace

import pytest
import torch
from crowd import agrees_with_solo, data, figures, members, same_end, settings, train

from zoo import models
from zoo.checks import shape_key
from zoo.errors import ConfigError
from zoo.fit import Fit
from zoo.state import TrainState

# Divergence


@pytest.mark.parametrize("engine", ["stacked", "sequential"])
@pytest.mark.parametrize("norm", ["none", "batch"])
def test_a_diverging_member_is_reported_and_leaves_the_others_as_they_were(norm, engine):
    model = {"name": "mlp", "hidden": [8], "norm": norm}
    sane = settings(model=model, optim={"name": "sgd", "lr": 0.05})
    wild = settings(model=model, optim={"name": "sgd", "lr": 1e30})
    source = data("iris")
    crowd = members(sane, wild, sane, sane)
    # Batch norm divides a huge weight out again, so that its member may go on for a while.
    _, ends = train(crowd, source, engine=engine)
    if norm == "none":
        assert ends["m1"].status == "diverged"
        assert ends["m1"].best is None
        assert ends["m1"].state is None
        assert ends["m1"].epochs == 1
    for key in ("m0", "m2", "m3"):
        assert ends[key].status == "finished"
        [member] = [m for m in crowd if m.key == key]
        same_end(ends[key], train([member], source, engine=engine)[1][key], exact=False)
    # A sane member in the same place and program gives the very same bits to the others.
    swapped = [crowd[0], replace(crowd[1], config=sane), *crowd[2:]]
    _, calm = train(swapped, source, engine=engine)
    first = {key: calm[key] for key in ("m0", "m2", "m3")}
    for key, end in first.items():
        same_end(ends[key], end, exact=True)


def test_a_refilled_slot_of_a_diverged_member_is_clean():
    sane = settings(optim={"name": "sgd", "lr": 0.05})
    wild = settings(optim={"name": "sgd", "lr": 1e30})
    source = data("iris")
    crowd = members(wild, sane, wild, sane)
    _, ends = train(crowd, source, width=1)
    assert [ends[f"m{k}"].status for k in range(4)] == ["diverged", "finished"] * 2
    for k in (1, 3):
        same_end(ends[f"m{k}"], train([crowd[k]], source)[1][f"m{k}"])


def test_a_member_that_diverges_late_keeps_its_last_finite_best():
    # Plain gradient descent on a linear model, a little too fast, grows without bound.
    config = settings(
        "diabetes",
        model={"name": "mlp", "hidden": []},
        optim={"name": "sgd", "lr": 3.0, "momentum": 0.0},
        train={"epochs": 200, "batch_size": 266},
        stop={"patience": 200},
    )
    source = data("diabetes")
    history, ends = train(members(config), source)
    end = ends["m0"]
    assert end.status == "diverged"
    assert end.epochs > 2
    assert all(math.isfinite(epoch.val_loss) for epoch in history["m0"][:-1])
    assert end.best == min(history["m0"][:-1], key=lambda epoch: epoch.val_loss)
    assert all(value.isfinite().all() for value in end.state.values())
    module = models.build("mlp", config.model.options, source.shape, source.outputs, 5)
    module.load_state_dict(end.state)
    loss, *_ = figures(module, source.val.x, source.val.y, source.task, source.units())
    assert loss == pytest.approx(end.best.val_loss, rel=1e-4)


# Edges


@pytest.mark.parametrize("engine", ["stacked", "sequential"])
def test_a_last_batch_of_one_row_is_left_out(engine):
    source = data("iris", 65)  # 64 + 1
    config = settings(model={"name": "mlp", "hidden": [8], "norm": "batch"}, train={"epochs": 2})
    agrees_with_solo(members(config), source, engine=engine)
    _, ends = train(members(config), source, engine=engine)
    counted = ends["m0"].state["2.num_batches_tracked"].item()
    assert counted == 2 * ends["m0"].best.epoch


def test_a_batch_may_be_all_training_rows_but_not_more():
    source = data("iris", 65)
    agrees_with_solo(members(settings(train={"epochs": 2, "batch_size": 65})), source)
    with pytest.raises(ConfigError, match=r"^train\.batch_size: .*65.*66"):
        Fit(members(settings(train={"batch_size": 66})), source)


@pytest.mark.parametrize(
    ("ref", "metric", "suited"),
    [("iris", "rmse", "loss or accuracy"), ("diabetes", "accuracy", "loss or rmse")],
)
def test_a_metric_that_does_not_suit_the_task_is_refused(ref, metric, suited):
    with pytest.raises(ConfigError, match=rf"stop\.metric: must be {suited} .* it is {metric}"):
        Fit(members(settings(ref, stop={"metric": metric})), data(ref))


def test_a_model_that_does_not_suit_the_data_is_refused():
    with pytest.raises(ConfigError, match=r"model\.name: cnn takes images"):
        Fit(members(settings(model={"name": "cnn"})), data("iris"))
    with pytest.raises(ConfigError, match=r"model\.hiden: mlp has no such option"):
        Fit(members(settings(model={"name": "mlp", "hiden": [8]})), data("iris"))


@pytest.mark.parametrize("engine", ["stacked", "sequential"])
def test_a_batch_of_one_row_trains_or_is_refused_by_name(engine):
    source = data("iris", 20)
    plain = settings(train={"epochs": 1, "batch_size": 1})
    assert train(members(plain), source, engine=engine)[1]["m0"].status == "finished"
    normed = settings(
        model={"name": "mlp", "hidden": [8], "norm": "batch"},
        train={"epochs": 1, "batch_size": 1},
    )
    with pytest.raises(ConfigError, match=r"train\.batch_size"):
        train(members(normed), source, engine=engine)


def test_one_epoch_is_the_best_and_the_last():
    _, ends = train(members(settings(train={"epochs": 1}, stop={"patience": 9})), data("iris"))
    assert ends["m0"].epochs == ends["m0"].best.epoch == 1


def test_the_first_epoch_can_stay_the_best():
    # An improvement by ten nats is impossible, so the first epoch counts and patience runs out.
    config = settings(stop={"patience": 2, "min_delta": 10.0})
    history, ends = train(members(config), data("iris"))
    assert ends["m0"].epochs == 3
    assert ends["m0"].best == history["m0"][0]


def test_patience_beyond_the_epochs_trains_them_all():
    config = settings(train={"epochs": 4}, stop={"patience": 100, "min_delta": 10.0})
    _, ends = train(members(config), data("iris"))
    assert ends["m0"].epochs == 4


def test_the_engine_asked_for_is_taken_and_otherwise_chosen_with_a_reason():
    crowd = members(settings())
    for name in ("stacked", "sequential"):
        choice = Fit(crowd, data("iris"), engine=name, device="cpu").choice
        assert choice.engine == name
        assert choice.reason.startswith(f"{name} engine, 1 thread (a step of 1 member: {name} ")
    choice = Fit(crowd, data("iris"), device="cpu").choice
    assert choice.reason.startswith(f"{choice.engine} engine, 1 thread (a step of 1 member: ")
    assert " ms, sequential " in choice.reason


def test_choosing_an_engine_does_not_change_what_the_members_become():
    config = settings(model={"name": "mlp", "hidden": [8], "norm": "batch"})
    crowd, source = members(config, config), data("iris")
    fit = Fit(crowd, source, device="cpu")
    ends = {end.key: end for happened in fit for end in happened.finished}
    _, expected = train(crowd, source, choice=fit.choice)
    for key in ends:
        same_end(ends[key], expected[key])


def test_seconds_grow_from_epoch_to_epoch():
    history, ends = train(members(settings()), data("iris"))
    seconds = [epoch.seconds for epoch in history["m0"]]
    assert sorted(seconds) == seconds
    assert seconds[0] > 0
    assert ends["m0"].seconds >= seconds[-1]


APART = [
    {"data": {"split_seed": 1}},
    {"model": {"name": "mlp", "hidden": [9]}},
    {"model": {"name": "cnn"}},
    {"optim": {"name": "sgd"}},
    {"optim": {"name": "adamw"}},
    {"train": {"batch_size": 16}},
    {"train": {"accumulate": 2}},
    {"train": {"precision": "bfloat16"}},
    {"train": {"label_smoothing": 0.1}},
    {"train": {"mixup": 0.2}},
    {"stop": {"metric": "accuracy"}},
    {"stop": {"also": [{"metric": "accuracy"}]}},
    {"keep": {"ema": 0.9}},
    {"keep": {"swa": 0.5}},
    {"keep": {"lawa": 2}},
    {"keep": {"lawa": 3}},
    {"keep": {"optimiser": True}},
    {"data": {"ref": "digits"}, "augment": {"flip": 0.5}},
]


def test_the_shape_key_separates_what_cannot_share_a_stack():
    keys = [shape_key(settings(**change)) for change in [{}, *APART]]
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize(
    "change",
    [
        {"optim": {"lr": 9.0, "betas": [0.1, 0.2], "eps": 0.1, "weight_decay": 0.5}},
        {"train": {"epochs": 99}},
        {"train": {"clip_norm": 1.0, "clip_value": 0.1, "l1": 0.1, "l2": 0.1, "order_seed": 3}},
        {"schedule": {"name": "cosine", "warmup": 2.0}},
        {"init": {"mode": "shared"}},
        {"keep": {"last": True, "top": 3, "every": 2}},
        {"stop": {"patience": 99, "min_delta": 0.5, "threshold": 0.1, "when": "all"}},
        {"stop": {"metric": "loss", "mode": "min"}},
    ],
)
def test_the_shape_key_joins_what_can_share_a_stack(change):
    assert shape_key(settings(**change)) == shape_key(settings())


def test_the_shape_key_joins_different_strengths_of_what_is_asked_for_at_all():
    one = settings(train={"label_smoothing": 0.1, "mixup": 0.2}, keep={"ema": 0.9, "swa": 0.5})
    other = settings(train={"label_smoothing": 0.3, "mixup": 1.0}, keep={"ema": 0.5, "swa": 0.7})
    assert shape_key(one) == shape_key(other)


@pytest.mark.parametrize("engine", ["stacked", "sequential", "auto"])
def test_training_leaves_the_global_generator_as_it_was(engine):
    crowd = members(settings(model={"dropout": 0.5}, train={"epochs": 2}))
    torch.manual_seed(3)
    before = torch.get_rng_state()
    train(crowd, data("iris"), engine=engine)
    assert torch.equal(torch.get_rng_state(), before)


# A member without a best epoch


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"optim": {"name": "sgd", "lr": 1e30}, "stop": {"check_finite": False}}, "not finite"),
        ({"stop": {"divergence": 1e-6, "start_from_epoch": 5}}, "stop.divergence was passed"),
    ],
)
def test_who_has_no_best_epoch_has_diverged_and_says_why(changes, fault):
    _, ends = train(members(settings(**changes)), data("iris"))
    end = ends["m0"]
    assert (end.status, end.best, end.state) == ("diverged", None, None)
    assert fault in end.fault


@pytest.mark.parametrize("metric", ["accuracy", "rmse"])
def test_a_figure_is_as_good_as_its_bound_though_float32_rounds_it_to_worse(metric):
    sign = 1 if metric == "rmse" else -1
    for tenths in range(1, 10):
        bound = tenths / 10
        monitor = {"metric": metric, "threshold": bound, "divergence": bound}
        crowd = members(settings(stop=monitor))
        modules = [models.build("mlp", {"hidden": [8]}, (4,), 3, 0)]
        rounded, worse = torch.tensor([[tenths], [tenths + sign * 0.01]]) / 10
        [said] = [watcher.update(rounded) for watcher in TrainState(crowd, modules).stopping]
        assert (said.stop.item(), said.diverged.item()) == (True, False)
        [said] = [watcher.update(worse) for watcher in TrainState(crowd, modules).stopping]
        assert (said.stop.item(), said.diverged.item()) == (True, True)


def test_no_monitor_ends_a_member_before_the_deciding_one_looks():
    also = [{"metric": "accuracy", "patience": 1}]
    config = settings(stop={"start_from_epoch": 4, "patience": 9, "also": also})
    _, ends = train(members(config), data("iris"))
    assert ends["m0"].status == "finished"
    assert ends["m0"].best.epoch >= 4


def test_a_sound_best_is_kept_where_the_end_is_not_finite():
    config = settings(
        "diabetes",
        model={"name": "mlp", "hidden": []},
        optim={"name": "sgd", "lr": 0.9, "momentum": 0.0},
        train={"epochs": 400, "batch_size": 100},
        stop={"patience": 1000, "check_finite": False},
        keep={"last": True, "ema": 0.5},
    )
    _, ends = train(members(config), data("diabetes"))
    end = ends["m0"]
    assert end.status == "finished"
    assert math.isfinite(end.best.val_loss)
    assert [kept.kind for kept in end.kept] == []


def test_an_average_has_no_figures_before_it_begins():
    config = settings(train={"epochs": 4}, keep={"swa": 0.5, "ema": 0.9})
    history, _ = train(members(config), data("iris"))
    told = [set(epoch.averages) for epoch in history["m0"]]
    assert told == [{"ema"}, {"ema"}, {"ema", "swa"}, {"ema", "swa"}]
