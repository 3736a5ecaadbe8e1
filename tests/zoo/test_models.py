"""Builders: options are checked, and a model is a function of its options and its seed."""

import copy
import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F  # noqa: N812  # its name everywhere
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from zoo import models, networks
from zoo.data import load
from zoo.errors import ConfigError, MismatchError
from zoo.layers import ACTIVATIONS
from zoo.objective import objective
from zoo.sections import DataConfig
from zoo.sequential import Sequential
from zoo.settings import parse_value
from zoo.stack import flat, stack
from zoo.stacked import Stacked


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
        ("mlp", {"norm": "group"}, "model.norm:"),
        ("mlp", {"dropout": 1.0}, "model.dropout:"),
        ("mlp", {"dropout": -0.1}, "model.dropout:"),
        ("mlp", {"dropout": float("nan")}, "model.dropout:"),
        ("mlp", {"dropout": "much"}, "model.dropout:"),
        ("mlp", {"dropout": True}, "model.dropout:"),
        ("mlp", {"dropout": [0.1, 1.0]}, "model.dropout:"),
        ("resmlp", {"blocks": 0}, "model.blocks:"),
        ("ft_transformer", {"activation": "relu"}, "model.activation:"),
        ("resnet", {"blocks": 2}, "model.blocks:"),
        ("cnn", {"kernel_size": 0}, "model.kernel_size:"),
        ("cnn", {"kernel_size": 32}, "model.kernel_size:"),
        ("cnn", {"channels": [2.5]}, "model.channels.0:"),
    ],
)
def test_a_bad_value_is_refused_by_key_and_shown(name, options, key):
    message = refused(name, options)
    assert message.startswith(key)
    value = next(iter(options.values()))
    shown = [value, *value] if isinstance(value, list) else [value]
    assert any(message.endswith(f", however it is {part!r}") for part in shown)


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


@pytest.mark.parametrize("name", models.BUILDERS)
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
    for norm in ("none", "layer"):
        plain = models.build(name, {**options, "norm": norm}, (1, 8, 8), 3, seed=0)
        for layer in [*(p for p in plain if hasattr(p, "weight")), layers[-1]]:
            assert layer.bias is not None


@settings(max_examples=25, deadline=None)
@given(
    hidden=st.lists(st.integers(1, 9), max_size=3),
    activation=st.sampled_from(sorted(ACTIVATIONS)),
    norm=st.sampled_from(["none", "batch", "layer"]),
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
    assert counts.count(ACTIVATIONS[activation]) == len(hidden)
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


NORMS = ("none", "batch", "layer")
SMALL = {  # of every model that trains in milliseconds
    "mlp": {"hidden": [9, 6]},
    "resmlp": {"width": 6, "blocks": 2},
    "ft_transformer": {"width": 8, "heads": 2},
    "cnn": {"channels": [4, 5]},
    "resnet": {"width": 6, "blocks": [1, 2]},
}
LAYERS = {"mlp": 2, "resmlp": 2, "ft_transformer": 2, "cnn": 2, "resnet": 3}
VARIANTS = [
    *((name, {"norm": norm}) for name in ("mlp", "resmlp", "cnn", "resnet") for norm in NORMS),
    *(("ft_transformer", {"activation": activation}) for activation in ("reglu", "gelu")),
]


def small(name, seed=0, shape=(2, 5, 4), outputs=3, **options):
    return models.build(name, {**SMALL[name], **options}, shape, outputs, seed)


def test_every_model_has_a_small_variant_to_be_tested():
    ours = {name for name, builder in models.BUILDERS.items() if isinstance(builder, str)}
    assert {*SMALL} == {*LAYERS} == {name for name, _ in VARIANTS} == ours


@pytest.mark.parametrize("name", SMALL)
def test_the_page_on_training_tells_every_option_of_a_model_with_its_default(name):
    text = (Path(__file__).parents[2] / "docs" / "training.md").read_text()
    row = re.search(rf"^\| `{name}` \|.*$", text, re.MULTILINE)[0]
    told = dict(re.findall(r"`(\w+)=([^`]+)`", row))
    assert {key: parse_value(value) for key, value in told.items()} == models.options(name, {})


def test_all_faults_of_a_models_options_are_named_at_once():
    message = refused("resnet", {"width": 0, "norm": "group", "depth": 3})
    assert [
        fault.partition(":")[0] for fault in message.split("; ") if fault.startswith("mod")
    ] == [
        "model.depth",
        "model.width",
        "model.norm",
    ]


@pytest.mark.parametrize(("name", "options"), VARIANTS)
@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 32, 32), (2, 1, 1), (1, 1, 9)])
def test_every_model_takes_images_of_any_size(name, options, shape):
    module = small(name, shape=shape, outputs=4, **options)
    assert module.eval()(torch.randn(3, *shape)).shape == (3, 4)
    models.check_outputs(module, shape, 4)


@pytest.mark.parametrize(("name", "options"), VARIANTS)
def test_no_parameter_is_dead(name, options):
    """A bias that a norm subtracts, or that softmax ignores, would get no gradient but noise."""
    torch.manual_seed(0)
    module = small(name, **options).double().train()
    with torch.no_grad():  # away from zeros and ones, which hide others
        for parameter in module.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    x_N, y_N = torch.randn(64, 2, 5, 4, dtype=torch.double), torch.arange(64) % 3
    F.cross_entropy(module(x_N), y_N).backward()
    dead = [n for n, p in module.named_parameters() if p.grad.abs().max() < 1e-9]
    assert not dead


# Both engines


def step(engine, modules, x_KN, y_KN, task="classification"):
    """Return figures, buffers after the step, and outputs in evaluation mode."""
    with torch.no_grad():
        made, stacked = engine(modules[0], objective(task)), stack(modules)
        loss_K, _, gradient_KP = made.step(stacked, x_KN, y_KN, torch.tensor([5, 9, 7]), {})
        return loss_K, gradient_KP, stacked.buffers, made.outputs(stacked, x_KN[0])


@pytest.mark.parametrize("dropout", ["none", "one rate", "a rate per layer"])
@pytest.mark.parametrize(("name", "options"), VARIANTS)
def test_engines_agree_with_each_other_and_without_dropout_with_a_plain_loop(
    name, options, dropout
):
    rates = [0.5, 0.0, 0.2][: LAYERS[name]]
    options = options | {"dropout": {"none": 0, "one rate": 0.3}.get(dropout, rates)}
    modules = [small(name, seed, **options) for seed in range(3)]
    generator = torch.Generator().manual_seed(1)
    x_KN = torch.randn(3, 12, 2, 5, 4, generator=generator)
    y_KN = torch.randint(0, 3, (3, 12), generator=generator)
    close = {"rtol": 2e-4, "atol": 2e-5}
    one, other = (step(engine, modules, x_KN, y_KN) for engine in (Stacked, Sequential))
    torch.testing.assert_close(one, other, **close)
    if dropout == "none":
        for k, module in enumerate(copy.deepcopy(modules)):
            loss = F.cross_entropy(module.train()(x_KN[k]), y_KN[k])
            loss.backward()
            weights_first = sorted(module.parameters(), key=lambda p: p.ndim < 2)
            gradient_P = flat(p.grad for p in weights_first)
            torch.testing.assert_close((one[0][k], one[1][k]), (loss.detach(), gradient_P), **close)


@pytest.mark.parametrize("name", models.BUILDERS)
def test_every_model_learns_real_data(name):
    data = load(DataConfig(ref="breast_cancer" if name == "ft_transformer" else "digits"))
    options = SMALL[name] if name in ("ft_transformer", "resnet") else {}
    module = models.build(name, options, data.shape, data.outputs, seed=0)
    optimiser = torch.optim.Adam(module.parameters(), lr=1e-2)
    order = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(0))
    for index in order.repeat(10).split(64):
        optimiser.zero_grad()
        F.cross_entropy(module(data.train.x[index]), data.train.y[index]).backward()
        optimiser.step()
    with torch.no_grad():
        found = module.eval()(data.val.x).argmax(1)
    assert (found == data.val.y).float().mean() > 0.92


# Dropout and sizes


@pytest.mark.parametrize("name", SMALL)
def test_dropout_is_one_rate_or_one_for_each_layer(name):
    rates = [0.1, 0.0, 0.3][: LAYERS[name]]
    kinds = nn.Dropout | nn.Dropout2d
    found = [m.p for m in small(name, dropout=rates).modules() if isinstance(m, kinds)]
    assert list(dict.fromkeys(found)) == [rate for rate in rates if rate]
    again = [m.p for m in small(name, dropout=0.2).modules() if isinstance(m, kinds)]
    assert set(again) == {0.2}
    assert len(again) % LAYERS[name] == 0


@pytest.mark.parametrize("name", SMALL)
def test_a_list_of_rates_of_another_length_is_refused(name):
    with pytest.raises(ConfigError, match=rf"^model\.dropout: .* {LAYERS[name]} .*it has 4$"):
        small(name, dropout=[0.1] * 4)


def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(ConfigError, match=r"^model\.heads: .* 3 does not divide 32"):
        models.build("ft_transformer", {"heads": 3}, (4,), 2, seed=0)


@pytest.mark.parametrize("name", ["cnn", "resnet"])
def test_a_model_of_images_refuses_a_table_and_names_a_model_that_takes_it(name):
    with pytest.raises(ConfigError, match=r"\(4,\); use (mlp|resmlp)$"):
        models.build(name, {}, (4,), 3, seed=0)


def test_resnet_of_the_paper_has_its_number_of_parameters():
    """ResNet-20 for CIFAR-10 with projection shortcuts."""
    module = models.build("resnet", {"blocks": [3, 3, 3]}, (3, 32, 32), 10, seed=0)
    assert sum(parameter.numel() for parameter in module.parameters()) == 272_474


def test_a_resnet_without_norms_starts_with_blocks_that_change_nothing():
    module = models.build("resnet", {"norm": "none", "blocks": [4]}, (1, 8, 8), 3, seed=0)
    x_N = torch.randn(5, 1, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(module[:6](x_N), module[:2](x_N))


# FT-Transformer


def test_attention_is_that_of_pytorch():
    ours = networks.Attention(12, 3, 0.0)
    theirs = nn.MultiheadAttention(12, 3, batch_first=True)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(
            torch.cat([ours.query.weight, ours.key.weight, ours.value.weight])
        )
        theirs.in_proj_bias.copy_(torch.cat([ours.query.bias, torch.randn(12), ours.value.bias]))
        theirs.out_proj.load_state_dict(ours.out.state_dict())
    queries, tokens = torch.randn(5, 2, 12), torch.randn(5, 7, 12)
    torch.testing.assert_close(ours(queries, tokens), theirs(queries, tokens, tokens)[0])


def test_norms_come_before_all_but_the_first_attention_and_before_the_head():
    module = models.build("ft_transformer", {"blocks": 3}, (6,), 3, seed=0)
    assert isinstance(module[2].norm, nn.Identity)
    assert sum(isinstance(layer, nn.LayerNorm) for layer in module.modules()) == 2 * 3


def test_the_last_block_computes_what_the_class_token_of_a_whole_block_would_be():
    whole = networks.Block(8, 2, "reglu", 0.0, first=False, last=False)
    last = networks.Block(8, 2, "reglu", 0.0, first=False, last=True)
    last.load_state_dict(whole.state_dict())
    tokens = torch.randn(4, 6, 8)
    torch.testing.assert_close(last(tokens), whole(tokens)[:, :1])


def test_the_order_of_the_features_of_a_table_does_not_matter_to_ft_transformer():
    module = models.build("ft_transformer", {}, (6,), 3, seed=0)
    x_ND, order = torch.randn(5, 6), torch.tensor([3, 1, 5, 0, 4, 2])
    expected = module(x_ND)
    assert not torch.allclose(module(x_ND[:, order]), expected, atol=1e-3)
    with torch.no_grad():
        for parameter in (module[1].weight, module[1].bias):
            parameter.copy_(parameter[order])
    torch.testing.assert_close(module(x_ND[:, order]), expected)


# What can be trained


class Tangled(nn.Linear):
    def __deepcopy__(self, memo):
        raise TypeError("cannot be copied, by design")


class Answering(nn.Linear):
    """A linear layer whose answer is spoilt by a function."""

    def __init__(self, spoil):
        super().__init__(4, 3)
        self.spoil = spoil

    def forward(self, x):
        return self.spoil(super().forward(x))


def raising(x):
    raise KeyError("by design")


@pytest.mark.parametrize(
    ("module", "says"),
    [
        (nn.Linear(4, 2), r"must map (2, 4) to (2, 3), however it returns a tensor (2, 2)"),
        (nn.Unflatten(1, (2, 2)), "must have parameters to train, however it has none"),
        (nn.Linear(4, 3).requires_grad_(False), "must have parameters to train"),
        (nn.Linear(5, 3), "must take samples (2, 4), however it raised RuntimeError: mat1 and"),
        (nn.Linear(4, 3).double(), "float32, however 'weight' is torch.float64"),
        (nn.LazyLinear(3), "'weight' is lazy"),
        (Tangled(4, 3), "must allow copy.deepcopy, however it raised TypeError: cannot be copied"),
        (Answering(lambda y: (y, y)), "however it returns tuple"),
        (Answering(lambda y: y.mean()), "however it returns a tensor ()"),
        (Answering(lambda y: y.double()), "however it returns torch.float64"),
        (Answering(torch.Tensor.detach), "does not depend on its parameters"),
        (Answering(raising), f"KeyError: 'by design' (at {__file__}:"),
    ],
)
def test_a_module_that_cannot_be_trained_is_refused_with_the_reason(module, says):
    with pytest.raises(ConfigError, match=r"^model: ") as caught:
        models.check_outputs(module, (4,), 3)
    assert says in str(caught.value)


def test_checking_a_module_leaves_it_and_the_random_state_as_they_were():
    module = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Dropout(0.5)).train()
    before, random = copy.deepcopy(module.state_dict()), torch.get_rng_state()
    models.check_outputs(module, (4,), 3)
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    assert module.training
    assert module[2].training


# Loading


def test_a_state_is_copied_into_a_module_by_value():
    module, other = small("resnet", 0), small("resnet", 1)
    state = other.state_dict()
    models.restore(module, state)
    for key, value in module.state_dict().items():
        assert torch.equal(value, state[key])
        assert value.data_ptr() != state[key].data_ptr()


def test_all_that_does_not_fit_is_named_at_once_and_nothing_is_loaded():
    module = small("mlp", shape=(4,))
    state = small("mlp", seed=1, shape=(5,)).state_dict()
    del state["3.bias"]
    state |= {"5.weight": [1.0], "extra": torch.zeros(1)}
    before = copy.deepcopy(module.state_dict())
    with pytest.raises(MismatchError) as caught:
        models.restore(module, state)
    assert str(caught.value) == (
        "a state must fit the model, however: '1.weight' is (9, 4) in the model and (9, 5) in the "
        "state; '3.bias' is missing in the state; '5.weight' is a list, not a tensor, in the "
        "state; 'extra' is not in the model"
    )
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())


def test_weights_that_are_tied_in_the_model_must_be_equal_in_the_state():
    module = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    module[1].weight = module[0].weight
    state = {key: value.clone() for key, value in module.state_dict().items()}
    models.restore(module, state)
    state["1.weight"] += 1
    with pytest.raises(MismatchError, match=r"'0\.weight' and '1.weight' are one in the model"):
        models.restore(module, state)


def test_a_category_is_one_token_of_ft_transformer_and_is_embedded():
    module = models.build("ft_transformer", {"column_widths": [1, 3]}, (4,), 2, seed=0)
    tokens = module[1]
    x_ND = torch.tensor([[0.5, 0.0, 1.0, 0.0]])
    made = tokens(x_ND)
    assert made.shape == (1, 3, 32)
    torch.testing.assert_close(made[0, 0], tokens.cls[0])
    torch.testing.assert_close(made[0, 1], 0.5 * tokens.weight[0] + tokens.bias[0])
    torch.testing.assert_close(made[0, 2], tokens.weight[2] + tokens.bias[1])
    with pytest.raises(ConfigError, match="must add up to the 5 features, however it adds up to 4"):
        models.build("ft_transformer", {"column_widths": [1, 3]}, (5,), 2, seed=0)


def test_the_widths_of_columns_are_found_from_the_table_in_both_engines():
    from zoo.checks import build
    from zoo.sections import ModelConfig

    draw = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "town": draw.choice(["Aix", "Bonn", "Cork"], 60),
            "area": draw.random(60),
            "price": draw.random(60),
        }
    )
    table = load(DataConfig(ref="houses", target="price"), frame)
    config = ModelConfig.model_validate({"name": "ft_transformer", "width": 8, "heads": 2})
    modules = [build(config, table, seed) for seed in range(3)]
    assert modules[0][1].widths == (3, 1)
    x_KN = table.train.x[:12].expand(3, -1, -1)
    y_KN = table.train.y[:12].expand(3, -1)
    one, other = (
        step(engine, modules, x_KN, y_KN, "regression") for engine in (Stacked, Sequential)
    )
    torch.testing.assert_close(one, other, rtol=2e-4, atol=2e-5)
