"""Images are held once, as bytes; what is learnt and predicted from them is as from floats."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from crowd import members, train
from crowd import settings as run_settings
from pixels import digits, write

from ensemble import combine, compare
from ensemble.members import bench
from zoo.checks import build
from zoo.config import parse
from zoo.data import Part, images, load
from zoo.objective import objective
from zoo.planning import plan
from zoo.registry import Registry
from zoo.sections import DataConfig
from zoo.sequential import Sequential
from zoo.setup import Setup
from zoo.stack import stack
from zoo.stacked import Stacked
from zoo.training import train_many

PIXELS, LABELS = digits(400)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Bytes, and the same data prepared at once."""
    folder = tmp_path_factory.mktemp("digits")
    data = load(DataConfig(**write(folder, "npz", PIXELS, LABELS)))
    sides = {
        name: Part(data.prepare(part.x), part.y)
        for name, part in (("train", data.train), ("val", data.val), ("test", data.test))
    }
    return data, replace(data, **sides)


CASES = {
    "mlp": {},
    "cnn": {"model": {"name": "cnn", "channels": [4]}},
    "averages": {
        "model": {"name": "cnn", "channels": [4]},
        "keep": {"ema": 0.9, "swa": 0.5},
    },
    "augmented": {"augment": {"crop": 1, "rotate": 10.0, "brightness": 0.3}},
    "mixed in parts": {"train": {"mixup": 0.3, "accumulate": 2}},
}


@pytest.mark.parametrize("engine", ["stacked", "sequential"])
@pytest.mark.parametrize("case", CASES)
def test_training_on_bytes_is_training_on_the_prepared_images_to_the_last_bit(case, engine, source):
    as_bytes, as_floats = source
    config = run_settings("digits", **{**CASES[case], "stop": {"patience": 5}})
    crowd = members(config, config)
    ours, ends = train(crowd, as_bytes, engine=engine)
    theirs, other_ends = train(crowd, as_floats, engine=engine)
    for key in ours:
        pairs = zip(ours[key], theirs[key], strict=True)
        assert all(replace(a, seconds=0) == replace(b, seconds=0) for a, b in pairs)
        state, other = ends[key].state, other_ends[key].state
        assert all(torch.equal(state[name], other[name]) for name in other)


@pytest.mark.parametrize("kind", [Stacked, Sequential])
def test_outputs_take_rows_as_they_are_held_and_prepared_ones(kind, source):
    as_bytes, as_floats = source
    config = run_settings("digits", model={"name": "cnn", "channels": [4]})
    modules = [build(config.model, as_bytes, seed) for seed in range(3)]
    engine = kind(modules[0], objective("classification"), prepare=as_bytes.prepare)
    with torch.no_grad():
        outputs_KNC = engine.outputs(stack(modules), as_bytes.train.x)
        assert torch.equal(outputs_KNC, engine.outputs(stack(modules), as_floats.train.x))
        for module, outputs_NC in zip(modules, outputs_KNC, strict=True):
            torch.testing.assert_close(outputs_NC, module.eval()(as_floats.train.x))


def test_ensembles_of_image_models_are_made_and_compared(tmp_path):
    data = write(tmp_path, "idx.gz", PIXELS, LABELS)
    asked = parse(
        {
            "data": data,
            "model": {"hidden": [32], "norm": "batch"},
            "optim": {"lr": 0.02},
            "train": {"epochs": 8, "batch_size": 32},
            "init": "shared",
            "seeds": 3,
        }
    )
    with Registry(f"sqlite:///{tmp_path}/registry.db", tmp_path / "blobs") as registry:
        runs = train_many(plan(asked), registry)
        pooled = combine(registry, runs, "predictions")
        merged = combine(registry, runs, "weights", method="uniform")
        rows = compare(registry, registry.runs()).rows
        table = bench(registry, runs)
        rows_N = table.data.val.x
        assert rows_N.dtype == torch.uint8
        predict = table.predictor(runs)
        assert torch.equal(predict(rows_N), predict(table.data.prepare(rows_N)))
    assert {row.kind for row in rows} >= {"single", "predictions", "weights"}
    assert pooled.val > 0.6
    assert merged.val > 0.6


def test_sixty_thousand_images_are_held_once_as_bytes_and_prepared_a_batch_at_a_time(
    tmp_path, monkeypatch
):
    pixels = np.random.default_rng(0).integers(0, 256, (60_000, 28, 28), np.uint8)
    np.savez(tmp_path / "many.npz", x=pixels, y=np.arange(60_000) % 10)
    data = load(DataConfig(ref=str(tmp_path / "many.npz")))
    parts = (data.train, data.val, data.test)
    assert {part.x.dtype for part in parts} == {torch.uint8}
    assert sum(part.x.untyped_storage().nbytes() for part in parts) == 60_000 * 28 * 28

    prepared = []
    prepare = images.prepare

    def watched(preprocessing, x):
        prepared.append(x.numel() // 784)
        return prepare(preprocessing, x)

    monkeypatch.setattr(images, "prepare", watched)
    config = run_settings(
        "digits", model={"name": "mlp", "hidden": [4]}, train={"epochs": 1, "batch_size": 500}
    )
    crowd = members(config, config)
    setup = Setup(crowd[0], data, "cpu")
    assert setup.train.x.data_ptr() == data.train.x.data_ptr()
    train(crowd, data)
    assert len(prepared) >= 72
    assert max(prepared) <= 2 * 500
