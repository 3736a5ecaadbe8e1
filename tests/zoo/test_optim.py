"""Stacked optimisers: every member takes exactly the steps torch.optim would take for it alone."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from zoo.config import SGD, Adam, AdamW
from zoo.optim import Optimiser

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


def reference(setting, row, member, seed=0, steps=range(STEPS), shape=None):
    """Yield the weights of one member after each step of torch.optim."""
    weight = torch.nn.Parameter(row.clone())
    options = setting.model_dump(exclude={"name"})
    optimiser = TORCH[setting.name]([weight], foreach=False, **options)
    members, width = shape
    for step in steps:
        every = torch.zeros(members, width, dtype=row.dtype)
        every[member] = weight.detach()
        weight.grad = gradients(every, step, seed)[member]
        optimiser.step()
        yield weight.detach().clone()


def agrees(settings, width, dtype, seed=0):
    """Compare a stack, step by step, with torch.optim on each member."""
    flat = start(len(settings), width, dtype, seed)
    solos = [
        reference(setting, flat[k], k, seed, shape=flat.shape) for k, setting in enumerate(settings)
    ]
    stacked = Optimiser(settings, flat)
    for step, expected in enumerate(zip(*solos, strict=True)):
        stacked.update(flat, gradients(flat, step, seed))
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


@pytest.mark.parametrize("name", GRIDS)
def test_a_member_takes_the_very_steps_of_torchs_fused_optimiser(name):
    # Equal settings share a call, different ones have their own.
    settings = [*GRIDS[name], *GRIDS[name]]
    flat = start(len(settings), 11, torch.float32)
    weights = [torch.nn.Parameter(row.clone()) for row in flat]
    solos = [
        TORCH[name]([weight], fused=True, **setting.model_dump(exclude={"name"}))
        for weight, setting in zip(weights, settings, strict=True)
    ]
    stacked = Optimiser(settings, flat)
    for step in range(STEPS):
        gradient = gradients(flat, step)
        for weight, row, solo in zip(weights, gradient, solos, strict=True):
            weight.grad = row.clone()
            solo.step()
        stacked.update(flat, gradient)
        assert torch.equal(flat, torch.stack([weight.detach() for weight in weights]))


def test_a_network_wider_than_the_real_block_agrees_with_torch():
    width = 2 * 65_536 + 5
    flat = start(2, width, torch.float32)
    settings = [Adam(lr=0.01), Adam(lr=0.001, weight_decay=0.1)]
    solos = [
        reference(setting, flat[k], k, steps=range(3), shape=flat.shape)
        for k, setting in enumerate(settings)
    ]
    stacked = Optimiser(settings, flat)
    for step, expected in enumerate(zip(*solos, strict=True)):
        stacked.update(flat, gradients(flat, step))
        torch.testing.assert_close(flat, torch.stack(expected), rtol=3e-4, atol=3e-5)


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
    stacked = Optimiser(chosen, flat)
    for step in range(steps):
        stacked.update(flat, gradients(flat, step))
    return flat, stacked


@pytest.mark.parametrize("name", GRIDS)
def test_an_assigned_member_starts_anew_with_its_own_settings_and_the_others_go_on(name):
    flat, stacked = trained(name)
    others, untouched = trained(name)
    fresh, new = start(1, 4, torch.float64, seed=9), GRIDS[name][4]
    alone_flat, alone = fresh.clone(), Optimiser([new], fresh)
    flat[1] = fresh[0]
    stacked.assign(1, new)
    for step in range(5, 10):
        gradient, other_gradient = gradients(flat, step), gradients(others, step)
        alone.update(alone_flat, gradient[1:2].clone())
        stacked.update(flat, gradient)
        untouched.update(others, other_gradient)
        torch.testing.assert_close(flat[1], alone_flat[0], rtol=1e-12, atol=0)
        assert torch.equal(flat[[0, 2]], others[[0, 2]])


@pytest.mark.parametrize("name", GRIDS)
def test_an_assigned_member_forgets_even_infinite_state(name):
    chosen = GRIDS[name][:2]
    flat = start(2, 4, torch.float64)
    stacked = Optimiser(chosen, flat)
    stacked.update(flat, torch.tensor([[torch.inf, torch.nan, 1.0, 1.0], [1.0] * 4]).double())
    flat[0] = 1.0
    stacked.assign(0, chosen[0])
    stacked.update(flat, torch.ones(2, 4, dtype=torch.float64))
    assert flat.isfinite().all()


@pytest.mark.parametrize("name", GRIDS)
def test_members_taken_keep_their_own_state_and_settings_in_the_new_order(name):
    flat, stacked = trained(name)
    everyone, whole = trained(name)
    flat = flat[[2, 0]].clone()
    stacked.take([2, 0])
    for step in range(5, 10):
        gradient = gradients(everyone, step)
        stacked.update(flat, gradient[[2, 0]].clone())
        whole.update(everyone, gradient)
        torch.testing.assert_close(flat, everyone[[2, 0]], rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", GRIDS)
def test_a_member_that_becomes_nan_leaves_the_others_bit_identical(name):
    flat, stacked = trained(name)
    others, untouched = trained(name)
    flat[1] = torch.nan
    for step in range(5, 8):
        gradient, clean = gradients(flat, step), gradients(others, step)
        stacked.update(flat, gradient)
        untouched.update(others, clean)
    assert torch.equal(flat[[0, 2]], others[[0, 2]])
    assert flat[1].isnan().all()
