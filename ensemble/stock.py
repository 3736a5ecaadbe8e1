"""Model Stock: how far to go from the base to the average, from the angle between the members.

Jang et al. 2024, Model Stock: all we need is just a few fine-tuned models, arXiv:2403.19522,
equation 5: with c the cosine between two members' ways from the base θ₀, and their mean θ̄,

    θ = t θ̄ + (1 - t) θ₀,   t = N c / (1 + (N - 1) c)
"""

from collections.abc import Iterable, Sequence

from torch import Tensor

from ensemble.catalogue import method
from ensemble.spherical import cosines, gram
from ensemble.state import State, check, check_base, leafwise, mix


@method("model-stock", mode="weights", paper="Jang et al. 2024, arXiv:2403.19522")
def model_stock(states: Iterable[State], base: State) -> dict[str, Tensor]:
    """Average the members and go towards the base as far as they disagree.

    Each tensor has its own t; c is the mean over all pairs.  Members that on the whole point away
    from each other (c < 0, outside of what the paper derives) leave the base as it is, where
    mergekit goes beyond it.  A single member comes back as it is.  Raises as
    :func:`ensemble.task_vectors.task_arithmetic` does.

    >>> import torch
    >>> members = [{"w": torch.tensor([2.0, 0.0])}, {"w": torch.tensor([2.0, 2.0])}]
    >>> model_stock(members, {"w": torch.tensor([0.0, 0.0])})
    {'w': tensor([1.6569, 0.8284])}
    """
    members = check(states)
    check_base(members, base)
    return leafwise(members, lambda key, leaves: mix(leaves, _shares(leaves)), base=base)


def _shares(leaves: Sequence[Tensor]) -> list[float]:
    count = len(leaves) - 1
    if count == 1:
        return [1.0, 0.0]
    cosine_NN = cosines(gram(leaves[:-1], leaves[-1]))
    pairs = count * (count - 1)
    cosine = max(0.0, float(cosine_NN.sum() - cosine_NN.diagonal().sum()) / pairs)
    t = min(1.0, count * cosine / (1 + (count - 1) * cosine))
    return [t / count] * count + [1 - t]
