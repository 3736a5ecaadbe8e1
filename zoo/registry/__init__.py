"""The catalogue of every run: what was asked, what came of it, and where its weights are.

Nothing here imports torch until weights are published or loaded, so that looking is quick.
"""

from zoo.registry.records import Checkpoint, NewRun, Run
from zoo.registry.registry import Registry

__all__ = ["Checkpoint", "NewRun", "Registry", "Run"]
