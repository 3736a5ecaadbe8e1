"""Runs as TensorBoard's event files, one folder each.

What a file should hold is a function of what the registry knows, and grows at its end alone.  So a
file is brought up to date by appending what it lacks, however often that is asked for, and whatever
cut the last attempt off.

Settings are the hyper-parameters of TensorBoard's HPARAMS tab, scalars its metrics.  There is no
summary of the experiment as a whole, which would have to know all runs: TensorBoard then makes one
of those it finds (``tensorboard/plugins/hparams/backend_context.py``).
"""

import io
import re
import time
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.errors import UsageError
from zoo.registry import Registry, Run
from zoo.replacing import replacing
from zoo.tracking.account import Account, Outcome, account

if TYPE_CHECKING:
    from tensorboard.compat.proto.event_pb2 import Event

OURS = "events.out.tfevents.*.zoo"


def to_tensorboard(registry: Registry, runs: Sequence[Run], folder: str | Path) -> list[Outcome]:
    """Write the histories of runs as event files, or what these lack.

    Args:
        registry: where the runs are.
        runs: which; of those that are still in training what is recorded so far.
        folder: in which each gets a folder, such as ``digits-mlp_seed=3-2f9c0a1b2c3d``.

    Returns:
        what became of the file of each.

    Raises:
        UsageError: where TensorBoard is not installed, or a file cannot be written.
        UnsafeFileError: where no registry of ours has written what is said of a run.
    """
    if find_spec("tensorboard") is None:
        raise UsageError(
            "event files need TensorBoard, however it is not installed; "
            "pip install 'zoo-ensemble[tensorboard]'"
        )
    return [_bring_up(Path(folder) / place(run), encode(account(registry, run))) for run in runs]


def place(run: Run) -> str:
    """Name the folder of a run, whatever its name and settings hold."""
    label, key = (re.sub(r"[^\w.+=,@-]", "_", text) for text in (run.label, run.id))
    return f"{label[:120]}-{key}"


def encode(told: Account) -> bytes:
    """Write an event file: of a run that has gone on, the same bytes and more."""
    from tensorboard.summary.writer.record_writer import RecordWriter

    file = io.BytesIO()
    records = RecordWriter(file)
    for event in _events(told):
        records.write(event.SerializeToString(deterministic=True))
    return file.getvalue()


def _events(told: Account) -> Iterator["Event"]:
    from tensorboard.compat.proto.event_pb2 import Event, SessionLog
    from tensorboard.plugins.hparams import api_pb2
    from tensorboard.plugins.hparams.plugin_data_pb2 import SessionEndInfo, SessionStartInfo

    yield Event(wall_time=told.began_s, file_version="brain.Event:2")
    # An earlier file of this run, should TensorBoard have read it, counts no more.
    yield Event(wall_time=told.began_s, step=0, session_log=SessionLog(status=SessionLog.START))
    start = SessionStartInfo(start_time_secs=told.began_s)
    for name, value in told.settings.items():
        kind = "bool" if isinstance(value, bool) else "string" if isinstance(value, str) else None
        setattr(start.hparams[name], f"{kind or 'number'}_value", value)
    yield Event(wall_time=told.began_s, summary=_hparams(session_start_info=start))
    for epoch in told.epochs:
        yield Event(wall_time=epoch.at_s, step=epoch.epoch, summary=_scalars(epoch.figures))
    if told.ended_s is not None:
        step = told.run.best_epoch or 0
        yield Event(wall_time=told.ended_s, step=step, summary=_scalars(told.best))
        well = told.run.status == "finished"
        end = SessionEndInfo(
            status=api_pb2.STATUS_SUCCESS if well else api_pb2.STATUS_FAILURE,
            end_time_secs=told.ended_s,
        )
        yield Event(wall_time=told.ended_s, summary=_hparams(session_end_info=end))


def _scalars(figures: dict[str, float]) -> Any:
    from tensorboard.compat.proto.summary_pb2 import Summary

    return Summary(value=[Summary.Value(tag=k, simple_value=v) for k, v in figures.items()])


def _hparams(**information: Any) -> Any:
    """Wrap what the HPARAMS tab reads of a session, as PyTorch's ``SummaryWriter`` does."""
    from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
    from tensorboard.plugins.hparams import metadata, plugin_data_pb2

    (name,) = information
    tag = f"_hparams_/{name}"
    data = plugin_data_pb2.HParamsPluginData(version=metadata.PLUGIN_DATA_VERSION, **information)
    plugin = SummaryMetadata.PluginData(
        plugin_name=metadata.PLUGIN_NAME, content=data.SerializeToString(deterministic=True)
    )
    return Summary(value=[Summary.Value(tag=tag, metadata=SummaryMetadata(plugin_data=plugin))])


def _bring_up(folder: Path, content: bytes) -> Outcome:
    """Let the latest file of ours in a folder have this content, and all earlier ones none.

    Where it has the beginning, the rest is appended, so that a TensorBoard that is watching reads
    on.  Where it has something else, as after a run began anew, a later file follows; the earlier
    one is emptied, because TensorBoard never leaves one that it reads and that is gone.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        there = sorted(folder.glob(OURS))
        held = there[-1].read_bytes() if there else b""
        if there and held == content:
            return "unchanged"
        if there and content.startswith(held):
            with there[-1].open("ab") as file:
                file.write(content[len(held) :])
            return "extended"
        name = OURS.replace("*", f"{time.time_ns():020d}")
        with replacing(folder / name) as whole:
            whole.write(content)
        for old in there:
            old.write_bytes(b"")
    except OSError as error:
        raise UsageError(f"{folder}: cannot be written: {error.strerror}") from error
    return "written"
