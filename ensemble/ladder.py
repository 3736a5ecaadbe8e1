"""From weights that cannot be averaged to one model that can be used, rung by rung.

Every rung is what somebody who knows would try next: the average as it is; the average of aligned
members; the same with the members' statistics (REPAIR); the average of those members that improve
it.  Each is scored on validation rows, and the best one is the product, never worse there than the
best single model.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from ensemble.alignment import align
from ensemble.average import uniform
from ensemble.errors import SymmetryError
from ensemble.recalibration import recalibrate
from ensemble.repairing import repairer
from ensemble.responses import activations
from ensemble.soup import greedy_soup
from ensemble.state import State
from ensemble.symmetries import symmetry


@dataclass(frozen=True)
class Rung:
    """One step of the ladder.

    Attributes:
        name: ``best single``, ``naive``, ``aligned``, ``repaired`` or ``soup``.
        state: what was made.
        figures: its figures on the validation rows.
        used: the members that are in it.
    """

    name: str
    state: State
    figures: Mapping[str, float]
    used: tuple[int, ...]


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


def climb(
    module: nn.Module,
    states: Sequence[State],
    batches: Sequence[Tensor],
    figures: Callable[[State], Mapping[str, float]],
    worth: Callable[[Mapping[str, float]], float],
) -> Ladder:
    """Make one state of several, whatever their origin.

    Members whose average loses nothing, such as those that share their first weights, are not
    aligned: they have one order of units already.

    Args:
        module: lends its architecture, and is left as it was.
        states: the members; the others are aligned to the first.
        batches: training inputs, rows first, on the device of the states.
        figures: validation figures of a state, ``val_loss`` among them.
        worth: what figures are worth; the higher the better, minus infinity for what must not be.

    Raises:
        EnsembleError: as :func:`~ensemble.average.uniform` and
            :func:`~ensemble.repairing.repair` do.
    """
    everyone = tuple(range(len(states)))
    told = [figures(state) for state in states]
    first = max(everyone, key=lambda k: worth(told[k]))
    rungs = [Rung("best single", states[first], told[first], (first,))]
    notes: list[str] = []

    def tread(name: str, state: State, used: Sequence[int] = everyone) -> Rung:
        rungs.append(Rung(name, state, figures(state), tuple(used)))
        return rungs[-1]

    naive = tread("naive", recalibrate(module, uniform(states), batches))
    members: Sequence[State] = states
    if naive.figures["val_loss"] > sum(each["val_loss"] for each in told) / len(told):
        try:
            found = symmetry(module, batches[0][:2])
            members = align(states, found, activations=activations(module, states, batches, found))
        except SymmetryError as error:
            notes.append(f"Members were not aligned: {error}.")
        else:
            tread("aligned", recalibrate(module, uniform(members), batches))
            if found.unknown:
                notes.append(f"Frozen, because not understood: {', '.join(found.unknown)}.")
    fix = repairer(module, members, batches)
    tread("repaired", fix(uniform(members)))
    scored = {id(state): worth(told[k]) for k, state in enumerate(members)}

    def score(state: State) -> float:
        return scored[id(state)] if id(state) in scored else worth(figures(fix(state)))

    soup = greedy_soup(members, score)
    if 1 < len(soup.members) < len(members):
        tread("soup", fix(soup), soup.members)
    best = max(rungs, key=lambda rung: worth(rung.figures))  # the first of equals
    return Ladder(tuple(rungs), best, tuple(notes))
