"""A user's own models: found by name, run only where trusted, and told where they are wrong."""

import json
import sys
import textwrap

import pytest
import torch
from click.testing import CliRunner
from torch import nn

from cli import main
from zoo import models, usercode
from zoo.config import parse
from zoo.errors import ConfigError, UntrustedError
from zoo.usercode import EVERYTHING, trusting

NET = """
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self, inputs, width, outputs):
            super().__init__()
            self.body = nn.Sequential(nn.Flatten(), nn.Linear(inputs, width), nn.Tanh())
            self.head = nn.Linear(width, outputs)

        def forward(self, x):
            return self.head(self.body(x))

    def build(shape, outputs, *, width: int = 8):
        return Net(torch.Size(shape).numel(), width, outputs)
"""


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Write a file in the working directory; return its name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(usercode, "_TRUSTED", {EVERYTHING})

    def write(text, name="net.py"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(textwrap.dedent(text))
        return name

    return write


@pytest.fixture
def strict(write, monkeypatch):
    """As ``write``, but nothing is trusted."""
    monkeypatch.setattr(usercode, "_TRUSTED", set())
    return write


def refused(name, given=None, kind=ConfigError):
    with pytest.raises(kind) as caught:
        models.build(name, given or {}, (4,), 3, seed=0)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Found by name


def test_a_factory_in_a_file_is_built_from_its_options_and_the_seed(write):
    name = f"{write(NET)}:build"
    assert models.options(name, {}) == {"width": 8}
    one, same, other = (models.build(name, {"width": 5}, (2, 2), 3, s) for s in (7, 7, 8))
    assert one.head.weight.shape == (3, 5)
    assert torch.equal(one.head.weight, same.head.weight)
    assert not torch.equal(one.head.weight, other.head.weight)
    models.check_outputs(one, (2, 2), 3)


def test_importing_a_file_leaves_the_path_and_the_folder_as_they_were(write, tmp_path):
    before = list(sys.path)
    models.build(f"{write(NET)}:build", {}, (4,), 3, 0)
    assert sys.path == before
    assert [path.name for path in tmp_path.iterdir()] == ["net.py"]
    assert "net" not in sys.modules


def test_files_of_one_name_do_not_meet_and_an_edited_file_is_read_again(write):
    one, other = write(NET, "a/net.py"), write(NET.replace("width: int = 8", "w=3"), "b/net.py")
    assert models.options(f"{one}:build", {}) == {"width": 8}
    assert models.options(f"{other}:build", {}) == {"w": 3}
    write(NET.replace("= 8", "= 9"), "a/net.py")
    assert models.options(f"{one}:build", {}) == {"width": 9}


def test_a_factory_in_a_package_is_found_and_may_be_a_class(write, tmp_path, monkeypatch):
    write("", "users_package/__init__.py")
    write(
        NET + "\n    class Flat(nn.Linear):\n"
        "        def __init__(self, shape, outputs, bias=True):\n"
        "            super().__init__(shape[0], outputs, bias)\n",
        "users_package/nets.py",
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert models.options("users_package.nets:Flat", {}) == {"bias": True}
    assert models.build("users_package.nets:Flat", {"bias": False}, (4,), 3, 0).bias is None


def test_options_are_checked_where_annotated_and_otherwise_as_json(write):
    name = (
        write(
            """
        from __future__ import annotations
        from torch import nn

        def build(shape, outputs, free=None, *, sizes: tuple[int, ...] = (1, 2), rate: float = 0,
                  mode: int | list[int] = 0, need: str, **rest):
            assert isinstance(sizes, tuple)
            return nn.Linear(shape[0], outputs)
        """
        )
        + ":build"
    )
    full = {"free": None, "sizes": [1, 2], "rate": 0.0, "mode": 0, "need": "x"}
    assert models.options(name, {"need": "x"}) == full
    assert models.options(name, full) == full
    nested = {"a": [1, {"b": None}]}
    assert models.options(name, {"need": "x", "free": nested})["free"] == nested
    models.build(name, {"need": "x", "sizes": [3]}, (4,), 3, 0)
    message = refused(name, {"sizes": [1, "2"], "rate": "x", "mode": "x", "free": {1}, "other": 1})
    for fault in (
        "model.sizes.1: should be a valid integer, however it is '2'",
        "model.rate: should be a valid number, however it is 'x'",
        "model.mode: should be a valid integer or should be a valid list, however it is 'x'",
        "model.free: should be a value that JSON can hold, however it is {1}",
        f"model.other: {name} has no such option",
        f"model.need: is required by {name}",
    ):
        assert fault in message


@pytest.mark.parametrize(
    ("signature", "says"),
    [
        (
            "shape",
            "must take (shape, outputs) and options of types that JSON can hold, however: it",
        ),
        ("*, shape, outputs", "however: it takes (*, shape, outputs)"),
        ("*all, outputs=1", "however: it takes (*all, outputs=1)"),
        ("shape, outputs, *more", "*more cannot be given by name"),
        ("shape, outputs, width=8, /", "width=8 cannot be given by name"),
        ("shape, outputs, name='x'", "an option called 'name' would hide the model's"),
        ("shape, outputs, width: int = None", "model.width: should be a valid integer, however it"),
        ("shape, outputs, act=print", "model.act: should be a value that JSON can hold"),
        ("shape, outputs, act: 'Unheard' = 1", "name 'Unheard' is not defined"),
    ],
)
def test_a_signature_that_a_config_cannot_fill_is_refused(write, signature, says):
    assert says in refused(f"{write(f'def build({signature}): pass')}:build")


# Failures


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("gone.py:build", "gone.py: cannot be read: No such file"),
        ("unheard.of:build", "there is no module 'unheard'; install it, or name its file as"),
        ("zoo.unheard:build", "there is no module 'zoo.unheard'"),
        ("net.py:buildd", "net.py:buildd: has no 'buildd'; did you mean 'build'?"),
        ("net.py:torch", "must be a function (shape, outputs, **options) -> module, however it is"),
        (":build", "must be package.module:factory or path/to/file.py:factory, however it is"),
        ("net.py:", "must be package.module:factory or path/to/file.py:factory, however it is"),
    ],
)
def test_a_name_that_leads_nowhere_is_refused_with_the_reason(write, name, says):
    write(NET)
    message = refused(name)
    assert message.startswith("model.name: ")
    assert says in message


@pytest.mark.parametrize(
    ("text", "says", "line"),
    [
        ("import torch\n\nimport unheard_of\n", "cannot be imported: ModuleNotFoundError: No", 3),
        ("x = 1\n1 / 0\n", "cannot be imported: ZeroDivisionError: division by zero", 2),
        ("import sys\nsys.exit(0)\n", "cannot be imported: SystemExit: 0", 2),
        ("def build(shape, outputs):\n    return (\n", "cannot be imported: SyntaxError: '('", 2),
        (
            "from torch import nn\n\ndef build(shape, outputs):\n    return nn.Linear(-1, 2)\n",
            "must build a module, however it raised RuntimeError: Trying to create tensor",
            4,
        ),
        (
            "def inner():\n    raise KeyError('x')\n\ndef build(shape, outputs):\n    inner()\n",
            "must build a module, however it raised KeyError: 'x'",
            2,
        ),
    ],
)
def test_a_defect_in_the_users_code_is_named_with_file_and_line(write, tmp_path, text, says, line):
    message = refused(f"{write(text)}:build")
    assert says in message
    assert message.endswith(f" (at {tmp_path / 'net.py'}:{line})")
    assert refused("net.py:build") == message  # nothing half imported is kept


def test_what_is_not_a_module_is_refused(write):
    name = write("def build(shape, outputs):\n    return 3\n")
    assert refused(f"{name}:build").endswith(
        "must return a torch.nn.Module, however it returned int"
    )


def test_a_fault_in_forward_is_named_with_file_and_line(write, tmp_path):
    name = write(NET.replace("self.head(self.body(x))", "self.head(x.view(7, -1))"))
    module = models.build(f"{name}:build", {}, (4,), 3, 0)
    with pytest.raises(ConfigError, match=r"must take samples \(2, 4\)") as caught:
        models.check_outputs(module, (4,), 3)
    assert str(caught.value).endswith(f"(at {tmp_path / 'net.py'}:12)")


# Registered in Python


def test_a_function_registered_in_python_is_a_model_and_may_be_defined_anew(monkeypatch):
    monkeypatch.setattr(models, "BUILDERS", dict(models.BUILDERS))
    for default in (3, 4):

        @models.model
        def mine(shape, outputs, *, width=default):
            return nn.Linear(shape[0], outputs)

        assert models.options("mine", {}) == {"width": default}
    with pytest.raises(ConfigError, match="did you mean 'mine'"):
        models.options("mint", {})


# Trust

SPY = "import pathlib; pathlib.Path('imported').touch()\n" + textwrap.dedent(NET)


def test_code_that_is_not_trusted_is_not_run(strict, tmp_path):
    name = f"{strict(SPY)}:build"
    message = refused(name, kind=UntrustedError)
    assert repr(name) in message
    assert "--trust" in message
    with pytest.raises(UntrustedError):
        parse({"data": {"ref": "iris"}, "model": {"name": name}})
    assert not (tmp_path / "imported").exists()
    assert UntrustedError.exit_code == 4


def test_trust_is_in_one_factory_of_one_file_wherever_it_is_named_from(strict, monkeypatch):
    strict(SPY, "a/net.py")
    strict(SPY, "b/net.py")
    models.trust("a/net.py:build")
    models.build("a/net.py:build", {}, (4,), 3, 0)
    for other in ("b/net.py:build", "a/net.py:Net", "a.net:build"):
        refused(other, kind=UntrustedError)
    monkeypatch.chdir("a")
    models.build("net.py:build", {}, (4,), 3, 0)
    monkeypatch.chdir("../b")
    refused("net.py:build", kind=UntrustedError)


def test_trust_within_a_block_ends_with_it(strict):
    name = f"{strict(NET)}:build"
    with trusting(name):
        models.build(name, {}, (4,), 3, 0)
    refused(name, kind=UntrustedError)


# On the command line

IRIS = ["--data", "iris", "--seeds", "2", "--set", "train.epochs=2"]


@pytest.fixture
def zoo(strict, monkeypatch):
    """Run a command in a folder with ``net.py``."""
    strict(SPY)
    for name in ("ZOO_REGISTRY", "ZOO_BLOBS", "ZOO_TRUST"):
        monkeypatch.delenv(name, raising=False)

    def run(*arguments, code=0, **environment):
        result = CliRunner(env=environment).invoke(main, list(arguments), catch_exceptions=False)
        assert result.exit_code == code, result.output
        return result

    return run


def test_a_users_model_is_trained_shown_combined_and_compared(zoo, tmp_path):
    zoo("train-many", "--model", "net.py:build", "--set", "model.width=5", *IRIS)
    runs = json.loads(zoo("list", "--format", "json").stdout)["rows"]
    assert [run["run"] for run in runs] == ["iris-net.build/seed=0", "iris-net.build/seed=1"]
    shown = json.loads(zoo("show", "iris-net.build@best", "--format", "json").stdout)
    assert '"model": {"name": "net.py:build", "width": 5}' in json.dumps(shown)

    (tmp_path / "imported").unlink()
    for command in (["ensemble", "--mode", "weights"], ["compare"]):
        refusal = zoo(*command, code=4)
        assert refusal.stderr.startswith("Error: model.name: code runs only where it is trusted")
    zoo("list")
    zoo("show", "iris-net.build@best")
    zoo("compare", code=4, ZOO_TRUST="0")
    assert not (tmp_path / "imported").exists()

    zoo("ensemble", "--mode", "weights", "--trust")
    zoo("compare", ZOO_TRUST="1")
    zoo("compare", code=4)


def test_a_file_that_names_code_is_refused_without_trust(zoo, tmp_path):
    (tmp_path / "own.toml").write_text('data.ref = "iris"\nmodel.name = "net.py:build"')
    zoo("train-many", "own.toml", "--dry-run", code=4)
    assert not (tmp_path / "imported").exists()
    zoo("train-many", "own.toml", "--dry-run", "--trust")


def test_code_named_by_a_setting_on_the_command_line_is_trusted_by_being_typed(zoo):
    zoo("train-many", "--set", "model.name=mlp,net.py:build", *IRIS, "--dry-run")
