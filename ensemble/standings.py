"""What a comparison tells: a row for each candidate, and what was found of all together."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from ensemble.diversity import Diversity
from ensemble.growth import Growth
from ensemble.reliability import Bin
from zoo.registry import Run
from zoo.registry.records import Kind

LATER = ("rows", "diversity", "growth", "growth_metric", "reliability", "singles")


@dataclass(frozen=True)
class Row:
    """One candidate.

    ``delta`` is the candidate's test metric minus the baseline's, ``ci_low`` and ``ci_high`` its
    95 % interval, ``p_value`` that of no difference and ``p_holm`` the same corrected for the
    number of rows and metrics, all on paired test rows.  ``others`` are these of further metrics,
    such as ``delta[nll]``.  ``figures`` are the task's metrics but accuracy, and of several targets
    each one's own (``rmse[price]``), nan where one is undefined.  Costs are those of
    :class:`ensemble.costs.Cost`; ``trained_epochs`` is what it took to train everything the
    candidate needs.
    """

    name: str
    kind: Kind
    method: str | None
    members: int
    val: float
    test: float
    delta: float
    ci_low: float | None
    ci_high: float | None
    p_value: float | None
    p_holm: float | None
    others: Mapping[str, float | None]
    figures: Mapping[str, float]
    params: int | None = None
    flops: int | None = None
    weights_bytes: int | None = None
    inference_ms: float | None = None
    inference_ms_256: float | None = None
    trained_epochs: int | None = None

    def cell(self, name: str, metric: str = "") -> float | None:
        """Return a figure of the metric that decides, or of a further one."""
        value: float | None = self.others[f"{name}[{metric}]"] if metric else getattr(self, name)
        return value

    def to_json(self) -> dict[str, Any]:
        """Return all cells under their names."""
        told: dict[str, Any] = {}
        for name, value in asdict(self).items():
            told |= value if isinstance(value, dict) else {name: value}
        return told


@dataclass(frozen=True)
class Comparison:
    """All candidates, the baseline first.

    Attributes:
        task: of the members.
        data: what they learnt from.
        metric: by which the baseline is chosen and ``val``, ``test`` and ``delta`` are told.
        direction: ``max`` or ``min``, which of it is better.
        baseline: the best single model by validation.
        n_train: how many rows the first single model learnt from.
        n_test: how many test rows there are.
        looks: how often these were compared by in this registry, now included.
        validated_on: counts the different sets of validation rows that the singles have: 1, or
            more with folds or draws of their own.
        metrics: all that were asked for, ``metric`` first.
        verdict: what to ship, in sentences.
        rows: the candidates.
        diversity: of the singles, where there are several.
        growth: what pools of 1, 2, ... singles are worth.
        growth_metric: what these are measured by.
        reliability: for classes and labels, whether each candidate's probabilities are true.
        singles: the runs that are single models.
    """

    task: str
    data: str
    metric: str
    direction: str
    baseline: str
    n_train: int
    n_test: int
    looks: int
    validated_on: int
    metrics: list[str]
    verdict: list[str]
    rows: list[Row]
    diversity: Diversity | None = None
    growth: list[Growth] = field(default_factory=list)
    growth_metric: str = ""
    reliability: dict[str, list[Bin]] = field(default_factory=dict)
    singles: list[Run] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Return the machine-readable form, in which the figures of a row are keys like others."""
        head = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in LATER}
        differ = self.diversity
        return {
            "schema": 1,
            **head,
            "rows": [row.to_json() for row in self.rows],
            "diversity": differ
            and {
                name: getattr(differ, name)
                for name in ("disagreement", "correlation", "member_error", "ambiguity")
            },
            "growth": {"metric": self.growth_metric, "sizes": [asdict(g) for g in self.growth]},
            "reliability": {
                name: [asdict(one) for one in bins] for name, bins in self.reliability.items()
            },
        }
