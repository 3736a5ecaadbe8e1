"""Engines: whichever computes them, a member's figures are those of plain PyTorch, and its own."""

import copy

import pytest
import torch
from stacks import (
    CASES,
    CLOSE,
    ENGINES,
    IMPOSSIBLE,
    MEMBERS,
    ROWS,
    Custom,
    Rebinding,
    batch,
    custom,
    descend,
    figures,
    plain_step,
    prepared,
)
from torch import nn

from zoo import models
from zoo.engines import EVALUATION_ROWS
from zoo.objective import objective
from zoo.program import NotRecordableError
from zoo.sequential import Sequential
from zoo.stack import stack
from zoo.stacked import Stacked


@pytest.fixture(autouse=True)
def _no_grad():
    torch.manual_seed(0)
    with torch.no_grad():
        yield


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("case", CASES)
def test_steps_agree_with_a_plain_loop_in_figures_gradients_and_buffers(case, engine):
    modules, _, _, task = prepared(case)
    shape = CASES[case][2]
    stacked, engine = stack(modules), engine(modules[0], objective(task))
    modules = copy.deepcopy(modules)
    for step in range(4):
        # The last batch of an epoch is another shape, and so another recording.
        x_KN, y_KN = batch(MEMBERS, ROWS if step % 2 == 0 else 5, shape, task, seed=step)
        loss_K, score_K, gradient_KP = engine.step(stacked, x_KN, y_KN, torch.arange(MEMBERS), {})
        assert not loss_K.requires_grad
        for k, module in enumerate(modules):
            loss, score, gradient = plain_step(module, x_KN[k], y_KN[k], task)
            torch.testing.assert_close(loss_K[k], loss, **CLOSE)
            torch.testing.assert_close(score_K[k], score, **CLOSE)
            torch.testing.assert_close(gradient_KP[k], gradient, **CLOSE)
        descend(stacked, modules, gradient_KP)
        for k, module in enumerate(modules):
            for name, value in module.state_dict().items():
                torch.testing.assert_close(stacked.state(k)[name], value, **CLOSE)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("case", ["mlp batch norm", "cnn"])
def test_products_alone_are_in_bfloat16_and_norms_in_float32(case, engine):
    modules, x_KN, y_KN, task = prepared(case)
    given, made = set(), set()

    def noted(kinds, part, inputs, output):
        if part.training:  # not in the trial of the images' layout
            kinds.add(output.dtype)

    for part in modules[0].modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            part.register_forward_hook(lambda *told: noted(made, *told))
        elif isinstance(part, nn.Linear | nn.Conv2d):
            part.register_forward_hook(lambda *told: noted(given, *told))
    stacked, half = stack(modules), engine(modules[0], objective(task), "bfloat16")
    loss_K, _, gradient_KP = half.step(stacked, x_KN, y_KN, torch.arange(MEMBERS), {})
    assert (given, made) == ({torch.bfloat16}, {torch.float32})
    for k, module in enumerate(copy.deepcopy(modules)):
        loss, _, gradient = plain_step(module, x_KN[k], y_KN[k], task)
        torch.testing.assert_close(loss_K[k], loss, rtol=0.03, atol=0.03)
        cosine = torch.cosine_similarity(gradient_KP[k], gradient, dim=0)
        assert cosine > 0.99
        for name, buffer in module.named_buffers():
            torch.testing.assert_close(stacked.buffers[name][k], buffer, rtol=0.03, atol=0.03)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("case", CASES)
def test_outputs_and_evaluation_agree_with_the_module_in_evaluation_mode(case, engine):
    modules, x_KN, y_KN, task = prepared(case)
    for module, x in zip(modules, x_KN, strict=True):
        module.train()(x)  # so that running statistics are not the initial ones
    stacked, engine = stack(modules), engine(modules[0], objective(task))
    before = [stacked.state(k) for k in range(MEMBERS)]
    x_N, y_N = x_KN[0], y_KN[0]
    outputs_KNC = engine.outputs(stacked, x_N)
    loss_K, score_K = engine.evaluate(stacked, x_N, y_N)
    for k, module in enumerate(modules):
        expected = module.eval()(x_N)
        torch.testing.assert_close(outputs_KNC[k], expected, **CLOSE)
        loss, score = figures(expected, y_N, task)
        torch.testing.assert_close(loss_K[k], loss, **CLOSE)
        torch.testing.assert_close(score_K[k], score, **CLOSE)
        for name, value in before[k].items():
            assert torch.equal(stacked.state(k)[name], value)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("rows", [1, EVALUATION_ROWS, EVALUATION_ROWS + 1, 3 * EVALUATION_ROWS - 7])
def test_evaluation_weighs_every_row_once_however_many_there_are(rows, engine):
    modules, _, _, task = prepared("mlp")
    x_KN, y_KN = batch(1, rows, (4,))
    stacked, engine = stack(modules), engine(modules[0], objective(task))
    loss_K, score_K = engine.evaluate(stacked, x_KN[0], y_KN[0])
    assert engine.outputs(stacked, x_KN[0]).shape == (MEMBERS, rows, 3)
    for k, module in enumerate(modules):
        loss, score = figures(module.eval()(x_KN[0]), y_KN[0], task)
        torch.testing.assert_close(loss_K[k], loss, **CLOSE)
        torch.testing.assert_close(score_K[k], score, **CLOSE)


@pytest.mark.parametrize("engine", ENGINES)
def test_an_engine_goes_on_with_another_stack_of_the_same_width(engine):
    modules, x_KN, y_KN, task = prepared("mlp batch norm", members=4)
    engine = engine(modules[0], objective(task))
    whole = stack(modules)
    for members in ([0, 1], [3, 2], [1], [2]):
        part, again = whole.take(members), whole.take(members)
        seeds = torch.tensor(members)
        got = engine.step(part, x_KN[members], y_KN[members], seeds, {})
        new = type(engine)(modules[0], objective(task))
        expected = new.step(again, x_KN[members], y_KN[members], seeds, {})
        for one, other in zip(got, expected, strict=True):
            assert torch.equal(one, other)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("case", ["mlp", "mlp batch norm", "cnn", "regression"])
@pytest.mark.parametrize("poison", ["data", "weights"])
def test_a_members_nan_leaves_the_others_bit_identical(case, engine, poison):
    modules, x_KN, y_KN, task = prepared(case)
    seeds = torch.arange(MEMBERS)
    engine = engine(modules[0], objective(task))
    clean, poisoned = stack(modules), stack(modules)
    expected = engine.step(clean, x_KN, y_KN, seeds, {})
    expected_evaluation = engine.evaluate(clean, x_KN[0], y_KN[0])
    x_KN = x_KN.clone()
    (x_KN if poison == "data" else poisoned.flat_KP)[1] = torch.nan
    got = engine.step(poisoned, x_KN, y_KN, seeds, {})
    got_evaluation = engine.evaluate(poisoned, x_KN[0], y_KN[0])
    for one, other in zip([*got, *got_evaluation], [*expected, *expected_evaluation], strict=True):
        assert torch.equal(one[[0, 2]], other[[0, 2]])
    assert got[0][1].isnan()
    for name, buffer in poisoned.buffers.items():
        assert torch.equal(buffer[[0, 2]], clean.buffers[name][[0, 2]])


# Modules of users


@pytest.mark.parametrize("kind", IMPOSSIBLE)
def test_a_module_that_reads_values_or_draws_noise_of_its_own_is_not_stacked(kind):
    modules, x_KN, y_KN = custom(kind)
    engine = Stacked(modules[0], objective("classification"))
    with pytest.raises((NotRecordableError, RuntimeError)):
        engine.step(stack(modules), x_KN, y_KN, torch.arange(3), {})


class Scaled(Custom):
    """Multiplies by numbers written in ``forward``."""

    def forward(self, x):
        return self.linear(x * torch.tensor([1.0, 2.0, 3.0, 4.0]))


class Viewed(nn.Module):
    """Views the narrow result of a layer on (N, T, D), as many sequence models do."""

    def __init__(self):
        super().__init__()
        self.wide, self.narrow = nn.Linear(4, 20), nn.Linear(20, 2)
        self.head = nn.Linear(10, 3)

    def forward(self, x):
        return self.head(self.narrow(torch.tanh(self.wide(x))).view(len(x), -1))


class Normalised(Custom):
    def __init__(self):
        super().__init__()
        self.before = nn.LayerNorm(4)

    def forward(self, x):
        return self.linear(self.before(x))


class Counting(Custom):
    """Keeps a running mean of its own in a buffer."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(()))

    def forward(self, x):
        if self.training:
            self.mean.mul_(0.9).add_(x.detach().mean() * 0.1)
        return self.linear(x) + self.mean


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.last = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3)
        self.second.weight = self.first.weight

    def forward(self, x):
        return self.last(self.second(torch.tanh(self.first(x))))


class Frozen(nn.Module):
    """Its first layer is not to be trained."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(4, 4).requires_grad_(False), nn.Linear(4, 3)

    def forward(self, x):
        return self.last(self.first(x))


class Unused(Custom):
    def __init__(self):
        super().__init__()
        self.spare = nn.Linear(2, 2)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("kind", "shape"),
    [(Scaled, (4,)), (Viewed, (5, 4)), (Normalised, (4,)), (Counting, (4,)), (Tied, (4,))],
)
def test_a_users_module_agrees_with_a_plain_loop(kind, shape, engine):
    modules, x_KN, y_KN = custom(kind, shape=shape)
    stacked, engine = stack(modules), engine(modules[0], objective("classification"))
    for _ in range(2):
        loss_K, _, gradient_KP = engine.step(stacked, x_KN, y_KN, torch.arange(3), {})
        for k, module in enumerate(modules):
            loss, _, gradient = plain_step(module, x_KN[k], y_KN[k], "classification")
            torch.testing.assert_close(loss_K[k], loss, **CLOSE)
            torch.testing.assert_close(gradient_KP[k], gradient, **CLOSE)
        descend(stacked, modules, gradient_KP)
    outputs_KNC = engine.outputs(stacked, x_KN[0])
    for k, module in enumerate(modules):
        torch.testing.assert_close(outputs_KNC[k], module.eval()(x_KN[0]), **CLOSE)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("kind", [Frozen, Unused])
def test_frozen_and_unused_parameters_have_no_gradient(kind, engine):
    modules, x_KN, y_KN = custom(kind)
    stacked, engine = stack(modules), engine(modules[0], objective("classification"))
    _, _, gradient_KP = engine.step(stacked, x_KN, y_KN, torch.arange(3), {})
    moved = stack(modules)
    moved.flat_KP.copy_(gradient_KP)
    for name in moved.params:
        idle = name.startswith(("first.", "spare."))
        assert (moved.params[name] == 0).all() == idle, name


class Flattening(nn.Module):
    """Views what a convolution gives as rows, which channels that come last do not allow."""

    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(2, 4, 3, padding=1), nn.Linear(4 * 5 * 6, 3)

    def forward(self, x):
        return self.head(self.conv(x).view(len(x), -1))


def test_images_go_in_with_the_channels_last_unless_a_module_takes_views_of_them():
    seen = []
    net = models.build("cnn", {"channels": [4]}, (2, 5, 6), 3, 0)
    net[0].register_forward_pre_hook(lambda module, args: seen.append(args[0].stride()))
    x_KN, y_KN = batch(1, 8, (2, 5, 6))
    for module, layout in ((net, (60, 1, 12, 2)), (Flattening(), None)):
        engine = Sequential(module, objective("classification"))
        with torch.no_grad():
            loss_K, _, gradient_KP = engine.step(stack([module]), x_KN, y_KN, torch.arange(1), {})
        expected, _, gradient = plain_step(
            copy.deepcopy(module), x_KN[0], y_KN[0], "classification"
        )
        torch.testing.assert_close((loss_K[0], gradient_KP[0]), (expected, gradient), **CLOSE)
        assert engine.channels_last == (layout is not None)
    assert (60, 1, 12, 2) in seen


def test_no_lane_computes_with_a_module_while_another_records_it():
    net = models.build("mlp", {"hidden": [5]}, (4,), 3, 0)
    engine, locked = Stacked(net, objective("classification")), []
    engine.evaluating.register_forward_pre_hook(lambda *_: locked.append(engine.recording.locked()))
    x_KN, y_KN = batch(1, 8, (4,))
    with torch.no_grad():
        engine.evaluate(stack([net]), x_KN[0], y_KN[0])
    assert len(locked) >= 2  # what a row takes, and the program
    assert all(locked)


@pytest.mark.parametrize("engine", ENGINES)
def test_rows_that_take_much_are_evaluated_by_few_at_a_time(engine, monkeypatch):
    modules, _, _, task = prepared("cnn")
    x_KN, y_KN = batch(1, 40, CASES["cnn"][2])
    engine, seen = engine(modules[0], objective(task)), []
    engine.prepare = lambda x_N: seen.append(len(x_N)) or x_N
    monkeypatch.setattr("zoo.engines.CACHED", 20_000)
    with torch.no_grad():
        loss_K = engine.evaluate(stack(modules), x_KN[0], y_KN[0])[0]
        losses = [figures(module.eval()(x_KN[0]), y_KN[0], task)[0] for module in modules]
    assert set(seen) == {2, 8}  # what a row takes, and no fewer than 8 at a time
    torch.testing.assert_close(loss_K, torch.stack(losses), **CLOSE)


def test_a_buffer_that_is_replaced_is_the_members_from_then_on():
    modules, x_KN, y_KN = custom(Rebinding)
    engine, stacked = Sequential(modules[0], objective("classification")), stack(modules)
    with torch.no_grad():
        for _ in range(2):
            engine.step(stacked, x_KN, y_KN, torch.arange(3), {})
    for k, module in enumerate(modules):
        for _ in range(2):
            module.train()(x_KN[k])
        torch.testing.assert_close(stacked.buffers["seen"][k], module.seen)
