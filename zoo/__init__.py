"""Train many models at once and keep them all.

Names are imported when they are first used, so that ``import zoo`` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zoo.config import Config, parse
    from zoo.curves import verdict
    from zoo.data import Data, load
    from zoo.errors import ZooError
    from zoo.exchange.arriving import import_weights, register
    from zoo.exchange.copying import copy_runs
    from zoo.exchange.leaving import export_runs, load_model
    from zoo.exchange.reading import read_weights
    from zoo.executors import Processes
    from zoo.fit import Fit
    from zoo.models import build
    from zoo.planning import continuation, plan
    from zoo.raycluster import RayCluster
    from zoo.registry import Registry, Run
    from zoo.reports import Member
    from zoo.settings import read
    from zoo.stopping import EarlyStopping
    from zoo.tracking.mlflow import to_mlflow
    from zoo.tracking.tensorboard import to_tensorboard
    from zoo.training import train_many

__all__ = [
    "Config",
    "Data",
    "EarlyStopping",
    "Fit",
    "Member",
    "Processes",
    "RayCluster",
    "Registry",
    "Run",
    "ZooError",
    "build",
    "continuation",
    "copy_runs",
    "export_runs",
    "import_weights",
    "load",
    "load_model",
    "parse",
    "plan",
    "read",
    "read_weights",
    "register",
    "to_mlflow",
    "to_tensorboard",
    "train_many",
    "verdict",
]

_NAMES = {
    "config": "Config parse",
    "curves": "verdict",
    "data": "Data load",
    "errors": "ZooError",
    "exchange.arriving": "import_weights register",
    "exchange.copying": "copy_runs",
    "exchange.leaving": "export_runs load_model",
    "exchange.reading": "read_weights",
    "executors": "Processes",
    "fit": "Fit",
    "models": "build",
    "planning": "continuation plan",
    "raycluster": "RayCluster",
    "registry": "Registry Run",
    "reports": "Member",
    "settings": "read",
    "stopping": "EarlyStopping",
    "tracking.mlflow": "to_mlflow",
    "tracking.tensorboard": "to_tensorboard",
    "training": "train_many",
}
_HOMES = {name: home for home, names in _NAMES.items() for name in names.split()}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'zoo' has no attribute {name!r}")
    return getattr(import_module(f"zoo.{_HOMES[name]}"), name)
