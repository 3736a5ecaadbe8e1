"""How the axes of an operation's results follow from those of its operands.

A rule takes an operation's arguments with the axes of tensors in their places, and the shapes of
the results; it lets axes agree that must, and returns the axes of each result.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from ensemble.axes import Axis, cut, freeze, fresh, length, reshape, resolve, unify

Axes: TypeAlias = list[Axis]
Rule: TypeAlias = Callable[..., Any]  # axes of the operands and other arguments -> axes of results
RULES: dict[str, Rule] = {}


def broadcast(*operands: Axes) -> Axes:
    """Let operands agree axis by axis, from the last; those of size one are spread."""
    found: Axes = []
    for back in range(1, max(map(len, operands)) + 1):
        axes = [axes[-back] for axes in operands if len(axes) >= back]
        wide = [axis for axis in axes if length(axis) != 1] or axes[:1]
        for axis in wide[1:]:
            unify(wide[0], axis)
        found.insert(0, wide[0])
    return found


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Let a function say what becomes of the axes in operations of these names."""

    def register(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, function))
        return function

    return register


def _spread(shape: Sequence[int]) -> Axes:
    """Axes along which all is alike: whatever permutes them changes nothing."""
    return [fresh(size) for size in shape]


def _place(dim: int, axes: Axes) -> int:
    return dim % len(axes) if axes else 0


@rule("zeros", "ones", "full", "new_zeros", "new_ones", "new_full", "zeros_like", "ones_like")
@rule("full_like", "scalar_tensor")
def _constant(*_: Any, shapes: list[Any], **__: Any) -> list[Axes]:
    return [_spread(shape) for shape in shapes]


@rule("clone", "alias", "detach", "lift_fresh", "_to_copy", "contiguous", "_softmax")
@rule("_log_softmax", "_conj", "dropout", "alias_copy")
def _same(x: Axes, *_: Any, shapes: list[Any], **__: Any) -> list[Axes]:
    return [x]


@rule("native_dropout")
def _dropped(x: Axes, *_: Any, shapes: list[Any], **__: Any) -> list[Axes]:
    return [x, x]


@rule("t")
def _t(x: Axes, *, shapes: list[Any]) -> list[Axes]:
    return [x[::-1]]


@rule("transpose")
def _transpose(x: Axes, a: int, b: int, *, shapes: list[Any]) -> list[Axes]:
    x = list(x)
    a, b = _place(a, x), _place(b, x)
    x[a], x[b] = x[b], x[a]
    return [x]


@rule("permute")
def _permute(x: Axes, dims: Sequence[int], *, shapes: list[Any]) -> list[Axes]:
    return [[x[_place(dim, x)] for dim in dims]]


@rule("view", "_unsafe_view", "reshape", "_reshape_alias", "squeeze", "unsqueeze", "view_copy")
def _view(x: Axes, *_: Any, shapes: list[Any], **__: Any) -> list[Axes]:
    return [reshape(x, shape) for shape in shapes]


@rule("expand")
def _expand(x: Axes, *_: Any, shapes: list[Any], **__: Any) -> list[Axes]:
    return [broadcast(x, _spread(shapes[0]))]


@rule("mm", "bmm")
def _product(x: Axes, y: Axes, *, shapes: list[Any]) -> list[Axes]:
    unify(x[-1], y[-2])
    for a, b in zip(x[:-2], y[:-2], strict=True):
        unify(a, b)
    return [[*x[:-1], y[-1]]]


@rule("addmm", "baddbmm")
def _added_product(bias: Axes, x: Axes, y: Axes, *_: Any, shapes: list[Any], **__: Any) -> Any:
    (product,) = _product(x, y, shapes=shapes)
    return [broadcast(product, bias)]


@rule("convolution")
def _convolution(
    x: Axes, weight: Axes, bias: Axes | None, stride: Any, padding: Any, dilation: Any,
    transposed: bool, output_padding: Any, groups: int, *, shapes: list[Any],
) -> list[Axes]:  # fmt: skip
    outer, inner = (weight[1], weight[0]) if transposed else (weight[0], weight[1])
    for axis in (*x[2:], *weight[2:]):
        freeze(axis)
    if groups == 1:
        unify(x[1], inner)
        outputs = outer
    else:  # groups move as wholes, and what is in them alike in all
        group, within = reshape([x[1]], [groups, length(x[1]) // groups])
        if transposed:
            theirs, own = reshape([inner], [groups, length(inner) // groups])
            outputs = reshape([theirs, outer], [groups * length(outer)])[0]
            unify(own, within)
        else:
            theirs, _ = reshape([outer], [groups, length(outer) // groups])
            outputs = outer
            unify(inner, within)
        unify(theirs, group)
    if bias is not None:
        unify(bias[0], outputs)
    return [[x[0], outputs, *(fresh(size, frozen=True) for size in shapes[0][2:])]]


@rule("native_batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_no_training")
@rule("cudnn_batch_norm", "_batch_norm_with_update", "_batch_norm_no_update", "miopen_batch_norm")
def _batch_norm(x: Axes, *others: Any, shapes: list[Any], **__: Any) -> list[Axes]:
    for other in others[:4]:  # weight, bias, running mean and variance
        if isinstance(other, list) and other:
            unify(x[1], other[0])
    return [x, *(_spread(shape) for shape in shapes[1:])]


@rule("native_layer_norm", "_fused_rms_norm")
def _layer_norm(
    x: Axes, shape: Sequence[int], *others: Any, shapes: list[Any], **__: Any
) -> list[Axes]:
    for other in others[:2]:
        if isinstance(other, list):
            broadcast(x[-len(shape) :], other)
    return [x, *([*x[: -len(shape)], *_spread(out[len(x) - len(shape) :])] for out in shapes[1:])]


@rule("native_group_norm")
def _group_norm(
    x: Axes, weight: Axes | None, bias: Axes | None, n: int, c: int, hw: int, groups: int, eps: Any,
    *, shapes: list[Any],
) -> list[Axes]:  # fmt: skip
    reshape([x[1]], [groups, c // groups])
    for other in (weight, bias):
        if other is not None:
            unify(other[0], x[1])
    return [x, *(_spread(shape) for shape in shapes[1:])]


@rule("mean", "sum", "amax", "amin", "var", "std", "var_mean", "logsumexp", "linalg_vector_norm")
@rule("prod")
def _reduced(x: Axes, *arguments: Any, shapes: list[Any], **options: Any) -> list[Axes]:
    """Whatever order things are reduced in, the result is the same."""
    listed = [each for each in (*arguments, options.get("dim")) if isinstance(each, list | tuple)]
    single = [each for each in arguments[:1] if isinstance(each, int) and len(shapes[0]) < len(x)]
    dims = {_place(dim, x) for dim in (listed[0] if listed else single) or range(len(x))}
    keep = len(shapes[0]) == len(x)
    found = [
        fresh(1) if place in dims else axis
        for place, axis in enumerate(x)
        if keep or place not in dims
    ]
    return [found] * len(shapes)


@rule("max_pool2d_with_indices", "max_pool3d_with_indices", "avg_pool2d", "avg_pool3d")
@rule("_adaptive_avg_pool2d", "_adaptive_avg_pool3d", "adaptive_max_pool2d", "adaptive_max_pool3d")
@rule("upsample_nearest1d", "upsample_nearest2d", "upsample_bilinear2d", "upsample_bicubic2d")
@rule("reflection_pad1d", "reflection_pad2d", "replication_pad1d", "replication_pad2d")
def _spatial(x: Axes, *_: Any, shapes: list[Any], **__: Any) -> list[Axes]:
    """Every channel by itself; positions have their places.  (N, C, ...), or (C, H, W)."""
    kept = len(x) - sum(a != b for a, b in zip(map(length, x), shapes[0], strict=True))
    kept = min(kept, 2 if len(x) > 3 else len(x) - 1 if len(x) == 3 else 1, len(x) - 1)
    for axis in x[kept:]:
        freeze(axis)
    return [[*x[:kept], *(fresh(size, frozen=True) for size in out[kept:])] for out in shapes]


@rule("constant_pad_nd")
def _padded(x: Axes, pad: Sequence[int], *_: Any, shapes: list[Any]) -> list[Axes]:
    found = list(x)
    for back in range(len(pad) // 2):
        before, after = pad[2 * back : 2 * back + 2]
        axis = resolve(x[-1 - back])
        if before < 0 or after < 0:
            stop = length(axis) + min(after, 0)
            axis = cut(axis, max(-before, 0), stop)
        around = [fresh(max(size, 0), frozen=True) if size > 0 else () for size in (before, after)]
        found[-1 - back] = (*around[0], *axis, *around[1])
    return [found]


@rule("cat")
def _cat(tensors: Sequence[Axes], dim: int = 0, *, shapes: list[Any]) -> list[Axes]:
    tensors = [x for x in tensors if len(x) == len(shapes[0])]  # an empty vector fits anything
    place = _place(dim, tensors[0])
    apart = [[axis for at, axis in enumerate(x) if at != place] for x in tensors]
    found = broadcast(*apart) if len(shapes[0]) > 1 else []
    found.insert(place, tuple(segment for x in tensors for segment in resolve(x[place])))
    return [found]


@rule("stack")
def _stack(tensors: Sequence[Axes], dim: int = 0, *, shapes: list[Any]) -> list[Axes]:
    found = broadcast(*tensors)
    found.insert(dim % len(shapes[0]), fresh(len(tensors), frozen=True))
    return [found]


@rule("split", "split_with_sizes", "chunk", "unsafe_split", "unsafe_split_with_sizes")
def _split(x: Axes, _: Any, dim: int = 0, *, shapes: list[Any]) -> list[Axes]:
    place, here, found = _place(dim, x), 0, []
    for shape in shapes:
        part = cut(x[place], here, here + shape[place])
        found.append([*x[:place], part, *x[place + 1 :]])
        here += shape[place]
    return found


@rule("slice")
def _slice(
    x: Axes, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1,
    *, shapes: list[Any],
) -> list[Axes]:  # fmt: skip
    place = _place(dim, x)
    size, wanted = length(x[place]), shapes[0][place]
    if step != 1:
        freeze(x[place])
        return [[*x[:place], fresh(wanted, frozen=True), *x[place + 1 :]]]
    first = min(max((start or 0) + (size if (start or 0) < 0 else 0), 0), size)
    return [[*x[:place], cut(x[place], first, first + wanted), *x[place + 1 :]]]


@rule("select")
def _select(x: Axes, dim: int, *_: Any, shapes: list[Any]) -> list[Axes]:
    place = _place(dim, x)
    freeze(x[place])
    return [[*x[:place], *x[place + 1 :]]]


@rule("unbind")
def _unbind(x: Axes, dim: int = 0, *, shapes: list[Any]) -> list[Axes]:
    found: list[Axes] = _select(x, dim, shapes=shapes)
    return found * len(shapes)


@rule("flip", "roll")
def _moved(x: Axes, *arguments: Any, shapes: list[Any]) -> list[Axes]:
    dims = arguments[-1] if isinstance(arguments[-1], list | tuple) else range(len(x))
    for dim in dims or range(len(x)):
        freeze(x[_place(dim, x)])
    return [x]


@rule("embedding")
def _embedding(weight: Axes, index: Axes, *_: Any, shapes: list[Any], **__: Any) -> list[Axes]:
    freeze(weight[0])
    return [[*index, weight[1]]]


@rule("_scaled_dot_product_flash_attention_for_cpu", "_scaled_dot_product_flash_attention")
@rule("_scaled_dot_product_efficient_attention", "_scaled_dot_product_cudnn_attention")
@rule("_scaled_dot_product_attention_math", "_scaled_dot_product_attention_math_for_mps")
def _attention(q: Axes, k: Axes, v: Axes, *_: Any, shapes: list[Any], **__: Any) -> list[Axes]:
    """(..., L, E), (..., S, E), (..., S, D) -> (..., L, D); positions have their places."""
    unify(q[-1], k[-1])
    for axis in (q[-2], k[-2], v[-2]):
        freeze(axis)
    leading = broadcast(q[:-2], k[:-2], v[:-2])
    found: Axes = [*leading, q[-2], v[-1]]
    others: list[Axes] = [[fresh(size, frozen=True) for size in shape] for shape in shapes[1:]]
    return [found, *others]
