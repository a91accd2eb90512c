"""A store of its own for each test, with a key of its own."""

import pytest

from tinygraph import Store


@pytest.fixture(autouse=True)
def key(monkeypatch, tmp_path):
    """The key of a user who is nobody else: tests leave the one of the person who runs them alone."""
    monkeypatch.setenv("TINYGRAPH_STORE_KEY", "a key that only tests have")


@pytest.fixture
def store(tmp_path):
    """A store that is empty."""
    return Store(tmp_path / "store")
