"""16 seeds of one small MLP to early stop: this toolkit against what people use today.

All train the same architecture (64-64, ReLU) on the same 1,078 rows of digits with Adam (lr 1e-3,
batch 128), evaluate on 359 validation rows after every epoch, and stop after 10 epochs without a
better accuracy there.  scikit-learn draws its own validation rows, as many, out of the two parts.
Timed is training alone: no imports, no data loading, no registry.

    pip install skorch lightning  # besides the toolkit
    python benchmarks/rivals.py

Every contender runs once to warm up and then in turns; the table shows the least seconds of the
rounds, so that a stall of the machine hurts none.
"""

import argparse
import logging
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from sklearn.neural_network import MLPClassifier
from tabulate import tabulate
from torch import nn
from torch.nn.functional import cross_entropy

from zoo import Fit, Member, load, models
from zoo.config import RunConfig
from zoo.data import Data
from zoo.sections import DataConfig

PATIENCE, EPOCHS, BATCH, LR, HIDDEN = 10, 200, 128, 1e-3, (64, 64)


@dataclass
class Outcome:
    """What one contender made of the seeds: test accuracy and epochs of each."""

    accuracies: list[float]
    epochs: list[int]


Contender = Callable[[Data, range], Outcome]


def toolkit(data: Data, seeds: range) -> Outcome:
    config = RunConfig.model_validate(
        {
            "data": {"ref": "digits"},
            "model": {"name": "mlp", "hidden": HIDDEN},
            "optim": {"name": "adam", "lr": LR},
            "train": {"epochs": EPOCHS, "batch_size": BATCH},
            "stop": {"metric": "accuracy", "patience": PATIENCE},
        }
    )
    outcome = Outcome([], [])
    module = net(data, 0)
    fit = Fit([Member(str(seed), config, seed) for seed in seeds], data, device="cpu")
    for happened in fit:
        for end in happened.finished:
            assert end.state is not None
            module.load_state_dict(dict(end.state))
            outcome.accuracies.append(accuracy(module.eval(), data))
            outcome.epochs.append(end.epochs)
    return outcome


def plain(data: Data, seeds: range) -> Outcome:
    outcome = Outcome([], [])
    x, y, val = data.train.x, data.train.y, data.val
    for seed in seeds:
        model = net(data, seed)
        optimiser = torch.optim.Adam(model.parameters(), lr=LR, fused=True)
        generator = torch.Generator().manual_seed(seed)
        best, best_epoch, state = -1.0, 0, {}
        for epoch in range(1, EPOCHS + 1):
            model.train()
            for index in torch.randperm(len(y), generator=generator).split(BATCH):
                loss = cross_entropy(model(x[index]), y[index])
                optimiser.zero_grad(set_to_none=True)
                loss.backward()
                optimiser.step()
            model.eval()
            with torch.no_grad():
                score = (model(val.x).argmax(1) == val.y).float().mean().item()
            if score > best:
                best, best_epoch = score, epoch
                state = {name: value.clone() for name, value in model.state_dict().items()}
            if epoch - best_epoch >= PATIENCE:
                break
        model.load_state_dict(state)
        outcome.accuracies.append(accuracy(model, data))
        outcome.epochs.append(epoch)
    return outcome


def scikit_learn(data: Data, seeds: range) -> Outcome:
    outcome = Outcome([], [])
    x = torch.cat([data.train.x, data.val.x]).flatten(1).numpy()
    y = torch.cat([data.train.y, data.val.y]).numpy()
    for seed in seeds:
        model = MLPClassifier(
            HIDDEN,
            batch_size=BATCH,
            learning_rate_init=LR,
            alpha=0.0,
            max_iter=EPOCHS,
            early_stopping=True,
            validation_fraction=len(data.val) / len(y),
            n_iter_no_change=PATIENCE,
            tol=1e-9,
            random_state=seed,
        ).fit(x, y)
        outcome.accuracies.append(model.score(data.test.x.flatten(1).numpy(), data.test.y.numpy()))
        outcome.epochs.append(model.n_iter_)
    return outcome


def skorch(data: Data, seeds: range) -> Outcome:
    from skorch import NeuralNetClassifier
    from skorch.callbacks import EarlyStopping
    from skorch.dataset import Dataset
    from skorch.helper import predefined_split

    outcome = Outcome([], [])
    for seed in seeds:
        torch.manual_seed(seed)
        model = NeuralNetClassifier(
            net(data, seed),
            criterion=nn.CrossEntropyLoss,
            optimizer=torch.optim.Adam,
            optimizer__fused=True,
            lr=LR,
            batch_size=BATCH,
            iterator_train__shuffle=True,
            max_epochs=EPOCHS,
            train_split=predefined_split(Dataset(data.val.x, data.val.y)),
            callbacks=[
                EarlyStopping(
                    "valid_acc",
                    patience=PATIENCE,
                    threshold=0.0,
                    lower_is_better=False,
                    load_best=True,
                )
            ],
            verbose=0,
        ).fit(data.train.x, data.train.y)
        outcome.accuracies.append(model.score(data.test.x, data.test.y))
        outcome.epochs.append(len(model.history))
    return outcome


def lightning(data: Data, seeds: range) -> Outcome:
    import lightning.pytorch as pl
    from lightning.pytorch.callbacks import EarlyStopping
    from torch.utils.data import DataLoader, TensorDataset

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)

    class Module(pl.LightningModule):
        def __init__(self, seed: int) -> None:
            super().__init__()
            self.net = net(data, seed)

        def training_step(self, batch, _):
            return cross_entropy(self.net(batch[0]), batch[1])

        def validation_step(self, batch, _):
            right = (self.net(batch[0]).argmax(1) == batch[1]).float().mean()
            self.log("accuracy", right, on_epoch=True)

        def configure_optimizers(self):
            return torch.optim.Adam(self.parameters(), lr=LR, fused=True)

    outcome = Outcome([], [])
    for seed in seeds:
        torch.manual_seed(seed)
        module = Module(seed)
        trainer = pl.Trainer(
            accelerator="cpu",
            max_epochs=EPOCHS,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            callbacks=[EarlyStopping("accuracy", mode="max", patience=PATIENCE)],
        )
        train = DataLoader(TensorDataset(data.train.x, data.train.y), BATCH, shuffle=True)
        val = DataLoader(TensorDataset(data.val.x, data.val.y), len(data.val))
        trainer.fit(module, train, val)
        outcome.accuracies.append(accuracy(module.net.eval(), data))
        outcome.epochs.append(trainer.current_epoch)
    return outcome


def net(data: Data, seed: int) -> nn.Module:
    return models.build("mlp", {"hidden": HIDDEN}, data.shape, data.outputs, seed)


@torch.no_grad()
def accuracy(model: nn.Module, data: Data) -> float:
    return (model(data.test.x).argmax(1) == data.test.y).float().mean().item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=16)
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    data, seeds = load(DataConfig(ref="digits")), range(asked.seeds)
    every: list[Contender] = [toolkit, plain, scikit_learn, skorch, lightning]
    contenders = []
    for contender in every:
        try:
            contender(data, range(1))
            contenders.append(contender)
        except ModuleNotFoundError as error:
            print(f"left out: {contender.__name__}: {error}")
    threads = {contender.__name__: _threads(contender, data) for contender in contenders}
    seconds: dict[str, list[float]] = {contender.__name__: [] for contender in contenders}
    outcomes = {}
    for _ in range(asked.rounds):
        for contender in contenders:
            name = contender.__name__
            torch.set_num_threads(threads[name])
            start = time.perf_counter()
            outcomes[name] = contender(data, seeds)
            seconds[name].append(time.perf_counter() - start)
    rates = {
        name: sum(outcome.epochs) * len(data.train) / min(seconds[name])
        for name, outcome in outcomes.items()
    }
    rows = [
        (
            name.replace("_", "-"),
            threads[name],
            f"{min(seconds[name]):.2f}",
            f"{statistics.mean(outcome.epochs):.0f}",
            _spread(outcome.accuracies),
            f"{rates[name]:,.0f}",
            f"{rates['toolkit'] / rates[name]:.1f}x",
        )
        for name, outcome in outcomes.items()
    ]
    headers = ["", "threads", "seconds", "epochs", "test accuracy", "rows / s", "toolkit is"]
    print(tabulate(rows, headers, tablefmt="github", disable_numparse=True))


def _spread(values: list[float]) -> str:
    return f"{statistics.mean(values):.3f} ± {statistics.stdev(values):.3f}"


def _threads(contender: Contender, data: Data) -> int:
    """Return with how many threads a contender is fastest; the toolkit finds out itself."""
    every = torch.get_num_threads()
    if contender is toolkit or every == 1:
        return every
    taken = {}
    for count in (every, 1):
        torch.set_num_threads(count)
        start = time.perf_counter()
        contender(data, range(2))
        taken[count] = time.perf_counter() - start
    torch.set_num_threads(every)
    return min(taken, key=lambda count: taken[count])


if __name__ == "__main__":
    main()
