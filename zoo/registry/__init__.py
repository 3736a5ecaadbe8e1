"""The catalogue of every run: what was asked, what came of it, and where its weights are.

Nothing here imports torch until weights are published or loaded, so that looking is quick.  Names
are imported when they are first used: :mod:`zoo.registry.layout` alone needs no database.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zoo.registry.records import Checkpoint, NewRun, Run
    from zoo.registry.registry import Registry

__all__ = ["Checkpoint", "NewRun", "Registry", "Run"]

_HOMES = {"Checkpoint": "records", "NewRun": "records", "Registry": "registry", "Run": "records"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'zoo.registry' has no attribute {name!r}")
    return getattr(import_module(f"zoo.registry.{_HOMES[name]}"), name)
