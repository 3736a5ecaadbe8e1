"""What could be read wrongly without a word is refused or read as it was meant."""

import unicodedata
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.feather
import pytest

from zoo.data import apply, load, read_rows
from zoo.errors import DataError
from zoo.sections import DataConfig


def refusal(frame, **settings):
    with pytest.raises(DataError) as caught:
        load(DataConfig(**{"ref": "t", "target": "y", **settings}), frame)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def table(column, count=60):
    return pd.DataFrame(
        {"c": [column[i % len(column)] for i in range(count)], "y": np.arange(count) / 7}
    )


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([f"{i},5" for i in range(60)], "written with a decimal point .* row 1 holds '0,5'"),
        ([*map(str, range(50)), "7,25"], "written with a decimal point .* row 51 holds '7,25'"),
        (["1.234,5", "-2,5"], "written with a decimal point"),
        (["1,234,567", "12"], "written with a decimal point"),
        ([f"{i % 28 + 1:02}/01/2024" for i in range(60)], "written as 2024-02-29 .* '01/01/2024'"),
        (["3.4.2024", "12.11.2023 10:30"], "written as 2024-02-29"),
        (["2024/03/31", "2024/4/1"], "written as 2024-02-29"),
    ],
)
def test_numbers_and_times_of_other_countries_are_not_taken_for_text(words, says):
    with pytest.raises(DataError, match=says):
        load(DataConfig(ref="t", target="y"), table(words).assign(x=np.arange(60) % 7))
    data = load(DataConfig(ref="t", target="y", columns={"c": "categorical"}), table(words))
    assert data.preprocessing["columns"][0]["kind"] == "categorical"


@pytest.mark.parametrize("words", [["1.2.3", "2.0.1"], ["1,2,3", "2,1"], ["a,5", "1,5"], ["10-12"]])
def test_other_text_with_such_marks_stays_text(words):
    words = [*words, "other"] if len(words) == 1 else words
    data = load(DataConfig(ref="t", target="y"), table(words))
    assert data.preprocessing["columns"][0]["kind"] == "categorical"


@pytest.mark.parametrize(
    "value",
    [[1], (1, 2), {"a": 1}, {1}, np.arange(2), b"ab", 1j, Decimal("sNaN")],
    ids=lambda v: type(v).__name__,
)
def test_cells_that_hold_several_values_are_refused_as_in_files(value):
    frame = table([value, None]).assign(x=np.arange(60) % 7)
    assert "'c' must hold numbers, truth values, times or text, however it holds" in refusal(frame)
    data = load(DataConfig(ref="t", target="y", columns={"c": "drop"}), frame)
    assert apply(data.preprocessing, frame).shape == (60, 1)


@pytest.mark.parametrize("unit", ["s", "ms"])
def test_times_that_microseconds_cannot_count_are_refused(unit, tmp_path):
    far = pa.array([2**61 + i for i in range(60)], pa.timestamp(unit))
    arrow = pa.table({"c": far, "y": np.arange(60) / 7})
    pyarrow.feather.write_feather(arrow, tmp_path / "t.feather")
    for source in (None, arrow, pd.DataFrame({"c": far.to_numpy(), "y": np.arange(60) / 7})):
        assert "'c' must hold times from the year" in refusal(
            source, ref=str(tmp_path / "t.feather")
        )
    near = arrow.set_column(0, "c", pa.array([10**9 + i * 10**5 for i in range(60)], pa.int64()))
    near = near.set_column(0, "c", near["c"].cast(pa.timestamp(unit)))
    assert load(DataConfig(ref="t", target="y"), near).preprocessing["columns"][0]["kind"] == (
        "datetime"
    )


@pytest.mark.parametrize(
    ("columns", "target"),
    [
        ({"a": [0, 1], "p_a": [0, 1, 1]}, ("a", "p_a")),
        ({"uncertainty": [0, 1], "b": [0, 1, 1]}, ("uncertainty", "b")),
        ({"t": ["uncertainty", "b", "b;uncertainty"]}, "t"),
        ({"t": ["disagreement", "b", "b;disagreement"]}, "t"),
        ({"x": [0.5, 1, 2], "std_x": [0.5, 3]}, ("x", "std_x")),
    ],
)
def test_targets_that_columns_of_predictions_are_called_by_are_refused(columns, target):
    frame = pd.DataFrame({"f": np.arange(60) % 7} | {k: (v * 60)[:60] for k, v in columns.items()})
    task = "multilabel" if target == "t" else None
    assert "would then come twice; rename it" in refusal(frame, target=target, task=task)


def test_a_target_that_is_dropped_is_said_to_be():
    assert "data.columns drops 'y'; leave it out" in refusal(table([1, 2]), columns={"y": "drop"})


def test_names_in_the_settings_are_compared_as_those_of_the_table_are(tmp_path):
    loose = f" {unicodedata.normalize('NFD', 'né')}\t e "
    frame = table([1.5, 2, 4]).rename(columns={"y": "né e"}).assign(g=np.arange(60) // 3)
    frame.to_csv(tmp_path / "t.csv", index=False)
    ref = str(tmp_path / "t.csv")
    plain = load(DataConfig(ref=ref, target="né e"))
    assert load(DataConfig(ref=ref, target=loose)).fingerprint == plain.fingerprint
    grouped = DataConfig(ref=ref, target=loose, split="group", group=" g ")
    assert "split by 'g'" in " ".join(load(grouped).notes)
    learnt = load(DataConfig(ref=ref, target="g", columns={loose: "drop"})).preprocessing
    assert learnt["features"] == ["c"]


def test_fractions_are_not_taken_for_bytes(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (60, 6, 6)).astype(np.uint8)
    np.savez(tmp_path / "t.npz", x=pixels, y=np.arange(60) % 3)
    fitted = load(DataConfig(ref=str(tmp_path / "t.npz"))).preprocessing
    np.savez(tmp_path / "new.npz", x=pixels / 255)
    with pytest.raises(DataError, match=r"\(up to 255\), however these are fractions from 0 to 1"):
        apply(fitted, read_rows(fitted, Path(tmp_path / "new.npz")))
    dark = np.zeros((1, 1, 6, 6))
    for some in (dark, dark + 1, pixels[:, None].astype(float)):
        assert apply(fitted, some).isfinite().all()
