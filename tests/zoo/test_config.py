"""Settings: one meaning however they are written, and one clear sentence where they are wrong."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zoo import config
from zoo.config import Request, RunConfig, parse
from zoo.errors import ConfigError
from zoo.sections import Adam
from zoo.settings import assignments, merge, parse_seeds, read

IRIS = {"data": {"ref": "iris"}}


def refused(**changes):
    with pytest.raises(ConfigError) as caught:
        parse({**IRIS, **changes})
    return str(caught.value)


def only(**changes):
    """Return the one run that these settings mean."""
    [(run, _, _)] = parse({**IRIS, "seeds": 1, **changes}).runs()
    return run


# Files and command lines


def test_toml_and_set_items_mean_the_same(tmp_path):
    path = tmp_path / "zoo.toml"
    path.write_text(
        """
        seeds = 3
        [data]
        ref = "iris"
        [grid.optim]
        name = ["sgd"]
        lr = [0.1, 0.01]
        [grid.model]
        hidden = [[8], [8, 8]]
        """
    )
    from_file = parse(read(path))
    items = ["optim.name=sgd", "optim.lr=0.1,0.01", "model.hidden=[8],[8,8]"]
    from_line = parse({"data": {"ref": "iris"}, "seeds": 3, "grid": assignments(items)})
    assert from_file == from_line
    assert [run.hash for run, _, _ in from_file.runs()] == [
        run.hash for run, _, _ in from_line.runs()
    ]


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("1", [1]),
        ("1e-3,3e-4", [0.001, 0.0003]),
        ("true,false", [True, False]),
        ("sgd", ["sgd"]),
        (" sgd , adam ", ["sgd", "adam"]),
        ("[64,64]", [[64, 64]]),
        ("[64,64],[32],[]", [[64, 64], [32], []]),
        ('"a,b",c', ["a,b", "c"]),
        ("'a,b'", ["a,b"]),
        ("data/my file.csv", ["data/my file.csv"]),
        ("a=b", ["a=b"]),
    ],
)
def test_commas_outside_brackets_and_quotes_separate_values(text, values):
    assert assignments([f"key={text}"]) == {"key": values}


@pytest.mark.parametrize("item", ["optim.lr", "=1", "optim.lr=", " =1", "optim.lr= "])
def test_an_item_without_key_or_value_is_refused(item):
    with pytest.raises(ConfigError, match="--set takes KEY=VALUE"):
        assignments([item])


def test_a_key_set_twice_is_refused():
    with pytest.raises(ConfigError, match=r"--set optim\.lr: is given twice"):
        assignments(["optim.lr=1", "optim.lr =2"])


@pytest.mark.parametrize("item", ["optim.lr=,", "optim.lr=1,,2", "model.hidden=[64", "a='b"])
def test_an_item_with_missing_values_or_open_brackets_is_refused(item):
    with pytest.raises(ConfigError, match=item.split("=", maxsplit=1)[0]):
        assignments([item])


def test_a_nested_list_is_one_value():
    assert assignments(["key=[[1,2],[3]]"]) == {"key": [[[1, 2], [3]]]}


def test_a_missing_or_broken_file_is_refused_by_name(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.toml: cannot be read: No such file"):
        read(tmp_path / "none.toml")
    broken = tmp_path / "broken.toml"
    broken.write_text("a = = 1")
    with pytest.raises(ConfigError, match=r"broken\.toml: is not TOML"):
        read(broken)
    broken.write_bytes(b'a = "\xff"')
    with pytest.raises(ConfigError, match=r"broken\.toml: is not TOML"):
        read(broken)


# The grid


def test_a_grid_is_the_product_of_its_values_with_seeds_varying_fastest():
    parsed = parse(
        {**IRIS, "seeds": [3, 1], "grid": {"optim.lr": [0.1, 0.2], "train.epochs": [5, 6]}}
    )
    told = [(run.optim.lr, run.train.epochs, seed) for run, _, seed in parsed.runs()]
    assert told == [(lr, e, s) for lr in (0.1, 0.2) for e in (5, 6) for s in (3, 1)]
    assert parsed.runs()[0][1] == {"optim.lr": 0.1, "train.epochs": 5}


def test_without_a_grid_there_is_one_setting_per_seed():
    runs = parse({**IRIS, "seeds": 4}).runs()
    assert [seed for _, _, seed in runs] == [0, 1, 2, 3]
    assert len({run.hash for run, _, _ in runs}) == 1
    assert all(varied == {} for _, varied, _ in runs)


def test_a_grid_over_optimisers_gives_each_its_own_defaults():
    runs = parse({**IRIS, "seeds": 1, "grid": {"optim.name": ["sgd", "adam", "adamw"]}}).runs()
    assert [run.optim for run, _, _ in runs] == [config.SGD(), config.Adam(), config.AdamW()]


def test_a_grid_over_models_drops_the_options_of_the_other_model():
    parsed = parse(
        {
            **IRIS,
            "model": {"name": "mlp", "hidden": [8]},
            "seeds": 1,
            "grid": {"model.name": ["cnn", "mlp"]},
        }
    )
    options = {run.model.name: run.model.options for run, _, _ in parsed.runs()}
    assert "hidden" not in options["cnn"]
    # What was asked for the mlp is kept where the grid comes to the mlp.
    assert options["mlp"]["hidden"] == [8]


def test_a_learning_rate_is_kept_where_the_grid_repeats_the_default_optimiser():
    parsed = parse(
        {**IRIS, "optim": {"lr": 0.5}, "seeds": 1, "grid": {"optim.name": ["adam", "sgd"]}}
    )
    rates = {run.optim.name: run.optim.lr for run, _, _ in parsed.runs()}
    assert rates["adam"] == 0.5


def test_settings_of_an_optimiser_are_kept_where_the_grid_comes_to_it():
    parsed = parse(
        {
            **IRIS,
            "optim": {"name": "sgd", "momentum": 0.5},
            "seeds": 1,
            "grid": {"optim.name": ["adam", "sgd"]},
        }
    )
    [momentum] = [run.optim.momentum for run, _, _ in parsed.runs() if run.optim.name == "sgd"]
    assert momentum == 0.5


@pytest.mark.parametrize("keys", [["optim.name", "optim.lr"], ["optim.lr", "optim.name"]])
def test_the_order_of_the_grids_keys_does_not_change_its_cells(keys):
    values = {"optim.name": ["sgd", "adam"], "optim.lr": [0.5, 0.25]}
    parsed = parse({**IRIS, "seeds": 1, "grid": {key: values[key] for key in keys}})
    told = {(run.optim.name, run.optim.lr) for run, _, _ in parsed.runs()}
    assert told == {("sgd", 0.5), ("sgd", 0.25), ("adam", 0.5), ("adam", 0.25)}


def test_two_equal_cells_are_refused():
    assert "every value must differ" in refused(grid={"optim.lr": [1, 1.0]})


def test_two_equal_cells_of_a_model_option_are_refused():
    assert "every value must differ" in refused(grid={"model.dropout": [0, 0.0]})


def test_a_nested_grid_is_the_dotted_grid():
    nested = parse({**IRIS, "grid": {"optim": {"lr": [0.1, 0.2]}}})
    assert nested == parse({**IRIS, "grid": {"optim.lr": [0.1, 0.2]}})


# Hashes


def test_the_hash_of_settings_written_in_full_is_pinned():
    run = only(
        data={
            "ref": "iris",
            "target": "y",
            "task": "classification",
            "image": "file",
            "size": [8, 8],
            "columns": {"zip": "categorical", "a.b": "drop"},
            "scaling": "robust",
            "target_transform": "none",
            "split_seed": 1,
            "val": 0.25,
            "test": 0.2,
            "split": "group",
            "group": "patient",
            "time": None,
            "part": None,
            "folds": 5,
            "repeats": 2,
            "bootstrap": False,
            "fold": 7,
        },
        model={
            "name": "mlp",
            "hidden": [8, 4],
            "activation": "gelu",
            "norm": "batch",
            "dropout": 0.5,
        },
        optim={
            "name": "sgd",
            "lr": 0.05,
            "momentum": 0.5,
            "nesterov": True,
            "weight_decay": 1e-4,
            "decay": "all",
        },
        init={
            "mode": "run",
            "seed": 0,
            "source": "x/1",
            "epoch": 3,
            "sha256": "0" * 64,
            "trained": 3,
        },
        schedule={
            "name": "one-cycle",
            "warmup": 1.5,
            "final": 0.01,
            "every": 5,
            "factor": 0.5,
            "patience": 2,
            "rise": 0.25,
            "start": 0.1,
        },
        train={
            "epochs": 7,
            "batch_size": 32,
            "accumulate": 2,
            "order_seed": 4,
            "precision": "bfloat16",
            "clip_norm": 2.0,
            "clip_value": 0.5,
            "l1": 1e-5,
            "l2": 1e-4,
            "label_smoothing": 0.1,
            "class_weights": "balanced",
            "mixup": 0.2,
        },
        stop={
            "metric": "accuracy",
            "mode": "max",
            "patience": 3,
            "min_delta": 0.125,
            "relative": True,
            "start_from_epoch": 2,
            "threshold": 0.99,
            "divergence": 0.1,
            "also": [
                {
                    "metric": "loss",
                    "mode": "min",
                    "patience": 4,
                    "min_delta": 0.25,
                    "relative": False,
                    "start_from_epoch": 1,
                    "threshold": 0.01,
                    "divergence": 100.0,
                }
            ],
            "when": "all",
            "check_finite": False,
        },
        keep={
            "last": True,
            "top": 3,
            "every": 2,
            "optimiser": True,
            "ema": 0.99,
            "swa": 0.75,
            "lawa": 3,
        },
        augment={
            "crop": 2,
            "pad": "reflect",
            "resized_crop": 0.5,
            "rotate": 15,
            "flip": 0.5,
            "vertical_flip": 0.25,
            "brightness": 0.4,
            "contrast": 0.3,
            "saturation": 0.2,
            "hue": 0.1,
            "greyscale": 0.125,
        },
    )
    assert run.hash == "892990ad43aeee3a"
    told = run.model_dump(exclude_unset=True)
    assert {name: len(section) for name, section in told.items()} == {
        name: len(section) for name, section in run.model_dump().items()
    }  # no key is left to a default


def test_the_hash_ignores_name_seeds_and_the_way_a_value_was_reached():
    plain = only(optim={"name": "sgd", "lr": 0.25})
    gridded = parse(
        {**IRIS, "name": "x", "seeds": "5-6", "grid": {"optim.name": "sgd", "optim.lr": 0.25}}
    )
    assert {run.hash for run, _, _ in gridded.runs()} == {plain.hash}


SAME = [
    ({"optim": {"lr": 1}}, {"optim": {"lr": 1.0}}),
    (  # it follows from the seed
        {"data": {"ref": "iris", "folds": 5, "fold": 1}},
        {"data": {"ref": "iris", "folds": 5, "fold": 2}},
    ),
    ({"optim": {"lr": 0.001}}, {}),
    ({"optim": {"name": "adam", "lr": 0.5}}, {"optim": {"lr": 0.5, "name": "adam"}}),
    ({"optim": {"betas": [0.9, 0.99]}}, {"optim": {"betas": (0.9, 0.99)}}),
    ({"optim": {"weight_decay": 0}}, {}),
    ({"model": {"hidden": [8, 8]}}, {"model": {"hidden": (8, 8)}}),
    ({"model": {"norm": "batch", "hidden": [8]}}, {"model": {"hidden": [8], "norm": "batch"}}),
    ({"stop": {"metric": "accuracy", "mode": "max"}}, {"stop": {"metric": "accuracy"}}),
    ({"stop": {"also": [{"mode": "min"}]}}, {"stop": {"also": [{}]}}),
    ({"init": "shared"}, {"init": {"mode": "shared", "seed": 0}}),
    ({"init": "a.safetensors"}, {"init": {"mode": "file", "source": "elsewhere/a.safetensors"}}),
    ({"init": "some/1"}, {"init": {"mode": "run", "source": "some/1"}}),
    ({"schedule": {"warmup": 2}}, {"schedule": {"name": "constant", "warmup": 2.0}}),
]


@pytest.mark.parametrize(("one", "other"), SAME)
def test_the_same_settings_have_the_same_hash_however_written(one, other):
    assert only(**one).hash == only(**other).hash


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"model": {"dropout": 0}}, {"model": {"dropout": 0.0}}),
        ({"model": {"hidden": [64, 64]}}, {}),
    ],
)
def test_the_same_options_of_a_model_have_the_same_hash_however_written(one, other):
    assert only(**one).hash == only(**other).hash


DIFFERENT = [
    {},
    {"data": {"ref": "iris", "split_seed": 1}},
    {"data": {"ref": "iris", "val": 0.1}},
    {"data": {"ref": "iris", "scaling": "quantile"}},
    {"data": {"ref": "iris", "columns": {"target": "categorical"}}},
    {"data": {"ref": "iris", "split": "group", "group": "g"}},
    {"data": {"ref": "iris", "split": "group", "group": "h"}},
    {"data": {"ref": "iris", "split": "time", "time": "g"}},
    {"data": {"ref": "iris", "split": "column", "part": "g"}},
    {"data": {"ref": "iris", "folds": 2}},
    {"data": {"ref": "iris", "folds": 2, "repeats": 2}},
    {"data": {"ref": "iris", "folds": 4}},
    {"data": {"ref": "iris", "bootstrap": True}},
    {"model": {"hidden": [8]}},
    {"model": {"name": "cnn"}},
    {"optim": {"lr": 0.5}},
    {"optim": {"name": "adamw"}},
    {"train": {"epochs": 3}},
    {"train": {"batch_size": 3}},
    {"stop": {"patience": 3}},
    {"stop": {"min_delta": 3}},
    {"stop": {"metric": "accuracy"}},
    {"augment": {"flip": 0.5}},
    {"augment": {"vertical_flip": 0.5}},
    {"optim": {"decay": "all"}},
    {"init": "shared"},
    {"init": {"mode": "shared", "seed": 1}},
    {"init": "a.safetensors"},
    {"init": {"mode": "file", "source": "a.safetensors", "sha256": "0"}},
    {"schedule": {"name": "cosine"}},
    {"schedule": {"warmup": 1.0}},
    {"train": {"accumulate": 2}},
    {"train": {"order_seed": 0}},
    {"train": {"clip_norm": 1.0}},
    {"train": {"l1": 0.1}},
    {"stop": {"also": [{}]}},
    {"stop": {"also": [{"metric": "accuracy"}]}},
    {"stop": {"when": "all"}},
    {"keep": {"last": True}},
    {"keep": {"ema": 0.9}},
]


def test_different_settings_have_different_hashes():
    assert len({only(**change).hash for change in DIFFERENT}) == len(DIFFERENT)


def test_a_hash_survives_json():
    run = only(model={"hidden": [8]}, optim={"name": "sgd", "lr": 1e-7})
    again = RunConfig.model_validate(json.loads(run.model_dump_json()))
    assert again.hash == run.hash
    assert len(run.hash) == 16


# Seeds


@settings(max_examples=60, deadline=None)
@given(
    ranges=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 20)), min_size=1, max_size=5),
    space=st.sampled_from(["", " "]),
)
def test_seeds_are_the_numbers_of_the_ranges_in_the_order_written(ranges, space):
    parts = [
        f"{first}{space}-{space}{first + more}" if more else f"{first}" for first, more in ranges
    ]
    expected = [first + i for first, more in ranges for i in range(more + 1)]
    if len(ranges) == 1 and not ranges[0][1]:
        parts.append(parts[0])  # a single number would be a count
        expected *= 2
    assert parse_seeds(f"{space},{space}".join(parts)) == expected


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000))
def test_a_single_number_is_a_count(count):
    assert parse_seeds(count) == parse_seeds(str(count)) == list(range(count))


@pytest.mark.parametrize("text", ["", "a", "1,,2", "1-", "-1", "1.5", "1-2-3", "1;2", "3-2"])
def test_other_texts_are_not_seeds(text):
    with pytest.raises(ValueError, match=r"takes a count|goes upwards"):
        parse_seeds(text)


@pytest.mark.parametrize("text", ["100001", "0-100000", "0-99999,200000-299999", "0-999999999999"])
def test_more_than_a_hundred_thousand_seeds_are_refused(text):
    with pytest.raises(ValueError, match="at most 100000 seeds"):
        parse_seeds(text)


def test_looking_for_repeated_seeds_does_not_compare_each_with_each():
    class Counted(tuple):
        compared = 0

        def count(self, value):
            Counted.compared += len(self)
            return super().count(value)

    Request._distinct(Counted(range(3_000)))
    assert Counted.compared <= 100 * 3_000


# Derived values


def test_the_title_is_the_name_or_the_data_and_the_model():
    assert parse(IRIS).name == "iris-mlp"
    assert parse({**IRIS, "name": "best"}).name == "best"
    assert parse({"data": {"ref": "some/where.csv", "target": "y"}}).name == "where-mlp"


@pytest.mark.parametrize(
    ("stop", "direction"),
    [({}, "min"), ({"metric": "rmse"}, "min"), ({"metric": "accuracy"}, "max")],
)
def test_the_direction_of_stopping_suits_the_metric(stop, direction):
    assert only(stop=stop).stop.direction == direction
    assert only(stop={**stop, "mode": direction}).stop.direction == direction
    other = {"min": "max", "max": "min"}[direction]
    assert f"is {direction}, however it is {other}" in refused(stop={**stop, "mode": other})


def test_the_place_of_the_data_is_not_part_of_the_hash():
    assert only(data={"ref": "a.csv"}).hash == only(data={"ref": "./a.csv"}).hash


def test_what_is_set_beside_a_grid_of_names_is_meant_for_each():
    asked = merge(
        {"data": {"ref": "iris"}, "seeds": 1},
        {},
        assignments(["optim.name=adam,adamw", "optim.lr=0.5", "seeds=3"]),
    )
    runs = parse(asked).runs()
    assert {(run.optim.name, run.optim.lr) for run, _, _ in runs} == {("adam", 0.5), ("adamw", 0.5)}
    assert all(list(varied) == ["optim.name"] for _, varied, _ in runs)
    assert len(runs) == 6


def test_naming_the_default_keeps_what_was_set_for_it():
    asked = merge({"optim": {"lr": 0.5}, "model": {"hidden": [8]}}, {"model.name": "mlp"}, {})
    assert asked["model"] == {"hidden": [8], "name": "mlp"}


def test_nesterov_needs_momentum():
    told = refused(optim={"name": "sgd", "nesterov": True, "momentum": 0.0})
    assert told == "optim: nesterov needs a momentum, however it is 0"


def test_settings_cannot_be_changed_once_read():
    with pytest.raises(ValueError, match="frozen"):
        only().optim.lr = 3.0
    assert only().optim == Adam()
