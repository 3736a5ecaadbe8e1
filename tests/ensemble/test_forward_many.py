"""``forward_many``: the outputs of many states, whatever runs them."""

import pytest
import torch
from torch import nn

from ensemble import forward_many
from ensemble.errors import EmptyError, StateMismatchError


def states(module, count=4):
    generator = torch.Generator().manual_seed(0)
    return [
        {
            key: value + torch.randn(value.shape, generator=generator)
            for key, value in module.state_dict().items()
        }
        for _ in range(count)
    ]


def test_outputs_are_those_of_the_module_with_each_state():
    module = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Dropout(0.5), nn.Linear(8, 2))
    found = states(module)
    forward = forward_many(module, found)
    assert module.training
    x_N = torch.randn(40, 5, generator=torch.Generator().manual_seed(1))
    before = forward(x_N)
    forward.tune(x_N)
    after = forward(x_N)
    module.eval()
    for k, state in enumerate(found):
        module.load_state_dict(state)
        expected = module(x_N)
        torch.testing.assert_close(before[k], expected)
        torch.testing.assert_close(after[k], expected)


def test_the_states_may_change_afterwards():
    module = nn.Linear(3, 2)
    found = states(module)
    forward = forward_many(module, found)
    x_N = torch.ones(2, 3)
    expected = forward(x_N)
    for state in found:
        for value in state.values():
            value.zero_()
    nn.init.zeros_(module.weight)
    assert torch.equal(forward(x_N), expected)


def test_states_that_do_not_fit_are_refused():
    module = nn.Linear(3, 2)
    with pytest.raises(EmptyError):
        forward_many(module, [])
    with pytest.raises(StateMismatchError, match="'bias' is missing in state #1"):
        forward_many(module, [module.state_dict(), {"weight": torch.zeros(2, 3)}])
