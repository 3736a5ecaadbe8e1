"""What every method that merges weights promises, asked of each one in the catalogue."""

import copy

import pytest
import torch

from ensemble import average, soup  # noqa: F401  (fills the catalogue)
from ensemble.catalogue import methods
from ensemble.errors import EmptyError, NonFiniteError, StateMismatchError

DTYPES = [
    torch.float16,
    torch.bfloat16,
    torch.float32,
    torch.float64,
    torch.complex64,
    torch.complex128,
]


def size(state):
    """Give each state a positive number that depends on nothing but its content."""
    return sum(float(leaf.to(torch.complex128).abs().sum()) for leaf in state.values()) + 1


SUPPLIES = {
    "weights": lambda states: [size(state) for state in states],
    "score": lambda states: lambda state: -size(state),
}


@pytest.fixture(params=methods("weights"), ids=lambda method: method.name)
def merge(request):
    """Call a method with all it needs and its default options."""
    method = request.param

    def call(states):
        needs = {name: SUPPLIES[name](states) for name in method.needs}
        return method.function(states, **needs, **method.bind({}))

    return call


def member(seed, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    tied = torch.randn(4, 3, generator=generator, dtype=torch.float64).to(dtype)
    return {
        "z.weight": tied,
        "empty": torch.empty(0, 3, dtype=dtype),
        "scalar": torch.randn((), generator=generator, dtype=torch.float64).to(dtype),
        "a.weight": tied,
        "norm.num_batches_tracked": torch.tensor(2),
        "index": torch.arange(3),
        "mask": torch.tensor([True, False]),
        "t": torch.randn(3, 2, generator=generator, dtype=torch.float64).to(dtype).t(),
    }


def bits(leaf):
    return torch.view_as_real(leaf) if leaf.is_complex() else leaf


def same(a, b):
    return list(a) == list(b) and all(
        a[key].dtype == b[key].dtype
        and torch.equal(a[key], b[key])
        and torch.equal(bits(a[key]).signbit(), bits(b[key]).signbit())
        for key in b
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_keys_their_order_shapes_and_dtypes_are_kept(merge, dtype):
    states = [member(seed, dtype) for seed in range(3)]
    result = merge(states)
    assert list(result) == list(states[0])
    for key, leaf in result.items():
        assert (leaf.shape, leaf.dtype) == (states[0][key].shape, states[0][key].dtype)
        assert not leaf.requires_grad
        assert torch.isfinite(leaf).all()


def test_members_are_left_as_they_were(merge):
    states = [member(seed) for seed in range(3)]
    before = copy.deepcopy(states)
    merge(states)
    assert all(same(now, then) for now, then in zip(states, before, strict=True))


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_result_owns_its_memory(merge, count, dtype):
    states = [member(seed, dtype) for seed in range(count)]
    theirs = {leaf.untyped_storage().data_ptr() for state in states for leaf in state.values()}
    mine = {leaf.untyped_storage().data_ptr() for leaf in merge(states).values() if leaf.numel()}
    assert not mine & theirs


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_identical_members_come_back_bit_for_bit(merge, dtype, count):
    assert same(merge([member(0, dtype) for _ in range(count)]), member(0, dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex64])
def test_the_order_of_members_does_not_matter(merge, dtype):
    states = [member(seed, dtype) for seed in range(4)]
    forward, backward = merge(states), merge(states[::-1])
    for key, leaf in forward.items():
        torch.testing.assert_close(leaf, backward[key])


def test_integers_and_booleans_are_a_members_own(merge):
    states = [member(seed) for seed in range(3)]
    for state in states[1:]:
        state["norm.num_batches_tracked"] = torch.tensor(5)
    result = merge(states)
    assert result["norm.num_batches_tracked"].item() in (2, 5)
    assert result["norm.num_batches_tracked"].shape == ()
    assert torch.equal(result["mask"], states[0]["mask"])


def test_tied_weights_stay_tied(merge):
    result = merge([member(seed) for seed in range(3)])
    assert result["z.weight"].data_ptr() == result["a.weight"].data_ptr()
    assert result["z.weight"].data_ptr() != result["scalar"].data_ptr()


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_bad_leaf_is_named(merge, bad):
    states = [member(seed) for seed in range(3)]
    states[1]["scalar"] = torch.tensor(bad)
    with pytest.raises(NonFiniteError, match="'scalar' holds NaN or infinity in #1"):
        merge(states)


def test_members_that_do_not_match_are_refused(merge):
    states = [member(seed) for seed in range(3)]
    del states[2]["mask"]
    states[1]["scalar"] = torch.zeros(1)
    with pytest.raises(StateMismatchError) as caught:
        merge(states)
    assert caught.value.differences == (
        "'scalar' is () in #0, #2 and (1,) in #1",
        "'mask' is missing in #2",
    )


def test_no_members_is_an_expected_error(merge):
    with pytest.raises(EmptyError, match="at least one member"):
        merge([])
