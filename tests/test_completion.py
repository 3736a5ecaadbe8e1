"""The shell completes commands, choices and references, by click's own classes."""

import pytest
from click.shell_completion import get_completion_class

from cli import main
from zoo import Registry, parse, plan, train_many


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """Where a registry is that holds two grids and what was made of one."""
    from ensemble import combine

    folder = tmp_path_factory.mktemp("completion")
    url, blobs = f"sqlite:///{folder}/registry.db", str(folder / "blobs")
    asked = {"data": {"ref": "iris"}, "seeds": 2, "train": {"epochs": 1}}
    with Registry(url, blobs) as registry:
        runs = train_many(plan(parse(asked)), registry, engine="stacked")
        combine(registry, runs, "predictions")
        train_many(plan(parse(asked | {"name": "other"})), registry, engine="stacked")
    return ["--registry", url, "--blobs", blobs]


def completed(*words, shell="bash"):
    kind = get_completion_class(shell)
    *given, incomplete = words
    found = kind(main, {}, "zoo", "_ZOO_COMPLETE").get_completions(given, incomplete)
    return [item.value for item in found]


@pytest.mark.parametrize("command", ["list", "show", "status", "ensemble", "compare", "predict"])
def test_names_of_runs_and_of_products_are_completed(command, places):
    assert completed(command, *places, "iris") == ["iris-mlp", "iris-mlp.predictions-mean"]


@pytest.mark.parametrize("command", ["continue", "export", "push"])
def test_so_they_are_where_a_reference_is_required(command, places):
    assert completed(command, *places, "o") == ["other"]
    assert completed(command, *places, "other", "") == completed(command, *places, "")


def test_after_a_slash_the_runs_of_a_name_are_told_apart(places):
    assert completed("show", *places, "other/") == ["other/seed=0", "other/seed=1"]
    assert completed("show", *places, "other/seed=1") == ["other/seed=1"]
    assert completed("show", *places, "nobody/") == []


def test_the_registry_of_the_environment_is_asked(places, monkeypatch):
    monkeypatch.setenv("ZOO_REGISTRY", places[1])
    monkeypatch.setenv("ZOO_BLOBS", places[3])
    assert completed("show", "oth") == ["other"]


def test_without_a_registry_nothing_is_completed_and_nothing_is_made(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ZOO_REGISTRY", raising=False)
    assert completed("show", "") == []
    assert list(tmp_path.iterdir()) == []


def test_commands_and_choices_are_completed():
    assert completed("tr") == ["track", "train-many"]
    assert completed("list", "--format", "m") == ["markdown"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_shell_has_a_script(shell):
    kind = get_completion_class(shell)
    assert "_ZOO_COMPLETE" in kind(main, {}, "zoo", "_ZOO_COMPLETE").source()
