"""Stacked optimisers: every member takes exactly the steps torch.optim would take for it alone.

The exact comparisons are over whole cache lines, as the rows of a stack are: the end of a vector is
computed apart, and its last bit may differ.
"""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from zoo.optim import Optimiser
from zoo.sections import SGD, Adam, AdamW
from zoo.stack import LINE

TORCH = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
STEPS = 25
TOLERANCE = {
    torch.float64: {"rtol": 1e-7, "atol": 1e-9},
    torch.float32: {"rtol": 3e-4, "atol": 3e-6},
}


def gradients(flat, step, seed=0):
    """Return a gradient (K, P) of a noisy quadratic bowl: its noise depends on the step."""
    noise = torch.Generator().manual_seed(1_000 * seed + step)
    push = torch.randn(flat.shape, generator=noise, dtype=torch.float64)
    return (flat.double() * 0.5 + push).to(flat.dtype)


def start(members, width, dtype, seed=0):
    noise = torch.Generator().manual_seed(seed)
    return torch.randn(members, width, generator=noise, dtype=torch.float64).to(dtype)


class Solo:
    """torch.optim for one member: weights and the rest in two groups, as users write them."""

    def __init__(self, setting, row, weights, **options):
        self.parts = [torch.nn.Parameter(part.clone()) for part in row.tensor_split([weights])]
        settings = setting.model_dump(exclude={"name", "decay"})
        rest = settings["weight_decay"] if setting.decay == "all" else 0.0
        groups = [{"params": self.parts[:1]}, {"params": self.parts[1:], "weight_decay": rest}]
        self.optimiser = TORCH[setting.name](groups, **settings, **options)

    def step(self, gradient, factor=1.0):
        """Take one step at the learning rate times ``factor``; return the new row."""
        usual = [group["lr"] for group in self.optimiser.param_groups]
        for group in self.optimiser.param_groups:
            group["lr"] *= factor
        for part, own in zip(
            self.parts, gradient.split([p.numel() for p in self.parts]), strict=True
        ):
            part.grad = own.clone()
        self.optimiser.step()
        for group, lr in zip(self.optimiser.param_groups, usual, strict=True):
            group["lr"] = lr
        return torch.cat([part.detach() for part in self.parts])


def agrees(settings, width, dtype, seed=0, steps=STEPS):
    """Compare a stack, step by step, with torch.optim's plain formulas on each member."""
    flat = start(len(settings), width, dtype, seed)
    weights = width // 2
    solos = [Solo(s, row, weights, foreach=False) for s, row in zip(settings, flat, strict=True)]
    stacked = Optimiser(settings, flat, weights)
    for step in range(steps):
        gradient = gradients(flat, step, seed)
        expected = [solo.step(row) for solo, row in zip(solos, gradient, strict=True)]
        stacked.update(flat, gradient, [1.0] * len(flat))
        torch.testing.assert_close(flat, torch.stack(expected), **TOLERANCE[dtype])


GRIDS = {
    "sgd": [
        SGD(lr=0.05, momentum=0.0),
        SGD(lr=0.1, momentum=0.9, nesterov=True),
        SGD(lr=0.01, momentum=0.5, weight_decay=0.1),
        SGD(lr=0.2, momentum=0.8, nesterov=True, weight_decay=0.01),
        SGD(lr=0.3, momentum=0.2),
    ],
    "adam": [
        Adam(lr=1e-3),
        Adam(lr=0.05, betas=(0.5, 0.9), eps=1e-3),
        Adam(lr=0.01, betas=(0.0, 0.99), weight_decay=0.3),
        Adam(lr=0.1, betas=(0.95, 0.3)),
        Adam(lr=0.02, betas=(0.9, 0.999), weight_decay=0.01),
    ],
    "adamw": [
        AdamW(lr=1e-3),
        AdamW(lr=0.05, betas=(0.5, 0.9), eps=1e-3, weight_decay=0.0),
        AdamW(lr=0.01, betas=(0.0, 0.99), weight_decay=0.3),
        AdamW(lr=0.1, betas=(0.95, 0.3), weight_decay=1.0),
        AdamW(lr=0.02),
    ],
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("name", GRIDS)
def test_members_with_different_settings_agree_with_torch_step_by_step(name, dtype):
    agrees(GRIDS[name], 7, dtype)


@pytest.mark.parametrize("decay", ["weights", "all"])
@pytest.mark.parametrize("name", GRIDS)
def test_a_member_takes_the_very_steps_of_torchs_fused_optimiser(name, decay):
    # Equal settings share a call, different ones have their own.
    settings = [setting.model_copy(update={"decay": decay}) for setting in GRIDS[name] * 2]
    flat = start(len(settings), 3 * LINE, torch.float32)
    solos = [
        Solo(setting, row, 2 * LINE, fused=True)
        for setting, row in zip(settings, flat, strict=True)
    ]
    stacked = Optimiser(settings, flat, 2 * LINE)
    for step in range(STEPS):
        gradient = gradients(flat, step)
        expected = [solo.step(row) for solo, row in zip(solos, gradient, strict=True)]
        stacked.update(flat, gradient, [1.0] * len(flat))
        assert torch.equal(flat, torch.stack(expected))


@pytest.mark.parametrize("name", GRIDS)
def test_the_bits_do_not_depend_on_who_shares_a_call(name):
    # One call passes over neighbours together, and no vector reaches from one into the next.
    setting, other = GRIDS[name][0], GRIDS[name][1]
    crowd = [setting] * 3 + [other] + [setting] * 2
    flat = start(len(crowd), 3 * LINE, torch.float32)
    alone = flat.clone()
    together, ones = Optimiser(crowd, flat, 40), [Optimiser([s], flat[:1], 40) for s in crowd]
    for step in range(STEPS):
        if step == 3:  # a refilled slot counts its steps anew
            together.assign(1, setting)
            ones[1].assign(0, setting)
        gradient = gradients(flat, step)
        together.update(flat, gradient, [1.0] * len(crowd))
        for k, one in enumerate(ones):
            one.update(alone[k : k + 1], gradient[k : k + 1], [1.0])
        assert torch.equal(flat, alone)


@pytest.mark.parametrize("weights", [0, LINE])
@pytest.mark.parametrize("name", GRIDS)
def test_rows_may_be_weights_only_or_have_none(name, weights):
    flat = start(5, LINE, torch.float32)
    solos = [Solo(s, row, weights, fused=True) for s, row in zip(GRIDS[name], flat, strict=True)]
    stacked = Optimiser(GRIDS[name], flat, weights)
    for step in range(3):
        gradient = gradients(flat, step)
        expected = [solo.step(row) for solo, row in zip(solos, gradient, strict=True)]
        stacked.update(flat, gradient, [1.0] * len(flat))
        assert torch.equal(flat, torch.stack(expected))


@pytest.mark.parametrize("name", GRIDS)
def test_each_members_learning_rate_is_multiplied_by_its_own_factor(name):
    settings = [GRIDS[name][3]] * 4
    flat = start(4, 2 * LINE, torch.float32)
    solos = [
        Solo(setting, row, LINE, fused=True) for setting, row in zip(settings, flat, strict=True)
    ]
    stacked = Optimiser(settings, flat, LINE)
    for step in range(STEPS):
        gradient = gradients(flat, step)
        factors = [1.0, 0.5, 0.5, 0.9**step]
        expected = [
            solo.step(row, factor)
            for solo, row, factor in zip(solos, gradient, factors, strict=True)
        ]
        stacked.update(flat, gradient, factors)
        assert torch.equal(flat, torch.stack(expected))


@pytest.mark.parametrize("name", GRIDS)
def test_members_updated_in_shares_take_the_same_steps_as_all_at_once(name):
    flat = start(5, 2 * LINE, torch.float32)
    shared = flat.clone()
    whole, parts = Optimiser(GRIDS[name], flat, LINE), Optimiser(GRIDS[name], shared, LINE)
    factors = [1.0, 0.5, 1.0, 0.25, 0.5]
    for step in range(5):
        gradient = gradients(flat, step)
        whole.update(flat, gradient, factors)
        for first, last in ((2, 5), (0, 2)):
            parts.update(shared[first:last], gradient[first:last], factors[first:last], first)
        assert torch.equal(shared, flat)
    for key, row in whole.rows().items():
        assert torch.equal(parts.rows()[key], row)


def test_a_network_wider_than_the_real_block_agrees_with_torch():
    agrees(
        [Adam(lr=0.01), Adam(lr=0.001, weight_decay=0.1)], 2 * 65_536 + 5, torch.float32, steps=3
    )


RATE = st.floats(1e-5, 0.5)
MOMENTUM = st.one_of(st.just(0.0), st.floats(0, 0.999))
DECAY = st.one_of(st.just(0.0), st.floats(0, 0.5))
EPS = st.floats(1e-10, 1e-2)
SETTINGS = {
    "sgd": st.builds(
        lambda lr, momentum, nesterov, decay: SGD(
            lr=lr, momentum=momentum, nesterov=nesterov and momentum > 0, weight_decay=decay
        ),
        RATE,
        MOMENTUM,
        st.booleans(),
        DECAY,
    ),
    "adam": st.builds(
        Adam, lr=RATE, betas=st.tuples(MOMENTUM, MOMENTUM), eps=EPS, weight_decay=DECAY
    ),
    "adamw": st.builds(
        AdamW, lr=RATE, betas=st.tuples(MOMENTUM, MOMENTUM), eps=EPS, weight_decay=DECAY
    ),
}


@settings(max_examples=25, deadline=None)
@given(data=st.data(), name=st.sampled_from(sorted(SETTINGS)), seed=st.integers(0, 9))
def test_any_settings_agree_with_torch_step_by_step(data, name, seed):
    chosen = data.draw(st.lists(SETTINGS[name], min_size=1, max_size=4))
    agrees(chosen, 3, torch.float64, seed)


def trained(name, steps=5):
    chosen = GRIDS[name][:3]
    flat = start(3, 4, torch.float64)
    stacked = Optimiser(chosen, flat, 2)
    for step in range(steps):
        stacked.update(flat, gradients(flat, step), [1.0, 1.0, 1.0])
    return flat, stacked


@pytest.mark.parametrize("name", GRIDS)
def test_an_assigned_member_starts_anew_with_its_own_settings_and_the_others_go_on(name):
    flat, stacked = trained(name)
    others, untouched = trained(name)
    fresh, new = start(1, 4, torch.float64, seed=9), GRIDS[name][4]
    alone_flat, alone = fresh.clone(), Optimiser([new], fresh, 2)
    flat[1] = fresh[0]
    stacked.assign(1, new)
    for step in range(5, 10):
        gradient, other_gradient = gradients(flat, step), gradients(others, step)
        alone.update(alone_flat, gradient[1:2].clone(), [1.0])
        stacked.update(flat, gradient, [1.0, 1.0, 1.0])
        untouched.update(others, other_gradient, [1.0, 1.0, 1.0])
        torch.testing.assert_close(flat[1], alone_flat[0], rtol=1e-12, atol=0)
        assert torch.equal(flat[[0, 2]], others[[0, 2]])


@pytest.mark.parametrize("name", GRIDS)
def test_an_assigned_member_forgets_even_infinite_state(name):
    chosen = GRIDS[name][:2]
    flat = start(2, 4, torch.float64)
    stacked = Optimiser(chosen, flat, 2)
    broken = torch.tensor([[torch.inf, torch.nan, 1.0, 1.0], [1.0] * 4]).double()
    stacked.update(flat, broken, [1.0, 1.0])
    flat[0] = 1.0
    stacked.assign(0, chosen[0])
    stacked.update(flat, torch.ones(2, 4, dtype=torch.float64), [1.0, 1.0])
    assert flat.isfinite().all()


@pytest.mark.parametrize("name", GRIDS)
def test_members_taken_keep_their_own_state_and_settings_in_the_new_order(name):
    flat, stacked = trained(name)
    everyone, whole = trained(name)
    flat = flat[[2, 0]].clone()
    stacked.take([2, 0])
    for step in range(5, 10):
        gradient = gradients(everyone, step)
        stacked.update(flat, gradient[[2, 0]].clone(), [1.0, 1.0])
        whole.update(everyone, gradient, [1.0, 1.0, 1.0])
        torch.testing.assert_close(flat, everyone[[2, 0]], rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", GRIDS)
def test_a_member_that_becomes_nan_leaves_the_others_bit_identical(name):
    flat, stacked = trained(name)
    others, untouched = trained(name)
    flat[1] = torch.nan
    for step in range(5, 8):
        gradient, clean = gradients(flat, step), gradients(others, step)
        stacked.update(flat, gradient, [1.0, 1.0, 1.0])
        untouched.update(others, clean, [1.0, 1.0, 1.0])
    assert torch.equal(flat[[0, 2]], others[[0, 2]])
    assert flat[1].isnan().all()
