"""The settings of one member, section by section; every key is checked and documented here."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, ConfigDict, Field, model_validator

from zoo import settings
from zoo.section import (
    Column,
    Count,
    Finite,
    Fraction,
    NonNegative,
    Positive,
    Probability,
    Section,
    Seed,
    Share,
)
from zoo.splitting import SplitConfig

Side = Annotated[int, Field(ge=1, le=4096)]
Task = Literal["classification", "multilabel", "regression"]
Transform = Literal["none", "log1p", "yeo-johnson"]
Betas = Annotated[
    tuple[Share, Share],
    Field(strict=False, description="what is kept of the means of gradients and of their squares"),
]
OPTIMISER = "the optimiser"
L2 = "an L2 penalty: weight_decay times the weights is added to the gradient"
EPS = "added to the root of the mean square, against division by zero"


class DataConfig(SplitConfig):
    """Which data, and how they are split."""

    ref: str = Field(
        min_length=1, description="a built-in name (digits, iris, ...) or the path of a file"
    )
    target: Annotated[str | tuple[str, ...] | None, BeforeValidator(settings.column_names)] = Field(
        default=None, description="the column to predict, for a file, or a list of several"
    )
    task: Task | None = Field(default=None, description="found from the target when not given")
    target_transform: Transform = Field(
        default="none", description="of quantities with heavy tails, before they are standardised"
    )
    image: Column | None = Field(default=None, description="the column of paths to images")
    size: Annotated[tuple[Side, Side], Field(strict=False)] | None = Field(
        default=None, description="height and width that files of images are resized to"
    )
    columns: dict[Column, Literal["numeric", "categorical", "boolean", "datetime", "drop"]] = Field(
        default_factory=dict, description="what columns of a table hold; others are looked at"
    )
    scaling: Literal["standard", "robust", "quantile"] = Field(
        default="standard", description="how the numbers of a table are scaled"
    )


class ModelConfig(Section):
    """A model's name and its options, as the signature of its builder declares them."""

    model_config = ConfigDict(extra="allow")

    name: str = Field(default="mlp", description="one of the catalogue, or FILE.py:FACTORY")

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, value: object) -> object:
        if not isinstance(value, Mapping) or not isinstance(value.get("name", "mlp"), str):
            return value
        from zoo import models  # imports torch, which only some commands need

        given = dict(value)
        name = given.pop("name", "mlp")
        return {"name": name, **models.options(name, given)}

    @property
    def options(self) -> dict[str, Any]:
        """Every key but the name."""
        return dict(self.model_extra or {})


class InitConfig(Section):
    """Where the first weights come from.

    ``init = "shared"`` in a file, or a path or a reference, is short for the table it means.
    """

    mode: Literal["independent", "shared", "file", "run"] = Field(
        default="independent",
        description="from each member's seed, from one seed for all, or from weights that exist",
    )
    seed: Seed = Field(default=0, description="of the weights that all share, for mode shared")
    source: str | None = Field(default=None, description="the file, or the reference of the run")
    epoch: Annotated[int, Field(ge=0)] | None = Field(
        default=None, description="the epoch of the run to branch from; by default its best"
    )
    sha256: str | None = Field(default=None, description="of those weights; found when planning")
    trained: Annotated[int, Field(ge=0)] = Field(
        default=0, description="epochs that those weights were trained; found when planning"
    )

    @model_validator(mode="before")
    @classmethod
    def _spelled_out(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        if value in ("independent", "shared"):
            return {"mode": value}
        return {"mode": "file" if value.endswith(".safetensors") else "run", "source": value}

    @model_validator(mode="after")
    def _has_a_source(self) -> Self:
        if self.mode in ("file", "run") and not self.source:
            raise ValueError(f"source is required for mode {self.mode}")
        if self.mode in ("independent", "shared") and (self.source or self.epoch is not None):
            raise ValueError(f"source and epoch have no meaning for mode {self.mode}")
        return self


class _Optimiser(Section):
    decay: Literal["weights", "all"] = Field(
        default="weights",
        description="what weight decay acts on: weights alone, or biases and norms too",
    )


class SGD(_Optimiser):
    """Stochastic gradient descent with momentum."""

    name: Literal["sgd"] = Field(default="sgd", description=OPTIMISER)
    lr: Positive = Field(default=0.1, description="the learning rate")
    momentum: Share = Field(default=0.9, description="what is kept of the last step")
    nesterov: bool = Field(default=False, description="look ahead by the momentum")
    weight_decay: NonNegative = Field(default=0.0, description=L2)

    @model_validator(mode="after")
    def _moves(self) -> Self:
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov needs a momentum, however it is 0")
        return self


class Adam(_Optimiser):
    """Adam; its weight decay is an L2 penalty added to the gradient."""

    name: Literal["adam"] = Field(default="adam", description=OPTIMISER)
    lr: Positive = Field(default=1e-3, description="the learning rate")
    betas: Betas = (0.9, 0.999)
    eps: Positive = Field(default=1e-8, description=EPS)
    weight_decay: NonNegative = Field(default=0.0, description=L2)


class AdamW(_Optimiser):
    """Adam with decoupled weight decay."""

    name: Literal["adamw"] = Field(default="adamw", description=OPTIMISER)
    lr: Positive = Field(default=1e-3, description="the learning rate")
    betas: Betas = (0.9, 0.999)
    eps: Positive = Field(default=1e-8, description=EPS)
    weight_decay: NonNegative = Field(
        default=0.01, description="decoupled: weights shrink by lr times this per step"
    )


class ScheduleConfig(Section):
    """How the learning rate changes; :mod:`zoo.schedules` has the formulas."""

    name: Literal["constant", "cosine", "step", "one-cycle", "plateau"] = Field(
        default="constant", description="the course of the learning rate"
    )
    warmup: NonNegative = Field(default=0.0, description="epochs of linear rise from zero")
    final: Share = Field(default=0.0, description="cosine, one-cycle: the last share of lr")
    every: Count = Field(default=30, description="step: epochs between two falls")
    factor: Fraction = Field(default=0.1, description="step, plateau: what lr is multiplied by")
    patience: Count = Field(default=5, description="plateau: epochs without a better loss")
    rise: Fraction = Field(default=0.3, description="one-cycle: the share of epochs going up")
    start: Fraction = Field(default=0.04, description="one-cycle: the first share of lr")


class TrainConfig(Section):
    """How long, in what portions and with what restraint to train."""

    epochs: Count = Field(default=100, description="the most to train")
    batch_size: Count | None = Field(
        default=None, description="rows per step; by default 128, or all where there are fewer"
    )
    accumulate: Count = Field(
        default=1, description="parts that a batch is computed in, to save memory"
    )
    order_seed: Seed | None = Field(
        default=None,
        description="of the order of the rows and all else that is random in training; "
        "by default each member's own seed",
    )
    precision: Literal["float32", "bfloat16"] = Field(
        default="float32", description="of products; bfloat16 is automatic mixed precision"
    )
    clip_norm: Positive | None = Field(default=None, description="largest norm of a gradient")
    clip_value: Positive | None = Field(default=None, description="largest entry of a gradient")
    l1: NonNegative = Field(default=0.0, description="penalty l1 * sum |w| on weights")
    l2: NonNegative = Field(default=0.0, description="penalty l2 * sum w^2 on weights")
    label_smoothing: Share = Field(
        default=0.0, description="share of each label that is spread over all classes"
    )
    class_weights: Annotated[
        Literal["balanced"] | tuple[Positive, ...] | None,
        BeforeValidator(settings.positive_weights),
    ] = Field(
        default=None,
        description="what the training loss of each class is multiplied by, in the classes' "
        "order; balanced is the inverse of how frequent they are",
    )
    mixup: NonNegative = Field(default=0.0, description="alpha of mixup's Beta distribution")


class Monitor(Section):
    """What is watched on the validation rows, and when it says stop."""

    metric: Literal["loss", "accuracy", "balanced_accuracy", "rmse"] = Field(
        default="loss", description="of the validation rows"
    )
    mode: Literal["min", "max"] | None = Field(default=None, description="found from the metric")
    patience: Count = Field(default=10, description="epochs without improvement before stopping")
    min_delta: NonNegative = Field(default=0.0, description="an improvement must exceed this")
    relative: bool = Field(default=False, description="min_delta is a share of the best score")
    start_from_epoch: Annotated[int, Field(ge=0)] = Field(
        default=0, description="earlier epochs neither count as waiting nor as best"
    )
    threshold: Finite | None = Field(default=None, description="stop once this score is reached")
    divergence: Finite | None = Field(
        default=None, description="end as diverged once the score is worse than this"
    )

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        if self.mode not in (None, self.direction):
            raise ValueError(
                f"the mode of {self.metric} is {self.direction}, however it is {self.mode}"
            )
        return self

    @property
    def direction(self) -> Literal["min", "max"]:
        """The mode that suits the metric."""
        return "min" if self.metric in ("loss", "rmse") else "max"


class StopConfig(Monitor):
    """When a member stops early.  The weights of its best epoch are the ones kept.

    The first monitor decides what is best; those in ``also`` only take part in stopping.
    """

    also: Annotated[tuple[Monitor, ...], Field(strict=False)] = Field(
        default=(), description="further monitors that take part in stopping"
    )
    when: Literal["any", "all"] = Field(
        default="any", description="stop when any monitor says so, or when all have"
    )
    check_finite: bool = Field(
        default=True, description="end as diverged at the first NaN or infinite loss"
    )

    @property
    def monitors(self) -> tuple[Monitor, ...]:
        """All that is watched, the one that decides first."""
        return (self, *self.also)


class KeepConfig(Section):
    """Which weights are kept besides those of the best epoch, and which averages take part."""

    last: bool = Field(default=False, description="the weights at the end")
    top: Count = Field(default=1, description="how many of the best epochs")
    every: Count | None = Field(default=None, description="weights of every so many epochs")
    optimiser: bool = Field(
        default=False, description="the optimiser's state at the best epoch, to continue from"
    )
    ema: Fraction | None = Field(
        default=None, description="decay per step of an exponential average of the weights"
    )
    swa: Fraction | None = Field(
        default=None, description="share of the epochs after which weights are averaged"
    )
    lawa: Annotated[int, Field(ge=2)] | None = Field(
        default=None, description="how many latest epochs' weights are averaged"
    )


class AugmentConfig(Section):
    """Random changes of the training images, drawn anew for every sample; none by default."""

    crop: int = Field(default=0, ge=0, description="shift by up to so many pixels")
    pad: Literal["zero", "reflect"] = Field(
        default="zero", description="what crop and rotate find beyond the edges: black, or a mirror"
    )
    resized_crop: float = Field(
        default=1.0, gt=0, le=1, description="the least share of the area to enlarge; 1 is off"
    )
    rotate: float = Field(default=0.0, ge=0, le=180, description="by up to so many degrees")
    flip: Probability = Field(default=0.0, description="how often left and right are exchanged")
    vertical_flip: Probability = Field(
        default=0.0, description="how often top and bottom are exchanged"
    )
    brightness: Probability = Field(default=0.0, description="distance from black times 1 ± this")
    contrast: Probability = Field(
        default=0.0, description="distance from the mean grey times 1 ± this"
    )
    saturation: Probability = Field(default=0.0, description="distance from grey times 1 ± this")
    hue: float = Field(default=0.0, ge=0, le=0.5, description="by up to this share of the circle")
    greyscale: Probability = Field(default=0.0, description="how often colours are taken away")

    @property
    def asked(self) -> set[str]:
        """The keys that change images; ``pad`` alone changes none."""
        return set(self.model_dump(exclude_defaults=True)) - {"pad"}
