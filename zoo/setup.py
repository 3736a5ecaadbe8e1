"""What stays while members train: data on the device, the objective, how members are built."""

import copy
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from zoo import augment, models, teaching
from zoo.checks import batch_size, build, check
from zoo.choice import Choice, Race, choose
from zoo.data import Data, Part
from zoo.engines import Engine, EngineName
from zoo.lane import gather
from zoo.memory import COPIES, Footprint, most_members
from zoo.objective import balance, objective
from zoo.reports import Member
from zoo.sections import TrainConfig
from zoo.sequential import Sequential
from zoo.stack import stack
from zoo.stacked import Stacked
from zoo.teaching import Lesson, Teacher, lesson, with_teacher
from zoo.weighting import class_weights


class Setup:
    """Where and from what some members that share a :func:`~zoo.checks.shape_key` learn.

    Attributes:
        config: the settings of one of them; what they share is read from here.
        train, val: the rows, on the device.
        lesson: what a teacher says of them, where there is one.
    """

    def __init__(
        self,
        member: Member,
        data: Data,
        device: torch.device | str | None,
        teacher: Teacher | None = None,
    ) -> None:
        """Check the settings, move the data, and ask the teacher.

        Raises:
            ConfigError: where settings do not suit each other or the data.
        """
        self.config = member.config
        check(self.config, data, module=member.module)
        self.data = data
        self.device = torch.device(device) if device else default_device()
        metrics = [monitor.metric for monitor in self.config.stop.monitors]
        balance_C = None
        if "balanced_accuracy" in metrics:  # the last classes may have no row that validates
            count_C = torch.bincount(data.val.y, minlength=len(data.classes))
            balance_C = balance(count_C).to(self.device)
        self.objective = objective(data.task, data.units(self.device), balance_C)
        self.train, self.val = (
            Part(part.x.to(self.device), part.y.to(self.device)) for part in (data.train, data.val)
        )
        self.lesson: Lesson | None = None
        if teacher is not None:
            teaching.check(teacher, data.task)
            self.objective = with_teacher(self.objective, data.task, teacher)
            changed = bool(self.config.train.mixup or self.config.augment.asked)
            rows = (self.train.x, self.val.x)
            self.lesson = lesson(teacher, *rows, data.prepare, changed=changed)
        self.batch_size = batch_size(self.config, data)
        self.example = self.build(member)
        self.engines: dict[EngineName, Engine] = {}

    def build(self, member: Member) -> nn.Module:
        """Build a member as it is before training."""
        init = member.config.init
        seed = init.seed if init.mode == "shared" else member.seed
        if member.module is not None:
            module = copy.deepcopy(member.module)
        else:
            module = build(member.config.model, self.data, seed)
        if member.state is not None:
            models.restore(module, member.state)
        return module.to(self.device)

    def engine(self, name: EngineName) -> Engine:
        """Return the engine of that name; all lanes share it, and what it has recorded."""
        if name not in self.engines:
            kind = Stacked if name == "stacked" else Sequential
            precision = self.config.train.precision
            self.engines[name] = kind(self.example, self.objective, precision, self.data.prepare)
        return self.engines[name]

    @torch.no_grad()
    def choose(
        self, name: EngineName | Literal["auto"], members: Sequence[Member], width: int | None
    ) -> Choice:
        """Return how to compute: by the engine of that name, or by the fastest on these shapes.

        Args:
            name: of an engine, or ``auto``.
            members: as many of those to be trained as may be in a stack.
            width: how many shall be at once; by default as many as pay and fit into memory.
        """
        names: list[EngineName] = ["stacked", "sequential"] if name == "auto" else [name]
        with self.own_randomness():
            count = len(members) if width else min(len(members), self._room(members[0]))
            race = self._race(members[:count])
            steps = self.config.train.epochs * -(-len(self.train) // self.batch_size)
            return choose(race, {name: self.engine(name) for name in names}, steps)

    def knobs(self, trains: Sequence[TrainConfig]) -> dict[str, Tensor]:
        """Return what the loss takes of members with these settings, whatever the batch.

        That is ``smoothing`` (K,) and ``weight_C`` (K, C), each where anyone asks for it.
        """
        knobs = {}
        if self.config.train.label_smoothing:
            smoothing = [train.label_smoothing for train in trains]
            knobs["smoothing"] = torch.tensor(smoothing, device=self.device)
        if self.config.train.class_weights:
            weights = [class_weights(train, self.data) for train in trains]
            knobs["weight_C"] = torch.stack(weights).to(self.device)
        return knobs

    @property
    def augment(self) -> Callable[[Tensor, Tensor], Tensor] | None:
        """What changes the images of a batch at random, where settings ask for it."""
        settings = self.config.augment
        if not settings.asked:
            return None
        levels = augment.black_and_white(self.data.preprocessing)
        return partial(augment.augment, settings=settings, levels=levels)

    def own_randomness(self) -> AbstractContextManager[None]:
        """Leave PyTorch's global generators as they were: a user may draw from them too."""
        devices = [self.device] if self.device.type == "cuda" else []
        return torch.random.fork_rng(devices)

    def _race(self, members: Sequence[Member]) -> Race:
        """Return members and a batch for each, to measure on."""
        train = self.config.train
        size = -(-self.batch_size // train.accumulate)
        index_KN = torch.arange(size, device=self.device).expand(len(members), -1)
        x_KN, y_KN = gather(self.train, index_KN)
        knobs = self.knobs([member.config.train for member in members])
        if train.mixup:
            half_K = torch.full((len(members),), 0.5, device=self.device)
            knobs |= {"mix": half_K, "mate_N": y_KN.flip(1)}
        x_KN = self.data.prepare(x_KN)
        if self.lesson is not None:
            knobs["taught_N"] = self.lesson.taught(x_KN, index_KN)
        modules = [self.build(member) for member in members]
        return Race(stack(modules), x_KN, y_KN, knobs)

    def _room(self, member: Member) -> int:
        """Say how many members fit into the memory of the device."""
        race = self._race([member])
        seed_1 = torch.zeros(1, dtype=torch.int64, device=self.device)
        with Footprint() as footprint:
            self.engine("sequential").step(race.stack, race.x_KN, race.y_KN, seed_1, race.knobs)
        copies = COPIES + (self.config.keep.lawa or 0)
        return most_members(footprint.bytes + copies * race.stack.flat_KP.nbytes, self.device)


def default_device() -> torch.device:
    """Return the GPU, where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
