"""Schedules: the factors of torch.optim.lr_scheduler, where the conventions agree."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.optim import lr_scheduler

from zoo.schedules import factor
from zoo.sections import ScheduleConfig

EPOCHS, STEPS = 12, 5


def ours(schedule, epochs=EPOCHS, steps=STEPS):
    """Return the factors of every step of a training."""
    return [
        factor(schedule, epoch + step / steps, epochs, [], 1 / steps)
        for epoch in range(epochs)
        for step in range(steps)
    ]


def theirs(make, count):
    """Return the learning rates of a scheduler that is asked after every step."""
    optimiser = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler, told = make(optimiser), []
    for _ in range(count):
        told.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        scheduler.step()
    return told


def test_a_constant_learning_rate_stays():
    assert set(ours(ScheduleConfig())) == {1.0}


@pytest.mark.parametrize("final", [0.0, 0.25])
def test_cosine_is_torchs(final):
    count = EPOCHS * STEPS
    expected = theirs(lambda o: lr_scheduler.CosineAnnealingLR(o, count, eta_min=final), count)
    assert ours(ScheduleConfig(name="cosine", final=final)) == pytest.approx(expected)


@pytest.mark.parametrize("every", [1, 3, 20])
def test_step_is_torchs(every):
    # With one step per epoch, there are no fractions of epochs that rounding could misplace.
    expected = theirs(lambda o: lr_scheduler.StepLR(o, every, gamma=0.5), EPOCHS)
    schedule = ScheduleConfig(name="step", every=every, factor=0.5)
    assert ours(schedule, steps=1) == pytest.approx(expected)


@settings(max_examples=100, deadline=None)
@given(epochs=st.integers(1, 300), steps=st.integers(1, 400), every=st.integers(1, 30))
def test_step_falls_at_the_first_step_of_an_epoch(epochs, steps, every):
    schedule = ScheduleConfig(name="step", every=every, factor=0.5)
    for epoch in (epochs - 1, epochs - 1 + (steps - 1) / steps):
        expected = 0.5 ** ((epochs - 1) // every)
        assert factor(schedule, epoch, epochs, [], 1 / steps) == expected


@pytest.mark.parametrize("rise", [0.25, 0.5])
def test_one_cycle_is_torchs(rise):
    # Torch counts its last step as the end of the cycle, and the top as the step before ``rise``.
    count = EPOCHS * STEPS
    expected = theirs(
        lambda o: lr_scheduler.OneCycleLR(
            o,
            max_lr=1.0,
            total_steps=count + 1,
            pct_start=(rise * count + 1) / (count + 1),
            div_factor=25.0,
            final_div_factor=4.0,
            cycle_momentum=False,
        ),
        count,
    )
    got = ours(ScheduleConfig(name="one-cycle", rise=rise, start=0.04, final=0.01))
    assert got == pytest.approx(expected)


def test_warm_up_is_torchs_linear_one_and_hands_over_to_what_is_left():
    steps = 2 * STEPS
    expected = theirs(
        lambda o: lr_scheduler.LinearLR(o, 1 / steps, 1.0, total_iters=steps - 1), steps
    )
    got = ours(ScheduleConfig(name="cosine", warmup=2.0))
    assert got[:steps] == pytest.approx(expected)
    # Then the cosine of a training that is two epochs shorter.
    assert got[steps:] == pytest.approx(ours(ScheduleConfig(name="cosine"), epochs=EPOCHS - 2))


@pytest.mark.parametrize("name", ["constant", "cosine", "step", "one-cycle", "plateau"])
def test_a_warm_up_longer_than_training_only_rises(name):
    got = ours(ScheduleConfig(name=name, warmup=50.0))
    assert got == sorted(got)
    assert got[0] == pytest.approx(1 / STEPS / 50)
    assert got[-1] == pytest.approx(EPOCHS / 50)


@settings(max_examples=100, deadline=None)
@given(
    schedule=st.builds(
        ScheduleConfig,
        name=st.sampled_from(["constant", "cosine", "step", "one-cycle", "plateau"]),
        warmup=st.floats(0, 20),
        final=st.floats(0, 0.9),
        every=st.integers(1, 5),
        rise=st.floats(0.01, 0.99),
        start=st.floats(0.01, 0.99),
    ),
    epochs=st.integers(1, 15),
    steps=st.integers(1, 7),
)
def test_a_factor_is_never_negative_nor_more_than_one_and_warm_up_never_takes_no_step(
    schedule, epochs, steps
):
    got = ours(schedule, epochs, steps)
    assert all(0 <= value <= 1 for value in got)
    assert got[0] > 0


# Plateau

PLATEAU = ScheduleConfig(name="plateau", patience=2, factor=0.5)


@pytest.mark.parametrize(
    ("losses", "falls"),
    [
        ([], 0),
        ([3.0], 0),
        ([3.0, 3.0], 0),
        ([3.0, 3.0, 3.0], 1),
        ([3.0, 4.0, 2.0, 4.0], 0),
        ([3.0, 4.0, 4.0, 2.0, 4.0, 4.0], 2),
        ([3.0, 4.0, 4.0, 3.5, 3.5], 2),  # after a fall, the lowest is still the one to beat
        ([math.nan, math.nan], 1),
        ([3.0, math.nan, math.nan, 1.0], 1),
    ],
)
def test_plateau_falls_after_every_patience_epochs_without_a_lower_loss(losses, falls):
    assert factor(PLATEAU, float(len(losses)), 99, losses) == 0.5**falls


@settings(max_examples=60, deadline=None)
@given(
    losses=st.lists(st.sampled_from([0.0, 1.0, 2.0, 3.0]), max_size=20), patience=st.integers(1, 4)
)
def test_plateau_is_torchs_whose_patience_is_one_less(losses, patience):
    optimiser = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = lr_scheduler.ReduceLROnPlateau(
        optimiser, factor=0.5, patience=patience - 1, threshold=0.0, eps=0.0
    )
    for loss in losses:
        scheduler.step(loss)
    schedule = ScheduleConfig(name="plateau", patience=patience, factor=0.5)
    got = factor(schedule, float(len(losses)), 99, losses)
    assert got == optimiser.param_groups[0]["lr"]
