"""What accompanies exported weights: ``config.json`` for programs, ``README.md`` for people."""

import html
import re
from collections.abc import Mapping
from typing import Any

from zoo.exchange.front import front
from zoo.printable import printable
from zoo.registry import Checkpoint, Run

ROW = "| {} | {} |"
HONEST = """\
Figures named `val_` are of validation rows. These chose the weights, so new rows may do worse;
figures named `train_` are of rows that were learnt from. No figure here is of test rows."""
WHOLE = """\
Or the model, ready to predict, and new rows prepared as in training; run in this folder:

```python
import json
from pathlib import Path

from zoo import load_model
from zoo.data import apply

model = load_model(".")
preprocessing = json.loads(Path("config.json").read_text())["preprocessing"]
# model(apply(preprocessing, rows)), rows a pandas.DataFrame or an array of images
```"""


def config(run: Run, checkpoint: Checkpoint) -> dict[str, Any]:
    """Return all that is needed to build the model and to treat new rows as in training.

    ``shape`` is that of one sample, ``outputs`` the number of classes, labels or quantities; both
    are None where the data are unknown.
    """
    return {
        "schema": 1,
        "run": run.label,
        "id": run.id,
        "kind": run.kind,
        "checkpoint": checkpoint.kind,
        "epoch": checkpoint.epoch,
        "metrics": checkpoint.metrics,
        "task": run.task,
        "classes": run.classes,
        "model": _model(run),
        "shape": _shape(run.preprocessing),
        "outputs": _outputs(run),
        "preprocessing": run.preprocessing,
        "data": {
            "ref": run.data_ref,
            "fingerprint": run.data_fingerprint,
            "split": run.split_hash,
        },
        "sha256": checkpoint.sha256,
        "parents": list(run.parents),
        "settings": run.config,
    }


def readme(run: Run, checkpoint: Checkpoint, file: str, parents: Mapping[str, Run]) -> str:
    """Write the model card.

    Args:
        run: what is exported.
        checkpoint: its weights.
        file: the name of their file.
        parents: the runs it was made of, by their identifiers, as far as they are known.
    """
    figures = any(re.fullmatch(r"\w+", name) for name in checkpoint.metrics)
    facts: dict[str, Any] = {
        "run": f"{run.label} ({run.id})",
        "kind": run.kind,
        "model": (_model(run) or {}).get("name", "unknown"),
        "task": run.task,
        "classes": ", ".join(map(str, run.classes[:20])),
        "weights": checkpoint.kind,
        "epoch": checkpoint.epoch,
        "epochs trained": run.epochs,
        "data": run.data_ref,
        "data content": run.data_fingerprint,
        "data split": run.split_hash,
        "made of": ", ".join(parents[key].label if key in parents else key for key in run.parents),
        **{name: f"{value:.6g}" for name, value in checkpoint.metrics.items()},
        "PyTorch": run.environment.get("torch"),
    }
    rows = [ROW.format(_cell(name), _cell(value)) for name, value in facts.items() if value]
    table = "\n".join(["| | |", "|---|---|", *rows])
    parts = [
        f"# {_cell(run.name)}",
        table,
        *([HONEST] if figures and run.known_data else []),
        _loading(run, file),
    ]
    return "\n".join(["---", *front(run, checkpoint, parents), "---", "", "\n\n".join(parts), ""])


def _loading(run: Run, file: str) -> str:
    """Say how the weights are loaded."""
    reader = "from safetensors.torch import load_file\n\nstate = load_file({!r})"
    if file.endswith(".pt"):
        reader = "import torch\n\nstate = torch.load({!r}, weights_only=True)"
    text = f"## Loading\n\n```python\n{reader.format(file)}\n```"
    if _shape(run.preprocessing) is None:
        return text
    return f"{text}\n\n{WHOLE}"


def _model(run: Run) -> dict[str, Any] | None:
    """Return a model's name and options; what is found from a table is filled in."""
    from zoo.checks import completed

    model = run.config.get("model")
    return completed(model, run.preprocessing) if isinstance(model, dict) else None


def _shape(fitted: Mapping[str, Any]) -> list[int] | None:
    if not fitted:
        return None
    return list(fitted["shape"]) if fitted["kind"] == "images" else [len(fitted["features"])]


def _outputs(run: Run) -> int | None:
    if not run.preprocessing:
        return None
    return len(run.classes) or len(run.preprocessing["target"]["names"])


def _cell(value: Any) -> str:
    """Write text that neither Markdown nor HTML takes for anything else."""
    text = html.escape(printable(str(value)))
    return re.sub(r"([\\`*_\[\]|#~$])", r"\\\1", text)
