"""Greedy soup: the average of those members that each improve it on validation data.

Wortsman et al. 2022, Model soups, arXiv:2203.05482, Recipe 1.  Members are tried from the best
score to the worst, and member i stays if score((n S + θᵢ) / (n + 1)) > score(S).  The recipe has ≥;
the comparison here is strict, as in the authors' code: a tie says nothing for the newcomer.
"""

import math
from collections.abc import Callable, Iterable

from torch import Tensor

from ensemble.average import uniform
from ensemble.catalogue import method
from ensemble.errors import NonFiniteError
from ensemble.state import State, check


class Soup(dict[str, Tensor]):
    """A state that remembers what went into it; as a dict it loads like any other.

    ``members`` are the indices of the ingredients in the order of their acceptance, and ``score``
    is the score of the result.
    """

    def __init__(self, state: State, members: tuple[int, ...], score: float):
        super().__init__(state)
        self.members = members
        self.score = score


@method(
    "greedy-soup",
    mode="weights",
    paper="Wortsman et al. 2022, arXiv:2203.05482",
)
def greedy_soup(states: Iterable[State], score: Callable[[State], float]) -> Soup:
    """Average the members that each improve the average's validation score.

    ``score`` maps a state to a number, higher is better; it is called at most 2 K - 1 times, must
    not change the state, and NaN never wins.  The soup's score is never below the best member's.
    Where BatchNorm statistics have to be re-estimated, ``score`` does so first, and the soup is
    given the same treatment after::

        soup = greedy_soup(states, lambda s: accuracy(recalibrate(module, s, batches)))
        state = recalibrate(module, soup, batches)

    The result is :func:`ensemble.average.uniform` of the accepted members, the best one first.
    Raises as ``uniform`` does, and :class:`NonFiniteError` if every member scores NaN.

    >>> import torch
    >>> soup = greedy_soup(
    ...     [{"w": torch.tensor(x)} for x in (9.0, 1.0, -2.0)],
    ...     score=lambda state: -abs(float(state["w"])),
    ... )
    >>> dict(soup), soup.members, soup.score
    ({'w': tensor(-0.5000)}, (1, 2), -0.5)
    """
    members = check(states)
    scores = [float(score(state)) for state in members]
    ranked = [i for i, value in enumerate(scores) if not math.isnan(value)]
    ranked.sort(key=lambda i: -scores[i])
    if not ranked:
        raise NonFiniteError("some member must have a score, however every score is NaN")
    best, *others = ranked
    soup = Soup(uniform([members[best]]), (best,), scores[best])
    for i in others:
        chosen = (*soup.members, i)
        trial = uniform([members[j] for j in chosen])
        value = float(score(trial))
        if value > soup.score:
            soup = Soup(trial, chosen, value)
    return soup
