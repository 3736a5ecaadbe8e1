"""Builders: options are checked, and a model is a function of its options and its seed."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from zoo import models
from zoo.errors import ConfigError


def refused(name, given_options):
    with pytest.raises(ConfigError) as caught:
        models.options(name, given_options)
    return str(caught.value)


def test_an_unknown_model_is_refused_with_the_nearest_name():
    message = refused("mpl", {})
    assert message.startswith("model.name: no such model 'mpl'")
    assert "did you mean 'mlp'" in message
    assert "cnn" in message


def test_an_unknown_option_is_refused_with_the_nearest_one():
    message = refused("mlp", {"hiden": [8]})
    assert message.startswith("model.hiden: mlp has no such option")
    assert "did you mean 'hidden'" in message


def test_an_option_of_another_model_is_refused():
    assert refused("mlp", {"channels": [8]}).startswith("model.channels: mlp has no such option")


@pytest.mark.parametrize(
    ("name", "options", "key"),
    [
        ("mlp", {"hidden": 32}, "model.hidden:"),
        ("mlp", {"hidden": [32, 0]}, "model.hidden.1:"),
        ("mlp", {"hidden": [-1]}, "model.hidden.0:"),
        ("mlp", {"hidden": ["wide"]}, "model.hidden.0:"),
        ("mlp", {"activation": "sigmoidal"}, "model.activation:"),
        ("mlp", {"norm": "layer"}, "model.norm:"),
        ("mlp", {"dropout": 1.0}, "model.dropout:"),
        ("mlp", {"dropout": -0.1}, "model.dropout:"),
        ("mlp", {"dropout": float("nan")}, "model.dropout:"),
        ("mlp", {"dropout": "much"}, "model.dropout:"),
        ("cnn", {"kernel_size": 0}, "model.kernel_size:"),
        ("cnn", {"kernel_size": 32}, "model.kernel_size:"),
        ("cnn", {"channels": [2.5]}, "model.channels.0:"),
    ],
)
def test_a_bad_value_is_refused_by_key_and_shown(name, options, key):
    message = refused(name, options)
    assert message.startswith(key)
    value = next(iter(options.values()))
    wrong = next((v for v in value if repr(v) in message), None) if isinstance(value, list) else 0
    assert wrong is not None
    assert ", however it is " in message


def test_missing_options_are_filled_with_the_defaults_of_the_signature():
    assert models.options("mlp", {"hidden": (8,)}) == {
        "hidden": [8],
        "activation": "relu",
        "norm": "none",
        "dropout": 0.0,
    }


def test_a_cnn_on_a_table_is_refused_and_the_mlp_recommended():
    with pytest.raises(ConfigError, match=r"^model\.name: cnn takes images .*\(4,\).*use mlp"):
        models.build("cnn", {}, (4,), 3, seed=0)


def test_a_name_is_registered_once():
    def mlp(shape, outputs):
        return nn.Linear(1, 1)

    with pytest.raises(ValueError, match="must be unique, however 'mlp' is taken"):
        models.model(mlp)


def weights(seed, **options):
    state = models.build("mlp", {"hidden": [5], **options}, (4,), 3, seed).state_dict()
    return torch.cat([value.reshape(-1).double() for value in state.values()])


def test_the_seed_alone_decides_the_weights():
    torch.manual_seed(1)
    one = weights(7)
    torch.manual_seed(2)
    torch.rand(3)
    assert torch.equal(weights(7), one)
    assert not torch.equal(weights(8), one)


def test_dropout_does_not_change_the_initial_weights():
    assert torch.equal(weights(7, dropout=0.5), weights(7))


@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_the_global_random_state_is_left_as_it_was(name):
    before = torch.get_rng_state()
    models.build(name, {}, (1, 8, 8), 3, seed=5)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_global_random_state_is_left_as_it_was_even_by_a_failure():
    before = torch.get_rng_state()
    with pytest.raises(ConfigError):
        models.build("cnn", {}, (4,), 3, seed=5)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_no_bias_is_added_where_batch_norm_would_subtract_it(name):
    options = {"hidden": [5, 6]} if name == "mlp" else {"channels": [5, 6]}
    layers = list(models.build(name, {**options, "norm": "batch"}, (1, 8, 8), 3, seed=0))
    followed = 0
    for layer, after in pairwise(layers):
        if isinstance(after, nn.BatchNorm1d | nn.BatchNorm2d):
            followed += 1
            assert layer.bias is None
    assert followed == 2
    plain = models.build(name, {**options, "norm": "none"}, (1, 8, 8), 3, seed=0)
    for layer in [*(p for p in plain if hasattr(p, "weight")), layers[-1]]:
        assert layer.bias is not None


@settings(max_examples=25, deadline=None)
@given(
    hidden=st.lists(st.integers(1, 9), max_size=3),
    activation=st.sampled_from(sorted(models.ACTIVATIONS)),
    norm=st.sampled_from(["none", "batch"]),
    dropout=st.sampled_from([0.0, 0.5]),
    shape=st.lists(st.integers(1, 4), min_size=1, max_size=3),
    outputs=st.integers(1, 4),
)
def test_any_valid_mlp_maps_rows_to_outputs_with_the_layers_asked_for(
    hidden, activation, norm, dropout, shape, outputs
):
    options = {"hidden": hidden, "activation": activation, "norm": norm, "dropout": dropout}
    module = models.build("mlp", options, tuple(shape), outputs, seed=0)
    assert module(torch.randn(3, *shape)).shape == (3, outputs)
    counts = [type(layer) for layer in module]
    assert counts.count(models.ACTIVATIONS[activation]) == len(hidden)
    assert counts.count(nn.Dropout) == (len(hidden) if dropout else 0)
    assert [m.out_features for m in module if isinstance(m, nn.Linear)] == [*hidden, outputs]


@settings(max_examples=25, deadline=None)
@given(
    channels=st.lists(st.integers(1, 5), max_size=5),
    kernel_size=st.integers(1, 5),
    dropout=st.sampled_from([0.0, 0.5]),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    outputs=st.integers(1, 4),
)
def test_any_valid_cnn_fits_any_image(channels, kernel_size, dropout, height, width, outputs):
    options = {"channels": channels, "kernel_size": kernel_size, "dropout": dropout}
    module = models.build("cnn", options, (2, height, width), outputs, seed=0)
    module.eval()
    assert module(torch.randn(3, 2, height, width)).shape == (3, outputs)
