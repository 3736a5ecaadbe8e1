"""Members are compared in full before, and combined leaf by leaf without loss."""

import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ensemble.errors import EmptyError, NonFiniteError, StateMismatchError
from ensemble.state import blend, check, differences, is_finite, leafwise

FLOATS = st.floats(allow_nan=False, allow_infinity=False)
SHARES = st.lists(st.floats(0, 1), min_size=1, max_size=6).filter(lambda shares: sum(shares) > 0)


def test_check_accepts_any_iterable_and_returns_the_very_members():
    members = [{"w": torch.zeros(2)}, {"w": torch.ones(2)}]
    checked = check(state for state in members)
    assert all(a is b for a, b in zip(checked, members, strict=True))


def test_no_members_is_an_expected_error():
    with pytest.raises(EmptyError, match="at least one member"):
        check([])


def test_every_difference_is_listed_with_its_place():
    a = {"w": torch.zeros(64, 20), "bias": torch.zeros(2), "n": torch.tensor(1)}
    b = {"w": torch.zeros(64, 21), "n": torch.tensor(1.0), "extra": torch.zeros(1)}
    with pytest.raises(StateMismatchError) as caught:
        check([a, a, b])
    assert caught.value.differences == (
        "'w' is (64, 20) in #0, #1 and (64, 21) in #2",
        "'bias' is missing in #2",
        "'n' is int64 in #0, #1 and float32 in #2",
        "'extra' is only in #2",
    )
    assert str(caught.value).startswith("members must share keys, shapes and dtypes, however: 'w'")
    assert caught.value.exit_code == 2


def test_a_long_list_of_differences_is_capped_in_the_message_only():
    wide = {f"w{i}": torch.zeros(1) for i in range(25)}
    with pytest.raises(StateMismatchError, match=r"and 15 more$") as caught:
        check([wide, {}])
    assert len(caught.value.differences) == 25


def test_members_go_by_the_names_given():
    with pytest.raises(StateMismatchError, match="only in mnist/seed=3"):
        check([{"w": torch.zeros(1)}, {}, {}], ["mnist/seed=3", "b", "c"])


def test_many_members_are_summed_up():
    facts = differences([{"w": torch.zeros(1)}] * 9 + [{}] * 8, [f"#{i}" for i in range(17)])
    assert facts == ["'w' is missing in #9, #10, #11 and 5 more"]


def test_every_member_has_a_name():
    states = [{"w": torch.zeros(1)}, {"w": torch.ones(1)}]
    for names in (["one"], ["one", "two", "three"]):
        with pytest.raises(ValueError, match="zip"):
            differences(states, names)


@pytest.mark.parametrize(
    ("stranger", "fact"),
    [
        (torch.nn.Linear(1, 1), "#1 is a Linear, not a state dict"),
        ({"w": [0.0]}, "'w' is a list, not a tensor, in #1"),
    ],
)
def test_what_is_no_state_is_named(stranger, fact):
    with pytest.raises(StateMismatchError, match=re.escape(fact)):
        check([{"w": torch.zeros(1)}, stranger])


def test_one_state_in_place_of_several_is_an_expected_error():
    with pytest.raises(StateMismatchError, match="#0 is a str"):
        check({"w": torch.zeros(1)})


def test_every_bad_leaf_is_named_with_its_members():
    good = {"a": torch.zeros(2), "b": torch.zeros(2)}
    bad = {"a": torch.tensor([0, torch.nan]), "b": torch.tensor([torch.inf, 0])}
    with pytest.raises(NonFiniteError) as caught:
        check([good, bad, {**good, "b": torch.tensor([-torch.inf, torch.inf])}])
    assert "'a' holds NaN or infinity in #1; 'b' holds NaN or infinity in #1, #2" in str(
        caught.value
    )


@pytest.mark.parametrize(
    ("leaf", "finite"),
    [
        (torch.full((4,), 3e38), True),
        (torch.full((4,), 6e4, dtype=torch.float16), True),
        (torch.tensor([torch.inf, -torch.inf]), False),
        (torch.tensor(complex(0, torch.nan)), False),
        (torch.tensor([torch.nan]).to(torch.float8_e4m3fn), False),
        (torch.ones(2).to(torch.float8_e4m3fn), True),
        (torch.empty(0), True),
        (torch.tensor(True), True),
    ],
)
def test_finiteness_is_told_apart_from_a_sum_that_overflows(leaf, finite):
    assert is_finite(leaf) is finite


@given(st.lists(FLOATS, min_size=1, max_size=5), SHARES)
@settings(deadline=None)
def test_identical_members_come_back_bit_for_bit(values, shares):
    weights = [share / sum(shares) for share in shares]
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        leaf = torch.tensor(values, dtype=torch.float64).clamp(-3e38, 3e38).to(dtype)
        result = blend([{"w": leaf}] * len(weights), weights)["w"]
        assert torch.equal(result, leaf)
        assert torch.equal(result.signbit(), leaf.signbit())


@given(st.lists(st.tuples(FLOATS, st.floats(0, 1)), min_size=1, max_size=6))
@settings(deadline=None)
def test_convex_combinations_stay_within_the_range_of_their_members(pairs):
    total = sum(share for _, share in pairs)
    if total == 0:
        return
    weights = [share / total for _, share in pairs]
    for dtype in (torch.float64, torch.float32):
        leaves = [torch.tensor(x, dtype=torch.float64).clamp(-3e38, 3e38) for x, _ in pairs]
        leaves = [leaf.to(dtype) for leaf in leaves]
        result = blend([{"w": leaf} for leaf in leaves], weights)["w"]
        assert min(leaves) <= result <= max(leaves)


def test_all_weight_on_one_member_is_that_member_whatever_the_others_hold():
    small = {"w": torch.tensor([1e-30, 1.0, -0.5])}
    huge = {"w": torch.tensor([1e38, -1e38, 3e38])}
    assert torch.equal(blend([huge, small], [0.0, 1.0])["w"], small["w"])


def test_weights_may_extrapolate():
    result = blend([{"w": torch.tensor(1.0)}, {"w": torch.tensor(3.0)}], [-1.0, 2.0])
    assert result["w"] == 5


def test_halves_are_summed_in_float64():
    members = [{"w": torch.tensor(x, dtype=torch.float16)} for x in (6e4, 6e4, 5.9e4)]
    assert torch.isfinite(blend(members, [1 / 3] * 3)["w"])


def test_parameters_and_views_come_back_as_plain_contiguous_tensors():
    weight = torch.nn.Parameter(torch.randn(3, 2))
    members = [{"w": weight.t(), "c": torch.ones(()).expand(4)}] * 2
    result = blend(members, [0.5, 0.5])
    assert not result["w"].requires_grad
    assert all(leaf.is_contiguous() for leaf in result.values())
    assert torch.equal(result["w"], weight.t())


def test_views_of_one_stacked_tensor_are_not_taken_for_tied():
    stacked = torch.arange(6.0).reshape(3, 2)
    result = blend([{"a": stacked[0], "b": stacked[1]}, {"a": stacked[1], "b": stacked[2]}], [1, 0])
    assert result["a"].tolist() == [0, 1]
    assert result["b"].tolist() == [2, 3]


def test_keys_tied_in_only_some_members_are_untied():
    both = torch.ones(2)
    result = blend([{"a": both, "b": both}, {"a": torch.ones(2), "b": torch.zeros(2)}], [0.5, 0.5])
    assert result["a"].tolist() == [1, 1]
    assert result["b"].tolist() == [0.5, 0.5]


def test_eight_bit_floats_are_averaged_too():
    members = [{"w": torch.tensor([x]).to(torch.float8_e4m3fn)} for x in (1.0, 2.0)]
    assert blend(members, [0.5, 0.5])["w"].float().item() == 1.5


def test_the_base_comes_last_and_as_reals_and_has_no_part_in_what_is_tied():
    tied, apart = torch.tensor([1 + 2j, 3j]), torch.tensor([9.0, 9.0])
    members = [{"a": tied, "b": tied, "c": apart}] * 2
    base = {"a": torch.tensor([5 + 6j, 7j]), "b": torch.zeros(2) + 0j, "c": torch.tensor([4.0, 8])}
    seen = {}

    def merge(key, leaves):
        seen[key] = [leaf.tolist() for leaf in leaves]
        return leaves[-1]

    result = leafwise(members, merge, base=base)
    reals = [[1.0, 2.0], [0.0, 3.0]]
    assert seen == {"a": [reals, reals, [[5, 6], [0, 7]]], "c": [[9, 9], [9, 9], [4, 8]]}
    assert torch.equal(result["a"], base["a"])
    assert result["b"] is result["a"]
