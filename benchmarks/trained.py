"""Members to combine: trained by the toolkit, in memory."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import log_softmax, nll_loss

from zoo import Fit, Member, load
from zoo.checks import build
from zoo.config import RunConfig
from zoo.data import Data
from zoo.sections import DataConfig

Start = Literal["independent", "shared", "branched"]
State = Mapping[str, Tensor]
BATCH = 256  # rows, as averaging takes them


@dataclass(frozen=True)
class Case:
    """A model on some data; ``branch`` is the epoch from which members with one past differ."""

    model: str
    data: str
    options: Mapping[str, Any]
    branch: int = 3


CASES = {
    "mlp-mnist5k": Case("mlp", "mnist5k", {"hidden": (512, 512)}),
    "mlp-digits": Case("mlp", "digits", {"hidden": (128, 128)}),
    "cnn-digits": Case("cnn", "digits", {"channels": (32, 64)}),
    "resnet-digits": Case("resnet", "digits", {"blocks": (1, 1), "width": 32}),
    "cnn-mnist5k": Case("cnn", "mnist5k", {"channels": (16, 32)}),
    "resnet-mnist5k": Case("resnet", "mnist5k", {"blocks": (1, 1), "width": 8}),
}


@dataclass(frozen=True)
class Trained:
    """Members, and all that is needed to combine and to judge them."""

    config: RunConfig
    data: Data
    module: nn.Module
    states: list[State]
    epochs: list[int]

    def batches(self) -> list[Tensor]:
        """Training inputs, as the module takes them."""
        x_N = self.data.train.x
        parts = x_N.tensor_split(max(1, len(x_N) // BATCH))
        return [self.data.prepare(part) for part in parts]

    @torch.no_grad()
    def logits(self, state: State, part: str) -> Tensor:
        """Return the logits (N, C) of a state for the rows of a part."""
        x_N = self.data.prepare(getattr(self.data, part).x)
        return functional_call(self.module.eval(), dict(state), (x_N,))

    def figures(self, state: State, part: str) -> dict[str, float]:
        """Return accuracy and NLL of a state."""
        return self.judged(log_softmax(self.logits(state, part), -1), part)

    def judged(self, told_NC: Tensor, part: str) -> dict[str, float]:
        """Return accuracy and NLL of log-probabilities."""
        y_N = getattr(self.data, part).y
        right_N = told_NC.argmax(1) == y_N
        return {"accuracy": float(right_N.float().mean()), "nll": float(nll_loss(told_NC, y_N))}


def train(name: str, start: Start, count: int, repetition: int, epochs: int = 100) -> Trained:
    """Train members of a case; each repetition has its own split and seeds."""
    case = CASES[name]
    asked: dict[str, Any] = {
        "data": {"ref": case.data, "split_seed": repetition},
        "model": {"name": case.model, **case.options},
        "train": {"epochs": epochs},
    }
    if start == "shared":
        asked["init"] = {"mode": "shared", "seed": 1000 * repetition}
    config = RunConfig.model_validate(asked)
    data = load(DataConfig.model_validate(asked["data"]))
    base = None
    if start == "branched":
        short = RunConfig.model_validate({**asked, "train": {"epochs": case.branch}})
        ((base, _),) = fitted([Member("base", short, 1000 * repetition)], data)
    seeds = [1000 * repetition + 1 + k for k in range(count)]
    ended = fitted([Member(str(seed), config, seed, base) for seed in seeds], data)
    states, lengths = zip(*ended, strict=True)
    return Trained(config, data, build(config.model, data, 0), list(states), list(lengths))


def fitted(members: list[Member], data: Data) -> list[tuple[State, int]]:
    """Train, and return each member's best weights and how long it trained."""
    ends = {
        end.key: end for happened in Fit(members, data, device="cpu") for end in happened.finished
    }
    return [(ends[member.key].state, ends[member.key].epochs) for member in members]
