"""Files: every format gives the same table, whole or in portions; every fault has its message."""

import bz2
import codecs
import contextlib
import gzip
import json
import lzma
import os
import re
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import polars
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ensemble import combine, compare
from zoo import Registry, continuation, parse, plan, train_many
from zoo.data import apply, delimited, files, load, opening, read_chunks, read_rows
from zoo.errors import DataError, MismatchError
from zoo.sections import DataConfig

ROWS = 80


@pytest.fixture
def frame():
    """A table with a column of every kind, gaps in most, and letters beyond ASCII."""
    i = np.arange(ROWS)
    return pd.DataFrame(
        {
            "area": np.where(i % 9 == 0, np.nan, i * 0.5),
            "rooms": i % 7,
            "town": pd.Series(["Köln", "Bari", None, "東京"] * (ROWS // 4), dtype=object),
            "new": i % 3 == 0,
            "sold": pd.Timestamp("2023-11-30") + pd.to_timedelta(i * 31, unit="h"),
            "price": i * 3.25 + (i % 5),
        }
    )


def config(path, **options):
    return DataConfig(ref=str(path), target="price", **options)


def refusal(path, **options):
    with pytest.raises(DataError) as caught:
        load(config(path, **options))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def same(one, other):
    """Tell whether two loaded data sets are the same in all that is learnt from."""
    return (
        one.fingerprint == other.fingerprint
        and one.split_hash == other.split_hash
        and torch.equal(one.train.x, other.train.x)
        and torch.equal(one.test.y, other.test.y)
    )


def json_lines(frame, path):
    path.write_bytes(frame.to_json(orient="records", lines=True, date_format="iso").encode())


def compressed(frame, path, squeeze):
    path.write_bytes(squeeze(frame.to_csv(index=False).encode()))


WRITERS = {
    "semicolons.csv": lambda f, p: f.to_csv(p, index=False, sep=";"),
    "tabs.tsv": lambda f, p: f.to_csv(p, index=False, sep="\t"),
    "bars.txt": lambda f, p: f.to_csv(p, index=False, sep="|"),
    "mark.csv": lambda f, p: f.to_csv(p, index=False, encoding="utf-8-sig"),
    "utf16.csv": lambda f, p: f.to_csv(p, index=False, encoding="utf-16"),
    "be.csv": lambda f, p: p.write_bytes(
        codecs.BOM_UTF16_BE + f.to_csv(index=False).encode("utf-16-be")
    ),
    "crlf.csv": lambda f, p: f.to_csv(p, index=False, lineterminator="\r\n"),
    "cr.csv": lambda f, p: f.to_csv(p, index=False, lineterminator="\r"),
    "quoted.csv": lambda f, p: f.to_csv(p, index=False, quoting=1),
    "t.csv.gz": lambda f, p: compressed(f, p, gzip.compress),
    "t.csv.bz2": lambda f, p: compressed(f, p, bz2.compress),
    "t.csv.xz": lambda f, p: compressed(f, p, lzma.compress),
    "t.csv.zst": lambda f, p: compressed(f, p, pa.Codec("zstd").compress),
    "t.parquet": lambda f, p: f.to_parquet(p, index=False),
    "t.feather": lambda f, p: pyarrow.feather.write_feather(f, p),
    "t.jsonl": json_lines,
    "t.ndjson.gz": lambda f, p: p.write_bytes(
        gzip.compress(f.to_json(orient="records", lines=True, date_format="iso").encode())
    ),
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_the_table_that_the_frame_gives(frame, tmp_path, name):
    WRITERS[name](frame, tmp_path / name)
    assert same(load(config(tmp_path / name)), load(config("any"), frame))


@pytest.mark.parametrize("name", WRITERS)
def test_portions_hold_the_cells_that_the_whole_file_holds(frame, tmp_path, name, monkeypatch):
    path = tmp_path / name
    WRITERS[name](frame, path)
    data = load(config(path))
    monkeypatch.setattr(files, "PORTION", 700)
    whole = read_rows(data.preprocessing, path)
    portions = list(read_chunks(data.preprocessing, path, rows=7))
    assert max(map(len, portions)) <= 7
    assert sum(map(len, portions)) == len(whole) == ROWS
    assert pd.concat(portions).index.tolist() == whole.index.tolist() == list(range(ROWS))
    apart = torch.cat([apply(data.preprocessing, portion) for portion in portions])
    assert torch.equal(apart, apply(data.preprocessing, whole))
    assert torch.equal(apart, apply(data.preprocessing, frame))


def test_a_stream_of_arrow_and_a_frame_with_its_interface_are_read(frame, tmp_path):
    table = pa.Table.from_pandas(frame)
    with pa.ipc.new_stream(str(tmp_path / "t.arrows"), table.schema) as writer:
        writer.write_table(table, max_chunksize=30)
    known = load(config("any"), frame)
    assert same(load(config(tmp_path / "t.arrows")), known)
    assert same(load(config("any"), table), known)
    assert same(load(config("any"), frame.convert_dtypes(dtype_backend="pyarrow")), known)


def test_a_frame_of_polars_is_read(frame):
    theirs = polars.from_arrow(pa.Table.from_pandas(frame))
    assert same(load(config("any"), theirs), load(config("any"), frame))


def test_quotes_hold_marks_lines_and_quotes_in_a_cell(tmp_path):
    path = tmp_path / "t.csv"
    cells = ['"a, b"', '"two\nlines"', '"say ""no"""', "5' 3\""]
    rows = "".join(f"{cells[i % 3]},{i % 8},{i}.5\n" for i in range(40))
    path.write_text("what,n,price\n" + rows)
    assert load(config(path)).preprocessing["columns"][0]["categories"] == [
        "a, b",
        'say "no"',
        "two\nlines",
    ]
    path.write_text("what,n,price\n" + rows + f"{cells[3]},1,1.5\n")
    frame = files.read(path, {})
    assert frame["what"].tolist()[-1] == "5' 3\""


def test_what_was_declared_is_left_as_it_is_written(tmp_path):
    path = tmp_path / "t.csv"
    rows = "".join(f"{('007', 'NA', '1.0', '')[i % 4]},{i % 8},x,{i}.5\n" for i in range(60))
    path.write_text("code,n,junk,price\n" + rows)
    data = load(config(path, columns={"code": "categorical", "n": "categorical", "junk": "drop"}))
    code, n = data.preprocessing["columns"]
    assert code["categories"] == ["007", "1.0", "NA"]
    assert code["missing"]
    assert n["categories"] == list("01234567")
    assert "'junk' was dropped, as data.columns asks" in " ".join(data.notes)
    for read in (read_rows(data.preprocessing, path), *read_chunks(data.preprocessing, path)):
        assert read["code"].tolist()[:3] == ["007", "NA", "1.0"]
    plain = load(config(path))
    assert [c["kind"] for c in plain.preprocessing["columns"]] == ["numeric", "numeric"]
    assert "did you mean 'code'?" in refusal(path, columns={"cod": "drop"})


def test_a_declared_column_must_hold_what_was_declared(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("x,z,price\n" + "".join(f"{i},w{i % 3},{i}.5\n" for i in range(40)))
    assert "'z' must hold numbers, however row 1 holds 'w0'" in refusal(
        path, columns={"z": "numeric"}
    )
    assert "'z' must hold True or False" in refusal(path, columns={"z": "boolean"})
    assert "'z' must hold times such as" in refusal(path, columns={"z": "datetime"})


def test_json_lines_keep_text_that_looks_like_a_time_where_it_is_declared(tmp_path):
    path = tmp_path / "t.jsonl"
    rows = [{"d": f"2020-01-0{i % 3 + 1}", "x": i % 9, "price": i + 0.5} for i in range(40)]
    path.write_text("\n".join(map(json.dumps, rows)))
    data = load(config(path, columns={"d": "categorical"}))
    assert data.preprocessing["columns"][0]["categories"] == [f"2020-01-0{i}" for i in "123"]
    assert read_rows(data.preprocessing, path)["d"][0] == "2020-01-01"


BAD = {
    "latin.csv": ("x,price\n1,é\n".encode("latin-1"), "must be UTF-8 text, however byte 10 is not"),
    "cut.csv.gz": (gzip.compress(b"x,price\n" * 999)[:-20], "not written to its end"),
    "cut.csv.xz": (lzma.compress(b"x,price\n" * 999)[:-20], "not written to its end"),
    "cut.parquet": (b"PAR1 and nothing more", "cannot be read"),
    "cut.feather": (b"ARROW1\0\0 and nothing more", "cannot be read"),
    "book.xlsx": (b"PK\3\4 and so on", "an archive or a workbook"),
    "array.json": (b'[{"x": 1, "price": 2}]', "JSON lines, one object per row"),
    "mixed.jsonl": (b'{"x": 1}\n{"x": "a"}\n', "changed from number to string in row 1"),
    "empty.jsonl": (b"", "has no rows"),
    "nested.jsonl": (b'{"x": [1], "price": 2}\n' * 20, "'x' must hold .* list<item: int64>"),
    "twice.csv": (b"a,b,a,price\n1,2,3,4\n", "'a' comes more than once; rename it"),
    "short.csv": (b"x,z,price\n1,2,3\n1,2\n", "line 3 has 2"),
    "long first.csv": (b"x,price\n1,2,3\n", "line 2 has 3"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_refused_in_one_line(tmp_path, name):
    content, message = BAD[name]
    (tmp_path / name).write_bytes(content)
    found = refusal(tmp_path / name)
    assert re.search(message, found), found
    assert name in found or "'x'" in found


def test_the_line_of_a_fault_is_named_in_portions_too(frame, tmp_path, monkeypatch):
    path = tmp_path / "t.csv"
    frame.to_csv(path, index=False)
    known = load(config(path)).preprocessing
    monkeypatch.setattr(files, "PORTION", 700)
    with path.open("a") as file:
        file.write("1,2,3\n")
    with pytest.raises(DataError, match=rf"line {ROWS + 2} has 3"):
        list(read_chunks(known, path, rows=7))
    frame.assign(area=frame["area"].astype(object).where(frame.index != 70, "big")).to_csv(path)
    with pytest.raises(DataError, match="'area' must hold numbers, however row 71 holds 'big'"):
        list(read_chunks(known, path, rows=7))


def test_a_file_that_is_written_meanwhile_is_refused(frame, tmp_path, monkeypatch):
    path = tmp_path / "t.csv"
    frame.to_csv(path, index=False)
    plain = opening.portions

    def slow(*args, **options):
        for portion in plain(*args, **options):
            os.truncate(path, path.stat().st_size + 10)
            yield portion

    monkeypatch.setattr(files, "portions", slow)
    assert "must stay as it is while it is read" in refusal(path)


def test_thousands_of_columns_and_categories_are_read(tmp_path):
    random = np.random.default_rng(0)
    wide = pd.DataFrame(random.normal(size=(60, 1500)).round(3)).add_prefix("x")
    wide.assign(price=random.normal(size=60)).to_csv(tmp_path / "wide.csv", index=False)
    data = load(config(tmp_path / "wide.csv"))
    assert data.shape == (1500,)
    assert any("1500 numeric columns as 1500 features" in note for note in data.notes)
    assert len(data.notes) < 10
    many = pd.DataFrame({"zip": [f"z{i // 2:05}" for i in range(6_000)], "x": 1.0})
    many = many.assign(x=random.normal(size=6_000), price=random.normal(size=6_000))
    data = load(config("many"), many)
    assert data.preprocessing["features"] == ["x"]
    assert any("data.columns can keep the most frequent" in note for note in data.notes) or any(
        "name rows" in note for note in data.notes
    )
    data = load(config("many", columns={"zip": "categorical"}), many)
    assert data.shape == (1001,)
    assert any("the 1000 most frequent are learnt from" in note for note in data.notes)


@pytest.mark.parametrize(
    ("head", "mark"),
    [
        ("a,b\n1,2\n", ","),
        ("a;b\n1,5;2,5\n3;4\n", ";"),
        ('"a;b",c\n1,2\n', ","),
        ("price, EUR|n\n1|2\n3|4\n", "|"),
        ("a\tb,c\n1\t2\n3\t4\n", "\t"),
        ("alone\n1\n", ","),
        ("", ","),
    ],
)
def test_the_mark_between_cells_is_found(head, mark):
    assert delimited.delimiter(head) == mark


SOME = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=3),
    st.datetimes(),
    st.sampled_from(["2024-01-01", "2024-01-01T10:00Z", "2024-13-01", "1", "true", b"\xff", (1,)]),
    st.decimals(),
    st.complex_numbers(),
    st.dates(),
    st.timedeltas(),
)
COLUMNS = st.one_of(
    st.lists(SOME, min_size=1, max_size=5),
    *(st.lists(kind, min_size=1, max_size=30) for kind in (st.integers(-5, 99), st.booleans())),
    st.lists(st.floats(-9, 9), min_size=8, max_size=30),
    st.lists(st.datetimes(), min_size=2, max_size=9),
    st.lists(st.sampled_from("abc"), min_size=2, max_size=9),
)


@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_any_frame_gives_data_or_a_refusal_and_nothing_else(drawn):
    count = drawn.draw(st.sampled_from([0, 12, 40]))
    frame = pd.DataFrame(
        {
            name: [pool[i * i % len(pool)] for i in range(count)]
            for name in ("x", 2, "y")
            if (pool := drawn.draw(COLUMNS))
        }
    )
    options = {
        "columns": drawn.draw(
            st.dictionaries(
                st.sampled_from("x2y"),
                st.sampled_from(["numeric", "categorical", "boolean", "datetime", "drop"]),
                max_size=2,
            )
        ),
        "scaling": drawn.draw(st.sampled_from(["standard", "robust", "quantile"])),
    }
    try:
        data = load(DataConfig(ref="drawn", target="y", **options), frame)
    except DataError as error:
        message = str(error)
        data = None
    if data is None:
        assert "\n" not in message
        return
    assert all(part.x.isfinite().all() for part in (data.train, data.val, data.test))
    again = json.loads(json.dumps(data.preprocessing, allow_nan=False))
    assert apply(again, frame).isfinite().all()


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.one_of(st.binary(max_size=60), st.text(',;\t|"\n\r aé1.{}[]', max_size=60).map(str.encode)),
    st.sampled_from(["t.csv", "t.jsonl", "t.parquet", "t.csv.gz"]),
    st.sampled_from([b"", b"x,price\n", b'{"x": 1}\n', b"\x1f\x8b", b"PAR1", b"\xff\xfe"]),
)
def test_any_bytes_give_data_or_a_refusal_and_nothing_else(content, name, start):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(start + content)
        with pytest.raises(DataError) as caught:
            load(config(path))
        assert "\n" not in str(caught.value)
        kinds = {"kind": "table", "columns": [{"name": "x", "kind": "numeric"}]}
        with contextlib.suppress(DataError):
            list(read_chunks(kinds, path, rows=2))


def test_a_zoo_is_planned_on_a_frame_that_the_reference_only_names(frame):
    asked = parse({"data": {"ref": "houses", "target": "price"}, "seeds": 2})
    planned = plan(asked, frame=frame)
    assert same(planned.data, load(config("elsewhere"), frame))
    assert {request.data_ref for request in planned.requests} == {"houses"}
    assert planned.requests[0].preprocessing == planned.data.preprocessing
    with pytest.raises(DataError, match="frame of pandas, polars or Arrow, however it is a list"):
        plan(asked, frame=[1, 2])
    with pytest.raises(DataError, match="'a' comes more than once"):
        plan(asked, frame=pd.DataFrame([[1, 2]], columns=["a", " a"]))
    with pytest.raises(DataError, match="its columns are 'area', 'rooms'"):
        load(DataConfig(ref="houses"), frame)


def test_a_zoo_of_a_frame_is_trained_combined_compared_and_continued(frame, tmp_path):
    asked = {"data": {"ref": "houses", "target": "price"}, "seeds": 2, "train": {"epochs": 2}}
    with Registry(f"sqlite:///{tmp_path}/r.db", tmp_path / "blobs") as registry:
        runs = train_many(plan(parse(asked), frame=frame), registry)
        combine(registry, runs, "predictions", frame=frame)
        assert len(compare(registry, registry.runs(), frame=frame).rows) == 4
        more = continuation(registry, ["houses-mlp"], 1, {}, None, frame=frame)
        assert len(train_many(more, registry)) == 2
        with pytest.raises(DataError, match="'houses' is neither"):
            compare(registry, registry.runs())
        changed = frame.assign(area=1.0)
        with pytest.raises(MismatchError, match="content of houses has changed"):
            continuation(registry, ["houses-mlp"], 1, {}, None, frame=changed)
