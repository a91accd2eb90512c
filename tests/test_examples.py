"""What the examples promise: their results, their pictures and their options, wherever they are started from.

That each of them runs as it stands is tested in `house/test_docs.py`. Here they run as copies, so that the pictures of
the repository stay as they are.
"""

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
PNG = b"\x89PNG"


@pytest.fixture
def start(tmp_path):
    """Start a copy of an example from another folder, as its reader would; return the finished process."""
    shutil.copytree(EXAMPLES, tmp_path / "examples", ignore=shutil.ignore_patterns("__pycache__"))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()

    def start(name, *arguments):
        return subprocess.run(
            [sys.executable, "-W", "error", tmp_path / "examples" / name, *arguments],
            cwd=elsewhere,
            check=False,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )

    return start


def example(name):
    """Import an example without starting it."""
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.needs("pygraphviz")
@pytest.mark.parametrize(("arguments", "picture"), [((), "pydot"), (("-gv", "pydot"), "pydot"), (("-gv", "nx"), "nx")])
def test_the_pipeline_says_its_result_and_draws_its_picture(start, tmp_path, arguments, picture):
    done = start("pipeline.py", *arguments)
    assert done.returncode == 0, done.stderr
    assert "-60" in done.stdout
    assert f"images/{picture}_graph.png" in done.stdout
    assert (tmp_path / "images" / f"{picture}_graph.png").read_bytes().startswith(PNG)


@pytest.mark.needs("pygraphviz")
def test_the_pipeline_is_drawn_the_same_again(start, tmp_path):
    """Its picture is kept in the repository: what was measured must not change it with every run."""
    picture = tmp_path / "images" / "pydot_graph.png"
    drawn = set()
    for _ in range(2):
        start("pipeline.py")
        drawn.add(picture.read_bytes())
    assert len(drawn) == 1


def test_the_pipeline_refuses_another_engine(start):
    done = start("pipeline.py", "-gv", "crayon")
    assert done.returncode == 2
    assert "usage:" in done.stderr
    assert "'pydot', 'nx'" in done.stderr


def test_seven_steps_are_done_in_four(start):
    """
    A ──┬─► B ──► F ────┐
        ├─► C ──┬───────┼──► G
        │       ▼       │
        └─► D ─►E ──────┘
    """
    done = start("parallel_execution.py", "--seconds", "0.01")
    assert done.returncode == 0, done.stderr
    assert "workers need: 7 5 4" in done.stdout
    assert "Result: 108" in done.stdout
    assert "Time:" in done.stdout


def test_parts_are_used_twice(start):
    done = start("grandpa.py")
    assert done.returncode == 0, done.stderr
    assert "remainder(23, 10) = 3" in done.stdout
    assert "remainder(5, 10) = 5" in done.stdout
    assert done.stdout.count("        remainder\n") == 2


def test_a_part_works_alone():
    grandpa = example("grandpa")
    assert grandpa.remainder(23, 10).resolve(executor="inline") == 3
    assert grandpa.remainder(grandpa.remainder(123, 100), 10).resolve(executor="inline") == 3
    assert grandpa.last_digits(second=14).resolve(executor="inline") == (3, 4)


@pytest.mark.needs("pygraphviz")
def test_the_census_prints_a_table_and_draws_its_picture(start, tmp_path):
    done = start("census.py", "--limit", "1", "--workers", "2")
    assert done.returncode == 0, done.stderr
    assert "single modules" in done.stdout
    assert "Imported by the most files" in done.stdout
    assert (tmp_path / "images" / "census.png").read_bytes().startswith(PNG)


def test_the_census_compares_workers(start):
    done = start("census.py", "--limit", "1", "--compare")
    assert done.returncode == 0, done.stderr
    assert "times as fast (median of 1)" in done.stdout


def test_the_census_is_resumed(start):
    """First all runs, then nothing; a changed helper runs what it touches; half a run is not lost."""
    done = start("resume.py", "--limit", "4")
    chapters = re.findall(r"^  (first|again|edited|resumed) .*ran +(.*)\n +found +(.*)$", done.stdout, re.MULTILINE)
    assert [name for name, _, _ in chapters] == ["first", "again", "edited", "resumed"], done.stdout
    ran = {name: dict(counts(ran)) for name, ran, _ in chapters}
    found = {name: dict(counts(found)) for name, _, found in chapters}
    files = ran["first"]["measure"]
    assert files > 100
    assert found["first"] == {}
    assert ran["again"] == {"census": 1}
    assert "measure" not in ran["edited"]
    assert found["edited"] == {"measure": files}
    assert "package: helper `added` in census.py changed" in done.stdout
    assert ran["resumed"].get("measure", 0) + found["resumed"].get("measure", 0) in (0, files)


def counts(told):
    return [(name, int(count)) for count, name in re.findall(r"(\d+) (\w+)", told.replace(",", ""))]


def test_the_census_counts_right(tmp_path):
    """A package, a folder in it, a module beside it, and a file that is no Python."""
    (tmp_path / "tools" / "deep").mkdir(parents=True)
    (tmp_path / "tools" / "one.py").write_text("import os\n\ndef f():\n    def g():\n        pass\n")
    (tmp_path / "tools" / "deep" / "two.py").write_text("import os.path\nfrom json import loads\nclass C:\n    pass\n")
    (tmp_path / "tools" / "odd.py").write_text("print 'hello'\n")
    (tmp_path / "alone.py").write_text("from . import tools\nasync def h(): pass\n")

    packages, (counts, imports, longest) = example("census").census([tmp_path], None).resolve(executor="inline")

    assert packages["tools"][0] == {"files": 2, "lines": 9, "functions": 2, "classes": 1, "unparsable": 1}
    assert packages["single modules"][0] == {"files": 1, "lines": 2, "functions": 1}
    assert counts == {"files": 3, "lines": 11, "functions": 3, "classes": 1, "unparsable": 1}
    assert imports == {"os": 2, "json": 1}
    assert [(lines, name, path.name) for lines, name, path in longest[:2]] == [(3, "f", "one.py"), (2, "g", "one.py")]


def test_the_census_does_not_depend_on_the_workers():
    census = example("census")
    one = census.census([census.LIBRARY], 2).resolve(executor="processes", workers=1)
    assert census.census([census.LIBRARY], 2).resolve(executor="processes", workers=2) == one
