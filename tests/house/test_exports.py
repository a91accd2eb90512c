"""The front door is the list: what is public stands in `__all__`, and is explained."""

import importlib
import inspect
import pkgutil
import subprocess
import sys
import types

import pytest

import tinygraph

MODULES = ["tinygraph", *(module.name for module in pkgutil.walk_packages(tinygraph.__path__, "tinygraph."))]


def public_names(module):
    """What of ours one can reach without an underscore, apart from the rooms themselves."""
    for name, value in vars(module).items():
        owner = getattr(value, "__module__", None) or type(value).__module__
        if not name.startswith("_") and not isinstance(value, types.ModuleType) and owner.startswith("tinygraph"):
            yield name


def is_explained(value):
    """Classes and functions carry their own text; a constant or an instance is explained by its class."""
    return inspect.isclass(value) or inspect.isroutine(value)


def public_members(cls):
    """The methods and properties that the class itself, or a room of ours above it, defines for its user."""
    for owner in cls.__mro__:
        if owner.__module__.partition(".")[0] == "tinygraph":
            for name, member in vars(owner).items():
                if not name.startswith("_") and (inspect.isroutine(member) or isinstance(member, property)):
                    yield name, getattr(cls, name)


def test_the_front_door_is_the_list():
    reached = [getattr(tinygraph, name) for name in tinygraph.__all__]  # some come when they are asked for
    assert len(reached) == len(set(tinygraph.__all__))
    assert set(public_names(tinygraph)) <= set(tinygraph.__all__)
    assert tinygraph.__all__ == sorted(tinygraph.__all__, key=str.casefold)


def test_a_star_import_brings_the_list():
    namespace = {}
    exec("from tinygraph import *", namespace)
    assert namespace.keys() - {"__builtins__"} == set(tinygraph.__all__)


def test_opening_every_room_changes_no_public_name():
    """A function and its room may share a name (`run`); importing the room must not put the module in its place."""
    script = f"""
import importlib, tinygraph
before = {{name: getattr(tinygraph, name) for name in tinygraph.__all__}}
for name in {MODULES}:
    importlib.import_module(name)
changed = [name for name, value in before.items() if getattr(tinygraph, name) is not value]
assert not changed, changed
"""
    subprocess.run([sys.executable, "-W", "error", "-c", script], check=True)


@pytest.mark.parametrize("name", tinygraph.__all__)
def test_every_public_thing_shows_an_example(name):
    thing = getattr(tinygraph, name)
    text = inspect.getdoc(thing) or ""
    assert text, f"tinygraph.{name} has no docstring"
    if is_explained(thing):
        assert ">>> " in text, f"the docstring of tinygraph.{name} shows no example"


@pytest.mark.parametrize("name", [name for name in tinygraph.__all__ if inspect.isclass(getattr(tinygraph, name))])
def test_every_public_method_has_a_docstring(name):
    members = public_members(getattr(tinygraph, name))
    assert [member for member, value in members if not inspect.getdoc(value)] == []


@pytest.mark.parametrize("name", MODULES)
def test_every_module_opens_with_a_sentence(name):
    text = importlib.import_module(name).__doc__
    assert text, f"{name} has no docstring"
    first = text.strip().split("\n\n")[0]
    assert first.rstrip().endswith((".", ":", "?")), f"{name} opens with {first!r}, which is no sentence"


def test_no_junk_drawer():
    """A file is named after what the reader comes for."""
    assert {name.rpartition(".")[2] for name in MODULES}.isdisjoint({"common", "helpers", "misc", "util", "utils"})
