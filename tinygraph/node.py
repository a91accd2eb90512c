"""@Node, @Component, @Workflow and Input: what makes plain functions record their calls."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from functools import partial
from types import FunctionType, MethodType
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar, overload

from tinygraph.capture import futures_in, hidden_in
from tinygraph.checks import Check, check_arguments, mismatch
from tinygraph.checks import parameters_of as parameters_of
from tinygraph.definition import Definition, Kind, _arity
from tinygraph.errors import ArgumentError, DefinitionError, DepthError, InputError, RecordError
from tinygraph.future import FINISHED, MISSING, Expansion, Future, Recorder, record, recording

_STATEFUL = Kind.STATEFUL  # looked up at every call, and an enum's attribute is slow

P = ParamSpec("P")
Q = ParamSpec("Q")
R = TypeVar("R", covariant=True)
T = TypeVar("T")


class Undecorated:
    """What a type checker takes for the result of a node that has no function yet."""


class Node(Definition, Generic[P, R]):
    """A function or a class whose calls are recorded instead of run.

    >>> from tinygraph import Node
    >>> @Node
    ... def add(a, b):
    ...     return a + b
    >>> @Node(retries=2)
    ... def twice(x):
    ...     return add(x, x)          # a node may call nodes
    >>> add(1, twice(3)).resolve(executor="inline")
    7

    Write ``@Node``, ``@Node()``, ``@Node("name")`` or ``@Node(name=, outputs=, retries=, timeout=, cost=, priority=,
    where=, check=)``:

    - ``outputs``: how many values it returns, so that ``a, b = f(x)`` works (found by itself for ``-> tuple[A, B]``);
    - ``retries``: how often it runs again after an exception;
    - ``timeout``: seconds after which it fails with :class:`NodeTimeout` (in processes it is really stopped);
    - ``cost``: expected seconds, for the order in which things run (else measured, else 1);
    - ``priority``: larger goes first, whatever the critical path says;
    - ``where``: ``"driver"``, ``"thread"`` or ``"process"`` (else: bodies that call nodes run in the driver, the
      others where the executor says);
    - ``check``: whether arguments are checked against annotations.

    Raises :class:`DefinitionError` for what is no function or class and :class:`OptionError` for unknown options. A
    call that does not fit the signature raises :class:`ArgumentError` at its line.
    """

    # A checker takes what a class makes to be of that class, so it takes `Node("name")` for a Node too: one that has
    # no function yet, and whose call with a function is a Node of that function.
    if not TYPE_CHECKING:

        def __new__(cls, function=None, /, **options):  # noqa: ANN001, ANN003, ANN204
            if function is None or isinstance(function, str):
                if isinstance(function, str):
                    options.setdefault("name", function)
                return Decorator(cls, options)
            if isinstance(function, classmethod | staticmethod):
                # The wrapper stays outside, so that the class binds it as it would without us.
                return type(function)(cls(function.__func__, **options))  # type: ignore[arg-type]
            if isinstance(function, property):
                getter: Any = function.fget
                return property(cls(getter, **options), function.fset, function.fdel, function.__doc__)
            if isinstance(function, Node):
                return function.options(**options)
            if isinstance(function, Future):
                raise DefinitionError(f"{function!r} is a call of a node, not a function: pass it as an argument")
            return super().__new__(cls)

    @overload
    def __init__(self: Node[P, T], function: Callable[P, Future[T]], /, **options: Any) -> None: ...
    @overload
    def __init__(self: Node[P, T], function: Callable[P, T], /, **options: Any) -> None: ...
    @overload
    def __init__(self: Node[..., Undecorated], name: str | None = None, /, **options: Any) -> None: ...
    def __init__(self, function: Any = None, /, **options: Any) -> None:
        try:
            super().__init__(function, **options)
        except TypeError as error:
            raise _clearer(error, options) from None
        for name in ("__module__", "__qualname__", "__doc__", "__annotations__"):
            if hasattr(function, name):
                setattr(self, name, getattr(function, name))
        self.__wrapped__ = function
        if not isinstance(function, FunctionType | type) and (path := hidden_in(function, Future)) is not None:
            raise RecordError(f"{self.name}: there is a future hidden in the callable{path}: pass it as an argument")
        # The first call takes the long way, which finds out whether the others have to.
        self.fewest, self.most = 1, 0
        self._future_defaults: bool | None = None
        self._accept_kind()

    def _accept_kind(self) -> None:
        """Have a say about what sort of callable it may be; a Component has."""

    @overload
    def __call__(  # type: ignore[overload-overlap]
        self: Node[..., Undecorated], function: Callable[Q, Future[T]], /
    ) -> Node[Q, T]: ...
    @overload
    def __call__(  # type: ignore[overload-overlap]
        self: Node[..., Undecorated], function: Callable[Q, T], /
    ) -> Node[Q, T]: ...
    @overload
    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Future[R]: ...
    @overload
    def __call__(self, *args: Any, **kwargs: Any) -> Future[R]: ...
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if kwargs or not self.fewest <= len(args) <= self.most:
            args, kwargs = self._fitted(args, kwargs)
            if self._capturing is not None:
                return self._with_captured(args, kwargs, sys._getframe(1))
        if self._checks is None or self._checks:
            self._check(args, kwargs)
        frame = sys._getframe(1)
        if self.kind is _STATEFUL:
            return record(self, args, kwargs, frame, Instance)
        return record(self, args, kwargs, frame)

    def map(self, *columns: Any) -> Any:
        """Record one call for each element of the columns, in order; their lengths must be equal.

        >>> from tinygraph import Node
        >>> square = Node(lambda x: x * x)
        >>> [future.resolve(executor="inline") for future in square.map([1, 2, 3])]
        [1, 4, 9]

        Returns a list of futures, or one future of a list when a column is a future itself: then the number of
        calls is known only at run time. Raises :class:`ArgumentError` for no column and for unequal lengths.
        """
        frame = sys._getframe(1)
        if not columns:
            raise ArgumentError(f"{self.name}.map() needs at least one column of arguments")
        if any(isinstance(column, Future) for column in columns):
            return record(_mapper(self), columns, None, frame)
        return [self._record(row, frame) for row in _rows(self.name, columns)]

    def options(self, **options: Any) -> Node[P, R]:
        """Return a copy of this node with other options.

        >>> from tinygraph import Node
        >>> Node(abs).options(name="size").name
        'size'
        """
        return type(self)(self.function, **{**self.settings(), **options})

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        return self if instance is None else MethodType(self, instance)

    def __reduce__(self) -> tuple[Any, ...]:
        from tinygraph.portable import reduce_node

        return reduce_node(self)

    def _record(self, args: tuple[Any, ...], frame: Any) -> Any:
        """Record a call as `__call__` does, for another line than the caller's."""
        kwargs: dict[str, Any] = {}
        if not self.fewest <= len(args) <= self.most:
            args, kwargs = self._fitted(args, kwargs)
            if self._capturing is not None:
                return self._with_captured(args, kwargs, frame)
        if self.checks:
            self._check(args, kwargs)
        return record(self, args, kwargs, frame, Instance if self.kind is Kind.STATEFUL else Future)

    def _fitted(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Refuse arguments that do not fit; return them, with the defaults if there are futures among those."""
        self.bind(args, kwargs)
        if self._future_defaults is None:
            self._look_for_futures()
        if self._future_defaults:
            import inspect

            bound = inspect.signature(self.function).bind(*args, **kwargs)
            bound.apply_defaults()
            return bound.args, bound.kwargs
        return args, kwargs

    def _look_for_futures(self) -> None:
        """Find the futures that bring themselves along: in defaults, in the closure, in globals."""
        function = self.function.__init__ if isinstance(self.function, type) else self.function  # type: ignore[misc]
        defaults = (getattr(function, "__defaults__", None), getattr(function, "__kwdefaults__", None))
        self._future_defaults = bool(futures_in(defaults, Future))
        if self.kind in (Kind.LEAF, Kind.GENERATOR) and isinstance(function, FunctionType):
            self._capturing = _captured_by(self)
        if not self._future_defaults and self._capturing is None:
            self.fewest, self.most = _arity(self.function)

    _capturing: tuple[Definition, list[str]] | None = None

    def _with_captured(self, args: tuple[Any, ...], kwargs: dict[str, Any], frame: Any) -> Future[R]:
        assert self._capturing is not None
        self._check(args, kwargs)
        twin, names = self._capturing
        things = _captured_things(self.function, names)
        return record(twin, args, {**kwargs, **{_CAPTURED + name: things[name] for name in names}}, frame)

    def _check(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Check literals against the annotations, and what an edge promises where both ends say it."""
        checks = self.checks
        if not checks:
            return
        if not kwargs:
            for check, arg in zip(self.columns, args, strict=False):
                if check is not None and type(arg) is not check.usual:
                    if type(arg) is Future and arg.definition in check.sources:
                        continue
                    break
            else:
                return
        self._check_closely(checks, args, kwargs)
        for check, arg in zip(self.columns, args, strict=False):
            if check is not None and type(arg) is Future:
                check.sources.add(arg.definition)

    def _check_closely(self, checks: dict[str, Check], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        parameters = parameters_of(self.function)
        check_arguments(self.name, checks, parameters, args, kwargs, Future)
        for parameter, arg in [*zip(parameters, args, strict=False), *kwargs.items()]:
            if isinstance(arg, Instance):
                if not _accepts(checks.get(parameter), arg.definition.function):
                    raise RecordError(
                        f"{self.name}: argument {parameter!r} is the class node {arg.name!r}, which was constructed "
                        f"but not called: call it, as in {arg.name}(...)(...)"
                    )
            elif isinstance(arg, Future) and isinstance(arg.definition, Node):
                promised: Any = getattr(arg.definition.function, "__annotations__", {}).get("return")
                if not _accepts(checks.get(parameter), promised):
                    raise ArgumentError(
                        f"{self.name}: argument {parameter!r} must be {checks[parameter]!r}, "
                        f"but {arg.name!r} returns {promised.__name__}"
                    )


class Decorator:
    """`@Node(...)` before it has its function."""

    __slots__ = ("cls", "options")

    def __init__(self, cls: type[Node[..., Any]], options: dict[str, Any]) -> None:
        self.cls = cls
        self.options = options

    def __call__(self, function: Any, /) -> Any:
        if function is None or isinstance(function, str):
            raise DefinitionError(f"a node is made from a function or a class, not from {function!r}")
        return self.cls(function, **self.options)


class Component(Node[P, R]):
    """A node whose body runs at the call, so that its inside is visible before anything runs.

    >>> from tinygraph import Component, Node
    >>> double = Node(lambda x: 2 * x)
    >>> @Component
    ... def twice(x):
    ...     return double(double(x))
    >>> future = twice(5)
    >>> len(future.graph.nodes), future.resolve(executor="inline")
    (3, 20)

    Its arguments may be futures, so its body may pass them on but not decide by them.
    """

    if TYPE_CHECKING:

        @overload
        def __init__(self: Component[P, T], function: Callable[P, Future[T]], /, **options: Any) -> None: ...
        @overload
        def __init__(self: Component[P, T], function: Callable[P, T], /, **options: Any) -> None: ...
        @overload
        def __init__(self: Component[..., Undecorated], name: str | None = None, /, **options: Any) -> None: ...
        def __init__(self, function: Any = None, /, **options: Any) -> None: ...

    def _accept_kind(self) -> None:
        if self.kind is not Kind.LEAF:
            raise DefinitionError(f"{self.name}: a {type(self).__name__} is made from a plain function")
        self.kind = Kind.COMPONENT

    if not TYPE_CHECKING:  # it takes and returns what any node does

        def __call__(self, *args, **kwargs):  # noqa: ANN002, ANN003, ANN204
            if kwargs or not self.fewest <= len(args) <= self.most:
                args, kwargs = self._fitted(args, kwargs)
            if self._checks is None or self._checks:
                self._check(args, kwargs)
            return self._opened(record(self, args, kwargs, sys._getframe(1)), args, kwargs)

    def _record(self, args: tuple[Any, ...], frame: Any) -> Any:
        return self._opened(super()._record(args, frame), args, {})

    def _opened(self, future: Future[R], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Future[R]:
        recorder = Recorder(future, future.depth + 1)
        token = recording.set(recorder)
        try:
            returned = self.function(*args, **kwargs)
        except RecursionError as error:
            raise DepthError(f"component {self.name!r} calls itself without an end: make it a Node") from error
        finally:
            recording.reset(token)
        if recorder.error is not None:
            raise recorder.error
        open_up(future, recorder.calls, returned)
        future.dependencies = expansion_of(future).calls
        future.args, future.kwargs = (), None
        return future


class Workflow(Component[P, R]):
    """A component that is an entry point: named, with typed parameters and defaults.

    >>> from tinygraph import Node, Workflow
    >>> add = Node(lambda a, b: a + b)
    >>> @Workflow("sum")
    ... def total(a: int = 1, b: int = 2):
    ...     return add(a, b)
    >>> total(b=5).resolve(executor="inline")
    6
    """

    if TYPE_CHECKING:

        @overload
        def __init__(self: Workflow[P, T], function: Callable[P, Future[T]], /, **options: Any) -> None: ...
        @overload
        def __init__(self: Workflow[P, T], function: Callable[P, T], /, **options: Any) -> None: ...
        @overload
        def __init__(self: Workflow[..., Undecorated], name: str | None = None, /, **options: Any) -> None: ...
        def __init__(self, function: Any = None, /, **options: Any) -> None: ...


class Instance(Future[R]):
    """A recorded construction of a class node: call it to record a call, pass it to pass the object."""

    __slots__ = ()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        entry = self.definition.entry
        assert entry is not None  # only definitions of classes are recorded as instances
        entry.bind((self, *args), kwargs)
        return record(entry, (self, *args), kwargs, sys._getframe(1))


class Input(Future[T]):
    """A hole in a graph, filled when it is resolved.

    >>> from tinygraph import Input, Node
    >>> x = Input("x", int, default=3)
    >>> double = Node(lambda x: 2 * x)(x)
    >>> double.resolve(executor="inline"), double.resolve(inputs={"x": 5}, executor="inline")
    (6, 10)

    Arguments: its ``name``, the ``type`` that its value must have (any, if left out) and its ``default``.
    """

    __slots__ = ("default", "type")

    def __new__(cls, name: str, type: Any = object, default: Any = MISSING) -> Input[T]:
        if not isinstance(name, str) or not name:  # type: ignore[redundant-expr]
            raise RecordError(f"an Input needs a name, not {name!r}")
        definition = Definition(partial(_unset, name), name=name, kind=Kind.INPUT, check=False)
        future: Any = record(definition, (), None, sys._getframe(1), cls)
        future.type = Check(type)
        if default is not MISSING and not future.type.fits(default):
            raise mismatch("Input", name, future.type, default)
        future.default = default
        return future  # type: ignore[no-any-return]

    def __init__(self, name: str, type: Any = object, default: Any = MISSING) -> None:
        pass


def open_up(future: Future[Any], calls: Iterable[Future[Any]], returned: Any) -> None:
    """Note what the body of a call recorded and what it returned, futures included."""
    forwarded = futures_in(returned, Future, f"{future.name!r} returned an object")
    calls = tuple(calls)
    known = {id(call) for call in calls}
    # What was returned without having been recorded here was captured from outside: it is waited for all the same.
    captured = tuple([call for call in forwarded if id(call) not in known and call.state is not FINISHED])
    future.expansion = Expansion(calls + captured, returned, frozenset([call.number for call in forwarded]))


def expansion_of(future: Future[Any]) -> Expansion:
    """Return the expansion of a call that has one."""
    assert future.expansion is not None
    return future.expansion


def _accepts(check: Check | None, promised: Any) -> bool:
    """Whether a promised class can fit; only a plain class that surely cannot is refused."""
    if check is None or not isinstance(promised, type) or not isinstance(check.annotation, type):
        return True
    wanted = check.annotation
    numbers = (int, float, complex)
    if wanted in numbers and promised in numbers:
        return numbers.index(promised) <= numbers.index(wanted)
    return issubclass(promised, wanted) or issubclass(wanted, promised)


_CAPTURED = "captured "  # before a name: a keyword that no function can have


class Capturing:
    """The body of a node whose code names futures that are no arguments: runs with their values in their place."""

    def __init__(self, function: Any, names: list[str], node: Node[..., Any] | None = None) -> None:
        self.__wrapped__ = function
        self.__name__ = function.__name__
        self.names = names
        self.node = node

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        from tinygraph.reach import with_values

        values = {name: kwargs.pop(_CAPTURED + name) for name in self.names}
        return with_values(self.__wrapped__, values)(*args, **kwargs)

    def __reduce__(self) -> tuple[Any, ...]:
        from tinygraph.portable import is_importable
        from tinygraph.reach import with_values

        if self.node is not None and is_importable(self.node):
            return _capturing_again, (self.node, self.names)
        # Without the futures themselves, which would bring along everything that they need.
        return Capturing, (with_values(self.__wrapped__, dict.fromkeys(self.names)), self.names)


def _capturing_again(node: Node[..., Any], names: list[str]) -> Capturing:
    return Capturing(node.function, names, node)


def _captured_by(node: Node[..., Any]) -> tuple[Definition, list[str]] | None:
    """Return what stands in for a node whose body computes with futures that it captured; None if it has none.

    A body that calls nodes or awaits may hold futures: there they are arguments like any other.
    """
    from tinygraph.reach import calls_nodes, captured

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
    return twin, own


def _captured_things(function: Any, names: list[str]) -> dict[str, Any]:
    cells = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True))
    return {name: cells[name].cell_contents if name in cells else function.__globals__.get(name) for name in names}


def _rows(name: str, columns: tuple[Any, ...]) -> list[tuple[Any, ...]]:
    rows = [list(column) for column in columns]
    lengths = [len(column) for column in rows]
    if len(set(lengths)) > 1:
        raise ArgumentError(f"{name}.map(): the columns must be of one length, not {', '.join(map(str, lengths))}")
    return list(zip(*rows, strict=True))


def _mapper(node: Node[..., Any]) -> Definition:
    def fan_out(*columns: Any) -> list[Any]:
        frame = sys._getframe(0)
        return [node._record(row, frame) for row in _rows(node.name, columns)]

    return Definition(fan_out, name=f"map {node.name}", kind=Kind.COMPOSITE, check=False)


def _unset(name: str) -> None:
    """Stand for an input, which has no body: the run fills what the graph holds when it starts."""
    raise InputError(
        f"input {name!r} is used in the body of a node, which was not part of the graph when its inputs were filled: "
        f"pass it to that node as an argument"
    )


def _clearer(error: TypeError, options: dict[str, Any]) -> TypeError:
    """Name the option that does not exist."""
    from tinygraph.errors import OptionError

    if "unexpected keyword argument" not in str(error):
        return error
    known = ("name", "outputs", "retries", "timeout", "cost", "priority", "where", "check")
    unknown = [name for name in options if name not in known]
    return OptionError(f"unknown option {unknown[0]!r}; a node takes {', '.join(known)}")
