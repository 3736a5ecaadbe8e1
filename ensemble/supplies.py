"""What methods need beside the members' weights, found in the registry or computed from the data.

The base is the state that all members started from: a run that is named (``--set base=REF``), or
what their settings tell: weights of one seed that all share, or the checkpoint they branched from.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from ensemble.errors import OptionError
from ensemble.fisher import fisher_information
from ensemble.learned import functional_loss
from ensemble.members import Bench, model_of
from ensemble.regression import gram_matrices
from ensemble.state import State
from zoo.checks import build
from zoo.data import Data
from zoo.objective import objective
from zoo.registry import Run

INFORMED = 256  # training rows that Fisher information is the mean over: a pass per row and class
MATCHED = 4096  # training rows that Gram matrices are the sum over
BATCH = 256


def base(table: Bench, runs: Sequence[Run], ref: object) -> tuple[str, State]:
    """Return the state that runs started from, and what identifies it.

    Args:
        table: the registry, and the data of the runs.
        runs: the members.
        ref: a reference to a run whose weights they are; None to find them by the members' own
            settings.

    Raises:
        OptionError: where these do not tell, or no checkpoint has those weights any more.
        NotFoundError: where the reference matches no run.
    """
    if ref is not None:
        if not isinstance(ref, str):
            raise OptionError(f"base must be a reference to a run, however it is {ref!r}")
        run = table.registry.run(ref)
        return run.id, table.state(run)
    starts = [run.config.get("init", {}) for run in runs]
    first = starts[0]
    if all(start.get("mode") == "shared" and start["seed"] == first["seed"] for start in starts):
        module = build(model_of(runs[0]), table.own(runs[0]), seed=first["seed"])
        return f"init.seed={first['seed']}", module.state_dict()
    content = first.get("sha256")
    if content is None or any(start.get("sha256") != content for start in starts):
        raise OptionError(
            "this method needs the state that all members started from, however they started from "
            "different ones; name a run with --set base=REF"
        )
    if first["mode"] == "run":
        run = table.registry.run(first["source"])
        for checkpoint in table.registry.checkpoints(run.id):
            if checkpoint.sha256 == content:
                state = table.registry.load(run.id, checkpoint.kind, checkpoint.epoch)
                return content, state
    raise OptionError(
        f"this method needs the state that all members started from, however {first['source']} is "
        "not in the registry with those weights; import the file and name it with --set base=REF"
    )


def supplies(
    needs: Sequence[str], module: nn.Module, states: Sequence[State], data: Data
) -> dict[str, Any]:
    """Return what a method needs of that which follows from the members and their data."""
    found: dict[str, Any] = {}
    if "loss" in needs:  # of the validation rows
        x_N = data.prepare(data.val.x)
        found["loss"] = functional_loss(module, x_N, data.val.y, objective(data.task).loss)
    if "fisher" in needs:
        x_N = data.prepare(data.train.x[:INFORMED])
        found["fisher"] = [fisher_information(module, s, [x_N], data.task) for s in states]
    if "grams" in needs:
        batches = torch.split(data.train.x[:MATCHED], BATCH)
        found["grams"] = [gram_matrices(module, s, map(data.prepare, batches)) for s in states]
    return found
