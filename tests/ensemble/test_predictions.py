"""Pooling: the textbook definitions, in log-space, whatever the members' order or scale."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats
from sklearn.datasets import load_iris
from sklearn.ensemble import VotingClassifier
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.tree import DecisionTreeClassifier
from torch import Tensor

from ensemble import catalogue, predictions
from ensemble.errors import EmptyError, EnsembleError, NonFiniteError, OptionError
from ensemble.predictions import geometric, mean, median, tasks, trimmed_mean, vote, weighted
from ensemble.scores import nll

Pool = Callable[..., Tensor]
POOLS = {
    name: catalogue.find("predictions", name)
    for name in ("mean", "weighted", "geometric", "vote", "median", "trimmed-mean")
}
PAIRS = [
    pytest.param(method, task, id=f"{name} {task}")
    for name, method in POOLS.items()
    for task in tasks(method.function)
    if task != "multilabel"  # whose labels are pooled as choices of two classes
]


def members(task: str, count: int = 5, rows: int = 40, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    shape = (count, rows, 4) if task == "classification" else (count, rows)
    return 2 * torch.randn(*shape, generator=generator, dtype=torch.float64)


def pooled(method: catalogue.Method, outputs_K: Tensor) -> Tensor:
    """Apply a method, with unequal weights where it needs them."""
    weights = {"weights": [1.0 + k for k in range(len(outputs_K))]} if method.needs else {}
    return method.function(outputs_K, **weights)


def test_the_catalogue_knows_every_method_its_needs_and_its_tasks() -> None:
    found = {name: (pool.needs, tasks(pool.function)) for name, pool in POOLS.items()}
    assert found == {
        "mean": ((), ("classification", "multilabel", "regression")),
        "weighted": (("weights",), ("classification", "multilabel", "regression")),
        "geometric": ((), ("classification", "multilabel")),
        "vote": ((), ("classification", "multilabel")),
        "median": ((), ("classification", "multilabel", "regression")),
        "trimmed-mean": ((), ("classification", "multilabel", "regression")),
    }


@pytest.mark.parametrize(("method", "task"), PAIRS)
def test_the_result_is_one_prediction_per_row(method: catalogue.Method, task: str) -> None:
    outputs_K = members(task)
    before = outputs_K.clone()
    result = pooled(method, outputs_K)
    assert torch.equal(outputs_K, before), "members are left as they were"
    assert result.shape == outputs_K.shape[1:]
    assert result.dtype == torch.float64
    if task == "classification":
        torch.testing.assert_close(result.logsumexp(1), torch.zeros(40, dtype=torch.float64))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize(("method", "task"), PAIRS)
def test_one_member_comes_back_exactly(
    method: catalogue.Method, task: str, dtype: torch.dtype
) -> None:
    outputs_K = members(task, count=1).to(dtype)
    [alone] = outputs_K.to(torch.promote_types(dtype, torch.float32))
    if task == "classification":
        alone = alone.log_softmax(dim=-1)
    result = pooled(method, outputs_K)
    if method.name == "vote":
        assert torch.equal(result.argmax(1), alone.argmax(1))
    else:
        assert torch.equal(result, alone)


@pytest.mark.parametrize(("method", "task"), PAIRS)
def test_identical_members_pool_to_themselves(method: catalogue.Method, task: str) -> None:
    outputs_K = members(task, count=1).repeat(3, *[1] * (2 if task == "classification" else 1))
    expected = pooled(method, outputs_K[:1])
    torch.testing.assert_close(pooled(method, outputs_K).exp(), expected.exp())


@settings(max_examples=25, deadline=None)
@given(order=st.permutations(range(5)), seed=st.integers(0, 2**16))
@pytest.mark.parametrize(("method", "task"), PAIRS)
def test_the_members_order_does_not_matter(
    method: catalogue.Method, task: str, order: list[int], seed: int
) -> None:
    outputs_K = members(task, seed=seed)
    weights_K = torch.arange(1.0, 6.0)
    extra_K = [weights_K] if method.needs else []
    one = method.function(outputs_K, *extra_K)
    other = method.function(outputs_K[order], *(extra[order] for extra in extra_K))
    torch.testing.assert_close(one, other)


@settings(max_examples=25, deadline=None)
@given(shift=st.floats(-1e4, 1e4), seed=st.integers(0, 2**16))
@pytest.mark.parametrize("pool", [mean, geometric, vote, median, trimmed_mean])
def test_a_constant_added_to_a_members_logits_changes_nothing(
    pool: Pool, shift: float, seed: int
) -> None:
    logits_KNC = members("classification", seed=seed)
    moved_KNC = logits_KNC.clone()
    moved_KNC[1] += shift
    torch.testing.assert_close(pool(moved_KNC), pool(logits_KNC), rtol=1e-6, atol=1e-9)


def test_mean_averages_probabilities_and_values() -> None:
    logits_KNC, values_KN = members("classification"), members("regression")
    expected = special.softmax(logits_KNC.numpy(), axis=-1).mean(axis=0)
    np.testing.assert_allclose(mean(logits_KNC).exp().numpy(), expected)
    np.testing.assert_allclose(mean(values_KN).numpy(), values_KN.numpy().mean(axis=0))


def test_weighted_averages_with_the_weights_shares() -> None:
    logits_KNC, values_KN = members("classification"), members("regression")
    weights = np.array([2.0, 0.0, 1.0, 5.0, 0.5])
    expected = np.average(special.softmax(logits_KNC.numpy(), -1), axis=0, weights=weights)
    np.testing.assert_allclose(weighted(logits_KNC, weights.tolist()).exp().numpy(), expected)
    expected = np.average(values_KN.numpy(), axis=0, weights=weights)
    np.testing.assert_allclose(weighted(values_KN, torch.tensor(weights)).numpy(), expected)


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_equal_weights_are_the_mean_and_a_lone_weight_is_its_member(task: str) -> None:
    outputs_K = members(task)
    torch.testing.assert_close(weighted(outputs_K, [0.3] * 5), mean(outputs_K))
    assert torch.equal(weighted(outputs_K, [0, 0, 7, 0, 0]), mean(outputs_K[2:3]))


def test_geometric_is_the_softmax_of_mean_logits_and_of_mean_log_probabilities() -> None:
    logits_KNC = members("classification")
    expected = special.softmax(logits_KNC.numpy().mean(axis=0), axis=-1)
    np.testing.assert_allclose(geometric(logits_KNC).exp().numpy(), expected)
    geometric_mean = stats.gmean(special.softmax(logits_KNC.numpy(), axis=-1), axis=0)
    expected = geometric_mean / geometric_mean.sum(axis=-1, keepdims=True)
    np.testing.assert_allclose(geometric(logits_KNC).exp().numpy(), expected)


def test_vote_counts_decisions_and_agrees_with_the_mode() -> None:
    logits_KNC = members("classification", rows=300)
    decided_KN = logits_KNC.argmax(dim=-1).numpy()
    share_NC = (decided_KN[..., None] == np.arange(4)).mean(axis=0)
    result = vote(logits_KNC)
    np.testing.assert_allclose(result.exp().numpy(), share_NC, atol=1e-6)
    untied = np.sort(share_NC, axis=1)[:, -1] > np.sort(share_NC, axis=1)[:, -2]
    assert 50 < untied.sum() < 300
    mode = stats.mode(decided_KN, axis=0).mode
    np.testing.assert_array_equal(result.argmax(1).numpy()[untied], mode[untied])


def test_tied_votes_go_to_the_higher_mean_probability_among_the_tied() -> None:
    logits_KNC = members("classification", count=4, rows=300)
    votes_NC = (vote(logits_KNC).exp() * 4).round()
    tied_NC = votes_NC == votes_NC.max(dim=1, keepdim=True).values
    assert int((tied_NC.sum(dim=1) > 1).sum()) > 50
    expected_N = mean(logits_KNC).where(tied_NC, -math.inf).argmax(dim=1)
    assert torch.equal(vote(logits_KNC).argmax(dim=1), expected_N)


def test_median_agrees_with_numpy_and_ignores_an_outlier() -> None:
    for count in (4, 5):
        values_KN = members("regression", count=count)
        np.testing.assert_allclose(median(values_KN).numpy(), np.median(values_KN.numpy(), axis=0))
    values_KN = torch.tensor([[1.0], [2.0], [1e30]])
    assert median(values_KN).item() == 2.0


@pytest.mark.parametrize("trim", [0.0, 0.2, 0.29, 0.49])
@pytest.mark.parametrize("count", [1, 3, 5, 10])
def test_trimmed_means_agree_with_scipy(trim: float, count: int) -> None:
    values_KN, logits_KNC = members("regression", count), members("classification", count)
    expected = stats.trim_mean(values_KN.numpy(), trim, axis=0)
    np.testing.assert_allclose(trimmed_mean(values_KN, trim=trim).numpy(), expected)
    shares = stats.trim_mean(special.softmax(logits_KNC.numpy(), axis=-1), trim, axis=0)
    shares /= shares.sum(axis=-1, keepdims=True)
    np.testing.assert_allclose(trimmed_mean(logits_KNC, trim=trim).exp().numpy(), shares)


def test_medians_of_probabilities_are_taken_class_by_class() -> None:
    for count in (4, 5):
        logits_KNC = members("classification", count=count)
        shares = np.median(special.softmax(logits_KNC.numpy(), axis=-1), axis=0)
        shares /= shares.sum(axis=-1, keepdims=True)
        np.testing.assert_allclose(median(logits_KNC).exp().numpy(), shares)
    apart_KNC = torch.diag(torch.full((3,), 500.0))[:, None]  # each is sure of another class
    torch.testing.assert_close(median(apart_KNC).exp(), torch.full((1, 3), 1 / 3))


@pytest.mark.parametrize("trim", [-0.1, 0.5, math.nan])
def test_a_share_to_trim_that_leaves_nothing_is_refused(trim: float) -> None:
    with pytest.raises(OptionError, match=r"trim must be at least 0 and below 0\.5"):
        trimmed_mean(members("regression"), trim=trim)


def test_soft_and_hard_votes_are_those_of_scikit_learn() -> None:
    x, y = load_iris(return_X_y=True)
    fitted = VotingClassifier(
        [
            ("near", KNeighborsClassifier(3)),
            ("bayes", GaussianNB()),
            ("tree", DecisionTreeClassifier(max_depth=1)),
        ]
    ).fit(x[::2], y[::2])
    shares = np.stack([one.predict_proba(x) for one in fitted.estimators_])
    logits_KNC = torch.from_numpy(shares).clamp_min(1e-300).log()
    soft = fitted.set_params(voting="soft").predict_proba(x)
    np.testing.assert_allclose(mean(logits_KNC).exp().numpy(), soft, atol=1e-12)
    decided = fitted.set_params(voting="hard").predict(x)
    untied = np.array([len(set(row)) < 3 for row in fitted.transform(x).astype(int)])
    assert untied.sum() > 100
    np.testing.assert_array_equal(vote(logits_KNC).argmax(1).numpy()[untied], decided[untied])


@pytest.mark.parametrize(("method", "task"), PAIRS)
def test_many_rows_are_pooled_in_portions_to_the_same(
    method: catalogue.Method, task: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    outputs_K = members(task, rows=100)
    weights = {"weights": [1.0, 2.0, 3.0, 4.0, 5.0]} if method.needs else {}
    whole = predictions.pooled(method.function, outputs_K, task, **weights)
    monkeypatch.setattr(predictions, "PORTION", 7 * outputs_K[:, :1].numel())
    apart = predictions.pooled(method.function, outputs_K, task, **weights)
    torch.testing.assert_close(apart, whole, rtol=1e-12, atol=1e-12)
    outputs_K[2, 50:] = math.nan
    with pytest.raises(NonFiniteError, match=r"member #2 in 50 of 100 rows, first in row 50"):
        predictions.pooled(method.function, outputs_K, task, **weights)


@pytest.mark.parametrize("pool", [mean, geometric])
def test_pooling_never_costs_more_nll_than_the_members_on_average(pool: Pool) -> None:
    """Jensen: -log is convex, and a normalised geometric mean exceeds the unnormalised one."""
    logits_KNC = 5 * members("classification", rows=200)
    labels_N = torch.arange(200) % 4
    members_KN = torch.stack([nll(logits_NC.log_softmax(1), labels_N) for logits_NC in logits_KNC])
    assert bool((nll(pool(logits_KNC), labels_N) <= members_KN.mean(dim=0) + 1e-12).all())


@pytest.mark.parametrize("pool", [mean, geometric, vote, lambda x: weighted(x, [1.0, 2.0])])
def test_certain_members_leave_the_nll_finite_in_single_precision(pool: Pool) -> None:
    logits_KNC = torch.tensor([[[2000.0, 0.0]], [[3000.0, 0.0]]])
    rows_N = nll(pool(logits_KNC), torch.tensor([1]))
    assert bool(rows_N.isfinite().all())
    if pool is mean:
        assert rows_N.item() == pytest.approx(2000 + math.log(2))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(("method", "task"), PAIRS)
def test_a_member_that_is_not_finite_is_named(
    method: catalogue.Method, task: str, value: float
) -> None:
    outputs_K = members(task)
    outputs_K[3, 17:19] = value
    with pytest.raises(NonFiniteError, match=r"member #3 in 2 of 40 rows, first in row 17"):
        pooled(method, outputs_K)


@pytest.mark.parametrize("missing", [0, 1])
@pytest.mark.parametrize(("method", "task"), PAIRS)
def test_no_members_or_no_rows_are_refused(
    method: catalogue.Method, task: str, missing: int
) -> None:
    with pytest.raises(EmptyError, match="needs members, rows"):
        pooled(method, members(task).narrow(missing, 0, 0))


@pytest.mark.parametrize("pool", [geometric, vote])
def test_members_of_the_other_task_are_refused(pool: Pool) -> None:
    with pytest.raises(EnsembleError, match=r"this method pools .* however: \(5, 40"):
        pool(members("regression"))


@pytest.mark.parametrize("pool", [mean, geometric, vote])
def test_class_numbers_are_not_taken_for_logits(pool: Pool) -> None:
    with pytest.raises(EnsembleError, match=r"torch\.int64"):
        pool(torch.ones(3, 2, 4, dtype=torch.int64))


@pytest.mark.parametrize("weights", [[1.0], [1.0, -1.0], [0.0, 0.0], [1.0, math.nan]])
def test_weights_that_are_no_shares_are_refused(weights: list[float]) -> None:
    with pytest.raises(OptionError, match="weights"):
        weighted(members("regression", count=2), weights)


# Several labels, several values


def apart(method: catalogue.Method, outputs_K: Tensor, task: str) -> Tensor:
    """Pool column by column, as if each label and each target were alone."""
    columns = []
    for outputs_KN in outputs_K.unbind(-1):
        if task == "regression":
            columns.append(pooled(method, outputs_KN))
        else:
            two = pooled(method, torch.stack([torch.zeros_like(outputs_KN), outputs_KN], dim=-1))
            columns.append(two[:, 1] - two[:, 0])
    return torch.stack(columns, dim=-1)


@pytest.mark.parametrize(
    ("name", "task"),
    [
        (name, task)
        for name, method in POOLS.items()
        for task in ("multilabel", "regression")
        if task in tasks(method.function)
    ],
)
def test_labels_and_targets_are_pooled_each_by_itself(name: str, task: str) -> None:
    method = POOLS[name]
    outputs_K = members("classification", rows=30)
    weights = {"weights": [1.0 + k for k in range(len(outputs_K))]} if method.needs else {}
    together = predictions.pooled(method.function, outputs_K, task, **weights)
    torch.testing.assert_close(together, apart(method, outputs_K, task))
    probabilities = outputs_K.sigmoid()
    if name == "mean" and task == "multilabel":
        torch.testing.assert_close(together.sigmoid(), probabilities.mean(0))
    if name == "geometric":
        torch.testing.assert_close(together, outputs_K.mean(0))
    if name == "vote":
        shares = (outputs_K > 0).double().mean(0)
        torch.testing.assert_close(together.sigmoid(), shares, atol=1e-5, rtol=0)


def test_one_member_is_pooled_to_what_it_says() -> None:
    outputs_1 = members("classification", count=1)
    for task in ("multilabel", "regression"):
        torch.testing.assert_close(predictions.pooled(mean, outputs_1, task), outputs_1[0])
    extreme = torch.tensor([[[300.0, -300.0]], [[300.0, -300.0]]])
    assert predictions.pooled(mean, extreme, "multilabel").tolist() == [[300.0, -300.0]]
