"""Members and their weights, chosen one after another by what they predict for validation rows.

A method here returns the weights that :func:`ensemble.predictions.weighted` pools by.  What it
reads are logits (K, N, C) of classes, log-odds (K, N, L) of labels, or values (K, N) or (K, N, T).

Of members that do the same at any place, the first is taken: so the better ones come first.

Shapes: K member, N sample, C class, L label, T target.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ensemble.catalogue import method
from ensemble.errors import EnsembleError, OptionError
from ensemble.expectations import expectation, predicted
from ensemble.lanes import in_lanes
from ensemble.predictions import check_finite, weighted

DIGITS = 6  # of scores, unless they are tiny; what differs less is a tie
TINY = 1e-4
SAME = 1e-12  # what may differ between scores that are alike, as a share of them
Judge = Callable[[Tensor], float]
Cost = Callable[[Sequence[int], int], float]


@method("greedy", mode="predictions", paper="Caruana et al. 2004, ICML", applies=weighted)
def greedy_selection(
    outputs_K: Tensor,
    task: str,
    score: Judge,
    loss: Judge | None = None,
    *,
    rounds: int = 50,
    bags: int = 1,
    share: float = 0.5,
    seed: int = 0,
) -> dict[str, list[float]]:
    """Add, again and again, the member that improves the mean most; one may come several times.

    R. Caruana, A. Niculescu-Mizil, G. Crew & A. Ksikes, Ensemble Selection from Libraries of
    Models, ICML 2004, with the rules of AutoGluon (Erickson et al. 2020, arXiv:2003.06505): after
    the first member scores are rounded to six digits, unless its own is below 1e-4; among equals
    one that is there already is preferred, then the lower ``loss``, then the first, where AutoGluon
    draws; and what came after the first of the best scores is dropped.  A member weighs as often as
    it came.

    Args:
        outputs_K: what the members predict for validation rows.
        task: ``classification``, ``multilabel`` or ``regression``.
        score: of pooled predictions, higher is better: log-probabilities (N, C), log-odds (N, L),
            or values (N,) or (N, T).
        loss: of the same, decides between equal scores.
        rounds: how many members are added.
        bags: with more than one, each searches a random ``share`` of the members, and the weights
            are the mean of theirs: it guards against chance on few rows (section 2.3).
        share: of the members in a bag.
        seed: of the bags.

    Returns:
        ``weights``: K numbers that sum to one.

    Raises:
        OptionError: an option is out of range.
        EnsembleError: the score is undefined for all members.
        NonFiniteError: a member predicts NaN or infinity.

    >>> values_KN = torch.tensor([[1.0, 5.0], [3.0, 1.0], [9.0, 9.0]])
    >>> truth_N = torch.tensor([2.0, 3.0])
    >>> score = lambda pooled_N: -float((pooled_N - truth_N).square().sum())
    >>> greedy_selection(values_KN, "regression", score)
    {'weights': [0.5, 0.5, 0.0]}
    """
    members = len(outputs_K)
    if rounds < 1 or bags < 1 or not 0 < share <= 1:
        raise OptionError(
            "rounds and bags must be at least 1 and share above 0 and at most 1, however they are "
            f"{rounds}, {bags} and {share}"
        )
    check_finite(outputs_K)
    expected_K = expectation(outputs_K, task)
    generator = torch.Generator().manual_seed(seed)
    weights = [0.0] * members
    for _ in range(bags):
        bag = list(range(members))
        if bags > 1:
            drawn = torch.randperm(members, generator=generator)[: max(1, round(share * members))]
            bag = sorted(drawn.tolist())
        picked = _climb(expected_K, bag, task, score, loss, rounds)
        for member in picked:
            weights[member] += 1 / (len(picked) * bags)
    return {"weights": weights}


@method(
    "budget", mode="predictions", paper="Liu & Yao 1999, Neural Networks 12(10)", applies=weighted
)
def budgeted_selection(
    outputs_K: Tensor,
    task: str,
    loss: Judge,
    cost: Cost,
    *,
    members: int = 4,
    ms: float = 1000.0,
    batch: int = 64,
    diversity: float = 0.0,
) -> dict[str, list[float]]:
    """Choose few members that predict well together, in so many milliseconds at most.

    Members are added one by one, each once, and then exchanged one for one, while that lowers

        loss(mean) - diversity * (mean of the members' losses - loss(mean)).

    The difference in brackets is what the members' disagreement gains; it is never negative for
    NLL and squared error (A. Krogh & J. Vedelsby, NIPS 1994).  With ``diversity`` above 0 it counts
    more than it gains on validation rows, as Y. Liu & X. Yao, Ensemble Learning via Negative
    Correlation, 1999, reward it in training.

    Args:
        outputs_K: what the members predict for validation rows.
        task: ``classification``, ``multilabel`` or ``regression``.
        loss: of pooled predictions: log-probabilities (N, C), log-odds (N, L), or values (N,) or
            (N, T).
        cost: from the places of some members and a number of rows to the milliseconds in which
            they predict these.
        members: how many at most.
        ms: how long they may take for a batch.
        batch: rows.
        diversity: what disagreement counts beyond what it gains.

    Returns:
        ``weights``: K numbers, equal for those chosen and else 0, that sum to one.

    Raises:
        OptionError: an option is out of range, or every member alone takes longer.
        NonFiniteError: a member predicts NaN or infinity.

    >>> values_KN = torch.tensor([[1.0, 5.0], [3.0, 1.0], [2.0, 9.0]])
    >>> truth_N = torch.tensor([2.0, 3.0])
    >>> budgeted_selection(
    ...     values_KN,
    ...     "regression",
    ...     loss=lambda p_N: float((p_N - truth_N).square().sum()),
    ...     cost=lambda chosen, rows: 0.5 * len(chosen),
    ...     members=3,
    ...     ms=1.0,
    ... )
    {'weights': [0.5, 0.5, 0.0]}
    """
    if members < 1 or batch < 1 or not diversity >= 0:
        raise OptionError(
            "members and batch must be at least 1 and diversity at least 0, however they are "
            f"{members}, {batch} and {diversity}"
        )
    check_finite(outputs_K)
    expected_K = expectation(outputs_K, task)
    everyone = range(len(outputs_K))
    alone = [loss(predicted(expected, task)) for expected in expected_K]

    def price(chosen: Sequence[int]) -> float:
        together = loss(predicted(expected_K[list(chosen)].mean(dim=0), task))
        gained = math.fsum(alone[k] for k in chosen) / len(chosen) - together
        return together - diversity * gained

    def affordable(found: list[list[int]]) -> list[list[int]]:
        return [chosen for chosen in found if cost(chosen, batch) <= ms]

    grown = affordable([[k] for k in everyone])
    if not grown:
        fastest = min(cost([k], batch) for k in everyone)
        raise OptionError(
            f"some member must predict {batch} rows in ms={ms:g}, however the fastest takes "
            f"{fastest:.3g} ms"
        )
    chosen = best = min(grown, key=price)
    while len(chosen) < members:
        grown = affordable([[*chosen, k] for k in everyone if k not in chosen])
        if not grown:
            break
        chosen = min(grown, key=price)
        best = min(best, chosen, key=price)
    while True:
        swapped = affordable(
            [
                [*best[:place], k, *best[place + 1 :]]
                for place in range(len(best))
                for k in everyone
                if k not in best
            ]
        )
        better = min([best, *swapped], key=price)
        if better is best:
            break
        best = better
    return {"weights": [1 / len(best) if k in best else 0.0 for k in everyone]}


def _climb(
    expected_K: Tensor,
    bag: Sequence[int],
    task: str,
    score: Judge,
    loss: Judge | None,
    rounds: int,
) -> list[int]:
    """Return the members added, up to the first of the best scores."""
    picked: list[int] = []
    reached: list[float] = []
    digits: int | None = None  # to which scores are rounded, after the first
    total = torch.zeros_like(expected_K[0], dtype=torch.float64)
    for step in range(1, rounds + 1 if len(bag) > 1 else 2):

        def together(member: int, count: int = step, sofar: Tensor = total) -> Tensor:
            return predicted((sofar + expected_K[member]) / count, task)

        def scored(member: int, to: int | None = digits) -> float:
            return _rounded(score(together(member)), to)

        scores = dict(zip(bag, in_lanes(scored, bag), strict=True))
        highest = max(scores.values())
        if highest == -math.inf and not picked:
            raise EnsembleError(
                "members are chosen by their score on validation rows, however it is undefined or "
                "infinitely bad for all of them; choose another metric"
            )
        tied = [member for member in bag if math.isclose(scores[member], highest, rel_tol=SAME)]
        tied = [member for member in tied if member in picked] or tied
        if len(tied) > 1 and loss is not None:
            losses = {member: -_rounded(-loss(together(member))) for member in tied}
            lowest = min(losses.values())
            tied = [k for k in tied if math.isclose(losses[k], lowest, rel_tol=SAME)]
        if abs(highest) > TINY and not picked:
            digits = DIGITS
        picked.append(tied[0])
        reached.append(_rounded(highest, digits))
        total = total + expected_K[tied[0]]
    return picked[: reached.index(max(reached)) + 1]


def _rounded(score: float, digits: int | None = None) -> float:
    """Round a score; what is undefined is the worst."""
    if score != score:
        return -math.inf
    return score if digits is None else round(score, digits)
