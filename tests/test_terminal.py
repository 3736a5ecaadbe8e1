"""What is printed fits a terminal; pipes get whole lines."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from zoo.printable import wrapped
from zoo.render import LISTED, render

ROOT = Path(__file__).parents[1]
LONG = "a-long-name-of-a-zoo-of-networks"
ROWS = [
    {"run": f"{LONG}/optim.lr={lr},model.hidden=[64,64],seed={seed}", "id": "1b2c3d4e5f60"}
    | {"status": "finished", "best_epoch": 12, "val": "accuracy 0.9649"}
    for lr in (0.001, 0.003)
    for seed in (0, 1)
]


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    """Run a command in a folder, in a terminal of 80 columns or with pipes; give what it prints."""
    folder = tmp_path_factory.mktemp("terminal")
    kept = {key: value for key, value in os.environ.items() if key not in ("COLUMNS", "LINES")}
    environment = {**kept, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "TERM": "xterm"}
    environment["ZOO_REGISTRY"] = f"sqlite:///{folder}/r.db"
    environment["ZOO_BLOBS"] = str(folder / "blobs")

    def run(*arguments, terminal=True):
        command = [sys.executable, str(ROOT / "cli.py"), *arguments]
        if not terminal:
            done = subprocess.run(command, env=environment, cwd=folder, capture_output=True)
            assert done.returncode == 0, done.stderr
            return done.stdout.decode()
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        process = subprocess.Popen(
            command, env=environment, cwd=folder, stdin=theirs, stdout=theirs, stderr=theirs
        )
        os.close(theirs)
        printed = b""
        with suppress(OSError):  # the other end is closed
            while read := os.read(ours, 65536):
                printed += read
        os.close(ours)
        assert process.wait() == 0, printed
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", printed.decode()).replace("\r\n", "\n")

    return run


def test_a_training_and_its_list_fit_80_columns(zoo):
    grid = ["--set", "optim.lr=1e-3,3e-3", "--set", "model.hidden=[8,8],[16]"]
    asked = ["--data", "breast_cancer", "--seeds", "2", *grid, "--set", "train.epochs=2"]
    trained = zoo("train-many", *asked, "--name", LONG)
    assert trained.count("finished") == 8
    again = zoo("train-many", *asked, "--name", LONG, terminal=False)
    assert max(map(len, again.splitlines())) > 80
    pooled = zoo("ensemble", LONG, "--mode", "predictions")
    shown = [zoo("list"), zoo("status", LONG), zoo("show", f"{LONG}@best"), zoo("doctor")]
    for printed in (trained, pooled, *shown):
        lines = [part for line in printed.splitlines() for part in line.split("\r")]
        assert max(map(len, lines)) <= 80, printed
    names = {line.split()[0] for line in zoo("list", terminal=False).splitlines()[2:]}
    assert f"{LONG}/optim.lr=0.001,model.hidden=[8,8],seed=0" in names


def test_predictions_have_six_digits_for_people_and_all_for_programs(zoo, tmp_path):
    x_N2 = np.random.default_rng(0).normal(size=(60, 2))
    table = pd.DataFrame(x_N2, columns=["a", "b"]).assign(y=3e6 + 1e3 * x_N2[:, 0])
    table.to_csv(tmp_path / "t.csv", index=False)
    path = str(tmp_path / "t.csv")
    zoo("train-many", "--data", path, "--target", "y", "--seeds", "1", "--set", "train.epochs=2")
    predict = ("predict", "t-mlp", path)
    shown = [line for line in zoo(*predict).splitlines() if re.fullmatch(r"[\d.]+", line)]
    piped = zoo(*predict, terminal=False).splitlines()[1:]
    assert len(shown) == len(piped) == 60
    assert shown == [f"{float(line):.0f}" for line in piped]
    assert any(len(line) > 10 for line in piped)


@pytest.mark.parametrize("width", [60, 80, 100])
def test_a_table_loses_nothing_where_its_names_are_wrapped(width):
    text = render(ROWS, LISTED, "table", width)
    assert max(map(len, text.splitlines())) <= width
    first = text.splitlines()[1].split("  ")[0]
    told = "".join(line[: len(first)].rstrip() for line in text.splitlines()[2:])
    assert told == "".join(row["run"] for row in ROWS)


def test_a_table_that_fits_or_cannot_fit_stays_as_it_is():
    whole = render(ROWS, LISTED, "table")
    assert render(ROWS, LISTED, "table", 200) == whole
    figures = [{"a": 1234567.0, "b": 7654321.0}]
    assert render(figures, ["a", "b"], "table", 10) == render(figures, ["a", "b"], "table")
    for form in ("csv", "json", "markdown"):
        assert render(ROWS, LISTED, form, 40) == render(ROWS, LISTED, form)
    assert render([], LISTED, "table", 20) == render([], LISTED, "table")


def test_lines_break_between_words_and_names_stay_whole():
    line = f"Error: no run is called {ROWS[0]['run']}; zoo list names all there are"
    assert wrapped(line, None) == line
    assert " ".join(wrapped(line, 40).split()) == line
    assert ROWS[0]["run"] in wrapped(line, 40)
    assert wrapped(f"{'two ' * 3}\n  {'in dented ' * 3}", 12) == (
        "two two two\n  in dented\n  in dented\n  in dented"
    )
