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

_HOMES = {
    "Config": "config",
    "Data": "data",
    "EarlyStopping": "stopping",
    "Fit": "fit",
    "Member": "reports",
    "Processes": "executors",
    "RayCluster": "raycluster",
    "Registry": "registry",
    "Run": "registry",
    "ZooError": "errors",
    "build": "models",
    "continuation": "planning",
    "copy_runs": "exchange.copying",
    "export_runs": "exchange.leaving",
    "import_weights": "exchange.arriving",
    "load": "data",
    "load_model": "exchange.leaving",
    "parse": "config",
    "plan": "planning",
    "read": "settings",
    "read_weights": "exchange.reading",
    "register": "exchange.arriving",
    "to_mlflow": "tracking.mlflow",
    "to_tensorboard": "tracking.tensorboard",
    "train_many": "training",
    "verdict": "curves",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'zoo' has no attribute {name!r}")
    return getattr(import_module(f"zoo.{_HOMES[name]}"), name)
