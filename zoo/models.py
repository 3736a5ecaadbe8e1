"""The catalogue of models: named functions from a sample's shape and the number of outputs.

A builder is a plain function ``(shape, outputs, **options) -> module``; its further parameters
are what a config may set under ``[model]``.  Besides those of the catalogue there are the user's
own: registered by :func:`model`, or named by their code (:mod:`zoo.usercode`).

>>> build("mlp", {"hidden": [8]}, (4,), 3, seed=0)
Sequential(
  (0): Flatten(start_dim=1, end_dim=-1)
  (1): Linear(in_features=4, out_features=8, bias=True)
  (2): ReLU()
  (3): Linear(in_features=8, out_features=3, bias=True)
)
"""

import copy
import functools
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from zoo import signature, usercode
from zoo.errors import ConfigError, MismatchError, nearest
from zoo.usercode import trust as trust  # for users, beside what they need it for

Builder = Callable[..., nn.Module]
BUILDERS: dict[str, Builder | str] = {  # those of ours are imported when they are asked for
    "mlp": "zoo.networks:mlp",
    "resmlp": "zoo.networks:resmlp",
    "ft_transformer": "zoo.networks:ft_transformer",
    "cnn": "zoo.vision:cnn",
    "resnet": "zoo.vision:resnet",
}
_read = functools.cache(signature.read)


def model(builder: Builder) -> Builder:
    """Register a builder under its function's name; the same function may be defined anew.

    Raises:
        ConfigError: where its signature is not that of a builder.
        ValueError: where the name is taken.
    """
    name = builder.__name__
    known = BUILDERS.get(name)
    if known is not None and _origin(known) != _origin(builder):
        raise ValueError(f"a model's name must be unique, however {name!r} is taken")
    _read(builder, name)
    BUILDERS[name] = builder
    return builder


def declared(name: str) -> dict[str, signature.Option]:
    """Return the options that a model's builder declares.

    Raises:
        ConfigError: where there is no such model.
        UntrustedError: where it is code that is not trusted.

    >>> list(declared("cnn"))
    ['channels', 'kernel_size', 'activation', 'norm', 'dropout']
    """
    return _read(_find(name), name)


def options(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Check a model's options and fill in the defaults.

    Raises:
        ConfigError: where the model or an option is unknown, or a value does not fit.
        UntrustedError: where the model is code that is not trusted.

    >>> options("mlp", {"hidden": 32})
    Traceback (most recent call last):
    zoo.errors.ConfigError: model.hidden: should be a valid list, such as [32], however it is 32
    """
    known = declared(name)
    values = signature.bind(known, given, name)
    return {key: known[key].plain(value) for key, value in values.items()}


def build(
    name: str, given: Mapping[str, Any], shape: tuple[int, ...], outputs: int, seed: int
) -> nn.Module:
    """Build a model whose initial weights depend on the seed alone.

    Args:
        name: of the catalogue, or of a user's code.
        given: its options.
        shape: the shape of one sample, such as (64,) or (1, 28, 28).
        outputs: the number of classes, or 1.
        seed: of the initial weights; the global random state is left as it was.

    Raises:
        ConfigError: where the options do not fit the model, or the model does not fit the data, or
            a user's code fails.
        UntrustedError: where the model is code that is not trusted.
    """
    builder = _find(name)
    chosen = signature.bind(declared(name), given, name)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed seeds all devices, slowly
        try:
            module = builder(shape, outputs, **chosen)
        except ConfigError:
            raise
        except Exception as error:
            if isinstance(BUILDERS.get(name), str):
                raise
            raise ConfigError(
                f"model.name: {name} must build a module, however it raised "
                f"{usercode.explain(error)}"
            ) from error
    if not isinstance(module, nn.Module):
        raise ConfigError(
            f"model.name: {name} must return a torch.nn.Module, however it returned "
            f"{type(module).__name__}"
        )
    return module


def check_outputs(module: nn.Module, shape: tuple[int, ...], outputs: int) -> None:
    """Check that a module can be trained: two rows are computed, on a copy, in both modes.

    Raises:
        ConfigError: where it has nothing to train, cannot be copied, stored or run, or does not map
            (N, *shape) to float outputs (N, outputs) that depend on its parameters.

    >>> check_outputs(nn.Linear(4, 3), (4,), 2)
    Traceback (most recent call last):
    zoo.errors.ConfigError: model: must map (2, 4) to (2, 2), however it returns a tensor (2, 3)
    """
    if lazy := [name for name, parameter in module.named_parameters() if is_lazy(parameter)]:
        raise ConfigError(
            f"model: must know its sizes when it is built, however {lazy[0]!r} is lazy; give its "
            "layer the size of its input"
        )
    trained = {name: p.dtype for name, p in module.named_parameters() if p.requires_grad}
    if not trained:
        raise ConfigError("model: must have parameters to train, however it has none")
    for name, dtype in trained.items():
        if dtype != torch.float32:
            raise ConfigError(f"model: is trained in float32, however {name!r} is {dtype}")
    for name, value in module.state_dict().items():
        if not isinstance(value, Tensor):
            raise ConfigError(
                f"model: its state must be tensors, however {name!r} is a {type(value).__name__}"
            )
        if not value.isfinite().all():
            raise ConfigError(
                f"model: what is stored must be finite, however {name!r} is not; register it with "
                "persistent=False"
            )
    try:
        replica = copy.deepcopy(module)
    except Exception as error:
        raise ConfigError(
            f"model: must allow copy.deepcopy, however it raised {usercode.explain(error)}"
        ) from error
    x_N = torch.zeros(2, *shape, device=next(module.parameters()).device)
    for mode in (False, True):
        _check_mode(replica.train(mode), x_N, outputs)


def _check_mode(module: nn.Module, x_N: Tensor, outputs: int) -> None:
    """Check what a module computes of two rows, and that gradients come back in training."""
    where = " in training" if module.training else ""
    try:
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            result = module(x_N)
            if module.training:
                result.sum().backward()
    except Exception as error:
        raise ConfigError(
            f"model: must take samples {tuple(x_N.shape)}{where}, however it raised "
            f"{usercode.explain(error)}"
        ) from error
    rule = f"model: must map {tuple(x_N.shape)} to {(2, outputs)}{where}, however it returns"
    if not isinstance(result, Tensor):
        raise ConfigError(f"{rule} {type(result).__name__}")
    if result.shape != (2, outputs):
        raise ConfigError(f"{rule} a tensor {tuple(result.shape)}")
    if result.dtype != torch.float32:
        raise ConfigError(f"{rule} {result.dtype}")
    if not result.requires_grad:
        raise ConfigError(f"{rule} what does not depend on its parameters")


def restore(module: nn.Module, state: Mapping[str, Any]) -> None:
    """Copy a state dict into a module, or leave the module as it was.

    Raises:
        MismatchError: where it does not fit, as :func:`check_state` tells.
    """
    check_state(module, state)
    module.load_state_dict(state)


def check_state(module: nn.Module, state: Mapping[str, Any]) -> None:
    """Check that a state dict fits a module, whose own values may be anywhere or nowhere (meta).

    Raises:
        MismatchError: listing every key that is missing, unexpected, or of another shape, and tied
            weights that differ.

    >>> check_state(nn.Linear(2, 1), {"weight": torch.zeros(2, 2), "scale": torch.zeros(1)})
    Traceback (most recent call last):
    zoo.errors.MismatchError: a state must fit the model, however: 'weight' is (1, 2) in the model \
and (2, 2) in the state; 'bias' is missing in the state; 'scale' is not in the model
    """
    ours = module.state_dict(keep_vars=True)
    facts = []
    first: dict[int, str] = {}
    for key, value in ours.items():
        theirs = state.get(key)
        if key not in state:
            facts.append(f"{key!r} is missing in the state")
        elif not isinstance(value, Tensor):
            continue  # what a module keeps besides tensors is its own to judge
        elif not isinstance(theirs, Tensor):
            facts.append(f"{key!r} is a {type(theirs).__name__}, not a tensor, in the state")
        elif theirs.shape != value.shape:
            facts.append(
                f"{key!r} is {tuple(value.shape)} in the model and {tuple(theirs.shape)} in the "
                "state"
            )
        elif first.setdefault(id(value), key) != key:
            twin = first[id(value)]
            if not torch.equal(theirs, state[twin]):
                facts.append(f"{twin!r} and {key!r} are one in the model and two in the state")
    facts += [f"{key!r} is not in the model" for key in state if key not in ours]
    if facts:
        raise MismatchError(f"a state must fit the model, however: {'; '.join(facts)}")


def _find(name: str) -> Builder:
    """Return the builder of that name; import it where it is not there yet."""
    if usercode.is_reference(name):
        return usercode.find(name)
    if name.endswith(".py"):
        raise ConfigError(f"model.name: names a file; add its function, as {name}:FACTORY")
    if name not in BUILDERS:
        raise ConfigError(f"model.name: no such model {name!r}{nearest(name, BUILDERS)}")
    builder = BUILDERS[name]
    if isinstance(builder, str):
        home, _, function = builder.partition(":")
        builder = getattr(import_module(home), function)
    return builder


def _origin(builder: Builder | str) -> object:
    """Return where a function is defined."""
    return builder if isinstance(builder, str) else (builder.__module__, builder.__qualname__)
