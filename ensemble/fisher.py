"""Fisher merging: each element weighted by how much the member's predictions depend on it.

Matena & Raffel 2022, Merging models with Fisher-weighted averaging, arXiv:2111.09832, section 2.3:
θ = Σ Fᵢ θᵢ / Σ Fᵢ, with Fᵢ the diagonal of member i's Fisher information (equation 3),

    F = E_x E_{y ~ p(y | x)} [∂ log p(y | x) / ∂θ]²

The inner expectation is exact here: over all classes, over both values of each label, and of a
normal distribution of unit variance for quantities.
"""

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from ensemble.catalogue import method
from ensemble.errors import EmptyError, OptionError, listing
from ensemble.functional import Batch, arguments
from ensemble.state import State, check, check_known, elementwise, leafwise, mix, within

Task: TypeAlias = Literal["classification", "multilabel", "regression"]
FLOOR = 1e-6  # of the information, so that elements that nobody depends on have a mean
ROOM = 1 << 24  # elements of the gradients that are held at once


@method("fisher", mode="weights", paper="Matena & Raffel 2022, arXiv:2111.09832")
def fisher_merge(
    states: Iterable[State], fisher: Sequence[Mapping[str, Tensor]]
) -> dict[str, Tensor]:
    """Average each element weighted by the members' Fisher information.

    Information below 1e-6 counts as that.  Leaves without any, such as buffers, are averaged with
    equal weights.

    Args:
        states: the members.
        fisher: for each member by key the diagonal of its Fisher information, in the shape of the
            leaf; see :func:`fisher_information`.

    Raises:
        OptionError: where ``fisher`` has not one mapping per member, or information is negative.
        StateMismatchError: listing all that differs between members, or from their information.
        NonFiniteError: for NaN or infinity in a member or its information.
        EmptyError: without members.

    >>> members = [{"w": torch.tensor([0.0, 4.0])}, {"w": torch.tensor([4.0, 0.0])}]
    >>> known = [{"w": torch.tensor([3.0, 0.0])}, {"w": torch.tensor([1.0, 2.0])}]
    >>> fisher_merge(members, known)
    {'w': tensor([1.0000e+00, 2.0000e-06])}
    """
    members = check(states)
    check_known(members, fisher, "information", _fits)
    negative = [
        f"{key!r} in #{i}"
        for i, information in enumerate(fisher)
        for key, value in information.items()
        if value.numel() and value.min() < 0
    ]
    if negative:
        raise OptionError(f"information is never negative, however it is for {listing(negative)}")
    count = len(members)

    def weigh(values_KN: Tensor) -> Tensor:
        theta_KN, information_KN = values_KN[:count], values_KN[count:].clamp(min=FLOOR)
        # Divided by the largest first, so that no product leaves the range.
        information_KN /= information_KN.amax(0)
        return within(theta_KN, (information_KN * theta_KN).sum(0) / information_KN.sum(0))

    def merge(key: str, leaves: Sequence[Tensor]) -> Tensor:
        if key not in fisher[0]:
            return mix(leaves, [1 / count] * count)
        known = [information[key].to(leaves[0].device) for information in fisher]
        if members[0][key].is_complex():
            known = [information.unsqueeze(-1).expand_as(leaves[0]) for information in known]
        return elementwise([*leaves, *known], weigh)

    return leafwise(members, merge)


def fisher_information(
    module: nn.Module,
    state: State,
    batches: Iterable[Batch],
    task: Task,
    *,
    empirical: bool = False,
) -> dict[str, Tensor]:
    """Return the diagonal of a state's Fisher information, for each parameter: float64.

    Rows pass through one by one in eval mode, so that gradients are those of single rows.  The
    cost is one backward pass per row and class, label or quantity.

    Args:
        module: lends its architecture, and is left as it was.
        state: the weights; buffers have no information.
        batches: inputs with rows first, or sequences of inputs and targets, on the device of the
            state; the mean is over all rows.
        task: ``classification`` of logits (N, C), ``multilabel`` of log-odds (N, L), or
            ``regression`` of values (N,) or (N, T).
        empirical: take the gradient at the true targets instead of the mean over all that the
            model thinks possible.

    Raises:
        StateMismatchError: for a state that does not fit the module.
        EmptyError: without rows.
        OptionError: for an unknown task, or without targets where they are needed.

    >>> module = nn.Linear(1, 2, bias=False)
    >>> state = {"weight": torch.zeros(2, 1)}
    >>> fisher_information(module, state, [torch.tensor([[1.0], [3.0]])], "classification")
    {'weight': tensor([[1.2500],
            [1.2500]], dtype=torch.float64)}
    """
    if task not in _TERMS:
        raise OptionError(f"task must be {' or '.join(_TERMS)}, however it is {task!r}")
    twin = copy.deepcopy(module).eval()
    others = {name: leaf.detach() for name, leaf in arguments(twin, state).items()}
    parameters = {name: others.pop(name) for name, _ in twin.named_parameters()}

    def output(parameters: dict[str, Tensor], x: Tensor) -> Tensor:
        result: Tensor = functional_call(twin, parameters | others, (x.unsqueeze(0),))
        return result.reshape(-1)

    gradient = vmap(grad(_TERMS[task](output, empirical)), in_dims=(None, 0, 0, None))
    total = {n: torch.zeros_like(leaf, dtype=torch.float64) for n, leaf in parameters.items()}
    rows, chunk = 0, max(1, ROOM // sum(leaf.numel() for leaf in parameters.values()))
    for batch in batches:
        x_N, y_N = _pair(batch, empirical)
        for x_n, y_n in zip(torch.split(x_N, chunk), torch.split(y_N, chunk), strict=True):
            with torch.no_grad():
                outputs = output(parameters, x_n[0]).numel()
            # The true class alone; of labels and quantities each has a term of its own.
            terms = 1 if empirical else outputs
            for term in range(terms):
                for name, slope_n in gradient(parameters, x_n, y_n, term).items():
                    total[name] += slope_n.square().sum(0, dtype=torch.float64)
            rows += len(x_n)
    if not rows:
        raise EmptyError("the information needs at least one row, however there was none")
    mean = {name: value / rows for name, value in total.items()}
    first = {id(parameter): name for name, parameter in twin.named_parameters()}
    every = twin.named_parameters(remove_duplicate=False)  # a tied one has several names
    return {name: mean[first[id(parameter)]] for name, parameter in every}


Output: TypeAlias = Callable[[dict[str, Tensor], Tensor], Tensor]
Term: TypeAlias = Callable[[dict[str, Tensor], Tensor, Tensor, int], Tensor]


def _classes(output: Output, empirical: bool) -> Term:
    """Return √p(c) log p(c), with the weight held fast: its squared gradients sum to F."""

    def term(parameters: dict[str, Tensor], x: Tensor, y: Tensor, c: int) -> Tensor:
        log_C = output(parameters, x).log_softmax(0)
        if empirical:
            return log_C.gather(0, y.view(1)).squeeze(0)
        return log_C[c] * (0.5 * log_C[c].detach()).exp()

    return term


def _labels(output: Output, empirical: bool) -> Term:
    """Return each label's log-odds by its deviation √(p (1 - p)), or all labels' log-likelihood."""

    def term(parameters: dict[str, Tensor], x: Tensor, y: Tensor, c: int) -> Tensor:
        odds_L = output(parameters, x)
        if empirical:
            return -nn.functional.binary_cross_entropy_with_logits(
                odds_L, y.view(-1).to(odds_L.dtype), reduction="sum"
            )
        chance = odds_L[c].detach().sigmoid()
        return odds_L[c] * (chance * (1 - chance)).sqrt()

    return term


def _quantities(output: Output, empirical: bool) -> Term:
    """Return each quantity, or the log-likelihood of all at unit variance."""

    def term(parameters: dict[str, Tensor], x: Tensor, y: Tensor, c: int) -> Tensor:
        value_T = output(parameters, x)
        if empirical:
            return -0.5 * (value_T - y.view(-1)).square().sum()
        return value_T[c]

    return term


_TERMS: Mapping[str, Callable[[Output, bool], Term]] = {
    "classification": _classes,
    "multilabel": _labels,
    "regression": _quantities,
}


def _fits(leaf: Tensor | None, information: Tensor) -> bool:
    return leaf is not None and leaf.shape == information.shape


def _pair(batch: Batch, empirical: bool) -> tuple[Tensor, Tensor]:
    if isinstance(batch, Tensor):
        if empirical:
            raise OptionError("empirical information needs targets, however a batch has none")
        return batch, torch.zeros(len(batch))
    return batch[0], batch[1]
