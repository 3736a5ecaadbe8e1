import tomllib

import pytest
from click.testing import CliRunner
from pydantic import BaseModel

from cli import main
from zoo import models
from zoo.config import RunConfig, parse
from zoo.outline import outline
from zoo.schema import FOUND


def filled(text):
    """Return the file with every default that it tells as a setting."""
    lines = [line.partition("  # ")[0] for line in text.splitlines() if not line.startswith("# ")]
    pairs = [line.lstrip("#").strip() for line in lines]
    return "\n".join(pair for pair in pairs if pair and not pair.endswith("="))


@pytest.mark.parametrize("model", models.BUILDERS)
def test_the_defaults_it_tells_are_the_defaults(model):
    text = outline({"ref": "digits"}, {"name": model, **models.options(model, {})})
    told = tomllib.loads(filled(text).replace('"optim.lr" = [1e-3, 3e-3]', ""))
    plain = parse({"data": {"ref": "digits"}, "model": {"name": model}})
    assert parse(told) == plain
    assert parse(tomllib.loads(text)) == plain
    assert max(map(len, text.splitlines())) <= 80


def test_it_has_every_key():
    text = outline({"ref": "digits"}, {"name": "mlp", **models.options("mlp", {})})
    sections = text.split("\n[")
    for section, field in RunConfig.model_fields.items():
        (written,) = [part for part in sections if part.startswith(f"{section}]")]
        kind = type(field.default) if isinstance(field.default, BaseModel) else field.annotation
        for key in kind.model_fields:
            assert (f"{key} =" in written) == (f"{section}.{key}" not in FOUND), key


def test_the_command_prints_or_writes_it_and_overwrites_nothing(tmp_path):
    run = CliRunner().invoke
    asked = ["init", "--data", "a b.csv", "--target", "price", "--model", "cnn"]
    printed = run(main, asked)
    assert printed.exit_code == 0
    assert tomllib.loads(printed.output)["data"] == {"ref": "a b.csv", "target": "price"}
    several = tomllib.loads(run(main, [*asked, "--target", "rent"]).output)
    assert several["data"]["target"] == ["price", "rent"]
    assert "#channels = [16, 32]" in printed.output
    path = tmp_path / "zoo.toml"
    assert run(main, ["init", str(path)]).exit_code == 0
    before = path.read_bytes()
    again = run(main, ["init", str(path), "--model", "cnn"])
    assert again.exit_code == 2
    assert again.output == f"Error: {path}: cannot be written: File exists; name another\n"
    assert path.read_bytes() == before
    assert run(main, ["train-many", str(path), "--dry-run"]).exit_code == 0


def test_a_model_that_is_not_there_is_refused():
    done = CliRunner().invoke(main, ["init", "--model", "mpl"])
    assert done.exit_code == 2
    assert "did you mean 'mlp'" in done.output
