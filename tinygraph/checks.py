"""Do values fit annotations?

Cheap answers: for literals when a call is recorded, for values before its body runs.
"""

from __future__ import annotations

import enum
import numbers
import types
from collections.abc import Callable
from itertools import islice
from typing import Any, Literal, Union, get_type_hints

from tinygraph.errors import ArgumentError

# What passes for a number: numpy's scalars register with these classes. A bool is no number.
_NUMBERS = {int: numbers.Integral, float: numbers.Real, complex: numbers.Complex}

# Containers whose elements are looked at, the first few of them.
_ELEMENTS = frozenset((list, dict, set, frozenset))
_LOOK_AT = 100


class Check:
    """Whether a value fits one annotation.

    >>> Check(float).fits(3), Check(int).fits(True), Check(int | None).fits(None)
    (True, False, True)

    Where the annotation is a `stand_in`, a class whose instances stand for values of any type, anything fits.
    """

    __slots__ = ("annotation", "fits", "sources", "usual")

    def __init__(self, annotation: Any, stand_in: type | None = None) -> None:
        self.annotation = annotation
        self.fits: Callable[[Any], bool] = _fits(annotation, stand_in)
        # Nearly every argument is of the very class that was asked for, or comes from a node that came before.
        self.usual = annotation if isinstance(annotation, type) else None
        self.sources: set[Any] = set()

    def __repr__(self) -> str:
        annotation = self.annotation
        return annotation.__name__ if isinstance(annotation, type) else str(annotation).replace("typing.", "")


def checks_of(function: Any, stand_in: type | None = None) -> dict[str, Check]:
    """Return a check for each parameter whose annotation can be checked, by the parameter's name.

    >>> def scale(x: int, by: "float", label): ...
    >>> checks_of(scale)
    {'x': int, 'by': float}
    """
    target: Any = function.__init__ if isinstance(function, type) else function  # type: ignore[misc]
    annotations = getattr(target, "__annotations__", None)
    if not annotations:
        return {}
    if any(isinstance(a, str) for a in annotations.values()):
        try:
            annotations = get_type_hints(target)
        except Exception:  # a name that only a type checker sees
            return {}
    found = {name: Check(a, stand_in) for name, a in annotations.items() if name != "return"}
    return {name: check for name, check in found.items() if check.fits is not _anything}


def parameters_of(function: Any) -> tuple[str, ...]:
    """Return the names of the positional parameters, in order, as a call of a node gives them.

    >>> parameters_of(lambda x, *rest, y: x)
    ('x',)
    """
    target: Any = function.__init__ if isinstance(function, type) else function  # type: ignore[misc]
    code = getattr(target, "__code__", None)
    while hasattr(target, "__wrapped__") and (code is None or not code.co_argcount):
        target = target.__wrapped__  # through a decorator that hands everything on
        code = getattr(target, "__code__", None)
    if code is None:
        return ()
    names: tuple[str, ...] = code.co_varnames[: code.co_argcount]
    bound = isinstance(function, type) or getattr(target, "__self__", None) is not None
    return names[1:] if bound else names


def surely_fit(columns: tuple[Check | None, ...], args: Any) -> bool:
    """Whether each argument is of the very class that its check asks for; False where a closer look is needed."""
    for check, arg in zip(columns, args, strict=False):
        if check is not None and type(arg) is not check.usual:
            return False
    return True


def check_arguments(
    name: str, checks: dict[str, Check], parameters: tuple[str, ...], args: Any, kwargs: Any, skip: type
) -> None:
    """Refuse the first argument that does not fit, naming node, argument, what was expected and what came.

    `skip` is a class whose instances are not looked at: a future has no value to check yet.
    """
    for parameter, value in zip(parameters, args, strict=False):
        check = checks.get(parameter)
        if check is not None and not isinstance(value, skip) and not check.fits(value):
            raise mismatch(name, parameter, check, value)
    for parameter, value in (kwargs or {}).items():
        check = checks.get(parameter)
        if check is not None and not isinstance(value, skip) and not check.fits(value):
            raise mismatch(name, parameter, check, value)


def mismatch(name: str, parameter: str, check: Check, value: Any) -> ArgumentError:
    """Return the error for a value of the wrong type."""
    shown = repr(value)
    shown = shown if len(shown) <= 80 else shown[:77] + "..."
    return ArgumentError(f"{name}: argument {parameter!r} must be {check!r}, not {shown} ({type(value).__name__})")


def _anything(value: Any) -> bool:
    return True


def _fits(annotation: Any, stand_in: type | None) -> Callable[[Any], bool]:
    if annotation is None or annotation is type(None):
        return lambda value: value is None
    if isinstance(annotation, types.UnionType) or getattr(annotation, "__origin__", None) is Union:
        options = [_fits(option, stand_in) for option in annotation.__args__]
        return _anything if _anything in options else lambda value: any(fits(value) for fits in options)
    origin = getattr(annotation, "__origin__", None)
    if origin is Literal:
        return lambda value: any(value == option and type(value) is type(option) for option in annotation.__args__)
    kind = origin if isinstance(origin, type) else annotation
    if kind is Any or not isinstance(kind, type) or kind is object or getattr(kind, "_is_protocol", False):
        return _anything
    if stand_in is not None and issubclass(kind, stand_in):  # a component is given a future, or the value itself
        return _anything
    if issubclass(kind, dict) and hasattr(kind, "__required_keys__"):  # a TypedDict, which may have more keys
        return lambda value: isinstance(value, dict) and kind.__required_keys__ <= value.keys()
    parts = getattr(annotation, "__args__", ()) if origin is kind else ()
    if kind is tuple:
        return _fits_tuple(parts, stand_in)
    if parts and kind in _ELEMENTS:
        return _fits_elements(kind, [_fits(part, stand_in) for part in parts])
    if kind in _NUMBERS:
        number = _NUMBERS[kind]
        return lambda value: isinstance(value, number) and not isinstance(value, bool)
    if issubclass(kind, enum.Enum):
        return lambda value: isinstance(value, kind) or any(value == member.value for member in kind)
    return lambda value: isinstance(value, kind)


def _fits_tuple(parts: tuple[Any, ...], stand_in: type | None) -> Callable[[Any], bool]:
    """A list passes for a tuple: it may have travelled as JSON."""
    if not parts:
        return lambda value: isinstance(value, tuple | list)
    if Ellipsis in parts:
        return _fits_elements((tuple, list), [_fits(parts[0], stand_in)])
    each = [_fits(part, stand_in) for part in parts]
    return lambda value: (
        isinstance(value, tuple | list)
        and len(value) == len(each)
        and all(fits(item) for fits, item in zip(each, value, strict=True))
    )


def _fits_elements(kind: Any, each: list[Callable[[Any], bool]]) -> Callable[[Any], bool]:
    """The first elements speak for all of them, so that a check costs the same for a million."""

    def fits(value: Any) -> bool:
        if not isinstance(value, kind):
            return False
        rows = value.items() if isinstance(value, dict) else zip(value, strict=True)
        return all(check(part) for row in islice(rows, _LOOK_AT) for check, part in zip(each, row, strict=True))

    return fits
