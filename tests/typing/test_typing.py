"""Types survive: both checkers know what a node returns, and find the misuse of it."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]

pytestmark = pytest.mark.timeout(120)

CHECKERS = {
    "mypy": ["mypy", "--strict", "--no-incremental", "--no-error-summary", "--follow-imports=silent", "--config-file="],
    "basedpyright": ["basedpyright", "--level", "error"],
}


def complaints(checker, name):
    """The lines of a file about which a checker complains."""
    done = subprocess.run(
        [sys.executable, "-m", *CHECKERS[checker], str(HERE / name)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    found = re.findall(rf"{re.escape(name)}:(\d+):(.*)", done.stdout)
    assert found or done.returncode == 0, done.stdout + done.stderr
    return {int(line): words for line, words in found if "note:" not in words}


@pytest.mark.parametrize(
    "checker", [pytest.param(name, marks=pytest.mark.needs(name)) for name in CHECKERS], ids=list(CHECKERS)
)
def test_right_use_passes_and_wrong_use_is_found(checker):
    assert complaints(checker, "right.py") == {}
    wrong = [
        number
        for number, line in enumerate((HERE / "wrong.py").read_text().splitlines(), 1)
        if line.endswith("# wrong")
    ]
    assert sorted(complaints(checker, "wrong.py")) == wrong


def test_the_package_says_that_it_is_typed():
    assert (ROOT / "tinygraph" / "py.typed").exists()
