"""What every method that merges weights promises, asked of each one in the catalogue."""

import copy

import pytest
import torch

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


def least(states):
    """Give a base that does not depend on the members' order, and is theirs if they are equal."""
    base = dict(states[0]) if states else {}
    for key, leaf in base.items():
        leaves = [state[key] for state in states if key in state and leaf.shape == state[key].shape]
        if floats(leaf):
            values = torch.stack([bits(leaf) for leaf in leaves]).amin(0)
            base[key] = torch.view_as_complex(values) if leaf.is_complex() else values
    return base


def smooth(state):
    """Give a loss that every leaf has a say in."""
    parts = [bits(leaf) for leaf in state.values() if floats(leaf)]
    return sum((leaf.double() - 0.1).square().sum() for leaf in parts)


def known(state):
    """Give the information of all leaves but one."""
    return {
        key: leaf.abs().double().square()
        for key, leaf in state.items()
        if floats(leaf) and key != "t"
    }


def seen(state):
    """Give the Gram matrix of a layer, of less than full rank."""
    rows = bits(state["z.weight"])[:2].reshape(2, -1)[:, :3].double()
    return {} if state["z.weight"].is_complex() else {"z.weight": rows.T @ rows}


SUPPLIES = {
    "weights": lambda states: [size(state) for state in states],
    "score": lambda states: lambda state: -size(state),
    "base": least,
    "loss": lambda states: smooth,
    "fisher": lambda states: [known(state) for state in states],
    "grams": lambda states: [seen(state) for state in states],
}
PAIRS = {"lerp", "slerp"}  # these take two members


def several(merge, count, dtype=torch.float32):
    """Give members that differ; no more than two, where a method takes no more."""
    return [member(seed, dtype) for seed in range(min(count, 2) if merge.pair else count)]


@pytest.fixture(params=methods("weights"), ids=lambda method: method.name)
def merge(request):
    """Call a method with all it needs and its default options."""
    method = request.param

    def call(states):
        needs = {name: SUPPLIES[name](states) for name in method.needs}
        return method.function(states, **needs, **method.bind({}))

    call.pair = method.name in PAIRS
    call.ordered = method.ordered
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


def floats(leaf):
    return leaf.is_floating_point() or leaf.is_complex()


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
    states = several(merge, 3, dtype)
    result = merge(states)
    assert list(result) == list(states[0])
    for key, leaf in result.items():
        assert (leaf.shape, leaf.dtype) == (states[0][key].shape, states[0][key].dtype)
        assert not leaf.requires_grad
        assert torch.isfinite(leaf).all()


def test_members_are_left_as_they_were(merge):
    states = several(merge, 3)
    before = copy.deepcopy(states)
    merge(states)
    assert all(same(now, then) for now, then in zip(states, before, strict=True))


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_result_owns_its_memory(merge, count, dtype):
    states = several(merge, count, dtype)
    theirs = {leaf.untyped_storage().data_ptr() for state in states for leaf in state.values()}
    mine = {leaf.untyped_storage().data_ptr() for leaf in merge(states).values() if leaf.numel()}
    assert not mine & theirs


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_identical_members_come_back_bit_for_bit(merge, dtype, count):
    states = [member(0, dtype) for _ in several(merge, count)]
    assert same(merge(states), member(0, dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex64])
def test_the_order_of_members_does_not_matter_unless_the_method_says_so(merge, dtype):
    if merge.ordered:
        return
    states = several(merge, 4, dtype)
    forward, backward = merge(states), merge(states[::-1])
    for key, leaf in forward.items():
        torch.testing.assert_close(leaf, backward[key])


def test_integers_and_booleans_are_a_members_own(merge):
    states = several(merge, 3)
    for state in states[1:]:
        state["norm.num_batches_tracked"] = torch.tensor(5)
    result = merge(states)
    assert result["norm.num_batches_tracked"].item() in (2, 5)
    assert result["norm.num_batches_tracked"].shape == ()
    assert torch.equal(result["mask"], states[0]["mask"])


def test_tied_weights_stay_tied(merge):
    result = merge(several(merge, 3))
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
