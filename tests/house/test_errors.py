"""The tree of errors is drawn where it lives, and every leaf survives a pickle."""

import copy
import inspect
import pickle
import re

import cloudpickle
import pytest

import tinygraph
from tinygraph import errors

# One value for each kind of argument that a constructor asks for.
SAMPLES = {
    "str": "embed(batch=load#7)",
    "int": 3,
    "float": 1.5,
    "list[str]": ["load", "train"],
    "tuple[str, ...]": ("load", "train"),
    "BaseException": ValueError("negative temperature"),
}

TREE = [
    value
    for name, value in vars(errors).items()
    if inspect.isclass(value) and issubclass(value, BaseException) and not name.startswith("_")
]


def sample(kind):
    """Make an error of this kind, with something in all of its arguments, and with notes."""
    given, named = ["negative temperature"], {}
    if inspect.isfunction(kind.__init__):  # else it is Exception's own, which takes anything
        parameters = inspect.signature(kind).parameters.values()
        given = [SAMPLES[p.annotation] for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
        named = {p.name: SAMPLES[p.annotation] for p in parameters if p.kind is p.KEYWORD_ONLY}
    error = kind(*given, **named)
    error.add_note("in pipeline -> train -> embed, attempt 3 of 3")
    error.add_note("recorded at train.py:31")
    return error


def content(value):
    """What makes two errors equal, for exceptions have no `==` of their own."""
    if isinstance(value, BaseException):
        return type(value), content(value.args), content(vars(value)), str(value)
    if isinstance(value, dict):
        return {key: content(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value), [content(item) for item in value]
    return value


@pytest.mark.parametrize("kind", TREE)
@pytest.mark.parametrize("travel", [pickle, cloudpickle], ids=lambda module: module.__name__)
def test_errors_cross_the_process_border(kind, travel):
    error = sample(kind)
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        assert content(pickle.loads(travel.dumps(error, protocol=protocol))) == content(error)


@pytest.mark.parametrize("kind", TREE)
def test_errors_are_copied_as_they_are(kind):
    error = sample(kind)
    assert content(copy.copy(error)) == content(error)


@pytest.mark.parametrize("kind", TREE)
def test_every_error_is_public_and_ours(kind):
    assert issubclass(kind, errors.TinygraphError)
    assert getattr(tinygraph, kind.__name__) is kind
    assert kind.__name__ in tinygraph.__all__


def test_the_tree_is_drawn_where_it_lives():
    """
    TinygraphError
    └── RecordError (TypeError)      each line: a name, and the builtin that people already catch
    """
    drawn = {}
    path = []
    for line in errors.__doc__.splitlines():
        if found := re.match(r"    ([│├└─ ]*)(\w+)(?: \((\w+)\))?(?:  |$)", line):
            branch, name, builtin = found.groups()
            path = [*path[: len(branch) // 4], name]
            drawn[name] = {*path[-2:-1], *([builtin] if builtin else [])}
    real = {kind.__name__: {base.__name__ for base in kind.__bases__} for kind in TREE}
    real["TinygraphError"] = set()
    assert drawn == real
