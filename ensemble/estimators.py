"""Members, trained at once and made into one predictor, as estimators of scikit-learn.

This module needs scikit-learn's base classes at its head; nothing imports it until
``ensemble.ZooClassifier`` or ``ensemble.ZooRegressor`` is asked for.

Shapes: N sample, D feature, C class.
"""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_consistent_length, check_random_state, column_or_1d
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import assert_all_finite, check_is_fitted, validate_data
from torch import Tensor

from ensemble.errors import OptionError
from ensemble.scratch import Made, train_and_combine
from ensemble.serving import Predictor, ready
from zoo.data.split import grouped, taken
from zoo.engines import EngineName
from zoo.errors import UsageError
from zoo.settings import override

Array = npt.NDArray[Any]
SEEDS = 2**31  # of members
KEYS = {  # parameter -> setting
    "model": "model.name",
    "hidden": "model.hidden",
    "optim": "optim.name",
    "lr": "optim.lr",
    "weight_decay": "optim.weight_decay",
    "batch_size": "train.batch_size",
    "epochs": "train.epochs",
    "patience": "stop.patience",
    "min_delta": "stop.min_delta",
}
OURS = ("ref", "target", "task", "split", "part", "val", "test", "group", "time", "fold", "image")


class _Zoo(BaseEstimator):  # type: ignore[misc]  # scikit-learn ships no types
    """What both estimators share."""

    def __init__(
        self,
        members: int = 8,
        *,
        mode: str = "predictions",
        method: str | None = None,
        options: Mapping[str, Any] | None = None,
        model: str = "mlp",
        hidden: Sequence[int] | None = None,
        optim: str = "adam",
        lr: float | None = None,
        weight_decay: float | None = None,
        batch_size: int | None = None,
        epochs: int = 100,
        patience: int = 10,
        min_delta: float = 0.0,
        validation_fraction: float = 0.2,
        settings: Mapping[str, Any] | None = None,
        engine: EngineName | Literal["auto"] = "auto",
        random_state: Any = None,
    ) -> None:
        self.members = members
        self.mode = mode
        self.method = method
        self.options = options
        self.model = model
        self.hidden = hidden
        self.optim = optim
        self.lr = lr
        self.weight_decay = weight_decay
        self.batch_size = batch_size
        self.epochs = epochs
        self.patience = patience
        self.min_delta = min_delta
        self.validation_fraction = validation_fraction
        self.settings = settings
        self.engine = engine
        self.random_state = random_state

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.target_tags.required = True
        return tags

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the predictor, which is made again of plain values."""
        state: dict[str, Any] = super().__getstate__()
        return {name: value for name, value in state.items() if name != "_predictor"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if "_made" in state:
            self._predictor = _predictor(state["_made"], state["_dtype"])

    def _checked(self, X: Any, y: Any) -> tuple[Any, Array]:
        """Check rows and their targets; a frame stays as it is, anything else becomes numbers."""
        if isinstance(X, pd.DataFrame):
            validate_data(self, X, y, skip_check_array=True)
            y = column_or_1d(y, warn=True)
            check_consistent_length(X, y)
        else:
            X, y = validate_data(self, X, y, ensure_all_finite="allow-nan", dtype=np.float64)
        assert_all_finite(y, input_name="y")
        if len(X) < 2:
            raise OptionError(
                f"rows are needed to train and to validate, however n_samples={len(X)}; add some"
            )
        return X, y

    def _fit(self, X: Any, target_N: Array, task: str) -> Self:
        """Train on raw rows and codes of classes, or values."""
        members, fraction = self.members, self.validation_fraction
        if isinstance(members, bool) or not isinstance(members, int | np.integer) or members < 1:
            raise OptionError(f"members must be a count from 1, however it is {members!r}")
        if not (isinstance(fraction, float | np.floating) and 0 < fraction < 1):
            raise OptionError(
                f"validation_fraction must be between 0 and 1, however it is {fraction!r}"
            )
        state = check_random_state(self.random_state)
        first, split_seed = map(int, state.randint(0, SEEDS - int(members), size=2))
        columns = _rows(X, self._names())
        target, part = _free("target", columns), _free("part", columns)
        rows = columns.assign(**{target: target_N})
        strata = target_N if task == "classification" else np.zeros(len(rows), np.int64)
        val = taken(grouped(rows), strata, float(fraction), split_seed)
        if not val.any():
            raise OptionError(
                "a class must have 2 rows at least, one to train and one to validate, however "
                "none has; add rows"
            )
        rows[part] = np.where(val, "val", "train")
        # The user keeps the test rows; a data set must have some, and nobody looks at this one.
        frame = pd.concat([rows, rows.iloc[:1].assign(**{part: "test"})], ignore_index=True)
        data = {"ref": "X", "target": target, "task": task, "split": "column", "part": part}
        declared = {} if isinstance(X, pd.DataFrame) else dict.fromkeys(columns.columns, "numeric")
        asked = override({"data": {**data, "columns": declared}}, self._settings())
        asked["seeds"] = [first + k for k in range(int(members))]
        how: dict[str, Any] = {"mode": self.mode, "method": self.method, "options": self.options}
        try:
            made = train_and_combine(asked, frame, engine=self.engine, **how)
        except UsageError as error:
            raise OptionError(str(error)) from error
        if made.diverged:
            seeds = ", ".join(str(run.seed) for run in made.diverged)
            warnings.warn(
                f"{len(made.diverged)} of {members} members diverged and were left out (seeds "
                f"{seeds}); a lower lr, or settings={{'train.clip_norm': 1.0}}, may prevent it",
                ConvergenceWarning,
                stacklevel=3,
            )
        self._made = made
        self._dtype = _precision(made, columns.iloc[:2])
        self._predictor = _predictor(made, self._dtype)
        self.members_ = made.members
        self.product_ = made.product
        return self

    def _settings(self) -> dict[str, Any]:
        """Return the settings that parameters mean, by dotted keys; ``settings`` win."""
        given = {key: getattr(self, name) for name, key in KEYS.items()}
        given |= dict(self.settings or {})
        for key in given:
            section, _, name = key.partition(".")
            if section in ("name", "seeds", "grid") or (section == "data" and name in OURS):
                raise OptionError(
                    f"settings must leave {key!r} out, however it is set; fit sets it"
                )
        return {key: _plain(value) for key, value in given.items() if value is not None}

    def _names(self) -> list[str]:
        """Name the columns: as the frame did, or by their places."""
        numbered = [f"x{place}" for place in range(self.n_features_in_)]
        return [*map(str, getattr(self, "feature_names_in_", numbered))]

    def _predicted(self, X: Any) -> Tensor:
        """Return log-probabilities (N, C) or values (N,) as float64."""
        check_is_fitted(self)
        if isinstance(X, pd.DataFrame):
            validate_data(self, X, reset=False, skip_check_array=True)
        else:
            X = validate_data(self, X, reset=False, ensure_all_finite="allow-nan", dtype=np.float64)
        outputs_K, _ = self._predictor.outputs(_rows(X, self._names()))
        return self._predictor.pool(outputs_K).double()


class ZooClassifier(ClassifierMixin, _Zoo):  # type: ignore[misc]  # scikit-learn ships no types
    """One classifier made of several neural networks, which are trained at once.

    Rows that nothing is trained on, a share of ``validation_fraction``, decide when members stop
    and all that is chosen.  A frame may have columns of any type and gaps; arrays are numbers, and
    NaN is a gap.  Rows cannot be weighed, and may be repeated: copies stay together.

    Args:
        members: how many networks, which differ in their seeds.
        mode: what is made of them: ``predictions`` pools what they say, ``weights`` averages their
            weights, ``distill`` teaches one network what they predict together, ``single`` is the
            best one on the validation rows.
        method: of pooling or averaging; by default ``mean``, and the ladder.
        options: of the mode and the method, as ``ensemble --set`` takes them.
        model: the networks' architecture; for options other than ``hidden`` see ``settings``.
        hidden: widths of the hidden layers of an ``mlp``, by default 64 and 64.
        optim: ``sgd``, ``adam`` or ``adamw``.
        lr: learning rate, by default the optimiser's.
        weight_decay: by default the optimiser's.
        batch_size: rows per step, by default 128, or all where there are fewer.
        epochs: the most to train.
        patience: epochs without a better validation loss before a member stops.
        min_delta: a better loss is better by more than this.
        validation_fraction: of the rows.
        settings: any other setting of ``train-many`` by its dotted key, such as
            ``{"model.dropout": 0.1}``.
        engine: ``auto`` measures ``stacked`` and ``sequential`` and takes the faster.
        random_state: an integer makes the fit repeatable.

    Attributes:
        classes_: the classes, sorted.
        members_: the runs that were trained, with their ``seed``, ``metrics`` and ``epochs``.
        product_: the run that predicts; its ``metrics`` are those on the validation rows.
        n_features_in_: the number of columns.
        feature_names_in_: their names, where it was a frame that has some.

    >>> from sklearn.datasets import load_iris
    >>> X, y = load_iris(return_X_y=True)
    >>> model = ZooClassifier(2, epochs=5, engine="stacked", random_state=0).fit(X, y)
    >>> model.predict_proba(X).shape, len(model.members_)
    ((150, 3), 2)
    """

    def fit(self, X: Any, y: Any) -> Self:
        """Train the members and make the product.

        Args:
            X: (N, D).
            y: (N,) classes of any type.

        Raises:
            OptionError, ValueError: where a parameter is wrong, or the data cannot be learnt from.
            DivergedError: where all members diverged; where some did, a warning names their seeds.
        """
        X, y = self._checked(X, y)
        check_classification_targets(y)
        self.classes_, code_N = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise OptionError(
                f"there must be at least 2 classes, however y has 1 class: {self.classes_[0]!r}"
            )
        return self._fit(X, code_N, "classification")

    def predict_proba(self, X: Any) -> Array:
        """Return the probability of each class: float64 (N, C), in the order of ``classes_``."""
        probabilities: Array = self._predicted(X).softmax(dim=1).numpy()
        order = np.argsort(np.array(self.product_.classes, dtype=np.int64))
        return probabilities[:, order]

    def predict(self, X: Any) -> Array:
        """Return the most probable class of each row (N,)."""
        places = self.predict_proba(X).argmax(axis=1)
        predicted: Array = self.classes_[places]
        return predicted


class ZooRegressor(RegressorMixin, _Zoo):  # type: ignore[misc]  # scikit-learn ships no types
    """One regressor made of several neural networks, which are trained at once.

    Parameters and attributes are those of :class:`ZooClassifier`, without ``classes_``.

    >>> from sklearn.datasets import load_diabetes
    >>> X, y = load_diabetes(return_X_y=True)
    >>> ZooRegressor(2, epochs=5, engine="stacked", random_state=0).fit(X, y).predict(X).shape
    (442,)
    """

    def fit(self, X: Any, y: Any) -> Self:
        """Train the members and make the product.

        Args:
            X: (N, D).
            y: (N,) values.

        Raises:
            OptionError, ValueError: where a parameter is wrong, or the data cannot be learnt from.
            DivergedError: where all members diverged; where some did, a warning names their seeds.
        """
        X, y = self._checked(X, y)
        return self._fit(X, np.asarray(y, dtype=np.float64), "regression")

    def predict(self, X: Any) -> Array:
        """Return the values of rows: float64 (N,)."""
        values: Array = self._predicted(X).numpy()
        return values


def _predictor(made: Made, dtype: torch.dtype) -> Predictor:
    return ready(made.product, made.used, lambda run: made.weights[run.id], dtype)


def _precision(made: Made, rows: pd.DataFrame) -> torch.dtype:
    """Return what to predict in: float64, or float32 where a user's module takes nothing else."""
    try:
        _predictor(made, torch.float64).outputs(rows)
    except RuntimeError:  # which PyTorch raises of tensors that differ in dtype
        return torch.float32
    return torch.float64


def _rows(X: Any, names: list[str]) -> pd.DataFrame:
    """Return rows as a frame of those columns, numbered anew."""
    frame = pd.DataFrame(X)
    return frame.set_axis(names, axis=1).reset_index(drop=True)


def _free(name: str, frame: pd.DataFrame) -> str:
    """Return a name that no column has."""
    while name in frame.columns:
        name += "_"
    return name


def _plain(value: Any) -> Any:
    """Return a value of NumPy or a tuple as settings take it."""
    if isinstance(value, np.generic):
        return value.item()
    return [*map(_plain, value)] if isinstance(value, tuple | list | np.ndarray) else value
