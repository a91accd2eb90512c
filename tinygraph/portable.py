"""How nodes and futures cross to another process: nodes by name where they can be imported, futures as a flat table."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterable
from time import monotonic
from types import FrameType, ModuleType
from typing import Any
from weakref import WeakValueDictionary

from tinygraph.capture import Nested, futures_in
from tinygraph.future import MISSING, SETTLED, Expansion, Future, Place, State, fetched, restored, upstream

# Futures that have crossed, so that one that comes twice, or comes home, is one. It keeps none of them alive.
_known: WeakValueDictionary[tuple[str, int], Future[Any]] = WeakValueDictionary()
_process: list[str] = []
_scripts: set[str] = set()  # modules that no other process is to import, or could


class Ref:
    """The place of a future in a table."""

    __slots__ = ("index",)

    def __init__(self, index: int) -> None:
        self.index = index


def reduce_node(node: Any) -> tuple[Any, ...]:
    """Pickle a node: by name where that name leads to it, else by its function and options."""
    if is_importable(node):
        return _node_by_name, (node.__dict__["__module__"], node.__dict__["__qualname__"])
    # The state comes after the object, so that a function that names its own node finds it in the pickle's memo.
    return _empty, (type(node),), node.__getstate__()


def spare_scripts() -> None:
    """Let what is defined in modules whose top level is waiting for us travel as code, from now on.

    Such a module is a script without a guard: another process that imported it would run it once more.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_name == "<module>":
            name = frame.f_globals.get("__name__")
            module = sys.modules.get(str(name))
            if name != "__main__" and name not in _scripts and vars(module or object) is frame.f_globals:
                _send_as_code(str(name))
        frame = frame.f_back
    _meet_modules()


def _send_as_code(module: str) -> None:
    """Let what is defined in a module travel as code, and not by its name."""
    import cloudpickle

    cloudpickle.register_pickle_by_value(sys.modules[module])
    _scripts.add(module)


def is_importable(node: Any) -> bool:
    """Whether another process finds a node by its name."""
    _meet_modules()
    module, name = node.__dict__.get("__module__"), node.__dict__.get("__qualname__")
    if module == "__main__" or module not in sys.modules or module in _scripts:
        return False
    found: Any = sys.modules[module]
    for part in str(name).split("."):
        found = getattr(found, part, None)
    return found is node


# The user's modules. Nodes travel by name where they can be imported, so other processes must find what is here.

_LIBRARIES = os.path.dirname(os.__file__) + os.sep
_LOOK = 1.0  # seconds between two looks at their files

Stamp = tuple[int, int] | None  # of a file: when it was changed last, and its size


class _Modules:
    """What is known of them."""

    def __init__(self) -> None:
        self.met: set[str] = set()  # by name, those of libraries as well
        self.last: tuple[int, str] = 0, ""  # how many modules there were, and the last, when they were met
        self.own: dict[str, tuple[Any, Stamp]] = {}  # how each was loaded, and its file as it was then
        self.edition = 0
        self.looked = 0.0


_modules = _Modules()


def edition() -> int:
    """Return a number that is another one once a module of the user's has been reloaded, or imported anew.

    Whoever imported it before has the old code. Asked at each run, so it looks at no more than a few names.
    """
    _meet_modules()
    loaded = sys.modules.get
    for name, (spec, _) in list(_modules.own.items()):
        now = getattr(loaded(name), "__spec__", spec)
        if now is not spec:
            _modules.own[name] = now, _stamp(now)
            _modules.edition += 1
    if monotonic() > _modules.looked + _LOOK:
        _modules.looked = monotonic()
        _tell_of_edits()
    return _modules.edition


def _tell_of_edits() -> None:
    for name, (spec, stamp) in list(_modules.own.items()):
        now = _stamp(spec)
        if now != stamp and name in sys.modules:
            _modules.own[name] = spec, now
            warnings.warn(
                f"the file of module {name!r} has changed since it was imported here: worker processes that start from "
                f"now on run what it says now, and this one what it said then; reload the module, or start anew",
                RuntimeWarning,
                stacklevel=2,
            )


def _meet_modules() -> None:
    """Look at modules that are new here: which are the user's, and could another process import them?"""
    modules: dict[str, Any] = sys.modules  # anything may be in there
    last = len(modules), next(reversed(modules))
    if last == _modules.last:
        return
    _modules.last = last
    for name, module in list(modules.items()):
        if name in _modules.met:
            continue
        _modules.met.add(name)
        known = object.__getattribute__(module, "__dict__") if isinstance(module, ModuleType) else {}
        spec = known.get("__spec__")
        if known.get("__name__") != name or not _is_own(name, spec):
            continue
        if spec is not None:
            _modules.own[name] = spec, _stamp(spec)
        if name not in _scripts and not _is_found(name, spec):
            _send_as_code(name)


def _is_own(name: str, spec: Any) -> bool:
    """Whether a module is the user's, and no part of a library."""
    top = name.partition(".")[0]
    if top in ("__main__", "__mp_main__", "tinygraph") or top in sys.stdlib_module_names:
        return False
    if spec is None:  # made by hand: by whoever made the package that it is in
        above = sys.modules.get(top) if top != name else None
        return above is None or _is_own(top, getattr(above, "__spec__", None))
    place = spec.origin or next(iter(spec.submodule_search_locations or ()), "")
    return place not in ("built-in", "frozen") and not (
        place.startswith(_LIBRARIES) or "site-packages" in place or "dist-packages" in place
    )


def _is_found(name: str, spec: Any) -> bool:
    """Whether another process that imports a module gets this one."""
    if spec is None or spec.name != name or (spec.origin is None and spec.submodule_search_locations is None):
        return False
    package = name.rpartition(".")[0]
    path = getattr(sys.modules.get(package), "__path__", None) if package else None
    for finder in sys.meta_path:
        try:
            found = finder.find_spec(name, path, None)
        except Exception:  # of somebody's own
            continue
        if found is not None:
            # A finder of the program's own is not there in other processes, unless it is an installer's, of files.
            return found.origin == spec.origin and (spec.origin is None or os.path.exists(_file_of(spec.origin)))
    return False


def _file_of(origin: str) -> str:
    return origin.partition(".zip")[0] + ".zip" if ".zip" + os.sep in origin else origin


def _stamp(spec: Any) -> Stamp:
    try:
        seen = os.stat(spec.origin)
    except (OSError, TypeError):  # it has none, or has it no more
        return None
    return seen.st_mtime_ns, seen.st_size


def reduce_future(future: Future[Any]) -> tuple[Any, ...]:
    """Pickle a future with everything that it needs, as one flat table."""
    import cloudpickle

    return _future_from, (cloudpickle.dumps(table([future])), _identity(future))


def pack(value: Any, made: list[Future[Any]]) -> tuple[Any, list[dict[str, Any]], list[int]]:
    """Take apart what a body returned and recorded: the value with references, the table, the calls it made."""
    rows = table([*made, *futures_in(value, Future)])
    index = {row["identity"]: i for i, row in enumerate(rows)}
    packed = Nested(value).replace(Future, lambda future: Ref(index[_identity(future)]))
    return packed, rows, [index[_identity(call)] for call in made]


def unpack(packed: Any, rows: list[dict[str, Any]], made: list[int]) -> tuple[Any, list[Future[Any]]]:
    """Put together again what `pack` took apart."""
    futures = from_table(rows)
    value = Nested(packed).replace(Ref, lambda ref: futures[ref.index])
    return value, [futures[i] for i in made]


def table(futures: Iterable[Future[Any]]) -> list[dict[str, Any]]:
    """Return the futures and all that they need as rows, needs first."""
    calls = upstream(futures, _needs)
    index = {call: i for i, call in enumerate(calls)}

    def ref(future: Future[Any]) -> Ref:
        return Ref(index[future])

    rows = []
    for call in calls:
        expansion = call.expansion
        settled = call.state in SETTLED
        rows.append(
            {
                "identity": _identity(call),
                "class": type(call),
                "definition": call.definition,
                "args": None if call.args is None or settled else Nested(call.args).replace(Future, ref),
                "kwargs": None if not call.kwargs or settled else Nested(call.kwargs).replace(Future, ref),
                "needs": [] if settled else [index[need] for need in call.dependencies],
                "calls": None if expansion is None or settled else [index[inner] for inner in expansion.calls],
                "template": None if expansion is None or settled else Nested(expansion.template).replace(Future, ref),
                "file": call.code.co_filename,
                "line": call.lineno,
                "depth": call.depth,
                "caller": index.get(call.caller) if call.caller is not None else None,
                "state": call.state if settled else State.WAITING,
                "value": fetched(call.value) if settled else MISSING,
                "extra": {} if type(call) is Future else _own(call),
            }
        )
    return rows


def from_table(rows: list[dict[str, Any]]) -> list[Future[Any]]:
    """Return the futures of a table; one that this process knows already stays what it is."""
    futures: list[Future[Any]] = []
    fresh = []
    for row in rows:
        future = _known.get(row["identity"])
        if future is None:
            future = restored(row["class"], row["definition"], Place(row["file"], row["line"], row["identity"]))
            _known[row["identity"]] = future
            fresh.append((future, row))
        futures.append(future)
    for future, row in fresh:
        _fill(future, row, futures)
    return futures


def _fill(future: Future[Any], row: dict[str, Any], futures: list[Future[Any]]) -> None:
    def back(ref: Ref) -> Future[Any]:
        return futures[ref.index]

    future.args = _rewrapped(row["args"], back)
    future.kwargs = (
        None if row["kwargs"] is None else {key: _rewrapped((value,), back)[0] for key, value in row["kwargs"].items()}
    )
    future.dependencies = tuple([futures[i] for i in row["needs"]])
    if row["calls"] is not None:
        template = Nested(row["template"]).replace(Ref, back)
        returned = frozenset([call.number for call in futures_in(template, Future)])
        future.expansion = Expansion(tuple([futures[i] for i in row["calls"]]), template, returned)
    future.depth = row["depth"]
    future.caller = None if row["caller"] is None else futures[row["caller"]]
    future.state = row["state"]
    future.value = row["value"]
    if future.state is not State.WAITING:
        future.began = future.ended = 0.0
    for name, value in row["extra"].items():
        setattr(future, name, value)


def _rewrapped(args: Any, back: Any) -> Any:
    """Put futures back into arguments: bare ones as they are, the others in a container that is filled later."""
    if args is None:
        return None
    kept = []
    for arg in args:
        if type(arg) is Ref and type(back(arg)) is Future:
            kept.append(back(arg))
            continue
        filled = Nested(arg).replace(Ref, back)
        kept.append(Nested(filled) if futures_in(filled, Future) else filled)
    return tuple(kept)


def _needs(call: Future[Any]) -> tuple[Future[Any], ...]:
    """Return what a row refers to: of a call that has settled nothing but its value travels."""
    if call.state in SETTLED:
        return ()
    return call.dependencies if call.expansion is None else (*call.dependencies, *call.expansion.calls)


def _own(call: Future[Any]) -> dict[str, Any]:
    """Return what a call of a special kind, such as an input, has besides what every call has."""
    return {name: getattr(call, name) for name in type(call).__dict__.get("__slots__", ())}


def _identity(future: Future[Any]) -> tuple[str, int]:
    """Return what names a future across processes: where it was recorded first, and its number there."""
    if type(future.code) is Place and future.code.identity is not None:
        return future.code.identity
    if not _process or _process[0] != str(os.getpid()):  # a forked child is another process
        _process[:] = [str(os.getpid()), os.urandom(8).hex()]
    identity = (_process[1], future.number)
    _known[identity] = future
    return identity


def _node_by_name(module: str, name: str) -> Any:
    import importlib

    found: Any = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    return found


def _empty(cls: type) -> Any:
    return object.__new__(cls)


def _future_from(blob: bytes, identity: tuple[str, int]) -> Future[Any]:
    import pickle

    rows = pickle.loads(blob)
    futures = from_table(rows)
    return next(future for future, row in zip(futures, rows, strict=True) if row["identity"] == identity)
