"""Averages of weights in files: any number of any size, in little memory, at the speed of the disk.

``uniform``, ``weighted`` and ``median`` need NumPy alone.  Every other method of the catalogue that
looks at nothing but the weights is given one tensor of each file at a time, as PyTorch's.  The
rules are those of :mod:`ensemble.state`: sums run in float64 and are rounded once, integers are
those of the first file, keys, shapes and dtypes must agree.
"""

import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from ensemble.dtypes import FLOATS, NAMES
from ensemble.elementwise import mean, median
from ensemble.errors import EmptyError, OptionError, StateMismatchError, nearest
from ensemble.merging import Plan, Stretch, Whole, stream, write
from ensemble.shares import listed, normalised
from ensemble.sources import (
    ENDING,
    Source,
    differences,
    is_url,
    open_source,
    place_of,
    within_place,
)
from zoo.errors import UnreachableError, UsageError
from zoo.exchange.opening import CONFIG, INDEX, parse_object
from zoo.exchange.writing import write_all

if TYPE_CHECKING:
    from torch import Tensor

    from ensemble.catalogue import Method

FOREIGN = (".pt", ".pth", ".ckpt", ".bin")
SUPPLIED = {"weights", "base"}  # what a method may need and a file can give


@dataclass(frozen=True)
class Averaged:
    """What was written.

    Attributes:
        paths: the files of weights; URLs where they are in an object store.
        notes: what the user should know, a sentence each.
    """

    paths: tuple[Path | str, ...]
    notes: tuple[str, ...]


def average_files(
    paths: Sequence[str | Path],
    output: str | Path,
    *,
    method: str = "uniform",
    options: Mapping[str, Any] | None = None,
    dtype: str | None = None,
    key: str | None = None,
    force: bool = False,
    watch: Callable[[int, int], object] = lambda count, total: None,
) -> Averaged:
    """Average the weights in files and write the result as safetensors, in full or not at all.

    Args:
        paths: the members: ``.safetensors``, folders of Hugging Face, the URL of either in an
            object store (``s3://…``, ``gs://…``, ``az://…``), or what ``torch.save`` wrote (which
            is loaded as a whole).  Nothing in them is executed.
        output: a ``.safetensors`` file; or a folder, which gets files like those of the first
            member, and its config and tokenizer where that is a folder too; or the URL of either.
        method: of the catalogue, needing nothing but the members, ``weights`` or a ``base``.
        options: the method's; ``weights``, one number per member; ``base``, a file or folder.
        dtype: what floats become, such as ``bfloat16``; members may differ in theirs then.
        key: where in a checkpoint of ``torch.save`` the weights are, if there are several sets.
        force: whether to replace files that are there.
        watch: is told how many more bytes were read, and of how many.

    Raises:
        EmptyError, StateMismatchError, NonFiniteError, OptionError: where members do not fit
            together, or the method does not fit them.
        UsageError: where a file cannot be read, or the result would replace one.
        UnreachableError: where an object store does not answer.
        UnsafeFileError: where a file is damaged, claims what it does not hold, or holds code.
        ZooError: where the result cannot be written; nothing of it is there then.

    >>> from tempfile import TemporaryDirectory
    >>> import torch
    >>> from safetensors.torch import load_file, save_file
    >>> with TemporaryDirectory() as folder:
    ...     for i in range(2):
    ...         save_file({"w": torch.tensor([4.0 * i, 2.0])}, f"{folder}/{i}.safetensors")
    ...     members = [f"{folder}/0.safetensors", f"{folder}/1.safetensors"]
    ...     done = average_files(members, f"{folder}/mean.safetensors")
    ...     load_file(done.paths[0])
    {'w': tensor([2., 2.])}
    """
    given = dict(options or {})
    output, kind = str(output).rstrip("/"), _dtype(dtype)
    if not paths:
        raise EmptyError("there must be at least one file, however none was given")
    with ExitStack() as stack:
        members = [open_source(path, key, stack) for path in paths]
        base = open_source(given.pop("base"), key, stack) if "base" in given else None
        stretch, whole = _method(method, given, len(members), base)
        plan = Plan(members, kind, stretch, whole, base, lambda count: watch(count, total))
        if key is not None and not any(source.is_pickled for source in plan.sources):
            raise UsageError("--key is for .pt files, however there is none")
        if found := differences(plan.sources, any_float=kind is not None):
            raise StateMismatchError("members must share keys, shapes and dtypes", found)
        total = sum(leaf.size for source in plan.sources for leaf in source.leaves.values())
        folder, files = _files(plan, output)
        places = [within_place(folder, name) for name in files]
        _check_place([*places, output], plan.sources)
        facts = {"method": method, **(options or {}), "of": [member.name for member in members]}
        metadata = {"format": "pt", "average": json.dumps(facts, default=str)}
        beside = _beside(plan, files) if not output.endswith(ENDING) else {}
        if is_url(output):
            from ensemble.objects import put_all
            from zoo.registry.bucket import Bucket

            parts = {name: stream(plan, keys, metadata) for name, keys in files.items()}
            small = {name: [content()] for name, content in beside.items()}
            put_all(Bucket(folder), {**parts, **small}, force=force)
            return Averaged(tuple(places), tuple(_notes(members)))
        _check_room(output, plan)
        targets = {
            Path(place): partial(_write, plan, keys, metadata)
            for place, keys in zip(places, files.values(), strict=True)
        }
        texts = {Path(folder) / name: partial(_put, content) for name, content in beside.items()}
        write_all({**targets, **texts}, force=force)
    return Averaged(tuple(targets), tuple(_notes(members)))


def _put(content: Callable[[], bytes], file: BinaryIO) -> None:
    file.write(content())


def _write(plan: Plan, keys: Sequence[str], metadata: Mapping[str, str], file: BinaryIO) -> None:
    write(plan, keys, metadata, file)
    for source in plan.sources:
        source.check_unchanged()


def _dtype(name: str | None) -> str | None:
    """Return what safetensors calls a dtype of PyTorch."""
    known = {NAMES[kind]: kind for kind in FLOATS}
    if name is not None and name not in known:
        raise OptionError(f"--dtype takes a float, however it is {name!r}{nearest(name, known)}")
    return None if name is None else known[name]


def _method(
    name: str, given: dict[str, Any], count: int, base: Source | None
) -> tuple[Stretch | None, Whole | None]:
    """Return what combines pieces, or else what combines whole tensors."""
    if base is None and not given:
        if name == "uniform":
            return _mean([1 / count] * count), None
        if name == "median":
            return median, None
    if name == "weighted" and base is None and set(given) == {"weights"}:
        return _mean(_shares(given["weights"], count)), None
    return None, _whole(name, given, count, base)


def _mean(weights: Sequence[float]) -> Stretch:
    return lambda parts, space: mean(parts, weights, space)


def _shares(given: Any, count: int) -> list[float]:
    return normalised(listed(given, count, "file"), count)


def _whole(name: str, given: dict[str, Any], count: int, base: Source | None) -> Whole:
    """Take a method of the catalogue for one tensor at a time."""
    from ensemble.catalogue import find

    method = find("weights", name)
    if strange := [need for need in method.needs if need not in SUPPLIED]:
        raise OptionError(
            f"{name} needs {strange[0]!r}, which files do not hold; import the models, and use "
            "ensemble --mode weights"
        )
    supply: dict[str, Any] = {}
    if "weights" in method.needs:
        if "weights" not in given:
            raise OptionError(
                f"{name} needs weights, however there are none; give one number per file: "
                "--set weights=[2,1]"
            )
        supply["weights"] = _shares(given.pop("weights"), count)
    if ("base" in method.needs) != (base is not None):
        raise OptionError(
            f"{name} takes no base, however one was given"
            if base
            else f"{name} needs the file all others were fine-tuned from: --set base=FILE"
        )
    bound = method.bind(given)
    if bound.get("whole"):
        raise OptionError(f"{name} of files goes tensor by tensor, however whole was set")
    return partial(_call, method, supply | bound, base is not None)


def _call(
    method: "Method", arguments: Mapping[str, Any], based: bool, key: str, tensors: "list[Tensor]"
) -> "Tensor":
    states = [{key: tensor} for tensor in tensors]
    base = {"base": states.pop()} if based else {}
    result: Tensor = method.function(states, **base, **arguments)[key]
    return result


def _files(plan: Plan, output: str) -> tuple[str, Mapping[str, list[str]]]:
    """Return the folder of the result, and its files, each with its tensors."""
    first = plan.members[0]
    if output.endswith(FOREIGN):
        raise UsageError(f"{output}: the result is safetensors; name a {ENDING} file or a folder")
    if output.endswith(ENDING):
        folder, name = output.rpartition("/")[::2] if is_url(output) else os.path.split(output)
        return folder, {name: list(first.leaves)}
    return output, first.files if first.is_folder else {f"model{ENDING}": list(first.leaves)}


def _check_place(places: Sequence[str], sources: Sequence[Source]) -> None:
    """Refuse a result in the place of a member, whatever names they go by."""
    inputs = {place for source in sources for place in source.places}
    for place in places:
        if place_of(place) in inputs:
            raise UsageError(f"{place}: is one of the members; name another place")


def _check_room(output: str, plan: Plan) -> None:
    """Refuse early what the disk has no room for."""
    path = Path(output).absolute()
    place = next(place for place in (path, *path.parents) if place.exists())
    needed = sum(plan.size(key) for key in plan.members[0].leaves)
    disk = shutil.disk_usage(place)
    if disk.free < needed and disk.total:  # which some do not tell
        raise UnreachableError(
            f"{output}: needs {needed:,} bytes, however {place} has {disk.free:,}; make room "
            "there, or name another place"
        )


def _beside(plan: Plan, files: Mapping[str, list[str]]) -> dict[str, Callable[[], bytes]]:
    """Return what goes beside the weights: an index, the first member's config and tokenizer."""
    first = plan.members[0]
    beside = dict(first.beside)
    if CONFIG in beside and plan.dtype is not None:
        beside[CONFIG] = partial(_config, beside[CONFIG], f"{first.name}/{CONFIG}", plan.dtype)
    if len(files) > 1 or first.is_indexed:
        index = {
            "metadata": {"total_size": sum(plan.size(key) for key in first.leaves)},
            "weight_map": {key: name for name, keys in files.items() for key in keys},
        }
        beside[INDEX] = partial(_json, index)
    return beside


def _config(content: Callable[[], bytes], place: str, dtype: str) -> bytes:
    """Tell the dtype of the result where a config tells that of the weights."""
    config = parse_object(content(), place)
    config |= {name: NAMES[dtype] for name in ("torch_dtype", "dtype") if name in config}
    return _json(config)


def _json(value: Mapping[str, Any]) -> bytes:
    return (json.dumps(value, indent=2) + "\n").encode()


def _notes(members: Sequence[Source]) -> list[str]:
    """Say what may be a mistake."""
    if len(members) == 1:
        return [f"{members[0].name} is the only member: the result has its weights"]
    names = [member.place for member in members]
    twice = [m.name for i, m in enumerate(members) if names[i] in names[:i]]
    return [f"{name} is given more than once, and counts as often" for name in dict.fromkeys(twice)]
