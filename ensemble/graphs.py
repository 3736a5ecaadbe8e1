"""A run as one module: raw numbers in, its prediction out, whatever it consists of.

What prepares the rows, all members, the pool and its calibration are one graph, which
``torch.export`` and ONNX can hold.  Text and times are not numbers: a category comes as its place
among those known, and where a column holds times, or is mapped by quantiles, the graph begins at
the prepared features.

Shapes: K member, N sample, C class or label, T target, D feature, R raw column.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ensemble.errors import EnsembleError
from ensemble.naming import names, reordered
from ensemble.pools import pool_of
from ensemble.serving import check_ready, restored
from ensemble.snapshots import members_of, weights_of
from zoo import terms
from zoo.registry import Registry, Run

Input = Literal["pixels", "rows", "features"]
PLAIN = ("numeric", "boolean", "categorical", "empty")  # kinds of columns that arithmetic prepares


@dataclass(frozen=True)
class Graph:
    """A module and what goes in and comes out.

    Attributes:
        module: from the input to the prediction, in evaluation mode.
        input: ``pixels``, float32 (N, *shape) in the unit of the source; ``rows``, float64 (N, R),
            one column each, NaN where missing; or ``features``, float32 (N, D), prepared.
        output: ``probabilities``, float64 (N, C); or ``values``, float64 (N, T) in their unit.
        columns: of ``rows``, in their order: ``name``, ``kind`` and, of a category, ``categories``.
        members: the runs inside.
    """

    module: nn.Module
    input: Input
    output: Literal["probabilities", "values"]
    columns: list[dict[str, Any]]
    members: Sequence[Run]


def graph(registry: Registry, run: Run) -> Graph:
    """Build the module of a single or merged model, or of a pool of predictions.

    Raises:
        MembersError: where the run, or a member, has no weights, or was trained elsewhere.
        EnsembleError: where members differ in how they prepare what is no arithmetic.
        IntegrityError, UnsafeFileError: where what is stored of them is damaged.
    """
    members = members_of(registry, run)
    check_ready(run, members)
    fitted = [member.preprocessing for member in members]
    kind = _kind(fitted)
    if kind == "features" and any(one != fitted[0] for one in fitted):
        raise EnsembleError(
            f"a graph prepares its own rows where members differ in how, however those of "
            f"{run.label} hold times or quantiles; export its members"
        )
    columns = _columns(fitted) if kind == "rows" else []
    parts = [
        _Member(
            _preparing(kind, member, columns),
            restored(member, weights_of(registry, member)),
            member,
            run,
        )
        for member in members
    ]
    pool = pool_of(run)
    module = _Whole(parts, lambda outputs_K: pool(outputs_K, range(len(members))), run)
    output: Literal["probabilities", "values"] = (
        "values" if run.task == "regression" else "probabilities"
    )
    return Graph(module.eval(), kind, output, columns, members)


def rows_of(columns: Sequence[Mapping[str, Any]], frame: Any) -> Tensor:
    """Write the columns of a table as the graph takes them: float64 (N, R).

    Args:
        columns: :attr:`Graph.columns`.
        frame: a DataFrame with these columns.

    >>> import pandas as pd
    >>> told = [{"name": "c", "kind": "categorical", "categories": ["a", "b"]}]
    >>> rows_of(told, pd.DataFrame({"c": ["b", "new", None]})).tolist()
    [[1.0], [-1.0], [nan]]
    """
    from zoo.data import arrow, cells
    from zoo.data.words import words

    written = []
    for column in columns:
        if column["kind"] == "empty":
            written.append(torch.zeros(len(frame), dtype=torch.float64))
            continue
        held = arrow.series(frame[column["name"]], column["kind"])
        if column["kind"] == "categorical":
            coded = words(held)
            known = {word: place for place, word in enumerate(column["categories"])}
            place = torch.tensor([*(known.get(word, -1) for word in coded.words), torch.nan])
            written.append(place.double()[torch.from_numpy(coded.codes).long()])
        else:
            written.append(torch.tensor(cells.numbers(held, column["kind"]), dtype=torch.float64))
    return torch.stack(written, dim=1)


class _Whole(nn.Module):
    """Pools what the members say, in the user's terms."""

    def __init__(
        self, members: Sequence["_Member"], pool: Callable[[Tensor], Tensor], run: Run
    ) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.pool = pool
        self.task = run.task

    def forward(self, x: Tensor) -> Tensor:
        told = self.pool(torch.stack([member(x) for member in self.members])).double()
        if self.task == "regression":
            return told.reshape(x.shape[0], -1)
        return told.softmax(dim=1) if self.task == "classification" else told.sigmoid()


class _Member(nn.Module):
    """From the input to the predictions of one member."""

    def __init__(self, prepare: nn.Module, body: nn.Module, member: Run, run: Run) -> None:
        super().__init__()
        self.prepare, self.body = prepare, body
        self.target = member.preprocessing["target"]
        self.theirs, self.ours = names(member.preprocessing), names(run.preprocessing)

    def forward(self, x: Tensor) -> Tensor:
        told = terms.predictions(self.target, self.body(self.prepare(x)))
        return reordered(told, self.theirs, self.ours)


class _Pixels(nn.Module):
    """Standardises images: see :mod:`zoo.data.images`."""

    def __init__(self, fitted: Mapping[str, Any]) -> None:
        super().__init__()
        self.scale, self.mean, self.std = (float(fitted[name]) for name in ("scale", "mean", "std"))

    def forward(self, x: Tensor) -> Tensor:
        return ((x.double() / self.scale - self.mean) / self.std).float()


class _Rows(nn.Module):
    """Prepares the columns of a table: see :mod:`zoo.data.tabular`.

    All numbers are scaled at once, then all gaps marked, then all categories told apart; at last
    features come into their order.
    """

    number_4M: Tensor
    code_2C: Tensor
    number: Tensor
    gap: Tensor
    code: Tensor
    order: Tensor

    def __init__(self, fitted: Mapping[str, Any], columns: Sequence[Mapping[str, Any]]) -> None:
        super().__init__()
        place = {column["name"]: at for at, column in enumerate(columns)}
        scaled: list[tuple[float, ...]] = []
        gaps: list[int] = []
        equal: list[tuple[float, float]] = []
        order: list[tuple[int, int]] = []  # of each feature its block and its place there
        for one in fitted["columns"]:
            at = place[one["name"]]
            if one["kind"] == "empty":
                order.append((2, len(equal)))
                equal.append((at, torch.nan))  # which nothing equals
                continue
            if one["kind"] == "categorical":
                known = columns[at]["categories"]
                for word in one["categories"]:
                    order.append((2, len(equal)))
                    equal.append((at, known.index(word)))
            else:
                order.append((0, len(scaled)))
                scaled.append((at, one["fill"], one["centre"], one["scale"]))
            if one["missing"]:
                order.append((1, len(gaps)))
                gaps.append(at)
        starts = (0, len(scaled), len(scaled) + len(gaps))
        number_4M = torch.tensor(scaled, dtype=torch.float64).reshape(-1, 4).T
        code_2C = torch.tensor(equal, dtype=torch.float64).reshape(-1, 2).T
        self.register_buffer("number_4M", number_4M.clone())
        self.register_buffer("code_2C", code_2C.clone())
        self.register_buffer("number", number_4M[0].long())
        self.register_buffer("gap", torch.tensor(gaps, dtype=torch.long))
        self.register_buffer("code", code_2C[0].long())
        self.register_buffer("order", torch.tensor([starts[block] + at for block, at in order]))

    def forward(self, x: Tensor) -> Tensor:
        _, fill_M, centre_M, scale_M = self.number_4M
        x_NM = x[:, self.number]
        scaled = (torch.where(x_NM.isnan(), fill_M, x_NM) - centre_M) / scale_M
        missing = x[:, self.gap].isnan().double()
        equal = (x[:, self.code] == self.code_2C[1]).double()
        return torch.cat([scaled, missing, equal], dim=1)[:, self.order].float()


def _kind(fitted: Sequence[Mapping[str, Any]]) -> Input:
    """Tell where the graph begins."""
    if fitted[0]["kind"] == "images":
        return "pixels"
    every = [column for one in fitted for column in one["columns"]]
    plain = all(c["kind"] in PLAIN and "quantiles" not in c for c in every)
    return "rows" if plain else "features"


def _columns(fitted: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Unite the columns of all members, and the categories that any of them knows."""
    united: dict[str, dict[str, Any]] = {}
    for one in (column for each in fitted for column in each["columns"]):
        held = united.setdefault(one["name"], {"name": one["name"], "kind": one["kind"]})
        if held["kind"] == "empty":
            held["kind"] = one["kind"]
        if one["kind"] == "categorical":
            held["categories"] = sorted({*held.get("categories", ()), *one["categories"]})
    return list(united.values())


def _preparing(kind: Input, run: Run, columns: Sequence[Mapping[str, Any]]) -> nn.Module:
    match kind:
        case "pixels":
            return _Pixels(run.preprocessing)
        case "rows":
            return _Rows(run.preprocessing, columns)
        case "features":
            return nn.Identity()
