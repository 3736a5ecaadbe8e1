"""The house rules that imports and names can be checked for."""

import ast
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
KNOWS_ZOO = {
    "averaging",
    "entries",
    "estimators",
    "scratch",
    "classes",
    "distillation",
    "exporting",
    "graphs",
    "portable",
    "files",
    "inference",
    "healing",
    "likeness",
    "members",
    "merging",
    "objects",
    "outcome",
    "products",
    "sources",
    "students",
    "supplies",
    "teachers",
    "comparison",
    "figures",
    "pool_text",
    "learners",
    "pools",
    "snapshots",
    "costs",
    "entrants",
    "longer",
    "repeats",
    "report",
    "scoreboard",
    "standings",
    "serving",
    "text",
    "commands",
}
KNOWS_NUMPY = {"dtypes", "elementwise", "workers"}
LIBRARIES = {  # that arithmetic is left to
    "matching": {"scipy"},
    "blending": {"scipy"},
    "calibration": {"scipy", "sklearn"},
    "metalearner": {"sklearn"},
    "significance": {"scipy"},
    "statistics": {"scipy"},
    "ranks": {"numpy"},
}
AT_ITS_HEAD = {"estimators": {"sklearn"}}  # base classes are needed there; it is imported lazily
IMPORTS = (ast.Import, ast.ImportFrom)
MODULES = [*sorted((ROOT / "zoo").rglob("*.py")), *sorted((ROOT / "ensemble").rglob("*.py"))]


def imported(path: Path) -> set[str]:
    """Top-level names that a file imports, inside functions too."""
    return names_in(ast.parse(path.read_text()))


def names_in(tree: ast.AST) -> set[str]:
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.partition(".")[0])
    return names


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_imports_run_from_cli_to_ensemble_to_zoo(path):
    names = imported(path)
    assert "cli" not in names
    if path.is_relative_to(ROOT / "zoo"):
        assert "ensemble" not in names
    elif path.stem not in KNOWS_ZOO:
        library = {"numpy"} if path.stem in KNOWS_NUMPY else {"torch"}
        library |= LIBRARIES.get(path.stem, set())
        assert names - {"ensemble"} - library <= sys.stdlib_module_names


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_libraries_that_take_seconds_to_import_are_imported_where_they_are_used(path):
    tree = ast.parse(path.read_text())
    at_once = ast.Module([node for node in tree.body if isinstance(node, IMPORTS)], [])
    slow = {"matplotlib", "mlflow", "scipy", "sklearn", "tensorboard"} - AT_ITS_HEAD.get(
        path.stem, set()
    )
    assert not names_in(at_once) & slow


@pytest.mark.parametrize("package", ["zoo", "ensemble"])
def test_every_exported_name_is_there_and_is_not_a_module(package):
    module = importlib.import_module(package)
    for name in module.__all__:
        assert not isinstance(getattr(module, name), type(sys)), name
    assert sorted(module.__all__) == list(module.__all__)
    with pytest.raises(AttributeError, match="nonsense"):
        _ = module.nonsense


@pytest.mark.parametrize("package", ["zoo", "ensemble"])
def test_exported_names_are_the_lazily_imported_ones(package):
    module = importlib.import_module(package)
    tree = ast.parse((ROOT / package / "__init__.py").read_text())
    typed = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(f"{package}.")
        for alias in node.names
    }
    assert typed == set(module.__all__) == set(module._HOMES)


@pytest.mark.parametrize(
    "command", [["--help"], ["list", "--help"], ["list"], ["train-many", "-h"]]
)
def test_commands_that_do_not_compute_do_not_import_torch(command, tmp_path):
    from zoo.registry import Registry

    url, blobs = f"sqlite:///{tmp_path}/registry.db", tmp_path / "blobs"
    Registry(url, blobs).close()
    code = (
        "import sys; from cli import main\n"
        f"try: main({command!r})\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "heavy = {'torch', 'numpy', 'pandas', 'sklearn'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    environment = {"ZOO_REGISTRY": url, "ZOO_BLOBS": str(blobs), "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)


def test_files_can_be_held_in_the_head():
    long = {
        path.name: lines
        for path in [*MODULES, ROOT / "cli.py"]
        if (lines := len(path.read_text().splitlines())) > 350
    }
    assert not long


@pytest.mark.parametrize("package", ["zoo", "ensemble"])
def test_the_map_names_every_module_once(package):
    page = (ROOT / "docs/architecture.md").read_text()
    section = page.partition(f"\n### {package}\n")[2].partition("\n###")[0]
    rows = re.findall(r"^\| .*? \| (`.*) \|$", section, re.MULTILINE)
    named = [name for row in rows for name in re.findall(r"`(.*?)`", row)]
    there = [path.stem for path in (ROOT / package).glob("*.py") if path.stem != "__init__"]
    there += [f"{path.parent.name}/" for path in (ROOT / package).glob("*/__init__.py")]
    assert sorted(named) == sorted(there)
