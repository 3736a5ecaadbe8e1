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
    from ensemble.blending import convex_weights
    from ensemble.calibration import calibrate, calibrated
    from ensemble.catalogue import find, methods
    from ensemble.comparison import compare
    from ensemble.connectivity import Preflight, preflight
    from ensemble.distillation import Distilled, distill
    from ensemble.errors import EnsembleError
    from ensemble.estimators import ZooClassifier, ZooRegressor
    from ensemble.files import average_files
    from ensemble.fisher import fisher_information, fisher_merge
    from ensemble.healing import heal
    from ensemble.heldout import OutOfFold
    from ensemble.inference import forward_many
    from ensemble.learned import functional_loss, learned_soup
    from ensemble.members import out_of_fold
    from ensemble.metalearner import stacked, stacking
    from ensemble.portable import export_graph
    from ensemble.products import combine
    from ensemble.recalibration import recalibrate
    from ensemble.regression import gram_matrices, regmean
    from ensemble.repairing import Repaired, repair, repairer
    from ensemble.responses import activations
    from ensemble.robust import median, trimmed_mean
    from ensemble.selection import budgeted_selection, greedy_selection
    from ensemble.serving import Predictor, predictor
    from ensemble.significance import holm, mcnemar
    from ensemble.soup import Soup, greedy_soup
    from ensemble.spherical import lerp, multislerp, slerp
    from ensemble.statistics import paired_bootstrap
    from ensemble.stock import model_stock
    from ensemble.students import distill_runs
    from ensemble.symmetries import Symmetry, symmetry
    from ensemble.task_vectors import (
        breadcrumbs,
        dare,
        dare_norm,
        dare_norm_ties,
        dare_ties,
        task_arithmetic,
        ties,
    )
    from ensemble.trajectory import ema, lawa, swa
    from ensemble.uncertainty import entropy, mutual_information

__all__ = [
    "Distilled",
    "EnsembleError",
    "OutOfFold",
    "Predictor",
    "Preflight",
    "Repaired",
    "Soup",
    "Symmetry",
    "ZooClassifier",
    "ZooRegressor",
    "activations",
    "align",
    "average_files",
    "breadcrumbs",
    "budgeted_selection",
    "calibrate",
    "calibrated",
    "combine",
    "compare",
    "convex_weights",
    "dare",
    "dare_norm",
    "dare_norm_ties",
    "dare_ties",
    "distill",
    "distill_runs",
    "ema",
    "entropy",
    "export_graph",
    "find",
    "fisher_information",
    "fisher_merge",
    "forward_many",
    "functional_loss",
    "gram_matrices",
    "greedy_selection",
    "greedy_soup",
    "heal",
    "holm",
    "lawa",
    "learned_soup",
    "lerp",
    "mcnemar",
    "median",
    "methods",
    "model_stock",
    "multislerp",
    "mutual_information",
    "out_of_fold",
    "paired_bootstrap",
    "predictor",
    "preflight",
    "recalibrate",
    "regmean",
    "repair",
    "repairer",
    "slerp",
    "stacked",
    "stacking",
    "swa",
    "symmetry",
    "task_arithmetic",
    "ties",
    "trimmed_mean",
    "uniform",
    "weighted",
]

_HOMES = {
    "Distilled": "distillation",
    "EnsembleError": "errors",
    "OutOfFold": "heldout",
    "Predictor": "serving",
    "Preflight": "connectivity",
    "Repaired": "repairing",
    "Soup": "soup",
    "Symmetry": "symmetries",
    "ZooClassifier": "estimators",
    "ZooRegressor": "estimators",
    "activations": "responses",
    "align": "alignment",
    "average_files": "files",
    "breadcrumbs": "task_vectors",
    "budgeted_selection": "selection",
    "calibrate": "calibration",
    "calibrated": "calibration",
    "combine": "products",
    "compare": "comparison",
    "convex_weights": "blending",
    "dare": "task_vectors",
    "dare_norm": "task_vectors",
    "dare_norm_ties": "task_vectors",
    "dare_ties": "task_vectors",
    "distill": "distillation",
    "distill_runs": "students",
    "ema": "trajectory",
    "entropy": "uncertainty",
    "export_graph": "portable",
    "find": "catalogue",
    "fisher_information": "fisher",
    "fisher_merge": "fisher",
    "forward_many": "inference",
    "functional_loss": "learned",
    "gram_matrices": "regression",
    "greedy_selection": "selection",
    "greedy_soup": "soup",
    "heal": "healing",
    "holm": "significance",
    "lawa": "trajectory",
    "learned_soup": "learned",
    "lerp": "spherical",
    "mcnemar": "significance",
    "median": "robust",
    "methods": "catalogue",
    "model_stock": "stock",
    "multislerp": "spherical",
    "mutual_information": "uncertainty",
    "out_of_fold": "members",
    "paired_bootstrap": "statistics",
    "predictor": "serving",
    "preflight": "connectivity",
    "recalibrate": "recalibration",
    "regmean": "regression",
    "repair": "repairing",
    "repairer": "repairing",
    "slerp": "spherical",
    "stacked": "metalearner",
    "stacking": "metalearner",
    "swa": "trajectory",
    "symmetry": "symmetries",
    "task_arithmetic": "task_vectors",
    "ties": "task_vectors",
    "trimmed_mean": "robust",
    "uniform": "average",
    "weighted": "average",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'ensemble' has no attribute {name!r}")
    return getattr(import_module(f"ensemble.{_HOMES[name]}"), name)
