"""The ladder makes every average once, and its best rung is never worse than the best single."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from ensemble.ladder import climb


@pytest.fixture(scope="module")
def members():
    """A module with a part in another mode, states of other seeds, and rows of two classes."""
    torch.manual_seed(0)
    x = torch.randn(400, 4)
    y = (x[:, 0] * x[:, 1] > 0).long()
    states = []
    for _ in range(4):
        module = nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 2))
        optimiser = torch.optim.Adam(module.parameters(), 0.02)
        for _ in range(60):
            optimiser.zero_grad()
            cross_entropy(module(x[:300]), y[:300]).backward()
            optimiser.step()
        states.append({key: leaf.detach().clone() for key, leaf in module.state_dict().items()})
    module[1].eval()
    return module, states, x, y


def judges(module, states, x, y):
    """Return what :func:`climb` is given to judge by, as averaging judges."""

    @torch.no_grad()
    def figures(state):
        told = torch.func.functional_call(copy.deepcopy(module).eval(), dict(state), (x,))
        right = (told.argmax(1) == y).float().mean()
        return {"val_loss": float(cross_entropy(told, y)), "accuracy": float(right)}

    most = max(figures(state)["accuracy"] for state in states)

    def worth(told):
        return -told["val_loss"] if told["accuracy"] >= most else -math.inf

    return figures, worth


@pytest.mark.parametrize("options", [{}, {"repair": False}, {"align": False}, {"align": True}])
@pytest.mark.parametrize("rows", [100, 1])
def test_the_best_rung_is_never_worse_than_the_best_single(members, rows, options):
    module, states, x, y = members
    before, modes = copy.deepcopy(states), [part.training for part in module]
    generator = torch.get_rng_state()
    for count in (1, 2, 4):
        some = states[:count]
        figures, worth = judges(module, some, x[300 : 300 + rows], y[300 : 300 + rows])
        found = climb(module, some, [x[:150], x[150:300]], figures, worth, **options)
        assert found.rungs[0].name == "best single"
        assert worth(found.best.figures) >= max(map(worth, map(figures, some)))
        assert figures(found.best.state) == found.best.figures
    assert [part.training for part in module] == modes
    assert torch.equal(torch.get_rng_state(), generator)
    torch.testing.assert_close(states, before, rtol=0, atol=0)


@pytest.mark.parametrize("repair", [True, False])
def test_no_average_is_made_twice(members, repair):
    module, states, x, y = members
    figures, _ = judges(module, states, x[300:], y[300:])
    seen = []

    def once(state):
        assert not any(all(torch.equal(state[key], old[key]) for key in state) for old in seen)
        seen.append(state)
        return figures(state)

    found = climb(module, states, [x[:300]], once, lambda told: -told["val_loss"], align=True,
                  repair=repair)  # fmt: skip
    told = {rung.name: f"{rung.figures['val_loss']:.3g}" for rung in found.rungs}
    assert list(told) == ["best single", "naive", "aligned", *(["repaired"] if repair else [])]
    kind = "repaired" if repair else "aligned"
    assert f"loss of the {kind} average: " in found.notes[0]
    assert f"{told[kind]} by" in found.notes[0]
