"""Weights from elsewhere become a run: once, whatever file they came in, and honest about it."""

from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file

from cli import main
from ensemble import combine, compare, uniform
from ensemble.members import MembersError
from ensemble.serving import predictor
from zoo import continuation, parse, plan, train_many
from zoo.errors import ConfigError, MismatchError, UsageError, ZooError
from zoo.exchange.arriving import content, import_weights, register
from zoo.exchange.claims import TYPES
from zoo.models import build
from zoo.registry import NewRun, Registry
from zoo.registry.upkeep import rebuild

STATE = {"w": torch.arange(6.0).reshape(2, 3), "count": torch.tensor(7)}
MLP = {"name": "mlp", "hidden": [4]}


@pytest.fixture
def registry(tmp_path):
    with Registry(f"sqlite:///{tmp_path}/registry.db", tmp_path / "blobs") as opened:
        yield opened


@pytest.fixture
def path(tmp_path):
    torch.save(STATE, tmp_path / "a.pt")
    return tmp_path / "a.pt"


def of_iris(seed=0):
    """The weights of a network for iris."""
    return build("mlp", {"hidden": [4]}, (4,), 3, seed=seed).state_dict()


def test_the_run_is_finished_has_the_weights_and_tells_where_they_are_from(registry, path):
    found = import_weights(registry, path, "taken", metrics={"val_loss": 0.3}, seed=5)
    run = registry.run("taken/seed=5")
    assert found.created
    assert found.run == run
    assert (run.kind, run.status, run.metrics) == ("single", "finished", {"val_loss": 0.3})
    assert (run.task, run.data_ref, run.known_data) == ("unknown", "unknown", False)
    assert run.config["source"]["file"] == "a.pt"
    assert len(run.config["source"]["sha256"]) == 64
    loaded = registry.load(run.id)
    assert content(loaded) == content(STATE)
    assert loaded["count"].dtype == torch.int64


def test_the_same_weights_are_the_same_run_whatever_file_they_came_in(registry, path, tmp_path):
    first = import_weights(registry, path, "taken", metrics={"val_loss": 0.3})
    save_file(STATE, tmp_path / "b.safetensors")
    torch.save({"state_dict": dict(reversed(STATE.items())), "epoch": 1}, tmp_path / "c.ckpt")
    for name in ("a.pt", "b.safetensors", "c.ckpt"):
        again = import_weights(registry, tmp_path / name, "taken")
        assert (again.run.id, again.created) == (first.run.id, False)
    assert len(registry.runs()) == 1
    with pytest.raises(UsageError, match=r"however with the figures \{'val_loss': 0.3\}"):
        import_weights(registry, path, "taken", metrics={"val_loss": 0.2})


def test_an_import_that_was_cut_off_before_publishing_is_completed(registry, path, monkeypatch):
    def stopped(*_arguments, **_options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Registry, "put", stopped)
        with pytest.raises(KeyboardInterrupt):
            import_weights(registry, path, "taken")
    assert registry.run("taken").status == "queued"
    assert import_weights(registry, path, "taken").created
    assert registry.run("taken").status == "finished"


def test_other_weights_take_another_name_or_seed(registry, path, tmp_path):
    import_weights(registry, path, "taken", seed=0)
    torch.save({"w": torch.zeros(2, 3)}, tmp_path / "b.pt")
    with pytest.raises(UsageError, match=r"'taken/seed=0' must name one model, however run taken"):
        import_weights(registry, tmp_path / "b.pt", "taken", seed=0)
    import_weights(registry, tmp_path / "b.pt", "taken", seed=1)
    assert [run.seed for run in registry.runs(["taken"])] == [0, 1]


@pytest.mark.parametrize(
    "name", ["../../x", "/etc/x", "a\0b", "--flag", "a\nb", "x\u202ey", "n" * 101, "", "a b", "a/b"]
)
def test_a_name_that_is_none_is_refused_with_the_rule(registry, path, name):
    with pytest.raises(UsageError, match="--name takes up to 100 letters, digits"):
        import_weights(registry, path, name)
    assert registry.runs() == []


@pytest.mark.parametrize("name", ["CON", "nul.txt", "é" * 100, "..", "~root", "$HOME"])
def test_a_name_is_never_a_path(registry, path, tmp_path, name):
    before = {found.relative_to(tmp_path) for found in tmp_path.rglob("*")}
    try:
        import_weights(registry, path, name)
    except UsageError:
        assert name in ("~root", "$HOME")
    files = {found.relative_to(tmp_path) for found in tmp_path.rglob("*")} - before
    assert not any(name in str(file) for file in files)


def test_weights_that_are_not_finite_leave_no_run(registry, tmp_path):
    torch.save({"w": torch.tensor([1.0, float("nan")])}, tmp_path / "a.pt")
    with pytest.raises(ZooError, match=r"weights must be finite, however 'w' is not"):
        import_weights(registry, tmp_path / "a.pt", "taken")
    assert registry.runs() == []


def test_a_full_disk_leaves_a_failed_run_that_the_next_import_completes(
    registry, path, monkeypatch
):
    def full(*_arguments):
        raise ZooError("no room")

    with monkeypatch.context() as patch:
        patch.setattr(registry.blobs, "put", full)
        with pytest.raises(ZooError, match="no room"):
            import_weights(registry, path, "taken")
    assert registry.run("taken").status == "failed"
    assert import_weights(registry, path, "taken").run.status == "finished"


def test_weights_of_every_type_are_published(registry, tmp_path):
    state = {name: torch.ones(2).to(getattr(torch, name)) for name in TYPES}
    torch.save(state, tmp_path / "a.pt")
    run = import_weights(registry, tmp_path / "a.pt", "types").run
    assert content(registry.load(run.id)) == content(state)


def test_the_model_is_what_is_said_or_what_a_file_of_ours_tells(registry, path, tmp_path):
    said = import_weights(registry, path, "said", model=MLP).run
    assert said.config["model"]["hidden"] == [4]
    with pytest.raises(ConfigError, match="no such model"):
        import_weights(registry, path, "said", model={"name": "nonsense"})
    checkpoint = registry.checkpoints(said.id)[0]
    file = tmp_path / "ours.safetensors"
    file.write_bytes(registry.content(checkpoint, said.owner))
    assert import_weights(registry, file, "ours").run.config["model"]["name"] == "mlp"


@pytest.mark.parametrize(
    "model", [{"name": "evil.py:run"}, {"name": "mlp", "hidden": "x"}, {"name": 1}, [1], "mlp"]
)
def test_what_a_file_tells_of_its_model_is_not_believed_unseen(registry, tmp_path, model):
    import json

    card = json.dumps({"config": {"model": model}})
    save_file(STATE, tmp_path / "a.safetensors", metadata={"zoo": card})
    found = import_weights(registry, tmp_path / "a.safetensors", "taken")
    assert "model" not in found.run.config
    assert bool(found.notes) == isinstance(model, dict)


def test_imported_weights_can_be_averaged_in_python_and_trained_on(registry, tmp_path):
    for seed in range(2):
        torch.save(of_iris(seed), tmp_path / f"{seed}.pt")
        import_weights(registry, tmp_path / f"{seed}.pt", "taken", seed=seed)
    states = [registry.load(run.id) for run in registry.runs(["taken"])]
    assert uniform(states).keys() == states[0].keys()
    asked = {
        "name": "tuned",
        "data": {"ref": "iris"},
        "model": MLP,
        "init": "taken/seed=0",
        "seeds": 1,
        "train": {"epochs": 1},
    }
    (run,) = train_many(plan(parse(asked), registry), registry)
    assert run.status == "finished"
    misfit = asked | {"model": {"name": "mlp", "hidden": [5]}}
    with pytest.raises(MismatchError, match=r"is \(5, 4\) in the model and \(4, 4\) in the state"):
        plan(parse(misfit), registry)


def test_where_data_are_needed_one_line_says_that_they_are_unknown(registry, path):
    run = import_weights(registry, path, "taken", metrics={"val_loss": 0.1}).run
    for use in (
        lambda: combine(registry, [run], "predictions"),
        lambda: combine(registry, [run], "weights"),
        lambda: compare(registry, [run]),
        lambda: predictor(registry, run),
    ):
        with pytest.raises(MembersError, match=r"data are known .* however taken was imported"):
            use()
    with pytest.raises(MismatchError, match="however taken was imported"):
        continuation(registry, ["taken"], 1, {}, None)


def test_a_zoo_that_was_trained_is_not_mixed_with_imported_weights(registry, path):
    known = NewRun(
        name="taken",
        config={},
        config_hash="c",
        task="regression",
        data_ref="houses.csv",
        data_fingerprint="f",
        split_hash="s",
    )
    registry.add([known])
    with pytest.raises(UsageError, match=r"learnt from houses\.csv and an imported model from"):
        import_weights(registry, path, "taken")


def test_the_latest_training_is_not_an_import(tmp_path, path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    environment = {"ZOO_REGISTRY": "sqlite:///zoo/r.db", "ZOO_BLOBS": "zoo/b"}
    runner = CliRunner(env=environment)

    def run(*arguments):
        result = runner.invoke(main, arguments, catch_exceptions=False)
        return result.exit_code, result.output

    train = ["train-many", "--data", "iris", "--seeds", "2", "--set", "train.epochs=1"]
    assert run(*train)[0] == 0
    assert run("import", "a.pt", "--name", "taken", "--metric", "val_loss=0.3")[0] == 0
    code, output = run("ensemble", "--mode", "predictions")
    assert (code, "2 of 2" in output) == (0, True)
    code, output = run("show", "taken")
    assert (code, " a.pt\n" in output) == (0, True)
    for command in (["compare", "taken"], ["show", "taken", "--curves"]):
        code, output = run(*command)
        assert (code, output.count("\n")) == (2, 1), output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--metric", "val_loss"], "--metric takes NAME=NUMBER"),
        (["--metric", "val_loss=nan"], "--metric takes finite numbers"),
        (["--metric", "=1"], "--metric takes NAME=NUMBER"),
        (["--set", "model.hidden=[4]"], "sets options of --model"),
        (["--model", "mlp", "--set", "optim.lr=1"], "sets options of --model"),
        (["--model", "mlp", "--set", "model.hiden=[4]"], "did you mean 'hidden'"),
        (["--key", "ema"], "no weights at 'ema'"),
    ],
)
def test_mistakes_on_the_command_line_are_named(tmp_path, path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    environment = {"ZOO_REGISTRY": "sqlite:///zoo/r.db", "ZOO_BLOBS": "zoo/b"}
    result = CliRunner(env=environment).invoke(main, ["import", "a.pt", "--name", "a", *arguments])
    assert result.exit_code == 2
    assert message in result.output


def test_what_a_loop_ended_with_is_registered_once(registry, path):
    first = register(registry, STATE, "mine", metrics={"val_loss": 0.3}, seed=5, model=MLP)
    run = registry.run("mine/seed=5")
    assert (first.created, first.run) == (True, run)
    assert (run.status, run.metrics, run.known_data) == ("finished", {"val_loss": 0.3}, False)
    assert run.config["model"]["hidden"] == [4]
    assert content(registry.load(run.id)) == content(STATE)
    assert not register(registry, dict(STATE), "mine", seed=5, model=MLP).created
    assert not import_weights(registry, path, "mine", seed=5, model=MLP).created  # whatever it was
    with pytest.raises(UsageError, match="must name one model"):
        register(registry, {"w": torch.zeros(1)}, "mine", seed=5)
    for state, error, says in (
        ({"w": torch.tensor(float("nan"))}, ZooError, "the state dict: weights must be finite"),
        ({"w": 1.0}, UsageError, "a state dict holds tensors, however 'w' is float"),
    ):
        with pytest.raises(error, match=says):
            register(registry, state, "other")
    assert [each.name for each in registry.runs()] == ["mine"]


def test_a_loop_s_settings_and_epochs_are_registered_and_survive_its_catalogue(registry, tmp_path):
    epochs = [
        {"epoch": n, "train_loss": 2 / n, "val_loss": 1 / n, "val_metric": 0.5, "seconds": 3.0 * n}
        for n in (1, 2, 3)
    ]
    told = {
        "settings": {"optim": {"lr": 0.1}},
        "history": epochs,
        "epoch": 2,
        "fault": "it was late",
    }
    for rate in (0.1, 0.2):
        varied = {"optim.lr": rate}
        assert register(registry, STATE, "mine", seed=5, varied=varied, **told).created
        assert not register(registry, STATE, "mine", seed=5, varied=varied, **told).created
    run = registry.run("mine/optim.lr=0.2")
    assert run.label == "mine/optim.lr=0.2,seed=5"
    assert (run.epochs, run.best_epoch, run.seconds, run.error) == (3, 2, 9.0, "it was late")
    history = registry.history(run.id)
    assert [row["val_loss"] for row in history] == [1.0, 0.5, pytest.approx(1 / 3)]
    catalogue = Path(registry.url.removeprefix("sqlite:///"))
    registry.close()
    catalogue.unlink()
    rebuild(registry.url, registry.blobs.place)
    with Registry(registry.url, registry.blobs.place) as anew:
        assert anew.history(run.id) == history
        assert anew.run(run.id).config == run.config


def test_an_epoch_that_holds_something_else_is_refused_before_there_is_a_run(registry):
    with pytest.raises(UsageError, match="however one holds epoch, val_f1"):
        register(registry, STATE, "mine", history=[{"epoch": 1, "val_f1": 0.5}])
    assert not registry.runs()
