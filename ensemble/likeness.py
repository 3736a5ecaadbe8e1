"""What models must share for their weights to be averaged."""

from collections.abc import Sequence
from typing import Any

from ensemble.entries import settings_of
from ensemble.errors import listing
from ensemble.members import MembersError, model_of
from zoo.registry import Run
from zoo.sections import DataConfig


def same_model(runs: Sequence[Run]) -> None:
    """Refuse to average weights of different models.

    Raises:
        MembersError: naming every setting that differs.
    """
    first = _settings(runs[0])
    facts = [
        f"{key} is {settings.get(key)} in {run.label} and {first.get(key)} in {runs[0].label}"
        for run, settings in ((run, _settings(run)) for run in runs)
        for key in {**first, **settings}
        if settings.get(key) != first.get(key)
    ]
    if facts:
        raise MembersError(
            f"only weights of one model can be averaged, however {listing(facts)}; "
            "--mode predictions combines any models"
        )


def same_rows(runs: Sequence[Run]) -> None:
    """Refuse to average weights that were trained on rows prepared in different ways.

    Raises:
        MembersError: where members have folds or draws of their own.
    """
    others = [run.label for run in runs if run.split_hash != runs[0].split_hash]
    if others:
        raise MembersError(
            "only weights of members on the same rows can be averaged, since each split has its "
            f"own preprocessing, however {runs[0].label} and {others[0]} are in different folds or "
            "draws; --mode predictions combines them"
        )


def _settings(run: Run) -> dict[str, Any]:
    settings = {f"model.{key}": value for key, value in model_of(run).model_dump().items()}
    settings["data.scaling"] = settings_of(run, "data", DataConfig).scaling
    units = run.preprocessing["target"]["units"]
    return settings | ({"data.target_transform": units["transform"]} if units else {})
