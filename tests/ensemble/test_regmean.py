"""RegMean: what is merged gives the outputs closest to the members' own on their inputs."""

import copy

import pytest
import torch
from torch import nn

from ensemble import regression
from ensemble.average import uniform
from ensemble.errors import EmptyError, NonFiniteError, OptionError, StateMismatchError
from ensemble.regression import gram_matrices, regmean


def random(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def test_the_merged_layer_is_the_least_squares_solution():
    inputs = [random(40, 6, seed=k) @ random(6, 6, seed=k + 5) for k in range(3)]
    weights = [random(4, 6, seed=k + 10) for k in range(3)]
    merged = regmean(
        [{"weight": weight} for weight in weights],
        [{"weight": x.mT @ x} for x in inputs],
        alpha=1.0,
    )
    outputs = torch.cat([x @ w.mT for x, w in zip(inputs, weights, strict=True)])
    best = torch.linalg.lstsq(torch.cat(inputs), outputs).solution.mT
    torch.testing.assert_close(merged["weight"], best)


def test_without_correlations_each_input_is_weighted_by_itself():
    grams = [random(3, 3, seed=k) for k in range(2)]
    grams = [{"weight": gram @ gram.mT} for gram in grams]
    weights = [{"weight": random(2, 3, seed=k + 9)} for k in range(2)]
    power = torch.stack([gram["weight"].diagonal() for gram in grams])
    expected = sum(p * w["weight"] for p, w in zip(power, weights, strict=True)) / power.sum(0)
    torch.testing.assert_close(regmean(weights, grams, alpha=0.0)["weight"], expected)


@pytest.mark.parametrize("alpha", [0.95, 1.0])
@pytest.mark.parametrize("start", range(0, 20, 2))  # of some, rounding hides the copies
def test_where_inputs_say_nothing_the_mean_remains(alpha, start):
    """Two inputs that never vary, and two that are copies of each other."""
    grams = []
    for seed in (start, start + 1):
        x = random(30, 5, seed=seed)
        x[:, :2], x[:, 3] = 0, x[:, 2]
        grams.append({"weight": x.mT @ x})
    states = [{"weight": random(2, 5, seed=k + 9)} for k in range(2)]
    merged = regmean(states, grams, alpha=alpha)["weight"]
    mean = uniform(states)["weight"]
    torch.testing.assert_close(merged[:, :2], mean[:, :2])
    if alpha == 1:  # of all solutions the one closest to the mean
        away = merged - mean
        torch.testing.assert_close(away[:, 2], away[:, 3])
    assert merged.isfinite().all()


def test_parameters_without_a_matrix_are_averaged():
    states = [{"weight": random(2, 3, seed=k), "bias": random(2, seed=k)} for k in range(2)]
    merged = regmean(states, [{"weight": torch.eye(3) * (k + 1)} for k in range(2)])
    assert torch.equal(merged["bias"], uniform(states)["bias"])
    torch.testing.assert_close(
        merged["weight"], (states[0]["weight"] + 2 * states[1]["weight"]) / 3
    )


CONVOLUTIONS = [
    nn.Conv2d(4, 6, 3, stride=2, padding=1, dilation=2),
    nn.Conv2d(4, 6, (3, 1), groups=2, padding="same"),
    nn.Conv2d(4, 4, 3, groups=4, padding=(2, 1), padding_mode="reflect"),
    nn.Conv1d(4, 6, 3, stride=2, padding=1, groups=2, padding_mode="circular"),
]


@pytest.mark.parametrize("layer", CONVOLUTIONS, ids=str)
@pytest.mark.parametrize("room", [1, 1 << 22])
def test_gram_matrices_of_convolutions_tell_the_squares_of_their_outputs(layer, room, monkeypatch):
    """Σ (x * w)² over rows and places is w G wᵀ, whatever the layer's padding and groups."""
    monkeypatch.setattr(regression, "ROOM", room)
    layer = copy.deepcopy(layer).double()
    shape = (5, 4, 9) if isinstance(layer, nn.Conv1d) else (5, 4, 9, 8)
    x = random(*shape)
    gram = gram_matrices(layer, layer.state_dict(), [x[:3], x[3:]])["weight"]
    assert len(gram) == layer.groups
    weight = layer.weight.detach().reshape(layer.groups, -1, gram.shape[-1])
    mine = (weight @ gram * weight).sum(2).flatten()
    outputs = layer(x).detach() - layer.bias.detach().view(-1, *[1] * (x.ndim - 2))
    torch.testing.assert_close(mine, outputs.square().transpose(0, 1).flatten(1).sum(1))


def test_a_merged_network_of_members_that_are_equal_is_theirs():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3)).double()
    grams = gram_matrices(net, net.state_dict(), [random(6, 1, 8, 8)])
    assert set(grams) == {"0.weight", "3.weight"}
    merged = regmean([net.state_dict()] * 3, [grams] * 3)
    assert all(torch.equal(merged[key], leaf) for key, leaf in net.state_dict().items())


def test_inputs_are_those_of_the_state_and_the_module_is_left_as_it_was():
    net = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.Linear(4, 2)).double().train()
    before = copy.deepcopy(net.state_dict())
    state = {key: torch.ones_like(leaf) for key, leaf in before.items()}
    x = random(5, 3)
    hidden = x.sum(1, keepdim=True).expand(5, 4) + 1
    grams = gram_matrices(net, state, [(x, None)])
    torch.testing.assert_close(grams["2.weight"], hidden.mT @ hidden)
    assert net.training
    assert not net[0]._forward_pre_hooks
    assert all(torch.equal(leaf, before[key]) for key, leaf in net.state_dict().items())


def test_no_batches_are_an_expected_error():
    with pytest.raises(EmptyError, match="at least one batch"):
        gram_matrices(nn.Linear(2, 2), nn.Linear(2, 2).state_dict(), [])


STATES = [{"weight": torch.zeros(2, 3)}] * 2


@pytest.mark.parametrize(
    ("grams", "error", "message"),
    [
        ([{}], OptionError, "2 members need the Gram matrix of each"),
        ([{"weight": torch.eye(2)}] * 2, StateMismatchError, r"of 'weight' is \(2, 2\) in #0"),
        ([{"weight": torch.ones(3)}] * 2, StateMismatchError, r"of 'weight' is \(3,\) in #0"),
        ([{"bias": torch.eye(3)}] * 2, StateMismatchError, "of 'bias' is"),
        ([{"weight": torch.eye(3)}, {}], StateMismatchError, "in some members only"),
        ([{"weight": torch.full((3, 3), torch.inf)}] * 2, NonFiniteError, "'weight' in #0"),
    ],
)
def test_matrices_that_do_not_fit_are_refused(grams, error, message):
    with pytest.raises(error, match=message):
        regmean(STATES, grams)


def test_alpha_out_of_range_is_refused():
    with pytest.raises(OptionError, match="alpha must be from 0 to 1, however it is 2"):
        regmean(STATES, [{}, {}], alpha=2.0)
