"""What every test may count on: the marker `needs`, and Hypothesis without a clock."""

import importlib.util
import os
import shutil

import hypothesis
import pytest

IN_CI = bool(os.environ.get("CI"))

# A deadline would measure time, which no test does. In CI equal runs try equal examples.
hypothesis.settings.register_profile("house", deadline=None, derandomize=IN_CI)
hypothesis.settings.load_profile("house")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test marked `needs("name")` where that module or program is missing; in CI fail it.

    A skip is kind to a user who did not install every extra. In CI it would make a broken installation look green.
    """
    missing = [name for mark in item.iter_markers("needs") for name in mark.args if not is_here(name)]
    if missing:
        refuse = pytest.fail if IN_CI else pytest.skip
        refuse(f"needs {', '.join(missing)}: see CONTRIBUTING.md, 'Set up'")


def is_here(name: str) -> bool:
    """Say whether `name` is a module that can be found, or a program on the path."""
    return importlib.util.find_spec(name) is not None or shutil.which(name) is not None
