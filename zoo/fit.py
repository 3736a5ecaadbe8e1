"""The one training loop: many members in the slots of a stack, each on its own clock.

Every member has its own epoch counter, data order, hyper-parameters and early stopping.  A member
that stops gives its slot to the next one waiting, so the cost follows the epochs that are needed
and not the slowest member.  What a member becomes is a function of its settings and its seed: it
does not depend on who trains beside it, but for the last bits of sums, which are each width's own.

The stack is one; its rows are shared out to lanes, threads that train one epoch each without a word
to the others.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict
from threading import Event
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor

from zoo.choice import Choice, bounds, threads
from zoo.config import RunConfig
from zoo.data import Data
from zoo.engines import EngineName
from zoo.errors import MismatchError
from zoo.gradient import Restraints
from zoo.judging import begin, epoch_of, finish, judge, keep, seen_as
from zoo.lane import Lane
from zoo.reports import Epoch, Member, Pass, Source
from zoo.setup import Setup
from zoo.slots import Slot
from zoo.state import TrainState
from zoo.supply import Supply, nobody
from zoo.teaching import Teacher

T = TypeVar("T")


class Fit:
    """The training of some members that share a :func:`~zoo.checks.shape_key`.

    Iterating trains; each :class:`~zoo.reports.Pass` reports one epoch of everyone in the stack.
    """

    def __init__(
        self,
        members: Sequence[Member],
        data: Data,
        *,
        engine: EngineName | Literal["auto"] = "auto",
        width: int | None = None,
        device: torch.device | str | None = None,
        choice: Choice | None = None,
        teacher: Teacher | None = None,
        supply: Supply | None = None,
    ) -> None:
        """Build the first stack and choose how to compute it.

        Args:
            members: to be trained, in this order; they are what engines are measured on.
            data: what they learn from.
            engine: ``auto`` measures both and takes the faster.
            width: the most members at once; by default as many as pay and fit into memory.
            device: by default the GPU, where there is one.
            choice: how to compute, where that is known already.
            teacher: whose predictions they learn from, besides the targets or instead of them.
            supply: gives those to train, where they are not just the ``members``: others may train
                some of these, perhaps all.

        Raises:
            ConfigError: where settings do not suit each other or the data.
        """
        self.setup = Setup(members[0], data, device, teacher)
        most = width or most_at_once(self.setup.device)
        choice = choice or self.setup.choose(engine, members[:most], width)
        self.choice = choice
        self.halt = Event()
        self.engine = self.setup.engine(choice.engine)
        self.waiting = Supply(members) if supply is None else supply
        count = min(width or choice.width, len(members))
        self.slots: list[Slot | None] = [Slot(member) for member in self.waiting.take(count)]
        if self.slots:
            self._assemble()

    def __iter__(self) -> Iterator[Pass]:
        """Train until every member has ended."""
        lanes = self.choice.lanes
        with ThreadPoolExecutor(lanes, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            while any(self.slots):
                with threads(self.choice.threads), self.setup.own_randomness():
                    happened = self._pass(pool)
                yield happened

    def snapshot(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return all that is needed to go on from here, between two passes: tensors, and JSON.

        Before the first pass there are no tensors: all follows from the members.
        """
        begun = any(slot.epoch for slot in self.slots if slot)
        tensors = self.state.rows() if begun else {}
        for k, slot in enumerate(self.slots):
            for i, kept in enumerate(slot.top if slot else ()):
                tensors |= {f"top.{k}.{i}.{name}": value for name, value in kept.state.items()}
        note = {
            "choice": asdict(self.choice),
            "slots": [slot and slot.note() for slot in self.slots],
            "waiting": [member.key for member in self.waiting],
        }
        return tensors, note

    @classmethod
    def resume(
        cls,
        members: Mapping[str, Member],
        data: Data,
        tensors: Mapping[str, Tensor],
        note: Mapping[str, Any],
        more: Callable[[int], list[Member]] = nobody,
        **options: Any,
    ) -> "Fit":
        """Go on from a :meth:`snapshot`; on a CPU, the weights come out the same to the last bit.

        Args:
            members: those of the snapshot by their keys; where others were, the waiting go on.
            data: as it was.
            tensors: as they were.
            note: as it was.
            more: claims others when slots are free.
            options: ``device``, ``teacher``.
        """
        waiting = Supply([members[key] for key in note["waiting"] if key in members], more)
        keys = [slot and slot["key"] for slot in note["slots"]]
        kept = [k for k, key in enumerate(keys) if key in members]
        slots = [Slot(members[key]) if key in members else None for key in keys]
        fresh = iter(waiting.take(slots.count(None)))
        slots = [slot or next(map(Slot, fresh), None) for slot in slots]
        there = [slot.member for slot in slots if slot]
        fit = cls([*there, *waiting], data, choice=Choice(**note["choice"]), **options)
        fit.waiting = waiting
        fit.slots = slots
        fit._assemble()
        if tensors:
            _put_back(fit.state.rows(), tensors, kept)
        for k, (told, slot) in enumerate(zip(note["slots"], slots, strict=True)):
            if slot and k in kept:
                prefixes = [f"top.{k}.{i}." for i in range(len(told["top"]))]
                slot.recall(told, [_below(tensors, prefix) for prefix in prefixes])
        return fit

    @torch.no_grad()
    def _pass(self, pool: ThreadPoolExecutor) -> Pass:
        """Train every member in the stack for one epoch, evaluate, and refill free slots."""
        setup, configs = self.setup, self._configs()
        happened = Pass(self._weigh_given(), [], [])
        trained = self._each(
            pool,
            lambda lane: lane.train(setup.train, setup.batch_size, setup.config.train.accumulate),
        )
        for trained_slot in filter(None, self.slots):
            trained_slot.epoch += 1
        epochs = [slot.epoch if slot else 0 for slot in self.slots]
        for average in self.state.running.values():
            average.after_epoch(self.state.stack, epochs, configs)
        begun = [name for name, a in self.state.running.items() if a.count_K.any()]
        measured = self._each(
            pool, lambda lane: lane.measure(setup.val, setup.train.x, ["weights", *begun])
        )
        train_3K = self._reported([totals_3K for totals_3K, _ in trained])
        rates = [rate for _, lane_rates in trained for rate in lane_rates]
        val_FK = {name: self._reported([lane[name] for lane in measured]) for name in measured[0]}
        finite_K = train_3K[:2].isfinite().all(0) & val_FK["weights"].isfinite().all(0)
        judged = judge(self.state, configs, val_FK, finite_K)
        for k, slot in enumerate(self.slots):
            if slot is None:
                continue
            val = {
                name: tuple(figures[:, k].tolist())
                for name, figures in val_FK.items()
                if name == "weights" or self.state.running[name].count_K[k]
            }
            epoch = epoch_of(slot, rates[k], train_3K[:, k].tolist(), val)
            happened.epochs.append(epoch)
            slot.losses.append(epoch.val_loss)
            if judged.improved[k]:
                slot.best = seen_as(epoch, judged.source[k])
            if finite_K[k]:
                kept = keep(self.state, k, slot, epoch, judged.source[k])
                happened.kept.extend((slot.member.key, weights) for weights in kept)
            done = slot.epoch >= slot.member.config.train.epochs
            if done or judged.stop[k] or judged.diverged[k]:
                end = finish(self.state, k, slot, epoch, diverged=judged.diverged[k])
                happened.finished.append(end)
                self.slots[k] = None
        if self._refill() or happened.finished:
            self._shrink()
            self._layout()
        return happened

    def _each(self, pool: ThreadPoolExecutor, work: Callable[[Lane], T]) -> list[T]:
        """Do the work of every lane; a single one does it here, with threads of its own inside."""
        if len(self.lanes) == 1:
            return [work(self.lanes[0])]
        working = [pool.submit(work, lane) for lane in self.lanes]
        try:
            for done in as_completed(working):
                done.result()
            return [done.result() for done in working]
        except BaseException:
            self.halt.set()  # the others would go on to the end of their epoch
            raise

    def _reported(self, parts: Sequence[Tensor]) -> Tensor:
        """Join what lanes measured, losses and scores first; return losses and metrics."""
        loss_K, score_K, *others = torch.cat(list(parts), dim=1)
        return torch.stack([loss_K, self.setup.objective.report(score_K), *others]).cpu()

    def _weigh_given(self) -> list[Epoch]:
        """Measure members that start from trained weights."""
        fresh = [k for k, s in enumerate(self.slots) if s and s.given and not s.epoch]
        if not fresh:
            return []
        val = self.setup.val
        val_FK = self._reported(
            [lane.measure(val, self.setup.train.x)["weights"] for lane in self.lanes]
        )
        return [
            begin(self.state, k, slot, tuple(val_FK[:, k].tolist()))
            for k in fresh
            if (slot := self.slots[k]) and val_FK[:, k].isfinite().all()
        ]

    def _refill(self) -> bool:
        """Give free slots to waiting members; say whether there were any."""
        free = [k for k, slot in enumerate(self.slots) if slot is None]
        fresh = self.waiting.take(len(free))
        for k, member in zip(free, fresh, strict=False):
            self.slots[k] = Slot(member)
            self.state.put(k, member, self.setup.build(member))
        return bool(fresh)

    def _shrink(self) -> None:
        """Go on without the empty slots; where another width is another program, once half are."""
        occupied = [k for k, slot in enumerate(self.slots) if slot is not None]
        most = len(self.slots) // 2 if self.engine.records else len(self.slots) - 1
        if 0 < len(occupied) <= most:
            self.slots = [self.slots[k] for k in occupied]
            self.state.take(occupied)
            self._share_out()

    def _assemble(self) -> None:
        """Put the members of the slots into a new stack; an empty slot's values have no meaning."""
        someone = next(slot.member for slot in self.slots if slot)
        members = [slot.member if slot else someone for slot in self.slots]
        self.state = TrainState(members, [self.setup.build(member) for member in members])
        self._share_out()
        self._layout()

    def _share_out(self) -> None:
        """Give each lane its views of the members and of their averages."""
        names: list[Source] = ["weights", *self.state.running]
        self.views = [
            (a, b, {name: self.state.source(name).narrow(a, b) for name in names})
            for a, b in bounds(len(self.slots), self.choice.lanes)
        ]

    def _layout(self) -> None:
        """Collect what the members ask of their lanes."""
        configs, device = self._configs(), self.setup.device
        self.lanes = []
        for a, b, stacks in self.views:
            train = [config.train for config in configs[a:b]]
            decays = [config.keep.ema or 1.0 for config in configs[a:b]]
            rate_K1 = 1 - torch.tensor(decays, device=device).unsqueeze(1)
            ema = self.state.running.get("ema")
            self.lanes.append(
                Lane(
                    a,
                    self.slots[a:b],
                    stacks,
                    self.engine,
                    self.state.optimiser,
                    Restraints.of(train, device),
                    (ema, rate_K1) if ema else None,
                    self.setup.knobs(train),
                    self.setup.augment,
                    self.setup.lesson,
                    self.halt,
                )
            )

    def _configs(self) -> list[RunConfig]:
        """Return the settings of every slot; those of an empty one have no meaning."""
        return [slot.member.config if slot else self.setup.config for slot in self.slots]


def most_at_once(device: torch.device) -> int:
    """Say how many slots a stack has at most: beyond 64 a CPU gains little, and memory goes."""
    return 1024 if device.type == "cuda" else 64


def _put_back(
    rows: Mapping[str, Tensor], tensors: Mapping[str, Tensor], members: Sequence[int]
) -> None:
    """Overwrite the given members by what was saved of them.

    Raises:
        MismatchError: where it is of another model: code may have changed meanwhile.
    """
    for name, row in rows.items():
        if name not in tensors or tensors[name].shape != row.shape:
            raise MismatchError(
                f"a state goes on in the model it was saved of, however that model has changed: "
                f"{name!r} is {tuple(row.shape)} and was "
                f"{tuple(tensors[name].shape) if name in tensors else 'not there'}"
            )
    for name, row in rows.items():
        row[members] = tensors[name][members].to(row.device)


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
