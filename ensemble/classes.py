"""A class of students: trained together, and the one found that has learnt best."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ensemble.distillation import learn, learnt
from zoo.checks import build
from zoo.data import Data
from zoo.inference import Inference
from zoo.models import restore
from zoo.objective import objective
from zoo.reports import Epoch, Finished, Member, Pass
from zoo.setup import default_device
from zoo.teaching import Teacher
from zoo.training import Event, Teaching

Watch = Callable[[Event], None]


@dataclass(frozen=True)
class Student:
    """One that was trained: how, and what came of it.

    Attributes:
        member: what was to be trained.
        end: what came of it; losses are of what it learnt from, its teachers' word included.
        history: its epochs.
        val_loss: of its best weights, by the targets of the validation rows alone.
    """

    member: Member
    end: Finished
    history: list[Epoch]
    val_loss: float | None


def trained(
    what: str,
    members: Sequence[Member],
    data: Data,
    teacher: Teacher | None,
    watch: Watch,
) -> list[Student]:
    """Train members to their end, and tell who watches."""
    histories: dict[str, list[Epoch]] = {member.key: [] for member in members}
    watch(Teaching(what, data.task, {m.key: m.config.train.epochs for m in members}))

    def follow(happened: Pass) -> None:
        for epoch in happened.epochs:
            histories[epoch.key].append(epoch)
        watch(happened)

    ended = learn(members, data, teacher, follow)
    return [
        Student(
            member,
            end,
            histories[member.key],
            None if end.state is None else _loss(member, end.state, data),
        )
        for member, end in zip(members, ended, strict=True)
    ]


def best_of(students: Sequence[Student]) -> Student:
    """Return who has, on the validation rows, the lowest loss of what it learnt from.

    With teachers that is their predictions too, and not the targets alone: these are noisy, and a
    few hundred of them tell hardly which student has understood more.

    Raises:
        DivergedError: where all have diverged.
    """
    done = learnt([student.end for student in students])
    return students[min(done, key=lambda each: each[1].val_loss)[0]]


@torch.no_grad()
def _loss(member: Member, state: Mapping[str, Tensor], data: Data) -> float:
    """Measure the loss of the targets of the validation rows."""
    device, module = default_device(), build(member.config.model, data, member.seed)
    restore(module, state)
    outputs_1NC = Inference([module.to(device)], data.prepare)(data.val.x.to(device))
    return float(objective(data.task).loss(outputs_1NC[0], data.val.y.to(device)))
