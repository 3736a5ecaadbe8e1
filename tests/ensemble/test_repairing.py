"""A repaired average has its members' mean statistics, unit by unit, and its old architecture."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from ensemble.average import uniform
from ensemble.recalibration import recalibrate
from ensemble.repairing import repair, repairer
from zoo.models import build

IMAGES, ROWS = (2, 6, 6), (10,)
ZOO = {
    "mlp": ({"hidden": [16, 12]}, ROWS),
    "mlp-layer": ({"hidden": [16, 12], "norm": "layer"}, ROWS),
    "mlp-batch": ({"hidden": [16, 12], "norm": "batch"}, ROWS),
    "resmlp": ({"width": 8, "norm": "none"}, ROWS),
    "resmlp-batch": ({"width": 8, "norm": "batch"}, ROWS),
    "cnn": ({"channels": [4, 6], "norm": "none"}, IMAGES),
    "cnn-batch": ({"channels": [4, 6], "dropout": 0.3}, IMAGES),
    "resnet": ({"blocks": [1, 1], "width": 4, "norm": "none"}, IMAGES),
    "resnet-layer": ({"blocks": [1, 1], "width": 4, "norm": "layer"}, IMAGES),
    "resnet-batch": ({"blocks": [1, 1], "width": 4}, IMAGES),
    "ft_transformer": ({"width": 8, "blocks": 1, "heads": 2}, ROWS),
}


def members(module, count=3):
    """Shake a module's parameters, and let BatchNorm know what it then sees."""
    states = []
    for seed in range(count):
        generator = torch.Generator().manual_seed(seed)
        states.append(
            {
                key: leaf + 0.3 * torch.randn(leaf.shape, generator=generator).to(leaf.dtype)
                if leaf.is_floating_point() and "running" not in key
                else leaf.clone()
                for key, leaf in module.state_dict().items()
            }
        )
    return states


def given(shape, *sizes):
    generator = torch.Generator().manual_seed(9)
    return [torch.randn(size, *shape, generator=generator) * 2 + 1 for size in sizes]


def statistics(module, state, batches, train_norms=False):
    """Return mean and standard deviation per channel of every layer, the plain way."""
    twin = copy.deepcopy(module).eval()
    twin.load_state_dict(state)
    outputs = {}
    for name, part in twin.named_modules():
        if isinstance(part, nn.Linear | nn.modules.conv._ConvNd):
            axis = -1 if isinstance(part, nn.Linear) else 1

            def hook(part, inputs, output, name=name, axis=axis):
                outputs.setdefault(name, []).append(output.movedim(axis, -1).flatten(0, -2))

            part.register_forward_hook(hook)
        if train_norms and isinstance(part, nn.modules.batchnorm._BatchNorm):
            part.train()
    with torch.no_grad():
        for batch in batches:
            twin(batch)
    values = {name: torch.cat(rows).double() for name, rows in outputs.items()}
    return {name: (v.mean(0), v.std(0, correction=0)) for name, v in values.items()}


def goals(module, states, batches, weights):
    every = [statistics(module, state, batches) for state in states]
    return {
        name: [
            sum(w * told[name][i] for w, told in zip(weights, every, strict=True)) for i in (0, 1)
        ]
        for name in every[0]
    }


def test_a_layer_is_repaired_by_hand():
    module = nn.Linear(1, 2)
    x = torch.tensor([[-1.0], [1.0]])  # so that a weight is a standard deviation, a bias a mean
    states = [
        {"weight": torch.tensor([[1.0], [-2.0]]), "bias": torch.tensor([0.0, 8.0])},
        {"weight": torch.tensor([[5.0], [2.0]]), "bias": torch.tensor([4.0, 0.0])},
    ]
    merged = {"weight": torch.tensor([[2.0], [-0.5]]), "bias": torch.tensor([9.0, 9.0])}
    result = repair(module, states, merged, [x])
    assert result["weight"].tolist() == [[3], [-2]]
    assert result["bias"].tolist() == [2, 4]
    result = repair(module, states, merged, [x], weights=[3, 1])
    assert result["weight"].tolist() == [[2], [-2]]
    assert result["bias"].tolist() == [1, 6]


def test_standard_deviations_are_averaged_not_variances():
    module = nn.Linear(1, 1)
    states = [{"weight": torch.tensor([[s]]), "bias": torch.zeros(1)} for s in (1.0, 7.0)]
    result = repair(module, states, states[0], [torch.tensor([[-1.0], [1.0]])])
    assert result["weight"].item() == 4


def test_a_second_layer_reads_what_the_first_gives_after_its_repair():
    module = nn.Sequential(nn.Linear(1, 1), nn.ReLU(), nn.Linear(1, 1))
    one = {
        "0.weight": torch.tensor([[2.0]]),
        "0.bias": torch.zeros(1),
        "2.weight": torch.ones(1, 1),
        "2.bias": torch.zeros(1),
    }
    # Averaged with its mirror image, the first layer is a tenth of what it should be; its unit
    # gives (0, 2) once that is set right, of mean 1 and deviation 1, so the second is right then.
    shrunk = one | {"0.weight": torch.tensor([[0.2]])}
    result = repair(module, [one, one], shrunk, [torch.tensor([[-1.0], [1.0]])])
    torch.testing.assert_close(dict(result), one)


@pytest.mark.parametrize("sizes", [(96,), (40, 8, 33, 15)], ids=["one batch", "four batches"])
@pytest.mark.parametrize("name", ZOO)
def test_statistics_are_the_members_mean_ones(name, sizes):
    options, shape = ZOO[name]
    module = build(name.partition("-")[0], options, shape, 3, seed=0)
    batches = given(shape, *sizes)
    states = [recalibrate(module, state, batches) for state in members(module)]
    weights = [0.5, 0.3, 0.2]
    result = repair(module, states, uniform(states), batches, weights)
    goal = goals(module, states, batches, weights)
    found = statistics(module, result, batches, train_norms=True)
    assert set(result.layers) | set(result.left) == set(goal)
    assert set(result.left.values()) <= {"only BatchNorm reads it"}
    assert bool(result.left) == (name in ("mlp-batch", "cnn-batch", "resnet-batch"))
    for layer in result.layers:
        (mean, std), (now, spread) = goal[layer], found[layer]
        torch.testing.assert_close(spread, std, rtol=2e-3, atol=1e-6)
        if layer not in result.scaled:
            assert ((now - mean).abs() <= 2e-3 * std + 1e-6).all()
    before = uniform(states)
    changed = {key for key in before if not torch.equal(before[key], result[key])}
    layers = {f"{layer}.{kind}" for layer in result.layers for kind in ("weight", "bias")}
    assert {key for key in changed if "running" not in key and "tracked" not in key} <= layers
    dtypes = {key: (leaf.dtype, leaf.shape) for key, leaf in result.items()}
    assert dtypes == {key: (leaf.dtype, leaf.shape) for key, leaf in before.items()}


@pytest.mark.parametrize("name", ZOO)
def test_identical_members_stay_as_they_are(name):
    options, shape = ZOO[name]
    module = build(name.partition("-")[0], options, shape, 3, seed=0)
    batches = given(shape, 70)
    state = recalibrate(module, members(module, 1)[0], batches)
    result = repair(module, [state] * 3, state, batches)
    slack = 0.02 if "batch" in name else 1e-5  # running variances are the unbiased ones
    for key, leaf in state.items():
        torch.testing.assert_close(result[key], leaf, rtol=slack, atol=slack)


def test_batchnorm_is_re_estimated_and_what_it_alone_reads_is_left():
    module = build("cnn", {"channels": [4, 6]}, IMAGES, 3, seed=0)
    batches = given(IMAGES, 30, 20)
    states = members(module)
    merged = uniform(states)
    result = repair(module, states, merged, batches)
    assert result.layers == ("10",)
    expected = recalibrate(module, merged, batches)
    for key in expected:
        if not key.startswith("10."):
            assert torch.equal(result[key], expected[key])


def test_a_layer_that_a_shortcut_reads_too_is_repaired():
    module = build("resmlp", {"width": 8, "blocks": 1}, ROWS, 3, seed=0)
    result = repair(module, members(module), uniform(members(module)), given(ROWS, 50))
    assert not result.left.get("1")  # the stem: BatchNorm reads it, and the addition


class Several(nn.Module):
    """Every kind of layer that cannot be rescaled by itself."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 4)
        self.two.weight = self.one.weight
        self.twice = nn.Linear(4, 4)
        self.never = nn.Linear(4, 4)
        self.normed = weight_norm(nn.Linear(4, 4))
        self.own = Negative(4, 4)

    def forward(self, x):
        x = torch.tanh(self.two(torch.tanh(self.one(torch.tanh(self.first(x))))))
        return self.own(self.normed(self.twice(torch.relu(self.twice(x)))))


class Negative(nn.Linear):
    def forward(self, x):
        return -super().forward(x)


def test_layers_that_do_not_stand_alone_are_left_and_named():
    module = Several()
    states = members(module)
    merged = uniform(states)
    result = repair(module, states, merged, given((4,), 30))
    assert result.layers == ("first",)
    assert result.left == {
        "one": "it shares parameters with another layer",
        "two": "it shares parameters with another layer",
        "twice": "it is called 2 times for a batch",
        "never": "it is called 0 times for a batch",
        "normed": "its weights are computed from others",
        "own": "it has a forward of its own",
    }
    for key in merged:
        assert torch.equal(result[key], merged[key]) != key.startswith("first.")
    assert result["one.weight"].data_ptr() != merged["one.weight"].data_ptr()


def test_without_a_bias_only_the_scale_is_set():
    module = nn.Sequential(nn.Linear(4, 5, bias=False), nn.ReLU(), nn.Linear(5, 2))
    states, x = members(module), given((4,), 64)
    result = repair(module, states, uniform(states), x)
    assert result.scaled == ("0",)
    _, std = goals(module, states, x, [1 / 3] * 3)["0"]
    _, found = statistics(module, result, x)["0"]
    torch.testing.assert_close(found, std, rtol=1e-4, atol=0)
    assert list(result) == ["0.weight", "2.weight", "2.bias"]


CONVOLUTIONS = [
    nn.Conv1d(4, 6, 3, groups=2),
    nn.Conv2d(4, 4, 2, groups=4, padding_mode="circular", padding=1),
    nn.Conv3d(4, 2, 1),
    nn.ConvTranspose1d(4, 6, 3, stride=2),
    nn.ConvTranspose2d(4, 6, 2, groups=2),
    nn.ConvTranspose3d(4, 8, 1, groups=4),
]


@pytest.mark.parametrize("module", CONVOLUTIONS, ids=str)
def test_every_convolution_keeps_its_channels_apart(module):
    axes = len(module.kernel_size)
    states, x = members(module), given((4, *[5, 4, 3][:axes]), 20, 10)
    result = repair(module, states, uniform(states), x)
    goal, found = goals(module, states, x, [1 / 3] * 3)[""], statistics(module, result, x)[""]
    torch.testing.assert_close(found, tuple(goal), rtol=1e-4, atol=1e-5)


def test_dead_channels_keep_their_scale():
    module = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    states = members(module)
    merged = uniform(states)
    merged["0.weight"][1] = 0
    merged["0.bias"][1] = 0.7
    result = repair(module, states, merged, given((2,), 50, 50))
    assert result["0.weight"][1].tolist() == [0, 0]
    mean, _ = goals(module, states, given((2,), 50, 50), [1 / 3] * 3)["0"]
    torch.testing.assert_close(result["0.bias"][1].double(), mean[1], rtol=1e-4, atol=0)
    assert (result["0.weight"][0] != merged["0.weight"][0]).all()


def test_what_rounding_makes_of_a_constant_is_no_statistic():
    module = nn.Linear(300, 1)
    states = members(module)
    x = torch.full((64, 300), 0.1)
    x[:, 0] += torch.linspace(0, 1e-9, 64)  # a breath of difference, below what float32 can tell
    merged = uniform(states)
    assert torch.equal(repair(module, states, merged, [x])["weight"], merged["weight"])


@pytest.mark.parametrize(
    ("dtype", "slack"), [(torch.float64, 1e-3), (torch.bfloat16, 0.05), (torch.float16, 0.01)]
)
def test_other_precisions(dtype, slack):
    module = build("cnn", {"channels": [4, 6], "norm": "none"}, IMAGES, 3, seed=0).to(dtype)
    x = [batch.to(dtype) for batch in given(IMAGES, 64, 64)]
    states = members(module)
    result = repair(module, states, uniform(states), x)
    assert {leaf.dtype for leaf in result.values()} == {dtype}
    goal, found = goals(module, states, x, [1 / 3] * 3), statistics(module, result, x)
    for layer, (mean, std) in goal.items():
        assert ((found[layer][1] / std - 1).abs() < slack).all()
        assert ((found[layer][0] - mean).abs() < slack * std).all()


def test_neither_module_nor_states_nor_batches_change():
    module = build("resmlp", ZOO["resmlp-batch"][0], ROWS, 3, seed=0).train()
    states, x = members(module), given(ROWS, 20, 30)
    merged = uniform(states)
    everything = [module.state_dict(), *states, merged, dict(enumerate(x))]
    before = copy.deepcopy(everything)
    result = repair(module, states, merged, x)
    for now, then in zip(everything, before, strict=True):
        assert all(torch.equal(now[key], then[key]) for key in then)
    assert all(part.training and not part._forward_hooks for part in module.modules())
    assert not any(leaf.requires_grad for leaf in result.values())
    places = {leaf.data_ptr() for state in [*states, merged] for leaf in state.values()}
    assert not places & {leaf.data_ptr() for leaf in result.values()}


def test_members_are_measured_once_for_many_averages():
    calls = []
    module = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    module.register_forward_hook(lambda *_: calls.append(1))
    states, x = members(module), given((4,), 30)
    repaired = repairer(module, states, x)
    measured = len(calls)
    assert measured == 1 + len(states)  # one pass finds out who reads whom
    for weights in (None, [1, 0, 0], [0.2, 0.3, 0.5]):
        state = repaired(uniform(states), weights)
        assert all(
            torch.equal(state[key], leaf)
            for key, leaf in repair(module, states, uniform(states), x, weights).items()
        )
    assert len(calls) - measured == 3 + 3 * (measured + 1)


def test_batches_may_be_a_generator_and_carry_labels():
    module = nn.Linear(4, 2)
    states, x = members(module), given((4,), 30, 20)
    plain = repair(module, states, uniform(states), x)
    labelled = repair(module, states, uniform(states), ((b, torch.zeros(len(b))) for b in x))
    assert all(torch.equal(labelled[key], plain[key]) for key in plain)
