"""Importing is silent, cheap and harmless."""

import importlib.metadata
import json
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import tinygraph

MODULES = ["tinygraph", *(module.name for module in pkgutil.walk_packages(tinygraph.__path__, "tinygraph."))]

# Parts of the standard library that cost more to import than all of tinygraph, or exist to do what an import must not.
HEAVY = {
    "asyncio",
    "concurrent.futures.process",
    "ctypes",
    "email",
    "http",
    "multiprocessing",
    "socket",
    "sqlite3",
    "ssl",
    "subprocess",
    "unittest",
    "urllib.request",
    "xml",
}

# What an import could leave behind. A view that this system cannot give is left out on both sides.
LOOK = '''
import gc, os, random, signal, sys, threading, warnings

def listed(path):
    try:
        return sorted(os.listdir(path))
    except OSError:
        return None

def opened():
    """What our open files are; by what they point at, because looking opens one, too."""
    found = []
    for number in listed("/proc/self/fd") or ():
        try:
            found.append(os.readlink(f"/proc/self/fd/{number}"))
        except OSError:
            pass
    return sorted(found)

def look():
    return {
        "threads": [thread.name for thread in threading.enumerate()],
        "tasks": listed("/proc/self/task"),
        "children": [open(f"/proc/self/task/{task}/children").read() for task in listed("/proc/self/task") or ()],
        "files": opened(),
        "here": listed("."),
        "cwd": os.getcwd(),
        "environ": dict(os.environ),
        "path": list(sys.path),
        "argv": list(sys.argv),
        "hooks": [repr(hook) for hook in (sys.excepthook, sys.displayhook, threading.excepthook, sys.unraisablehook)],
        "finders": [repr(finder) for finder in sys.meta_path],
        "tracing": [repr(sys.gettrace()), repr(sys.getprofile())],
        "signals": [repr(signal.getsignal(number)) for number in sorted(signal.valid_signals())],
        "warnings": [repr(entry) for entry in warnings.filters],
        "random": repr(random.getstate()),
        "recursion": sys.getrecursionlimit(),
        "collector": [gc.isenabled(), gc.get_threshold()],
    }
'''


def in_fresh_interpreter(script, cwd, *flags):
    """Run `script` alone, with every warning an error, and return what it gave to stdout and stderr."""
    command = [sys.executable, "-B", "-W", "error", *flags, "-c", script]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    """What the world looked like before and after, and what the import loaded.

    `-S` keeps site-packages away, whose start-up files may load what they like.
    """
    script = f"""{LOOK}
import json
sys.path.insert(0, {str(Path(tinygraph.__file__).parents[1])!r})
before, loaded = look(), set(sys.modules)
import tinygraph
after, loaded = look(), sorted(set(sys.modules) - loaded)
print(json.dumps([before, after, loaded]))
"""
    out, _ = in_fresh_interpreter(script, tmp_path_factory.mktemp("import"), "-S")
    return json.loads(out)


def test_importing_changes_nothing(imported):
    before, after, _ = imported
    assert after == before


def test_importing_loads_nothing_of_others(imported):
    """Every dependency waits until it is needed, so that the import costs what our own files cost."""
    *_, loaded = imported
    roots = {name.partition(".")[0] for name in loaded}
    assert roots - set(sys.stdlib_module_names) == {"tinygraph"}


def test_importing_loads_nothing_heavy(imported):
    *_, loaded = imported
    assert HEAVY.intersection(loaded) == set()


def test_importing_says_nothing(tmp_path):
    assert in_fresh_interpreter("import tinygraph", tmp_path) == ("", "")


@pytest.mark.parametrize("name", MODULES)
def test_every_room_opens_without_the_extras(name, tmp_path):
    """The core stands alone: what only an extra brings is imported when it is used."""
    script = f"""
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {extras_only()}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Missing())
import {name}
"""
    assert in_fresh_interpreter(script, tmp_path) == ("", "")


def extras_only():
    """The libraries that an extra brings. Every one of ours is imported by the name under which it is installed."""
    optional = [
        re.match(r"[\w.-]+", requirement)[0].replace("-", "_")
        for requirement in importlib.metadata.requires("tinygraph")
        if "extra ==" in requirement
    ]
    return sorted(set(optional) - {"tinygraph"})
