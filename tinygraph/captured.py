"""Captured: bodies that compute with futures from their closure or module, which are no arguments of theirs.

Such a future is made an argument of the call: recorded with it, waited for like any other, and its value put where the
code of the body will look for it.
"""

from __future__ import annotations

from types import CellType, FunctionType
from typing import Any

from tinygraph.definition import Definition
from tinygraph.errors import RecordError
from tinygraph.portable import is_importable
from tinygraph.reach import calls_nodes, captured

_CAPTURED = "captured "  # before a name: a keyword that no function can have


class Capturing:
    """The body of a node whose code names futures that are no arguments: runs with their values in their place."""

    def __init__(self, function: Any, names: list[str], node: Definition | None = None) -> None:
        self.__wrapped__ = function
        self.__name__ = function.__name__
        self.names = names
        self.node = node

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        values = {name: kwargs.pop(_CAPTURED + name) for name in self.names}
        return with_values(self.__wrapped__, values)(*args, **kwargs)

    def __reduce__(self) -> tuple[Any, ...]:
        if self.node is not None and is_importable(self.node):
            return _capturing_again, (self.node, self.names)
        # Without the futures themselves, which would bring along everything that they need.
        return Capturing, (with_values(self.__wrapped__, dict.fromkeys(self.names)), self.names)


def _capturing_again(node: Definition, names: list[str]) -> Capturing:
    return Capturing(node.function, names, node)


class Captor:
    """What stands in for a node whose body computes with captured futures, and where it finds those."""

    __slots__ = ("definition", "function", "names")

    def __init__(self, definition: Definition, function: Any, names: list[str]) -> None:
        self.definition = definition
        self.function = function
        self.names = names

    def arguments(self) -> dict[str, Any]:
        """Return what the body would find under the names now, as keywords for a call of the stand-in."""
        code = self.function.__code__
        cells = dict(zip(code.co_freevars, self.function.__closure__ or (), strict=True))
        scope = self.function.__globals__
        return {
            _CAPTURED + name: cells[name].cell_contents if name in cells else scope.get(name) for name in self.names
        }


def captor_of(node: Definition) -> Captor | None:
    """Return what stands in for a node whose body computes with futures that it captured; None if it has none.

    >>> from tinygraph import Node
    >>> three = Node(abs)(-3)
    >>> captor_of(Node(lambda x: x + three)).names
    ['three']

    A body that calls nodes or awaits may hold futures: there they are arguments like any other. Raises
    :class:`RecordError` for a future that the body reaches in a way in which no value can be put in its place.
    """
    own, others = captured(node.function)
    if not (own or others) or calls_nodes(node.function):
        return None
    if others:
        raise RecordError(
            f"{node.name}: its body would find the future {others[0]} there instead of a value: pass it as an argument"
        )
    state = {name: value for name, value in vars(node).items() if name not in ("__wrapped__", "__qualname__")}
    twin: Definition = object.__new__(Definition)
    twin.__dict__.update(state, function=Capturing(node.function, own, node))
    return Captor(twin, node.function, own)


def with_values(function: FunctionType, values: dict[str, Any]) -> FunctionType:
    """Return the function with these values in the place of what it captured under their names.

    >>> n = 1
    >>> with_values(lambda: n + 1, {"n": 41})()
    42
    """
    code = function.__code__
    cells = tuple(
        CellType(values[name]) if name in values else cell
        for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True)
    )
    names = {name: value for name, value in values.items() if name not in code.co_freevars}
    scope = {**function.__globals__, **names} if names else function.__globals__
    new = FunctionType(code, scope, function.__name__, function.__defaults__, cells)
    new.__kwdefaults__ = function.__kwdefaults__
    new.__qualname__ = function.__qualname__
    new.__module__ = function.__module__
    return new
