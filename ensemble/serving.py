"""New rows in, predictions out: by a run, an averaged model or a pool, from the registry alone.

The data that it learnt from are not needed: every run keeps its preprocessing and its weights.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from ensemble.errors import OptionError
from ensemble.members import MembersError, model_of, refuse_unknown_data
from ensemble.naming import names, reordered
from ensemble.pools import pool_of, weights_in
from ensemble.predictions import check_finite
from ensemble.snapshots import members_of, weights_of
from ensemble.state import State
from ensemble.uncertainty import entropy, mutual_information, spread
from zoo import models, terms
from zoo.checks import completed
from zoo.data import apply_counting, read_chunks, sources
from zoo.data.opening import naming
from zoo.data.tabular import Gaps
from zoo.inference import Inference
from zoo.registry import Registry, Run
from zoo.registry.checking import check_usable
from zoo.replacing import replacing

ROWS = 1 << 14  # of a portion, whose features are held at a time


@dataclass(frozen=True)
class Predictor:
    """One model, or several pooled, ready to predict.

    Attributes:
        run: what predicts.
        members: the runs whose outputs are pooled; one for a single model.
        outputs: prepares raw rows for every member and returns predictions (K, N, C), (K, N) or
            (K, N, T), see :func:`zoo.terms.predictions`; and how many cells of which column are
            missing or unseen in training, counted for the member with most of them.
        pool: from these to those of one model.
        weights: of the members, in what they disagree; None where all weigh the same.
    """

    run: Run
    members: Sequence[Run]
    outputs: Callable[[Any], tuple[Tensor, Gaps]]
    pool: Callable[[Tensor], Tensor]
    weights: Sequence[float] | None = None

    def __call__(self, rows: Any) -> pd.DataFrame:
        """Predict raw rows: see :meth:`counting`."""
        return self.counting(rows)[0]

    def counting(self, rows: Any) -> tuple[pd.DataFrame, Gaps]:
        """Predict raw rows, and count the cells that are missing or unseen in training.

        Args:
            rows: a DataFrame, its columns matched by name; or images (N, *shape) as they are in
                the source.

        Returns:
            a frame of N rows: the columns of :func:`zoo.terms.columns`, and ``uncertainty``: the
            entropy of the predicted distribution in nats, for labels the sum over them; for values
            of several members their standard deviation, in the user's unit (per target, as
            ``std_NAME``, where there are several).  Of classes and labels that several members
            predict also ``disagreement``: what :func:`ensemble.uncertainty.mutual_information`
            gives.  And how many cells of which column.

        Raises:
            DataError: a column is missing, a cell cannot be read, or a shape differs.
        """
        outputs_K, gaps = self.outputs(rows)
        predicted = self.pool(outputs_K)
        target = self.run.preprocessing["target"]
        told = terms.columns(target, predicted)
        told |= _uncertainty(target, predicted, outputs_K, self.weights)
        index = rows.index if isinstance(rows, pd.DataFrame) else None
        return pd.DataFrame(told, index=index), gaps


def predictor(registry: Registry, run: Run) -> Predictor:
    """Load what a run predicts with.

    Raises:
        MembersError: where the run, or a member of it, has no weights, or was trained elsewhere.
        IntegrityError: where stored weights are not what was published.
        UnsafeFileError: where what the registry says of them is damaged.

    >>> from tempfile import TemporaryDirectory
    >>> from zoo import parse, plan, train_many
    >>> asked = plan(parse({"data": {"ref": "iris"}, "seeds": 1, "train": {"epochs": 1}}))
    >>> with TemporaryDirectory() as folder, Registry(f"sqlite:///{folder}/r.db", folder) as zoo:
    ...     predict = predictor(zoo, train_many(asked, zoo)[0])
    >>> rows = pd.DataFrame({name: [1.0] for name in predict.run.preprocessing["features"]})
    >>> list(predict(rows).columns)
    ['prediction', 'p_setosa', 'p_versicolor', 'p_virginica', 'uncertainty']
    """
    return ready(run, members_of(registry, run), partial(weights_of, registry))


def ready(
    run: Run,
    members: Sequence[Run],
    weights: Callable[[Run], State],
    dtype: torch.dtype = torch.float32,
) -> Predictor:
    """Make a predictor of a run and the weights of its members, wherever these are held.

    Args:
        run: what predicts.
        members: the runs whose outputs are pooled, in the pool's order; the run itself if alone.
        weights: returns the state dict of a member.
        dtype: to compute in; in float64 a row's prediction does not depend on those beside it.

    Raises:
        MembersError, UnsafeFileError: as by :func:`predictor`.
    """
    check_ready(run, members)
    groups: dict[str, list[Run]] = {}
    for member in members:
        alike = f"{model_of(member).model_dump_json()} {member.preprocessing}"
        groups.setdefault(alike, []).append(member)
    parts = [(group, _forward(weights, group, dtype)) for group in groups.values()]

    def outputs(rows: Any) -> tuple[Tensor, Gaps]:
        found: dict[str, Tensor] = {}
        ours = names(run.preprocessing)
        most: Gaps = Counter()
        for group, forward in parts:
            x_N, gaps = apply_counting(group[0].preprocessing, rows)
            outputs_K = forward(x_N)
            check_finite(outputs_K, [one.label for one in group])
            outputs_K = reordered(outputs_K, names(group[0].preprocessing), ours)
            found |= dict(zip((one.id for one in group), outputs_K, strict=True))
            most |= gaps
        return torch.stack([found[member.id] for member in members]), most

    pool, everyone = pool_of(run), range(len(members))
    return Predictor(run, members, outputs, lambda told_K: pool(told_K, everyone), weights_in(run))


def check_ready(run: Run, members: Sequence[Run]) -> None:
    """Refuse a run that cannot predict, or whose members cannot.

    Raises:
        MembersError: where a member has no weights, or was trained elsewhere.
        UnsafeFileError: where what the registry says of them is damaged.
    """
    for member in members:
        refuse_unknown_data(member)
        check_usable(member)
        if not member.metrics:
            raise MembersError(
                f"only trained models predict, however {member.label} is {member.status}; train it"
            )
    check_usable(run)


def predict_file(
    registry: Registry, run: Run, source: Path, output: Path | None
) -> Iterator[tuple[pd.DataFrame, Gaps]]:
    """Predict the rows of a file, portion by portion; it may be larger than the memory.

    Args:
        registry: where the run is.
        run: what predicts.
        source: a table in any format that training reads, or images; the target is not needed.
        output: where to write, ``.csv`` or ``.parquet``; it is there in full or not at all.

    Yields:
        the predictions of each portion, of image files by their names; and how many cells of which
        column are missing or unseen in training.

    Raises:
        OptionError: where the output has another form, or is the source.
        UsageError: where it cannot be written.
        DataError: where the source cannot be read, or does not fit.
    """
    if output is not None and output.exists() and source.exists() and output.samefile(source):
        raise OptionError(
            f"predictions need a file of their own, however {output} is what they are of"
        )
    predict = predictor(registry, run)
    with _writer(output) as write, naming(source):
        for rows, files in portions([one.preprocessing for one in predict.members], source):
            predicted, gaps = predict.counting(rows)
            if files is not None:
                predicted.insert(0, "file", files)
            write(predicted)
            yield predicted, gaps


def portions(
    fitted: Sequence[dict[str, Any]], source: Path
) -> Iterator[tuple[Any, Sequence[str] | None]]:
    """Read new rows for members, some at a time.

    Yields:
        a frame; or an array of images, and the names of their files if they come one in each.
    """
    if fitted[0]["kind"] == "table":
        columns = [column for one in fitted for column in one["columns"]]
        # A column may be of no use to one member, and all that another learnt from.
        columns.sort(key=lambda c: (c["kind"] != "empty", c.get("as_written", False)))
        union = {column["name"]: column for column in columns}
        for rows in read_chunks({"columns": [*union.values()]}, source, ROWS):
            yield rows, None
        return
    pixels, files = sources.rows(fitted[0], source)
    for start in range(0, len(pixels), ROWS):
        some = slice(start, start + ROWS)
        yield pixels[some], files and files[some]


def restored(run: Run, state: State) -> nn.Module:
    """Build the model of a run, with weights.

    Raises:
        MismatchError: where they do not fit.
    """
    fitted, model = run.preprocessing, model_of(run)
    shape = tuple(fitted["shape"]) if fitted["kind"] == "images" else (len(fitted["features"]),)
    count = len(run.classes) or len(fitted["target"]["names"])
    module = models.build(model.name, completed(model.options, fitted), shape, count, run.seed or 0)
    models.restore(module, state)
    return module


def _forward(
    weights: Callable[[Run], State], runs: Sequence[Run], dtype: torch.dtype
) -> Callable[[Tensor], Tensor]:
    """Return the function from prepared rows (N, *shape) to predictions of runs that are alike."""
    target = runs[0].preprocessing["target"]
    outputs = Inference([restored(run, weights(run)).to(dtype) for run in runs])
    return lambda x_N: terms.predictions(target, outputs(x_N.to(dtype)))


def _uncertainty(
    target: Mapping[str, Any],
    predicted: Tensor,
    outputs_K: Tensor,
    weights: Sequence[float] | None,
) -> dict[str, Any]:
    task, alone = target["task"], len(outputs_K) == 1
    if task != "regression":
        told = {"uncertainty": entropy(predicted, task).numpy()}
        if not alone:
            told["disagreement"] = mutual_information(outputs_K, task, weights).numpy()
        return told
    if alone:
        return {}
    names = target["names"]
    std_NT = spread(outputs_K, weights).reshape(-1, len(names)).numpy()
    if len(names) == 1:
        return {"uncertainty": std_NT[:, 0]}
    return {f"std_{name}": std_N for name, std_N in zip(names, std_NT.T, strict=True)}


@contextmanager
def _writer(path: Path | None) -> Iterator[Callable[[pd.DataFrame], None]]:
    """Append frames to a file that appears under its name once it is complete."""
    if path is None:
        yield lambda frame: None
        return
    if path.suffix not in (".csv", ".parquet"):
        raise OptionError(
            f"predictions are written as .csv or .parquet, however the file is {path.name!r}"
        )
    with replacing(path) as file, ExitStack() as stack:
        if path.suffix == ".csv":
            yield lambda frame: frame.to_csv(file, header=not file.tell(), index=False)
            return
        import pyarrow as pa
        from pyarrow import parquet

        writer: Any = None

        def append(frame: pd.DataFrame) -> None:
            nonlocal writer
            table = pa.Table.from_pandas(frame, preserve_index=False)
            if writer is None:
                writer = stack.enter_context(parquet.ParquetWriter(file, table.schema))
            writer.write_table(table)

        yield append
