"""Inference: however many members and rows run at once, their outputs are those of a loop."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from zoo import inference as zoo_inference
from zoo.inference import PLAIN, Inference, Tile
from zoo.models import build

SHAPES = {"table": (6,), "image": (2, 5, 6)}
MODELS = {
    "mlp": ("table", {"hidden": [7, 5]}),
    "mlp, batch norm": ("table", {"hidden": [7], "norm": "batch", "dropout": 0.5}),
    "mlp, layer norm": ("table", {"hidden": [7], "norm": "layer", "activation": "gelu"}),
    "resmlp": ("table", {"width": 8, "blocks": 2, "activation": "silu", "dropout": 0.2}),
    "ft_transformer": ("table", {"width": 8, "heads": 2, "blocks": 2}),
    "ft_transformer, categories": ("table", {"width": 8, "column_widths": [1, 2, 3]}),
    "cnn": ("image", {"channels": [3, 4]}),
    "cnn, layer norm": ("image", {"channels": [3], "norm": "layer", "activation": "tanh"}),
    "resnet": ("image", {"blocks": [1, 1], "width": 4}),
    "resnet, no norm": ("image", {"blocks": [1], "width": 4, "norm": "none", "dropout": 0.3}),
}


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def members(case, count=5):
    """Build modules whose batch norms have seen something."""
    kind, options = MODELS[case]
    shape = SHAPES[kind]
    modules = []
    for seed in range(count):
        module = build(case.partition(",")[0], options, shape, 3, seed)
        module.train()(randn(20, *shape, seed=seed) * 2 + 1)
        modules.append(module.eval())
    return modules, shape


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def loop(modules, x_N):
    return torch.stack([module(x_N) for module in modules])


def close(outputs, expected):
    torch.testing.assert_close(outputs, expected, rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def made():
    """Keep what was recorded for the next example."""
    return {}


@pytest.mark.parametrize("case", MODELS)
@settings(max_examples=15, deadline=None)
@given(
    rows=st.sampled_from([1, 2, 3, 15, 16, 17, 33, 70]),
    members_at_once=st.integers(0, 5),
    rows_at_once=st.sampled_from([1, 4, 16, 32, 512]),
)
def test_every_tile_computes_what_the_loop_does(case, rows, members_at_once, rows_at_once, made):
    if case not in made:
        modules, shape = members(case)
        made[case] = modules, shape, Inference(copy.deepcopy(modules))
    modules, shape, models = made[case]
    x_N = randn(rows, *shape, seed=rows)
    models.tiles = {zoo_inference._size(x_N): Tile(members_at_once, rows_at_once)}
    close(models(x_N), loop(modules, x_N))


@pytest.mark.parametrize("case", MODELS)
def test_every_model_of_the_zoo_is_recorded(case):
    modules, shape = members(case)
    models = Inference(modules)
    for rows in (1, 64):
        x_N = randn(rows, *shape)
        with torch.no_grad():
            expected = loop(modules, x_N)
            found = models._contenders(x_N, expected)
        assert {tile.members for tile in found} == {1, 2, len(modules)}


@pytest.fixture
def eager(monkeypatch):
    """Let a race pay at once, and be short."""
    monkeypatch.setattr(zoo_inference, "PAYS_S", 0.0)
    monkeypatch.setattr(zoo_inference, "RACE_S", 0.0)


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("rows", [1, 7, 40, 1300])
def test_outputs_are_those_of_the_loop_before_and_after_the_race(rows):
    modules, shape = members("mlp, batch norm")
    models = Inference(modules)
    x_N = randn(rows, *shape)
    for _ in range(2):
        close(models(x_N), loop(modules, x_N))
    assert len(models.tiles) == 1


def test_nothing_is_measured_before_it_can_pay(monkeypatch):
    modules, shape = members("mlp")
    models = Inference(modules)
    close(models(randn(4, *shape)), loop(modules, randn(4, *shape)))
    assert not models.tiles
    assert not models.recorded.forwards
    monkeypatch.setattr(zoo_inference, "PAYS_S", sum(models.taken.values()))
    models(randn(5, *shape))
    assert len(models.tiles) == 1


def test_tuning_finds_the_way_at_once_and_once_for_each_size_and_number_of_threads():
    modules, shape = members("mlp")
    models = Inference(modules)
    for rows in (1, 64, 65, 127, 128):
        models.tune(randn(rows, *shape))
    assert {bits for bits, _ in models.tiles} == {1, 7, 8}
    tiles = dict(models.tiles)
    models.tune(randn(64, *shape))
    assert models.tiles == tiles


@pytest.mark.parametrize("best", [PLAIN, Tile(5, 32), Tile(1, 128)])
def test_the_fastest_way_is_taken(best, monkeypatch):
    modules, shape = members("mlp")
    models, x_N = Inference(modules), randn(300, *shape)
    seconds = property(lambda timer: 1.0 if timer.run.args[0] == best else 2.0)
    monkeypatch.setattr(zoo_inference.Timer, "seconds", seconds)
    with torch.no_grad():
        models._race(zoo_inference._size(x_N), x_N, 1e-6)
    assert [*models.tiles.values()] == [best]


@pytest.mark.parametrize("count", [1, 2, 17, 40])
def test_many_members_run_in_tiles_that_may_overlap(count):
    modules, shape = members("mlp", count)
    models, x_N = Inference(modules), randn(20, *shape)
    at_once = {1: 1, 2: 2, 17: 9, 40: 14}[count]
    with torch.no_grad():
        found = models._contenders(x_N, loop(modules, x_N))
    assert {tile.members for tile in found} == {1, at_once, -(-at_once // 4)}
    models.tiles = {zoo_inference._size(x_N): Tile(at_once, 8)}
    close(models(x_N), loop(modules, x_N))


@pytest.mark.usefixtures("eager")
def test_no_rows_have_no_outputs():
    modules, shape = members("cnn")
    models = Inference(modules)
    for _ in range(2):
        assert models(randn(0, *shape)).shape == (5, 0, 3)


def test_rows_are_prepared_portion_by_portion():
    modules, _ = members("mlp")
    seen = []

    def prepare(x_N):
        seen.append(len(x_N))
        return x_N.float() / 255

    models = Inference(modules, prepare)
    x_N = torch.arange(600, dtype=torch.uint8).view(100, 6)
    models.tiles = {zoo_inference._size(x_N): Tile(5, 32)}
    close(models(x_N), loop(modules, x_N.float() / 255))
    assert seen == [25, 25, 25, 25]


def test_outputs_need_no_gradients_and_are_the_callers_to_change():
    modules, shape = members("mlp")
    models, x_N = Inference(modules), randn(3, *shape).requires_grad_()
    models.tiles = {zoo_inference._size(x_N): Tile(5, 512)}
    first = models(x_N)
    assert not first.requires_grad
    kept = first.clone()
    first.zero_()
    close(models(x_N), kept)


# Modules that resist


class Own(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 3)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        return self.linear(x)


class Branching(Own):
    def forward(self, x):
        return self.linear(x) if x.sum() > 0 else -self.linear(x)


class Counting(Own):
    def forward(self, x):
        self.calls += 1
        return self.linear(x) + self.calls * 0


class Drawing(Own):
    def forward(self, x):
        return self.linear(x) + torch.randn(3) * 0


class Centring(Own):
    """Looks at all rows at once, so that portions matter."""

    def forward(self, x):
        return self.linear(x - x.mean(0))


class Overwriting(Own):
    def forward(self, x):
        return self.linear(x.mul_(1))


class Raising(Own):
    def forward(self, x):
        if len(x) in (5, 7, 48, 50):
            raise ValueError("of those numbers of rows")
        return self.linear(x)


class Lengthy(Own):
    """Computes with the number of rows."""

    def forward(self, x):
        return self.linear(x).view(3 * len(x)).view(len(x), 3) / len(x) + len(x)


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("kind", [Branching, Counting, Drawing, Overwriting, Raising])
@pytest.mark.parametrize("rows", [3, 40])
def test_modules_that_cannot_be_recorded_are_looped_over(kind, rows):
    torch.manual_seed(0)
    modules = [kind() for _ in range(3)]
    models, x_N = Inference(modules), randn(rows, 4)
    for _ in range(2):
        close(models(x_N), loop(modules, x_N))
    assert [*models.tiles.values()] == [PLAIN]


def test_sizes_follow_the_rows():
    torch.manual_seed(0)
    modules = [Lengthy() for _ in range(3)]
    models = Inference(modules)
    for rows, members_at_once in ((1, 1), (3, 3), (40, 1), (63, 3)):
        x_N = randn(rows, 4)
        models.tiles = {zoo_inference._size(x_N): Tile(members_at_once, 64)}
        close(models(x_N), loop(modules, x_N))


@pytest.mark.usefixtures("eager")
def test_modules_that_look_at_all_rows_get_all_of_them():
    torch.manual_seed(0)
    modules = [Centring() for _ in range(3)]
    models, x_N = Inference(modules), randn(200, 4)
    for _ in range(2):
        close(models(x_N), loop(modules, x_N))
    (tile,) = models.tiles.values()
    assert tile.rows >= 200


class Unlike(Own):
    """Uses the parts of a Sequential singly, with something between them."""

    def __init__(self):
        super().__init__()
        self.parts = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))

    def forward(self, x):
        linear, norm = self.parts
        return norm(linear(x).relu())


@pytest.mark.usefixtures("eager")
def test_batch_norms_that_cannot_be_folded_are_found_out():
    torch.manual_seed(0)
    modules = [Unlike() for _ in range(3)]
    for module in modules:
        module(randn(20, 4) + 1)
    models, x_N = Inference(modules), randn(40, 4)
    for _ in range(2):
        close(models(x_N), loop(modules, x_N))


@pytest.mark.usefixtures("eager")
def test_tied_and_overwriting_layers_are_stacked_too():
    torch.manual_seed(0)
    modules = []
    for _ in range(3):
        one, other = nn.Linear(4, 4), nn.Linear(4, 4)
        other.weight = one.weight
        modules.append(nn.Sequential(one, nn.ReLU(inplace=True), other, nn.ReLU(inplace=True)))
    models, x_N = Inference(modules), randn(40, 4)
    with torch.no_grad():
        expected = loop(modules, x_N)
        assert {tile.members for tile in models._contenders(x_N, expected)} == {1, 3}
    for _ in range(2):
        close(models(x_N), expected)


def test_models_so_large_that_a_row_takes_long_are_not_raced():
    modules, shape = members("mlp")
    models, x_N = Inference(modules), randn(64, *shape)
    models._race(zoo_inference._size(x_N), x_N, 0.02)
    assert [*models.tiles.values()] == [PLAIN]
    assert not models.recorded.forwards


def test_a_program_with_large_activations_has_few_rows_at_once(monkeypatch):
    modules, shape = members("cnn")
    models, x_N = Inference(modules), randn(64, *shape)
    monkeypatch.setattr(zoo_inference, "MOST_BYTES", 1 << 17)
    with torch.no_grad():
        found = models._contenders(x_N, loop(modules, x_N))
    (most,) = {tile.rows for tile in found if tile.members == 5}
    # Of the first convolution, batch norm folded: 5 members, 3 channels, 5 x 6 pixels, float32.
    assert 1 <= most <= (1 << 17) // (5 * 3 * 5 * 6 * 4)
