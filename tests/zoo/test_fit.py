"""Training: what a member becomes is a function of its settings and its seed alone."""

import pytest
import torch
from crowd import agrees_with_solo, data, figures, members, same_end, settings, train
from sklearn.metrics import root_mean_squared_error
from torch import nn

from zoo import models
from zoo.choice import Choice
from zoo.fit import Fit
from zoo.reports import Member

# Agreement with plain PyTorch

PLAIN = {
    "sgd": ("iris", None, {"optim": {"name": "sgd", "lr": 1.0, "nesterov": True}}),
    "adam": ("iris", None, {"optim": {"name": "adam", "lr": 0.05, "weight_decay": 0.01}}),
    "adamw": ("iris", None, {"optim": {"name": "adamw", "lr": 0.3, "weight_decay": 0.1}}),
    "batch norm": (
        "iris",
        None,
        {"model": {"name": "mlp", "hidden": [8], "norm": "batch"}, "optim": {"lr": 0.1}},
    ),
    "cnn": (
        "digits",
        130,
        {"model": {"name": "cnn", "channels": [4, 6]}, "optim": {"lr": 0.05}},
    ),
    "accuracy": ("iris", None, {"optim": {"lr": 0.1}, "stop": {"metric": "accuracy"}}),
    "regression": ("diabetes", None, {"optim": {"lr": 0.1}, "stop": {"metric": "rmse"}}),
}


@pytest.mark.parametrize("engine", ["stacked", "sequential"])
@pytest.mark.parametrize("case", PLAIN)
def test_a_whole_training_agrees_with_a_plain_loop_for_each_member(case, engine):
    ref, rows, changes = PLAIN[case]
    stop = {"patience": 2, **changes.get("stop", {})}
    config = settings(ref, **{**changes, "train": {"epochs": 20}, "stop": stop})
    epochs = agrees_with_solo(members(*[config] * 4), data(ref, rows), engine=engine)
    assert len(set(epochs)) > 1  # they stop at different epochs
    assert min(epochs) < 20  # and some of them early


@pytest.mark.parametrize("engine", ["stacked", "sequential"])
def test_members_with_their_own_settings_train_as_if_each_were_alone(engine):
    crowd = members(
        settings(optim={"lr": 0.3}, stop={"patience": 1}, train={"epochs": 12}),
        settings(optim={"lr": 0.01, "betas": [0.5, 0.9]}, train={"epochs": 3}),
        settings(optim={"lr": 0.1, "weight_decay": 0.05}, train={"epochs": 1}),
        settings(optim={"lr": 0.05}, stop={"min_delta": 0.1}, train={"epochs": 9}),
        settings(optim={"lr": 0.001, "eps": 0.01}, stop={"patience": 5}),
    )
    epochs = agrees_with_solo(crowd, data("iris"), engine=engine)
    assert epochs[1:3] == [3, 1]
    assert len(set(epochs)) >= 4


def test_the_returned_state_is_that_of_the_best_epoch_by_value():
    source = data("iris")
    config = settings(optim={"lr": 0.3}, train={"epochs": 15}, stop={"patience": 4})
    history, ends = train(members(*[config] * 4), source)
    early = 0
    for k, (key, end) in enumerate(ends.items()):
        lowest = min(history[key], key=lambda epoch: epoch.val_loss)
        assert end.best == lowest
        early += end.best.epoch < end.epochs
        module = models.build("mlp", config.model.options, source.shape, source.outputs, 99 + k)
        module.load_state_dict(end.state, strict=True)
        loss, accuracy, _ = figures(module, source.val.x, source.val.y, source.task, source.units())
        assert loss == pytest.approx(lowest.val_loss, rel=1e-4)
        assert accuracy == pytest.approx(lowest.val_metric)
    assert early  # the last epoch was not the best


def test_training_figures_are_means_over_the_rows_seen_before_each_step():
    # With a vanishing learning rate the model stays as it was built.
    source = data("iris")
    config = settings(optim={"name": "sgd", "lr": 1e-30}, train={"epochs": 1, "batch_size": 40})
    history, _ = train(members(config), source)
    module = models.build("mlp", config.model.options, source.shape, source.outputs, 0)
    loss, accuracy, _ = figures(module, source.train.x, source.train.y, source.task)
    assert history["m0"][0].train_loss == pytest.approx(loss, rel=1e-5)
    assert history["m0"][0].train_metric == pytest.approx(accuracy, rel=1e-5)


def test_rmse_is_in_the_targets_unit_and_agrees_with_sklearn():
    source = data("diabetes")
    config = settings("diabetes", stop={"metric": "rmse"}, train={"epochs": 3})
    _, ends = train(members(config), source)
    module = models.build("mlp", config.model.options, source.shape, source.outputs, 5)
    module.load_state_dict(ends["m0"].state)
    with torch.no_grad():
        outputs = module.eval()(source.val.x)[:, 0]
    in_unit = [source.units().restore(values).numpy() for values in (source.val.y, outputs)]
    assert ends["m0"].best.val_metric == pytest.approx(root_mean_squared_error(*in_unit), rel=1e-4)
    assert ends["m0"].best.val_metric > 20


# Independence of the company

COMPANY = {
    "mlp": ("iris", None, {}),
    "batch norm": ("iris", None, {"model": {"name": "mlp", "hidden": [8], "norm": "batch"}}),
    "dropout": ("iris", None, {"model": {"name": "mlp", "hidden": [16], "dropout": 0.3}}),
    "cnn with dropout": (
        "digits",
        100,
        {"model": {"name": "cnn", "channels": [4], "dropout": 0.3}, "optim": {"lr": 0.03}},
    ),
}


def company(case):
    """Return five members of different settings that end at different epochs, and the data."""
    ref, rows, changes = COMPANY[case]
    crowd = [
        settings(
            ref,
            **{
                **changes,
                "optim": {"name": "adam", "lr": lr, "weight_decay": lr / 10},
                "train": {"epochs": epochs},
                "stop": {"patience": patience},
            },
        )
        for lr, epochs, patience in [
            (0.3, 8, 1),
            (0.01, 2, 3),
            (0.05, 5, 2),
            (0.1, 1, 1),
            (0.003, 4, 3),
        ]
    ]
    return members(*crowd), data(ref, rows)


@pytest.mark.parametrize("engine", ["stacked", "sequential"])
@pytest.mark.parametrize("case", COMPANY)
def test_a_member_becomes_the_same_alone_in_any_stack_and_in_a_refilled_slot(case, engine):
    crowd, source = company(case)
    alone = {m.key: train([m], source, engine=engine)[1][m.key] for m in crowd}
    for width in (1, 2, 3, 5):
        _, ends = train(crowd, source, engine=engine, width=width)
        for key in alone:
            # Alone and in a refilled slot of width one it is the same program.
            same_end(ends[key], alone[key], exact=width == 1)
    _, ends = train(crowd[::-1], source, engine=engine, width=3)
    for key in alone:
        same_end(ends[key], alone[key], exact=False)


@pytest.mark.parametrize("case", ["mlp", "dropout"])
def test_training_again_gives_the_same_bits(case):
    crowd, source = company(case)
    torch.manual_seed(1)
    _, first = train(crowd, source, width=3)
    torch.manual_seed(2)
    _, second = train(crowd, source, width=3)
    for key in first:
        same_end(first[key], second[key])


def test_members_of_different_seeds_differ_and_of_equal_seeds_do_not():
    config = settings(model={"name": "mlp", "hidden": [8], "dropout": 0.2})
    crowd = [Member("a", config, 3), Member("b", config, 4), Member("c", config, 3)]
    _, ends = train(crowd, data("iris"))
    same_end(ends["a"], ends["c"], exact=False)
    assert not torch.allclose(ends["a"].state["1.weight"], ends["b"].state["1.weight"])


@pytest.mark.parametrize("width", [1, 2])
def test_a_refilled_slot_keeps_no_buffer_of_its_former_member(width, monkeypatch):
    class Projected(nn.Module):
        """Random features whose directions are not part of the state dict."""

        def __init__(self, inputs, outputs):
            super().__init__()
            self.register_buffer("directions", torch.randn(inputs, 8), persistent=False)
            self.head = nn.Linear(8, outputs)

        def forward(self, x):
            return self.head(torch.cos(x @ self.directions))

    def projected(shape, outputs):
        return Projected(shape[0], outputs)

    monkeypatch.setattr(models, "BUILDERS", dict(models.BUILDERS))
    models.model(projected)
    config = settings(model={"name": "projected"}, train={"epochs": 3})
    crowd, source = members(*[config] * 4), data("iris")
    _, ends = train(crowd, source, width=width)
    for member in crowd:
        module = models.build("projected", {}, source.shape, source.outputs, member.seed)
        module.load_state_dict(ends[member.key].state)
        loss, *_ = figures(module, source.val.x, source.val.y, source.task, source.units())
        assert loss == pytest.approx(ends[member.key].best.val_loss, rel=1e-4)


def test_at_most_width_members_train_at_once_and_in_the_order_given():
    crowd = members(*[settings(train={"epochs": e}, stop={"patience": 9}) for e in (2, 1, 1, 3)])
    told = []
    for happened in Fit(crowd, data("iris"), engine="stacked", width=2, device="cpu"):
        told.append([(epoch.key, epoch.epoch) for epoch in happened.epochs])
    assert [sorted(keys) for keys in told] == [
        [("m0", 1), ("m1", 1)],
        [("m0", 2), ("m2", 1)],
        [("m3", 1)],
        [("m3", 2)],
        [("m3", 3)],
    ]


@pytest.mark.parametrize(
    ("engine", "widths"), [("stacked", [4, 4, 2, 1, 1]), ("sequential", [4, 3, 2, 1, 1])]
)
def test_empty_slots_are_given_up_at_once_or_where_that_is_another_program_half_of_them(
    engine, widths
):
    crowd = members(*[settings(train={"epochs": e}, stop={"patience": 9}) for e in (1, 2, 3, 5)])
    fit = Fit(crowd, data("iris"), engine=engine, device="cpu")
    seen = []
    training = iter(fit)
    while any(fit.slots):
        seen.append(len(fit.slots))
        next(training)
    assert seen == widths


def test_a_lane_that_fails_halts_the_others_within_their_epoch():
    fit = Fit(members(*[settings()] * 2), data("iris"), choice=Choice("sequential", 2, 1, 2))
    step, taken = fit.engine.step, []

    def failing(stack, *arguments):
        if stack.flat_KP.data_ptr() == fit.lanes[1].stack.flat_KP.data_ptr():
            raise ValueError("of the second lane")
        taken.append(fit.halt.wait(60))
        return step(stack, *arguments)

    fit.engine.step = failing
    with pytest.raises(ValueError, match="of the second lane"):
        next(iter(fit))
    assert len(fit.setup.train) > 2 * fit.setup.batch_size  # so there would have been more steps
    assert taken == [True]
