"""Aligned members compute what they did, and their units stand in one order."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

from ensemble import responses, uniform
from ensemble.alignment import STRATEGIES, align
from ensemble.errors import (
    EmptyError,
    NonFiniteError,
    OptionError,
    StateMismatchError,
    SymmetryError,
)
from ensemble.matching import Matcher
from ensemble.responses import activations
from ensemble.symmetries import symmetry
from zoo import models

CASES = {
    "mlp": ((6,), {"hidden": (16, 12)}),
    "cnn": ((1, 8, 8), {"channels": (6, 8)}),
    "resnet": ((1, 8, 8), {}),
    "resmlp": ((6,), {"width": 16}),
}


def network(name, seed=0):
    shape, options = CASES[name]
    return models.build(name, options, shape, 3, seed).eval(), shape


def state_of(module):
    return {key: leaf.detach().clone() for key, leaf in module.state_dict().items()}


def assert_same(one, other):
    assert one.keys() == other.keys()
    for key, leaf in one.items():
        torch.testing.assert_close(leaf, other[key])


@pytest.fixture(params=CASES)
def case(request):
    """A module, inputs, its symmetry, and the state with three states that are permuted copies."""
    torch.manual_seed(0)
    module, shape = network(request.param)
    x = torch.randn(200, *shape)
    found = symmetry(module, x[:2])
    state = state_of(module)
    copies = [
        found.permute(state, found.random(torch.Generator().manual_seed(seed))) for seed in range(3)
    ]
    return request.param, module, x, found, [state, *copies]


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("by", ["weights", "activations"])
def test_permuted_copies_are_recovered(case, by, strategy):
    _, module, x, found, states = case
    read = activations(module, states, [x], found) if by == "activations" else None
    aligned = align(states, found, activations=read, strategy=strategy, restarts=5)
    if by == "weights" and strategy == "reference" and len(found.sizes) > 4:
        assert len(aligned) == 4  # layers in turn may be stuck in a deep net, see below
    else:
        for state in aligned[1:]:
            assert_same(state, aligned[0])
    if strategy == "reference":
        assert_same(aligned[0], states[0])


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("by", ["weights", "activations"])
def test_every_member_computes_what_it_did(case, by, strategy):
    name, module, x, found, _ = case
    states = [state_of(network(name, seed)[0]) for seed in range(4)]
    read = activations(module, states, [x], found) if by == "activations" else None
    for before, after in zip(
        states, align(states, found, activations=read, strategy=strategy), strict=True
    ):
        outputs = [
            torch.func.functional_call(module, state, (x,)).detach() for state in (before, after)
        ]
        torch.testing.assert_close(*outputs, rtol=1e-4, atol=1e-5)
        for key, leaf in before.items():
            assert torch.equal(leaf.flatten().sort()[0], after[key].flatten().sort()[0])


def test_matching_never_agrees_less_than_before(case):
    *_, found, states = case
    axes = {key: axes for key, axes in found.axes.items() if key not in found.buffers}
    matcher = Matcher(found.sizes, axes)
    generator = torch.Generator().manual_seed(5)
    leaves = [{key: torch.randn(s[key].shape, generator=generator) for key in axes} for s in states]
    for other in leaves[1:]:
        orders, gained = matcher.match(leaves[0], other)
        turned = found.permute(other, orders)
        inner = [sum(float((leaves[0][k] * o[k]).sum()) for k in axes) for o in (other, turned)]
        assert inner[1] >= inner[0]
        norms = [sum(float(each[k].square().sum()) for k in axes) for each in (leaves[0], other)]
        assert gained == pytest.approx(
            (inner[1] - inner[0]) / (norms[0] * norms[1]) ** 0.5, abs=1e-4
        )
        again, more = matcher.match(leaves[0], turned)
        assert more == pytest.approx(0, abs=1e-5)
        assert all(torch.equal(order, torch.arange(len(order))) for order in again)


def test_one_member_and_two_are_aligned_too(case):
    _, module, x, found, states = case
    for strategy in STRATEGIES:
        (alone,) = align(states[:1], found, strategy=strategy)
        assert_same(alone, states[0])
        pair = align(states[:2], found, activations=activations(module, states[:2], [x], found),
                     strategy=strategy)  # fmt: skip
        assert_same(*pair)


def test_the_average_of_aligned_copies_is_the_network(case):
    _, module, x, found, states = case
    read = activations(module, states, [x], found)
    average = uniform(align(states, found, activations=read))
    with torch.no_grad():
        outputs = torch.func.functional_call(module, average, (x,))
        torch.testing.assert_close(outputs, module(x), rtol=1e-4, atol=1e-5)
        naive = torch.func.functional_call(module, uniform(states), (x,))
    assert not torch.allclose(naive, outputs, atol=1e-2)


def test_statistics_do_not_take_part_in_matching_weights():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 6, bias=False), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 2))
    net.eval()
    found = symmetry(net, torch.rand(3, 4))
    assert {"1.running_mean", "1.running_var"} <= found.buffers & found.axes.keys()
    state = state_of(net)
    other = found.permute(state, found.random(torch.Generator().manual_seed(1)))
    other["1.running_var"] = 1e3 * torch.rand(6)
    _, back = align([state, other], found)
    assert torch.equal(back["0.weight"], state["0.weight"])


class Turning(nn.Module):
    """Computes something else each time."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.calls = nn.Linear(3, 5), nn.Linear(5, 2), 0

    def forward(self, x):
        self.calls += 1
        return self.b(torch.relu(self.a(x) if self.calls < 4 else self.a(x * 1).tanh()))


def test_activations_of_another_computation_are_refused():
    module = Turning()
    found = symmetry(module, torch.rand(2, 3))
    module.calls = 5
    with pytest.raises(SymmetryError, match=r"computes otherwise than it was traced.* by weights"):
        activations(module, [state_of(module)], [torch.rand(4, 3)], found)


def test_all_batches_are_read_and_no_more_places_than_are_wanted(monkeypatch):
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    x = torch.randn(12, 3, generator=torch.Generator().manual_seed(0))
    found, states = symmetry(net, x[:2]), [state_of(net)]
    ((whole,), (parts,)) = (
        activations(net, states, batches, found)[0].values() for batches in ([x], [x[:5], x[5:]])
    )
    torch.testing.assert_close(parts, whole)
    hidden = net[1](net[0](x))
    hidden = hidden - hidden.mean(0)
    torch.testing.assert_close(whole, hidden / hidden.norm(dim=0))
    monkeypatch.setattr(responses, "POSITIONS", 6)
    few = activations(net, states * 2, [x[:5], x[5:]], found)
    assert [leaf.shape for each in few for leaf in each.values()] == [(6, 4), (6, 4)]
    assert all(torch.equal(few[0][key], few[1][key]) for key in few[0])  # the same rows
    with pytest.raises(EmptyError, match="activations need at least one batch"):
        activations(net, states, [], found)


@pytest.mark.parametrize("first", [False, True])
def test_layers_of_pytorchs_transformer_are_read(first):
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Linear(5, 16),
        nn.TransformerEncoderLayer(16, 4, 24, batch_first=True, norm_first=first),
        nn.Linear(16, 3),
    )
    x = torch.randn(60, 7, 5)
    found = symmetry(net, x[:2])
    state = state_of(net)
    other = found.permute(state, found.random(torch.Generator().manual_seed(1)))
    read = activations(net, [state, other], [x], found)
    assert_same(*align([state, other], found, activations=read))


def test_reading_activations_leaves_the_module_as_it_was():
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2)).train()
    net[1].eval()  # a norm that is frozen, as in fine-tuning
    x = torch.rand(6, 3)
    before = state_of(net)
    activations(net, [before], [x], symmetry(net, x))
    assert [part.training for part in net] == [True, False, True, True]
    assert_same(net.state_dict(), before)


def test_members_that_cannot_be_read_are_refused():
    net, x = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1)), torch.rand(4, 2)
    found, state = symmetry(net, x), state_of(net)
    with pytest.raises(StateMismatchError, match=r"however: '0\.bias' is \(3,\) in the module"):
        activations(net, [state | {"0.bias": torch.zeros(4)}], [x], found)
    with pytest.raises(NonFiniteError, match=r"'0\.bias' holds NaN or infinity in #1"):
        activations(net, [state, state | {"0.bias": torch.full((3,), torch.nan)}], [x], found)
    with pytest.raises(NonFiniteError, match=r"in member #1, they are not: 'relu \d+\.0'"):
        activations(net, [state, state | {"0.weight": torch.full((3, 2), 3e38)}], [8 * x], found)


def test_options_out_of_range_are_refused(case):
    *_, found, states = case
    with pytest.raises(OptionError, match="reference must be one of 4 members, however 4"):
        align(states, found, reference=4)
    with pytest.raises(OptionError, match="restarts must be 1 or more"):
        align(states, found, restarts=0)
    with pytest.raises(OptionError, match="no strategy 'means'; did you mean 'mean'"):
        align(states, found, strategy="means")


def test_activations_of_other_members_or_networks_are_refused(case):
    _, module, x, found, states = case
    read = activations(module, states[:3], [x], found)
    with pytest.raises(OptionError, match="of all 4 members, however they are of 3"):
        align(states, found, activations=read)
    with pytest.raises(OptionError, match="read by this symmetry, however they were not in #1"):
        align(states[:2], found, activations=[read[0], {"relu 1.0": torch.rand(4, 2)}])


def test_threads_that_start_later_compute_as_before(case):
    *_, found, states = case
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        align(states, found)
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(torch.get_num_threads).result() == 2
    finally:
        torch.set_num_threads(before)


def test_states_of_another_module_are_refused():
    net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    found = symmetry(net, torch.zeros(1, 2))
    with pytest.raises(StateMismatchError, match=r"however: '2\.weight' is not there"):
        align([{"0.weight": torch.zeros(3, 2), "0.bias": torch.zeros(3)}] * 2, found)
    with pytest.raises(StateMismatchError, match=r"'0\.bias' is \(4,\)"):
        align([state_of(net) | {"0.bias": torch.zeros(4)}] * 2, found)
