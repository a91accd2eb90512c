"""Ctrl-C and other signals at every step of a run: in a process of their own.

An exception that a trace function raises within an `except` block can leave that block's exception behind, as the
context of all that the process raises later: a fault of CPython 3.11, which is not to fail other tests.
"""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_signals_at_every_step():
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/interrupted.py"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stdout
