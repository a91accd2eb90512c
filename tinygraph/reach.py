"""What a function reaches through its code: the nodes that it calls, the futures that it captured."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

from tinygraph.capture import ATOMS, futures_in, hidden_in
from tinygraph.definition import Definition
from tinygraph.future import Future

_FOREIGN = ("site-packages", "dist-packages")


def calls_nodes(function: Any) -> bool:
    """Whether the body of a function calls nodes, by itself or through functions of the same project.

    >>> from tinygraph import Node
    >>> leaf = Node(lambda x: x)
    >>> calls_nodes(lambda: leaf(1)), calls_nodes(lambda: max(1, 2))
    (True, False)
    """
    return any(isinstance(thing, Definition) for _, thing in reached(function))


def captured_futures(function: Any) -> list[str]:
    """Return the names under which a function has futures in its closure and globals."""
    return [name for name, thing in reached(function) if isinstance(thing, Future)]


def captured(function: Any) -> tuple[list[str], list[str]]:
    """Return the names of the futures, and of the containers of futures, that a function itself has captured.

    The second list has the ones that it reaches in another way: in a helper, an attribute of a module, or an object.

    >>> from tinygraph import Node
    >>> future = Node(abs)(-1)
    >>> def body(): return str(future)
    >>> captured(lambda: (future, body()))
    (['future'], ['future in body()'])
    """
    own: list[str] = []
    others: list[str] = []
    this = _plain_function(function)
    for owner, name, thing in _walk(function):
        if isinstance(thing, _WITHOUT_FUTURES) or type(thing) in ATOMS:
            continue
        holds = isinstance(thing, Future)
        if not holds:
            if _is_plain_container(thing) and _holds(thing):
                holds = True
            elif (path := hidden_in(thing, Future)) is not None and _loads(owner, name):
                others.append(f"{name}{path}")
        if holds and _loads(owner, name):
            if owner is this and owner is function and "." not in name:
                own.append(name)
            else:
                others.append(name if owner is this else f"{name} in {owner.__name__}()")
    return list(dict.fromkeys(own)), list(dict.fromkeys(others))


def reached(function: Any) -> Iterator[tuple[str, Any]]:
    """Yield what the names in the code of a function stand for, through the functions of its project.

    Names are looked up as they are now. What is reached by other ways (an attribute of an argument, `getattr`) is
    not seen here; a body that turns out to call nodes works all the same.
    """
    return ((name, thing) for _, name, thing in _walk(function))


def _walk(function: Any) -> Iterator[tuple[FunctionType, str, Any]]:
    seen: set[int] = set()
    pending = [function]
    while pending:
        current = _plain_function(pending.pop())
        if current is None or id(current) in seen or _is_foreign(current):
            continue
        seen.add(id(current))
        for name, thing in _names(current):
            yield current, name, thing
            if not isinstance(thing, Definition | Future):
                pending.append(thing)


def _plain_function(thing: Any) -> FunctionType | None:
    for _ in range(10):
        if isinstance(thing, FunctionType):
            return thing
        if isinstance(thing, MethodType):
            thing = thing.__func__
        elif type(thing).__name__ == "partial":
            thing = thing.func
        else:
            return None
    return None


def _names(function: FunctionType) -> Iterator[tuple[str, Any]]:
    code, scope = function.__code__, function.__globals__
    for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield name, cell.cell_contents
        except ValueError:  # not assigned yet
            continue
    for part in _codes(code):
        for name in _global_names(part):
            thing = scope.get(name)
            if thing is None:
                continue
            yield name, thing
            if isinstance(thing, ModuleType):
                inside = vars(thing)
                yield from ((f"{name}.{other}", inside[other]) for other in part.co_names if other in inside)


_WITHOUT_FUTURES = (Definition, FunctionType, BuiltinFunctionType, ModuleType, type)


def _is_plain_container(thing: Any) -> bool:
    return type(thing) in (list, tuple, dict, set, frozenset)


def _holds(thing: Any) -> bool:
    try:
        return bool(futures_in(thing, Future))
    except RecursionError:  # it holds itself
        return hidden_in(thing, Future) is not None


def _loads(function: FunctionType, name: str) -> bool:
    """Whether a function really reads a name, and not only an attribute that is called alike."""
    import dis

    first, _, attribute = name.partition(".")
    if first in function.__code__.co_freevars:
        return True
    for code in _codes(function.__code__):
        before = ""
        for step in dis.get_instructions(code):
            if step.opname in ("LOAD_GLOBAL", "LOAD_NAME") and step.argval == first and not attribute:
                return True
            if step.opname in ("LOAD_ATTR", "LOAD_METHOD") and step.argval == attribute and before == first:
                return True
            before = step.argval if step.opname in ("LOAD_GLOBAL", "LOAD_NAME") else ""
    return False


def _global_names(code: CodeType) -> list[str]:
    """Return the names that a code looks up in its module: not every name in it, attributes have names too."""
    import dis

    loads = ("LOAD_GLOBAL", "LOAD_NAME")
    return list(dict.fromkeys(i.argval for i in dis.get_instructions(code) if i.opname in loads))


def _codes(code: CodeType) -> Iterator[CodeType]:
    """Yield the code of a function and of everything defined inside it."""
    pending = [code]
    while pending:
        current = pending.pop()
        yield current
        pending.extend(constant for constant in current.co_consts if isinstance(constant, CodeType))


def _is_foreign(function: FunctionType) -> bool:
    """Whether a function belongs to the standard library or to an installed package, which call no user's nodes."""
    module = (function.__module__ or "").partition(".")[0]
    if module in sys.stdlib_module_names and module != "__main__":
        return True
    path = function.__code__.co_filename
    return any(part in path for part in _FOREIGN)
