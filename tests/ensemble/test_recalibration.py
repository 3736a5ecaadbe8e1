"""BatchNorm statistics are estimated anew, and nothing else is touched."""

import copy

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import update_bn

from ensemble.errors import EmptyError, NonFiniteError, OptionError, StateMismatchError
from ensemble.recalibration import recalibrate


def net(dropout=0.0):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Flatten(),
        nn.Linear(64, 5),
        nn.BatchNorm1d(5, momentum=0.3),
    )


def images(*sizes):
    torch.manual_seed(1)
    return [torch.randn(size, 3, 6, 6) * 2 + 1 for size in sizes]


def same(a, b):
    return list(a) == list(b) and all(torch.equal(a[key], b[key]) for key in b)


def test_equal_batches_agree_with_pytorchs_update_bn():
    module, theirs = net(), net()
    update_bn(images(8, 8, 8), theirs)
    mine = recalibrate(module, module.state_dict(), images(8, 8, 8))
    for key, leaf in theirs.state_dict().items():
        torch.testing.assert_close(mine[key], leaf)
    assert mine["1.num_batches_tracked"] == 3


def test_unequal_batches_count_by_their_values():
    norm = nn.BatchNorm1d(2)
    x, y = torch.randn(30, 2), torch.randn(10, 2) + 4
    state = recalibrate(norm, norm.state_dict(), [x, y])
    torch.testing.assert_close(state["running_mean"], torch.cat([x, y]).mean(0))
    torch.testing.assert_close(state["running_var"], 0.75 * x.var(0) + 0.25 * y.var(0))


def test_a_layer_used_twice_counts_both_uses():
    norm = nn.BatchNorm1d(1)
    module = nn.Sequential(norm, nn.Linear(1, 1), norm)
    nn.init.zeros_(module[1].weight)
    nn.init.constant_(module[1].bias, 6.0)
    state = recalibrate(module, module.state_dict(), [torch.tensor([[1.0], [3.0]])])
    assert state["0.running_mean"].item() == 4
    assert state["0.running_var"].item() == 1
    assert state["2.running_var"].item() == 1


def test_a_layer_that_is_not_reached_keeps_its_statistics():
    class Partly(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.idle = nn.BatchNorm1d(1), nn.BatchNorm1d(1)
            self.idle.running_mean.fill_(7)

        def forward(self, x):
            return self.used(x)

    module = Partly()
    state = recalibrate(module, module.state_dict(), [torch.tensor([[1.0], [3.0]])])
    assert state["used.running_mean"].item() == 2
    assert state["idle.running_mean"].item() == 7


def test_only_statistics_change_and_neither_module_nor_state_does():
    module = net(dropout=0.5).train()
    module[1].weight.requires_grad_(False)
    before = copy.deepcopy(module.state_dict())
    given = {key: leaf.clone() for key, leaf in before.items()}
    result = recalibrate(module, given, images(8, 4))
    assert same(module.state_dict(), before)
    assert same(given, before)
    assert all(part.training for part in module.modules())
    assert module[6].momentum == 0.3
    assert not module[1]._forward_pre_hooks
    changed = {key for key in before if not torch.equal(result[key], before[key])}
    assert changed == {key for key in before if "running" in key or "tracked" in key}
    result["0.weight"].zero_()
    assert same(given, before)


def test_dropout_is_off_so_the_result_is_repeatable():
    module = net(dropout=0.5)
    one, two = (recalibrate(module, module.state_dict(), images(8, 8)) for _ in range(2))
    assert same(one, two)


def test_the_states_weights_count_not_the_modules():
    module, other = net(), net()
    nn.init.zeros_(module[0].weight)
    expected = recalibrate(other, other.state_dict(), images(8))
    assert same(recalibrate(module, other.state_dict(), images(8)), expected)


def test_without_batchnorm_a_copy_comes_back_and_no_batch_is_drawn():
    module = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2, track_running_stats=False))

    def batches():
        raise AssertionError("drawn")
        yield

    state = module.state_dict()
    result = recalibrate(module, state, batches())
    assert same(result, state)
    assert result["0.weight"].data_ptr() != state["0.weight"].data_ptr()


def test_batches_may_carry_labels():
    module = net()
    labelled = [(batch, torch.zeros(len(batch))) for batch in images(8, 8)]
    plain = recalibrate(module, module.state_dict(), images(8, 8))
    assert same(recalibrate(module, module.state_dict(), labelled), plain)


def test_tied_weights_stay_tied():
    module = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Linear(3, 3))
    module[2].weight = module[0].weight
    result = recalibrate(module, module.state_dict(), [torch.randn(4, 3)])
    assert result["0.weight"].data_ptr() == result["2.weight"].data_ptr()


def test_synchronised_batchnorm_is_batchnorm():
    module = nn.SyncBatchNorm(1)
    state = recalibrate(module, module.state_dict(), [torch.tensor([[1.0], [3.0]])])
    assert state["running_mean"].item() == 2


def test_no_batches_is_an_expected_error():
    with pytest.raises(EmptyError, match="at least one batch"):
        recalibrate(net(), net().state_dict(), [])


@pytest.mark.parametrize("rows", [0, 1])
def test_a_batch_without_variance_is_an_expected_error(rows):
    norm = nn.BatchNorm1d(4)
    with pytest.raises(OptionError, match=rf"shape \({rows}, 4\) has {rows}"):
        recalibrate(norm, norm.state_dict(), [torch.randn(8, 4), torch.randn(rows, 4)])


def test_a_state_of_another_module_is_refused():
    with pytest.raises(StateMismatchError, match="'weight' is missing in the state"):
        recalibrate(nn.BatchNorm1d(4), {"running_mean": torch.zeros(4)}, [])


def test_another_dtype_is_refused_rather_than_cast():
    norm = nn.BatchNorm1d(4)
    with pytest.raises(StateMismatchError, match="float32 in the module and float16 in the state"):
        recalibrate(norm, copy.deepcopy(norm).half().state_dict(), [])


def test_inputs_that_are_not_finite_are_named_by_what_they_spoil():
    norm = nn.BatchNorm1d(1)
    with pytest.raises(NonFiniteError, match="'running_mean'"):
        recalibrate(norm, norm.state_dict(), [torch.tensor([[1.0], [torch.nan]])])
