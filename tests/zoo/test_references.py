"""A reference finds the runs a person means, in order and once, or says what is near."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zoo.errors import MismatchError, NotFoundError, UsageError, ZooError
from zoo.registry import Run
from zoo.registry.records import label
from zoo.registry.references import resolve
from zoo.settings import parse_value


def run(number, name="digits-mlp", seed=0, status="finished", lr=0.001, **changes):
    fields = {
        "id": f"{number:012x}",
        "name": name,
        "kind": "single",
        "seed": seed,
        "config": {"optim": {"lr": lr, "name": "adam"}, "model": {"hidden": [64, 64], "bn": True}},
        "config_hash": str(lr),
        "varied": {},
        "task": "classification",
        "classes": [],
        "data_ref": "digits",
        "data_fingerprint": "f",
        "split_hash": "s",
        "preprocessing": {},
        "status": status,
        "created_at": "",
        "requested_at": "",
        "started_at": None,
        "finished_at": None,
        "best_epoch": 1,
        "epochs": 1,
        "metrics": {},
        "seconds": None,
        "parents": (),
        "error": None,
        "environment": {},
    }
    return Run(**(fields | changes))


def scored(number, accuracy, loss=1.0, **changes):
    return run(number, metrics={"val_accuracy": accuracy, "val_loss": loss}, **changes)


ZOO = [
    run(0xABCD00000001, seed=1),
    run(0xABCD00000002, seed=2, lr=0.01, status="failed"),
    run(0x123400000003, "digits-cnn", seed=1),
    run(0x567800000004, "iris-mlp", seed=1, data_ref="iris", data_fingerprint="g"),
    run(0x9ABC00000005, "digits-soup", seed=None, kind="weights"),
]


@pytest.mark.parametrize(
    ("ref", "expected"),
    [
        ("digits-mlp", [0, 1]),
        ("digits-*", [0, 1, 2, 4]),
        ("*-mlp", [0, 1, 3]),
        ("digits-mlp/seed=2", [1]),
        ("digits-mlp/optim.lr=1e-3", [0]),
        ("digits-mlp/optim.lr=0.01,seed=2", [1]),
        ("*/seed=1", [0, 2, 3]),
        ("/seed=1", [0, 2, 3]),
        ("*/status=failed", [1]),
        ("*/kind=weights", [4]),
        ("digits-*/model.hidden=[64, 64],seed=1", [0, 2]),
        ("digits-mlp/optim.name=adam", [0, 1]),
        ('digits-mlp/optim.name="adam",seed=1', [0]),
        ("iris-mlp/model.bn=true", [3]),
        ("1234", [2]),
        ("abcd00000002", [1]),
    ],
)
def test_references(ref, expected):
    assert resolve(ZOO, [ref]) == [ZOO[index] for index in expected]


def test_several_references_keep_their_order_and_each_run_once():
    found = resolve(ZOO, ["iris-mlp", "digits-mlp/seed=2", "digits-*"])
    assert found == [ZOO[index] for index in (3, 1, 0, 2, 4)]
    assert resolve(ZOO, []) == []


@pytest.mark.parametrize(
    ("ref", "said"),
    [
        ("digts-mlp", "no run matches 'digts-mlp'; did you mean 'digits-mlp'?"),
        ("digts-mlp/seed=1", "did you mean 'digits-mlp'?"),
        ("digits-mlp@bst", "did you mean 'digits-mlp'?"),
        ("xyz-*", "(known: digits-cnn, digits-mlp, digits-soup, iris-mlp)"),
        ("ffff", "no run matches 'ffff'"),
        ("abc", "no run matches 'abc'"),
        ("", "no run matches ''"),
        ("digits-mlp/seed=9", "seed is one of 1, 2"),
        ("digits-mlp/optim.lrr=1", "none has the setting 'optim.lrr'"),
        ("digits-mlp/model.bn=1", "model.bn is one of True"),
        ("digits-soup@best", "none is finished, single and validated"),
        ("digits-mlp@top0", "no run matches"),
    ],
)
def test_what_matches_nothing_is_told_what_is_near(ref, said):
    with pytest.raises(NotFoundError, match=re.escape(said)):
        resolve(ZOO, ["iris-mlp", ref])


def test_an_empty_registry_says_so():
    with pytest.raises(NotFoundError, match="the registry is empty"):
        resolve([], ["@best"])


def test_an_ambiguous_prefix_lists_the_candidates():
    said = r"abcd00000001 \(digits-mlp/seed=1\), abcd00000002 \(digits-mlp/seed=2\)"
    with pytest.raises(UsageError, match=said):
        resolve(ZOO, ["abcd"])


@pytest.mark.parametrize(
    "ref", ["digits-mlp/seed", "digits-mlp/", "digits-mlp/=1", "digits-mlp/a="]
)
def test_a_filter_is_key_and_value(ref):
    with pytest.raises(UsageError, match="after the slash comes KEY=VALUE"):
        resolve(ZOO, [ref])


def test_a_name_wins_over_what_it_could_also_mean():
    odd = [run(0xABCD00000001), run(2, "abcd"), run(3, "a/seed=1"), run(4, "x@best"), run(5, "[z]")]
    for index, ref in ((1, "abcd"), (2, "a/seed=1"), (3, "x@best"), (4, "[z]")):
        assert resolve(odd, [ref]) == [odd[index]]


def test_best_is_by_validation_then_loss_then_age():
    runs = [
        scored(1, 0.8),
        scored(2, 0.9, 0.5),
        scored(3, 0.9, 0.4),
        scored(4, 0.9, 0.4),
        scored(5, 0.99, status="diverged"),
        scored(6, 0.99, kind="weights"),
        run(7, metrics={"val_loss": 0.0}),
    ]
    assert resolve(runs, ["@best"]) == [runs[2]]
    assert resolve(runs, ["digits-mlp@top3"]) == [runs[2], runs[3], runs[1]]
    assert resolve(runs, ["@top99"]) == [runs[2], runs[3], runs[1], runs[0]]
    errors = [
        run(number, task="regression", metrics={"val_rmse": rmse}, seed=number)
        for number, rmse in enumerate([2.0, 1.0, 3.0])
    ]
    assert resolve(errors, ["@top2"]) == [errors[1], errors[0]]


def test_best_compares_runs_on_the_same_data_only():
    runs = [scored(1, 0.8), scored(2, 0.9, name="iris-mlp", data_ref="iris", data_fingerprint="g")]
    said = "digits-mlp on digits, iris-mlp on iris; give a name, such as digits-mlp@best"
    with pytest.raises(MismatchError, match=said):
        resolve(runs, ["@best"])
    assert resolve(runs, ["iris-mlp@best"]) == [runs[1]]


@given(st.text(max_size=30) | st.from_regex(r"[a-f0-9*?/@=,.\[\]\"'tobes-]{0,20}", fullmatch=True))
def test_any_text_is_resolved_or_refused(ref):
    try:
        found = resolve(ZOO, [ref])
    except ZooError:
        return
    assert found
    assert len({each.id for each in found}) == len(found)


@given(st.lists(st.sampled_from(["digits-mlp", "*-mlp", "1234", "*/seed=1", "iris-mlp"])))
def test_resolving_the_identifiers_of_an_answer_gives_the_answer(refs):
    found = resolve(ZOO, refs)
    assert resolve(ZOO, [each.id for each in found]) == found


VALUES = st.one_of(
    st.booleans(),
    st.integers(-(2**60), 2**60),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text("abz019.,/=@[]{}\"'\\# -_é", max_size=12),
    st.lists(st.integers(0, 999), max_size=3),
)


@given(VALUES, st.integers(0, 99))
def test_a_label_finds_its_run(value, seed):
    varied = {"optim.lr": value}
    one = run(1, seed=seed, varied=varied, lr=value)
    assert resolve([one, run(2, "other")], [one.label]) == [one]


def test_values_are_toml_or_words():
    assert parse_value("1\nb = 2") == "1\nb = 2"
    assert label("n", {"a": "1", "b": "x y"}, None) == 'n/a="1",b="x y"'
