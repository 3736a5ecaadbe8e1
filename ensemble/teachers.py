"""Runs of the registry as teachers: what they say together, and the settings of who learns it."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ensemble.distillation import Ask
from ensemble.heldout import Pool
from ensemble.members import Bench, MembersError, alike, members
from ensemble.pools import pool_of
from ensemble.snapshots import members_of
from zoo.config import RunConfig, parse
from zoo.registry import Registry, Run
from zoo.settings import override


def teachers(registry: Registry, refs: Sequence[str]) -> list[Run]:
    """Find the teachers that references name: one pool of models, or else models.

    Raises:
        EmptyError, NotFoundError: as :func:`ensemble.members.members` does.
    """
    runs = registry.runs(refs) if refs else []
    return runs if [run.kind for run in runs] == ["predictions"] else members(registry, refs)


def asked(registry: Registry, runs: Sequence[Run]) -> tuple[list[Run], Pool | None, str]:
    """Return the models that are asked, how they are pooled, and that method's name.

    Raises:
        MembersError: for several pools, or pools beside models.
    """
    pools = [run for run in runs if run.kind == "predictions"]
    if not pools:
        return list(runs), None, "mean"
    if len(runs) > 1:
        raise MembersError(
            f"teachers are models, or one pool of them, however {pools[0].label} is one of "
            f"{len(runs)} runs"
        )
    return members_of(registry, pools[0]), pool_of(pools[0]), pools[0].config["method"]


def same_inputs(teachers: Sequence[Run]) -> None:
    """Refuse teachers that do not all understand the inputs that a student sees.

    Raises:
        MembersError: where they are in different folds or draws, or prepare rows in other ways.
    """
    first = teachers[0]
    for run in teachers:
        prepared = [json.dumps(one.preprocessing) for one in (first, run)]
        if run.split_hash != first.split_hash or prepared[0] != prepared[1]:
            raise MembersError(
                "a student learns from the rows of one split, as one preprocessing makes them, "
                f"however {first.label} and {run.label} are in different folds or draws, or "
                "prepare rows in other ways; distil those alone that are alike"
            )


def together(table: Bench, runs: Sequence[Run], pool: Pool, device: torch.device) -> Ask:
    """Return the function from prepared rows to what runs say together, as students learn it.

    Args:
        table: where the runs' data are.
        runs: on the same rows, prepared alike; of any models.
        pool: makes one prediction of theirs.
        device: of the rows.

    Returns:
        rows (N, *shape) -> float32 log-probabilities (N, C), log-odds (N, L), or standardised
        values (N,) or (N, T).
    """
    groups = alike(runs)
    forwards = [
        table.forward(
            [table.module(run).to(device) for run in group],
            [table.state(run) for run in group],
            table.own(group[0]),
        )
        for group in groups
    ]
    places = {run.id: place for place, run in enumerate(run for group in groups for run in group)}
    order_K = torch.tensor([places[run.id] for run in runs], device=device)
    units = table.own(runs[0]).units(device)

    def ask(x_N: Tensor) -> Tensor:
        outputs_K = torch.cat([forward(x_N) for forward in forwards])[order_K]
        predicted = pool(outputs_K, range(len(runs)))
        return (units.standardise(predicted) if units else predicted).float()

    return ask


def anew(run: Run, changes: Mapping[str, Any], *, leave: Sequence[str]) -> RunConfig:
    """Return a run's settings, some of them changed, for a training that begins anew.

    Args:
        run: whose settings; what it does not tell, such as how a merged one was trained, has its
            default.
        changes: dotted key -> value.
        leave: sections that shall have their defaults.

    Raises:
        ConfigError: for settings that are unknown, or have values that they do not take.
    """
    names = RunConfig.model_fields.keys() - {"init", *leave}
    told = {name: section for name, section in run.config.items() if name in names}
    config, _ = parse(override(told, changes)).cells[0]
    return config
