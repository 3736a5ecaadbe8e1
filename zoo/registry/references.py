"""How a person names runs: ``digits-mlp``, ``digits-*``, ``digits-mlp/seed=3``, ``@top5``.

``[NAME | GLOB | ID-PREFIX][/KEY=VALUE,...][@best | @topN]``; a key is ``seed``, ``fold``,
``status``, ``kind`` or a dotted setting, a value is TOML (a bare word is a string).
"""

import re
from collections.abc import Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any

from zoo.errors import MismatchError, NotFoundError, UsageError, listed, nearest
from zoo.registry.records import Run
from zoo.settings import parse_value

FIELDS = ("seed", "status", "kind")
MISSING = object()
# One KEY=VALUE; a bracket or a quote holds its commas.
ITEM = r"""(?:\[[^\]]*\]|"(?:\\.|[^"\\])*"|'[^']*'|[^,])+"""


def resolve(runs: Sequence[Run], refs: Sequence[str]) -> list[Run]:
    """Find the runs that the references name: in their order, each once.

    ``runs`` come oldest first.  ``@best`` and ``@topN`` pick among finished single runs by
    validation, best first: accuracy, balanced accuracy where that was watched by all, or RMSE; then
    loss, then age.

    Raises:
        NotFoundError: where a reference matches nothing; it names what is near.
        MismatchError: where ``@best`` would compare runs on different data.
        UsageError: where an identifier's prefix fits several runs, or a filter is not KEY=VALUE.
    """
    found = {run.id: run for ref in refs for run in _match(runs, ref)}
    return list(found.values())


def _match(runs: Sequence[Run], ref: str) -> list[Run]:
    exact = [run for run in runs if run.name == ref] or [run for run in runs if run.label == ref]
    if exact:
        return exact
    rest, top = _split_top(ref)
    base, slash, filters = rest.partition("/")
    chosen = _named(runs, rest)
    if not chosen and (base or slash or top):
        chosen = _named(runs, base) if base else list(runs)
        for key, value in _filters(ref, filters) if slash else ():
            chosen = _filtered(chosen, ref, key, value)
    if not chosen:
        raise NotFoundError(f"no run matches {ref!r}{_near(base, runs)}")
    return _best(chosen, ref)[:top] if top else chosen


def _split_top(ref: str) -> tuple[str, int]:
    """Split off how many of the best are wanted; 0 means all, in order.

    >>> _split_top("digits-mlp@top5"), _split_top("@best"), _split_top("digits-mlp")
    (('digits-mlp', 5), ('', 1), ('digits-mlp', 0))
    """
    suffix = re.search(r"@(?:best|top([1-9][0-9]{0,8}))\Z", ref)
    return (ref[: suffix.start()], int(suffix[1] or 1)) if suffix else (ref, 0)


def _named(runs: Sequence[Run], base: str) -> list[Run]:
    """Match a name, else a glob over names, else the beginning of an identifier."""
    found = [run for run in runs if run.name == base]
    if not found and re.search(r"[*?\[]", base):
        found = [run for run in runs if fnmatchcase(run.name, base)]
    if not found and re.fullmatch(r"[0-9a-f]{4,12}", base):
        found = [run for run in runs if run.id.startswith(base)]
        if len(found) > 1:
            told = ", ".join(f"{run.id} ({run.label})" for run in found[:8])
            more = f" and {len(found) - 8} more" if len(found) > 8 else ""
            raise UsageError(f"{base!r} must begin one identifier, however it fits {told}{more}")
    return found


def _filters(ref: str, text: str) -> list[tuple[str, Any]]:
    """Parse ``KEY=VALUE,...``; commas within brackets or quotes belong to the value.

    >>> _filters("", "model.hidden=[64,64],seed=3")
    [('model.hidden', [64, 64]), ('seed', 3)]
    """
    pairs = []
    for item in re.findall(ITEM, text) or [""]:
        key, equals, value = item.partition("=")
        if not (key.strip() and equals and value.strip()):
            raise UsageError(
                f"{ref!r}: after the slash comes KEY=VALUE,..., however it is {item!r}"
            )
        pairs.append((key.strip(), parse_value(value.strip())))
    return pairs


def _filtered(runs: list[Run], ref: str, key: str, wanted: Any) -> list[Run]:
    values = [_setting(run, key) for run in runs]
    if runs and all(value is MISSING for value in values):
        raise NotFoundError(f"no run matches {ref!r}: none has the setting {key!r}")
    found = [run for run, value in zip(runs, values, strict=True) if _same(value, wanted)]
    if runs and not found:
        known = sorted({str(value) for value in values if value is not MISSING})
        raise NotFoundError(f"no run matches {ref!r}: {key} is one of {listed(known, most=8)}")
    return found


def _setting(run: Run, key: str) -> Any:
    """Look up a field or a dotted key of the config."""
    if key in FIELDS:
        return getattr(run, key)
    key = "data.fold" if key == "fold" else key
    value: Any = run.config
    for part in key.split("."):
        value = value.get(part, MISSING) if isinstance(value, dict) else MISSING
    return value


def _same(value: Any, wanted: Any) -> bool:
    """Compare settings: 1 is 1.0, but true is not 1."""
    return bool(value == wanted) and isinstance(value, bool) == isinstance(wanted, bool)


def _best(runs: list[Run], ref: str) -> list[Run]:
    """Order the finished single runs by validation, best first."""
    ranked = [
        run
        for run in runs
        if run.status == "finished"
        and run.kind == "single"
        and run.metrics.get(f"val_{run.metric}") is not None
    ]
    if not ranked:
        raise NotFoundError(f"no run matches {ref!r}: none is finished, single and validated")
    by_data: dict[tuple[str, str, str], Run] = {}
    for run in ranked:
        by_data.setdefault((run.data_fingerprint, run.common_split, run.task), run)
    if len(by_data) > 1:
        told = ", ".join(f"{run.name} on {run.data_ref}" for run in by_data.values())
        example = next(iter(by_data.values())).name
        raise MismatchError(
            f"{ref!r} compares runs on the same data and split, however there are {told};"
            f" give a name, such as {example}@best"
        )
    watched = {run.watched for run in ranked}
    name = watched.pop() if len(watched) == 1 else ranked[0].metric
    sign = 1 if name == "rmse" else -1

    def rank(run: Run) -> tuple[float, float]:
        return sign * run.metrics[f"val_{name}"], run.metrics.get("val_loss", float("inf"))

    return sorted(ranked, key=rank)


def _near(base: str, runs: Sequence[Run]) -> str:
    names = sorted({run.name for run in runs})
    if not names:
        return ": the registry is empty; train-many fills it"
    return nearest(base, get_close_matches(base, names, n=8, cutoff=0.0))
