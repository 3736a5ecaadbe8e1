"""A run as one file that other programs execute: ONNX, or a program of ``torch.export``.

Either is compared with what ``zoo predict`` says before it gets its name: on rows of the data that
were learnt from, where they are still there.

Shapes: N sample, C class or label, T target.
"""

import io
import json
import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from ensemble.graphs import Graph, graph, rows_of
from ensemble.naming import names
from ensemble.serving import portions, predictor
from zoo.data import apply, builtin
from zoo.errors import DataError, UsageError, ZooError
from zoo.exchange.writing import write_all
from zoo.registry import Registry, Run

ENDINGS = (".onnx", ".pt2")
ROWS = 256  # that are compared at most
TOLERANCE = 1e-4  # of a probability, or of the largest value
DETAILS = "zoo.json"  # in a .pt2 file
LARGEST = 2**31 - 2**24  # bytes of weights in ONNX: what protobuf allows, less room for the rest


def export_graph(
    registry: Registry, run: Run, output: str | Path, *, force: bool = False
) -> dict[str, Any]:
    """Write a single or merged model, or a pool of predictions, as one program.

    Args:
        registry: where the run is.
        run: which.
        output: ``.onnx``, or ``.pt2`` of ``torch.export``.  Either takes any number of rows.
        force: whether to replace a file that is there.

    Returns:
        what the file says of itself: ``input``, ``output``, ``classes`` and more; and what it does
        not, under ``checked``: how many ``rows`` were compared, whether they are ``real_rows``,
        the ``largest_difference`` and the ``tolerance``.

    Raises:
        UsageError: where the file is there already, what ONNX takes is not installed, or the model
            is larger than such a file may be, or does things that it cannot express.
        MembersError: where the run, or a member, has no weights, or was trained elsewhere.
        ZooError: where the file would predict otherwise than the registry does, or cannot be
            written; it is not there then.
    """
    output = Path(output)
    if output.suffix not in ENDINGS:
        raise UsageError(f"a graph is written as .onnx or .pt2, however the file is {output.name}")
    if output.suffix == ".onnx":
        _need_onnx()
    told: dict[str, Any] = {}

    def write(file: BinaryIO) -> None:
        made = graph(registry, run)
        if output.suffix == ".onnx":
            _refuse_large(made, run)
        x_N, expected, real = _compared(registry, run, made)
        told.update(_described(run, made))
        program = _traced(made, x_N, run)
        encode, execute = (
            (_onnx, _by_onnxruntime) if output.suffix == ".onnx" else (_pt2, _by_torch)
        )
        content = encode(program, told)
        given = torch.cat([execute(content, x) for x in (x_N[:1], x_N[1:])])
        told["checked"] = _checked(given, expected, run) | {"real_rows": real}
        file.write(content)

    write_all({output: write}, force=force)
    return told


def _need_onnx() -> None:
    for name in ("onnx", "onnxruntime", "onnxscript"):
        if find_spec(name) is None:
            raise UsageError(
                f"ONNX needs onnx, onnxruntime and onnxscript, however {name} is not installed; "
                "pip install 'zoo-ensemble[onnx]'"
            )


def _refuse_large(made: Graph, run: Run) -> None:
    size = sum(held.nbytes for held in (*made.module.parameters(), *made.module.buffers()))
    if size > LARGEST:
        raise UsageError(
            f"an ONNX file holds {LARGEST / 1e9:.2f} GB of weights at most, however {run.label} "
            f"has {size / 1e9:.2f} GB; export .pt2 or the weights"
        )


def _compared(registry: Registry, run: Run, made: Graph) -> tuple[Tensor, Tensor, bool]:
    """Return inputs, what they should give, and whether they are real rows."""
    rows = _real(run, made)
    if rows is None:
        x_N = _drawn(made)
        with torch.no_grad():
            given: Tensor = made.module(x_N)
        return x_N, given, False
    frame = predictor(registry, run)(rows)
    own = names(run.preprocessing)
    if made.output == "probabilities":
        columns = [f"p_{name}" for name in own]
    else:
        columns = own if len(own) > 1 else ["prediction"]
    if made.input == "pixels":
        x_N = torch.tensor(rows, dtype=torch.float32)
    elif made.input == "rows":
        x_N = rows_of(made.columns, rows)
    else:
        x_N = apply(made.members[0].preprocessing, rows)
    return x_N, torch.tensor(frame[columns].to_numpy(dtype="float64")), True


def _real(run: Run, made: Graph) -> Any:
    """Return some rows of the data that were learnt from, spread over them; None without them."""
    ref = run.data_ref
    if made.input == "pixels" and ref in builtin.IMAGES:
        rows: Any = builtin.IMAGES[ref]()[0]
    elif made.input != "pixels" and ref in builtin.TABLES:
        rows = builtin.TABLES[ref]()
    elif Path(ref).exists():
        try:
            rows, _ = next(portions([one.preprocessing for one in made.members], Path(ref)))
        except (DataError, StopIteration):  # it is another file by now
            return None
    else:
        return None
    step = max(1, len(rows) // ROWS)
    return rows[::step][:ROWS] if len(rows) > 1 else None


def _drawn(made: Graph) -> Tensor:
    """Draw rows as they might be."""
    generator = torch.Generator().manual_seed(0)
    fitted = made.members[0].preprocessing
    if made.input == "pixels":
        return torch.rand(ROWS, *fitted["shape"], generator=generator) * float(fitted["scale"])
    if made.input == "features":
        return torch.randn(ROWS, len(fitted["features"]), generator=generator)
    known = {c["name"]: c for one in made.members for c in one.preprocessing["columns"]}
    drawn = []
    for column in made.columns:
        noise_N = torch.randn(ROWS, generator=generator, dtype=torch.float64)
        own = known[column["name"]]
        if column["kind"] == "categorical":
            count = len(column["categories"])
            noise_N = torch.randint(-1, count, (ROWS,), generator=generator).double()
        elif own["kind"] != "empty":
            noise_N = own["centre"] + own["scale"] * noise_N
        drawn.append(noise_N)
    return torch.stack(drawn, dim=1)


def _described(run: Run, made: Graph) -> dict[str, Any]:
    fitted = made.members[0].preprocessing
    entry: dict[str, Any] = {"name": made.input, "columns": made.columns}
    entry["dtype"] = "float64" if made.input == "rows" else "float32"
    if made.input == "pixels":
        entry = {"name": made.input, "shape": fitted["shape"], "dtype": "float32"}
    elif made.input == "features":
        entry |= {"columns": fitted["features"], "preprocessing": fitted}
    return {
        "schema": 1,
        "run": run.label,
        "id": run.id,
        "kind": run.kind,
        "task": run.task,
        "classes": list(run.classes),
        "input": entry,
        "output": {"name": made.output, "columns": names(run.preprocessing), "dtype": "float64"},
        "members": [member.label for member in made.members],
        "metrics": run.metrics,
        "data": {"ref": run.data_ref, "fingerprint": run.data_fingerprint},
    }


def _traced(made: Graph, x_N: Tensor, run: Run) -> Any:
    with _quiet():
        try:
            dynamic = ({0: torch.export.Dim.DYNAMIC},)
            return torch.export.export(made.module, (x_N[:7],), dynamic_shapes=dynamic)
        except Exception as error:  # whatever the code of a model raises
            raise UsageError(
                f"a graph has the same steps for all rows, however {run.label} cannot be traced: "
                f"{_first(error)}; export its weights"
            ) from error


def _onnx(program: Any, told: dict[str, Any]) -> bytes:
    with _quiet():
        try:
            made: Any = torch.onnx.export(
                program,
                dynamo=True,
                verbose=False,
                input_names=[told["input"]["name"]],
                output_names=[told["output"]["name"]],
            )
        except Exception as error:  # of several kinds, none of them public
            found = re.search(r"op='([\w.]+)'", str(error))
            operator = found[1] if found else f"one: {_first(error)}"
            raise UsageError(
                f"ONNX must know every operator of a model, however it does not know {operator}; "
                "export .pt2 or the weights"
            ) from error
    model = made.model_proto
    for key, value in (("zoo", told), ("classes", told["classes"])):
        entry = model.metadata_props.add()
        entry.key, entry.value = key, json.dumps(value)
    content: bytes = model.SerializeToString()
    return content


def _by_onnxruntime(content: bytes, x_N: Tensor) -> Tensor:
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    (given,) = session.run(None, {session.get_inputs()[0].name: x_N.numpy()})
    return torch.from_numpy(given)


def _pt2(program: Any, told: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    with _quiet():
        torch.export.save(program, buffer, extra_files={DETAILS: json.dumps(told)})
    return buffer.getvalue()


def _by_torch(content: bytes, x_N: Tensor) -> Tensor:
    with _quiet(), torch.no_grad():
        given: Tensor = torch.export.load(io.BytesIO(content)).module()(x_N)
    return given


def _checked(given: Tensor, expected: Tensor, run: Run) -> dict[str, Any]:
    expected = expected.reshape(given.shape)
    most = float((given - expected).abs().max())
    allowed = TOLERANCE * (float(expected.abs().max()) if run.task == "regression" else 1)
    if not most <= allowed:
        raise ZooError(
            f"a file must predict as {run.label} does, up to {allowed:.3g}, however it is "
            f"{most:.3g} off; export its weights"
        )
    return {"rows": len(given), "largest_difference": most, "tolerance": allowed}


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what the exporters say of themselves from the user."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _first(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), repr(error))
