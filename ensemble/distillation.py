"""Distillation: one small model that predicts as a teacher does, usually an ensemble.

The students are trained by the loop that trains everything else (:mod:`zoo.fit`), all at once, on
what the teacher says of the very inputs they see; :mod:`zoo.teaching` has the loss and its sources.
Early stopping watches the true targets of the validation rows, and the best student by these is
kept.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ensemble.errors import DivergedError, EmptyError, EnsembleError, NonFiniteError
from ensemble.predictions import mean, pooled
from ensemble.state import State, check
from zoo.config import parse
from zoo.data import Data, Part, of_tensors
from zoo.engines import portions
from zoo.fit import Fit
from zoo.models import restore
from zoo.objective import objective
from zoo.reports import Epoch, Finished, Member, Pass
from zoo.sections import Task
from zoo.stack import stack
from zoo.stacked import Stacked
from zoo.teaching import Teacher

Rows = tuple[Tensor, Tensor]
Ask = Callable[[Tensor], Tensor]


class Distilled(dict[str, Tensor]):
    """A state that remembers how it was learnt; as a dict it loads like any other.

    ``student`` is the number of the one that learnt it, ``epoch`` when, from 1 on, or 0 where the
    weights that it started from were never bettered; ``epochs`` counts those of all students, and
    ``val_loss`` is of the true targets.
    """

    def __init__(self, state: State, student: int, epoch: int, epochs: int, val_loss: float):
        super().__init__(state)
        self.student = student
        self.epoch = epoch
        self.epochs = epochs
        self.val_loss = val_loss


def distill(
    students: nn.Module | Sequence[nn.Module],
    teacher: Ask,
    train: Rows,
    val: Rows,
    *,
    task: Task = "classification",
    temperature: float = 1.0,
    labels: float = 0.0,
    noise: float = 0.0,
    settings: Mapping[str, Any] | None = None,
) -> Distilled:
    """Teach students, all at once, and return the weights of the best one by validation.

    Args:
        students: modules of one architecture, each with the weights it starts from, which are left
            as they are.
        teacher: maps inputs (N, *shape), on the students' device, to float32 log-probabilities
            (N, C) of classes, log-odds (N, L) of labels, or values (N,) or (N, T); several threads
            may call it at once.  :func:`members_as_teacher` makes one.
        train: inputs float32 (N, *shape), and targets: int64 (N,) classes, float32 (N, L) zeros
            and ones, or float32 (N,) or (N, T) values.
        val: the same; its targets alone decide when to stop and who is best.
        task: ``classification``, ``multilabel`` or ``regression``.
        temperature: softens what both predict, for classes and labels (Hinton et al. 2015).
        labels: the share of the true targets in the loss, from 0 to 1.
        noise: the standard deviation of what is added to inputs; the teacher is asked about these.
        settings: of the training, nested as a TOML file has them, such as
            ``{"train": {"epochs": 20, "mixup": 1.0}, "optim": {"lr": 0.01}}``.

    Raises:
        EmptyError: without students.
        ConfigError: for settings that are unknown, or do not suit the module or the rows.
        NonFiniteError: where the teacher predicts NaN for a validation row.
        DivergedError: where every student diverges.
        EnsembleError: for targets that do not belong to the rows or the task.

    >>> _ = torch.manual_seed(0)
    >>> x, line = torch.randn(256, 3), nn.Linear(3, 1)
    >>> y = line(x).detach().squeeze(1)
    >>> state = distill(nn.Linear(3, 1), line, (x, y), (x, y), task="regression",
    ...                 settings={"optim": {"lr": 0.05}})
    >>> torch.allclose(state["weight"], line.weight, atol=0.05)
    True
    """
    modules = [students] if isinstance(students, nn.Module) else list(students)
    if not modules:
        raise EmptyError("there must be a student, however none was given")
    data = _data(modules[0], train, val, task)
    config, _ = parse({**(settings or {}), "data": {"ref": data.ref}}).cells[0]
    members = [
        Member(str(k), config, k, module.state_dict(), module=module)
        for k, module in enumerate(modules)
    ]
    device = next(modules[0].parameters()).device

    def ask(x_N: Tensor) -> Tensor:
        with torch.no_grad():
            return teacher(x_N)

    _hear(ask, data, device)
    ended = learn(members, data, Teacher(ask, temperature, labels, noise), device=device)
    return graduate(ended, data)


def members_as_teacher(module: nn.Module, states: Sequence[State], task: Task) -> Ask:
    """Return the function from inputs, on the module's device, to the mean prediction of members.

    Args:
        module: lends its architecture, and is left as it was.
        states: the members.
        task: which it is.

    Raises:
        StateMismatchError: for states that do not fit each other.

    >>> states = [{"weight": torch.tensor([[1.0]])}, {"weight": torch.tensor([[3.0]])}]
    >>> ask = members_as_teacher(nn.Linear(1, 1, bias=False), states, "regression")
    >>> ask(torch.tensor([[1.0], [2.0]]))
    tensor([[2.],
            [4.]])
    """
    modules = []
    for state in check(states):
        twin = copy.deepcopy(module)
        restore(twin, state)
        modules.append(twin)
    members, engine = stack(modules), Stacked(modules[0], objective(task))

    @torch.no_grad()
    def ask(x_N: Tensor) -> Tensor:
        return pooled(mean, engine.outputs(members, x_N), task)

    return ask


def learn(
    members: Sequence[Member],
    data: Data,
    teacher: Teacher | None,
    watch: Callable[[Pass], None] = lambda happened: None,
    device: torch.device | None = None,
) -> list[Finished]:
    """Train members to their end; return what is left of them, in their order."""
    ended: dict[str, Finished] = {}
    for happened in Fit(members, data, teacher=teacher, device=device):
        watch(happened)
        ended |= {end.key: end for end in happened.finished}
    return [ended[member.key] for member in members]


def graduate(ended: Sequence[Finished], data: Data) -> Distilled:
    """Return the student with the best metric of the validation rows, of equals the lower loss.

    The metric is balanced accuracy where that was watched, as for ``@best``.

    Raises:
        DivergedError: where all have diverged.
    """
    sign = 1 if data.task == "regression" else -1

    def rank(learnt: tuple[int, Epoch]) -> tuple[float, float]:
        best = learnt[1]
        return sign * (best.val_balanced_accuracy or best.val_metric), best.val_loss

    k, best = min(learnt(ended), key=rank)
    state = ended[k].state
    assert state is not None
    return Distilled(state, k, best.epoch, sum(end.epochs for end in ended), best.val_loss)


def learnt(ended: Sequence[Finished]) -> list[tuple[int, Epoch]]:
    """Return the places of those that were trained to their end, each with its best epoch.

    Raises:
        DivergedError: where all have diverged.
    """
    told = [(k, end.best) for k, end in enumerate(ended) if end.best and end.status == "finished"]
    if not told:
        raise DivergedError(
            f"a student must learn, however all {len(ended)} diverged; try a smaller optim.lr"
        )
    return told


def _hear(ask: Ask, data: Data, device: torch.device) -> None:
    """Ask a teacher about the validation rows, and check what it says.

    Raises:
        EnsembleError: for another number of outputs than the student's.
        NonFiniteError: for NaN.
    """
    row = 0
    for x_N in portions(data.val.x):
        told_N = ask(x_N.to(device)).view(len(x_N), -1)
        if told_N.shape[1] != data.outputs:
            raise EnsembleError(
                f"teacher and student must have the same outputs, however they have "
                f"{told_N.shape[1]} and {data.outputs}"
            )
        bad_N = told_N.isnan().any(1)
        if bool(bad_N.any()):
            first = row + int(bad_N.int().argmax())
            raise NonFiniteError(
                f"a teacher must not predict NaN, however it does, first for validation row {first}"
            )
        row += len(x_N)


@torch.no_grad()
def _data(module: nn.Module, train: Rows, val: Rows, task: Task) -> Data:
    """Take tensors as data, once they are seen to belong together.

    Raises:
        EnsembleError: for another number of targets than of rows, or targets of another kind.
    """
    twin = copy.deepcopy(module).eval()
    outputs = twin(train[0][:1].to(next(twin.parameters()).device)).shape[-1]
    for name, (x_N, y_N) in (("train", train), ("val", val)):
        if len(x_N) != len(y_N) or not len(y_N):
            raise EnsembleError(
                f"{name} must have a target for every row, and a row, however it has {len(x_N)} "
                f"rows and {len(y_N)} targets"
            )
        if task == "classification":
            fits = y_N.dtype == torch.int64 and 0 <= int(y_N.min()) <= int(y_N.max()) < outputs
            wanted = f"int64 classes from 0 to {outputs - 1}"
        else:
            fits = y_N.dtype == torch.float32 and y_N[0].numel() == outputs
            wanted = f"float32, {outputs} a row"
        if not fits:
            raise EnsembleError(
                f"the targets of {task} must be {wanted}, however those of {name} are "
                f"{tuple(y_N.shape)} of {y_N.dtype}, from {y_N.min()} to {y_N.max()}"
            )
    return of_tensors(Part(*train), Part(*val), task, outputs)
