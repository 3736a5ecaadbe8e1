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

_NAMES = {
    "alignment": "align",
    "average": "uniform weighted",
    "blending": "convex_weights",
    "calibration": "calibrate calibrated",
    "catalogue": "find methods",
    "comparison": "compare",
    "connectivity": "Preflight preflight",
    "distillation": "Distilled distill",
    "errors": "EnsembleError",
    "estimators": "ZooClassifier ZooRegressor",
    "files": "average_files",
    "fisher": "fisher_information fisher_merge",
    "healing": "heal",
    "heldout": "OutOfFold",
    "inference": "forward_many",
    "learned": "functional_loss learned_soup",
    "members": "out_of_fold",
    "metalearner": "stacked stacking",
    "portable": "export_graph",
    "products": "combine",
    "recalibration": "recalibrate",
    "regression": "gram_matrices regmean",
    "repairing": "Repaired repair repairer",
    "responses": "activations",
    "robust": "median trimmed_mean",
    "selection": "budgeted_selection greedy_selection",
    "serving": "Predictor predictor",
    "significance": "holm mcnemar",
    "soup": "Soup greedy_soup",
    "spherical": "lerp multislerp slerp",
    "statistics": "paired_bootstrap",
    "stock": "model_stock",
    "students": "distill_runs",
    "symmetries": "Symmetry symmetry",
    "task_vectors": "breadcrumbs dare dare_norm dare_norm_ties dare_ties task_arithmetic ties",
    "trajectory": "ema lawa swa",
    "uncertainty": "entropy mutual_information",
}
_HOMES = {name: home for home, names in _NAMES.items() for name in names.split()}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'ensemble' has no attribute {name!r}")
    return getattr(import_module(f"ensemble.{_HOMES[name]}"), name)
