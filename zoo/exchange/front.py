"""The front matter of a model card, as Hugging Face reads it.

Its values are written as JSON, which is YAML too, so that no name can end a line or begin a key.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zoo.exchange.template import DEFAULT, fill
from zoo.printable import escaped
from zoo.registry import Checkpoint, Run

RELATIONS = {"weights": "merge", "distilled": "finetune", "single": "finetune"}
TASKS = {
    ("images", "classification"): "image-classification",
    ("images", "multilabel"): "image-classification",
    ("table", "classification"): "tabular-classification",
    ("table", "multilabel"): "tabular-classification",
    ("table", "regression"): "tabular-regression",
}


def front(run: Run, checkpoint: Checkpoint, parents: Mapping[str, Run]) -> list[str]:
    """Return the lines between the two ``---``.

    The licence is ``unknown`` until whoever publishes the weights says it.

    Args:
        run: what is exported.
        checkpoint: its weights.
        parents: the runs it was made of, by their identifiers, as far as they are known.
    """
    tags = ["zoo-ensemble"]
    tags += [run.task] if run.known_data else []
    tags += ["merge"] if run.kind == "weights" else []
    told: dict[str, Any] = {
        "license": "unknown",
        "library_name": "zoo-ensemble",
        "tags": tags,
    }
    if run.parents:
        told["base_model"] = [_repository(parents.get(key), key) for key in run.parents]
        told["base_model_relation"] = RELATIONS.get(run.kind, "finetune")
    figures = [name for name in checkpoint.metrics if re.fullmatch(r"\w+", name)]
    if figures:
        told["metrics"] = sorted({name.partition("_")[2] or name for name in figures})
    if run.known_data:
        task = TASKS.get((run.preprocessing.get("kind", ""), run.task))
        told["pipeline_tag"] = task
        told["datasets"] = [_identifier(Path(run.data_ref).name)]
        told["model-index"] = _index(run, checkpoint, task or run.task)
    return [f"{key}: {_written(value)}" for key, value in told.items() if value]


def _index(run: Run, checkpoint: Checkpoint, task: str) -> list[dict[str, Any]]:
    """Return the figures of validation rows; those of rows that were learnt from judge nothing."""
    figures = [
        {"type": name.removeprefix("val_"), "name": name, "value": value}
        for name, value in checkpoint.metrics.items()
        if re.fullmatch(r"val_\w+", name)
    ]
    if not figures:
        return []
    name = Path(run.data_ref).name
    data = {"name": name, "type": _identifier(name), "split": "validation"}
    return [
        {
            "name": run.name,
            "results": [{"task": {"type": task}, "dataset": data, "metrics": figures}],
        }
    ]


def _written(value: Any) -> str:
    """Write a value as JSON without anything that a viewer may take for HTML."""
    return escaped(json.dumps(value, ensure_ascii=False)).replace("<", r"\u003c")


def _repository(run: Run | None, key: str) -> str:
    """Name a parent as its own export is named by default."""
    name = key if run is None else fill(DEFAULT, {"name": run.name, "id": run.id}, run.owner)
    return _identifier(name)


def _identifier(name: str) -> str:
    """Return the name as one of a repository may be.

    >>> _identifier("our houses, 2024.csv"), _identifier("..")
    ('our-houses-2024.csv', 'unnamed')
    """
    plain = re.sub(r"[^A-Za-z0-9._]+", "-", name)
    return re.sub(r"\.{2,}", ".", plain).strip("-.")[:96].rstrip("-.") or "unnamed"
