"""Penalties and limits of gradients: for each member those that PyTorch has for one model."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.utils import clip_grad_norm_, clip_grad_value_

from zoo.gradient import Restraints, restrain
from zoo.sections import TrainConfig

WIDTH, WEIGHTS = 9, 6


def rows(members, seed=0):
    """Return gradients and parameters (K, P), some of them zero."""
    noise = torch.Generator().manual_seed(seed)
    gradient_KP, flat_KP = torch.randn(2, members, WIDTH, generator=noise) * 2
    flat_KP[:, ::4] = 0.0
    return gradient_KP, flat_KP


def plain(gradient, row, config):
    """Restrain one member's gradient by autograd and torch.nn.utils; return it and its norm."""
    weights = torch.nn.Parameter(row[:WEIGHTS].clone())
    others = torch.nn.Parameter(row[WEIGHTS:].clone())
    loss = (weights * gradient[:WEIGHTS]).sum() + (others * gradient[WEIGHTS:]).sum()
    loss = loss + config.l1 * weights.abs().sum() + config.l2 * weights.square().sum()
    loss.backward()
    norm = torch.cat([weights.grad, others.grad]).norm()
    if config.clip_value:
        clip_grad_value_([weights, others], config.clip_value)
    if config.clip_norm:
        clip_grad_norm_([weights, others], config.clip_norm)
    return torch.cat([weights.grad, others.grad]), norm


def restrained(gradient_KP, flat_KP, configs):
    gradient_KP = gradient_KP.clone()
    limits = Restraints.of(configs, torch.device("cpu"))
    norm_K = restrain(gradient_KP, flat_KP, WEIGHTS, limits)
    return gradient_KP, norm_K


CONFIGS = st.builds(
    TrainConfig,
    l1=st.sampled_from([0.0, 0.01, 3.0]),
    l2=st.sampled_from([0.0, 0.1, 2.0]),
    clip_norm=st.sampled_from([None, 1e-3, 1.0, 1e6]),
    clip_value=st.sampled_from([None, 1e-2, 1.0, 1e6]),
)


@settings(max_examples=150, deadline=None)
@given(configs=st.lists(CONFIGS, min_size=1, max_size=4), seed=st.integers(0, 99))
def test_each_member_is_restrained_as_pytorch_restrains_one_model(configs, seed):
    gradient_KP, flat_KP = rows(len(configs), seed)
    got_KP, norm_K = restrained(gradient_KP, flat_KP, configs)
    for k, config in enumerate(configs):
        expected, norm = plain(gradient_KP[k], flat_KP[k], config)
        torch.testing.assert_close(got_KP[k], expected)
        torch.testing.assert_close(norm_K[k], norm)


@settings(max_examples=50, deadline=None)
@given(configs=st.lists(CONFIGS, min_size=2, max_size=4))
def test_a_member_is_restrained_alike_alone_and_among_others(configs):
    gradient_KP, flat_KP = rows(len(configs))
    got_KP, norm_K = restrained(gradient_KP, flat_KP, configs)
    for k, config in enumerate(configs):
        one = slice(k, k + 1)
        alone_1P, norm_1 = restrained(gradient_KP[one], flat_KP[one], [config])
        torch.testing.assert_close(got_KP[one], alone_1P, rtol=1e-6, atol=0)
        torch.testing.assert_close(norm_K[one], norm_1, rtol=1e-6, atol=0)


def test_a_member_that_asks_for_nothing_keeps_its_gradient_to_the_last_bit():
    gradient_KP, flat_KP = rows(3)
    eager = TrainConfig(l1=1.0, l2=1.0, clip_norm=0.1, clip_value=0.1)
    got_KP, _ = restrained(gradient_KP, flat_KP, [eager, TrainConfig(), eager])
    assert torch.equal(got_KP[1], gradient_KP[1])
    assert not torch.equal(got_KP[0], gradient_KP[0])
    got_KP, norm_K = restrained(gradient_KP, flat_KP, [TrainConfig()] * 3)
    assert torch.equal(got_KP, gradient_KP)
    torch.testing.assert_close(norm_K, gradient_KP.norm(dim=1))


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_member_whose_gradient_is_not_finite_leaves_the_others_bit_identical(bad):
    config = TrainConfig(l1=0.1, l2=0.1, clip_norm=0.5, clip_value=1.0)
    gradient_KP, flat_KP = rows(3)
    expected_KP, _ = restrained(gradient_KP, flat_KP, [config] * 3)
    gradient_KP[1, 2] = bad
    got_KP, norm_K = restrained(gradient_KP, flat_KP, [config] * 3)
    assert torch.equal(got_KP[[0, 2]], expected_KP[[0, 2]])
    assert not norm_K[1].isfinite()


def test_biases_and_norms_are_not_penalised():
    _, flat_KP = rows(2)
    got_KP, _ = restrained(torch.zeros(2, WIDTH), flat_KP, [TrainConfig(l1=0.5, l2=0.25)] * 2)
    weights_KP = flat_KP[:, :WEIGHTS]
    torch.testing.assert_close(got_KP[:, :WEIGHTS], 0.5 * weights_KP.sign() + 0.5 * weights_KP)
    assert (got_KP[:, WEIGHTS:] == 0).all()
