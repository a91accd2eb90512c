"""What is shipped is whole, and a fact about it lives once."""

import configparser
import importlib.metadata
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import tinygraph

ROOT = Path(__file__).parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
SETUP = configparser.ConfigParser()
SETUP.read(ROOT / "setup.cfg")

DEPENDENCIES = PYPROJECT["project"]["dependencies"]
EXTRAS = PYPROJECT["project"]["optional-dependencies"]


def name_of(requirement):
    return re.match(r"[\w.-]+", requirement)[0].lower()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The names in a wheel built from a copy, so that nothing is left in the repository."""
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "setup.cfg", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "tinygraph", source / "tinygraph", ignore=shutil.ignore_patterns("__pycache__"))
    build = "from setuptools import build_meta; build_meta.build_wheel('.')"
    subprocess.run([sys.executable, "-c", build], cwd=source, check=True, capture_output=True)
    (path,) = source.glob("*.whl")
    return zipfile.ZipFile(path).namelist()


def test_the_wheel_holds_every_file_of_the_package_and_nothing_else(wheel):
    ours = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "tinygraph").rglob("*")
        if path.is_file() and path.parent.name != "__pycache__"
    }
    assert "tinygraph/py.typed" in ours
    assert {name for name in wheel if ".dist-info/" not in name} == ours


def test_the_wheel_carries_the_licence(wheel):
    assert any(name.endswith("LICENSE") for name in wheel)


def test_the_version_is_one():
    assert tinygraph.__version__ == importlib.metadata.version("tinygraph") == PYPROJECT["project"]["version"]


def test_a_fact_lives_once():
    """setup.cfg says what is shipped and where imports may point; pyproject.toml says all the rest."""
    assert {"setuptools", "importlinter"}.isdisjoint(PYPROJECT["tool"])
    assert all(section.startswith(("options", "importlinter")) for section in SETUP.sections())
    assert set(SETUP["options"]) == {"packages"}


def test_requirements_have_lower_bounds_only():
    """An upper bound is a promise about other people's future."""
    everything = [*DEPENDENCIES, *(requirement for group in EXTRAS.values() for requirement in group)]
    pattern = re.compile(r"[\w.-]+>=[\d.]+|tinygraph\[[\w,]+\]")
    assert [requirement for requirement in everything if not pattern.fullmatch(requirement)] == []


def test_all_means_every_extra_of_a_user():
    (everything,) = EXTRAS["all"]
    assert set(re.search(r"\[(.+)\]", everything)[1].split(",")) == EXTRAS.keys() - {"all", "dev"}


def test_the_lock_holds_every_requirement():
    """Renew it with `make lock`."""
    locked = {name_of(line) for line in (ROOT / "requirements/ci.lock").read_text().splitlines() if "==" in line}
    wanted = {name_of(r) for r in [*DEPENDENCIES, *(r for group in EXTRAS.values() for r in group)]} - {"tinygraph"}
    assert wanted <= locked


def test_every_room_of_tests_is_a_package():
    """Two test files may then share a name, and what they define can travel to a worker."""
    rooms = {path.parent for path in (ROOT / "tests").rglob("*.py")}
    assert [room.relative_to(ROOT).as_posix() for room in rooms if not (room / "__init__.py").exists()] == []
