"""Task vectors: trimmed, elected, scaled and added to the base."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ensemble import ranks, task_vectors
from ensemble.average import uniform
from ensemble.errors import NonFiniteError, OptionError, StateMismatchError
from ensemble.ranks import kth_largest
from ensemble.state import PIECE
from ensemble.stock import model_stock
from ensemble.task_vectors import breadcrumbs, dare, dare_norm, task_arithmetic, ties

FAMILY = [
    task_arithmetic,
    ties,
    breadcrumbs,
    dare,
    task_vectors.dare_ties,
    dare_norm,
    task_vectors.dare_norm_ties,
]
THINNED = FAMILY[3:]
ZERO = {"w": torch.zeros(6)}


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_task_arithmetic_is_a_scaled_sum():
    base, a, b = ({"w": random(50, seed=seed)} for seed in range(3))
    mine = task_arithmetic([a, b], base, scale=0.3)["w"]
    expected = base["w"] + 0.3 * (a["w"] - base["w"] + b["w"] - base["w"])
    torch.testing.assert_close(mine, expected)
    torch.testing.assert_close(task_arithmetic([a, b], base, scale=0.5), uniform([a, b]))


def test_ties_by_hand():
    """Figure 1 of the paper in six elements: trim, elect, take the mean of those that agree."""
    a = torch.tensor([4.0, -3.0, 2.0, 0.1, 1.0, 0.0])
    b = torch.tensor([2.0, 5.0, -0.1, 0.2, -1.0, 0.3])
    # The largest half of each: a keeps 4 -3 2, b keeps 2 5 -1; signs elected: + + + . - .
    mine = ties([{"w": a}, {"w": b}], ZERO, density=0.5, scale=2.0)["w"]
    assert mine.tolist() == [6.0, 10.0, 4.0, 0.0, -2.0, 0.0]


def test_elements_that_cancel_leave_the_base():
    mine = ties([{"w": torch.ones(6)}, {"w": -torch.ones(6)}], ZERO, density=1.0)
    assert torch.equal(mine["w"], torch.zeros(6))


def test_all_that_tie_for_the_last_place_are_kept():
    tau = torch.tensor([3.0, -1.0, 1.0, 1.0, 0.5, 0.2])
    mine = ties([{"w": tau}], ZERO, density=0.34)["w"]
    assert mine.tolist() == [3.0, -1.0, 1.0, 1.0, 0.0, 0.0]


def test_breadcrumbs_by_hand():
    tau = torch.tensor([0.125, -9.0, 2.0, 0.25, 1.0, 8.0])
    mine = breadcrumbs([{"w": tau}], ZERO, density=0.5, gamma=0.34, scale=1.0)["w"]
    assert mine.tolist() == [0.0, 0.0, 2.0, 0.25, 1.0, 0.0]


def test_breadcrumbs_drop_fewer_outliers_where_the_density_asks_for_them():
    tau = torch.tensor([0.125, -9.0, 2.0, 0.25, 1.0, 8.0])
    mine = breadcrumbs([{"w": tau}], ZERO, density=0.9, gamma=0.5, scale=1.0)["w"]
    assert mine.tolist() == [0.125, 0.0, 2.0, 0.25, 1.0, 8.0]


def test_what_dare_keeps_is_divided_by_its_chance():
    tau = random(40_000)
    mine = dare([{"w": tau}], {"w": torch.zeros(40_000)}, density=0.25, scale=1.0)["w"]
    kept = mine != 0
    torch.testing.assert_close(mine[kept], 4 * tau[kept])
    assert kept.float().mean() == pytest.approx(0.25, abs=0.01)


def test_dare_norm_restores_the_l1_norm_of_each_member():
    """Over more than one piece, so that what is measured is what is dropped."""
    members = [{"w": random(2, PIECE, seed=seed)} for seed in range(2)]
    base = {"w": torch.zeros(2, PIECE)}
    for member in members:
        mine = dare_norm([member], base, density=0.1, scale=1.0)["w"]
        torch.testing.assert_close(mine.abs().sum(), member["w"].abs().sum(), rtol=1e-4, atol=0)


@pytest.mark.parametrize("method", THINNED)
def test_what_is_kept_depends_on_seed_member_and_key_alone(method):
    states = [{"a": random(2000, seed=k), "b": random(2000, seed=k + 9)} for k in range(3)]
    base = {"a": torch.zeros(2000), "b": torch.zeros(2000)}
    mine = method(states, base, seed=4)
    torch.manual_seed(123)  # the global generator has no say
    alone = method([{"b": s["b"]} for s in states], {"b": base["b"]}, seed=4)
    assert torch.equal(mine["b"], alone["b"])
    assert not torch.equal(mine["b"], method(states, base, seed=5)["b"])
    same = [{"a": torch.ones(2000), "b": torch.ones(2000)}] * 2
    twice = method(same, base)
    assert not torch.equal(twice["a"], twice["b"])
    assert len(dare(same, base)["a"].unique()) == 3  # kept of none, of one, of both


@pytest.mark.parametrize("method", [*FAMILY, model_stock])
def test_members_that_are_the_base_give_the_base(method):
    base = {"w": torch.tensor([-0.0, 0.0, 1.5, -2.0]), "n": torch.tensor(3)}
    mine = method([base, base], base)
    assert torch.equal(mine["w"], base["w"])
    assert torch.equal(mine["w"].signbit(), base["w"].signbit())
    assert mine["w"].data_ptr() != base["w"].data_ptr()


@pytest.mark.parametrize("method", [*FAMILY, model_stock])
def test_a_base_that_does_not_fit_is_refused(method):
    members = [{"w": torch.zeros(6)}] * 2
    with pytest.raises(StateMismatchError, match=r"'w' is \(6,\) in #0 and \(2,\) in base"):
        method(members, {"w": torch.zeros(2)})
    with pytest.raises(StateMismatchError, match="'w' is missing in base"):
        method(members, {})
    with pytest.raises(NonFiniteError, match="'w' holds NaN or infinity in base"):
        method(members, {"w": torch.full((6,), torch.nan)})


@pytest.mark.parametrize("method", FAMILY)
def test_a_result_out_of_range_is_refused(method):
    member = {"w": torch.full((6,), 60_000.0, dtype=torch.float16)}
    base = {"w": torch.ones(6, dtype=torch.float16)}
    with pytest.raises(NonFiniteError, match="'w' leaves the range of float16"):
        method([member, member], base, scale=100.0)


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        (ties, {"density": 0.0}, "density must be above 0 and at most 1, however it is 0.0"),
        (dare, {"density": 1.1}, "density must be above 0"),
        (breadcrumbs, {"gamma": 1.0}, "gamma must be at least 0 and below 1, however it is 1.0"),
    ],
)
def test_options_out_of_range_are_named(method, options, message):
    with pytest.raises(OptionError, match=message):
        method([ZERO], ZERO, **options)


VALUES = st.lists(st.integers(-9, 9).map(float), min_size=1, max_size=60)


@given(VALUES, st.data())
@settings(deadline=None)
def test_the_kth_largest_is_that_of_sorting(values, data):
    k = data.draw(st.integers(1, len(values)))
    base = torch.full((len(values),), 0.5)
    mine = kth_largest([torch.tensor(values), -torch.tensor(values)], base, k)
    for found, sign in zip(mine.tolist(), (1, -1), strict=True):
        assert found == sorted((abs(sign * v - 0.5) for v in values), reverse=True)[k - 1]


@pytest.mark.parametrize("k", [1, 2, 1000, 66_000, 199_999, 200_000])
@pytest.mark.parametrize("kind", ["normal", "sorted", "sparse", "unlike"])
def test_the_kth_largest_of_many_does_not_rest_on_the_sample(k, kind, monkeypatch):
    monkeypatch.setattr(ranks, "SAMPLE", 1000)
    values = random(200_000)
    if kind == "sorted":
        values = values.sort().values
    elif kind == "sparse":
        values[random(200_000, seed=1) < 1] = 0
    elif kind == "unlike":
        values[::200] = 7.0  # what the sample sees is not like the rest
    expected = values.abs().double().sort(descending=True).values[k - 1]
    assert kth_largest([values], torch.zeros(200_000), k).item() == expected


def test_model_stock_by_hand():
    """Two members at right angles stay with the base; at 60 degrees t is 2/3."""
    right = [{"w": torch.tensor([2.0, 0.0])}, {"w": torch.tensor([0.0, 2.0])}]
    base = {"w": torch.zeros(2)}
    assert torch.equal(model_stock(right, base)["w"], torch.zeros(2))
    sixty = [{"w": torch.tensor([2.0, 0.0])}, {"w": torch.tensor([1.0, 3.0**0.5])}]
    expected = 2 / 3 * torch.tensor([1.5, 3.0**0.5 / 2])
    torch.testing.assert_close(model_stock(sixty, base)["w"], expected)


def test_model_stock_of_one_member_or_of_opposed_ones():
    base = {"w": torch.tensor([1.0, 1.0])}
    one, other = {"w": torch.tensor([3.0, 1.0])}, {"w": torch.tensor([-1.0, 1.0])}
    assert torch.equal(model_stock([one], base)["w"], one["w"])
    assert torch.equal(model_stock([one, other], base)["w"], base["w"])
