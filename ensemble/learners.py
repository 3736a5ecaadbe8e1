"""What members predict for rows that they did not train on, and which of them are one learner."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ensemble.errors import EmptyError
from ensemble.members import Bench
from ensemble.snapshots import Snapshot
from zoo.registry import Run
from zoo.registry.records import digest

NOT_LEARNT = ("name", "seed", "init")  # settings in which members of one learner may differ


@dataclass(frozen=True)
class Evidence:
    """What members are chosen by.

    Attributes:
        outputs_G: what learners predict for rows that they did not train on, (G, N, ...).
        targets: of those rows.
        learner_K: the learner of each member.
    """

    outputs_G: Tensor
    targets: Tensor
    learner_K: list[int]


def evidence(table: Bench, members: Sequence[Run]) -> Evidence:
    """Return what members predict for rows that they did not train on, to choose by.

    Where they share their validation rows, each is a learner.  Where each has its own, those that
    differ in seed and fold alone are one: for every row it has the mean of those that did not train
    on it.  Rows count where every learner has a prediction.

    Raises:
        EmptyError: where there is no such row.
    """
    if len({run.split_hash for run in members}) == 1:
        outputs_K = table.outputs(members, "val")
        targets = table.targets("val", table.own(members[0]))
        return Evidence(outputs_K, targets, list(range(len(members))))
    told = table.out_of_fold(members)
    keys = [_learner(run) for run in members]
    place = {key: g for g, key in enumerate(dict.fromkeys(keys))}
    learner_K = [place[key] for key in keys]
    outputs = []
    for g in range(len(place)):
        own = [k for k, learner in enumerate(learner_K) if learner == g]
        own_told = replace(told, outputs_K=told.outputs_K[own], unseen_KN=told.unseen_KN[own])
        outputs.append(own_told.pooled())
    outputs_G = torch.stack(outputs)
    known_N = ~outputs_G.isnan().view(*outputs_G.shape[:2], -1).any(dim=-1).any(dim=0)
    if not bool(known_N.any()):
        raise EmptyError(
            "members of several folds are chosen by rows that all settings have predictions for, "
            "however there is no such row; train as many seeds as there are folds"
        )
    return Evidence(outputs_G[:, known_N], told.targets_N[known_N], learner_K)


def _learner(run: Run) -> str:
    """Return what members that learn the same from other rows have in common."""
    config = {key: value for key, value in run.config.items() if key not in NOT_LEARNT}
    data = dict(config["data"])
    fold, folds = data.pop("fold", None), data.get("folds")
    repeat = fold // folds if folds else None
    epoch = run.checkpoint.epoch if isinstance(run, Snapshot) else None
    return digest([config | {"data": data}, repeat, epoch])
