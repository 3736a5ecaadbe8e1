"""Fisher information, exact row by row, and averages weighted by it."""

import copy

import pytest
import torch
from torch import nn

from ensemble import fisher
from ensemble.average import uniform
from ensemble.errors import EmptyError, NonFiniteError, OptionError, StateMismatchError
from ensemble.fisher import fisher_information, fisher_merge


def net(outputs=3):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, outputs))


def by_rows(module, x_N, log_likelihoods):
    """Sum weight · (∂ log p)² over rows and outcomes, one backward pass at a time."""
    module = copy.deepcopy(module).eval()
    total = {
        name: torch.zeros_like(p, dtype=torch.float64) for name, p in module.named_parameters()
    }
    for i in range(len(x_N)):
        for weight, value in log_likelihoods(module(x_N[i : i + 1])[0], i):
            module.zero_grad()
            value.backward(retain_graph=True)
            for name, p in module.named_parameters():
                total[name] += weight * p.grad.double().square() / len(x_N)
    return total


def classes(logits, i):
    logs = logits.log_softmax(0)
    return [(float(log.detach().exp()), log) for log in logs]


def labels(odds, i):
    outcomes = []
    for first in (0.0, 1.0):
        for second in (0.0, 1.0):
            y = torch.tensor([first, second])
            log = -nn.functional.binary_cross_entropy_with_logits(odds, y, reduction="sum")
            outcomes.append((float(log.detach().exp()), log))
    return outcomes


def quantities(values, i):
    """Gauss-Hermite quadrature with two points is exact for the square of a linear function."""
    outcomes = []
    for t in range(len(values)):
        for step in (-1.0, 1.0):
            outcomes.append((0.5, step * values[t]))
    return outcomes


@pytest.mark.parametrize(
    ("task", "outputs", "outcomes"),
    [("classification", 3, classes), ("multilabel", 2, labels), ("regression", 2, quantities)],
)
@pytest.mark.parametrize("room", [1, 1 << 24])
def test_it_is_the_mean_over_all_outcomes_of_each_row(task, outputs, outcomes, room, monkeypatch):
    monkeypatch.setattr(fisher, "ROOM", room)
    module, x_N = net(outputs), torch.randn(7, 4)
    module(torch.randn(20, 4))  # statistics that are not those of the rows
    mine = fisher_information(module, module.state_dict(), [x_N[:4], x_N[4:]], task)
    theirs = by_rows(module, x_N, outcomes)
    assert mine.keys() == theirs.keys()
    for name, value in theirs.items():
        torch.testing.assert_close(mine[name], value, rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize(
    ("task", "outputs", "y_N", "log"),
    [
        ("classification", 3, torch.tensor([0, 2, 1]), lambda out, y: out.log_softmax(0)[y]),
        (
            "multilabel",
            2,
            torch.tensor([[0.0, 1], [1, 1], [0, 0]]),
            lambda out, y: -nn.functional.binary_cross_entropy_with_logits(out, y, reduction="sum"),
        ),
        ("regression", 1, torch.tensor([0.5, -1, 2]), lambda out, y: -0.5 * (out[0] - y) ** 2),
    ],
)
def test_empirical_information_is_taken_at_the_targets(task, outputs, y_N, log):
    module, x_N = net(outputs), torch.randn(3, 4)
    state = module.state_dict()
    mine = fisher_information(module, state, [(x_N, y_N)], task, empirical=True)
    theirs = by_rows(module, x_N, lambda out, i: [(1.0, log(out, y_N[i]))])
    for name, value in theirs.items():
        torch.testing.assert_close(mine[name], value, rtol=1e-4, atol=1e-9)


def test_tied_parameters_have_the_same_information_under_both_names():
    module = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    module[1].weight = module[0].weight
    state = module.state_dict()
    mine = fisher_information(module, state, [torch.randn(5, 3)], "classification")
    assert mine["0.weight"] is mine["1.weight"]
    assert mine["0.weight"].min() > 0
    merged = fisher_merge([state, state], [mine, mine])
    assert merged["0.weight"].data_ptr() == merged["1.weight"].data_ptr()


def test_the_module_is_left_as_it_was():
    module = net().train()
    before = copy.deepcopy(module.state_dict())
    fisher_information(module, net().state_dict(), [torch.randn(3, 4)], "classification")
    assert module.training
    assert all(torch.equal(leaf, before[key]) for key, leaf in module.state_dict().items())


def test_what_cannot_be_measured_is_refused():
    module, state = net(), net().state_dict()
    with pytest.raises(OptionError, match="task must be classification or multilabel or regr"):
        fisher_information(module, state, [torch.randn(3, 4)], "ranking")
    with pytest.raises(EmptyError, match="at least one row"):
        fisher_information(module, state, [], "classification")
    with pytest.raises(OptionError, match="needs targets"):
        fisher_information(module, state, [torch.randn(3, 4)], "classification", empirical=True)


def known(value, **others):
    return {"w": torch.as_tensor(value), **others}


MEMBERS = [{"w": torch.tensor([0.0, 4.0])}, {"w": torch.tensor([4.0, 0.0])}]


def test_equal_information_gives_the_uniform_average():
    assert torch.equal(fisher_merge(MEMBERS, [known([3.0, 0.1])] * 2)["w"], uniform(MEMBERS)["w"])


def test_no_information_counts_as_little_and_huge_one_does_not_overflow():
    assert fisher_merge(MEMBERS, [known([0.0, 0.0])] * 2)["w"].tolist() == [2.0, 2.0]
    huge = torch.tensor([1e308, 1e308], dtype=torch.float64)
    assert fisher_merge(MEMBERS, [known(huge), known(huge)])["w"].tolist() == [2.0, 2.0]


def test_leaves_without_information_are_averaged():
    members = [{**member, "mean": torch.tensor(float(k))} for k, member in enumerate(MEMBERS)]
    assert fisher_merge(members, [known([1.0, 1.0])] * 2)["mean"] == 0.5


def test_information_of_complex_leaves_is_of_both_parts():
    members = [{"w": torch.tensor([1 + 1j])}, {"w": torch.tensor([3 + 5j])}]
    merged = fisher_merge(members, [known([3.0]), known([1.0])])
    assert merged["w"].tolist() == [1.5 + 2j]


@pytest.mark.parametrize(
    ("information", "error", "message"),
    [
        ([known([1.0, 1.0])], OptionError, "2 members need the information of each"),
        ([known([1.0]), known([1.0])], StateMismatchError, r"of 'w' is \(1,\) in #0"),
        ([known([1.0, 1.0]), {}], StateMismatchError, "'w' is known in some members only"),
        ([known([1.0, 1.0], v=torch.ones(1))] * 2, StateMismatchError, "information of 'v' is"),
        ([known([1.0, torch.nan])] * 2, NonFiniteError, "not for 'w' in #0; 'w' in #1"),
        ([known([1.0, -1.0])] * 2, OptionError, "never negative, however it is for 'w' in #0"),
    ],
)
def test_information_that_does_not_fit_is_refused(information, error, message):
    with pytest.raises(error, match=message):
        fisher_merge(MEMBERS, information)
