"""Units: scikit-learn's transforms, and a way back that is exact and never runs away."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.preprocessing import PowerTransformer

from zoo.data.fitting import fit
from zoo.data.targets import Target
from zoo.errors import DataError
from zoo.units import Units, transformed

ROWS = np.arange(200)


def heavy(seed=0, shift=0.0):
    return np.random.default_rng(seed).lognormal(3, 1.3, 200) + shift


def fitted(values, transform):
    target = Target(("price",), "regression", values, (), "")
    told, y, notes = fit(target, ROWS, transform)
    return json.loads(json.dumps(told)), y, notes


@pytest.mark.parametrize("shift", [-5.0, -20.0])
def test_yeo_johnson_and_its_inverse_are_those_of_scikit_learn(shift):
    values = heavy(shift=shift)
    told, y, _ = fitted(values, "yeo-johnson")
    theirs = PowerTransformer("yeo-johnson").fit(values[:, None])
    assert told["units"]["powers"] == pytest.approx(theirs.lambdas_)
    assert 0 < theirs.lambdas_[0] < 1
    np.testing.assert_allclose(y, theirs.transform(values[:, None])[:, 0], rtol=1e-5, atol=1e-6)
    units = Units(told["units"])
    points = torch.linspace(-1.5, 2, 50, dtype=torch.float64)
    expected = theirs.inverse_transform(points[:, None].numpy())[:, 0]
    np.testing.assert_allclose(units.restore(points), expected, rtol=1e-9)


@settings(max_examples=100, deadline=None)
@given(
    values=st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=9),
    power=st.sampled_from([0.0, 1e-12, 0.3, 1.0, 1.9, 2.0]),
)
def test_the_way_there_and_back_is_exact(values, power):
    told = {"transform": "yeo-johnson", "offsets": [0.5], "scales": [3.0], "powers": [power]}
    units = Units(told | {"lows": [0.0], "highs": [0.0]})
    x = torch.tensor(values, dtype=torch.float64)
    back = units.restore(units.standardise(x), predicted=False)
    torch.testing.assert_close(back, x, rtol=1e-6, atol=1e-6)
    order = x.argsort()
    assert (transformed(x, "yeo-johnson", units.power_T)[order].diff() >= 0).all()


@pytest.mark.parametrize("transform", ["none", "log1p", "yeo-johnson"])
def test_targets_come_back_in_the_users_unit_and_are_standard_in_training(transform):
    values = heavy()
    told, y, notes = fitted(values, transform)
    assert y.mean().item() == pytest.approx(0, abs=1e-5)
    assert y.std(correction=0).item() == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(Units(told["units"]).restore(y, predicted=False), values, rtol=1e-4)
    assert any("heavy tail" in note for note in notes) == (transform == "none")


@pytest.mark.parametrize("transform", ["log1p", "yeo-johnson"])
def test_predictions_stay_near_the_training_targets_where_the_way_back_is_steep(transform):
    values = heavy()
    units = Units(fitted(values, transform)[0]["units"])
    low, high = units.restore(torch.tensor([-1e30, 1e30]))
    assert values.min() - values.std() < low < values.min()
    assert values.max() < high < 20 * values.max()
    linear = Units(fitted(values, "none")[0]["units"])
    assert linear.restore(torch.tensor([1e30])) > 1e30


EXTREME = {
    "large": [1e100] * 3 + list(range(197)),
    "low": [-1e100, *range(199)],
    "left": 1e100 * np.random.default_rng(0).beta(9, 1, 200),
}


@pytest.mark.parametrize("case", EXTREME)
def test_extreme_values_have_a_finite_transform(case):
    told, y, _ = fitted(np.array(EXTREME[case], dtype=np.float64), "yeo-johnson")
    assert y.isfinite().all()
    assert 0 <= told["units"]["powers"][0] <= 2
    assert np.isfinite(Units(told["units"]).spread)


def test_values_without_a_logarithm_are_refused():
    with pytest.raises(DataError, match=r"above -1, however target 'price' has -1; yeo-johnson"):
        fitted(np.array([-1.0, *range(199)]), "log1p")


def test_a_suggestion_suits_the_values():
    assert "target_transform=log1p" in fitted(heavy(), "none")[2][0]
    assert "target_transform=yeo-johnson" in fitted(-heavy(), "none")[2][0]
    assert not fitted(np.linspace(0, 1, 200), "none")[2]
