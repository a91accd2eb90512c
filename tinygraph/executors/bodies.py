"""Run the body of one call in this process, whatever sort of callable its node holds."""

from __future__ import annotations

import itertools
import os
import threading
import warnings
from collections.abc import Callable
from time import perf_counter
from typing import Any

from tinygraph.capture import ATOMS
from tinygraph.checks import check_arguments, parameters_of, surely_fit
from tinygraph.definition import Definition, Kind
from tinygraph.engine import Engine, expands, in_driver
from tinygraph.errors import NodeError, NodeExit, NodeTimeout
from tinygraph.future import Elsewhere, Future, Recorder, recording, with_each
from tinygraph.seeds import Source, restore, source, sow, states

_LEAF = Kind.LEAF  # looked up at every call, and an enum's attribute is slow


class Recipe:
    """The value of a recorded construction: how to make the object, where it is needed.

    Each worker makes its own, once for each run. A recipe that is unpickled is the object itself.
    """

    __slots__ = ("args", "cls", "identity", "kwargs")

    def __init__(self, cls: type, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        # Two programs may share a cluster, and a forked child has its parent's numbers.
        self.identity = f"{_TOKEN}-{os.getpid()}-{next(_numbers)}"
        self.cls = cls
        self.args = args
        self.kwargs = kwargs

    def make(self) -> Any:
        """Return a new object."""
        return self.cls(*self.args, **self.kwargs)

    def __repr__(self) -> str:
        named = [f"{name}={value!r}" for name, value in self.kwargs.items()]
        return f"{self.cls.__name__}({', '.join([*map(repr, self.args), *named])})"

    def __reduce__(self) -> tuple[Any, ...]:
        here.sent_recipe = True
        return _live, (self.identity, self.cls, self.args, self.kwargs)


class Bodies:
    """One worker of this process: runs bodies, one at a time, and keeps the objects that they share.

    Use it in a `with` block, in the thread that works: bodies record their calls in its recorder, and at the end its
    objects are closed.
    """

    def __init__(self, engine: Engine, worker: int) -> None:
        self.engine = engine
        self.worker = worker
        self._recorder = Recorder()
        self._objects: dict[str, Any] = {}
        if engine.seeds is not None:
            self.perform = self._sow_and_perform  # type: ignore[method-assign]

    def __enter__(self) -> Bodies:
        self._token = recording.set(self._recorder)
        if self.engine.seeds is not None:
            self._states = states()
        return self

    def __exit__(self, *exception: object) -> None:
        if self.engine.seeds is not None and not self._on_threads:
            restore(self._states)
        recording.reset(self._token)
        self.close()

    def perform(self, call: Future[Any]) -> None:
        """Run the body of a call and tell the engine what came out. Holds the engine's lock when it returns."""
        engine, recorder, definition = self.engine, self._recorder, call.definition
        recorder.caller = call
        recorder.depth = call.depth + 1
        began = perf_counter()
        try:
            args: Any = call.args
            if definition.kind is _LEAF and not call.kwargs and not engine.elsewhere:
                needs = call.dependencies
                if needs is args:
                    args = [need.value for need in needs]
                elif needs:
                    args = self.arguments(call)[0]
                if definition._checks and not surely_fit(definition.columns, args):
                    value = run_body(definition, args, {})
                else:
                    value = definition.function(*args)
            else:
                args = None  # not to be held while the engine looks for who still holds what
                value = run_body(definition, *self.arguments(call))
        except BaseException as error:
            if engine.elsewhere:
                touch(engine, call)
            engine.lock.acquire()
            recorder.calls, recorder.error = [], None
            if issubclass(type(error), KeyboardInterrupt) and threading.current_thread() is threading.main_thread():
                raise  # the user's own Ctrl-C, while a body ran in the main thread
            tail = BaseException.__getattribute__(error, "__traceback__").tb_next
            if tail is not None:
                BaseException.with_traceback(error, tail)  # from the user's frame on; by assignment a class may refuse
            engine.raised(call, as_raised(definition.name, error), began, self.worker)
            return
        recorder.caller = None
        if engine.elsewhere:
            touch(engine, call)
        made, ended = recorder.calls, None
        if engine.recall is not None and recorder.error is None and not expands(call, value, made):
            ended = perf_counter()
            value = engine.recall.keep(call, value, ended - began)
        engine.lock.acquire()
        if made or recorder.error is not None:
            recorder.calls = []
            swallowed, recorder.error = recorder.error, None
            if swallowed is not None:
                engine.raised(call, swallowed, began, self.worker)
                return
        engine.settle(call, value, made, began, self.worker, ended)

    @property
    def _on_threads(self) -> bool:
        """Whether bodies run beside this one that share what `random` and `numpy.random` have."""
        return self.worker >= 0 and self.engine.home is not self.engine.driver

    def _sow_and_perform(self, call: Future[Any]) -> None:
        assert self.engine.seeds is not None
        seed = self.engine.seeds.of(call)
        if self._on_threads:
            source.set(Source(seed))
        else:
            sow(seed, call.definition.function)
        Bodies.perform(self, call)

    def arguments(self, call: Future[Any]) -> tuple[list[Any], dict[str, Any]]:
        """Return the arguments of a call as values that a body can use here."""
        return arguments_of(call, self.usable)

    def close(self) -> None:
        """Close the objects that were made here."""
        objects, self._objects = self._objects, {}
        for thing in objects.values():
            close(thing)

    def usable(self, value: Any) -> Any:
        """Return a value as a body can use it here: fetched from elsewhere, made from its recipe."""
        if isinstance(value, Elsewhere):
            return value.fetch()
        if type(value) is not Recipe:
            return value
        thing = self._objects.get(value.identity)
        if thing is None:
            thing = self._objects[value.identity] = value.make()
        return thing


def arguments_of(call: Future[Any], use: Callable[[Any], Any]) -> tuple[list[Any], dict[str, Any]]:
    """Return the arguments of a call with `use(value)` for each future in them."""
    return with_each(call, lambda future: use(future.value))


def touch(engine: Engine, call: Future[Any]) -> None:
    """Note that a body ran here, if it may have changed an object that worker processes were sent, or will be."""
    definition = call.definition
    if in_driver(definition):  # it is here to record calls, and gets at nothing but its arguments, if at that
        if getattr(definition.function, "__module__", None) == Future.__module__:  # an item of a future: ours
            return
        args = (*(call.args or ()), *(call.kwargs or {}).values())
        values = [arg.value if type(arg) is Future else arg for arg in args]
        if all(type(value) in ATOMS or isinstance(value, Elsewhere) for value in values):
            return  # nothing to change, or made anew for each body
    engine.touched = True


def run_body(definition: Definition, args: list[Any], kwargs: dict[str, Any]) -> Any:
    """Run the body of a node with arguments that are values."""
    function = definition.function
    checks = definition.checks
    if checks:
        check_arguments(definition.name, checks, parameters_of(function), args, kwargs, Future)
    if definition.kind is Kind.STATEFUL:
        return Recipe(function, tuple(args), kwargs)  # type: ignore[arg-type]
    value = function(*args, **kwargs)
    if definition.kind is not Kind.GENERATOR:
        return value
    items = []
    while True:
        try:
            items.append(next(value))
        except StopIteration as end:
            return items if end.value is None else end.value


def too_slow(call: Future[Any], end: str) -> NodeTimeout:
    """Return the error of a call that took longer than its node allows; `end` says what became of it."""
    return NodeTimeout(f"{call.name!r} took longer than its timeout of {call.definition.timeout:g} s; {end}")


def as_raised(name: str, error: BaseException) -> BaseException:
    """Return what a node raised as everybody can deal with it: nearly always itself.

    A node's `sys.exit` is an error of the node, not the end of the program. And what cannot even be asked for its
    class, because its `__getattribute__` raises, would break whoever looks at it.
    """
    try:
        if not isinstance(error, SystemExit):
            return error
        said = NodeExit(f"{name!r} called sys.exit({error.code!r})")
        said.__cause__ = error
        return said
    except BaseException:
        kind = type(error).__name__
        return NodeError(f"{name!r} raised {kind}, which cannot be looked at", type_name=kind, traceback="")


def close(thing: Any) -> None:
    """Close an object as its class asks for: `close()`, else `__exit__`. What goes wrong with that is a warning."""
    try:
        closing = getattr(thing, "close", None)
        if callable(closing):
            closing()
        elif hasattr(type(thing), "__exit__"):
            thing.__exit__(None, None, None)
    except (Exception, SystemExit) as error:
        try:
            name = type(thing).__name__
            warnings.warn(f"{name} could not be closed: {type(error).__name__}: {error}", RuntimeWarning, stacklevel=2)
        except Exception:  # an error that cannot be told, or warnings are errors: those of the next object, not of this
            return


# In a worker process


class Here(threading.local):
    """What a thread that works for another process has at hand while it reads and writes pickles."""

    objects: dict[str, Any] | None = None  # those that recipes make, by identity; None where nobody closes them
    sent_recipe = False  # whether a recipe was pickled


here = Here()
_TOKEN = os.urandom(8).hex()
_numbers = itertools.count(1)
_kept: dict[str, Any] = {}  # where nobody says when a run is over


def _live(identity: str, cls: type, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Return the object of a recipe in a worker process: made when it first arrives there."""
    objects = here.objects
    if objects is None:
        objects = _kept
        if not _kept:
            from multiprocessing import util

            # Not by `atexit`, which workers of `multiprocessing` do not come to. They come to this, and others as well.
            util.Finalize(None, _close_kept, exitpriority=10)
    thing = objects.get(identity)
    if thing is None:
        thing = objects[identity] = cls(*args, **kwargs)
    return thing


def _close_kept() -> None:
    while _kept:
        close(_kept.popitem()[1])
