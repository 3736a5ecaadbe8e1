"""Batch norms folded into the layers before them, for evaluation alone.

In evaluation mode BatchNorm multiplies every row by the same numbers and adds the same, and so does
the linear layer or convolution before it: one such layer does both.
"""

import copy
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from typing import Any

from torch import nn
from torch.nn.utils import fuse_conv_bn_eval, fuse_linear_bn_eval

PAIRS: dict[type, tuple[type, Callable[[Any, Any], nn.Module]]] = {
    nn.Linear: (nn.BatchNorm1d, fuse_linear_bn_eval),
    nn.Conv1d: (nn.BatchNorm1d, fuse_conv_bn_eval),
    nn.Conv2d: (nn.BatchNorm2d, fuse_conv_bn_eval),
    nn.Conv3d: (nn.BatchNorm3d, fuse_conv_bn_eval),
}


def fused(module: nn.Module) -> nn.Module:
    """Return a copy in evaluation mode whose batch norms are part of the layers before them.

    Those are meant that follow a linear layer or a convolution in an ``nn.Sequential``; an
    ``nn.Identity`` takes their place.  Layers with tied weights or hooks are left as they are.  A
    module that uses the parts of its ``Sequential`` singly may compute something else then.

    >>> fused(nn.Sequential(nn.Linear(3, 2, bias=False), nn.BatchNorm1d(2), nn.ReLU()))
    Sequential(
      (0): Linear(in_features=3, out_features=2, bias=True)
      (1): Identity()
      (2): ReLU()
    )
    """
    module = copy.deepcopy(module).eval()
    names = Counter(id(p) for _, p in module.named_parameters(remove_duplicate=False))
    for part in module.modules():
        if type(part) is not nn.Sequential:
            continue
        for i, (layer, norm) in enumerate(pairwise([*part])):
            kind, fuse = PAIRS.get(type(layer), (None, None))
            if (
                fuse is not None
                and type(norm) is kind
                and _foldable(norm, layer)
                and all(names[id(parameter)] == 1 for parameter in layer.parameters())
            ):
                part[i], part[i + 1] = fuse(layer, norm), nn.Identity()
    return module


def _foldable(norm: Any, layer: Any) -> bool:
    hooked = any(each._forward_hooks or each._forward_pre_hooks for each in (norm, layer))
    known = norm.affine and norm.running_mean is not None
    return known and len(layer.weight) == norm.num_features and not hooked
