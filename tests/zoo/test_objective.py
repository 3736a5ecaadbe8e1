"""Losses: PyTorch's own, with what each member may set for itself."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812  # its name everywhere
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score, mean_squared_error
from stacks import CLOSE, ENGINES, prepared

from zoo.data.fitting import fit
from zoo.data.targets import Target
from zoo.objective import (
    balance,
    binary_cross_entropy,
    cross_entropy,
    objective,
    squared_error,
)
from zoo.stack import flat, stack
from zoo.units import Units


def drawn(rows, classes, seed):
    noise = torch.Generator().manual_seed(seed)
    logits_NC = torch.randn(rows, classes, generator=noise, dtype=torch.float64) * 3
    return logits_NC, torch.randint(0, classes, (rows,), generator=noise)


def soft(y_N, classes, smoothing, mix):
    """Return targets (N, C) as their definitions say."""
    hot_NC = F.one_hot(y_N, classes).double()
    mixed_NC = mix * hot_NC + (1 - mix) * hot_NC.flip(0)
    return (1 - smoothing) * mixed_NC + smoothing / classes


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 7),
    classes=st.integers(2, 5),
    smoothing=st.floats(0, 0.99),
    seed=st.integers(0, 99),
)
def test_label_smoothing_is_torchs(rows, classes, smoothing, seed):
    logits_NC, y_N = drawn(rows, classes, seed)
    expected = F.cross_entropy(logits_NC, y_N, label_smoothing=smoothing)
    got = cross_entropy(logits_NC, y_N, smoothing=torch.tensor(smoothing, dtype=torch.float64))
    torch.testing.assert_close(got, expected)


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 7),
    classes=st.integers(2, 5),
    smoothing=st.floats(0, 0.99),
    mix=st.floats(0, 1),
    seed=st.integers(0, 99),
)
def test_mixed_and_smoothed_targets_are_torchs_soft_targets(rows, classes, smoothing, mix, seed):
    logits_NC, y_N = drawn(rows, classes, seed)
    logits_NC.requires_grad_()
    expected = F.cross_entropy(logits_NC, soft(y_N, classes, smoothing, mix))
    knobs = {"smoothing": smoothing, "mix": mix}
    knobs = {name: torch.tensor(value, dtype=torch.float64) for name, value in knobs.items()}
    got = cross_entropy(logits_NC, y_N, mate_N=y_N.flip(0), **knobs)
    torch.testing.assert_close(got, expected)
    [theirs] = torch.autograd.grad(expected, logits_NC)
    [ours] = torch.autograd.grad(got, logits_NC)
    torch.testing.assert_close(ours, theirs)


def test_without_smoothing_and_mixing_it_is_the_plain_cross_entropy():
    logits_NC, y_N = drawn(6, 3, 0)
    nothing, whole = torch.tensor(0.0), torch.tensor(1.0)
    expected = F.cross_entropy(logits_NC, y_N)
    mixed = {"mix": whole, "mate_N": y_N.flip(0)}
    for knobs in ({}, {"smoothing": nothing}, mixed, {"smoothing": nothing, **mixed}):
        torch.testing.assert_close(cross_entropy(logits_NC, y_N, **knobs), expected)


def test_mixed_squared_errors_have_the_gradient_of_the_mixed_target():
    # The loss differs from that of the mixed target by what does not depend on the outputs.
    noise = torch.Generator().manual_seed(0)
    outputs_N1 = torch.randn(5, 1, generator=noise).requires_grad_()
    y_N, mix = torch.randn(5, generator=noise), torch.tensor(0.3)
    expected = F.mse_loss(outputs_N1[:, 0], mix * y_N + (1 - mix) * y_N.flip(0))
    got = squared_error(outputs_N1, y_N, mix=mix, mate_N=y_N.flip(0))
    [theirs] = torch.autograd.grad(expected, outputs_N1)
    [ours] = torch.autograd.grad(got, outputs_N1)
    torch.testing.assert_close(ours, theirs)
    parts = F.mse_loss(outputs_N1[:, 0], y_N), F.mse_loss(outputs_N1[:, 0], y_N.flip(0))
    torch.testing.assert_close(got, 0.3 * parts[0] + 0.7 * parts[1])


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("case", ["mlp", "mlp batch norm", "cnn", "regression"])
def test_each_member_of_an_engine_has_its_own_share_of_smoothing_and_mixing(case, engine):
    modules, x_KN, y_KN, task = prepared(case)
    made = engine(modules[0], objective(task))
    knobs = {"mix": torch.tensor([1.0, 0.25, 0.5])}
    if task == "classification":
        knobs["smoothing"] = torch.tensor([0.0, 0.1, 0.75])
    seed_K = torch.arange(3)
    with torch.no_grad():
        # First without, so that a program recorded for others is not taken for this one.
        plain_K, _, _ = made.step(stack(modules), x_KN, y_KN, seed_K, {})
        mates = {"mate_N": y_KN.flip(1)}
        loss_K, score_K, gradient_KP = made.step(stack(modules), x_KN, y_KN, seed_K, knobs | mates)
        swapped = {name: value_K.flip(0) for name, value_K in knobs.items()}
        swapped_K, _, _ = made.step(stack(modules), x_KN, y_KN, seed_K, swapped | mates)
    torch.testing.assert_close(loss_K[0], plain_K[0], **CLOSE)
    torch.testing.assert_close(swapped_K[1], loss_K[1], **CLOSE)
    for k, module in enumerate(modules):
        outputs_NC = module.train()(x_KN[k])
        if task == "classification":
            targets = soft(y_KN[k], 3, knobs["smoothing"][k], knobs["mix"][k]).float()
            expected = F.cross_entropy(outputs_NC, targets)
            score = (outputs_NC.argmax(1) == y_KN[k]).float().mean()
        else:
            share, score = knobs["mix"][k], F.mse_loss(outputs_NC[:, 0], y_KN[k])
            other = F.mse_loss(outputs_NC[:, 0], y_KN[k].flip(0))
            expected = share * score + (1 - share) * other
        ordered = sorted(module.parameters(), key=lambda parameter: parameter.ndim < 2)
        gradients = torch.autograd.grad(expected, ordered)
        torch.testing.assert_close(loss_K[k], expected, **CLOSE)
        torch.testing.assert_close(score_K[k], score, **CLOSE)
        flat_P = flat(gradients)
        torch.testing.assert_close(gradient_KP[k], flat_P, **CLOSE)


# Labels, several targets, weights of classes


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 7),
    labels=st.integers(1, 4),
    smoothing=st.floats(0, 0.99),
    mix=st.floats(0, 1),
    seed=st.integers(0, 99),
    weighted=st.booleans(),
)
def test_the_loss_of_labels_is_torchs(rows, labels, smoothing, mix, seed, weighted):
    noise = torch.Generator().manual_seed(seed)
    logits_NC = torch.randn(rows, labels, generator=noise, dtype=torch.float64) * 30
    logits_NC.requires_grad_()
    y_NC = torch.randint(0, 2, (rows, labels), generator=noise).double()
    weight_C = torch.rand(labels, generator=noise, dtype=torch.float64) * 9 if weighted else None
    soft_NC = (1 - smoothing) * (mix * y_NC + (1 - mix) * y_NC.flip(0)) + smoothing / 2
    expected = F.binary_cross_entropy_with_logits(logits_NC, soft_NC, pos_weight=weight_C)
    knobs = {"smoothing": smoothing, "mix": mix}
    knobs = {name: torch.tensor(value, dtype=torch.float64) for name, value in knobs.items()}
    got = binary_cross_entropy(logits_NC, y_NC, mate_N=y_NC.flip(0), weight_C=weight_C, **knobs)
    torch.testing.assert_close(got, expected)
    [theirs] = torch.autograd.grad(expected, logits_NC)
    [ours] = torch.autograd.grad(got, logits_NC)
    torch.testing.assert_close(ours, theirs)


@settings(max_examples=60, deadline=None)
@given(
    classes=st.integers(2, 5),
    smoothing=st.floats(0, 0.99),
    mix=st.floats(0, 1),
    seed=st.integers(0, 99),
)
def test_weights_of_classes_are_torchs_in_the_mean_over_rows(classes, smoothing, mix, seed):
    logits_NC, y_N = drawn(6, classes, seed)
    weight_C = torch.rand(classes, dtype=torch.float64) * 5
    targets_NC = soft(y_N, classes, smoothing, mix)
    expected = F.cross_entropy(logits_NC, targets_NC, weight=weight_C, reduction="none").mean()
    knobs = {"smoothing": smoothing, "mix": mix}
    knobs = {name: torch.tensor(value, dtype=torch.float64) for name, value in knobs.items()}
    got = cross_entropy(logits_NC, y_N, mate_N=y_N.flip(0), weight_C=weight_C, **knobs)
    torch.testing.assert_close(got, expected)


def test_no_logit_is_so_large_that_the_loss_of_labels_is_infinite():
    logits_NC = torch.tensor([[1e30, -1e30]])
    right, wrong = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    assert binary_cross_entropy(logits_NC, right) == 0
    assert binary_cross_entropy(logits_NC, wrong) == pytest.approx(1e30)


def test_balanced_accuracy_is_a_mean_of_rows_and_scikit_learns():
    logits_NC, y_N = drawn(50, 4, 0)
    y_N[:30] = 0
    extra = objective("classification", balance_C=balance(torch.bincount(y_N))).extra
    expected = balanced_accuracy_score(y_N, logits_NC.argmax(1))
    assert float(extra(logits_NC, y_N)) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("transform", ["none", "log1p", "yeo-johnson"])
@pytest.mark.parametrize("targets", [1, 2])
def test_the_score_is_of_the_users_unit_also_where_that_is_not_linear(transform, targets):
    values = np.random.default_rng(0).lognormal(2, 1, (80, targets)) * [1.0, 500.0][:targets]
    column = values[:, 0] if targets == 1 else values
    target = Target(("a", "b")[:targets], "regression", column, (), "")
    told, y, _ = fit(target, np.arange(60), transform)
    aim = objective("regression", Units(told["units"]))
    outputs_NT = torch.randn(80, targets, generator=torch.Generator().manual_seed(1))
    predicted = Units(told["units"]).restore(outputs_NT).numpy()
    expected = math.sqrt(mean_squared_error(values, predicted))
    whole = float(aim.report(aim.score(outputs_NT, y)))
    assert whole == pytest.approx(expected, rel=1e-4)
    parts = [aim.score(outputs_NT[:30], y[:30]), aim.score(outputs_NT[30:], y[30:])]
    assert float(aim.report((30 * parts[0] + 50 * parts[1]) / 80)) == pytest.approx(
        expected, rel=1e-4
    )
    loss = mean_squared_error(y.reshape(80, -1), outputs_NT)
    assert float(aim.loss(outputs_NT, y)) == pytest.approx(loss, rel=1e-5)
