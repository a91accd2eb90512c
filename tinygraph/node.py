"""@Node, @Component and @Workflow: what makes plain functions record their calls."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FunctionType, MethodType
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar, Unpack, overload

from tinygraph.capture import futures_in, hidden_in
from tinygraph.captured import Captor, captor_of
from tinygraph.checks import Check, check_arguments, parameters_of
from tinygraph.definition import OPTIONS, Definition, Kind, NodeOptions, arity
from tinygraph.errors import ArgumentError, DefinitionError, DepthError, RecordError
from tinygraph.future import Future, Recorder, open_up, record, recording
from tinygraph.settings import accepted

_STATEFUL = Kind.STATEFUL  # looked up at nearly every call, and an enum's attribute is slow

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

    Write ``@Node``, ``@Node()``, ``@Node("name")`` or ``@Node(name=, ...)``, with any of these options:

    - ``name``: what it is called in graphs and errors (its function's name, if left out);
    - ``outputs``: how many values it returns, so that ``a, b = f(x)`` works (found by itself for ``-> tuple[A, B]``);
    - ``retries``: how often it runs again after an exception;
    - ``timeout``: seconds after which it fails with :class:`NodeTimeout` (in processes it is really stopped);
    - ``cost``: expected seconds, for the order in which things run (else measured, else 1);
    - ``priority``: larger goes first, whatever the critical path says;
    - ``where``: ``"driver"``, ``"thread"`` or ``"process"`` (else: bodies that call nodes run in the driver, the
      others where the executor says);
    - ``memory``: how much more memory its body may take, in a worker process on Linux, in bytes or as a text such as
      ``"500MB"`` or ``"2GiB"``: more raises MemoryError;
    - ``isolate``: a fresh worker process for each call of it;
    - ``check``: whether arguments are checked against annotations;
    - ``cache``: True makes calls with equal arguments one call, and keeps the value where the run has a store;
      ``"run"`` does the first only, and False neither (else: kept where there is a store);
    - ``version``: a text or a number that is part of the key under which values are kept: change it to have them
      computed anew;
    - ``key``: a function of the arguments that returns what stands for them in that key.

    A class is called twice: ``Scale(3)`` records its construction, ``Scale(3)(4)`` a call of its ``__call__``,
    ``process`` or ``apply``. Some type checkers, mypy for one, do not see what decorates a class and take ``Scale(3)``
    for the object itself; what is made by a call they see:

    >>> class Scale:
    ...     def __init__(self, by: int) -> None:
    ...         self.by = by
    ...     def __call__(self, x: int) -> int:
    ...         return self.by * x
    >>> scale = Node(Scale)
    >>> scale(3)(4).resolve(executor="inline")
    12

    Raises :class:`DefinitionError` for what is no function or class and :class:`OptionError` for unknown options and
    values that they cannot take. A call that does not fit the signature raises :class:`ArgumentError` at its line.
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
    def __init__(self: Node[P, T], function: Callable[P, Future[T]], /, **options: Unpack[NodeOptions]) -> None: ...
    @overload
    def __init__(self: Node[P, T], function: Callable[P, T], /, **options: Unpack[NodeOptions]) -> None: ...
    @overload
    def __init__(
        self: Node[..., Undecorated], called: str | None = None, /, **options: Unpack[NodeOptions]
    ) -> None: ...
    def __init__(self, function: Any = None, /, **options: Unpack[NodeOptions]) -> None:
        super().__init__(function, **options)
        for name in ("__module__", "__name__", "__qualname__", "__doc__", "__annotations__"):
            if hasattr(function, name):
                setattr(self, name, getattr(function, name))
        self.__wrapped__ = function
        if not isinstance(function, FunctionType | type) and (path := hidden_in(function, Future)) is not None:
            raise RecordError(f"{self.name}: there is a future hidden in the callable{path}: pass it as an argument")
        # The first call takes the long way, which finds out whether the others have to.
        self.fewest, self.most = 1, 0
        self._at_once = False
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
        if kwargs or not self._at_once or not self.fewest <= len(args) <= self.most:
            return self._record(args, kwargs, sys._getframe(1))
        return record(self, args, None, sys._getframe(1))

    @overload
    def map(  # pyright: ignore[reportOverlappingOverload]  a future is iterable, but not by a loop
        self, column: Future[Any], /, *columns: Any, **constants: Any
    ) -> Future[list[R]]: ...
    @overload
    def map(self, *columns: Any, **constants: Any) -> list[Future[R]]: ...
    def map(self, *columns: Any, **constants: Any) -> Any:
        """Record one call for each element of the columns, in order; their lengths must be equal.

        >>> from tinygraph import Node
        >>> power = Node(lambda x, to: x**to)
        >>> [future.resolve(executor="inline") for future in power.map([1, 2, 3], to=2)]
        [1, 4, 9]

        ``columns``: an iterable for each positional argument. ``constants``: keyword arguments, the same for each call.

        Returns a list of futures, or one future of a list when a column is a future itself: then the number of
        calls is known only at run time. (Type checkers look at the first column alone.) Raises
        :class:`ArgumentError` for no column, for one that is no iterable, and for unequal lengths.
        """
        return _mapped(self.name, self._record, columns, constants, sys._getframe(1))

    def options(self, **options: Unpack[NodeOptions]) -> Node[P, R]:
        """Return a copy of this node with other options.

        >>> from tinygraph import Node
        >>> Node(abs).options(name="size").name
        'size'

        Takes the options of :class:`Node`. Raises :class:`OptionError` for unknown ones and values that they cannot
        take.
        """
        settings: dict[str, Any] = {**self.settings(), **options}
        return type(self)(self.function, **settings)

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        return self if instance is None else MethodType(self, instance)

    def __reduce__(self) -> tuple[Any, ...]:
        from tinygraph.portable import reduce_node

        return reduce_node(self)

    def _record(self, args: tuple[Any, ...], kwargs: dict[str, Any], frame: Any) -> Any:
        """Record a call that takes more than recording; `frame` is the one whose line is the place of the call."""
        if kwargs or not self.fewest <= len(args) <= self.most:
            args, kwargs = self._fitted(args, kwargs)
            if self._captor is not None:
                self._check(args, kwargs)
                return record(self._captor.definition, args, {**kwargs, **self._captor.arguments()}, frame)
        if self._checks or self._checks is None:
            self._check(args, kwargs)
        return record(self, args, kwargs, frame, Instance if self.kind is _STATEFUL else Future)

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
            self._captor = captor_of(self)
        if not self._future_defaults and self._captor is None:
            self.fewest, self.most = arity(self.function)
            self._at_once = self.kind not in (Kind.STATEFUL, Kind.COMPONENT) and not self.checks

    _captor: Captor | None = None

    def _check(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Check literals against the annotations, and what an edge promises where both ends say it."""
        checks = self._checks
        if checks is None:
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
        self.options = accepted(options, OPTIONS, "a node")  # refused here, and not only once there is a function

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
        def __init__(
            self: Component[P, T], function: Callable[P, Future[T]], /, **options: Unpack[NodeOptions]
        ) -> None: ...
        @overload
        def __init__(self: Component[P, T], function: Callable[P, T], /, **options: Unpack[NodeOptions]) -> None: ...
        @overload
        def __init__(
            self: Component[..., Undecorated], called: str | None = None, /, **options: Unpack[NodeOptions]
        ) -> None: ...
        def __init__(self, function: Any = None, /, **options: Unpack[NodeOptions]) -> None: ...

    def _accept_kind(self) -> None:
        if self.kind is not Kind.LEAF:
            raise DefinitionError(f"{self.name}: a {type(self).__name__} is made from a plain function")
        self.kind = Kind.COMPONENT

    def _record(self, args: tuple[Any, ...], kwargs: dict[str, Any], frame: Any) -> Any:
        return self._opened(super()._record(args, kwargs, frame), args, kwargs)

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
        future.dependencies = open_up(future, recorder.calls, returned).calls
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
        def __init__(
            self: Workflow[P, T], function: Callable[P, Future[T]], /, **options: Unpack[NodeOptions]
        ) -> None: ...
        @overload
        def __init__(self: Workflow[P, T], function: Callable[P, T], /, **options: Unpack[NodeOptions]) -> None: ...
        @overload
        def __init__(
            self: Workflow[..., Undecorated], called: str | None = None, /, **options: Unpack[NodeOptions]
        ) -> None: ...
        def __init__(self, function: Any = None, /, **options: Unpack[NodeOptions]) -> None: ...


class Instance(Future[R]):
    """A recorded construction of a class node: call it to record a call, pass it to pass the object."""

    __slots__ = ()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._record(args, kwargs, sys._getframe(1))

    def map(self, *columns: Any, **constants: Any) -> Any:
        """Record one call of the object for each element of the columns, as :meth:`Node.map` does.

        >>> from tinygraph import Node
        >>> @Node
        ... class Scale:
        ...     def __init__(self, by):
        ...         self.by = by
        ...     def __call__(self, x):
        ...         return self.by * x
        >>> [future.resolve(executor="inline") for future in Scale(3).map([1, 2])]
        [3, 6]
        """
        return _mapped(self.name, self._record, columns, constants, sys._getframe(1))

    def _record(self, args: tuple[Any, ...], kwargs: dict[str, Any], frame: Any) -> Any:
        entry = self.definition.entry
        assert entry is not None  # only definitions of classes are recorded as instances
        entry.bind((self, *args), kwargs)
        return record(entry, (self, *args), kwargs, frame)


def _accepts(check: Check | None, promised: Any) -> bool:
    """Whether a promised class can fit; only a plain class that surely cannot is refused."""
    if check is None or not isinstance(promised, type) or not isinstance(check.annotation, type):
        return True
    wanted = check.annotation
    numbers = (int, float, complex)
    if wanted in numbers and promised in numbers:
        return numbers.index(promised) <= numbers.index(wanted)
    return issubclass(promised, wanted) or issubclass(wanted, promised)


def _mapped(
    name: str, record_one: Callable[..., Any], columns: tuple[Any, ...], constants: dict[str, Any], frame: Any
) -> Any:
    if not columns:
        raise ArgumentError(f"{name}.map() needs at least one column of arguments")
    if not any(isinstance(column, Future) for column in columns):
        return [record_one(row, constants, frame) for row in _rows(name, columns)]

    def fan_out(*columns: Any, **constants: Any) -> list[Any]:
        here = sys._getframe(0)
        return [record_one(row, constants, here) for row in _rows(name, columns)]

    mapper = Definition(fan_out, Kind.COMPOSITE, name=f"map {name}", check=False)
    return record(mapper, columns, constants, frame)


def _rows(name: str, columns: tuple[Any, ...]) -> list[tuple[Any, ...]]:
    rows = []
    for column in columns:
        try:
            rows.append(list(column))
        except TypeError:
            raise ArgumentError(
                f"{name}.map() takes a list of arguments for each parameter, not {column!r} ({type(column).__name__}); "
                f"what is the same for every call is passed by keyword"
            ) from None
    lengths = [len(column) for column in rows]
    if len(set(lengths)) > 1:
        raise ArgumentError(f"{name}.map(): the columns must be of one length, not {', '.join(map(str, lengths))}")
    return list(zip(*rows, strict=True))
