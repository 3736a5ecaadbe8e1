"""Members of folds in the registry: trained once, resumed to the bit, continued on their own."""

import signal

import pytest
import torch
from test_resume import Interrupting, assert_same_content, opened, states_left, train

from zoo.config import parse
from zoo.data import load
from zoo.errors import ConfigError, InterruptedRunsError, MismatchError
from zoo.planning import continuation, plan
from zoo.registry.records import differences
from zoo.sections import DataConfig
from zoo.training import Begun, train_many

FOLDS = {
    "data": {"ref": "iris", "folds": 3},
    "model": {"hidden": [8]},
    "seeds": 5,
    "train": {"epochs": 4, "batch_size": 32},
}
BAGS = FOLDS | {"data": {"ref": "iris", "bootstrap": True}, "seeds": 3}


def changed(asked, **data):
    return asked | {"data": {**asked["data"], **data}}


def told(folder, asked):
    """Train, and tell how many runs were to be trained."""
    pending = []

    def watch(event):
        if isinstance(event, Begun):
            pending.extend(run.label for run in event.pending)

    return train(folder, asked, watch), pending


@pytest.fixture(scope="module", params=[FOLDS, BAGS], ids=["folds", "bootstrap"])
def whole(request, tmp_path_factory):
    """What was asked for, and the folder of its uninterrupted training."""
    folder = tmp_path_factory.mktemp("whole")
    train(folder, request.param)
    return request.param, folder


def test_every_run_tells_its_fold_its_split_and_its_own_preprocessing(whole):
    asked, folder = whole
    with opened(folder) as registry:
        runs = registry.runs()
        for run in runs:
            fold = run.seed % 3 if asked is FOLDS else run.seed
            assert run.config["data"]["fold"] == fold
            data = load(DataConfig.model_validate(run.config["data"]))
            assert (run.split_hash, run.preprocessing) == (data.split_hash, data.preprocessing)
            assert run.common_split == runs[0].common_split
            assert registry.runs([f"/fold={fold}"])[0].config["data"]["fold"] == fold
    labels = [run.label for run in runs]
    if asked is FOLDS:
        assert labels == [f"iris-mlp/fold={seed % 3},seed={seed}" for seed in range(5)]
        assert len({run.split_hash for run in runs}) == 3
    else:
        assert labels == [f"iris-mlp/seed={seed}" for seed in range(3)]
        assert len({run.split_hash for run in runs}) == 3
    assert len({run.config_hash for run in runs}) == 1


@pytest.mark.parametrize("after", [1, 3, 6, 9])
def test_an_interrupted_training_of_folds_ends_with_the_same_bits(tmp_path, whole, after):
    asked, folder = whole
    with pytest.raises(InterruptedRunsError):
        train(tmp_path, asked, Interrupting(after, signal.SIGINT))
    assert {run.status for run in train(tmp_path, asked)} == {"finished"}
    assert_same_content(tmp_path, folder)
    assert states_left(tmp_path) == ([], [])


def test_the_same_command_trains_only_what_is_missing_and_more_seeds_go_on(tmp_path):
    first, pending = told(tmp_path, FOLDS | {"seeds": 2})
    assert pending == ["iris-mlp/fold=0,seed=0", "iris-mlp/fold=1,seed=1"]
    again, pending = told(tmp_path, FOLDS | {"seeds": 2})
    assert pending == []
    assert again == [run for run in again if run.id in {run.id for run in first}]
    more, pending = told(tmp_path, FOLDS)
    assert pending == [f"iris-mlp/fold={seed % 3},seed={seed}" for seed in (2, 3, 4)]
    assert [run.id for run in more[:2]] == [run.id for run in first]


def test_fewer_seeds_of_an_interrupted_training_are_no_other_settings(tmp_path):
    with pytest.raises(InterruptedRunsError):
        train(tmp_path, FOLDS, Interrupting(6, signal.SIGINT))
    few = train(tmp_path, FOLDS | {"seeds": "0,3"})
    assert {run.status for run in few} == {"finished"}


def test_a_member_is_the_same_whoever_else_is_trained(tmp_path, whole):
    asked, folder = whole
    (alone,) = train(tmp_path, asked | {"seeds": [2]})
    with opened(folder) as registry, opened(tmp_path) as other:
        (mate,) = registry.runs(["/seed=2"])
        assert mate.metrics == alone.metrics
        ours, theirs = other.load(alone.id), registry.load(mate.id)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_the_default_batch_is_the_same_in_every_fold():
    asked = plan(parse({"data": {"ref": "iris", "folds": 7}, "seeds": 7}))
    assert {run.config["train"]["batch_size"] for run in asked.requests} == {60}
    assert len({run.config_hash for run in asked.requests}) == 1


def test_stacks_of_one_size_are_computed_in_one_way(tmp_path):
    watch = Interrupting(0)
    train(tmp_path, FOLDS, watch)
    assert len(watch.notes) == 2  # of two members, and of the one that has its fold to itself


def test_children_learn_from_their_parents_own_rows(tmp_path):
    train(tmp_path, FOLDS)
    with opened(tmp_path) as registry:
        planned = continuation(registry, ["iris-mlp"], 2, {}, None)
        children = train_many(planned, registry, engine="stacked")
        parents = registry.runs(["iris-mlp"])
        for parent, child in zip(parents, children, strict=True):
            assert child.parents == (parent.id,)
            assert child.label == parent.label.replace("iris-mlp", "iris-mlp-continued")
            assert child.split_hash == parent.split_hash
            assert child.metrics["val_loss"] <= parent.metrics["val_loss"]
        with pytest.raises(MismatchError, match=r"can be continued on its own data only.* split"):
            continuation(registry, ["iris-mlp"], 2, {"data.split_seed": 4}, None)


def test_seeds_that_do_not_go_round_evenly_are_said(tmp_path):
    asked = {"data": {"ref": "iris", "folds": 3}}
    even = plan(parse({**asked, "seeds": 6})).data.notes
    assert even[-1] == "3 folds: seed s is validated on fold s mod 3"
    assert plan(parse({**asked, "seeds": 4})).data.notes[-1] == (
        "4 seeds do not go round 3 folds evenly: fold 0 has 2, fold 1 has 1, fold 2 has 1; rows of "
        "a fold without a member have no out-of-fold prediction"
    )
    twice = plan(parse({"data": {**asked["data"], "repeats": 2}, "seeds": 6}))
    assert [run.varied["fold"] for run in twice.requests] == [0, 1, 2, 3, 4, 5]
    assert (
        twice.data.notes[-1] == "3 folds, shared out 2 times: seed s is validated on fold s mod 6"
    )


def test_a_fold_cannot_be_chosen_but_by_a_seed():
    with pytest.raises(ConfigError, match=r"data\.fold: follows from the seed, however it is set"):
        plan(parse({"data": {"ref": "iris", "folds": 3, "fold": 1}}))


def test_one_name_holds_folds_of_one_test_part(tmp_path):
    train(tmp_path, FOLDS | {"seeds": 1})
    with pytest.raises(MismatchError, match="other split"):
        train(tmp_path, changed(FOLDS, test=0.3))
    with pytest.raises(MismatchError, match="other split"):
        train(tmp_path, FOLDS | {"data": {"ref": "iris"}})
    (run,) = train(tmp_path, changed(FOLDS, folds=4) | {"seeds": 1})  # the same test part
    assert run.label == "iris-mlp/data.folds=4,fold=0,seed=0"


def test_differences_name_content_schema_and_split(tmp_path):
    def requested(text, **data):
        path = tmp_path / "t.csv"
        path.write_text(text)
        settings = {"data": {"ref": str(path), "target": "y", **data}, "seeds": 1}
        return plan(parse(settings)).requests[0]

    rows = "".join(f"{i % 17},{i * 0.5},{'yn'[i % 2]}\n" for i in range(60))
    one = requested("a,b,y\n" + rows)
    assert differences(one, one) == []
    split = requested("a,b,y\n" + rows, split_seed=1)
    assert differences(one, split) == [
        ("split", f"{one.split_hash} (split_seed 0)", f"{split.split_hash} (split_seed 1)")
    ]
    content = requested("a,b,y\n" + rows.replace("16,", "15,"))
    assert [what for what, _, _ in differences(one, content)] == ["data"]
    schema = requested("a,c,y\n" + rows.replace(".5", ".5x"))
    assert [row[0] for row in differences(one, schema)] == [
        "data",
        "schema",
        "column 'b'",
        "column 'c'",
    ]
    assert differences(one, schema)[2:4] == [
        ("column 'b'", "numeric", "absent"),
        ("column 'c'", "absent", "categorical"),
    ]
