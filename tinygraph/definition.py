"""Definition: what a call runs, with its options and its signature."""

from __future__ import annotations

import sys
from collections.abc import Callable
from enum import Enum
from functools import partial
from types import FunctionType
from typing import Any, ClassVar, Literal, TypedDict, Unpack, get_type_hints

from tinygraph.checks import Check, checks_of, parameters_of
from tinygraph.errors import ArgumentError, DefinitionError, OptionError
from tinygraph.settings import Option, accepted, flag, number, seconds, size, text, whole

_VARARGS, _VARKEYWORDS, _GENERATOR, _COROUTINE, _ASYNC_GENERATOR = 0x04, 0x08, 0x20, 0x80, 0x200
_HEAP_TYPE = 1 << 9  # a class made by a class statement, and not in C
_UNLIMITED = sys.maxsize


class Kind(Enum):
    """What sort of callable a definition holds, and so where and how it runs."""

    LEAF = "leaf"  # the body computes: on a worker
    COMPOSITE = "composite"  # the body calls nodes: in the driver, it only records
    COMPONENT = "component"  # the body ran at the call: nothing is left to run
    STATEFUL = "stateful"  # a class: its instance is constructed where it is needed
    ENTRY = "entry"  # a call of such an instance
    COROUTINE = "coroutine"  # on the event loop
    GENERATOR = "generator"  # on a worker; its value is what it returned, else the list of what it yielded
    INPUT = "input"  # a hole that the run fills


class NodeOptions(TypedDict, total=False):
    """The options of a node, as :class:`tinygraph.Node` explains them: what type checkers know of `OPTIONS`."""

    name: str | None
    outputs: int | None
    retries: int
    timeout: float | None
    cost: float | None
    priority: float
    where: Literal["driver", "thread", "process"] | None
    memory: int | str | None
    isolate: bool
    check: bool
    cache: Literal[True, False, "run"] | None
    version: str | int | None
    key: Callable[..., Any] | None


def _where(name: str, value: Any) -> str:
    if value not in ("driver", "thread", "process"):
        raise OptionError(f"{name} must be 'driver', 'thread' or 'process', not {value!r}")
    return str(value)


def _cache(name: str, value: Any) -> bool | str:
    if value is not True and value is not False and value != "run":
        raise OptionError(f"{name} must be True, False or 'run', not {value!r}")
    return value  # type: ignore[no-any-return]


def _version(name: str, value: Any) -> str | int:
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise OptionError(f"{name} must be a text or a whole number, not {value!r}")
    return value


def _key(name: str, value: Any) -> Callable[..., Any]:
    if not callable(value):
        raise OptionError(f"{name} must be a function of the arguments, not {value!r}")
    return value  # type: ignore[no-any-return]


# A line for each option: its check and its default. Each is an attribute of every definition.
OPTIONS = {
    "name": Option(text),
    "outputs": Option(partial(whole, least=1)),
    "retries": Option(partial(whole, least=0), 0),
    "timeout": Option(partial(seconds, above=True)),
    "cost": Option(seconds),
    "priority": Option(number, 0.0),
    "where": Option(_where),
    "memory": Option(size),
    "isolate": Option(flag, False),
    "check": Option(flag, True),
    "cache": Option(_cache),
    "version": Option(_version),
    "key": Option(_key),
}
_DEFAULTS = {name: option.default for name, option in OPTIONS.items()}


class Definition:
    """What a call runs: a function or a class, its name, its options and what it accepts.

    >>> Definition(divmod, outputs=2).name
    'divmod'
    """

    # The class whose instances stand for values that are not there yet. The room of that class says so, above this one.
    stand_in: ClassVar[type | None] = None
    # Whether any node asks for equal calls to be one: else a run without a store need not look.
    any_shared: ClassVar[bool] = False

    # Plain attributes and no properties for what every single call reads: recording is counted in nanoseconds.
    name: str
    outputs: int | None
    retries: int
    timeout: float | None
    cost: float | None
    priority: float
    where: str | None
    memory: int | None
    isolate: bool
    check: bool
    cache: bool | str | None
    version: str | int | None
    key: Callable[..., Any] | None

    def __init__(
        self, function: Callable[..., Any], kind: Kind | None = None, /, **options: Unpack[NodeOptions]
    ) -> None:
        if not callable(function):
            raise DefinitionError(
                f"a node is made from a function or a class, not from {function!r} ({type(function).__name__})"
            )
        self.function = function
        # One by one: an object whose dictionary is written to as a whole is slower to read from then on.
        for option, value in {**_DEFAULTS, **accepted(options, OPTIONS, "a node")}.items():
            setattr(self, option, value)
        if self.cache:
            Definition.any_shared = True
        if options.get("name") is None:
            self.name = _name_of(function)
        self.kind = kind or _kind_of(function, self.name)
        # What a call is expected to take, in seconds, as far as it is known before anything has run.
        costs_nothing = self.kind in (Kind.INPUT, Kind.STATEFUL)
        self.expected = 0.0 if costs_nothing else 1.0 if self.cost is None else self.cost
        self.entry: Definition | None = None
        if self.kind is Kind.STATEFUL:
            self.entry = _entry_of(function, self)
            self.outputs = None  # they are those of its calls
        elif self.outputs is None:
            self.outputs = _outputs_of(function)
        self.fewest, self.most = arity(function)
        self._checks: dict[str, Check] | None = None
        self.columns: tuple[Check | None, ...] = ()  # the same by position
        # Found by a walk over the code, when a run first asks: what it names may be defined further down.
        self.calls_nodes: bool | None = None
        self.captures: bool | None = None

    def settings(self) -> dict[str, Any]:
        """Return the options, as the constructor takes them."""
        source = self if self.entry is None else self.entry  # which has the outputs of a class
        return {name: getattr(source, name) for name in OPTIONS}

    @property
    def signature(self) -> str:
        """The name with its parameters, as a user wrote them: ``"add(a, b)"``."""
        import inspect

        try:
            signature = inspect.signature(self.function)
        except (TypeError, ValueError):
            return f"{self.name}(...)"
        plain = [p.replace(annotation=p.empty) for p in signature.parameters.values()]
        return f"{self.name}{signature.replace(parameters=plain, return_annotation=signature.empty)}"

    def bind(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Refuse arguments that the function does not accept.

        >>> Definition(lambda x: x).bind((1, 2), {})
        Traceback (most recent call last):
        tinygraph.errors.ArgumentError: <lambda>(x): too many positional arguments
        """
        if self._fits(args, kwargs):
            return
        import inspect

        try:
            signature = inspect.signature(self.function)
        except (TypeError, ValueError):  # a builtin that does not tell
            return
        try:
            signature.bind(*args, **kwargs)
        except TypeError as error:
            raise ArgumentError(f"{self.signature}: {error}") from None

    def _fits(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Whether arguments fit a plain function for sure: many times quicker than binding them to its signature."""
        function = self.function
        if type(function) is not FunctionType or hasattr(function, "__wrapped__"):
            return False
        code, given, used = function.__code__, len(args), 0
        positional = code.co_argcount
        if given > positional or code.co_posonlyargcount:
            return False
        names, defaults = code.co_varnames, function.__kwdefaults__ or ()
        first_default = positional - len(function.__defaults__ or ())
        for index in range(given, positional):
            if names[index] in kwargs:
                used += 1
            elif index < first_default:
                return False
        for name in names[positional : positional + code.co_kwonlyargcount]:
            if name in kwargs:
                used += 1
            elif name not in defaults:
                return False
        return used == len(kwargs)

    @property
    def checks(self) -> dict[str, Check]:
        """The checks of annotated parameters by name; none where `check=False`.

        Made at the first call and not at the decorator, because annotations may name what is defined further down.
        """
        if self._checks is None:
            self._checks = checks_of(self.function, self.stand_in) if self.check else {}
            self.columns = tuple([self._checks.get(name) for name in parameters_of(self.function)])
        return self._checks

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}>"

    def __setstate__(self, state: dict[str, Any]) -> None:
        Definition.any_shared = Definition.any_shared or bool(state.get("cache"))
        self.__dict__.update(state, _checks=None, columns=(), calls_nodes=None, captures=None)

    def __getstate__(self) -> dict[str, Any]:
        found_again = ("_checks", "columns", "calls_nodes", "captures")
        return {name: value for name, value in self.__dict__.items() if name not in found_again}


def _entry_of(cls: Any, stateful: Definition) -> Definition:
    for method in ("__call__", "process", "apply"):
        function = getattr(cls, method, None)
        if isinstance(function, FunctionType):
            return Definition(function, _kind_of(function, stateful.name, plain=Kind.ENTRY), **stateful.settings())
    raise DefinitionError(
        f"class {stateful.name} needs a __call__ (or process, or apply) method to be a node; "
        f"to record only its construction, put that into a function"
    )


def _name_of(function: Any) -> str:
    while True:
        name = getattr(function, "__name__", None)
        if isinstance(name, str):
            return name
        inner = getattr(function, "func", None)  # functools.partial
        if inner is None:
            return type(function).__name__
        function = inner


def _kind_of(function: Any, name: str, plain: Kind = Kind.LEAF) -> Kind:
    if isinstance(function, type):
        if not function.__flags__ & _HEAP_TYPE:  # int, str, list, ...: called to convert a value, as a function is
            return plain
        if "__init__" not in _defined(function):
            raise DefinitionError(f"class {name} needs an __init__ method to be a node")
        return Kind.STATEFUL
    while not hasattr(function, "__code__"):
        inner = getattr(function, "func", None) or getattr(function, "__func__", None)
        if inner is None:
            call = getattr(type(function), "__call__", None)  # noqa: B004  the function itself is wanted
            if not isinstance(call, FunctionType):
                return plain
            inner = call
        function = inner
    flags = function.__code__.co_flags
    if flags & _ASYNC_GENERATOR:
        raise DefinitionError(f"{name} is an async generator: make it a plain generator, or return a list")
    if flags & _COROUTINE:
        return Kind.COROUTINE
    return Kind.GENERATOR if flags & _GENERATOR else plain


def _defined(cls: type) -> set[str]:
    return {name for base in cls.__mro__[:-1] for name in vars(base)}


def arity(function: Any) -> tuple[int, int]:
    """Return how many positional arguments alone are fine for sure; (1, 0) where every call must be bound.

    >>> arity(lambda a, b=2: a), arity(max)
    ((1, 2), (1, 0))
    """
    if not isinstance(function, FunctionType) or hasattr(function, "__wrapped__"):
        return 1, 0
    code = function.__code__
    if code.co_kwonlyargcount > len(function.__kwdefaults__ or ()):
        return 1, 0
    fewest = code.co_argcount - len(function.__defaults__ or ())
    return fewest, _UNLIMITED if code.co_flags & _VARARGS else code.co_argcount


def _outputs_of(function: Any) -> int | None:
    returns = getattr(function, "__annotations__", {}).get("return")
    if isinstance(returns, str):
        if not returns.lower().startswith(("tuple[", "typing.tuple[")):
            return None
        try:
            returns = get_type_hints(function).get("return")
        except Exception:  # a name that is defined later, or never: then outputs= says it
            return None
    if getattr(returns, "__origin__", None) is not tuple:
        return None
    parts = returns.__args__  # type: ignore[union-attr]
    return None if not parts or Ellipsis in parts else len(parts)
