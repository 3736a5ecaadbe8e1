"""Averages along the sphere."""

import math

import pytest
import torch

from ensemble.average import uniform, weighted
from ensemble.errors import OptionError
from ensemble.spherical import gram, lerp, multislerp, slerp


def states(count, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [
        {
            "a.weight": torch.randn(4, 3, generator=generator, dtype=dtype),
            "b.bias": torch.randn(5, generator=generator, dtype=dtype),
        }
        for _ in range(count)
    ]


def flat(state):
    return torch.cat([leaf.flatten() for leaf in state.values()])


@pytest.mark.parametrize("t", [0.0, 0.25, 1.0])
def test_lerp_is_the_weighted_average_of_two(t):
    two = states(2)
    torch.testing.assert_close(lerp(two, t=t), weighted(two, [1 - t, t]))


def test_the_ends_of_the_arc_are_the_members():
    two = states(2)
    torch.testing.assert_close(slerp(two, t=0.0), two[0])
    torch.testing.assert_close(slerp(two, t=1.0), two[1])


def test_on_a_sphere_the_angle_grows_evenly_and_the_norm_stays():
    a, b = (leaf / leaf.norm() for leaf in (flat(state) for state in states(2)))
    whole = math.acos(a @ b)
    for t in (0.1, 0.5, 0.8):
        there = slerp([{"w": a}, {"w": b}], t=t)["w"]
        assert float(there.norm()) == pytest.approx(1)
        assert math.acos(a @ there) == pytest.approx(t * whole)


def test_whole_takes_the_state_as_one_vector():
    two = states(2)
    one = [{"w": flat(state)} for state in two]
    torch.testing.assert_close(flat(slerp(two, t=0.3, whole=True)), slerp(one, t=0.3)["w"])
    three = states(3)
    mine = multislerp(three, [1, 2, 3], whole=True)
    theirs = multislerp([{"w": flat(state)} for state in three], [1, 2, 3])
    torch.testing.assert_close(flat(mine), theirs["w"])
    assert not torch.allclose(flat(mine), flat(multislerp(three, [1, 2, 3])))


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_parallel_and_opposite_members_and_zeros_are_combined_linearly(sign):
    a = flat(states(1)[0])
    for b in (sign * 3 * a, torch.zeros_like(a)):
        two = [{"w": a}, {"w": b}]
        torch.testing.assert_close(slerp(two, t=0.25)["w"], 0.75 * a + 0.25 * b)


def test_of_two_members_the_karcher_mean_lies_on_their_arc():
    a, b = (flat(state) for state in states(2))
    mine = multislerp([{"w": a}, {"w": b}], [3, 1])["w"]
    unit = slerp([{"w": a / a.norm()}, {"w": b / b.norm()}], t=0.25)["w"]
    torch.testing.assert_close(mine, unit * (0.75 * a.norm() + 0.25 * b.norm()))


def test_at_the_karcher_mean_the_ways_to_the_members_cancel():
    vectors = [flat(state) for state in states(6)]
    mean = multislerp([{"w": vector} for vector in vectors], [1] * 6)["w"]
    mean = mean / mean.norm()
    total = torch.zeros_like(mean)
    for vector in vectors:
        unit = vector / vector.norm()
        angle = math.acos(unit @ mean)
        total += angle / math.sin(angle) * (unit - (unit @ mean) * mean)
    assert total.norm() < 1e-6


def test_where_no_direction_is_the_mean_the_average_is_straight():
    two = [{"w": torch.tensor([2.0, 0.0])}, {"w": torch.tensor([-2.0, 0.0])}]
    assert torch.equal(multislerp(two, [1, 1])["w"], torch.zeros(2))


def test_a_member_of_zeros_counts_in_the_norm_alone():
    two = [{"w": torch.tensor([0.0, 2.0])}, {"w": torch.zeros(2)}]
    torch.testing.assert_close(multislerp(two, [1, 1])["w"], torch.tensor([0.0, 1.0]))


def test_complex_leaves_are_vectors_of_pairs():
    two = [{"w": torch.tensor([1.0 + 0j, 0])}, {"w": torch.tensor([1j, 0])}]
    expected = torch.tensor([(1 + 1j) / math.sqrt(2), 0])
    torch.testing.assert_close(slerp(two)["w"], expected.to(torch.complex64))


def test_inner_products_of_long_leaves_are_summed_in_pieces():
    leaves = [torch.randn(300, 500) for _ in range(3)]
    stacked = torch.stack(leaves).flatten(1).double()
    torch.testing.assert_close(gram(leaves), stacked @ stacked.T)
    away = stacked[:2] - stacked[2]
    torch.testing.assert_close(gram(leaves[:2], leaves[2]), away @ away.T)


@pytest.mark.parametrize("method", [lerp, slerp])
def test_two_members_and_a_share_are_needed(method):
    assert torch.equal(method(states(1))["b.bias"], uniform(states(1))["b.bias"])
    with pytest.raises(OptionError, match="takes two members, however there are 3"):
        method(states(3))
    with pytest.raises(OptionError, match=r"t must be from 0 to 1, however it is 1\.5"):
        method(states(2), t=1.5)


def test_options_that_do_not_fit_are_named():
    with pytest.raises(OptionError, match="steps must be at least 0"):
        multislerp(states(2), [1, 1], steps=-1)
    with pytest.raises(OptionError, match="2 members need 2 weights"):
        multislerp(states(2), [1])
