"""From weights that cannot be averaged to one model that can be used, rung by rung.

Every rung is what somebody who knows would try next: the average as it is; the average of aligned
members; the same with the members' statistics (REPAIR); the average of those members that improve
it; a short distillation that starts from what was made.  Each is scored on validation rows, and the
best one is the product, never worse there than the best single model.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn

from ensemble import alignment
from ensemble.average import uniform
from ensemble.errors import DivergedError, OptionError, SymmetryError, nearest
from ensemble.recalibration import recalibrate
from ensemble.repairing import repairer
from ensemble.responses import activations
from ensemble.soup import greedy_soup
from ensemble.state import State
from ensemble.symmetries import Symmetry, symmetry

STEPS: Mapping[str, tuple[bool | str, ...]] = {  # what may be chosen, the default first
    "align": ("auto", True, False),
    "repair": (True, False),
    "heal": (False, True),
}


@dataclass(frozen=True)
class Rung:
    """One step of the ladder.

    Attributes:
        name: ``best single``, ``naive``, ``aligned``, ``repaired``, ``soup`` or ``healed``.
        state: what was made.
        figures: its figures on the validation rows.
        used: the members that are in it.
        epochs: of training that it took beyond theirs.
    """

    name: str
    state: State
    figures: Mapping[str, float]
    used: tuple[int, ...]
    epochs: int = 0


@dataclass(frozen=True)
class Ladder:
    """All rungs that were climbed, and why others were not.

    Attributes:
        rungs: in the order they were tried, the best single model first.
        best: the one that is the product.
        notes: in sentences, what could not be done.
    """

    rungs: tuple[Rung, ...]
    best: Rung
    notes: tuple[str, ...]


def steps(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is chosen of the ladder's steps: as given, or else the default.

    Raises:
        OptionError: for a step that there is not, or a value that it does not take.

    >>> steps({"heal": True})
    {'align': 'auto', 'repair': True, 'heal': True}
    >>> steps({"align": "no"})
    Traceback (most recent call last):
    ensemble.errors.OptionError: align must be auto, true or false, however it is 'no'
    """
    chosen: dict[str, Any] = {name: choices[0] for name, choices in STEPS.items()}
    for name, value in given.items():
        if name not in STEPS:
            raise OptionError(
                f"the ladder has no option {name!r}{nearest(name, STEPS)}; those of a method need "
                "its name, as --method"
            )
        if not any(value == choice and type(value) is type(choice) for choice in STEPS[name]):
            *others, last = map(written, STEPS[name])
            raise OptionError(
                f"{name} must be {', '.join(others)} or {last}, however it is {value!r}"
            )
        chosen[name] = value
    return chosen


def written(choice: bool | str) -> str:
    """Write a choice as a user does."""
    return choice if isinstance(choice, str) else json.dumps(choice)


def climb(
    module: nn.Module,
    states: Sequence[State],
    batches: Sequence[Tensor],
    figures: Callable[[State], Mapping[str, float]],
    worth: Callable[[Mapping[str, float]], float],
    *,
    align: bool | str = "auto",
    repair: bool = True,
    heal: Callable[[State], tuple[State, int]] | None = None,
) -> Ladder:
    """Make one state of several, whatever their origin.

    Members whose average loses nothing, such as those that share their first weights, are not
    aligned by ``auto``: they have one order of units already.

    Args:
        module: lends its architecture, and is left as it was.
        states: the members; the others are aligned to the first.
        batches: training inputs, rows first, on the device of the states.
        figures: validation figures of a state, ``val_loss`` among them.
        worth: what figures are worth; the higher the better, minus infinity for what must not be.
        align: whether members are aligned; ``auto`` finds out whether they need to be.
        repair: whether averages are given the statistics of all members, a soup of some of them
            too, and not BatchNorm's alone.
        heal: trains a state on, and returns what came of it and for how many epochs; it is given
            the average of the lowest loss.

    Raises:
        EnsembleError: as :func:`~ensemble.average.uniform` and
            :func:`~ensemble.repairing.repair` do.
    """
    everyone = tuple(range(len(states)))
    told = [figures(state) for state in states]
    first = max(everyone, key=lambda k: worth(told[k]))
    notes: list[str] = []

    def rung(name: str, state: State, used: Sequence[int] = everyone, epochs: int = 0) -> Rung:
        return Rung(name, state, figures(state), tuple(used), epochs)

    naive = rung("naive", recalibrate(module, uniform(states), batches))
    rungs = [Rung("best single", states[first], told[first], (first,)), naive]

    def fixer(order: Sequence[State]) -> Callable[[State], State]:
        if repair:
            return repairer(module, order, batches)
        return partial(recalibrate, module, batches=batches)

    members: Sequence[State] = states
    fix: Callable[[State], State] | None = None
    loses = naive.figures["val_loss"] > sum(each["val_loss"] for each in told) / len(told)
    if loses if align == "auto" else align:
        try:
            found = symmetry(module, batches[0][:2])
            orders = matched(module, states, batches, found)
        except SymmetryError as error:
            notes.append(f"Members were not aligned: {error}.")
        else:
            kind = "repaired" if repair else "aligned"
            fixers = {way: fixer(order) for way, order in orders.items()}
            tops = {way: rung(kind, fixers[way](uniform(order))) for way, order in orders.items()}
            way = min(tops, key=lambda way: tops[way].figures["val_loss"])
            members, fix = orders[way], fixers[way]
            if repair:
                rungs.append(rung("aligned", recalibrate(module, uniform(members), batches)))
            rungs.append(tops[way])
            each = ", ".join(f"{top.figures['val_loss']:.3g} by {by}" for by, top in tops.items())
            notes.append(
                f"Units are matched by {way}; validation loss of the {kind} average: {each}."
            )
            if found.unknown:
                notes.append(f"Frozen, because not understood: {', '.join(found.unknown)}.")
    if fix is None:
        fix = fixer(members)
        if repair:
            rungs.append(rung("repaired", fix(uniform(members))))
    scored = {id(state): worth(told[k]) for k, state in enumerate(members)}

    def score(state: State) -> float:
        return scored[id(state)] if id(state) in scored else worth(figures(fix(state)))

    soup = greedy_soup(members, score)
    if 1 < len(soup.members) < len(members):
        rungs.append(rung("soup", fix(soup), soup.members))
    if heal is not None:
        start = min(rungs[1:], key=lambda each: each.figures["val_loss"])
        try:
            state, epochs = heal(start.state)
        except DivergedError as error:
            notes.append(f"Nothing was healed: {error}.")
        else:
            rungs.append(rung("healed", state, epochs=epochs))
    best = max(rungs, key=lambda each: worth(each.figures))  # the first of equals
    return Ladder(tuple(rungs), best, tuple(notes))


def matched(
    module: nn.Module, states: Sequence[State], batches: Sequence[Tensor], found: Symmetry
) -> dict[str, list[dict[str, Tensor]]]:
    """Put the units of members in one order, in both ways that can turn out to be the better.

    ``activations`` match what layers read to that of the first member; ``weights`` go on from
    there by MergeMany.  Weights were better in MLPs and CNNs, and far worse in a ResNet with
    BatchNorm (``benchmarks/alignment.py``).
    """
    read = activations(module, states, batches, found)
    first = alignment.align(states, found, activations=read)
    return {"activations": first, "weights": alignment.align(first, found, strategy="mean")}
