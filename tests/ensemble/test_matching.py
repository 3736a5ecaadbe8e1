"""Units are put in the order in which two networks agree best."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from ensemble.alignment import LEAST, STRATEGIES, align
from ensemble.matching import Matcher, assignment
from ensemble.symmetries import permuted, symmetry
from zoo import models

MLP = nn.Sequential(
    nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh(),
    nn.Linear(4, 2),
)  # fmt: skip


class Recurrent(nn.Module):
    """The hidden units read each other."""

    def __init__(self):
        super().__init__()
        self.into, self.again, self.out = nn.Linear(3, 6), nn.Linear(6, 6), nn.Linear(6, 2)

    def forward(self, x):
        h = torch.tanh(self.into(x))
        for _ in range(3):
            h = torch.tanh(self.into(x) + self.again(h))
        return self.out(h)


NETWORKS = {
    "mlp": (MLP, torch.rand(2, 3)),
    "cnn": (models.build("cnn", {"channels": (4, 5)}, (1, 6, 6), 3, 0), torch.rand(2, 1, 6, 6)),
    "resnet": (
        models.build("resnet", {"blocks": (1, 1), "width": 4}, (1, 6, 6), 3, 0),
        torch.rand(2, 1, 6, 6),
    ),
    "recurrent": (Recurrent(), torch.rand(2, 3)),
}


def random_states(module, found, count, seed):
    generator = torch.Generator().manual_seed(seed)
    return [
        {
            key: torch.randn(leaf.shape, generator=generator) if leaf.ndim else leaf
            for key, leaf in module.state_dict().items()
        }
        for _ in range(count)
    ]


def inner(one, other, keys):
    return sum(float((one[key] * other[key]).double().sum()) for key in keys)


@given(st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_one_hidden_layer_is_matched_as_well_as_can_be(seed):
    module = nn.Sequential(nn.Linear(2, 5), nn.ReLU(), nn.Linear(5, 3))
    found = symmetry(module, torch.zeros(1, 2))
    one, other = random_states(module, found, 2, seed)
    orders, gained = Matcher(found.sizes, found.axes).match(one, other)
    told = [
        inner(one, found.permute(other, [torch.tensor(order)]), found.axes)
        for order in itertools.permutations(range(5))
    ]
    best = inner(one, found.permute(other, orders), found.axes)
    assert best == pytest.approx(max(told), rel=1e-5)
    assert gained >= 0


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_no_two_units_of_a_layer_would_better_change_places(name, seed):
    module, x = NETWORKS[name]
    found = symmetry(module, x)
    keys = [key for key in found.axes if key not in found.buffers]
    matcher = Matcher(found.sizes, {key: found.axes[key] for key in keys}, seed)
    one, other = random_states(module, found, 2, seed)
    orders, _ = matcher.match(one, other)
    best = inner(one, found.permute(other, orders), keys)
    assert best >= inner(one, other, keys)
    for group, size in enumerate(found.sizes if name != "recurrent" else ()):
        for a, b in itertools.combinations(range(size), 2):
            changed = [order.clone() for order in orders]
            changed[group][[a, b]] = changed[group][[b, a]]
            assert inner(one, found.permute(other, changed), keys) <= best + 1e-3


def test_a_match_goes_on_from_the_orders_it_is_given():
    module, x = NETWORKS["mlp"]
    found = symmetry(module, x)
    matcher = Matcher(found.sizes, found.axes)
    (one,) = random_states(module, found, 1, 0)
    truth = found.random(torch.Generator().manual_seed(3))
    back = [order.argsort() for order in truth]
    other = {**one, **{key: permuted(one[key], axes, truth) for key, axes in found.axes.items()}}
    orders, gained = matcher.match(one, other, back, sweeps=1)
    assert gained == 0
    assert all(torch.equal(a, b) for a, b in zip(orders, back, strict=True))


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("name", ["mlp", "resnet"])
def test_members_agree_more_than_before(name, strategy):
    module, x = NETWORKS[name]
    found = symmetry(module, x)
    states = random_states(module, found, 5, 0)
    keys = [key for key in found.axes if key not in found.buffers]

    def together(states):
        total = {key: sum(state[key] for state in states) for key in keys}
        return inner(total, total, keys)

    assert together(align(states, found, strategy=strategy)) > 1.1 * together(states)


def test_nobody_gains_by_another_order_once_all_are_matched_to_the_mean_of_the_others():
    module, x = NETWORKS["mlp"]
    found = symmetry(module, x)
    aligned = align(random_states(module, found, 5, 0), found, strategy="mean")
    matcher = Matcher(found.sizes, found.axes)
    for k, state in enumerate(aligned):
        others = [each for i, each in enumerate(aligned) if i != k]
        total = {key: sum(each[key] for each in others) for key in found.axes}
        _, gained = matcher.match(total, state, sweeps=1)
        assert gained <= LEAST


def test_an_assignment_takes_every_column_once():
    agreement = torch.rand(7, 7, generator=torch.Generator().manual_seed(0))
    order = assignment(agreement)
    assert sorted(order.tolist()) == list(range(7))
    every = [
        sum(float(agreement[i, j]) for i, j in enumerate(columns))
        for columns in itertools.permutations(range(7))
    ]
    assert float(agreement[torch.arange(7), order].sum()) == pytest.approx(max(every))
