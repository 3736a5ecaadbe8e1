"""New rows are read by what was learnt; what was not learnt from does not matter."""

import json
import time

import numpy as np
import pandas as pd
import polars
import pytest
import torch

from zoo.data import apply, delimited, files, load, read_chunks
from zoo.errors import DataError
from zoo.sections import DataConfig


def learnt(frame, **settings):
    return load(DataConfig(ref="rows", target="y", **settings), frame).preprocessing


def rows(count=60):
    return pd.DataFrame({"x": np.arange(count) % 13, "y": np.arange(count) % 7 + 0.5})


def features(preprocessing, path):
    return torch.cat(
        [apply(preprocessing, portion) for portion in read_chunks(preprocessing, path)]
    )


def test_nested_columns_that_were_dropped_are_ignored_later_too(tmp_path):
    path = tmp_path / "t.parquet"
    rows().assign(tags=[[1, 2]] * 60).to_parquet(path)
    config = DataConfig(ref=str(path), target="y", columns={"tags": "drop"})
    fitted = load(config).preprocessing
    assert features(fitted, path).shape == (60, 1)
    assert apply(fitted, polars.read_parquet(path)).shape == (60, 1)


@pytest.mark.parametrize("junk", ["inf", "?", "1e200", "2024-02-30"])
@pytest.mark.parametrize("column", ["z", "y"])
def test_strange_cells_are_ignored_where_nothing_was_learnt(tmp_path, junk, column):
    fitted = learnt(rows().assign(z=1.5), columns={"z": "drop"})
    plain = rows().assign(z=1.5).astype({column: object})
    plain.loc[5, column] = junk
    plain.to_csv(tmp_path / "new.csv", index=False)
    assert features(fitted, tmp_path / "new.csv").equal(apply(fitted, rows()))


def test_a_dropped_column_may_look_like_numbers_in_one_portion(tmp_path, monkeypatch):
    codes = sorted(f"{i}" if i % 3 else f"A{i}" for i in range(900))
    frame = rows(900).assign(code=codes)
    fitted = learnt(frame)
    assert fitted["features"] == ["x"]
    frame.to_csv(tmp_path / "new.csv", index=False)
    monkeypatch.setattr(files, "PORTION", 2000)
    assert features(fitted, tmp_path / "new.csv").equal(apply(fitted, frame))


def test_a_column_without_values_in_training_needs_only_to_be_there(tmp_path):
    fitted = learnt(rows().assign(void=None))
    frame = rows().assign(void=["?", "1", "inf"] * 20)
    frame.to_csv(tmp_path / "new.csv", index=False)
    assert features(fitted, tmp_path / "new.csv").equal(apply(fitted, frame))
    rows().to_csv(tmp_path / "new.csv", index=False)
    with pytest.raises(DataError, match="'void' is missing"):
        features(fitted, tmp_path / "new.csv")


def test_keys_that_only_some_portions_of_json_lines_have_are_gaps(tmp_path, monkeypatch):
    path = tmp_path / "new.jsonl"
    extra = {"n": 3, "c": "red", "t": "2024-05-01T00:00:00"}
    kept = [{"x": i % 13, "y": i % 7 + 0.5} | (extra if i > 600 else {}) for i in range(900)]
    frame = pd.DataFrame(kept)
    frame.loc[700:, "n"] = 4
    frame.loc[700:, "t"] = "2024-06-01T00:00:00"
    kept = [{k: v for k, v in row.items() if v == v} for row in frame.to_dict("records")]
    path.write_text("\n".join(map(json.dumps, kept)))
    fitted = learnt(frame)
    assert {"n is missing", "c is missing", "t is missing"} < set(fitted["features"])
    whole = features(fitted, path)
    monkeypatch.setattr(files, "PORTION", 2000)
    assert features(fitted, path).equal(whole)
    assert whole.equal(apply(fitted, frame))
    path.write_text("\n".join(json.dumps({"x": 1, "n": 2, "t": None}) for _ in range(300)))
    with pytest.raises(DataError, match="'c' is missing"):
        features(fitted, path)


LARGE = ["9007199254740992", "9007199254740993", "5"]


@pytest.mark.parametrize("task", [None, "classification"])
def test_large_classes_stay_apart_although_a_cell_is_empty(tmp_path, task):
    text = "x,y\n" + "".join(f"{i},{LARGE[i % 3]}\n" for i in range(60)) + "1,\n"
    (tmp_path / "t.csv").write_text(text)
    data = load(DataConfig(ref=str(tmp_path / "t.csv"), target="y", task=task))
    assert set(data.classes) == set(LARGE)
    frame = pd.DataFrame({"x": range(61), "y": pd.array([*map(int, LARGE * 20), None], "Int64")})
    assert load(DataConfig(ref="t", target="y", task=task), frame).classes == data.classes


def test_classes_beyond_all_integers_need_to_be_declared(tmp_path):
    text = "x,y\n" + "".join(f"{i},1234567890123456789{i % 3}0\n" for i in range(60))
    (tmp_path / "t.csv").write_text(text)
    config = DataConfig(ref=str(tmp_path / "t.csv"), target="y")
    with pytest.raises(DataError, match=r'cannot; set data.task = "classification"'):
        load(config)
    assert len(load(config.model_copy(update={"task": "classification"})).classes) == 3


def test_labels_and_groups_are_told_apart_as_they_are_written(tmp_path):
    names = ["007", "7", "8", "9", "10"]
    text = "g,x,y\n" + "".join(f"{names[i % 5]},{i},{names[i % 2]}\n" for i in range(50))
    (tmp_path / "t.csv").write_text(text)
    asked = {"split": "group", "group": "g", "task": "classification"}
    data = load(DataConfig(ref=str(tmp_path / "t.csv"), target="y", **asked))
    assert data.classes == ("007", "7")
    assert "split by 'g', whose groups stay whole: 3 train, 1 val, 1 test" in data.notes
    (tmp_path / "t.csv").write_text(text.replace("10,", "NA,"))
    asked["columns"] = {"g": "categorical"}
    again = load(DataConfig(ref=str(tmp_path / "t.csv"), target="y", **asked))
    assert again.split_hash != data.split_hash
    assert [part.tolist() for part in again.rows] == [part.tolist() for part in data.rows]


PLAIN = "".join(f"{i},abcdefgh,{i % 13}\n" for i in range(400))
PIPES = 'a,c,y\n0,5" pipe,1\n' + PLAIN


@pytest.mark.parametrize("size", [100, 5000, 1 << 24])
@pytest.mark.parametrize("odd", ['5" pipe', '"two\nlines"', '"a ""b"", c"', ' "x"', '""'])
def test_quotes_that_open_nothing_do_not_hold_up_what_follows(tmp_path, monkeypatch, odd, size):
    path = tmp_path / "t.csv"
    path.write_text(PIPES.replace('5" pipe', odd))
    fitted = load(DataConfig(ref=str(path), target="y", task="regression")).preprocessing
    monkeypatch.setattr(files, "PORTION", size)
    portions = list(read_chunks(fitted, path))
    assert [a for portion in portions for a in portion["a"]] == [0, *range(400)]
    assert max(map(len, portions)) < 400 or size > 5000


def test_many_lines_after_a_stray_quote_take_as_long_as_others(tmp_path, monkeypatch):
    path = tmp_path / "t.csv"
    path.write_text(PIPES + PLAIN * 250)
    monkeypatch.setattr(files, "PORTION", 1 << 18)
    fitted = {"columns": [{"name": "a", "kind": "numeric"}]}
    start = time.perf_counter()
    assert sum(map(len, read_chunks(fitted, path))) == 401 + 400 * 250
    assert time.perf_counter() - start < 20  # it took minutes


def test_a_quote_that_is_never_closed_is_named_by_its_line(tmp_path, monkeypatch):
    path = tmp_path / "t.csv"
    path.write_text(PIPES + '7,"open,1\n' + PLAIN * 20)
    monkeypatch.setattr(files, "PORTION", 1000)
    fitted = {"columns": [{"name": "a", "kind": "numeric"}]}
    with pytest.raises(DataError, match=r"t.csv: line \d+ is not CSV"):
        list(read_chunks(fitted, path))
    monkeypatch.setattr(delimited, "LONGEST", 4000)
    with pytest.raises(DataError, match="line 403 is not CSV: a quote is opened there and not clo"):
        list(read_chunks(fitted, path))


def test_lines_that_end_in_carriage_returns_come_in_portions_too(tmp_path, monkeypatch):
    path = tmp_path / "t.csv"
    path.write_bytes(rows(900).to_csv(index=False, lineterminator="\r").encode())
    monkeypatch.setattr(files, "PORTION", 500)
    portions = list(read_chunks({"columns": [{"name": "x", "kind": "numeric"}]}, path))
    assert max(map(len, portions)) < 200
    assert sum(map(len, portions)) == 900


def test_hexadecimal_numbers_are_text_both_times(tmp_path):
    path = tmp_path / "t.csv"
    text = "".join(f"0x{i % 5:X}F,{i},{i * 1.5}\n" for i in range(100))
    path.write_text("h,x,y\n" + text)
    data = load(DataConfig(ref=str(path), target="y"))
    assert data.preprocessing["features"] == [*(f"h=0x{i}F" for i in range(5)), "x"]
    assert features(data.preprocessing, path).shape == (100, 6)
