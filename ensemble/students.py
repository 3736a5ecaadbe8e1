"""``--mode distill``: one model of the registry learns what others predict together.

Students of several seeds are trained at once on the pooled predictions of the teachers, one of them
from the best average of their weights where there is one.  The one is published that has learnt
best, on the validation rows, what it was taught.  Beside it stands one that had the same loop,
seeds, settings and epochs, but the labels alone: what that one gains comes of training, and what
the student gains over it comes of the teachers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ensemble.averaging import best_average
from ensemble.catalogue import Option, bind
from ensemble.classes import Student, Watch, best_of, trained
from ensemble.entries import LABELS
from ensemble.errors import EnsembleError, OptionError
from ensemble.heldout import mean_pool
from ensemble.likeness import same_model
from ensemble.members import Bench, MembersError, bench, model_of
from ensemble.products import named, requested
from ensemble.snapshots import described, trained_epochs
from ensemble.state import State
from ensemble.teachers import anew, asked, same_inputs, together
from zoo import teaching
from zoo.checks import check
from zoo.config import RunConfig
from zoo.errors import ZooError
from zoo.journal import history_row, metrics_of
from zoo.registry import NewRun, Registry, Run
from zoo.registry.records import Batch, Outcome
from zoo.reports import Member
from zoo.setup import default_device
from zoo.teaching import Teacher
from zoo.usercode import title
from zoo.working import Noted

STARTS = ("auto", "average", "fresh")
OPTIONS = (
    Option("temperature", float, 1.0),
    Option("labels", float, 0.3),
    Option("noise", float, 0.3),
    Option("students", int, 4),
    Option("start", str, STARTS[0]),
)
SECTIONS = ("model", "optim", "schedule", "train", "stop", "keep", "augment")  # may be set


@dataclass(frozen=True)
class Distillation:
    """What came of teaching; figures are of the validation rows.

    Attributes:
        run: the best student, as it stands in the registry.
        baseline: the best of those that were trained for as many epochs on the labels alone.
        teachers: the runs that were asked.
        metric: ``accuracy`` or ``rmse``.
        pooled: the figures of the teachers' pooled predictions.
        singles: those of each teacher.
        students: all that had the teachers, ``best`` among them.
        labelled: all that had the labels alone, ``control`` among them.
    """

    run: Run
    baseline: Run
    teachers: list[Run]
    metric: str
    pooled: Mapping[str, float]
    singles: Sequence[Mapping[str, float]]
    students: list[Student]
    best: Student
    labelled: list[Student]
    control: Student


def distill_runs(
    registry: Registry,
    runs: Sequence[Run],
    *,
    options: Mapping[str, Any] | None = None,
    name: str | None = None,
    frame: Any = None,
    watch: Watch = lambda event: None,
) -> Distillation:
    """Teach a model what runs predict together, and save it.  Test rows are never looked at.

    Args:
        registry: where the runs are and the product goes.
        runs: the teachers: finished models of one data set, whose probabilities or values are
            averaged; or one product of mode ``predictions``, which teaches what it predicts.
        options: those of :data:`OPTIONS`, and settings of the training by dotted keys, such as
            ``model.hidden``; what is not set is as in the teacher of the lowest loss.
        name: the product's, by default the teachers' with ``distill`` and the model.
        frame: the table that the teachers learnt from, where it was not a file.
        watch: is told what happens.

    Raises:
        EnsembleError: where teachers do not fit together, an option does not fit, or all students
            diverge.
        ConfigError: where a setting is unknown or does not suit the data.
    """
    chosen, changes = _options(options or {})
    teachers, pool, method = asked(registry, runs)
    table = bench(registry, teachers, frame)
    same_inputs(teachers)
    alone = mean_pool(table.data.task)
    pool = pool or alone
    table.predict(teachers, "val")
    singles = [table.figures(*table.validation([run], alone)) for run in teachers]
    first = min(range(len(teachers)), key=lambda k: singles[k]["val_loss"])
    config = anew(teachers[first], changes, leave=("keep",))
    data = table.own(teachers[0])
    check(config, data)
    ask = together(table, teachers, pool, default_device())
    share, noise = chosen["labels"], chosen["noise"]
    teacher = Teacher(ask, chosen["temperature"], share, noise, judges=True)
    teaching.check(teacher, data.task)
    stem = f"{teachers[0].name}.distill-{title(config.model.name)}"
    request = named(registry, _request(teachers, config, stem, method, chosen), name)
    members = _members(table, teachers, config, chosen, watch)
    students = trained(f"{request.name}: students", members, data, teacher, watch)
    best = best_of(students)
    rivals = [_without_teacher(student) for student in students]
    labelled = trained(f"{request.name}: labels alone", rivals, data, None, watch)
    control = best_of(labelled)
    run = _publish(registry, request, best, students, trained_epochs(teachers))
    request = _request(teachers, control.member.config, f"{run.name}-{LABELS}", LABELS, chosen)
    baseline = _publish(registry, named(registry, request, None), control, labelled, 0)
    return Distillation(
        run=run,
        baseline=baseline,
        teachers=teachers,
        metric=table.metric.name,
        pooled=table.figures(*table.validation(teachers, pool)),
        singles=singles,
        students=students,
        best=best,
        labelled=labelled,
        control=control,
    )


def _options(given: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Tell options of distilling from settings of the training.

    Raises:
        OptionError: for one that there is not, or a value that it does not take.
    """
    changes = {key: value for key, value in given.items() if "." in key}
    for key in changes:
        section = key.partition(".")[0]
        if section not in SECTIONS:
            raise OptionError(
                f"--set {key}: a student has the data and seeds that it is given, and settings in "
                f"{', '.join(SECTIONS)}"
            )
    own = {key: value for key, value in given.items() if key not in changes}
    chosen: dict[str, Any] = bind("distill", OPTIONS, own)
    if chosen["start"] not in STARTS:
        raise OptionError(f"start must be {', '.join(STARTS)}, however it is {chosen['start']!r}")
    if not chosen["students"] >= 1:
        raise OptionError(f"students must be 1 or more, however they are {chosen['students']}")
    return chosen, changes


def _members(
    table: Bench,
    teachers: Sequence[Run],
    config: RunConfig,
    chosen: Mapping[str, Any],
    watch: Watch,
) -> list[Member]:
    """Return the students before they learn.

    Raises:
        OptionError: where all are to start from an average that there is not.
    """
    count, start = chosen["students"], chosen["start"]
    average: State | None = None
    if start == "average" or (start == "auto" and count > 1):
        try:
            average = _average(table, teachers, config)
        except EnsembleError as error:
            if start == "average":
                raise OptionError(f"start=average: {error}") from error
            watch(Noted(f"no student starts from the average: {error}"))
    starts = [average if start == "average" or k == count - 1 else None for k in range(count)]
    names = [f"seed={k}{', from the average' if state else ''}" for k, state in enumerate(starts)]
    return [Member(names[k], config, k, state) for k, state in enumerate(starts)]


def _average(table: Bench, teachers: Sequence[Run], config: RunConfig) -> State:
    """Return the average of the teachers' weights that has the lowest loss.

    Raises:
        MembersError: where there is none of the student's model.
    """
    if len(teachers) == 1:
        raise MembersError("an average needs two teachers or more, however there is one")
    same_model(teachers)
    if config.model != model_of(teachers[0]):
        raise MembersError("an average is of the teachers' model, however the student's is another")
    ladder = best_average(table, teachers).ladder
    assert ladder is not None  # no method was asked for
    return min(ladder.rungs[1:], key=lambda rung: rung.figures["val_loss"]).state


def _without_teacher(student: Student) -> Member:
    """Return a member that shall train as long on the labels alone."""
    epochs = {"epochs": student.end.epochs}
    config = student.member.config
    config = config.model_copy(
        update={
            "train": config.train.model_copy(update=epochs),
            "stop": config.stop.model_copy(update={"patience": student.end.epochs}),
        }
    )
    seed = student.member.seed
    return Member(f"seed={seed}", config, seed)


def _request(
    teachers: Sequence[Run],
    config: RunConfig,
    name: str,
    method: str,
    chosen: Mapping[str, Any],
) -> NewRun:
    """Ask for a run of the kind ``distilled``."""
    told = {"mode": "distill", "method": method, "arguments": dict(chosen)}
    card = config.model_dump(mode="json") | told | described(teachers)
    return requested(name, "distilled", card, teachers)


def _publish(
    registry: Registry,
    request: NewRun,
    best: Student,
    students: Sequence[Student],
    before: int,
) -> Run:
    """Enter the best of some students; the same again is the same run.

    ``before`` are epochs that were trained for it beside theirs.
    """
    (run,) = registry.add([request])
    epoch, state = best.end.best, best.end.state
    assert epoch is not None
    assert state is not None
    assert best.val_loss is not None
    metrics = metrics_of(epoch, request.task) | {"val_loss": best.val_loss}
    history: list[Mapping[str, Any]] = [history_row(run.id, each) for each in best.history]
    end = Outcome(
        run_id=run.id,
        status="finished",
        epochs=before + sum(student.end.epochs for student in students),
        best_epoch=epoch.epoch,
        metrics=metrics,
        seconds=best.end.seconds,
    )
    try:
        kept = registry.put(
            run.id,
            state,
            kind="best",
            epoch=epoch.epoch,
            metrics=metrics,
            source=epoch.source,
            outcome=end,
            history=history,
        )
        registry.write(Batch(history=history, checkpoints=[kept], outcomes=[end]))
    except ZooError as error:
        registry.finish(run.id, "failed", error=str(error))
        raise
    return registry.run(run.id)
