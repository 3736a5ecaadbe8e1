"""What ``ensemble --mode distill`` prints."""

import statistics
import textwrap
from typing import Any

from ensemble.classes import Student
from ensemble.figures import figure
from ensemble.students import Distillation
from zoo.render import Format, describe, render, to_json

LEGEND = """\
val: on the validation rows; epochs: trained, of each model
* published; labels alone: as many epochs of the same training without teachers"""


def distillation_text(done: Distillation, form: Format) -> str:
    """Say what students are worth on the validation rows, beside teachers and labels alone."""
    key = f"val_{done.metric}"
    values = [each[key] for each in done.singles]
    losses = [each["val_loss"] for each in done.singles]
    if form == "json":
        row = describe(done.run) | {
            "teachers": [run.label for run in done.teachers],
            "pooled": done.pooled,
            "best_single": (min if done.metric == "rmse" else max)(values),
            "mean_single": statistics.fmean(values),
            "students": [_student(student, key) for student in done.students],
        }
        alone = [_student(student, key) for student in done.labelled]
        return to_json(row | {"labels_alone": describe(done.baseline) | {"students": alone}})
    lines: list[dict[str, Any]] = [
        {"student": f"{len(values)} teachers, pooled", key: done.pooled[key]},
        {"student": "their mean", key: statistics.fmean(values)},
    ]
    for line, loss in zip(lines, (done.pooled["val_loss"], statistics.fmean(losses)), strict=True):
        line["val_loss"] = loss
    for what, students, best in (
        ("student", done.students, done.best),
        ("labels alone", done.labelled, done.control),
    ):
        for student in students:
            told = _student(student, key)
            mark = " *" if student is best else ""
            lines.append(told | {"student": f"{what}, {told['student']}{mark}"})
    shown = [
        {
            "model": line["student"],
            f"val {done.metric}": _figure(line[key]),
            "val loss": _figure(line["val_loss"]),
            "epochs": line.get("epochs"),
        }
        for line in lines
    ]
    table = render(shown, list(shown[0]), form)
    if form != "table":
        return table
    published = f"{done.run.name} is published, and {done.baseline.name} to compare it with."
    notes = [LEGEND, textwrap.fill(published, 80)]
    if len(done.teachers) == 1:
        notes.append("There is one teacher: the student learns from a model, not an ensemble.")
    return "\n\n".join([table, *notes])


def _student(student: Student, key: str) -> dict[str, Any]:
    best = student.end.best
    return {
        "student": student.member.key,
        "status": student.end.status,
        key: best and best.val_metric,
        "val_loss": student.val_loss,
        "best_epoch": best and best.epoch,
        "epochs": student.end.epochs,
    }


def _figure(value: float | None) -> str:
    return "diverged" if value is None else figure(value)
