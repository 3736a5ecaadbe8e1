"""A class of students: trained together, and the one found that has learnt best."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from ensemble.distillation import learn
from ensemble.errors import DivergedError
from zoo.checks import build
from zoo.data import Data
from zoo.engines import portions
from zoo.models import restore
from zoo.objective import objective
from zoo.reports import Epoch, Finished, Member, Pass
from zoo.setup import default_device
from zoo.stack import stack
from zoo.stacked import Stacked
from zoo.teaching import Teacher, with_teacher
from zoo.training import Event, Teaching

Watch = Callable[[Event], None]


@dataclass(frozen=True)
class Student:
    """One that was trained: how, and what came of it."""

    member: Member
    end: Finished
    history: list[Epoch]


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
        Student(member, end, histories[member.key])
        for member, end in zip(members, ended, strict=True)
    ]


def best_of(students: Sequence[Student], data: Data, teacher: Teacher | None) -> Student:
    """Return who has, on the validation rows, the lowest loss of what it learnt from.

    With teachers that is their predictions too, and not the targets alone: these are noisy, and a
    few hundred of them tell hardly which student has understood more.

    Raises:
        DivergedError: where all have diverged.
    """
    done = [student for student in students if student.end.status == "finished"]
    if not done:
        raise DivergedError(
            f"a student must learn, however all {len(students)} diverged; try a smaller optim.lr"
        )
    losses = [student.end.best.val_loss for student in done if student.end.best]
    if teacher is not None:
        losses = _losses(done, data, teacher)
    return min(zip(losses, done, strict=True), key=lambda pair: pair[0])[1]


@torch.no_grad()
def _losses(students: Sequence[Student], data: Data, teacher: Teacher) -> list[float]:
    """Measure what students minimised, without noise, on the validation rows."""
    device = default_device()
    modules = []
    for student in students:
        assert student.end.state is not None  # it has finished
        module = build(student.member.config.model, data, student.member.seed)
        restore(module, student.end.state)
        modules.append(module.to(device))
    told = with_teacher(objective(data.task), data.task, teacher)
    x_N, y_N = data.val.x.to(device), data.val.y.to(device)
    outputs_KNC = Stacked(modules[0], told, prepare=data.prepare).outputs(stack(modules), x_N)
    taught_N = torch.cat([teacher.ask(data.prepare(x)) for x in portions(x_N)])
    return [float(told.loss(outputs_NC, y_N, taught_N=taught_N)) for outputs_NC in outputs_KNC]
