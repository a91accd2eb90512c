"""What surrounds a node that is no argument of it: context variables, environment, folder, path, filters, limits.

In a worker process it is as it was in the thread that resolves, at the time of resolving: a snapshot goes to each
worker before its next task, if it is another than the one that the worker has. What a node changes of it is undone
before the next task, and so are the signals that it handles and the timers that it has set.

Context variables are known by the module that holds them. Their values travel if they can be pickled; those of modules
that a worker has not imported wait until it has.
"""

from __future__ import annotations

import importlib
import io
import logging
import os
import pickle
import signal
import sys
import warnings
from collections import ChainMap
from collections.abc import Callable
from contextvars import Context, ContextVar, copy_context
from functools import cache, lru_cache
from types import FrameType
from typing import Any, ClassVar, NamedTuple

_OURS = "tinygraph."
_DECIMAL = "decimal_context"
# These a worker got when it was started, so that workers times threads are no more than the cores.
THREAD_LIMITS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")


class Snapshot(NamedTuple):
    """What surrounds the thread that resolves."""

    folder: str | None
    environment: dict[str, str]
    path: list[str]
    recursion: int  # how deep
    filters: tuple[tuple[str, bytes], ...]  # the module of the category, which need not be there; and the filter
    levels: dict[str, int]
    disabled: int  # the level up to which all logging is
    variables: list[tuple[bytes, tuple[str, str], bytes]]  # the variable, the attribute that it is, its value


def snapshot() -> bytes:
    """Return what surrounds this thread, for a worker."""
    pickler()  # before anything crosses
    return pickle.dumps(
        Snapshot(
            folder=_folder(),
            environment=dict(os.environ),
            path=[str(entry) for entry in sys.path],
            recursion=sys.getrecursionlimit(),
            filters=_filters(),
            levels={name: logger.level for name, logger in _loggers() if logger.level},
            disabled=logging.root.manager.disable,
            variables=_variables(),
        )
    )


_filters_known: list[Any] = [[], ()]  # what the filters were when they were last packed, and what became of them


def _filters() -> tuple[tuple[str, bytes], ...]:
    if _filters_known[0] != warnings.filters:
        packed = [(one[2].__module__.replace("__main__", ""), _packed(one)) for one in warnings.filters]
        _filters_known[:] = list(warnings.filters), tuple([one for one in packed if one[1]])
    return _filters_known[1]  # type: ignore[no-any-return]


def _folder() -> str | None:
    try:
        return os.getcwd()
    except OSError:  # it was removed
        return None


def _loggers() -> list[tuple[str, logging.Logger]]:
    named = logging.root.manager.loggerDict.copy().items()
    return [("", logging.root), *[(name, one) for name, one in named if isinstance(one, logging.Logger)]]


def _variables() -> list[tuple[bytes, tuple[str, str], bytes]]:
    found = []
    for variable, value in copy_context().items():
        if variable.name.startswith(_OURS):
            continue
        packed = _packed(value)
        if not packed:
            continue
        if variable.name == _DECIMAL:  # the one variable in C that changes results: it is set by its module
            found.append((b"", ("decimal", "setcontext"), packed))
        else:
            found.append((dumps(variable), _place(variable), packed))
    return found


def _packed(thing: Any) -> bytes:
    try:
        return dumps(thing)
    except Exception:  # what cannot travel stays
        return b""


# Pickling


@cache
def pickler() -> Any:
    """Return the class of picklers for what goes to workers: cloudpickle's, for context variables and cached functions
    as well.
    """
    import cloudpickle
    from cloudpickle.cloudpickle import _is_registered_pickle_by_value, _lookup_module_and_qualname

    def reduce_cached(function: Any) -> Any:
        found = _lookup_module_and_qualname(function)
        if found is not None and not _is_registered_pickle_by_value(found[0]):
            return function.__reduce__()  # by name
        parameters = function.cache_parameters()
        return _cached, (parameters["maxsize"], parameters["typed"], function.__wrapped__)

    # Arguments and values cross with cloudpickle's own pickler, which would send the name and nothing else.
    cloudpickle.Pickler.dispatch_table.setdefault(type(pickler), reduce_cached)

    class Pickler(cloudpickle.Pickler):  # type: ignore[misc]
        dispatch_table: ClassVar[Any] = ChainMap({ContextVar: _reduce}, cloudpickle.Pickler.dispatch_table)

    return Pickler


def _cached(maxsize: int | None, typed: bool, function: Callable[..., Any]) -> Any:
    """Return a function with a cache of its own: that of the parent stays there."""
    pickler()  # it may go back
    return lru_cache(maxsize, typed)(function)


def dumps(thing: Any) -> bytes:
    """Pickle something for a worker."""
    with io.BytesIO() as file:
        pickler()(file, protocol=5).dump(thing)
        return file.getvalue()


_places: dict[int, tuple[ContextVar[Any], tuple[str, str]]] = {}  # variables live as long as their program
_made: dict[tuple[str, str], ContextVar[Any]] = {}


def _reduce(variable: ContextVar[Any]) -> tuple[Any, ...]:
    place = _place(variable)
    if place[0]:
        return _imported, place
    default: tuple[Any, ...]
    try:
        default = (Context().run(variable.get),)
    except LookupError:
        default = ()
    return _own, (place, variable.name, default)


def _place(variable: ContextVar[Any]) -> tuple[str, str]:
    """Return the module and the attribute that a variable is; without a module, what tells it from others."""
    known = _places.get(id(variable))
    if known is None:
        known = _places[id(variable)] = variable, _find(variable)
    return known[1]


def _find(variable: ContextVar[Any]) -> tuple[str, str]:
    main = sys.modules.get("__main__")  # which goes by other names, too
    for module_name, module in list(sys.modules.items()):
        if module is not main:
            for name, value in list(getattr(module, "__dict__", {}).items()):
                if value is variable:
                    return module_name, name
    return "", f"{os.getpid()}-{id(variable)}"


def _imported(module: str, name: str) -> ContextVar[Any]:
    return getattr(importlib.import_module(module), name)  # type: ignore[no-any-return]


def _own(place: tuple[str, str], name: str, default: tuple[Any, ...]) -> ContextVar[Any]:
    """Return the variable of this process that stands for one of another: always the same."""
    for known, where in list(_places.values()):  # it came home
        if where == place:
            return known
    variable = _made.get(place)
    if variable is None:
        variable = _made[place] = ContextVar(name, default=default[0]) if default else ContextVar(name)
        _places[id(variable)] = variable, place
    return variable


# In the worker


class Surroundings:
    """What surrounds the tasks of a worker."""

    def __init__(self) -> None:
        self._bare = copy_context()
        self.context = self._bare  # each task runs in a copy of it
        self._noted = False  # whether a task has changed what is told of below
        self.streams = sys.stdout, sys.stderr
        self._limits = {name: os.environ[name] for name in THREAD_LIMITS if name in os.environ}
        self._by_imports: dict[str, str | None] = {}
        self._snapshot: Snapshot | None = None
        self._later: list[tuple[tuple[str, str], bytes]] = []
        self._filters_later: set[str] = set()  # modules whose warnings have filters
        self._recursion = 0  # how deep, at least: as a module has set it when it was imported
        self._path = list(sys.path)
        self._filters = list(warnings.filters)
        self._showwarning = warnings.showwarning
        self._handlers: dict[int, Any] = {}  # of signals, as they were before the task
        self._timers: set[int] = set()  # that it has set
        self._chdir, self._limit_recursion, self._handle = os.chdir, sys.setrecursionlimit, signal.signal
        # Only what is told can be undone at no cost: to ask for folder and environment after each task would have one.
        os.chdir = self._noting(os.chdir)
        sys.setrecursionlimit = self._noting_limit(sys.setrecursionlimit)
        signal.signal = self._noting_handler(signal.signal)
        if hasattr(signal, "setitimer"):
            self._stop_timer = signal.setitimer
            signal.setitimer = self._noting_timer(signal.setitimer)
            signal.alarm = self._noting_alarm(signal.alarm)
        os.fchdir = self._noting(os.fchdir)
        os.putenv = self._noting_environment(os.putenv)
        os.unsetenv = self._noting_environment(os.unsetenv)

    @property
    def changed(self) -> bool:
        """Whether a task has changed what surrounds it. Asked after each: the lists are short, and mostly the same."""
        return (
            self._noted
            or sys.path != self._path
            or warnings.filters != self._filters
            or warnings.showwarning is not self._showwarning
        )

    def _noting(self, change: Callable[..., None]) -> Callable[..., None]:
        def noted(*args: Any) -> None:
            self._noted = True
            change(*args)

        return noted

    def _noting_limit(self, change: Callable[[int], None]) -> Callable[[int], None]:
        def noted(limit: int) -> None:
            change(limit)
            if _importing():
                self._recursion = max(limit, self._recursion)
            else:
                self._noted = True

        return noted

    def _noting_handler(self, change: Callable[..., Any]) -> Callable[..., Any]:
        def noted(number: int, handler: Any) -> Any:
            before = change(number, handler)
            if not _importing():
                self._noted = True
                self._handlers.setdefault(int(number), before)
            return before

        return noted

    def _noting_timer(self, change: Callable[..., Any]) -> Callable[..., Any]:
        def noted(which: int, *times: float) -> Any:
            self._noted = True
            self._timers.add(which)
            return change(which, *times)

        return noted

    def _noting_alarm(self, change: Callable[..., Any]) -> Callable[..., Any]:
        def noted(seconds: int) -> Any:
            self._noted = True
            self._timers.add(signal.ITIMER_REAL)
            return change(seconds)

        return noted

    def _noting_environment(self, change: Callable[..., None]) -> Callable[..., None]:
        def noted(name: Any, *value: Any) -> None:
            change(name, *value)
            if _importing():  # what a module sets for itself is not set again, as no module is imported again
                self._by_imports[os.fsdecode(name)] = os.fsdecode(value[0]) if value else None
            else:
                self._noted = True

        return noted

    def become(self, packed: bytes) -> None:
        """Take over what surrounds the thread that resolves."""
        before, self._snapshot = self._snapshot, pickle.loads(packed)
        now = self._snapshot
        assert now is not None
        added = [entry for entry in sys.path if before is not None and entry not in before.path]  # by a node's imports
        sys.path[:] = self._path = now.path + [entry for entry in added if entry not in now.path]
        self._set_filters()
        for name in set(now.levels) | set(before.levels if before is not None else ()):
            logging.getLogger(name or None).setLevel(now.levels.get(name, logging.NOTSET))
        logging.disable(now.disabled)
        self.context = self._bare.copy()
        self._later = []
        for variable, place, value in now.variables:
            if place[0]:
                self._later.append((place, value))
                continue
            try:
                self.context.run(pickle.loads(variable).set, pickle.loads(value))
            except Exception:  # whatever a user's class does when it is unpickled
                continue
        self._set_variables()
        self.undo()

    def catch_up(self) -> None:
        """Take over what concerns modules that a task has just imported: for itself, and for those to come."""
        if not self._filters_later.isdisjoint(sys.modules):
            self._set_filters()
        for change, value in self._set_variables():
            change(value)

    def _set_variables(self) -> list[tuple[Callable[[Any], Any], Any]]:
        done: list[tuple[Callable[[Any], Any], Any]] = []
        for entry in self._later[:]:
            (module, name), packed = entry
            if module not in sys.modules and module != "decimal":
                continue
            self._later.remove(entry)
            try:
                found = getattr(importlib.import_module(module), name)
                change, value = found.set if isinstance(found, ContextVar) else found, pickle.loads(packed)
                self.context.run(change, value)
                done.append((change, value))
            except Exception:  # a value whose class is not to be had here, or a module that has changed
                continue
        return done

    def _set_filters(self) -> None:
        assert self._snapshot is not None
        self._filters_later = set()
        warnings.resetwarnings()
        for module, packed in self._snapshot.filters:
            if module and module not in sys.modules:
                self._filters_later.add(module)
                continue
            try:
                warnings.filters.append(pickle.loads(packed))  # type: ignore[attr-defined]
            except Exception:  # a category that is not to be had here
                continue
        self._filters = list(warnings.filters)

    def undo(self) -> None:
        """Put back what a task has changed, where `changed` says so, or a look at the streams."""
        now = self._snapshot
        sys.stdout, sys.stderr = self.streams
        for which in self._timers:
            self._stop_timer(which, 0.0)
        for number, handler in self._handlers.items():
            self._handle(number, signal.SIG_DFL if handler is None else handler)
        self._timers.clear()
        self._handlers.clear()
        if warnings.filters != self._filters:
            warnings.resetwarnings()  # which tells the interpreter, too, that they have changed
            warnings.filters[:] = self._filters  # type: ignore[index]
        warnings.showwarning = self._showwarning
        if sys.path != self._path:
            # What it has added stays, as what it has imported from there does.
            sys.path[:] = self._path = self._path + [entry for entry in sys.path if entry not in self._path]
        if now is not None:
            try:
                self._limit_recursion(max(now.recursion, self._recursion))
            except RecursionError:  # this process is deeper already
                pass
            wanted: dict[str, str | None] = {**self._by_imports, **self._limits, **now.environment}
            for name in set(os.environ) | set(wanted):
                value = wanted.get(name)
                if value is None:
                    os.environ.pop(name, None)
                elif os.environ.get(name) != value:
                    os.environ[name] = value
            if now.folder is not None and _folder() != now.folder:
                try:
                    self._chdir(now.folder)
                except OSError:  # it was removed since
                    pass
        self._noted = False


def _importing() -> bool:
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        if frame.f_code.co_name == "exec_module" and "importlib" in frame.f_code.co_filename:
            return True
        frame = frame.f_back
    return False
