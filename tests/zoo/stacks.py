"""Modules, batches and plain steps of PyTorch for the tests of engines."""

import torch
import torch.nn.functional as F  # noqa: N812  # its name everywhere
from torch import nn

from zoo import models
from zoo.sequential import Sequential
from zoo.stacked import Stacked

ENGINES = [Stacked, Sequential]
CLOSE = {"rtol": 2e-4, "atol": 2e-5}
MEMBERS, ROWS = 3, 12

CASES = {
    "mlp": ("mlp", {"hidden": [9, 20]}, (4,), "classification"),
    "mlp without layers": ("mlp", {"hidden": []}, (4,), "classification"),
    "mlp gelu": ("mlp", {"hidden": [17], "activation": "gelu"}, (4,), "classification"),
    "mlp batch norm": ("mlp", {"hidden": [9, 6], "norm": "batch"}, (4,), "classification"),
    "cnn": ("cnn", {"channels": [4, 5]}, (1, 6, 6), "classification"),
    "cnn without norm": ("cnn", {"channels": [4], "norm": "none"}, (2, 5, 7), "classification"),
    "regression": ("mlp", {"hidden": [9]}, (4,), "regression"),
    "regression batch norm": ("mlp", {"hidden": [9], "norm": "batch"}, (4,), "regression"),
}


def prepared(case, members=MEMBERS, rows=ROWS):
    """Return modules, a batch per member and its targets, and the task."""
    name, options, shape, task = CASES[case]
    outputs = 3 if task == "classification" else 1
    modules = [models.build(name, options, shape, outputs, seed) for seed in range(members)]
    return modules, *batch(members, rows, shape, task), task


def batch(members, rows, shape, task="classification", seed=0):
    generator = torch.Generator().manual_seed(seed)
    x_KN = torch.randn(members, rows, *shape, generator=generator)
    if task == "regression":
        return x_KN, torch.randn(members, rows, generator=generator)
    return x_KN, torch.randint(0, 3, (members, rows), generator=generator)


def figures(outputs, y, task):
    """Return loss and score by PyTorch's own functions."""
    if task == "regression":
        return F.mse_loss(outputs[:, 0], y), F.mse_loss(outputs[:, 0], y)
    return F.cross_entropy(outputs, y), (outputs.argmax(1) == y).float().mean()


def plain_step(module, x, y, task):
    """Run one step of ordinary PyTorch; return loss, score and the flat gradient."""
    module.train()
    with torch.enable_grad():
        outputs = module(x)
        loss, score = figures(outputs, y, task)
        module.zero_grad()
        loss.backward()
    # A stack holds weights first, biases and norms last, then zeros up to a cache line.
    ordered = sorted(module.parameters(), key=lambda parameter: parameter.ndim < 2)
    gradient = torch.cat([parameter.grad.reshape(-1) for parameter in ordered])
    gradient = F.pad(gradient, (0, -len(gradient) % 16))
    return loss.detach(), score.detach(), gradient


def descend(stacked, modules, gradient_KP, lr=0.1):
    """Take the same step of gradient descent in the stack and in the modules."""
    stacked.flat_KP.sub_(gradient_KP, alpha=lr)
    for module in modules:
        for parameter in module.parameters():
            parameter.sub_(parameter.grad, alpha=lr)


class Custom(nn.Module):
    """A linear layer to which ``forward`` of a subclass adds something."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, x):
        return self.linear(x)


class Branching(Custom):
    def forward(self, x):
        return self.linear(x) if x.sum() > 0 else -self.linear(x)


class Listing(Custom):
    def forward(self, x):
        return self.linear(x) * x.tolist()[0][0]


class Comparing(Custom):
    def forward(self, x):
        return self.linear(x) if torch.equal(x, x.abs()) else -self.linear(x)


class Noisy(Custom):
    def forward(self, x):
        return self.linear(x + torch.randn(4)) if self.training else self.linear(x)


class Averaging(Custom):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(3, momentum=None)

    def forward(self, x):
        return self.norm(self.linear(x))


class Rebinding(Custom):
    """Replaces a buffer where most modules write into it; a stack cannot see that."""

    def __init__(self):
        super().__init__()
        self.register_buffer("seen", torch.zeros(3))

    def forward(self, x):
        outputs = self.linear(x)
        if self.training:
            self.seen = self.seen + outputs.detach().mean(0)
        return outputs


IMPOSSIBLE = [Branching, Listing, Comparing, Noisy, Averaging]


def custom(kind, members=3, shape=(4,), rows=ROWS):
    modules = []
    for seed in range(members):
        torch.manual_seed(seed)
        modules.append(kind())
    return modules, *batch(members, rows, shape)
