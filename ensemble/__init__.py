"""Turn several trained models into one better predictor.

Averages of weights work on plain state dicts of any origin and need PyTorch only:

>>> import torch
>>> from ensemble import uniform
>>> uniform([{"w": torch.tensor([0.0])}, {"w": torch.tensor([1.0])}])
{'w': tensor([0.5000])}

Names are imported when they are first used, so that ``import ensemble`` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ensemble.alignment import align
    from ensemble.average import uniform, weighted
    from ensemble.catalogue import find, methods
    from ensemble.comparison import compare
    from ensemble.connectivity import Preflight, preflight
    from ensemble.errors import EnsembleError
    from ensemble.heldout import OutOfFold
    from ensemble.members import out_of_fold
    from ensemble.products import combine
    from ensemble.recalibration import recalibrate
    from ensemble.repairing import Repaired, repair, repairer
    from ensemble.responses import activations
    from ensemble.serving import Predictor, predictor
    from ensemble.soup import Soup, greedy_soup
    from ensemble.statistics import paired_bootstrap
    from ensemble.symmetries import Symmetry, symmetry

__all__ = [
    "EnsembleError",
    "OutOfFold",
    "Predictor",
    "Preflight",
    "Repaired",
    "Soup",
    "Symmetry",
    "activations",
    "align",
    "combine",
    "compare",
    "find",
    "greedy_soup",
    "methods",
    "out_of_fold",
    "paired_bootstrap",
    "predictor",
    "preflight",
    "recalibrate",
    "repair",
    "repairer",
    "symmetry",
    "uniform",
    "weighted",
]

_HOMES = {
    "EnsembleError": "errors",
    "OutOfFold": "heldout",
    "Preflight": "connectivity",
    "Predictor": "serving",
    "Repaired": "repairing",
    "Soup": "soup",
    "Symmetry": "symmetries",
    "activations": "responses",
    "align": "alignment",
    "combine": "products",
    "compare": "comparison",
    "find": "catalogue",
    "greedy_soup": "soup",
    "methods": "catalogue",
    "out_of_fold": "members",
    "paired_bootstrap": "statistics",
    "predictor": "serving",
    "preflight": "connectivity",
    "recalibrate": "recalibration",
    "repair": "repairing",
    "repairer": "repairing",
    "symmetry": "symmetries",
    "uniform": "average",
    "weighted": "average",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'ensemble' has no attribute {name!r}")
    return getattr(import_module(f"ensemble.{_HOMES[name]}"), name)
