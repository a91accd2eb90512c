"""Pickles: how any object becomes bytes and back, its big parts apart, and the classes of a script as themselves.

A pickle holds classes by name, which are imported when it is read. What a script defines cannot be imported: its
module is called `__main__`, or importing it would run it once more. Such a class, or function, is written with its name
*and* a copy of its code. Who reads it takes, in this order:

1.  what that module defines now, if it looks the same;
2.  the class that it was, where it still lives (a worker and its program know which is which);
3.  what that module defines now, though it has changed;
4.  the class of that name that a worker got from its program;
5.  the copy.

So `isinstance(value, Point)` holds in the script that saved the value, the next time it runs as well.
"""

from __future__ import annotations

import pickle
import sys
import zlib
from collections.abc import Callable, Iterator
from functools import cache
from types import CodeType, FunctionType
from typing import Any
from weakref import WeakKeyDictionary

from tinygraph.errors import StoreError
from tinygraph.keys.digests import digest

# Buffers from here on lie apart from the pickle, where they are mapped in place: those below are copied as quickly.
APART = 1 << 12
ALIGNMENT = 64  # of what lies apart: a cache line, and what .npy keeps to

# A copy of code that is larger drags data along: such a class is written by its name alone.
_LARGEST_COPY = 1 << 16

# How a thing is pickled, as `__reduce__` would say it; NotImplemented for as ever, None for that and all of its class.
Reduce = Callable[[Any], Any]


def dumps(value: Any, reduce: Reduce | None = None) -> tuple[list[Any], list[memoryview]]:
    """Return a pickle in pieces, and the buffers that lie apart from it.

    ``reduce`` is asked first how an instance of a class is pickled.

    >>> pieces, buffers = dumps({"name": "big", "data": bytearray(APART)})
    >>> loads(b"".join(pieces), buffers)["name"]
    'big'
    """
    pieces = _Pieces()
    buffers: list[memoryview] = []

    def apart(buffer: pickle.PickleBuffer) -> bool:
        try:
            raw = buffer.raw()
        except BufferError:  # not contiguous
            return True
        if raw.nbytes < APART:
            return True
        buffers.append(raw)
        return False

    pickler()(pieces, apart, reduce).dump(value)
    return pieces.taken, buffers


def dumps_plain(value: Any) -> bytes:
    """Return the pickle of a value that is made of plain builtins only: the quick way.

    >>> loads(dumps_plain((1, "a", None)))
    (1, 'a', None)
    """
    return pickle.dumps(value, 5)


def loads(data: Any, buffers: list[memoryview] | None = None) -> Any:
    """Return the value of a pickle; what lies apart is not copied."""
    return pickle.loads(data, buffers=buffers)


class _Pieces:
    """The file into which a value is pickled. The pickler hands big texts and bytes over as they are, uncopied."""

    def __init__(self) -> None:
        self.taken: list[Any] = []

    def write(self, piece: Any) -> int:
        if type(piece) is pickle.PickleBuffer:  # a buffer that stays in, of any shape
            piece = piece.raw()
        # A view may point at memory that is gone when this returns, and a bytearray may change.
        self.taken.append(piece if type(piece) is bytes else bytes(piece))
        return len(self.taken[-1])


@cache
def pickler() -> Any:
    """Return the class of picklers: cloudpickle's, for what scripts define as well."""
    import cloudpickle

    class Pickler(cloudpickle.Pickler):  # type: ignore[misc]
        def __init__(self, file: Any, apart: Callable[[Any], Any] | None, reduce: Reduce | None) -> None:
            super().__init__(file, 5, apart)
            self._reduce = reduce
            self._usual: set[type] = set()  # classes whose instances are pickled as ever: there may be a million

        def reducer_override(self, thing: Any) -> Any:
            kind = type(thing)
            if kind in self._usual:
                return NotImplemented
            if kind is FunctionType or issubclass(kind, type):
                found = _by_name(thing)
                return super().reducer_override(thing) if found is None else (_named, found)
            reduced = None if self._reduce is None else self._reduce(thing)
            if reduced is None:
                self._usual.add(kind)
                return NotImplemented
            return reduced

    return Pickler


# Writing what scripts define


def _by_name(thing: Any) -> tuple[str, str, str, bytes, bytes] | None:
    """Return module, name, tracker, looks and copy of what a script defines under that name; None for all else."""
    module, name = getattr(thing, "__module__", None), thing.__qualname__
    if type(module) is not str or "<" in name or not _is_script(module):
        return None
    live = _live(module, name)
    if live is None and isinstance(thing, type):
        if thing not in _trackers():
            return None  # made here and not by a statement of the module: nobody will find it by its name
        name = _full_name(thing)
        live = _live(module, name)
    if live is not None and live is not thing:
        return None  # a namesake
    return module, name, _tracker(thing), _looks(thing), _copy(thing)


def _is_script(module: str) -> bool:
    """Whether nobody may import this module, or can: what is in it travels as code."""
    if module == "__main__" or module not in sys.modules:
        return True
    import cloudpickle

    return module in cloudpickle.list_registry_pickle_by_value()


def _live(module: str, name: str) -> Any:
    """Return what a module that is loaded has under a name, or None."""
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    if not isinstance(found, type | FunctionType):  # a node, of the class or the function that is meant
        found = getattr(found, "__dict__", {}).get("__wrapped__")
    return found if isinstance(found, type | FunctionType) else None


_full_names: WeakKeyDictionary[Any, str] = WeakKeyDictionary()


def _full_name(thing: type) -> str:
    """Return the qualified name of a class from another process; of one in a class cloudpickle keeps the last part."""
    found = _full_names.get(thing)
    if found is None:
        name = found = thing.__qualname__
        for owner in list(_trackers()):
            if owner is not thing and isinstance(owner, type) and vars(owner).get(name) is thing:
                found = f"{_full_name(owner)}.{name}"
                break
        _full_names[thing] = found
    return found


_copies: WeakKeyDictionary[Any, bytes] = WeakKeyDictionary()


def _copy(thing: Any) -> bytes:
    """Return a class or function as code, compressed; empty where it cannot be had, or drags too much along."""
    found = _copies.get(thing)
    if found is None:
        import cloudpickle

        file = _Bounded()
        try:
            cloudpickle.Pickler(file, protocol=5).dump(thing)
            found = zlib.compress(b"".join(file.taken), 9)
        except Exception:  # whatever its code holds that cannot be pickled
            found = b""
        _copies[thing] = found
    return found


class _Bounded(_Pieces):
    """Stops the pickler when there is too much."""

    def __init__(self) -> None:
        super().__init__()
        self._size = 0

    def write(self, piece: Any) -> int:
        self._size += memoryview(piece).nbytes
        if self._size > _LARGEST_COPY:
            raise pickle.PicklingError("too large")
        return super().write(piece)


# Reading it


def _named(module: str, name: str, tracker: str, looks: bytes, copied: bytes) -> Any:
    """Return a class or function that a script defined, as told above."""
    live = _live(module, name)
    if live is not None and _looks(live) == looks:
        return live
    found = _tracked(tracker) or live or _arrived(module, name, looks)
    if found is not None:
        return found
    if not copied:
        raise StoreError(
            f"this value is made by {name!r} of {module!r}, which is not there: run the script that defines it, "
            f"or move {name!r} to a module that can be imported"
        )
    made = pickle.loads(zlib.decompress(copied))
    if isinstance(made, type):
        _full_names[made] = name
    return made


_known_looks: WeakKeyDictionary[Any, bytes] = WeakKeyDictionary()


def _looks(thing: Any) -> bytes:
    """Return a few bytes that tell a class from a namesake: they come from the names and the code in it."""
    found = _known_looks.get(thing)
    if found is None:
        seen = sorted(_features(thing))
        found = _known_looks[thing] = digest(repr(seen).encode())[:8]
    return found


def _features(thing: Any) -> Iterator[str]:
    if isinstance(thing, FunctionType):
        yield from _code_of(thing.__code__)
        return
    for name, part in vars(thing).items():
        is_extra = name.startswith(("_abc_", "__annotate")) or (
            name.startswith("__") and not isinstance(part, FunctionType)
        )
        if is_extra:
            continue  # what Python and cloudpickle add, here and not there
        function = getattr(part, "__func__", None) or getattr(part, "fget", None) or part
        if isinstance(function, FunctionType):
            yield from (f"{name} {line}" for line in _code_of(function.__code__))
        else:
            yield name


def _code_of(code: CodeType) -> Iterator[str]:
    yield f"{code.co_code.hex()} {code.co_names} {code.co_varnames}"
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _code_of(constant)


# What cloudpickle knows of the classes that came from another process, or went there


def _trackers() -> Any:
    import cloudpickle.cloudpickle as inside

    return getattr(inside, "_DYNAMIC_CLASS_TRACKER_BY_CLASS", {})


def _tracker(thing: Any) -> str:
    """Return what names a class in all processes of one program; empty for a function."""
    if not isinstance(thing, type):
        return ""
    import cloudpickle.cloudpickle as inside

    make = getattr(inside, "_get_or_create_tracker_id", None)
    return "" if make is None else str(make(thing))


def _tracked(tracker: str) -> Any:
    import cloudpickle.cloudpickle as inside

    return getattr(inside, "_DYNAMIC_CLASS_TRACKER_BY_ID", {}).get(tracker) if tracker else None


def _arrived(module: str, name: str, looks: bytes) -> Any:
    """Return the class of that name that came last from another process and looks the same, or None."""
    for one in reversed(list(_trackers())):
        if not isinstance(one, type) or one.__module__ != module or not name.endswith(one.__name__):
            continue
        if _full_name(one) == name and _looks(one) == looks:
            return one
    return None


# Pickles with what lies apart from them, as one body


def aligned(size: int) -> int:
    """Return where the next part of a body begins.

    >>> aligned(0), aligned(1), aligned(64)
    (0, 64, 64)
    """
    return -(-size // ALIGNMENT) * ALIGNMENT


def laid_out(parts: list[list[Any]]) -> tuple[list[Any], list[int]]:
    """Return the buffers of a body in which each part is aligned, and the size of each part.

    >>> laid_out([[b"ab", b"c"], [b"d"]])[1]
    [3, 1]
    """
    buffers: list[Any] = []
    sizes: list[int] = []
    at = 0
    for part in parts:
        if gap := aligned(at) - at:
            buffers.append(bytes(gap))
        buffers.extend(part)
        sizes.append(sum([memoryview(one).nbytes for one in part]))
        at = aligned(at) + sizes[-1]
    return buffers, sizes


def parts_of(body: memoryview, sizes: list[int]) -> list[memoryview]:
    """Return the parts of a body that was laid out so.

    >>> [bytes(part) for part in parts_of(memoryview(b"abc" + bytes(61) + b"d"), [3, 1])]
    [b'abc', b'd']
    """
    found, at = [], 0
    for size in sizes:
        found.append(body[at : at + size])
        at = aligned(at + size)
    return found
