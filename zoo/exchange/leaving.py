"""Runs become files that others can use: weights, a model card, and what prepares new rows."""

import json
import unicodedata
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

from zoo.errors import ConfigError, MismatchError, NotFoundError, UsageError
from zoo.exchange.card import config, readme
from zoo.exchange.opening import CONFIG, read_json
from zoo.exchange.reading import read_weights
from zoo.exchange.template import DEFAULT, fields, fill
from zoo.exchange.writing import Write, write_all
from zoo.printable import escaped
from zoo.registry import Checkpoint, Registry, Run, tables
from zoo.registry.checking import check_usable
from zoo.registry.records import SEVERAL, CheckpointKind
from zoo.registry.weights import encode
from zoo.usercode import is_reference

if TYPE_CHECKING:
    from torch import nn

Form = Literal["safetensors", "pt"]
ENDINGS = (".safetensors", ".pt", ".pth")
FOREIGN = (  # what somebody expects a file of, not a folder
    *(".bin", ".ckpt", ".h5", ".hdf5", ".joblib", ".json", ".keras", ".mlmodel", ".npz", ".pb"),
    *(".pickle", ".pkl", ".pmml", ".safetensor", ".tflite", ".torchscript", ".zip"),
)
CARD = "README.md"


def export_runs(
    registry: Registry,
    runs: Sequence[Run],
    output: str | Path,
    *,
    kind: CheckpointKind = "best",
    template: str | None = None,
    form: Form = "safetensors",
    force: bool = False,
) -> list[Path]:
    """Write the weights of runs, each into a folder with a model card and ``config.json``.

    Args:
        registry: where the runs are.
        runs: which.
        output: a folder, in which every run gets one; or, for one run, a file of weights alone,
            its form told by its name.
        kind: of their checkpoints; ``best`` of an averaged model is the average.
        template: of names (see :func:`zoo.exchange.template.fill`); by default ``{name}-{id}``,
            with the epoch where a run may have several checkpoints.
        form: ``safetensors`` with the run in the header, or ``pt``, a plain state dict.
        force: whether to replace files that are there.

    Returns:
        the files of weights.

    Raises:
        UsageError: where a name cannot be made, two are alike, a file is there already, or
            the output looks like a file of another form.
        NotFoundError: where a run has no such weights.
        IntegrityError, UnsafeFileError: where stored weights are not what was published, or what is
            said of them is damaged.
        ZooError: where a file cannot be written; none of them is there then.
    """
    output = Path(output)
    chosen = [(run, checkpoint) for run in runs for checkpoint in _checkpoints(registry, run, kind)]
    known = {run.id: run for run in registry.runs()}
    files: dict[Path, Write] = {}
    weights: list[Path] = []
    alone = output.suffix in ENDINGS
    if alone and len(chosen) != 1:
        raise UsageError(
            f"{output}: a file holds one model, however {len(chosen)} are named; name a folder"
        )
    if not alone and not output.is_dir() and output.suffix.lower() in FOREIGN:
        raise UsageError(
            f"{output}: weights are written as {', '.join(ENDINGS)}, programs as .onnx or .pt2, "
            f"however this ends in {output.suffix}; choose one of them, or a folder"
        )
    if alone:
        form = "safetensors" if output.suffix == ENDINGS[0] else "pt"
    usual = f"{DEFAULT}-epoch{{epoch:03d}}" if kind in SEVERAL else DEFAULT
    pattern = usual if template is None else template
    taken: dict[str, Run] = {}
    for run, checkpoint in chosen:
        name = fill(pattern, fields(run, checkpoint), run.owner)
        other = taken.setdefault(unicodedata.normalize("NFC", name).casefold(), run)
        if len(taken) == len(weights):  # it was there
            raise UsageError(
                f"--template: names must differ, however {name!r} is that of {other.owner} and of "
                f"{run.owner}; add {{id}} or {{epoch}}"
            )
        path = output if alone else output / name / f"{name}.{form}"
        weights.append(path)
        files[path] = partial(_write_weights, registry, run, checkpoint, form)
        if not alone:
            if run.preprocessing:
                check_usable(run)
            told = escaped(json.dumps(config(run, checkpoint), indent=2, ensure_ascii=False))
            files[path.with_name(CONFIG)] = partial(_write_text, f"{told}\n")
            files[path.with_name(CARD)] = partial(
                _write_text, readme(run, checkpoint, path.name, known)
            )
    write_all(files, force=force)
    return weights


def load_model(folder: str | Path) -> "nn.Module":
    """Build the model of an exported folder and load its weights, ready to predict.

    Raises:
        UsageError: where it is no such folder, or tells of no model.
        MismatchError: listing every name that is missing, unexpected, or of another shape.
        UnsafeFileError: where its files are damaged, or claim what they do not hold.
        UntrustedError: where the model is code that is not trusted.
    """
    import torch

    from zoo import models

    folder = Path(folder)
    told = read_json(folder / CONFIG)
    model = told.get("model")
    sizes = [told.get("outputs"), *_list(told.get("shape"))]
    counts = len(sizes) > 1 and all(type(size) is int and size > 0 for size in sizes)
    if not isinstance(model, dict) or not isinstance(model.get("name"), str) or not counts:
        raise ConfigError(
            f"{folder / CONFIG}: must tell the model, shape and outputs, however it does not; "
            "build the model yourself, and load the weights by read_weights"
        )
    files = sorted(path for path in folder.iterdir() if path.suffix in ENDINGS)
    if len(files) != 1:
        raise UsageError(f"{folder}: must hold one file of weights, however it has {len(files)}")
    state = read_weights(files[0]).state
    options = {key: value for key, value in model.items() if key != "name"}
    build = partial(models.build, model["name"], options, tuple(sizes[1:]), sizes[0], seed=0)
    try:
        if not is_reference(model["name"]):
            with torch.device("meta"):  # whatever sizes the file asks for
                models.check_state(build(), state)
        module = build()
        models.restore(module, state)
    except MismatchError as error:
        raise MismatchError(f"{files[0]}: {error}") from None
    return module.eval()


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _checkpoints(registry: Registry, run: Run, kind: CheckpointKind) -> list[Checkpoint]:
    """Return the checkpoints of that kind."""
    wanted = ("best", "merged") if kind == "best" else (kind,)
    found = [c for c in registry.checkpoints(run.id) if c.kind in wanted]
    if not found:
        hint = "export its members" if run.kind == "predictions" else f"it is {run.status}"
        raise NotFoundError(f"{run.owner} has no {kind!r} weights to export; {hint}")
    return found


def _write_weights(
    registry: Registry, run: Run, checkpoint: Checkpoint, form: Form, file: BinaryIO
) -> None:
    state = registry.load(run.id, checkpoint.kind, checkpoint.epoch)
    if form == "pt":
        import torch

        torch.save(state, file)
        return
    card: dict[str, Any] = {"schema": tables.SCHEMA, "checkpoint": checkpoint.kind}
    card |= {"epoch": checkpoint.epoch, "source": checkpoint.source}
    file.write(encode(state, card | vars(run), run.owner))


def _write_text(text: str, file: BinaryIO) -> None:
    file.write(text.encode())
