"""A program written as one file says what the registry says, and needs nothing of ours."""

import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from sklearn.datasets import load_breast_cancer

from cli import main
from ensemble import combine, portable
from ensemble.graphs import graph, rows_of
from ensemble.members import MembersError
from ensemble.portable import export_graph
from ensemble.serving import predictor
from zoo import parse, plan, train_many
from zoo.data import builtin
from zoo.errors import UsageError, ZooError
from zoo.registry import Registry

METHODS = ("mean", "geometric", "vote", "median", "trimmed-mean", "stacking", "greedy")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("portable")


@pytest.fixture(scope="module")
def registry(folder):
    with Registry(f"sqlite:///{folder}/registry.db", folder / "blobs") as opened:
        yield opened


@pytest.fixture(scope="module")
def tumours(folder):
    """Breast cancer with gaps, a category and a truth value, as CSV."""
    frame = load_breast_cancer(as_frame=True).frame.iloc[:, [0, 1, 2, 3, -1]]
    frame = frame.assign(
        size=pd.cut(frame["mean area"], [0, 420, 700, 9000], labels=["small", "medium", "large"]),
        rough=frame["mean texture"] > 19,
        target=frame["target"].map({0: "malignant", 1: "benign"}),
    )
    frame.loc[::7, "mean radius"] = np.nan
    frame.loc[::11, "size"] = np.nan
    frame.to_csv(folder / "tumours.csv", index=False)
    return folder / "tumours.csv"


@pytest.fixture(scope="module")
def members(registry, tumours):
    settings = {
        "data": {"ref": str(tumours), "target": "target", "folds": 3},
        "model": {"hidden": [8]},
        "seeds": 3,
        "train": {"epochs": 4},
        "name": "tumours",
    }
    return train_many(plan(parse(settings)), registry)


@pytest.fixture(scope="module")
def rows(tumours):
    frame = pd.read_csv(tumours).drop(columns="target")
    frame.loc[3, "size"] = "unheard of"
    return frame


def expected(registry, run, rows):
    return predictor(registry, run)(rows)[[f"p_{name}" for name in run.classes]].to_numpy()


def onnx(path, x):
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path))
    (given,) = session.run(None, {session.get_inputs()[0].name: x})
    return given, session.get_modelmeta().custom_metadata_map


@pytest.mark.parametrize("method", METHODS)
def test_a_graph_of_any_pool_says_what_predict_says(registry, members, rows, method):
    run = combine(registry, members, "predictions", method=method, name=f"by-{method}").run
    made = graph(registry, run)
    with torch.no_grad():
        given = made.module(rows_of(made.columns, rows))
    assert made.input == "rows"
    assert np.abs(given.numpy() - expected(registry, run, rows)).max() < 1e-12


def test_a_calibrated_pool_of_folds_is_one_onnx_file(registry, members, rows, tmp_path):
    options = {"calibration": "isotonic"}
    run = combine(registry, members, "predictions", options=options, name="pool").run
    told = export_graph(registry, run, tmp_path / "pool.onnx")
    assert told["checked"]["real_rows"]
    assert told["checked"]["rows"] == 256
    x = rows_of(told["input"]["columns"], rows).numpy()
    given, metadata = onnx(tmp_path / "pool.onnx", x)
    assert np.abs(given - expected(registry, run, rows)).max() < portable.TOLERANCE
    alone, _ = onnx(tmp_path / "pool.onnx", x[5:6])
    assert np.abs(alone - given[5:6]).max() < 1e-6
    assert json.loads(metadata["classes"]) == ["benign", "malignant"]
    inside = json.loads(metadata["zoo"])
    assert len(inside["members"]) == 3
    size = next(c for c in inside["input"]["columns"] if c["name"] == "size")
    assert size["categories"] == ["large", "medium", "small"]
    assert [path.name for path in tmp_path.iterdir()] == ["pool.onnx"]


def test_an_average_of_images_takes_pixels_in_their_own_unit(registry, tmp_path):
    settings = {
        "data": {"ref": "digits"},
        "model": {"name": "cnn"},
        "seeds": 2,
        "train": {"epochs": 1},
    }
    runs = train_many(plan(parse(settings)), registry)
    soup = combine(registry, runs, "weights", method="uniform", name="soup").run
    pixels = builtin.digits()[0][:50]
    export_graph(registry, soup, tmp_path / "soup.onnx")
    given, _ = onnx(tmp_path / "soup.onnx", pixels.astype(np.float32))
    assert np.abs(given - expected(registry, soup, pixels)).max() < 1e-5


def test_a_program_of_torch_runs_without_our_packages(registry, members, rows, tmp_path):
    told = export_graph(registry, members[0], tmp_path / "one.pt2")
    np.save(tmp_path / "x.npy", rows_of(told["input"]["columns"], rows).numpy())
    code = (
        "import sys; sys.modules.update(zoo=None, ensemble=None, cli=None)\n"
        "import json, numpy, torch\n"
        "extra = {'zoo.json': ''}\n"
        "program = torch.export.load('one.pt2', extra_files=extra).module()\n"
        "assert json.loads(extra['zoo.json'])['classes'] == ['benign', 'malignant']\n"
        "x = torch.from_numpy(numpy.load('x.npy'))\n"
        "assert program(x[:1]).shape == (1, 2)\n"
        "numpy.save('y.npy', program(x).detach().numpy())\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)
    given = np.load(tmp_path / "y.npy")
    assert np.abs(given - expected(registry, members[0], rows)).max() < 1e-6


def test_values_come_in_their_unit_and_times_are_left_to_the_caller(registry, tmp_path):
    rng = np.random.default_rng(0)
    days = pd.date_range("2020-01-01", periods=120, freq="D")
    frame = pd.DataFrame({"day": days, "x": rng.normal(size=120)})
    frame["price"] = 1000 + 50 * frame["x"] + 20 * np.arange(120) / 120
    frame.to_csv(tmp_path / "prices.csv", index=False)
    settings = {
        "data": {"ref": str(tmp_path / "prices.csv"), "target": "price"},
        "model": {"hidden": [4]},
        "seeds": 2,
        "train": {"epochs": 2},
        "name": "prices",
    }
    runs = train_many(plan(parse(settings)), registry)
    run = combine(registry, runs, "predictions", method="median", name="price-pool").run
    told = export_graph(registry, run, tmp_path / "prices.pt2")
    assert told["input"]["name"] == "features"
    assert told["input"]["preprocessing"] == run.preprocessing
    assert told["output"]["columns"] == ["price"]
    assert told["checked"]["real_rows"]
    (tmp_path / "prices.csv").unlink()
    told = export_graph(registry, run, tmp_path / "again.pt2")
    assert not told["checked"]["real_rows"]


def test_a_file_that_would_predict_otherwise_is_not_written(
    registry, members, tmp_path, monkeypatch
):
    monkeypatch.setattr(portable, "TOLERANCE", -1.0)
    with pytest.raises(
        ZooError, match=r"must predict as tumours.* does, .* off; export its weights"
    ):
        export_graph(registry, members[0], tmp_path / "deep" / "one.pt2")
    assert not list(tmp_path.iterdir())


def test_what_is_there_stays(registry, members, tmp_path):
    (tmp_path / "one.pt2").write_text("mine")
    with pytest.raises(UsageError, match="is there already; --force replaces it"):
        export_graph(registry, members[0], tmp_path / "one.pt2")
    assert (tmp_path / "one.pt2").read_text() == "mine"


def test_a_package_that_is_missing_is_named_with_its_extra(
    registry, members, tmp_path, monkeypatch
):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(
        UsageError, match=r"onnx is not installed; pip install 'zoo-ensemble\[onnx\]'"
    ):
        export_graph(registry, members[0], tmp_path / "one.onnx")


def test_more_weights_than_onnx_holds_are_refused_and_pt2_takes_them(
    registry, members, tmp_path, monkeypatch
):
    monkeypatch.setattr(portable, "LARGEST", 400)
    with pytest.raises(
        UsageError, match=r"ONNX file holds 0\.00 GB .* tumours.* has 0\.00 GB; export \.pt2"
    ):
        export_graph(registry, members[0], tmp_path / "large.onnx")
    assert not list(tmp_path.iterdir())
    export_graph(registry, members[0], tmp_path / "large.pt2")


class Odd(torch.nn.Module):
    def forward(self, x):
        return torch.special.ndtri(x.sigmoid())[:, :2]


class Choosy(torch.nn.Module):
    def forward(self, x):
        return x[:, :2] if x.sum() > 0 else x[:, 1:3]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (Odd, r"ONNX must know every operator .* does not know \w+\.ndtri; export \.pt2"),
        (Choosy, r"tumours.* cannot be traced: .*; export its weights"),
    ],
)
def test_a_model_that_no_graph_expresses_is_refused(
    registry, members, tmp_path, monkeypatch, body, message
):
    monkeypatch.setattr("ensemble.graphs.restored", lambda *_: body())
    with pytest.raises(UsageError, match=message):
        export_graph(registry, members[0], tmp_path / "odd.onnx")
    assert not list(tmp_path.iterdir())


def test_a_run_without_weights_is_refused(registry, members, tmp_path):
    empty = members[0].__class__(**{**vars(members[0]), "metrics": {}, "status": "failed"})
    with pytest.raises(MembersError, match=r"only trained models predict, .* is failed; train"):
        export_graph(registry, empty, tmp_path / "none.pt2")


def test_the_command_takes_one_run(registry, members, folder, tmp_path):
    place = ["--registry", f"sqlite:///{folder}/registry.db", "--blobs", str(folder / "blobs")]
    asked = ["export", "tumours", "-o", str(tmp_path / "all.pt2"), *place]
    result = CliRunner().invoke(main, asked)
    assert result.exit_code == 2
    assert "a program is of the best weights of one run" in result.stderr
    asked[1] = members[1].id
    result = CliRunner().invoke(main, asked)
    assert result.exit_code == 0, result.output
    assert result.stdout == f"{tmp_path / 'all.pt2'}\n"
    assert "on 256 rows of its data" in result.stderr
