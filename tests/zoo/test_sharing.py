"""Splits by group, by time and by a column, each with what it refuses."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.model_selection import GroupKFold, GroupShuffleSplit

from zoo.data import load, open_source
from zoo.data.sharing import share_out
from zoo.data.targets import as_target
from zoo.errors import DataError
from zoo.sections import DataConfig


def shared(frame, target="y", **settings):
    config = DataConfig(ref="t.csv", target=target, **settings)
    return share_out(config, frame, as_target(frame[target], config.task))


def refusal(frame, **settings):
    fold = 0 if "folds" in settings else None
    with pytest.raises(DataError) as caught:
        shared(frame, **settings).of(fold)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def table(rows=60, **columns):
    """A table of distinct rows whose target is of two classes."""
    return pd.DataFrame(
        {"x": np.arange(rows) + 0.5, **columns, "y": np.array(["no", "yes"])[np.arange(rows) % 2]}
    )


def whole(parts, rows):
    """Check that the parts are disjoint, ascending and complete."""
    assert sorted(np.concatenate(parts).tolist()) == list(range(rows))
    assert all(part.tolist() == sorted(part.tolist()) and len(part) for part in parts)


@settings(max_examples=60, deadline=None)
@given(
    groups=st.lists(st.sampled_from("abcdefghijkl"), min_size=30, max_size=80),
    values=st.data(),
    seed=st.integers(0, 99),
)
def test_groups_and_copies_never_straddle(groups, values, seed):
    x = values.draw(st.lists(st.integers(0, 400), min_size=len(groups), max_size=len(groups)))
    frame = pd.DataFrame({"g": groups, "x": x, "y": np.arange(len(groups)) % 7 + 0.5})
    asked = {"split": "group", "group": "g", "split_seed": seed}
    try:
        sharing = shared(frame, **asked)
    except DataError:
        assert "at least 3 groups are needed" in refusal(frame, **asked)
        return
    whole(sharing.parts, len(groups))
    rows = frame.drop(columns="g").apply(tuple, axis=1)
    for what in (frame["g"], rows):
        sides = [set(what.iloc[part]) for part in sharing.parts]
        assert sum(map(len, sides)) == len(set(what))


def test_groups_are_shared_out_as_scikit_learn_does():
    groups = np.repeat(np.arange(20), np.arange(1, 21))
    frame = table(len(groups), g=groups)
    parts = shared(frame, split="group", group="g", test=0.25, val=0.25).parts
    ours = [len(set(groups[part])) for part in parts]
    splitter = GroupShuffleSplit(1, test_size=0.25, random_state=0)
    rest, test = next(splitter.split(groups, groups=groups))
    assert ours == [10, 5, 5]
    assert len(set(groups[test])) == ours[2]
    assert len(set(groups[rest])) == ours[0] + ours[1]


def test_folds_keep_groups_whole_as_scikit_learns_do():
    groups = np.repeat(np.arange(25), 4)
    sharing = shared(table(100, g=groups), split="group", group="g", folds=5, fold=0)
    sides = [sharing.of(fold) for fold in range(5)]
    rest = np.sort(np.concatenate(sides[0][:2]))
    theirs = GroupKFold(5).split(rest, groups=groups[rest])
    assert [len(set(groups[val])) for _, val, _ in sides] == [
        len(set(groups[rest][val])) for _, val in theirs
    ]
    assert sorted(np.concatenate([val for _, val, _ in sides]).tolist()) == rest.tolist()
    for train, val, test in sides:
        assert not set(groups[train]) & set(groups[val])
        assert not (set(groups[train]) | set(groups[val])) & set(groups[test])
    drawn = shared(table(100, g=groups), split="group", group="g", bootstrap=True).of(3)
    assert not set(groups[drawn[0]]) & set(groups[drawn[1]])


def test_groups_that_share_copies_are_one_and_said_to_be():
    frame = pd.DataFrame({"g": [*"aabbccddee"], "x": [0, 1, 1, 2, 3, 4, 5, 6, 7, 8], "y": 0.5})
    frame["y"] = frame["x"] / 2
    sharing = shared(frame, split="group", group="g")
    assert any({0, 1, 2, 3} <= set(part.tolist()) for part in sharing.parts)
    assert "5 groups of 'g' share copies of rows, and became 4 that share none" in sharing.notes
    assert any(note.startswith("1 row repeats another row") for note in sharing.notes)
    assert sharing.notes[0].startswith("split by 'g', whose groups stay whole: ")


def test_too_few_groups_and_classes_in_no_training_row_are_refused():
    assert "column 'g' has 2; choose another" in refusal(
        table(g=[*"ab"] * 30), split="group", group="g"
    )
    frame = table(g=np.repeat([*"abcdef"], 10))
    frame["y"] = frame["g"]  # every group is a class of its own
    for own in ({"task": "classification"}, {"folds": 2, "fold": 0}):
        asked = DataConfig(ref="t.csv", target="y", split="group", group="g", **own)
        with pytest.raises(DataError, match="every class must be among the training rows, howeve"):
            load(asked, frame)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 40), min_size=20, max_size=90).filter(lambda t: len(set(t)) > 2),
    st.floats(0.05, 0.45),
    st.floats(0.05, 0.45),
)
def test_training_comes_before_validation_and_that_before_the_test(times, val, test):
    frame = table(len(times), day=times)
    frame["y"] = frame["x"]
    parts = shared(frame, split="time", time="day", val=val, test=test).parts
    whole(parts, len(times))
    days = [np.array(times)[part] for part in parts]
    assert days[0].max() < days[1].min()
    assert days[1].max() < days[2].min()


def test_parts_in_time_are_as_large_as_asked_for_and_their_spans_are_told():
    days = pd.date_range("2024-01-01", periods=100).strftime("%Y-%m-%d").to_numpy()
    order = np.random.RandomState(0).permutation(100)
    sharing = shared(table(100, day=days[order]), split="time", time="day", val=0.1, test=0.2)
    assert [len(part) for part in sharing.parts] == [70, 10, 20]
    assert sharing.notes == (
        "split in the order of 'day': train from 2024-01-01 to 2024-03-10, val from 2024-03-11 to "
        "2024-03-20, test from 2024-03-21 to 2024-04-09",
    )


def test_moments_of_several_time_zones_have_one_order():
    # The later the row, the earlier it looks without its time zone.
    zones = [f"2024-01-01T{12 - i // 3:02}:00:00-{i:02}:00" for i in range(12)]
    sharing = shared(table(12, at=zones), split="time", time="at", task=None, val=0.25, test=0.25)
    utc = pd.to_datetime(zones, utc=True)
    assert max(utc[sharing.parts[0]]) < min(utc[sharing.parts[1]])
    assert max(utc[sharing.parts[1]]) < min(utc[sharing.parts[2]])


def test_copies_across_times_are_counted():
    frame = pd.DataFrame({"x": np.arange(60) % 50, "day": np.arange(60), "y": ["a", "b"] * 30})
    assert shared(frame, split="time", time="day").notes[1:] == (
        "10 rows repeat a row of an earlier part in all but 'day'; they stay where that puts them, "
        "and their figures flatter",
    )
    frame["x"] = np.arange(60)
    assert shared(frame, split="time", time="day").notes[1:] == ()


@pytest.mark.parametrize(
    ("days", "says"),
    [
        (["2024-01-01", "soon", "2024-01-03"] * 20, "however row 2 holds 'soon'"),
        ([1, 2] * 30, "at least 3 moments are needed to train, validate and test, however"),
        ([1, 2, None] * 20, "must tell the time of every row, however 20 rows, first row 3, have"),
    ],
)
def test_times_that_cannot_be_ordered_are_refused(days, says):
    assert says in refusal(table(day=days), split="time", time="day")


def test_a_column_says_where_rows_go_in_several_words():
    words = ["train", "Training", "VAL", "validation", "valid", "dev", "test"]
    assert "holds 'Training'" in refusal(table(7, part=words), split="column", part="part")
    words[1] = "Train "
    frame = table(70, part=words * 10)
    sharing = shared(frame, split="column", part="part")
    whole(sharing.parts, 70)
    assert [len(part) for part in sharing.parts] == [20, 40, 10]
    assert sharing.notes == ()


def test_a_missing_validation_part_is_taken_out_of_train():
    frame = table(100, part=["train"] * 80 + ["test"] * 20)
    sharing, again, other = (
        shared(frame, split="column", part="part", split_seed=seed) for seed in (0, 0, 1)
    )
    whole(sharing.parts, 100)
    assert [len(part) for part in sharing.parts] == [64, 16, 20]
    assert sharing.parts[1].tolist() == again.parts[1].tolist() != other.parts[1].tolist()
    assert set(frame.y[sharing.parts[1]]) == {"no", "yes"}
    assert sharing.notes == (
        "column 'part' gives no rows to val, so 16 of the 80 training rows were taken at random",
    )
    few = table(30, part=["train"] * 8 + ["test"] * 22)
    assert "at least 10 distinct rows of train" in refusal(few, split="column", part="part")


def test_folds_of_a_column_share_train_and_val_and_leave_the_test_alone():
    frame = table(100, part=["train"] * 50 + ["val"] * 30 + ["test"] * 20)
    sharing = shared(frame, split="column", part="part", folds=4)
    sides = [sharing.of(fold) for fold in range(4)]
    assert all(test.tolist() == list(range(80, 100)) for _, _, test in sides)
    assert sorted(np.concatenate([val for _, val, _ in sides]).tolist()) == list(range(80))
    assert sharing.notes[0] == (
        "the 30 rows that 'part' gives to val are shared out together with those of train"
    )


def test_copies_across_a_given_split_stay_and_are_counted():
    frame = table(90, part=["train"] * 30 + ["val"] * 30 + ["test"] * 30)
    frame["x"] = np.arange(90) % 40
    (note,) = shared(frame, split="column", part="part").notes
    repeated = sum(
        (frame.x[row], frame.y[row])
        in {*zip(frame.x[: row // 30 * 30], frame.y[: row // 30 * 30], strict=True)}
        for row in range(90)
    )
    assert repeated
    assert note == (
        f"{repeated} rows repeat a row of an earlier part in all but 'part'; they stay where that "
        "puts them, and their figures flatter"
    )


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"split": "group", "group": "gap"}, "it has no 'gap'; did you mean 'gaps'?"),
        ({"split": "group", "group": "y"}, "data.group must be another column than the target"),
        (
            {"split": "group", "group": "x", "columns": {"x": "drop"}},
            "data.group must be a column that is kept, however data.columns drops 'x'",
        ),
        ({"split": "column", "part": "g"}, "column 'g' must hold train, val (or validation"),
        ({"split": "column", "part": "only"}, "rows to train and test, however none is for test"),
        ({"split": "group", "group": "gaps"}, "must tell the group of every row, however 30 rows"),
        ({"folds": 50}, "data.folds must be at most the 48 distinct rows or groups"),
    ],
)
def test_missing_and_wrong_columns_are_refused_by_name(settings, says):
    frame = table(g=[*"abcdef"] * 10, only="train", gaps=["a", None] * 30)
    assert says in refusal(frame, **settings)


def test_images_have_no_columns_to_split_by():
    with pytest.raises(DataError, match=r"data\.split 'group' needs a table"):
        load(DataConfig(ref="digits", split="group", group="g"))


def test_columns_that_split_are_not_learnt_from(tmp_path):
    frame = table(g=np.arange(60) // 3, year=np.arange(60) // 5 + 1990)
    frame["part"] = np.repeat(["train", "val", "test"], 20)
    path = tmp_path / "t.csv"
    frame.to_csv(path, index=False)

    def features(**settings):
        data = load(DataConfig(ref=str(path), target="y", **settings))
        return [c["name"] for c in data.preprocessing["columns"]], data

    assert features()[0] == ["x", "g", "year", "part"]
    assert features(split="group", group="g")[0] == ["x", "year", "part"]
    assert features(split="time", time="year")[0] == ["x", "g", "year", "part"]
    names, data = features(split="column", part="part")
    assert names == ["x", "g", "year"]
    assert data.preprocessing["schema"]["columns"] == {
        "x": "numeric",
        "g": "numeric",
        "year": "numeric",
        "part": "split",
        "y": "classification",
    }
    assert data.fingerprint == features()[1].fingerprint


def test_a_source_is_read_once_and_gives_what_loading_anew_gives(tmp_path):
    frame = table(60)
    path = tmp_path / "t.csv"
    frame.to_csv(path, index=False)
    config = DataConfig(ref=str(path), target="y", folds=6)
    source = open_source(config)
    path.unlink()
    first = source.data(0)
    assert source.data(0) is first
    seen = [source.data(fold).split_hash for fold in range(6)]
    assert source.data(0) is not first  # only the latest are held
    frame.to_csv(path, index=False)
    assert seen == [load(config.model_copy(update={"fold": fold})).split_hash for fold in range(6)]
