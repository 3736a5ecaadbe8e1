"""What pages tell of the code is so: names, counts, defaults, durations, messages."""

import re
from pathlib import Path

import pytest
from test_hostile_files import NAMES

import ensemble
from cli import main
from ensemble.calibration import KINDS
from ensemble.catalogue import methods
from ensemble.students import OPTIONS
from zoo import working
from zoo.config import parse
from zoo.errors import ConfigError
from zoo.models import BUILDERS
from zoo.registry.claims import LEASE_S
from zoo.tracking.commands import FOLLOW_S

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def page(name):
    return (ROOT / "docs" / f"{name}.md").read_text()


def named_in_rows(text):
    """All names in the first cells of a page's tables."""
    rows = re.findall(r"^\| (`.*?) \|", text, re.MULTILINE)
    return {name for row in rows for name in re.findall(r"`(.*?)`", row)}


def test_every_command_model_and_optimiser_is_told():
    for name in main.commands:
        assert name in README
    for name in [*BUILDERS, "sgd", "adam", "adamw"]:
        assert f"`{name}`" in page("training"), name


def test_every_method_for_weights_has_a_row_and_a_function():
    assert named_in_rows(page("weights")) == {method.name for method in methods("weights")}
    for method in methods("weights"):
        name = {"fisher": "fisher_merge"}.get(method.name, method.name.replace("-", "_"))
        assert getattr(ensemble, name) is method.function


def test_every_method_for_predictions_and_calibration_has_a_row():
    named = {method.name for method in methods("predictions")} | set(KINDS)
    assert named <= named_in_rows(page("predictions"))


def test_what_methods_for_predictions_need_is_what_their_functions_take():
    lines = page("predictions").splitlines()
    for method in methods("predictions"):
        row = next(line for line in lines if re.match(rf"\|[^|]*`{method.name}`", line))
        told = re.findall(r"[a-z]+", row.split("|")[2])
        assert set(told) == set(method.needs) - {"task"}, method.name


def test_the_counts_of_methods_are_those_of_the_catalogue():
    told = re.findall(r"one of (\w+) methods\]\(docs/(\w+)\.md\)", README)
    counts = {mode: str(len(methods(mode))) for mode in ("predictions", "weights")}
    assert {mode: {"ten": "10"}.get(count, count) for count, mode in told} == counts


def test_every_option_of_students_has_its_row_and_its_default():
    for option in OPTIONS:
        default = option.default if isinstance(option.default, str) else f"{option.default:g}"
        row = rf"^\| `{option.name}` \| `?{default}`? \|"
        assert re.search(row, page("distillation"), re.MULTILINE), option.name


def test_the_error_shown_is_the_error_printed():
    shown = re.search(r"```text\nError: (.*?)\n```", page("training"))[1]
    with pytest.raises(ConfigError) as caught:
        parse({"data": {"ref": "iris"}, "optim": {"lrr": 1}})
    assert str(caught.value) == shown


@pytest.mark.parametrize("option", ["--workers", "--cluster", "--share", "--cpus", "--gpus"])
def test_options_of_scaling_are_told(option):
    assert f"`{option}" in page("scaling")


def test_durations_are_those_of_the_code():
    assert f"otherwise {LEASE_S:g} s after" in page("scaling")
    decision = page("decisions/0011-claims-are-the-queue")
    assert f"it waits {working.TURN_S:g} s" in decision
    assert f"at most every {['', 'one', 'two'][int(working.STALE_S)]} seconds" in decision
    assert f"looks every {FOLLOW_S:g} seconds" in " ".join(page("trackers").split())


def test_the_page_on_exchange_counts_the_files_of_the_corpus():
    told = re.search(r"writes (\d+) malicious and damaged files", page("exchange"))[1]
    assert int(told) == len(NAMES)
