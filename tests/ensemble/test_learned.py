"""Learned soups descend on validation loss; averages over checkpoints agree with PyTorch."""

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ensemble.average import uniform
from ensemble.errors import NonFiniteError, OptionError, StateMismatchError
from ensemble.learned import _slope, functional_loss, learned_soup
from ensemble.trajectory import ema, lawa, swa


def nets(count):
    torch.manual_seed(0)
    return [
        nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 2))
        for _ in range(count)
    ]


@pytest.fixture
def problem():
    """Three members, the last of them the best, and the loss on validation data."""
    torch.manual_seed(1)
    models = nets(3)
    x, y = torch.randn(200, 3), torch.randint(2, (200,))
    optimiser = torch.optim.Adam(models[2].parameters(), 0.05)
    for _ in range(60):
        optimiser.zero_grad()
        nn.functional.cross_entropy(models[2](x), y).backward()
        optimiser.step()
    loss = functional_loss(nets(1)[0], x, y, nn.functional.cross_entropy)
    return [model.state_dict() for model in models], loss


@pytest.mark.parametrize("by_layer", [False, True])
def test_the_soup_is_never_worse_than_the_uniform_average(problem, by_layer):
    states, loss = problem
    soup = learned_soup(states, loss, by_layer=by_layer)
    assert float(loss(soup)) < 0.9 * float(loss(uniform(states)))
    assert learned_soup(states, loss, steps=0, by_layer=by_layer).keys() == soup.keys()
    torch.testing.assert_close(learned_soup(states, loss, steps=0), uniform(states))


def test_layers_have_weights_of_their_own(problem):
    states, loss = problem
    soup = learned_soup(states, loss, by_layer=True)
    free = float(loss(soup))
    assert free <= float(loss(learned_soup(states, loss))) + 1e-3
    shares = []
    for key in ("0.weight", "3.weight"):
        members = torch.stack([state[key].flatten() for state in states], 1).double()
        share = torch.linalg.lstsq(members, soup[key].flatten().double()).solution
        torch.testing.assert_close(share.sum(), torch.tensor(1.0).double(), atol=1e-3, rtol=0)
        shares.append(share)
    assert (shares[0] - shares[1]).abs().max() > 0.01


def test_the_slope_is_that_of_autograd_through_the_average(problem):
    states, loss = problem
    weight = torch.tensor([[0.2, 0.3, 0.5]], dtype=torch.float64, requires_grad=True)
    soup = {
        key: sum(w * state[key] for w, state in zip(weight[0].float(), states, strict=True))
        for key in states[0]
    } | {"1.num_batches_tracked": torch.tensor(0)}
    theirs = torch.autograd.grad(loss(soup), weight)[0]
    _, mine = _slope(states, loss, weight.detach(), dict.fromkeys(states[0], 0))
    torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)


def test_tied_and_complex_leaves_are_counted_once():
    states = []
    for scale in (1.0, 3.0):
        tied = torch.full((2,), scale)
        states.append({"a": tied, "b": tied, "z": torch.tensor([scale * 1j])})

    def loss(state):
        away = state["a"].sum() + state["b"].sum() + state["z"].imag.sum()
        return (away - 5 * 1.5).square()  # at a weight of 0.25 for the second

    soup = learned_soup(states, loss, steps=200)
    assert soup["a"].tolist() == pytest.approx([1.5, 1.5], abs=1e-2)
    assert soup["a"].data_ptr() == soup["b"].data_ptr()
    assert not soup["a"].requires_grad


def test_what_cannot_be_learned_from_is_refused():
    states = [{"w": torch.ones(2)}, {"w": torch.zeros(2)}]
    with pytest.raises(OptionError, match="loss must be differentiable"):
        learned_soup(states, lambda state: torch.tensor(1.0))
    with pytest.raises(NonFiniteError, match="loss of the average must be finite, however it is"):
        learned_soup(states, lambda state: state["w"].sum() * torch.nan)
    with pytest.raises(OptionError, match="rate positive, however they are 50 and 0"):
        learned_soup(states, lambda state: state["w"].sum(), rate=0.0)


def test_a_loss_that_explodes_does_not_spoil_the_best():
    states = [{"w": torch.ones(1)}, {"w": torch.zeros(1)}]
    calls = []

    def loss(state):
        calls.append(1)
        return state["w"].sum() * (1 if len(calls) < 4 else torch.nan)

    soup = learned_soup(states, loss)
    assert 0 < float(soup["w"]) < 0.5
    assert len(calls) == 4


def averaged(models, **options):
    theirs = AveragedModel(models[0], **options)
    for model in models:
        theirs.update_parameters(model)
    return theirs.module.state_dict()


def checkpoints(count):
    models = nets(count)
    for i, model in enumerate(models):
        model[1].num_batches_tracked.fill_(i)
    return models, [model.state_dict() for model in models]


def test_swa_agrees_with_pytorch():
    models, states = checkpoints(5)
    mine, theirs = swa(states), averaged(models, use_buffers=True)
    for key in dict(models[0].named_parameters()):
        torch.testing.assert_close(mine[key], theirs[key])
    assert mine["1.num_batches_tracked"] == 4


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.9, 1.0])
def test_ema_agrees_with_pytorch(decay):
    models, states = checkpoints(6)
    mine = ema(states, decay=decay)
    theirs = averaged(models, multi_avg_fn=get_ema_multi_avg_fn(decay))
    for key in dict(models[0].named_parameters()):
        torch.testing.assert_close(mine[key], theirs[key])
    assert mine["1.num_batches_tracked"] == theirs["1.num_batches_tracked"] == 5


def test_lawa_is_swa_over_the_latest():
    _, states = checkpoints(6)
    for k, latest in ((2, states[4:]), (6, states), (99, states)):
        mine, theirs = lawa(states, k=k), swa(latest)
        assert all(torch.equal(mine[key], theirs[key]) for key in theirs)


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        (ema, {"decay": 1.5}, r"decay must be from 0 to 1, however it is 1\.5"),
        (lawa, {"k": 0}, "k must be at least 1, however it is 0"),
    ],
)
def test_options_out_of_range_are_named(method, options, message):
    with pytest.raises(OptionError, match=message):
        method([{"w": torch.zeros(1)}], **options)


def test_the_loss_of_a_network_with_tied_weights():
    net = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    net[1].weight = net[0].weight
    states = [net.state_dict(), {key: 2 * leaf for key, leaf in net.state_dict().items()}]
    x = torch.randn(5, 2)
    loss = functional_loss(net, x, 2.25 * net(x).detach(), nn.functional.mse_loss)
    soup = learned_soup(states, loss)
    torch.testing.assert_close(soup["1.weight"], 1.5 * net[0].weight.detach(), rtol=1e-2, atol=0)
    with pytest.raises(StateMismatchError, match=r"'1\.weight' is missing in the state"):
        loss({"0.weight": net[0].weight})
