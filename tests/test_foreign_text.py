"""What somebody else wrote is shown, not obeyed: by terminals, spreadsheets or browsers."""

import csv
import io
import json
import re
import sqlite3
import unicodedata

import pytest
import torch
from click.testing import CliRunner

from cli import main
from zoo.exchange.card import readme
from zoo.printable import escaped, printable
from zoo.registry import NewRun, Registry
from zoo.render import render

EVIL = "a\x1b[2J\x07\x9b31m\u202eb\u2028\u200bc\x00d\U000e0041"
FORMULAS = ["=1+1", "+1", "-1+1", "@SUM(A1)", "\t=1", "\uff1d1", " =1"]


def obeyed(text):
    """Find what a terminal obeys, beside line ends."""
    return [
        c for c in text if c != "\n" and unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp")
    ]


@pytest.fixture
def zoo(tmp_path, monkeypatch):
    """A registry in which somebody gave names and settings of their own making."""
    monkeypatch.chdir(tmp_path)
    new = NewRun(
        name="victim",
        config={"data": {"ref": EVIL}, EVIL: EVIL, "train": {"epochs": 1}},
        config_hash="c",
        task="regression",
        preprocessing={"target": {"names": [EVIL]}},
        data_ref=EVIL,
        data_fingerprint=EVIL,
        split_hash="s",
        seed=0,
    )
    with Registry("sqlite:///zoo/r.db", "zoo/b") as registry:
        (run,) = registry.add([new])
        registry.record([{"run_id": run.id, "epoch": 1, "train_loss": 1.0, "val_loss": 1.0}])
        registry.publish(run.id, {"w": torch.ones(1)}, epoch=1, epochs=1, metrics={EVIL: 1.0},
                         seconds=1.0)  # fmt: skip
    with sqlite3.connect("zoo/r.db") as database:
        database.execute("UPDATE run SET name = ?, error = ?", (EVIL, EVIL))
    database.close()
    environment = {"ZOO_REGISTRY": "sqlite:///zoo/r.db", "ZOO_BLOBS": "zoo/b"}

    def invoke(*arguments):
        result = CliRunner(env=environment).invoke(main, arguments)
        assert result.exception is None or isinstance(result.exception, SystemExit), arguments
        return result

    invoke.id = run.id
    return invoke


@pytest.mark.parametrize("form", ["table", "json", "csv", "markdown"])
@pytest.mark.parametrize("command", ["list", "show"])
def test_no_control_character_reaches_a_terminal(zoo, command, form):
    result = zoo(command, *([zoo.id] if command == "show" else []), "--format", form)
    assert result.exit_code == 0
    assert "31m" in result.output or (command, form) in (("show", "csv"), ("show", "markdown"))
    assert not obeyed(result.output)


@pytest.mark.parametrize(
    "command",
    [
        ["show", "@ID", "--curves"],
        ["compare", "@ID"],
        ["list", EVIL + "x"],
        ["export", "@ID", "-o", "out", "--template", "{name}"],
        ["import", "zoo", "--name", EVIL],
        ["import", f"missing{EVIL.replace(chr(0), '')}.pt", "--name", "a"],
        ["push", "@ID", "--to-registry", "sqlite:///x/r.db", "--to-blobs", "x/b"],
        ["ensemble", "@ID", "--mode", "predictions"],
    ],
)
def test_no_error_carries_a_control_character(zoo, command):
    result = zoo(*(zoo.id if word == "@ID" else word for word in command))
    assert result.output
    assert not obeyed(result.output)


def test_json_loses_nothing_by_it(zoo):
    (row,) = json.loads(zoo("list", "--format", "json").stdout)["rows"]
    assert row["name"] == EVIL


@pytest.mark.parametrize("text", ["\x9b", "\U000e0041", "\u2028", "\x7f", "\ud800"])
def test_an_escaped_character_is_read_back(text):
    written = escaped(json.dumps([text], ensure_ascii=False))
    assert written.isascii()
    assert json.loads(written) == [text]


def test_letters_of_every_language_stay_as_they_are():
    text = "modèle-模型-модель-نموذج-नमूना é"
    assert printable(text) == text


@pytest.mark.parametrize("text", FORMULAS)
def test_a_spreadsheet_takes_no_cell_for_a_formula(text):
    written = render([{"name": text, text: text, "loss": -0.5}], ["name", text, "loss"], "csv")
    head, cells = csv.reader(io.StringIO(written))
    for cell in (head[1], cells[0], cells[1]):
        assert not re.match(r"\s*[=+\-@\uff1d\uff0b\uff0d\uff20]", cell)
    assert cells[2] == "-0.5"


def test_markdown_carries_no_html_and_no_cells_of_its_own():
    written = render([{"name": "<script>alert(1)</script>|x"}], ["name"], "markdown")
    assert "<" not in written
    assert "&lt;script&gt;alert(1)&lt;/script&gt;\\|x" in written


def test_a_model_card_holds_no_markup_of_a_name(tmp_path):
    evil = 'x\n---\nbase_model: ["y"]\n<img src=x onerror=alert(1)>[a](javascript:b)|`'
    new = NewRun(
        name="named",
        config={"model": {"name": evil}},
        config_hash="c",
        task="classification",
        data_ref=evil,
        data_fingerprint="f",
        split_hash="s",
        classes=[evil],
    )
    with Registry(f"sqlite:///{tmp_path}/r.db", tmp_path / "b") as registry:
        (run,) = registry.add([new])
        kept = registry.publish(
            run.id,
            {"w": torch.ones(1)},
            epoch=1,
            epochs=1,
            metrics={evil: 1.0, "val_loss": 1.0},
            seconds=1.0,
        )
    text = readme(registry_run(tmp_path), kept, "a.safetensors", {})
    assert text.count("\n---\n") == 1
    assert "<img" not in text
    assert not re.search(r"(?<!\\)[\[\]|`]", text.split("classes |")[1].splitlines()[0][:-1])
    _, front, _ = text.split("---\n", 2)
    assert [line.partition(": ")[0] for line in front.splitlines()] == [
        "license",
        "library_name",
        "tags",
        "metrics",
        "datasets",
        "model-index",
    ]
    assert all(json.loads(line.partition(": ")[2]) for line in front.splitlines())


def registry_run(folder):
    with Registry(f"sqlite:///{folder}/r.db", folder / "b") as registry:
        return registry.run("named")
