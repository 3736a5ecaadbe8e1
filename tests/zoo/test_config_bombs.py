"""Settings that are too much: a line that says so, at once, and no memory is taken for them."""

import time
from pathlib import Path

import pytest

from zoo.config import parse
from zoo.errors import ConfigError
from zoo.settings import assignments, parse_value, read

IRIS = {"data": {"ref": "iris"}}


@pytest.mark.parametrize(
    "text",
    [
        "a = " + "[" * 100_000 + "]" * 100_000,
        "a = " + "{b = " * 100_000 + "1" + "}" * 100_000,
        "a" + ".a" * 100_000 + " = 1",
        "[a" + ' . "a"' * 100_000 + "]",
        "a = '" + "x" * (1 << 20) + "'",
    ],
    ids=["lists", "tables", "key", "heading", "size"],
)
def test_a_file_that_is_too_large_or_too_deep_is_refused_at_once(tmp_path, text):
    bomb = tmp_path / "bomb.toml"
    bomb.write_text(text)
    start = time.process_time()
    with pytest.raises(ConfigError, match=r"bomb\.toml: settings are at most .* or nest deeper"):
        read(bomb)
    assert time.process_time() - start < 2


def test_a_key_may_be_there_once(tmp_path):
    double = tmp_path / "double.toml"
    double.write_text("[data]\nref = 'iris'\n[optim]\nlr = 0.1\nlr = 0.2\n")
    with pytest.raises(ConfigError, match=r"double\.toml: is not TOML: .* \(at line 5"):
        read(double)


def test_a_device_is_not_read_to_its_end():
    with pytest.raises(ConfigError, match="/dev/zero: settings are at most"):
        read(Path("/dev/zero"))


@pytest.mark.parametrize("depth", [100, 300, 450])
def test_settings_of_any_depth_are_refused_in_a_line(tmp_path, depth):
    deep = tmp_path / "deep.toml"
    deep.write_text(f"[data]\nref = 'iris'\n[model]\nhidden = {'[' * depth}{']' * depth}\n")
    with pytest.raises(ConfigError, match=r"model\.hidden|nest deeper"):
        parse(read(deep))


def test_a_deep_value_on_the_command_line_is_refused():
    deep = "[" * 900 + "]" * 900
    with pytest.raises(ConfigError, match="takes values separated by commas"):
        assignments([f"model.hidden={deep}"])
    assert parse_value(deep) == deep


def test_a_grid_of_more_runs_than_a_zoo_has_is_refused():
    grid = {f"optim.option{key}": [*range(100)] for key in range(9)}
    with pytest.raises(ConfigError, match="at most 100000 runs, however 8" + "0" * 18):
        parse({**IRIS, "grid": grid})
