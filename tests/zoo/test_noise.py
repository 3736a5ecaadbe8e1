"""Random numbers that depend on a seed and a place alone, and look random in every direction."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from zoo.noise import Stream, is_random, uniform_like

aten = torch.ops.aten


def seeds(*values):
    return torch.tensor(values, dtype=torch.int64)


def uniform(seed_K, *shape, draw=1):
    return uniform_like(torch.empty(len(seed_K), *shape), seed_K, draw)


SEEDS = st.integers(-(2**63), 2**63 - 1)


@settings(max_examples=40, deadline=None)
@given(seed=SEEDS, draw=st.integers(1, 10_000))
def test_every_number_is_at_least_zero_and_below_one(seed, draw):
    u = uniform(seeds(seed), 997, draw=draw)
    assert u.dtype == torch.float32
    assert u.min() >= 0
    assert u.max() < 1


@settings(max_examples=40, deadline=None)
@given(seed=SEEDS, draw=st.integers(1, 10_000))
def test_mean_and_variance_are_those_of_the_uniform_distribution(seed, draw):
    u = uniform(seeds(seed), 20_000, draw=draw).double()
    # Six standard errors: one failure in 5e8 honest draws.
    assert abs(u.mean().item() - 1 / 2) < 6 * (1 / 12 / 20_000) ** 0.5
    assert abs(u.var().item() - 1 / 12) < 6 * (1 / 180 / 20_000) ** 0.5


@pytest.mark.parametrize("draw", [1, 2, 50])
def test_a_kolmogorov_smirnov_test_finds_nothing_over_two_hundred_members(draw):
    u = uniform(torch.arange(200), 2_000, draw=draw).numpy()
    values = [stats.kstest(row, "uniform").pvalue for row in u]
    assert min(values) > 1e-5
    # The p-values themselves are uniform where the numbers are.
    assert stats.kstest(values, "uniform").pvalue > 1e-4


def correlation(a, b):
    return abs(np.corrcoef(a.numpy().ravel(), b.numpy().ravel())[0, 1])


def test_neighbouring_members_steps_draws_and_places_are_uncorrelated():
    n = 40_000
    base = uniform(seeds(12_345), n)
    bound = 5 / n**0.5
    for other in (12_346, 12_344, 12_345 + 1_000_003, 12_345 + 2**31, -12_345):
        assert correlation(base, uniform(seeds(other), n)) < bound
    for draw in (2, 3, 10):
        assert correlation(base, uniform(seeds(12_345), n, draw=draw)) < bound
        assert correlation(base[:, 1:], uniform(seeds(12_345), n, draw=draw)[:, :-1]) < bound
    for lag in (1, 2, 32, 64, 1024):
        assert correlation(base[:, lag:], base[:, :-lag]) < bound


def test_a_mask_of_one_place_over_successive_steps_is_uniform_and_uncorrelated():
    u = uniform(torch.arange(20_000), 3).T
    for row in u:
        assert stats.kstest(row.numpy(), "uniform").pvalue > 1e-4
        assert correlation(row[1:], row[:-1]) < 5 / 20_000**0.5
    assert correlation(u[0], u[1]) < 5 / 20_000**0.5


def test_pairs_fill_the_square_evenly():
    u = uniform(torch.arange(8), 20_000)
    for a, b in [(u[0], u[1]), (u[2, 1:], u[2, :-1]), (u[3], uniform(seeds(3), 20_000, draw=2)[0])]:
        counts, _, _ = np.histogram2d(a.numpy(), b.numpy(), bins=10, range=[[0, 1], [0, 1]])
        assert stats.chisquare(counts.ravel()).pvalue > 1e-4


@settings(max_examples=40, deadline=None)
@given(
    members=st.lists(SEEDS, min_size=1, max_size=6),
    data=st.data(),
    draw=st.integers(1, 100),
)
def test_a_member_draws_the_same_alone_and_at_any_place_of_any_stack(members, data, draw):
    k = data.draw(st.integers(0, len(members) - 1))
    together = uniform(seeds(*members), 5, 7, draw=draw)
    assert torch.equal(together[k], uniform(seeds(members[k]), 5, 7, draw=draw)[0])


def test_the_global_generator_is_neither_read_nor_moved():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = uniform(seeds(7), 100)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert torch.equal(uniform(seeds(7), 100), first)


def test_the_numbers_are_pinned_so_that_old_runs_can_be_repeated():
    expected = [0.32653194665908813, 0.1105223298072815, 0.9767841696739197]
    assert uniform(seeds(7), 3)[0].tolist() == expected


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_native_dropout_zeroes_the_share_asked_for_and_scales_the_rest(p):
    x = torch.ones(2, 20_000)
    dropped, keep = Stream(seeds(3, 4)).draw(aten.native_dropout.default, (x, p, True), {})
    assert torch.equal(dropped != 0, keep)
    assert torch.allclose(dropped[keep], torch.tensor(1 / (1 - p)))
    share = 1 - keep.double().mean(1)
    assert (share - p).abs().max() < 6 * (p * (1 - p) / 20_000) ** 0.5


@pytest.mark.parametrize("p", [0.0, 0.3, 1.0])
def test_bernoulli_hits_with_the_probability_asked_for(p):
    x = torch.full((2, 20_000), 7.0)
    hits = Stream(seeds(3, 4)).draw(aten.bernoulli.p, (x, p), {})
    written = Stream(seeds(3, 4)).draw(aten.bernoulli_.float, (x, p), {})
    assert written is x
    assert torch.equal(written, hits)
    assert ((hits == 0) | (hits == 1)).all()
    assert (hits.mean(1) - p).abs().max() <= 6 * (p * (1 - p) / 20_000) ** 0.5


def test_successive_draws_of_a_stream_differ_and_another_stream_repeats_them():
    x = torch.empty(2, 50)
    one, again = Stream(seeds(3, 4)), Stream(seeds(3, 4))
    first, second = (one.draw(aten.rand_like.default, (x,), {}) for _ in range(2))
    assert not torch.equal(first, second)
    assert torch.equal(again.draw(aten.rand_like.default, (x,), {}), first)
    assert torch.equal(again.draw(aten.rand_like.default, (x,), {}), second)


def test_an_unknown_operation_and_a_tensor_without_member_axis_are_refused():
    stream = Stream(seeds(3, 4))
    assert stream.draw(aten.randn.default, ([2, 3],), {}) is None
    assert stream.draw(aten.normal_.default, (torch.empty(2, 3),), {}) is None
    assert stream.draw(aten.rand_like.default, (torch.empty(3, 2),), {}) is None
    assert stream.draw(aten.rand_like.default, (torch.empty(()),), {}) is None
    assert stream.draws == 0


def test_attention_is_random_where_it_drops_and_dropout_always():
    q = torch.empty(1, 1, 2, 4)
    for attention, others in (
        (aten._scaled_dot_product_flash_attention.default, ()),
        (aten._scaled_dot_product_efficient_attention.default, (None, False)),
    ):
        assert not is_random(attention, (q, q, q, *others))
        assert not is_random(attention, (q, q, q, *others, 0.0))
        assert is_random(attention, (q, q, q, *others, 0.1))
    assert is_random(aten.native_dropout.default, (q, 0.5, True))
    assert not is_random(aten.relu.default, (q,))
