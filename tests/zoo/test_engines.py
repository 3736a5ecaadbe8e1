"""Engines: whichever computes them, a member's figures are those of plain PyTorch, and its own."""

import copy

import pytest
import torch
import torch.nn.functional as F  # noqa: N812  # its name everywhere
from torch import nn

from zoo import models
from zoo.choice import choose
from zoo.engines import EVALUATION_ROWS, Sequential, Stacked
from zoo.objective import objective
from zoo.stack import stack
from zoo.tape import NotRecordableError

ENGINES = [Stacked, Sequential]
CLOSE = {"rtol": 2e-4, "atol": 2e-5}
MEMBERS, ROWS = 3, 12

CASES = {
    "mlp": ("mlp", {"hidden": [9, 20]}, (4,), "classification"),
    "mlp without layers": ("mlp", {"hidden": []}, (4,), "classification"),
    "mlp gelu": ("mlp", {"hidden": [17], "activation": "gelu"}, (4,), "classification"),
    "mlp batch norm": ("mlp", {"hidden": [9, 6], "norm": "batch"}, (4,), "classification"),
    "cnn": ("cnn", {"channels": [4, 5]}, (1, 6, 6), "classification"),
    "cnn without norm": ("cnn", {"channels": [4], "norm": "none"}, (2, 5, 7), "classification"),
    "regression": ("mlp", {"hidden": [9]}, (4,), "regression"),
    "regression batch norm": ("mlp", {"hidden": [9], "norm": "batch"}, (4,), "regression"),
}


@pytest.fixture(autouse=True)
def _no_grad():
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # for tensors this small, faster than sharing them
    with torch.no_grad():
        yield
    torch.set_num_threads(threads)


def prepared(case, members=MEMBERS, rows=ROWS):
    """Return modules, a batch per member and its targets, and the task."""
    name, options, shape, task = CASES[case]
    outputs = 3 if task == "classification" else 1
    modules = [models.build(name, options, shape, outputs, seed) for seed in range(members)]
    return modules, *batch(members, rows, shape, task), task


def batch(members, rows, shape, task="classification", seed=0):
    generator = torch.Generator().manual_seed(seed)
    x_KN = torch.randn(members, rows, *shape, generator=generator)
    if task == "regression":
        return x_KN, torch.randn(members, rows, generator=generator)
    return x_KN, torch.randint(0, 3, (members, rows), generator=generator)


def figures(outputs, y, task):
    """Return loss and score by PyTorch's own functions."""
    if task == "regression":
        return F.mse_loss(outputs[:, 0], y), F.mse_loss(outputs[:, 0], y)
    return F.cross_entropy(outputs, y), (outputs.argmax(1) == y).float().mean()


def plain_step(module, x, y, task):
    """Run one step of ordinary PyTorch; return loss, score and the flat gradient."""
    module.train()
    with torch.enable_grad():
        outputs = module(x)
        loss, score = figures(outputs, y, task)
        module.zero_grad()
        loss.backward()
    gradient = torch.cat([p.grad.reshape(-1) for p in module.parameters()])
    return loss.detach(), score.detach(), gradient


def descend(stacked, modules, gradient_KP, lr=0.1):
    """Take the same step of gradient descent in the stack and in the modules."""
    stacked.flat_KP.sub_(gradient_KP, alpha=lr)
    for module in modules:
        for parameter in module.parameters():
            parameter.sub_(parameter.grad, alpha=lr)


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
        loss_K, score_K, gradient_KP = engine.step(stacked, x_KN, y_KN, torch.arange(MEMBERS))
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
        got = engine.step(part, x_KN[members], y_KN[members], seeds)
        new = type(engine)(modules[0], objective(task))
        expected = new.step(again, x_KN[members], y_KN[members], seeds)
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
    expected = engine.step(clean, x_KN, y_KN, seeds)
    expected_evaluation = engine.evaluate(clean, x_KN[0], y_KN[0])
    x_KN = x_KN.clone()
    (x_KN if poison == "data" else poisoned.flat_KP)[1] = torch.nan
    got = engine.step(poisoned, x_KN, y_KN, seeds)
    got_evaluation = engine.evaluate(poisoned, x_KN[0], y_KN[0])
    for one, other in zip([*got, *got_evaluation], [*expected, *expected_evaluation], strict=True):
        assert torch.equal(one[[0, 2]], other[[0, 2]])
    assert got[0][1].isnan()
    for name, buffer in poisoned.buffers.items():
        assert torch.equal(buffer[[0, 2]], clean.buffers[name][[0, 2]])


# Dropout

DROPOUT = {
    "mlp": ("mlp", {"hidden": [16], "dropout": 0.5}, (4,)),
    "mlp batch norm": ("mlp", {"hidden": [8, 8], "norm": "batch", "dropout": 0.25}, (4,)),
    "cnn": ("cnn", {"channels": [6, 3], "dropout": 0.5}, (1, 6, 6)),
}


def dropping(case, rows, members=3):
    name, options, shape = DROPOUT[case]
    modules = [models.build(name, options, shape, 3, seed) for seed in range(members)]
    return modules, *batch(members, rows, shape)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("rows", [2, 3, 8])
@pytest.mark.parametrize("case", DROPOUT)
def test_a_member_with_dropout_steps_alike_alone_and_among_others(case, rows, engine):
    # Where rows equal members, the member axis must still be found.
    modules, x_KN, y_KN = dropping(case, rows)
    seeds = torch.tensor([11, 5, 2**40 + 3])
    together = engine(modules[0], objective("classification"))
    got = together.step(stack(modules), x_KN, y_KN, seeds)
    for k, module in enumerate(modules):
        alone = engine(modules[0], objective("classification"))
        one = slice(k, k + 1)
        expected = alone.step(stack([module]), x_KN[one], y_KN[one], seeds[one])
        for mine, theirs in zip(expected, got, strict=True):
            torch.testing.assert_close(theirs[k], mine[0], **CLOSE)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("case", DROPOUT)
def test_equal_members_get_equal_masks_for_equal_seeds_only(case, engine):
    modules, x_KN, y_KN = dropping(case, 8)
    engine = engine(modules[0], objective("classification"))
    stacked = stack([modules[0]] * 3)
    x_KN, y_KN = x_KN[:1].expand_as(x_KN), y_KN[:1].expand_as(y_KN)
    loss_K, _, gradient_KP = engine.step(stacked, x_KN, y_KN, torch.tensor([4, 9, 4]))
    torch.testing.assert_close(loss_K[2], loss_K[0])
    torch.testing.assert_close(gradient_KP[2], gradient_KP[0], **CLOSE)
    assert not torch.allclose(gradient_KP[1], gradient_KP[0], rtol=1e-2)
    again, _, _ = engine.step(stack([modules[0]] * 3), x_KN, y_KN, torch.tensor([5, 10, 5]))
    assert (again - loss_K).abs().min() > 1e-6


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("case", DROPOUT)
def test_evaluation_drops_nothing_even_after_steps(case, engine):
    modules, x_KN, y_KN = dropping(case, 8)
    engine = engine(modules[0], objective("classification"))
    stacked = stack(modules)
    engine.step(stacked, x_KN, y_KN, torch.arange(3))
    outputs_KNC = engine.outputs(stacked, x_KN[0])
    for k, module in enumerate(modules):
        module.load_state_dict(stacked.state(k))
        torch.testing.assert_close(outputs_KNC[k], module.eval()(x_KN[0]), **CLOSE)


class Dropped(nn.Module):
    """Its loss shows which inputs were dropped."""

    def __init__(self):
        super().__init__()
        self.drop = nn.Dropout(0.3)
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x):
        return self.drop(x).mean(1, keepdim=True) * self.weight


def test_the_stacked_engine_drops_the_share_asked_for_and_keeps_the_mean():
    one = Dropped()
    x_KN, y_KN = torch.ones(4, 50, 100), torch.zeros(4, 50)
    engine, stacked = Stacked(one, objective("regression")), stack([one] * 4)
    squares = []
    for step in range(10):
        loss_K, _, _ = engine.step(stacked, x_KN, y_KN, torch.arange(4) * 1000 + step)
        squares.append(loss_K)
    # E[mean^2] = 1 + p / (1 - p) / 100, over 2,000 rows.
    mean = torch.stack(squares).mean().item()
    assert mean == pytest.approx(1 + 0.3 / 0.7 / 100, abs=0.015)


# Modules of users


class Custom(nn.Module):
    """A linear layer to which ``forward`` of a subclass adds something."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, x):
        return self.linear(x)


class Branching(Custom):
    def forward(self, x):
        return self.linear(x) if x.sum() > 0 else -self.linear(x)


class Listing(Custom):
    def forward(self, x):
        return self.linear(x) * x.tolist()[0][0]


class Comparing(Custom):
    def forward(self, x):
        return self.linear(x) if torch.equal(x, x.abs()) else -self.linear(x)


class Noisy(Custom):
    def forward(self, x):
        return self.linear(x + torch.randn(4)) if self.training else self.linear(x)


class Averaging(Custom):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(3, momentum=None)

    def forward(self, x):
        return self.norm(self.linear(x))


IMPOSSIBLE = [Branching, Listing, Comparing, Noisy, Averaging]


def custom(kind, members=3, shape=(4,), rows=ROWS):
    modules = []
    for seed in range(members):
        torch.manual_seed(seed)
        modules.append(kind())
    return modules, *batch(members, rows, shape)


@pytest.mark.parametrize("kind", IMPOSSIBLE)
def test_a_module_that_reads_values_or_draws_noise_of_its_own_is_not_stacked(kind):
    modules, x_KN, y_KN = custom(kind)
    engine = Stacked(modules[0], objective("classification"))
    with pytest.raises((NotRecordableError, RuntimeError)):
        engine.step(stack(modules), x_KN, y_KN, torch.arange(3))


@pytest.mark.parametrize("kind", IMPOSSIBLE)
def test_choose_falls_back_to_the_sequential_engine_and_says_why(kind):
    modules, x_KN, y_KN = custom(kind)
    engines = [E(modules[0], objective("classification")) for E in ENGINES]
    choice = choose(stack(modules), engines, x_KN, y_KN)
    chosen, reason = choice.engine, choice.reason
    assert chosen is engines[1]
    assert "(a step of 3 members: stacked impossible: " in reason
    assert "\n" not in reason


def test_choose_raises_where_no_engine_works():
    class Broken(Custom):
        def forward(self, x):
            raise RuntimeError("broken by design")

    modules, x_KN, y_KN = custom(Broken)
    engines = [E(modules[0], objective("classification")) for E in ENGINES]
    with pytest.raises(RuntimeError, match="broken by design"):
        choose(stack(modules), engines, x_KN, y_KN)


@pytest.mark.parametrize("case", ["mlp batch norm", "cnn"])
def test_choose_leaves_the_members_as_they_are_and_names_both_times(case):
    modules, x_KN, y_KN, task = prepared(case)
    stacked = stack(modules)
    before = [stacked.state(k) for k in range(MEMBERS)]
    engines = [E(modules[0], objective(task)) for E in ENGINES]
    choice = choose(stacked, engines, x_KN, y_KN)
    chosen, reason = choice.engine, choice.reason
    assert chosen in engines
    threads = f"{choice.threads} thread{'s' if choice.threads > 1 else ''}"
    assert reason.startswith(f"{chosen.name} engine, {threads} (a step of {MEMBERS} members: ")
    assert " ms, sequential " in reason
    for k in range(MEMBERS):
        for name, value in before[k].items():
            assert torch.equal(stacked.state(k)[name], value)


def test_choose_takes_the_faster_engine():
    class Slow(Stacked):
        name = "slow"

        def step(self, *args):
            for _ in range(2_000):
                torch.zeros(1)
            return super().step(*args)

    modules, x_KN, y_KN, task = prepared("mlp")
    for engines in ([Slow, Stacked], [Stacked, Slow]):
        made = [E(modules[0], objective(task)) for E in engines]
        assert choose(stack(modules), made, x_KN, y_KN).engine.name == "stacked"


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
        loss_K, _, gradient_KP = engine.step(stacked, x_KN, y_KN, torch.arange(3))
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
    _, _, gradient_KP = engine.step(stacked, x_KN, y_KN, torch.arange(3))
    moved = stack(modules)
    moved.flat_KP.copy_(gradient_KP)
    for name in moved.params:
        idle = name.startswith(("first.", "spare."))
        assert (moved.params[name] == 0).all() == idle, name


@pytest.mark.parametrize("model", ["mlp", "cnn"])
def test_both_engines_drop_the_same_units(model):
    shape = (1, 8, 8)
    modules = [models.build(model, {"dropout": 0.4}, shape, 3, seed) for seed in range(3)]
    noise = torch.Generator().manual_seed(0)
    x_KN = torch.randn(3, 16, *shape, generator=noise)
    y_KN = torch.randint(0, 3, (3, 16), generator=noise)
    seed_K = torch.tensor([5, 6, 5])
    told = []
    for engine in ENGINES:
        made = engine(modules[0], objective("classification"))
        for _ in range(2):  # the second time, what draws is known
            told.append(made.step(stack(modules), x_KN, y_KN, seed_K))
    for loss_K, _, gradient_KP in told[1:]:
        torch.testing.assert_close(loss_K, told[0][0])
        torch.testing.assert_close(gradient_KP, told[0][2], rtol=1e-4, atol=1e-5)
