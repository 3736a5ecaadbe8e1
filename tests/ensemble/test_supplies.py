"""What methods need is found from the runs and their data, or is asked for in one line."""

import pytest
import torch
from safetensors.torch import save_file

from ensemble import (
    EnsembleError,
    combine,
    fisher_information,
    fisher_merge,
    model_stock,
    task_arithmetic,
    uniform,
)
from ensemble.catalogue import methods
from zoo import Registry, parse, plan, train_many
from zoo.errors import NotFoundError

IRIS = {
    "data": {"ref": "iris"},
    "model": {"hidden": [8]},
    "train": {"epochs": 3, "batch_size": 30},
    "seeds": 2,
}


@pytest.fixture
def registry(tmp_path):
    with Registry(f"sqlite:///{tmp_path}/registry.db", tmp_path / "blobs") as opened:
        yield opened


def trained(registry, **settings):
    return train_many(plan(parse(IRIS | settings), registry), registry)


def merged(registry, runs, method, **options):
    product = combine(registry, runs, "weights", method=method, options=options)
    return product.run, registry.load(product.run.id, "merged")


def same(ours, theirs):
    return ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


def test_every_method_runs_on_members_of_one_start(registry):
    runs = trained(registry, init="shared")
    for method in methods("weights"):
        run, state = merged(registry, runs, method.name)
        assert run.status == "finished"
        assert all(leaf.isfinite().all() for leaf in state.values())


def test_a_shared_initialisation_is_the_base(registry):
    runs = trained(registry, init={"mode": "shared", "seed": 7}, name="shared")
    start = trained(
        registry, init={"mode": "shared", "seed": 7}, name="start", optim={"lr": 1e-12}, seeds=1
    )
    run, state = merged(registry, runs, "task-arithmetic", scale=0.25)
    states = [registry.load(run.id) for run in runs]
    close = task_arithmetic(states, registry.load(start[0].id), scale=0.25)
    assert run.config["arguments"]["base"] == "init.seed=7"
    for key, leaf in state.items():
        torch.testing.assert_close(leaf, close[key], rtol=1e-4, atol=1e-6)


def test_the_run_that_members_branched_from_is_the_base(registry):
    (start,) = trained(registry, seeds=1, name="start")
    runs = trained(registry, init="start", name="branches")
    _, state = merged(registry, runs, "model-stock")
    base, states = registry.load(start.id), [registry.load(run.id) for run in runs]
    assert same(state, model_stock(states, base))
    named, again = merged(registry, runs, "model-stock", base="start")
    assert same(state, again)
    assert named.config["arguments"]["base"] == start.id


def test_members_of_other_starts_ask_for_a_base(registry, tmp_path):
    runs = trained(registry, name="apart")
    with pytest.raises(EnsembleError, match=r"started from different ones; .* --set base=REF"):
        merged(registry, runs, "ties")
    with pytest.raises(NotFoundError, match="no run matches 'nobody'"):
        merged(registry, runs, "ties", base="nobody")
    with pytest.raises(EnsembleError, match="base must be a reference to a run, however it is 3"):
        merged(registry, runs, "ties", base=3)
    save_file(registry.load(runs[0].id), tmp_path / "start.safetensors")
    children = trained(registry, init=str(tmp_path / "start.safetensors"), name="children")
    with pytest.raises(EnsembleError, match="not in the registry with those weights; import"):
        merged(registry, children, "ties")
    _, state = merged(registry, children, "task-arithmetic", base=runs[0].label, scale=0.5)
    for key, leaf in uniform([registry.load(run.id) for run in children]).items():
        torch.testing.assert_close(state[key], leaf)


def test_a_base_of_another_model_is_refused(registry):
    trained(registry, name="wide", model={"hidden": [9]}, seeds=1)
    runs = trained(registry, init="shared", name="narrow")
    with pytest.raises(EnsembleError, match=r"\(8, 4\) in #0 and \(9, 4\) in base"):
        merged(registry, runs, "ties", base="wide")


def test_fisher_information_is_that_of_training_rows(registry):
    from ensemble.members import bench

    runs = trained(registry, init="shared", name="shared")
    _, state = merged(registry, runs, "fisher")
    table = bench(registry, runs)
    module, states = table.module(runs[0]), [registry.load(run.id) for run in runs]
    known = [
        fisher_information(module, each, [table.data.train.x], "classification") for each in states
    ]
    assert same(state, fisher_merge(states, known))


def test_where_the_order_counts_it_is_that_of_the_runs(registry):
    runs = trained(registry, name="two")
    for order in (runs, runs[::-1]):
        _, state = merged(registry, order, "lerp", t=0.0)
        assert same(state, registry.load(order[0].id))
