"""What cannot be repaired is refused by name."""

import pytest
import torch
from torch import nn

from ensemble.errors import EmptyError, NonFiniteError, OptionError, StateMismatchError
from ensemble.repairing import repair


def members(module):
    state = module.state_dict()
    return [{key: leaf + seed * (leaf.ndim > 0) for key, leaf in state.items()} for seed in (0, 1)]


def given(shape, *sizes):
    return [torch.randn(size, *shape) for size in sizes]


def test_no_batches_is_an_expected_error():
    module = nn.Linear(4, 2)
    with pytest.raises(EmptyError, match="at least one batch"):
        repair(module, members(module), members(module)[0], [])


@pytest.mark.parametrize("rows", [0, 1])
def test_rows_without_a_deviation_are_an_expected_error(rows):
    module = nn.Linear(4, 2)
    with pytest.raises(OptionError, match=f"two or more values per channel.*gave {rows}"):
        repair(module, members(module), members(module)[0], given((4,), rows))


def test_a_batch_too_small_for_batchnorm_is_an_expected_error():
    module = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.BatchNorm1d(4), nn.Linear(4, 2))
    with pytest.raises(OptionError, match=r"BatchNorm needs two or more .* \(1, 4\) has 1"):
        repair(module, members(module), members(module)[0], given((4,), 30, 1))


def test_inputs_that_are_not_finite_are_named_by_what_they_spoil():
    module = nn.Sequential(nn.Linear(4, 2), nn.ReLU())
    x = given((4,), 30)
    x[0][3, 1] = torch.nan
    with pytest.raises(NonFiniteError, match="in member #0, they are not: '0'"):
        repair(module, members(module), members(module)[0], x)


def test_members_and_average_must_be_finite_and_fit():
    module, x = nn.Linear(4, 2), given((4,), 30)
    states = members(module)
    spoilt = {key: leaf.clone() for key, leaf in states[0].items()}
    spoilt["bias"][0] = torch.inf
    with pytest.raises(NonFiniteError, match="'bias' holds NaN or infinity in #1"):
        repair(module, [states[0], spoilt], states[0], x)
    with pytest.raises(NonFiniteError, match="'bias' holds NaN or infinity in the average"):
        repair(module, states, spoilt, x)
    with pytest.raises(StateMismatchError, match=r"\(3, 4\) in the module and \(2, 4\) in the st"):
        repair(nn.Linear(4, 3), states, states[0], x)
    with pytest.raises(StateMismatchError, match="'bias' is missing in the state"):
        repair(module, states, {"weight": states[0]["weight"]}, x)
    with pytest.raises(EmptyError, match="at least one member"):
        repair(module, [], states[0], x)
    with pytest.raises(OptionError, match="2 members need 2 weights"):
        repair(module, states, states[0], x, [1, 1, 1])
