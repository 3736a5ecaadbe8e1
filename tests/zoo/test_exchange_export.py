"""Exports are complete, can be loaded back, and never overwrite or half-write anything."""

import json
import os
import re

import pandas as pd
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from ensemble import combine
from ensemble.serving import predictor
from zoo import continuation, export_runs, load_model, parse, plan, register, train_many
from zoo.data import apply
from zoo.errors import ConfigError, MismatchError, NotFoundError, UsageError, ZooError
from zoo.exchange import writing
from zoo.exchange.arriving import import_weights
from zoo.exchange.template import fill
from zoo.registry import Registry

SETTINGS = {
    "data": {"ref": "iris"},
    "model": {"hidden": [4]},
    "seeds": 2,
    "train": {"epochs": 3},
    "keep": {"every": 1},
}


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    folder = tmp_path_factory.mktemp("zoo")
    with Registry(f"sqlite:///{folder}/registry.db", folder / "blobs") as opened:
        runs = train_many(plan(parse(SETTINGS)), opened)
        combine(opened, runs, "weights", method="uniform", name="soup")
        combine(opened, runs, "predictions", name="pool")
        yield opened


@pytest.fixture
def run(registry):
    return registry.run("iris-mlp/seed=0")


def files(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def test_a_run_becomes_a_folder_with_weights_card_and_config(registry, run, tmp_path):
    (path,) = export_runs(registry, [run], tmp_path)
    stem = f"iris-mlp-{run.id}"
    assert files(tmp_path) == [stem, *(f"{stem}/{n}" for n in ("README.md", "config.json")),
                               f"{stem}/{stem}.safetensors"]  # fmt: skip
    state = load_file(path)
    assert state.keys() == registry.load(run.id).keys()
    with safe_open(path, "pt") as opened:
        card = json.loads(opened.metadata()["zoo"])
    assert card["id"] == run.id
    told = json.loads(path.with_name("config.json").read_text())
    assert told["preprocessing"] == run.preprocessing
    assert told["data"]["fingerprint"] == run.data_fingerprint
    assert (told["shape"], told["outputs"]) == ([4], 3)
    assert oct(path.stat().st_mode & 0o777) == oct(0o666 & ~_umask())


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def front(text):
    lines = text.split("---")[1].strip().splitlines()
    return {key: json.loads(value) for key, value in (line.split(": ", 1) for line in lines)}


def test_the_card_has_front_matter_figures_and_a_way_to_load(registry, tmp_path, monkeypatch):
    soup = registry.run("soup")
    (path,) = export_runs(registry, [soup], tmp_path)
    text = path.with_name("README.md").read_text()
    assert front(text) == {
        "license": "unknown",
        "library_name": "zoo-ensemble",
        "tags": ["zoo-ensemble", "classification", "merge"],
        "base_model": [f"iris-mlp-{key}" for key in soup.parents],
        "base_model_relation": "merge",
        "metrics": ["accuracy", "loss"],
        "pipeline_tag": "tabular-classification",
        "datasets": ["iris"],
        "model-index": [
            {
                "name": "soup",
                "results": [
                    {
                        "task": {"type": "tabular-classification"},
                        "dataset": {"name": "iris", "type": "iris", "split": "validation"},
                        "metrics": [
                            {"type": name[4:], "name": name, "value": value}
                            for name, value in soup.metrics.items()
                        ],
                    }
                ],
            }
        ],
    }
    assert soup.data_fingerprint in text
    assert "No figure here is of test rows." in text
    assert f"{soup.metrics['val_loss']:.6g}" in text
    monkeypatch.chdir(path.parent)
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        scope = {}
        exec(block, scope)
    assert not scope["model"].training


def test_a_card_names_data_and_parents_as_a_repository_may_be_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    frame = pd.DataFrame({"x": range(60), "y": [2.0 * x for x in range(60)]})
    frame.to_csv("our houses, 2024.csv", index=False)
    settings = {"data": {"ref": "our houses, 2024.csv", "target": "y"}, "name": "größe", "seeds": 2}
    with Registry("sqlite:///r.db", "blobs") as registry:
        runs = train_many(plan(parse({**settings, "train": {"epochs": 1}})), registry)
        soup = combine(registry, runs, "weights", method="uniform", name="soup").run
        (path,) = export_runs(registry, [soup], "out")
    told = front(path.with_name("README.md").read_text())
    assert told["pipeline_tag"] == "tabular-regression"
    assert told["datasets"] == ["our-houses-2024.csv"]
    assert told["base_model"] == [f"gr-e-{key}" for key in soup.parents]
    assert told["model-index"][0]["results"][0]["dataset"]["name"] == "our houses, 2024.csv"


def test_a_card_of_weights_from_elsewhere_tells_of_no_data(tmp_path):
    with Registry(f"sqlite:///{tmp_path}/r.db", tmp_path / "blobs") as registry:
        state = {"w": torch.zeros(2)}
        run = register(registry, state, "theirs", metrics={"val_loss": 0.4}).run
        (path,) = export_runs(registry, [run], tmp_path / "out")
    assert front(path.with_name("README.md").read_text()) == {
        "license": "unknown",
        "library_name": "zoo-ensemble",
        "tags": ["zoo-ensemble"],
        "metrics": ["loss"],
    }


def test_an_exported_model_predicts_as_the_registry_does(registry, run, tmp_path):
    (path,) = export_runs(registry, [run], tmp_path)
    rows = pd.DataFrame({name: [5.0, 1.0] for name in run.preprocessing["features"]})
    model = load_model(path.parent)
    probabilities = model(apply(run.preprocessing, rows)).softmax(1)
    expected = predictor(registry, run)(rows)["p_setosa"]
    assert torch.allclose(probabilities[:, 0].double(), torch.tensor(expected.to_numpy()))


def test_an_exported_file_can_be_continued_and_imported(registry, run, tmp_path):
    (path,) = export_runs(registry, [run], tmp_path / "run.safetensors")
    assert continuation(registry, [str(path)], 1, {}, None).requests[0].parents == (run.id,)
    taken = import_weights(registry, path, "again").run
    assert taken.config["model"] == run.config["model"]


def test_loading_back_lists_every_missing_and_unexpected_name(registry, run, tmp_path):
    (path,) = export_runs(registry, [run], tmp_path, form="pt")
    state = torch.load(path, weights_only=True)
    assert isinstance(state, dict)
    state["extra"] = state.pop("1.bias")
    torch.save(state, path)
    with pytest.raises(MismatchError, match=r"'1.bias' is missing .*; 'extra' is not in the model"):
        load_model(path.parent)


@pytest.mark.parametrize(
    "change",
    [
        {"model": None},
        {"shape": "x"},
        {"shape": [-1]},
        {"outputs": None},
        {"model": {"name": "nonsense"}},
        {"model": {"name": "mlp", "hidden": [10**4, 10**4, 10**4]}},
        {"shape": [10**12]},
    ],
)
def test_a_config_that_does_not_fit_its_weights_is_refused(registry, run, tmp_path, change):
    (path,) = export_runs(registry, [run], tmp_path)
    config = path.with_name("config.json")
    config.write_text(json.dumps(json.loads(config.read_text()) | change))
    with pytest.raises((ConfigError, MismatchError)):
        load_model(path.parent)


def test_the_template_names_epoch_and_metrics(registry, run, tmp_path):
    template = "{name}-{seed}-epoch{epoch:03d}-{val_loss:.4f}"
    (path,) = export_runs(registry, [run], tmp_path, template=template)
    loss = run.metrics["val_loss"]
    assert path.stem == f"iris-mlp-0-epoch{run.best_epoch:03d}-{loss:.4f}"
    paths = export_runs(registry, [run], tmp_path, kind="epoch")
    assert [path.stem[-8:] for path in paths] == ["epoch001", "epoch002", "epoch003"]


@pytest.mark.parametrize(
    "template",
    [
        "../{name}", "/{name}", "{name}/x", "a\\b", "a\0b", "{name}\n", "CON", "nul.txt", "com1",
        "{name.__class__}", "{name[0]}", "{name!r}", "{nme}", "{name", "{}", "{0}", "{name:{id}}",
        "{name:999999999}", "{epoch:.999999999f}", "{name:d}", "{name}" * 30, "x" * 201, "-{name}",
        ".{name}", "{name}.", "a b", "a\u202eb", "",
    ],
)  # fmt: skip
def test_a_template_that_makes_no_safe_name_is_refused(registry, run, tmp_path, template):
    with pytest.raises(UsageError):
        export_runs(registry, [run], tmp_path / "out", template=template)
    assert files(tmp_path) == []


@pytest.mark.parametrize("name", ["../../x", "/etc/x", "a\0b", "CON", "--flag", "n" * 300, "x\n"])
def test_a_hostile_name_of_a_run_never_becomes_a_path(name):
    with pytest.raises(UsageError, match="a file's name has"):
        fill("{name}", {"name": name}, "run r")


def test_names_that_are_alike_are_refused_before_anything_is_written(registry, tmp_path):
    with pytest.raises(UsageError, match="names must differ, however 'iris-mlp' is that of run"):
        export_runs(registry, registry.runs(["iris-mlp"]), tmp_path / "out", template="{name}")
    with pytest.raises(UsageError, match="a file holds one model, however 2 are named"):
        export_runs(registry, registry.runs(["iris-mlp"]), tmp_path / "a.safetensors")
    assert files(tmp_path) == []


def test_nothing_is_overwritten_without_force(registry, tmp_path):
    runs = registry.runs(["iris-mlp"])
    paths = export_runs(registry, runs, tmp_path)
    paths[1].write_text("mine")
    paths[0].unlink()
    with pytest.raises(UsageError, match="is there already; --force replaces it"):
        export_runs(registry, runs, tmp_path)
    assert paths[1].read_text() == "mine"
    assert not paths[0].exists()
    export_runs(registry, runs, tmp_path, force=True)
    assert load_file(paths[1])


def test_a_link_is_replaced_and_not_followed(registry, run, tmp_path):
    (tmp_path / "mine").write_text("mine")
    link = tmp_path / "out.safetensors"
    link.symlink_to(tmp_path / "mine")
    with pytest.raises(UsageError, match="is there already"):
        export_runs(registry, [run], link)
    export_runs(registry, [run], link, force=True)
    assert (tmp_path / "mine").read_text() == "mine"


@pytest.mark.parametrize("step", ["os.fsync", "pathlib.Path.open", "os.replace"])
@pytest.mark.parametrize("force", [False, True])
def test_a_failure_at_any_step_leaves_what_was_there(registry, run, tmp_path, monkeypatch, step,
                                                     force):  # fmt: skip
    if force:
        export_runs(registry, [run], tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    def fail(*_arguments, **_options):
        raise OSError(28, os.strerror(28))

    with monkeypatch.context() as patch:
        patch.setattr(step, fail)
        with pytest.raises(ZooError, match="cannot be written: No space left"):
            export_runs(registry, [run], tmp_path, force=force)
    after = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert after == before
    assert force or files(tmp_path) == []


def test_whatever_ends_the_writing_leaves_no_temporary_file(tmp_path):
    def broken(file):
        file.write(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        writing.write_all({tmp_path / "new" / "a": broken}, force=False)
    assert files(tmp_path) == []


def test_what_has_no_weights_says_so(registry, tmp_path):
    with pytest.raises(NotFoundError, match="no 'best' weights to export; export its members"):
        export_runs(registry, [registry.run("pool")], tmp_path)
    with pytest.raises(UsageError, match=r"run soup .* has no epoch; leave it out"):
        export_runs(registry, [registry.run("soup")], tmp_path, template="{name}-{epoch}")


def test_an_imported_model_is_exported_without_promises(registry, tmp_path):
    torch.save({"w": torch.ones(2)}, tmp_path / "a.pt")
    run = import_weights(registry, tmp_path / "a.pt", "taken").run
    (path,) = export_runs(registry, [run], tmp_path / "out")
    assert torch.equal(load_file(path)["w"], torch.ones(2))
    assert "load_model" not in path.with_name("README.md").read_text()
    with pytest.raises(ConfigError, match="must tell the model, shape and outputs"):
        load_model(path.parent)
