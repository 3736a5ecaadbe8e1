"""What a fit of PyTorch Lightning ends with becomes a run, whatever ends it."""

import signal
import warnings

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from zoo import Registry, parse, plan, to_tensorboard, train_many
from zoo.curves import judge
from zoo.errors import UsageError

with warnings.catch_warnings():  # its own, on a PyTorch that is newer than it
    warnings.simplefilter("ignore")
    from pytorch_lightning import LightningDataModule, LightningModule, Trainer, seed_everything
    from pytorch_lightning.callbacks import ModelCheckpoint
    from pytorch_lightning.strategies import SingleDeviceStrategy

    from zoo.lightning import RegistryCheckpoint

pytestmark = pytest.mark.filterwarnings(
    "ignore::pytorch_lightning.utilities.warnings.PossibleUserWarning",
    "ignore:.*isinstance.treespec, LeafSpec.*",
    "ignore:Checkpoint directory .* exists and is not empty",
)
LOSSES = (3.0, 1.0, 2.0, 4.0)  # of validation, epoch by epoch


class Net(LightningModule):
    """Its weight is the number of steps it took, its losses are given."""

    def __init__(self, losses=LOSSES, names=("val_loss", "val_acc"), act=nn.ReLU, stop=None):
        super().__init__()
        self.save_hyperparameters(ignore="stop")
        self.stop = stop
        self.net = nn.Linear(1, 1, bias=False)
        nn.init.zeros_(self.net.weight)

    def training_step(self, batch, index):
        if self.stop and self.current_epoch == self.stop[0]:
            raise self.stop[1]
        loss = -self.net(batch[0]).mean()  # its gradient is -1
        self.log("train_loss", loss, on_step=True, on_epoch=True)
        return loss

    def on_train_epoch_end(self):
        self.log("train/acc", 0.5 + self.current_epoch / 10)

    def validation_step(self, batch, index):
        loss, accuracy = self.hparams.names
        self.log(loss, 99.0 if self.trainer.sanity_checking else LOSSES[self.current_epoch])
        self.log(accuracy, 0.1 * self.current_epoch)

    def configure_optimizers(self):
        optimiser = torch.optim.SGD(self.parameters(), lr=1.0)
        return [optimiser], [torch.optim.lr_scheduler.ConstantLR(optimiser, 1.0)]

    def train_dataloader(self):
        return DataLoader(TensorDataset(torch.ones(2, 1)), batch_size=1)

    val_dataloader = train_dataloader


@pytest.fixture
def registry(tmp_path):
    with Registry(f"sqlite:///{tmp_path}/zoo/registry.db") as opened:
        yield opened


@pytest.fixture(autouse=True)
def unseeded(monkeypatch):
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)


@pytest.fixture
def trainer(tmp_path):
    def make(*callbacks, **options):
        options = {"max_epochs": 4, "accelerator": "cpu", "devices": 1} | options
        return Trainer(
            callbacks=[*callbacks],
            default_root_dir=tmp_path,
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            **options,
        )

    return make


def weight(registry, run):
    return registry.load(run.id)["net.weight"].item()


def test_the_best_weights_the_history_and_the_settings_become_a_run(registry, trainer, tmp_path):
    note = RegistryCheckpoint("net", registry=registry.url, seed=7)
    trainer(note, ModelCheckpoint(tmp_path / "kept", monitor="val_loss")).fit(Net())
    (run,) = registry.runs()
    assert run == note.run
    assert (run.label, run.status, run.error) == ("net/seed=7", "finished", None)
    assert (run.epochs, run.best_epoch) == (4, 2)
    assert weight(registry, run) == 4.0  # steps, two an epoch
    assert run.metrics["val_loss"] == 1.0
    assert run.metrics["val_accuracy"] == pytest.approx(0.1)
    assert run.config["hparams"]["losses"] == [3.0, 1.0, 2.0, 4.0]
    assert "ReLU" in run.config["hparams"]["act"]
    history = registry.history(run.id)
    assert [row["epoch"] for row in history] == [1, 2, 3, 4]
    assert [row["val_loss"] for row in history] == list(LOSSES)  # nothing of the check before
    assert [row["train_loss"] for row in history] == [-0.5, -2.5, -4.5, -6.5]
    assert [row["train_metric"] for row in history] == pytest.approx([0.5, 0.6, 0.7, 0.8])
    assert [row["lr"] for row in history] == [1.0] * 4
    assert sorted(row["seconds"] for row in history) == [row["seconds"] for row in history]
    assert to_tensorboard(registry, [run], tmp_path / "tb") == ["written"]
    assert judge(run, history).kind == "too-short"


def test_without_a_monitor_the_last_weights_are_recorded(registry, trainer):
    note = RegistryCheckpoint("net", registry=registry.url)
    trainer(note, enable_checkpointing=False).fit(Net())
    assert (note.run.best_epoch, note.run.metrics["val_loss"]) == (4, 4.0)
    assert weight(registry, note.run) == 8.0


def test_every_fit_is_a_run_and_the_seed_is_that_of_everything(registry, trainer):
    note = RegistryCheckpoint("net", registry=registry.url)
    seed_everything(3)
    trained = trainer(note, max_epochs=2)
    module = Net()
    trained.fit(module)
    trained.fit_loop.max_epochs = 4
    trained.fit(module)
    first, second = registry.runs()
    assert (first.label, second.label) == ("net/seed=3", "net/fit=2,seed=3")
    assert [row["epoch"] for row in registry.history(second.id)] == [3, 4]
    assert [weight(registry, run) for run in (first, second)] == [4.0, 8.0]
    assert registry.run("net/fit=2") == note.run == second


def test_epochs_without_validation_have_no_figures_of_it(registry, trainer):
    note = RegistryCheckpoint("net", registry=registry.url)
    trainer(note, check_val_every_n_epoch=2, max_epochs=3).fit(Net())
    history = registry.history(note.run.id)
    assert [row["val_loss"] for row in history] == [None, 1.0, None]
    assert judge(note.run, history).kind == "too-short"  # not diverged


def test_names_are_those_of_the_history_once_they_are_told(registry, trainer, tmp_path):
    rename = {"valid/loss": "val_loss"}
    note = RegistryCheckpoint("net", registry=registry.url, rename=rename)
    keep = ModelCheckpoint(tmp_path / "kept", monitor="valid/loss")
    trainer(note, keep).fit(Net(names=("valid/loss", "valid/f1")))
    assert note.run.best_epoch == 2
    assert note.run.metrics["valid_f1"] == pytest.approx(0.1)
    assert [row["val_loss"] for row in registry.history(note.run.id)] == list(LOSSES)


@pytest.mark.parametrize(
    ("error", "raised", "told"),
    [
        (ValueError("no\nroom"), ValueError, "training was cut off by ValueError: no room"),
        (KeyboardInterrupt(), SystemExit, "training was cut off by KeyboardInterrupt"),
    ],
)
@pytest.mark.parametrize(("monitor", "best", "loss"), [("val_loss", 2, 1.0), (None, 3, 2.0)])
def test_what_a_fit_came_to_before_an_exception_is_recorded(
    registry, trainer, monitor, best, loss, error, raised, told
):
    note = RegistryCheckpoint("net", registry=registry.url)
    handler = signal.getsignal(signal.SIGINT)  # which Lightning ignores after Ctrl-C
    try:
        with pytest.raises(raised):
            trainer(note, ModelCheckpoint(monitor=monitor)).fit(Net(stop=(3, error)))
    finally:
        signal.signal(signal.SIGINT, handler)
    (run,) = registry.runs()
    assert (run.status, run.epochs, run.best_epoch, run.error) == ("finished", 3, best, told)
    assert (weight(registry, run), run.metrics["val_loss"]) == (2.0 * best, loss)


def test_a_fit_without_an_epoch_or_for_a_look_leaves_nothing(registry, trainer):
    note = RegistryCheckpoint("net", registry=registry.url)
    with pytest.raises(ValueError, match="at once"):
        trainer(note).fit(Net(stop=(0, ValueError("at once"))))
    trainer(note, fast_dev_run=True).fit(Net())
    assert not registry.runs()


def test_a_monitor_may_be_one_to_maximise(registry, trainer):
    note = RegistryCheckpoint("net", registry=registry.url)
    trainer(note, ModelCheckpoint(monitor="val_acc", mode="max"), max_epochs=3).fit(Net())
    assert (note.run.best_epoch, weight(registry, note.run)) == (3, 6.0)


def test_a_strategy_that_scatters_weights_is_refused(registry, trainer):
    class Scattered(SingleDeviceStrategy):
        def lightning_module_state_dict(self):
            return {}

    note = RegistryCheckpoint("net", registry=registry.url)
    options = {"strategy": Scattered("cpu"), "devices": "auto"}
    with pytest.raises(UsageError, match="however Scattered scatters them"):
        trainer(note, **options).fit(Net())


def test_only_rank_zero_records(registry, trainer):
    note = RegistryCheckpoint("net", registry=registry.url)
    trainer(note, devices=2, strategy="ddp_fork", max_epochs=2).fit(Net())
    (run,) = registry.runs()
    assert (run.epochs, weight(registry, run)) == (2, 2.0)  # each rank had half of the rows


def test_what_cannot_be_recorded_at_the_end_is_a_warning_in_a_line(registry, trainer):
    note = RegistryCheckpoint("net", registry=registry.url)
    module = Net()
    module.on_train_end = lambda: nn.init.constant_(module.net.weight, float("nan"))
    with pytest.warns(UserWarning, match="this fit is not recorded: .* must be finite"):
        trainer(note, enable_checkpointing=False).fit(module)
    assert note.run is None
    assert not registry.runs()


def test_what_cannot_be_recorded_is_told_before_training(registry, trainer):
    asked = parse({"data": {"ref": "iris"}, "seeds": 1, "train": {"epochs": 1}, "name": "iris"})
    train_many(plan(asked), registry)
    for name, told in (("iris", "learnt from iris"), ("../x", "a name has up to 100 letters")):
        with pytest.raises(UsageError, match=told):
            trainer(RegistryCheckpoint(name, registry=registry.url)).fit(Net(stop=(0, KeyError())))


def test_settings_of_the_data_are_recorded_too(registry, trainer):
    class Rows(LightningDataModule):
        def __init__(self, size=1):
            super().__init__()
            self.save_hyperparameters()

    note = RegistryCheckpoint("net", registry=registry.url)
    rows = Rows()
    rows.train_dataloader = rows.val_dataloader = Net().train_dataloader
    trainer(note, max_epochs=1).fit(Net(), datamodule=rows)
    assert note.run.config["hparams"]["size"] == 1
