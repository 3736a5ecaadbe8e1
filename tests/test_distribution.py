"""What is released has everything that is needed at run time, and nothing else."""

import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("zoo", "ensemble")
FILES = ("cli.py", "pyproject.toml", "README.md", "LICENSE", "MANIFEST.in")
CACHES = shutil.ignore_patterns("__pycache__")


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The sdist, and the wheel that is built from it, without any network."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for package in (*PACKAGES, "tests"):
        shutil.copytree(ROOT / package, source / package, ignore=CACHES)
    for name in FILES:
        shutil.copy(ROOT / name, source)
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (sdist,), (wheel,) = out.glob("*.tar.gz"), out.glob("*.whl")
    return sdist, wheel


@pytest.fixture(scope="module")
def sources():
    """Every file of the packages: modules, migrations, templates, py.typed."""
    files = [path for package in PACKAGES for path in (ROOT / package).rglob("*") if path.is_file()]
    names = {path.relative_to(ROOT).as_posix() for path in files if "__pycache__" not in path.parts}
    assert {"zoo/py.typed", "ensemble/py.typed", "ensemble/templates/report.html"} < names
    return names | {"cli.py"}


def test_the_wheel_that_the_sdist_builds_has_every_file_of_the_packages(built, sources):
    with zipfile.ZipFile(built[1]) as wheel:
        inside = {name for name in wheel.namelist() if ".dist-info/" not in name}
        assert inside == sources
        for name in sources:
            assert wheel.read(name) == (ROOT / name).read_bytes(), name


def test_the_wheel_tells_its_command_its_licence_and_its_readme(built):
    with zipfile.ZipFile(built[1]) as wheel:
        told = {Path(n).name: wheel.read(n).decode() for n in wheel.namelist() if "dist-info" in n}
    assert "zoo = cli:main" in told["entry_points.txt"]
    assert told["LICENSE"] == (ROOT / "LICENSE").read_text()
    assert told["METADATA"].endswith((ROOT / "README.md").read_text())


def test_the_sdist_has_what_builds_the_wheel_and_no_tests(built, sources):
    with tarfile.open(built[0]) as sdist:
        inside = {name.partition("/")[2] for name in sdist.getnames()}
    assert sources | set(FILES) < inside
    assert not [name for name in inside if name.startswith("tests")]
