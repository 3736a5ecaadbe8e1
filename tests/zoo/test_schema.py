"""The JSON Schema of settings agrees with what train-many takes."""

import json
import re
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner
from jsonschema import Draft202012Validator
from test_config_mistakes import MISTAKES
from test_outline import filled

from cli import main
from zoo import models
from zoo.config import RunConfig, parse
from zoo.outline import outline
from zoo.schema import schema

ROOT = Path(__file__).parents[2]
OURS = [name for name, builder in models.BUILDERS.items() if isinstance(builder, str)]
SHOWN = [
    block
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    for block in re.findall(r"```toml\n(.*?)```", page.read_text(), re.DOTALL)
]
OF_A_KEY = [  # and not of several together, of a number that JSON has not, or of a flag left out
    changes
    for changes, message in MISTAKES
    if re.match(r"[a-z_]+\.|name", message)
    and not re.search("nan|inf|the mode of|is required", f"{changes} {message}")
]


@pytest.fixture(scope="module")
def valid():
    told = schema()
    Draft202012Validator.check_schema(told)
    return Draft202012Validator(told).is_valid


@pytest.mark.parametrize("model", OURS)
def test_the_file_of_init_is_valid_as_it_is_and_with_every_default(valid, model):
    text = outline({"ref": "digits"}, {"name": model, **models.options(model, {})})
    assert valid(tomllib.loads(text))
    assert valid(tomllib.loads(filled(text)))


def test_every_key_has_a_description():
    told = schema()["properties"]
    keys = dict(told)
    for section in RunConfig.model_fields:
        for form in told[section].get("anyOf", [told[section]]):
            keys |= {f"{section}.{key}": v for key, v in form.get("properties", {}).items()}
    assert len(keys) > 90
    assert [key for key, value in keys.items() if not value.get("description")] == []


@pytest.mark.parametrize("shown", SHOWN)
def test_the_files_that_the_pages_show_are_valid(valid, shown):
    assert valid(tomllib.loads(shown))


@pytest.mark.parametrize(
    "settings",
    [
        {"name": "mine", "seeds": 4},
        {"seeds": "0-3,7"},
        {"seeds": [1, 5]},
        {"data": {"ref": "a.csv", "target": ["b", "c"], "columns": {"d": "drop"}}},
        {"data": {"ref": "images", "size": [32, 48]}},
        {"model": {"dropout": [0.1, 0.2]}},
        {"init": "shared"},
        {"optim": {"name": "sgd", "momentum": 0.5}},
        {"train": {"class_weights": [1, 2.5]}},
        {"stop": {"also": [{"metric": "accuracy", "patience": 3}]}},
        {"grid": {"optim.lr": [0.1, 0.2], "model.hidden": [[8], [8, 8]]}},
        {"grid": {"init": ["shared", "independent"], "optim": {"lr": [0.1]}}},
    ],
    ids=str,
)
def test_what_train_many_takes_is_valid(valid, settings):
    parse({"data": {"ref": "iris"}} | settings)
    assert valid(settings)


def test_the_options_of_a_model_of_ones_own_may_be_any(valid):
    own = {"name": "nets/wide.py:wide", "depth": {"any": "thing"}}
    assert valid({"model": own, "grid": {"model.depth": [1, 2]}})


@pytest.mark.parametrize("changes", OF_A_KEY, ids=str)
def test_mistakes_of_a_key_are_refused(valid, changes):
    assert not valid(changes)


def test_editors_find_it_from_the_file(tmp_path):
    (tmp_path / "runs").mkdir()
    path, told = tmp_path / "runs/zoo.toml", tmp_path / "zoo.schema.json"
    asked = ["init", str(path), "--schema", str(told)]
    assert CliRunner().invoke(main, asked).exit_code == 0
    first, _, rest = path.read_text().partition("\n")
    assert first == "#:schema ../zoo.schema.json"
    assert json.loads(told.read_text()) == schema()
    assert CliRunner().invoke(main, ["init"]).output == rest
    again = CliRunner().invoke(main, asked)
    assert again.output == f"Error: {told}: cannot be written: File exists; name another\n"
