"""The faults that tables bring along, each with what a user gets for it.

The numbers are those of the list of faults that must be survived; none of 43 to 57 may be without.
"""

import re

import numpy as np
import pandas as pd
import pytest
import torch

from zoo.config import parse
from zoo.data import apply, load
from zoo.errors import ConfigError, DataError
from zoo.planning import plan
from zoo.sections import DataConfig

ROWS = "".join(f"{i},{'ab'[i % 2]},{i * 1.5}\n" for i in range(40))
GOOD = "x,c,y\n" + ROWS


def loaded(folder, content, **settings):
    path = folder / "table.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return load(DataConfig.model_validate({"ref": str(path), "target": "y", **settings}))


REFUSED = {
    "43 empty file": (b"", {}, "has no rows"),
    "43 header only": ("x,c,y\n", {}, "has no rows"),
    "45 row too long": ("x,c,y\n1,a,2,9\n" + ROWS, {}, "line 2 has 4"),
    "45 duplicate header": ("x,x,y\n" + ROWS, {}, "'x' comes more than once"),
    "47 Latin-1": (GOOD.replace("a", "é").encode("latin1"), {}, "must be UTF-8"),
    "51 infinity": (GOOD + "inf,a,1\n", {}, "must hold finite numbers"),
    "46 stray text among numbers": (GOOD + "?,a,1\n", {}, "holds '\\?' among numbers"),
    "50 target missing": (GOOD, {"target": "z"}, "it has no 'z'"),
    "52 one class": ("x,y\n" + "".join(f"{i},a\n" for i in range(40)), {}, "at least two classes"),
    "53 a class of one row": (
        "x,y\n" + "".join(f"{i},{'ab'[i % 2]}\n" for i in range(40)) + "7,c\n",
        {},
        "every class needs at least 3",
    ),
    "52 a constant quantity": (
        "x,y\n" + "".join(f"{i},5\n" for i in range(40)),
        {"task": "regression"},
        "must vary",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_it_is_refused_in_one_line_that_says_why(tmp_path, name):
    content, settings, says = REFUSED[name]
    with pytest.raises(DataError, match=says) as caught:
        loaded(tmp_path, content, **settings)
    assert "\n" not in str(caught.value)
    assert "table.csv" in str(caught.value)


def test_a_folder_without_images_is_no_data(tmp_path):
    with pytest.raises(DataError):
        load(DataConfig(ref=str(tmp_path), target="y"))


def same(one, other):
    return torch.equal(one.train.x, other.train.x) and torch.equal(one.test.y, other.test.y)


WRITTEN = {
    "44 byte-order mark": b"\xef\xbb\xbf" + GOOD.encode(),
    "47 line ends of Windows": GOOD.replace("\n", "\r\n"),
    "semicolons": GOOD.replace(",", ";"),
    "tabs": GOOD.replace(",", "\t"),
    "47 UTF-16": GOOD.encode("utf-16"),
}


@pytest.mark.parametrize("name", WRITTEN)
def test_how_it_is_written_does_not_matter(tmp_path, name):
    assert same(loaded(tmp_path, WRITTEN[name]), loaded(tmp_path, GOOD))


def test_47_names_that_look_alike_are_alike(tmp_path):
    composed, combining = (GOOD.replace("x,c", f"{e},c") for e in ("\u00e9", "e\u0301"))
    names = [loaded(tmp_path, text).preprocessing["features"] for text in (composed, combining)]
    assert names[0] == names[1]


def test_46_codes_stay_codes_where_that_is_declared(tmp_path):
    text = "x,y\n" + "".join(f"{('007', '7', 'NA')[i % 3]},{i}\n" for i in range(60))
    found = loaded(tmp_path, text, columns={"x": "categorical"})
    assert found.preprocessing["features"] == ["x=007", "x=7", "x=NA"]


def test_49_a_column_of_nothing_is_kept_as_a_constant(tmp_path):
    found = loaded(tmp_path, "e," + GOOD.replace("\n", "\n,").removesuffix(","))
    place = found.preprocessing["features"].index("e")
    assert (found.train.x[:, place] == 0).all()


def test_50_columns_are_matched_by_name(tmp_path):
    fitted = loaded(tmp_path, GOOD).preprocessing
    plain = pd.DataFrame({"x": [1, 2], "c": ["a", "b"]})
    assert apply(fitted, plain.assign(extra=0)[["extra", "c", "x"]]).equal(apply(fitted, plain))
    with pytest.raises(DataError, match=r"'c' is missing \(there are: x\); add it"):
        apply(fitted, plain[["x"]])


def test_54_a_class_that_only_the_test_rows_have_is_named(tmp_path):
    parts = ["train", "val", "test"]
    rows = "".join(f"{i},{parts[i % 3]},{'ab'[i // 3 % 2]}\n" for i in range(60)) + "7,test,late\n"
    with pytest.raises(DataError, match="among the training rows, however 'late' is not"):
        loaded(tmp_path, "x,p,y\n" + rows, split="column", part="p")


def test_48_values_unseen_in_training_are_unknown_and_counted(tmp_path):
    text = "x,c,y\n" + "".join(f"{i},{'ab'[i % 2] if i % 9 else f'r{i}'},{i}\n" for i in range(90))
    found = loaded(tmp_path, text, columns={"c": "categorical"})
    assert any("cells hold values unseen in training" in note for note in found.notes)
    features = found.preprocessing["features"]
    places = [k for k, name in enumerate(features) if name.startswith("c=")]
    known = torch.cat([found.val.x, found.test.x])[:, places].sum(1)
    assert set(known.tolist()) == {0.0, 1.0}


def test_55_copies_of_a_row_stay_on_one_side_and_are_counted(tmp_path):
    found = loaded(tmp_path, GOOD + ROWS)
    assert any("40 rows repeat another row" in note for note in found.notes)
    sides = [{tuple(row.tolist()) for row in part.x} for part in (found.train, found.val)]
    assert not sides[0] & sides[1]


def test_a_target_by_another_name_is_pointed_out(tmp_path):
    text = "x,twin,y\n" + "".join(f"{(i * 7) % 40},{i * 2},{i}\n" for i in range(40))
    found = loaded(tmp_path, text, task="regression")
    assert any("'twin' alone tells" in note for note in found.notes)


def test_56_another_content_is_another_fingerprint(tmp_path):
    first, again = loaded(tmp_path, GOOD), loaded(tmp_path, GOOD)
    other = loaded(tmp_path, GOOD.replace("39,b", "38,b"))
    assert first.fingerprint == again.fingerprint != other.fingerprint


def test_57_selection_has_no_setting_that_lets_it_see_test_rows():
    for key in ("stop.part", "stop.on", "keep.test"):
        section, name = key.split(".")
        with pytest.raises(ConfigError, match="no such key"):
            parse({"data": {"ref": "iris"}, section: {name: "test"}})


def test_zones_are_brought_to_one(tmp_path):
    text = "t,y\n" + "".join(
        f"2024-01-{1 + i % 28:02d}T00:00:00{('Z', '+02:00')[i % 2]},{i}\n" for i in range(60)
    )
    found = loaded(tmp_path, text, columns={"t": "datetime"})
    assert np.isfinite(found.train.x.numpy()).all()


def test_no_fault_is_forgotten():
    names = [*REFUSED, *WRITTEN, *(name.removeprefix("test_") for name in globals())]
    numbers = {int(found[0]) for name in names if (found := re.match(r"\d\d", name))}
    assert numbers == set(range(43, 58))


def test_what_prepares_rows_must_fit_beside_the_weights_and_is_refused_before_training(monkeypatch):
    draw = np.random.default_rng(0)
    frame = pd.DataFrame(draw.normal(size=(400, 3)), columns=list("abc"))
    frame["y"] = draw.normal(size=400) > 0
    asked = {"data": {"ref": "wide", "target": "y", "scaling": "quantile"}}
    plan(parse(asked), frame=frame)
    monkeypatch.setattr("zoo.checks.MOST_FITTED", 10_000)
    with pytest.raises(
        DataError, match=r"at most 10,000 bytes, however for wide it has 1\d,\d{3};"
    ):
        plan(parse(asked), frame=frame)
    plan(parse({"data": {"ref": "wide", "target": "y"}}), frame=frame)
