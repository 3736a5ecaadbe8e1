"""Every page: its programs and commands run as they stand, in order, in a folder of its own."""

import io
import json
import random
import re
import shlex
import tomllib
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file
from sklearn.datasets import load_digits

from cli import main
from zoo import Registry, models, parse, plan, train_many

ROOT = Path(__file__).parents[1]
TEXTS = {
    path.relative_to(ROOT).as_posix(): path.read_text()
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
}
BLOCK = re.compile(r"^```(python|console|toml)\n(.*?)^```", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"# (\S+\.(?:py|toml))\n")
PAGES = [name for name, text in TEXTS.items() if BLOCK.search(text)]


def call(line):
    """Run a command as it stands on a page; return what it printed."""
    program, *arguments = shlex.split(line.removeprefix("$ "))
    assert program == "zoo"
    result = CliRunner().invoke(main, arguments, catch_exceptions=False)
    assert result.exit_code == 0, f"{line}\n{result.output}"
    return result.stdout


def run(page, names):
    """Run a page's blocks in order, as one session; return what each line and program printed.

    A block whose first line is a comment with a file's name is written to that file.
    """
    told = []
    for language, block in BLOCK.findall(TEXTS[page]):
        if language == "toml":
            tomllib.loads(block)
        if file := FILE.match(block):
            Path(file[1]).write_text(block)
        elif language == "console":
            told += map(call, block.splitlines())
        elif language == "python":
            with redirect_stdout(io.StringIO()) as out:
                exec(compile(block, page, "exec"), names)
            told.append(out.getvalue())
    return told


def houses():
    """A table with numbers, gaps and a category, and a price that follows of them."""
    random.seed(0)
    lines = ["area,rooms,town,price"]
    for _ in range(200):
        area, rooms, town = random.uniform(40, 200), random.randint(1, 6), random.choice("ABC")
        price = 1000 * area + 5000 * rooms + random.gauss(0, 9000)
        lines.append(f"{area:.1f},{rooms if random.random() < 0.9 else ''},{town},{price:.0f}")
    Path("houses.csv").write_text("\n".join(lines))
    return {}


def houses_and_patients():
    houses()
    lines = ["patient,age,outcome"]
    lines += [f"{i // 3},{i * 37 % 80},{'ab'[i % 2]}" for i in range(90)]
    Path("patients.csv").write_text("\n".join(lines))
    asked = {"data": {"ref": "houses.csv", "target": "price"}, "seeds": 1, "train": {"epochs": 1}}
    with Registry("sqlite:///mine/registry.db", "mine/blobs") as registry:
        (run,) = train_many(plan(parse(asked)), registry)
    return {"run": run, "path": Path("houses.csv")}


def trained(line):
    def prepare():
        call(f"zoo train-many {line} --set train.epochs=3")
        return {}

    return prepare


def digits_and_rows():
    trained("--data digits --seeds 3")()
    np.save("rows.npy", load_digits().images[:10])
    return {}


def checkpoint():
    state = models.build("mlp", {"hidden": [8]}, (4,), 3, seed=0).state_dict()
    torch.save({"epoch": 3, "state_dict": {f"model.{k}": v for k, v in state.items()}}, "last.ckpt")
    return {}


def files():
    Path("shards").mkdir()
    for name, value in {"a": 0.0, "b": 4.0, "c": 1.0, "shards/x": 0.0}.items():
        save_file({"w": torch.tensor([value, 2.0])}, f"{name}.safetensors")
    index = {"weight_map": {"w": "x.safetensors"}}
    Path("shards/model.safetensors.index.json").write_text(json.dumps(index))
    return {}


PREPARED = {  # what must be there first; returns the names that the page's programs find
    "README.md": houses,
    "docs/training.md": houses,
    "docs/data.md": houses_and_patients,
    "docs/comparison.md": trained("--data iris --seeds 2"),
    "docs/exchange.md": checkpoint,
    "docs/files.md": files,
    "docs/predictions.md": digits_and_rows,
    "docs/scaling.md": lambda: {"__name__": "__main__"},
    "docs/serving.md": lambda: {"__name__": "served"},
}


def compared(told):
    assert any("For the cost of one model, ship" in each for each in told)
    assert "<!DOCTYPE html>" in Path("report.html").read_text()


def estimated(told):
    score, folds = told[0].splitlines()
    assert float(score.split()[0]) > 0.9
    assert all(float(each) > 0.9 for each in folds.strip("[]").split())


def averaged_files(told):
    assert "swa.safetensors\n" in told
    assert load_file("median.safetensors")["w"].tolist() == [1.0, 2.0]
    assert load_file("weighted.safetensors")["w"].tolist() == [1.0, 2.0]
    assert load_file("swa.safetensors")["w"].tolist() == [2.0, 2.0]
    assert load_file("merged/x.safetensors")["w"].dtype == torch.bfloat16


def averaged(told):
    (line,) = [each for each in told if "naive" in each]
    _, naive, aligned = map(float, re.findall(r"\d+\.\d+", line))
    assert aligned < naive
    assert load_file("merged/part-2.safetensors")["b"].tolist() == [2.0] * 4


def scaled(told):
    assert told[-1] == "{'finished'}\n"


def served(told):
    probabilities = [
        shares
        for each in told
        if len(shares := [float(x) for x in re.findall(r"\d\.\d+(?:e-\d+)?", each)]) == 3
    ]
    assert sum(probabilities[0]) == pytest.approx(1)


def tracked(told):
    *again, best = told[-1].splitlines()
    assert again == [str(["unchanged"] * 4)] * 2
    assert re.fullmatch(r"iris-mlp/optim\.lr=0\.01,seed=[01] 0\.\d+", best)


RIGHT = {  # what must hold of what was printed and written
    "docs/comparison.md": compared,
    "docs/estimators.md": estimated,
    "docs/files.md": averaged_files,
    "docs/recipes.md": averaged,
    "docs/scaling.md": scaled,
    "docs/serving.md": served,
    "docs/trackers.md": tracked,
}


@pytest.fixture
def alone(tmp_path, monkeypatch):
    """A folder, an environment and a catalogue of models that no page shares with another."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(models, "BUILDERS", dict(models.BUILDERS))
    monkeypatch.delenv("ZOO_REGISTRY", raising=False)
    monkeypatch.delenv("ZOO_BLOBS", raising=False)


@pytest.mark.filterwarnings(
    "ignore:The ``noload`` loader strategy",  # SQLAlchemy's, by MLflow
    "ignore:.*isinstance.treespec, LeafSpec.*",  # Lightning's own
    "ignore:.*does not have many workers.*",
    "ignore:The number of training batches",
    "ignore:Checkpoint directory .* exists and is not empty",
)
@pytest.mark.parametrize("page", [page for page in PAGES if page != "docs/registry.md"])
def test_every_block_runs_in_order(page, alone):
    told = run(page, PREPARED.get(page, dict)())
    assert told
    if page in RIGHT:
        RIGHT[page](told)


def test_the_page_on_the_registry_runs_with_postgresql_and_s3(
    postgres, s3, alone, tmp_path, monkeypatch
):
    monkeypatch.setenv("ZOO_REGISTRY", postgres)
    monkeypatch.setenv("ZOO_BLOBS", s3)
    run("docs/registry.md", {})
    rows = json.loads(call("zoo list --format json"))["rows"]
    assert [row["status"] for row in rows] == ["finished", "finished"]
    assert list(tmp_path.iterdir()) == []


def test_fences_are_of_a_kind_that_runs_or_that_only_shows():
    for page, text in TEXTS.items():
        kinds = {kind for kind in re.findall(r"^```(.*)$", text, re.MULTILINE) if kind}
        assert kinds <= {"python", "console", "toml", "text", "sh"}, page
