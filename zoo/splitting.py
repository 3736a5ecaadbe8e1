"""The settings of who learns from which rows, is chosen by which, and judged by which."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from zoo.section import Column, Count, Fraction, Section, Seed


class SplitConfig(Section):
    """How rows are split.

    Every member of a zoo sees the same test rows; the others too, without ``folds`` and
    ``bootstrap``.
    """

    split_seed: Seed = Field(default=0, description="of the split alone")
    val: Fraction = Field(default=0.2, description="share of the rows to validate on")
    test: Fraction = Field(default=0.2, description="share of the rows for compare alone")
    split: Literal["random", "group", "time", "column"] = Field(
        default="random",
        description="at random, by whole groups, in the order of time, or as a column says",
    )
    group: Column | None = Field(default=None, description="the column of groups, for split group")
    time: Column | None = Field(default=None, description="the column of times, for split time")
    part: Column | None = Field(
        default=None, description="the column that holds train, val or test, for split column"
    )
    folds: Annotated[int, Field(ge=2)] | None = Field(
        default=None, description="each seed is validated on its own one of so many folds"
    )
    repeats: Count = Field(default=1, description="how often the rows are shared out to folds")
    bootstrap: bool = Field(
        default=False, description="each seed draws its training rows with replacement"
    )
    fold: Annotated[int, Field(ge=0)] | None = Field(
        default=None, description="the member's own fold or draw; follows from its seed"
    )

    @property
    def own(self) -> bool:
        """Whether every member has training and validation rows of its own."""
        return self.bootstrap or self.folds is not None

    def of_seed(self, seed: int) -> Self:
        """Return the settings with the fold, or the draw, that a seed means.

        Seed s has fold s mod k of repeat s // k; after the last repeat the first comes again.

        >>> SplitConfig(folds=5, repeats=2).of_seed(17).fold
        7
        """
        if not self.own:
            return self
        fold = seed if self.folds is None else seed % (self.folds * self.repeats)
        return self.model_copy(update={"fold": fold})

    @model_validator(mode="after")
    def _names_its_column(self) -> Self:
        for split, key in (("group", "group"), ("time", "time"), ("column", "part")):
            given = getattr(self, key)
            if self.split == split and given is None:
                raise ValueError(
                    f"split {split!r} needs a column, however none is named; set data.{key}"
                )
            if self.split != split and given is not None:
                raise ValueError(
                    f"{key} is for split {split!r}, however split is {self.split!r}; set both"
                )
        return self

    @model_validator(mode="after")
    def _folds_agree(self) -> Self:
        if self.folds and self.bootstrap:
            raise ValueError("a member has a fold or a bootstrap draw, however both are asked for")
        if self.own and self.split == "time":
            raise ValueError(
                "folds and draws would train on rows later than those that validate, however split "
                "is 'time'; leave folds and bootstrap out"
            )
        if self.repeats > 1 and not self.folds:
            raise ValueError(f"repeats need folds, however only repeats={self.repeats} is set")
        most = (self.folds or 0) * self.repeats
        if self.fold is not None and (not self.own or (self.folds and self.fold >= most)):
            raise ValueError(
                f"fold must be below folds x repeats ({most}), however it is {self.fold}"
                if most
                else f"fold is for folds or bootstrap, however neither is set and it is {self.fold}"
            )
        return self

    @model_validator(mode="after")
    def _leaves_rows(self) -> Self:
        if self.val + self.test >= 1:
            raise ValueError(
                f"val and test must leave rows to train on, however {self.val:g} + {self.test:g} "
                "is 1 or more"
            )
        return self
