"""Future: one recorded call."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Generator, Iterable, Iterator
from contextvars import ContextVar
from enum import StrEnum
from itertools import count
from threading import RLock
from types import CodeType, FrameType
from typing import TYPE_CHECKING, Any, Generic, NoReturn, TypeVar, Unpack, cast

from tinygraph.capture import ATOMS, Nested, capture, futures_in
from tinygraph.definition import Definition, Kind
from tinygraph.errors import CancelledError, FutureAttributeError, RecordError

if TYPE_CHECKING:
    from tinygraph.graph import Graph
    from tinygraph.options import RunOptions

R = TypeVar("R", covariant=True)


class State(StrEnum):
    """Where a call stands. Equal to its text, so that ``future.state == "finished"`` reads well.

    >>> State.FINISHED == "finished"
    True
    """

    WAITING = "waiting"  # recorded; not started, or for something upstream
    READY = "ready"  # everything that it needs is there
    RUNNING = "running"  # on a worker, or waiting for the calls that its body made
    FINISHED = "finished"
    FAILED = "failed"  # it raised, or one of its calls did
    SKIPPED = "skipped"  # something upstream failed
    CANCELLED = "cancelled"


class Missing:
    """The absence of a value: `None` is a value that a node may return."""

    def __repr__(self) -> str:
        return "MISSING"

    def __reduce__(self) -> str:
        return "MISSING"


MISSING = Missing()  # not computed yet
WAITING, FINISHED, FAILED = State.WAITING, State.FINISHED, State.FAILED
SETTLED = frozenset((FINISHED, FAILED, State.SKIPPED, State.CANCELLED))


class Expansion:
    """What the body of a call recorded: its calls in order, and what it returned, futures included."""

    __slots__ = ("calls", "returned", "template")

    def __init__(self, calls: tuple[Future[Any], ...], template: Any, returned: frozenset[int]) -> None:
        self.calls = calls
        self.template = template  # what was returned, with futures in it; dropped once filled
        self.returned = returned  # the numbers of the futures that were returned


class Place:
    """Where a call was recorded in another process: what a code object tells about it.

    `identity` is the name of that very call across processes; the copy of a call has none.
    """

    __slots__ = ("co_filename", "identity", "line")

    def __init__(self, filename: str, line: int, identity: tuple[str, int] | None = None) -> None:
        self.co_filename = filename
        self.line = line
        self.identity = identity

    def co_lines(self) -> Iterator[tuple[int, int, int]]:
        """Yield the one line, as code objects do."""
        yield 0, 1, self.line


class Elsewhere:
    """A value that was computed in another process and has not been needed in this one."""

    __slots__ = ()

    def fetch(self) -> Any:
        """Return the value itself."""
        raise NotImplementedError


class Recorder:
    """What one running body has recorded so far. One for each body that may call nodes."""

    __slots__ = ("caller", "calls", "demand", "depth", "error")

    def __init__(self, caller: Future[Any] | None = None, depth: int = 0) -> None:
        self.caller = caller
        self.depth = depth
        self.calls: list[Future[Any]] = []
        self.error: RecordError | None = None  # raised in the body, which may have swallowed it
        self.demand: Callable[[Future[Any]], Any] | None = None  # how an async body awaits a future


recording: ContextVar[Recorder | None] = ContextVar("tinygraph.recording", default=None)

# Claiming a call for a run is exclusive across all runs of the process.
claiming = RLock()  # a signal handler may cancel a future in the midst of it
if hasattr(os, "register_at_fork"):  # whoever held it is no thread of the child
    os.register_at_fork(after_in_child=claiming._at_fork_reinit)  # type: ignore[attr-defined]

_active = recording.get
_next_number = count().__next__
_new = object.__new__


class Future(Generic[R]):
    """One recorded call: nothing has run until it is resolved.

    >>> from tinygraph import Node
    >>> @Node
    ... def double(x: int) -> int:
    ...     return 2 * x
    >>> future = double(double(3))
    >>> future
    <Future double#... waiting>
    >>> future.resolve(executor="inline"), future.state
    (12, <State.FINISHED: 'finished'>)

    A future stands for its value: pass it to other nodes, index it, calculate with it (each records a call). What
    would need the value now, such as ``if future:`` or ``int(future)``, raises :class:`RecordError`.
    """

    # One object a call, and slots that the engine uses while the call runs, because a million calls are recorded
    # as readily as ten. The names with an underscore belong to the engine.
    __slots__ = (
        "__weakref__",
        "_dependents",
        "_engine",
        "_level",
        "_uses",
        "_waiting",
        "args",
        "began",
        "caller",
        "code",
        "definition",
        "dependencies",
        "depth",
        "ended",
        "expansion",
        "kwargs",
        "lasti",
        "number",
        "state",
        "value",
        "worker",
    )

    # numpy and pandas: let `array + future` and `frame + future` be recorded by the future.
    __array_ufunc__ = None
    __pandas_priority__ = 1_000_000

    args: tuple[Any, ...] | None  # None once the call has finished: it lets go of its inputs
    kwargs: dict[str, Any] | None
    caller: Future[Any] | None
    code: CodeType | Place
    definition: Definition
    dependencies: tuple[Future[Any], ...]
    depth: int
    expansion: Expansion | None
    lasti: int
    number: int
    state: State
    value: Any  # MISSING, the value, or the exception of a call that failed or was skipped
    began: float
    ended: float
    worker: int
    _engine: Any
    _dependents: list[Future[Any]]
    _level: float
    _uses: int
    _waiting: int

    @property
    def name(self) -> str:
        """The name of the node that was called."""
        return self.definition.name

    @property
    def graph(self) -> Graph:
        """Everything that this call reaches, as a graph."""
        from tinygraph.graph import Graph

        return Graph(self)

    @property
    def line(self) -> str:
        """Where the node was called, as ``file:line``."""
        return f"{self.code.co_filename}:{self.lineno}"

    @property
    def lineno(self) -> int:
        """The number of the line on which the node was called."""
        return next((n for start, end, n in self.code.co_lines() if start <= self.lasti < end and n), 0)

    @property
    def duration(self) -> float | None:
        """Seconds from the start of this call to its end, or None while they are not known."""
        return self.ended - self.began if self.state in (FINISHED, State.FAILED) else None

    def resolve(self, *, inputs: dict[str, Any] | None = None, **options: Unpack[RunOptions]) -> R:
        """Run what this call needs and return its value; a second time, the value without running anything.

        >>> from tinygraph import Node
        >>> Node(max)(3, 7).resolve(executor="inline")
        7

        Options are those of :func:`tinygraph.run`. Raises what the node that failed raised.
        """
        from tinygraph.run import run

        return cast(R, run(self, inputs=inputs, **options).value)

    def why(self, *, store: Any = None, inputs: dict[str, Any] | None = None) -> str:
        """Return why this call would run, or ``"hit"`` where a store has its value; nothing runs for it.

        >>> import tempfile
        >>> from tinygraph import Node
        >>> Node(abs)(-3).why(store=tempfile.mkdtemp())
        'never ran'

        ``store``: that of `options()`, if none is given. ``inputs``: as a run takes them.
        """
        from tinygraph.store.explain import why

        return why(self, store, inputs)

    def after(self, *others: Future[Any]) -> Future[R]:
        """Run this call after the others, although it does not use their values; return this call.

        >>> from tinygraph import Node
        >>> make, use = Node(lambda: None, name="make"), Node(lambda: "used", name="use")
        >>> use().after(make()).resolve(executor="inline")
        'used'

        Raises :class:`RecordError` when this call has begun already, or another is no future.
        """
        for other in others:
            if not isinstance(other, Future):
                raise RecordError(f"after() takes futures, not {other!r} ({type(other).__name__})")
        if self.state is not WAITING or self._engine is not None:
            raise RecordError(f"{self.name!r} has begun already: it cannot be put after something else now")
        if self.expansion is None:
            self.dependencies = (*self.dependencies, *others)
        else:  # the body of a component ran at the call: it is its calls that have to wait
            for call in self.expansion.calls:
                call.after(*others)
        return self

    def cancel(self) -> None:
        """Give this call up, from any thread; what needs it is skipped.

        >>> from tinygraph import Node
        >>> future = Node(abs)(-1)
        >>> future.cancel()
        >>> future.resolve(executor="inline")
        Traceback (most recent call last):
        tinygraph.errors.CancelledError: 'abs' was cancelled

        A call that has a value keeps it.
        """
        with claiming:
            engine = self._engine
            if engine is not None and engine.pid != os.getpid():  # only the parent of this process has its run
                engine = self._engine = None
                self.state = self.state if self.state in SETTLED else WAITING
            if engine is None:
                if self.state is WAITING:
                    self.state, self.value = State.CANCELLED, CancelledError(f"{self.name!r} was cancelled")
                return
        engine.post(lambda: engine.cancel(self))
        # Read at once, unless somebody holds the lock: who does reads the news when it is next idle.
        if engine.lock.acquire(blocking=False):
            try:
                engine.read_inbox()
            finally:
                engine.lock.release()

    def __await__(self) -> Generator[Any, None, R]:
        recorder = _active()
        if recorder is not None and recorder.demand is not None:
            value: R = yield from recorder.demand(self).__await__()
            return value
        if recorder is not None:
            self._refuse("await", "make the node an `async def`, or return the future")
        from tinygraph.run import awaited

        answer: R = yield from awaited(self).__await__()
        return answer

    def __repr__(self) -> str:
        return f"<Future {self.name}#{self.number} {self.state}>"

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if args or kwargs:
            self._refuse("call", "call the node itself with all its arguments")
        return self

    def __iter__(self) -> Iterator[Future[Any]]:
        outputs = self.definition.outputs
        if outputs is None:
            self._refuse("iterate over", "declare @Node(outputs=n) to unpack it, or use node.map(future)")
        frame = sys._getframe(1)
        return iter([record(_GET_ITEM, (self, index), None, frame) for index in range(outputs)])

    # Values that are not there yet: every door that would let a future pass for its value is shut.

    def __bool__(self) -> bool:
        self._refuse("test the truth of", "move the condition into the body of a node")

    def __len__(self) -> int:
        self._refuse("take the length of", "record it: Node(len)(future)")

    def __contains__(self, item: object) -> bool:
        self._refuse("search in", "move the test into the body of a node")

    def __int__(self) -> int:
        self._refuse("convert", "record it: Node(int)(future)")

    def __float__(self) -> float:
        self._refuse("convert", "record it: Node(float)(future)")

    def __complex__(self) -> complex:
        self._refuse("convert", "record it: Node(complex)(future)")

    def __index__(self) -> int:
        self._refuse("count with", "move the loop into the body of a node, or use node.map(future)")

    def __format__(self, spec: str) -> str:
        self._refuse("format", "move the text into the body of a node; for debugging use {future!r}")

    def __fspath__(self) -> str:
        self._refuse("open", "move the opening into the body of a node")

    def __bytes__(self) -> bytes:
        self._refuse("convert", "record it: Node(bytes)(future)")

    def __round__(self, digits: int | None = None) -> Any:
        self._refuse("round", "record it: Node(round)(future)")

    def __trunc__(self) -> int:
        self._refuse("round", "record it: Node(int)(future)")

    def __floor__(self) -> int:
        self._refuse("round", "record it: Node(math.floor)(future)")

    def __ceil__(self) -> int:
        self._refuse("round", "record it: Node(math.ceil)(future)")

    def __reversed__(self) -> Iterator[Any]:
        self._refuse("iterate over", "record it: Node(reversed)(future)")

    def __enter__(self) -> Any:
        self._refuse("enter", "use `with` in the body of a node")

    def __exit__(self, *exception: object) -> None:
        self._refuse("leave", "use `with` in the body of a node")

    def __aiter__(self) -> Any:
        self._refuse("iterate over", "await it in an `async def` node, and use `async for` there")

    async def __aenter__(self) -> Any:
        self._refuse("enter", "use `async with` in the body of a node")

    async def __aexit__(self, *exception: object) -> None:
        self._refuse("leave", "use `async with` in the body of a node")

    def __setitem__(self, key: Any, value: Any) -> None:
        self._refuse("change", "change it in the body of a node and return it")

    def __delitem__(self, key: Any) -> None:
        self._refuse("change", "change it in the body of a node and return it")

    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        self._refuse("put {} into an array", "build the array in the body of a node")

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # how libraries ask what an object is: not the user's mistake
            raise AttributeError(name)
        if name == "keys":  # Python asks it of what stands after **, and of what dict() is given
            self._refuse("take the keys of", "unpack it in the body of a node")
        way_out = _OTHER_WORDS.get(name, "read it in the body of a node, or resolve() first")
        raise FutureAttributeError(
            f"{self.name!r} (called at {self.line}) has no value yet, so it has no attribute {name!r}: {way_out}"
        )

    def _refuse(self, verb: str, way_out: str) -> NoReturn:
        what = (
            f"the truth of {self.name!r} is not known yet"
            if verb.startswith("test")
            else f"cannot {verb if '{}' in verb else verb + ' {}'}: it has no value yet".format(repr(self.name))
        )
        error = RecordError(f"{what} (called at {self.line}); {way_out}, or resolve() first")
        recorder = _active()
        if recorder is not None:
            recorder.error = error
        raise error

    # Operators record a call, as arrays and columns do elsewhere. Hashing is by identity.

    __hash__ = object.__hash__

    def __getitem__(self, key: Any) -> Future[Any]:
        return record(_GET_ITEM, (self, key), None, sys._getframe(1))

    if TYPE_CHECKING:  # the others are made by `_operators`, one like the other

        def __add__(self, other: Any) -> Future[Any]: ...
        def __radd__(self, other: Any) -> Future[Any]: ...
        def __sub__(self, other: Any) -> Future[Any]: ...
        def __rsub__(self, other: Any) -> Future[Any]: ...
        def __mul__(self, other: Any) -> Future[Any]: ...
        def __rmul__(self, other: Any) -> Future[Any]: ...
        def __truediv__(self, other: Any) -> Future[Any]: ...
        def __rtruediv__(self, other: Any) -> Future[Any]: ...
        def __floordiv__(self, other: Any) -> Future[Any]: ...
        def __rfloordiv__(self, other: Any) -> Future[Any]: ...
        def __mod__(self, other: Any) -> Future[Any]: ...
        def __rmod__(self, other: Any) -> Future[Any]: ...
        def __matmul__(self, other: Any) -> Future[Any]: ...
        def __rmatmul__(self, other: Any) -> Future[Any]: ...
        def __and__(self, other: Any) -> Future[Any]: ...
        def __rand__(self, other: Any) -> Future[Any]: ...
        def __or__(self, other: Any) -> Future[Any]: ...
        def __ror__(self, other: Any) -> Future[Any]: ...
        def __xor__(self, other: Any) -> Future[Any]: ...
        def __rxor__(self, other: Any) -> Future[Any]: ...
        def __lshift__(self, other: Any) -> Future[Any]: ...
        def __rlshift__(self, other: Any) -> Future[Any]: ...
        def __rshift__(self, other: Any) -> Future[Any]: ...
        def __rrshift__(self, other: Any) -> Future[Any]: ...
        def __divmod__(self, other: Any) -> Future[Any]: ...
        def __rdivmod__(self, other: Any) -> Future[Any]: ...
        def __pow__(self, other: Any, modulo: Any = None) -> Future[Any]: ...
        def __rpow__(self, other: Any) -> Future[Any]: ...
        def __eq__(self, other: object) -> Future[Any]: ...  # type: ignore[override]
        def __ne__(self, other: object) -> Future[Any]: ...  # type: ignore[override]
        def __lt__(self, other: Any) -> Future[Any]: ...
        def __le__(self, other: Any) -> Future[Any]: ...
        def __gt__(self, other: Any) -> Future[Any]: ...
        def __ge__(self, other: Any) -> Future[Any]: ...
        def __neg__(self) -> Future[Any]: ...
        def __pos__(self) -> Future[Any]: ...
        def __abs__(self) -> Future[Any]: ...
        def __invert__(self) -> Future[Any]: ...

    def __reduce__(self) -> tuple[Any, ...]:
        from tinygraph.portable import reduce_future

        return reduce_future(self)


# What other libraries call it.
_OTHER_WORDS = dict.fromkeys(("result", "compute", "get", "run", "execute"), "its value comes from future.resolve()")
_OTHER_WORDS |= dict.fromkeys(("draw", "visualize", "plot"), "its picture comes from future.graph.draw(path)")


def record(
    definition: Definition,
    args: tuple[Any, ...],
    kwargs: dict[str, Any] | None,
    frame: FrameType,
    cls: type[Future[Any]] = Future,
) -> Future[Any]:
    """Record one call; `frame` is the one whose line is shown as the place of the call."""
    future: Future[Any] = _new(cls)
    dependencies = args
    for arg in args:
        kind = type(arg)
        if kind is not Future:
            if kind in ATOMS:
                dependencies = ()
            else:
                args, kwargs, dependencies = capture(definition.name, args, kwargs, Future)
                break
    else:
        if kwargs:
            args, kwargs, dependencies = capture(definition.name, args, kwargs, Future)
        elif dependencies is not args:
            dependencies = tuple([arg for arg in args if type(arg) is Future])
    future.definition = definition
    future.args = args
    future.kwargs = kwargs or None
    future.dependencies = dependencies
    future.number = _next_number()
    future.code = frame.f_code
    future.lasti = frame.f_lasti
    future.expansion = None
    future.state = WAITING
    future.value = MISSING
    future._engine = None
    recorder = _active()
    if recorder is None:
        future.caller = None
        future.depth = 0
    else:
        future.caller = recorder.caller
        future.depth = recorder.depth
        recorder.calls.append(future)
    return future


def needs_of(call: Future[Any]) -> tuple[Future[Any], ...]:
    """Return what a call waits for: once its body has made calls, these.

    >>> from tinygraph import Component, Node
    >>> size = Node(abs)
    >>> [call.name for call in needs_of(Component(lambda x: [size(x), size(x)])(-1))]
    ['abs', 'abs']
    """
    expansion = call.expansion
    return call.dependencies if expansion is None else expansion.calls


def with_each(call: Future[Any], by: Callable[[Future[Any]], Any]) -> tuple[list[Any], dict[str, Any]]:
    """Return the arguments of a call with `by(future)` for each future in them, at any depth.

    >>> from tinygraph import Node
    >>> size = Node(lambda *parts, unit: parts)
    >>> with_each(size(1, [size(2, unit="m")], unit="m"), lambda future: future.name)
    ([1, ['<lambda>']], {'unit': 'm'})
    """

    def replaced(arg: Any) -> Any:
        if isinstance(arg, Future):
            return by(arg)
        return arg.replace(Future, by) if type(arg) is Nested else arg

    args = [replaced(arg) for arg in call.args or ()]
    return args, {name: replaced(arg) for name, arg in (call.kwargs or {}).items()}


def upstream(
    targets: Iterable[Future[Any]], needs: Callable[[Future[Any]], tuple[Future[Any], ...]] = needs_of
) -> list[Future[Any]]:
    """Return the targets and what they need, directly or not, each once and needs first.

    >>> from tinygraph import Node
    >>> size = Node(abs)
    >>> first = size(-1)
    >>> last = size(size(first))
    >>> [call.number - first.number for call in upstream([last, first])]
    [0, 1, 2]

    ``needs`` says what one call needs: no more than what it waits for, if it is left out.
    """
    found: dict[Future[Any], None] = {}
    seen: set[Future[Any]] = set()
    pending = [(target, False) for target in reversed(list(targets))]
    while pending:
        call, complete = pending.pop()
        if complete:
            found[call] = None
        elif call not in seen:
            seen.add(call)
            pending.append((call, True))
            pending.extend([(need, False) for need in reversed(needs(call))])
    return list(found)


def open_up(future: Future[Any], calls: Iterable[Future[Any]], returned: Any) -> Expansion:
    """Note what the body of a call recorded and what it returned, futures included; return its expansion.

    Raises :class:`RecordError` for a future that hides in an object, and RecursionError for a container that holds
    itself.
    """
    forwarded = futures_in(returned, Future, f"{future.name!r} returned an object")
    calls = tuple(calls)
    known = {id(call) for call in calls}
    # What was returned without having been recorded here was captured from outside: it is waited for all the same.
    captured = tuple([call for call in forwarded if id(call) not in known and call.state is not FINISHED])
    future.expansion = Expansion(calls + captured, returned, frozenset([call.number for call in forwarded]))
    return future.expansion


def restored(cls: type[Future[Any]], definition: Definition, place: Place) -> Future[Any]:
    """Return an empty future for a call that another process recorded."""
    future: Future[Any] = _new(cls)
    future.definition = definition
    future.number = _next_number()
    future.code = place
    future.lasti = 0
    future.expansion = None
    future._engine = None
    return future


def copied(future: Future[Any], cls: type[Future[Any]]) -> Future[Any]:
    """Return a waiting copy of a call, without arguments and dependencies."""
    copy: Future[Any] = _new(cls)
    copy.definition = future.definition
    copy.args, copy.kwargs, copy.dependencies = None, None, ()
    copy.number = _next_number()
    copy.caller, copy.depth = future.caller, future.depth
    code = future.code
    copy.code, copy.lasti = Place(code.co_filename, code.line) if type(code) is Place else code, future.lasti
    copy.expansion = None
    copy.state, copy.value = WAITING, MISSING
    copy._engine = None
    return copy


def fetched(value: Any) -> Any:
    """Return a value, from elsewhere if it must be."""
    return value.fetch() if isinstance(value, Elsewhere) else value


def _operators() -> None:
    """Give `Future` the operators: each records a call of its function in the module `operator`."""
    import operator

    def forward(definition: Definition) -> Callable[..., Future[Any]]:
        return lambda self, other: record(definition, (self, other), None, sys._getframe(1))

    def backward(definition: Definition) -> Callable[..., Future[Any]]:
        return lambda self, other: record(definition, (other, self), None, sys._getframe(1))

    def power(definition: Definition) -> Callable[..., Future[Any]]:
        def raised(self: Future[Any], other: Any, modulo: Any = None) -> Future[Any]:
            args = (self, other) if modulo is None else (self, other, modulo)
            return record(definition, args, None, sys._getframe(1))

        return raised

    def single(definition: Definition) -> Callable[..., Future[Any]]:
        return lambda self: record(definition, (self,), None, sys._getframe(1))

    both = (
        "add",
        "sub",
        "mul",
        "truediv",
        "floordiv",
        "mod",
        "pow",
        "matmul",
        "and_",
        "or_",
        "xor",
        "lshift",
        "rshift",
    )
    for name in both:
        definition = Definition(getattr(operator, name), Kind.LEAF, name=name.strip("_"), check=False)
        setattr(Future, f"__{definition.name}__", forward(definition))
        setattr(Future, f"__r{definition.name}__", backward(definition))
    definition = Definition(divmod, Kind.LEAF, outputs=2, check=False)
    for method, recorded in (
        ("__pow__", power(Definition(pow, Kind.LEAF, check=False))),
        ("__divmod__", forward(definition)),
        ("__rdivmod__", backward(definition)),
    ):
        setattr(Future, method, recorded)
    for name in ("eq", "ne", "lt", "le", "gt", "ge"):
        definition = Definition(getattr(operator, name), Kind.LEAF, check=False)
        setattr(Future, f"__{name}__", forward(definition))
    for name in ("neg", "pos", "abs", "invert"):
        definition = Definition(getattr(operator, name), Kind.LEAF, check=False)
        setattr(Future, f"__{name}__", single(definition))


def _get_item(value: Any, key: Any) -> Any:
    return value[key]


Definition.stand_in = Future

# Of the kind that runs in the driver: picking an item is less work than sending the container to a worker.
_GET_ITEM = Definition(_get_item, Kind.COMPOSITE, name="getitem", check=False)
_operators()
