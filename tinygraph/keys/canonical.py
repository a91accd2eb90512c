"""Canonical: what a value means, as bytes that are the same in every process.

A value becomes a plain tree, marshalled. Atoms stand for themselves, and a list is a list; everything else is a dict
with one entry, its tag, so that nothing a user writes can look like it::

    [1, "a", {2.5}]  ->  [1, "a", {"set": [2.5]}]

What can be told apart has different bytes: ``1``, ``True`` and ``1.0``, both zeros, ``Decimal("1.0")`` and
``Decimal("1.00")``, ``"é"`` in one character and in two. A NaN is its bits, so it equals itself. Plain dicts and sets
count whatever their order, arrays whatever their layout in memory, and equal parts whether or not they are one object.
"""

from __future__ import annotations

import collections
import copyreg
import functools
import marshal
import re
import sys
import types
import warnings
from collections.abc import Callable, Iterable
from enum import Enum
from typing import Any, NoReturn

from tinygraph.definition import Definition
from tinygraph.errors import UnhashableArgumentError
from tinygraph.future import Future
from tinygraph.keys.content import LIBRARIES, Refused, handler_of
from tinygraph.keys.digests import digest
from tinygraph.keys.packages import Origin, origin_of_module

ATOMS = frozenset((type(None), bool, int, float, complex, str, bytes, type(Ellipsis)))
INLINE = 40  # bytes up to which the token of a value is the value itself, as it can be shown to a person

_LARGE = 1 << 16  # bytes from which on a buffer is hashed where it lies
_HEAVY = 1 << 10  # nodes from which on a part of a tree is its digest: what is shared by many is then written once
_dumps = marshal.dumps


def canonical(value: Any, where: str = "value") -> bytes:
    """Return the bytes that stand for a value in a key.

    >>> canonical({"b": 1, "a": {3, 2}}) == canonical({"a": {2, 3}, "b": 1})
    True
    >>> canonical(1) == canonical(True), canonical(0.0) == canonical(-0.0)
    (False, False)
    >>> canonical({"files": [open]}) == canonical({"files": [print]})
    False
    >>> import threading
    >>> canonical({"lock": threading.Lock()}, "argument 'state'")
    Traceback (most recent call last):
    tinygraph.errors.UnhashableArgumentError: argument 'state'['lock'] has no key: cannot pickle '_thread.lock'...

    ``where`` is what errors call the value. Raises :class:`UnhashableArgumentError` for what means nothing in another
    process: an open file, a lock, a generator, an object that is pickled by its address.
    """
    if type(value) in ATOMS:
        return _dumps(value if type(value) is not bytes else _bytes(value), 2)
    return _dumps(tree_of(value, where), 2)


def token(value: Any, where: str = "value") -> bytes:
    """Return the canonical bytes if there are few, else ``#`` and their digest.

    >>> token(7), token("a"), len(token("a" * 100))
    (b'i\\x07\\x00\\x00\\x00', b'u\\x01\\x00\\x00\\x00a', 21)
    """
    if type(value) in ATOMS:
        data = _dumps(value if type(value) is not bytes else _bytes(value), 2)
    else:
        data = _dumps(tree_of(value, where), 2)
    return data if len(data) <= INLINE else b"#" + digest(data)


def token_and_code(value: Any, where: str = "value") -> tuple[bytes, bool, tuple[str, ...]]:
    """Return the token, whether code in the value draws random numbers, and the nodes that it reaches and are not kept.

    >>> import random
    >>> token_and_code(7), token_and_code([random.choice])[1:]
    ((b'i\\x07\\x00\\x00\\x00', False, ()), (True, ()))
    """
    if type(value) in ATOMS:
        data = _dumps(value if type(value) is not bytes else _bytes(value), 2)
        return (data if len(data) <= INLINE else b"#" + digest(data)), False, ()
    alone = _CodeAlone()
    data = _dumps(_tree(value, where, alone.tree_of, is_argument=True), 2)
    return (data if len(data) <= INLINE else b"#" + digest(data)), alone.draws, tuple(alone.unkept)


class Known:
    """Stands for a value whose token is known, so that a container can be encoded without it.

    >>> canonical([Known(token(7))]) == canonical([7])
    True
    """

    __slots__ = ("token",)

    def __init__(self, token: bytes) -> None:
        self.token = token


def tree_of(value: Any, where: str = "value", *, code: Callable[[Any], Any] | None = None) -> Any:
    """Return the tree that is marshalled.

    ``code`` says what stands for functions, classes and modules; with it, what counts only for its kind (locks) is
    encoded as that, because a function may well have a lock beside it.

    >>> tree_of([1, {"b": (2,)}])
    [1, {'dict': ['b', (2,)]}]
    """
    return _tree(value, where, code or _CodeAlone().tree_of, is_argument=code is None)


def _tree(value: Any, where: str, code: Callable[[Any], Any], *, is_argument: bool) -> Any:
    try:
        try:
            return Encoder(code, is_argument=is_argument).encode(value)
        except _HoldsItself:
            return Encoder(code, is_argument=is_argument, numbered=True).encode(value)
    except Refused as refused:
        raise UnhashableArgumentError(refused.told(where, is_argument=is_argument)) from refused.__cause__
    except RecursionError:
        raise UnhashableArgumentError(f"{where} has no key: it is nested too deep to be taken apart") from None


class _HoldsItself(Exception):
    """A container was met inside itself."""


class Encoder:
    """Encodes one value, and whatever is in it.

    Where nothing holds itself, a part is encoded the same wherever it stands, and once if it is met again. Otherwise
    parts are numbered as they are met, and one that is met again is its number.
    """

    def __init__(self, code: Callable[[Any], Any], *, is_argument: bool = False, numbered: bool = False) -> None:
        self.code = code
        self.only_kind = not is_argument
        self._numbered = numbered
        # By address: the tree of what was encoded, its weight, and the thing itself, which keeps the address its own.
        self._known: dict[int, tuple[Any, int, Any]] = {}
        self._weight = 0

    def encode(self, value: Any) -> Any:
        """Return the tree of a value."""
        kind = type(value)
        if kind in ATOMS:
            self._weight += 1
            return value if kind is not bytes else _bytes(value)
        if kind is list or kind is tuple:
            if ATOMS.issuperset(map(type, value)):
                self._weight += 1 + len(value)
                return value
        elif kind is Known:
            return marshal.loads(value.token) if value.token[:1] != b"#" else {"known": value.token}
        found = self._known.get(id(value))
        if found is not None:
            if found[0] is _UNFINISHED:
                raise _HoldsItself
            self._weight += found[1]
            return found[0]
        before = self._weight
        self._known[id(value)] = ({"met": len(self._known)} if self._numbered else _UNFINISHED), 1, value
        tree = (_HANDLERS.get(kind) or _handler_of(kind))(self, value)
        weight = self._weight - before + 1
        if weight > _HEAVY:
            tree, weight = {"#": digest(_dumps(tree, 2))}, 1
        self._weight = before + weight
        if not self._numbered:
            self._known[id(value)] = tree, weight, value
        return tree

    def encode_at(self, place: str, value: Any) -> Any:
        """Encode a part, and name its place if it is refused."""
        try:
            return self.encode(value)
        except Refused as refused:
            refused.path.append(place)
            raise

    def items(self, values: Iterable[Any]) -> list[Any]:
        """Encode items in their order."""
        values = list(values)
        if ATOMS.issuperset(map(type, values)):
            self._weight += len(values)
            return values
        found: list[Any] = []
        try:
            for item in values:
                found.append(self.encode(item))
        except Refused as refused:
            refused.path.append(f"[{len(found)}]")
            raise
        return found

    def unordered(self, values: Iterable[Any]) -> list[Any]:
        """Encode items whose order does not count."""
        return self.items(self._sorted(values))

    def mapping(self, value: Any) -> list[Any]:
        """Encode the keys and values of a mapping whose order does not count, in turns."""
        keys = self._sorted(value)
        found: list[Any] = []
        key: Any = None
        try:
            for key in keys:
                found += (self.encode(key), self.encode(value[key]))
        except Refused as refused:
            refused.path.append(f"[{key!r}]" if type(key) in ATOMS else f"[{type(key).__name__}]")
            raise
        return found

    def ordered(self, value: Any) -> list[Any]:
        """Encode the keys and values of a mapping whose order counts, in turns."""
        return [tree for key, item in value.items() for tree in (self.encode(key), self.encode_at(f"[{key!r}]", item))]

    def _sorted(self, values: Iterable[Any]) -> list[Any]:
        values = list(values)
        kinds = set(map(type, values))
        if len(kinds) <= 1 and (not kinds or kinds <= _SORTABLE):
            values.sort()
            return values
        if ATOMS.issuperset(kinds):
            return sorted(values, key=_dumps_2)
        return sorted(values, key=_by_name)


_UNFINISHED: Any = object()
_SORTABLE = {str, int, bytes}


def _dumps_2(value: Any) -> bytes:
    return _dumps(value, 2)


def _by_name(value: Any) -> bytes:
    """Return what orders the elements of a set: what they mean, but code by its name, not by when it was met."""
    try:
        return _dumps(Encoder(_code_by_name).encode(value), 2)
    except _HoldsItself:
        return _dumps(Encoder(_code_by_name, numbered=True).encode(value), 2)


class _CodeAlone:
    """What stands for code where there is nothing but the value: each class once, if there are a million instances."""

    def __init__(self) -> None:
        self.draws = False
        self.unkept: dict[str, None] = {}
        self._known: dict[int, tuple[Any, Any]] = {}

    def tree_of(self, thing: Any) -> Any:
        known = self._known.get(id(thing))
        if known is None:
            from tinygraph.keys.fingerprint import fingerprint_of  # which in turn encodes the values that code reaches

            found = fingerprint_of(thing)
            self.draws |= found.draws
            self.unkept.update(dict.fromkeys(found.unkept))
            known = self._known[id(thing)] = {"code": found.digest}, thing
        return known[0]


def _code_by_name(thing: Any) -> Any:
    return {"code": [getattr(thing, "__module__", ""), getattr(thing, "__qualname__", type(thing).__qualname__)]}


def _bytes(value: Any) -> Any:
    """Return what stands for a buffer: itself, or its digest where it is large."""
    size = len(value)
    return bytes(value) if size < _LARGE else {"bytes": [size, digest(value)]}


# Types of the language and its library, each by what it means

Handler = Callable[[Encoder, Any], Any]


def _list(encoder: Encoder, value: list[Any]) -> Any:
    return encoder.items(value)


def _tuple(encoder: Encoder, value: tuple[Any, ...]) -> Any:
    return tuple(encoder.items(value))


def _dict(encoder: Encoder, value: dict[Any, Any]) -> Any:
    return {"dict": encoder.mapping(value)}


def _set(encoder: Encoder, value: Any) -> Any:
    return {type(value).__name__: encoder.unordered(value)}


def _code(encoder: Encoder, value: Any) -> Any:
    return encoder.code(value)


def _method(encoder: Encoder, value: Any) -> Any:
    if _is_of_library(value):
        return encoder.code(value)
    bound = encoder.encode_at(".__self__", value.__self__)
    return {"method": [bound, encoder.encode(value.__func__) if hasattr(value, "__func__") else value.__name__]}


def _is_of_library(method: Any) -> bool:
    """Whether a bound method is a function of a library, as `random.choice` is: what it is bound to does not count."""
    module = type(method.__self__).__module__
    if getattr(sys.modules.get(module), method.__name__, None) != method:
        return False
    return origin_of_module(module) is not Origin.USER


def _builtin(encoder: Encoder, value: Any) -> Any:
    owner = value.__self__
    return encoder.code(value) if owner is None or isinstance(owner, types.ModuleType) else _method(encoder, value)


def _wrapper(encoder: Encoder, value: Any) -> Any:
    """A staticmethod, classmethod, cached function: what is inside it."""
    inner = value.__func__ if hasattr(value, "__func__") else value.__wrapped__
    return {type(value).__name__: encoder.encode(inner)}


def _partial(encoder: Encoder, value: Any) -> Any:
    named = {"dict": encoder.mapping(value.keywords)}
    return {"partial": [encoder.encode_at(".func", value.func), encoder.encode_at(".args", value.args), named]}


def _property(encoder: Encoder, value: property) -> Any:
    return {"property": encoder.items((value.fget, value.fset, value.fdel))}


def _cell(encoder: Encoder, value: types.CellType) -> Any:
    try:
        return {"cell": [encoder.encode(value.cell_contents)]}
    except ValueError:  # not assigned yet
        return {"cell": []}


def _buffer(encoder: Encoder, value: Any) -> Any:
    view = memoryview(value)
    content = _bytes(view.cast("B") if view.c_contiguous and view.nbytes else view.tobytes())
    described = () if type(value) is bytearray else (view.format, view.shape)
    return {type(value).__name__: [*described, content]}


def _defaultdict(encoder: Encoder, value: Any) -> Any:
    factory = encoder.encode_at(".default_factory", value.default_factory)
    return {"defaultdict": [factory, *encoder.mapping(value)]}


def _generic_alias(encoder: Encoder, value: Any) -> Any:
    return {"alias": [encoder.encode(value.__origin__), *encoder.items(value.__args__)]}


def _union(encoder: Encoder, value: Any) -> Any:
    return {"union": encoder.unordered(value.__args__)}


def _enum(encoder: Encoder, value: Any) -> Any:
    return {"enum": [encoder.code(type(value)), encoder.encode(value._value_)]}


def _datetime(encoder: Encoder, value: Any) -> Any:
    return {"datetime": [value.replace(tzinfo=None).isoformat(), value.fold, encoder.encode(value.tzinfo)]}


def _time(encoder: Encoder, value: Any) -> Any:
    return {"time": [value.replace(tzinfo=None).isoformat(), value.fold, encoder.encode(value.tzinfo)]}


def _hollow(encoder: Encoder, value: Any) -> Any:
    """What counts only for its kind where it lies beside code, and has no meaning as an argument."""
    if encoder.only_kind:
        return {"kind": type(value).__name__}
    return _reduced(encoder, value)


def _future(encoder: Encoder, value: Any) -> Any:
    # A future that code reaches becomes an argument of the call, where its value counts.
    return {"future": []} if encoder.only_kind else _refuse(f"{value!r} has no value yet")


def _refuse(why: str) -> NoReturn:
    raise Refused(why)


def _typevar(encoder: Encoder, value: Any) -> Any:
    bound = encoder.items((value.__bound__, *getattr(value, "__constraints__", ())))
    return {"typevar": [value.__name__, *bound]}


def _forward(encoder: Encoder, value: Any) -> Any:
    return {"forward": value.__forward_arg__}


_HANDLERS: dict[type, Handler] = {
    list: _list,
    tuple: _tuple,
    dict: _dict,
    set: _set,
    frozenset: _set,
    bytearray: _buffer,
    memoryview: _buffer,
    range: lambda encoder, value: {"range": [value.start, value.stop, value.step]},
    slice: lambda encoder, value: {"slice": encoder.items((value.start, value.stop, value.step))},
    type(NotImplemented): lambda encoder, value: {"builtin": "NotImplemented"},
    types.FunctionType: _code,
    types.BuiltinFunctionType: _builtin,
    types.MethodType: _method,
    types.MethodWrapperType: _method,
    types.WrapperDescriptorType: _code,
    types.MethodDescriptorType: _code,
    types.ClassMethodDescriptorType: _code,
    types.GetSetDescriptorType: _code,
    types.MemberDescriptorType: _code,
    types.ModuleType: _code,
    types.CellType: _cell,
    types.GenericAlias: _generic_alias,
    types.UnionType: _union,
    types.MappingProxyType: lambda encoder, value: {"mappingproxy": encoder.mapping(value)},
    types.CodeType: lambda encoder, value: {"bytecode": _form_of(value)},
    staticmethod: _wrapper,
    classmethod: _wrapper,
    type(functools.lru_cache(len)): _wrapper,
    functools.partial: _partial,
    functools.partialmethod: _partial,
    functools.cached_property: lambda encoder, value: {"cached_property": encoder.encode(value.func)},
    property: _property,
    re.Pattern: lambda encoder, value: {"re": [value.pattern, value.flags]},
    collections.deque: lambda encoder, value: {"deque": [value.maxlen, *encoder.items(value)]},
    collections.OrderedDict: lambda encoder, value: {"OrderedDict": encoder.ordered(value)},
    collections.defaultdict: _defaultdict,
    collections.Counter: lambda encoder, value: {"Counter": encoder.mapping(value)},
    collections.ChainMap: lambda encoder, value: {"ChainMap": encoder.items(value.maps)},
}


def _form_of(code: types.CodeType) -> bytes:
    from tinygraph.keys.source import bytecode

    return bytecode(code)


# What a module outside the builtins is asked for by the name of its type, so that nothing is imported for it.
_BY_NAME: dict[str, Handler] = {
    "array.array": _buffer,
    "decimal.Decimal": lambda encoder, value: {"Decimal": str(value)},
    "fractions.Fraction": lambda encoder, value: {"Fraction": [value.numerator, value.denominator]},
    "uuid.UUID": lambda encoder, value: {"UUID": value.bytes},
    "datetime.date": lambda encoder, value: {"date": value.isoformat()},
    "datetime.datetime": _datetime,
    "datetime.time": _time,
    "typing.TypeVar": _typevar,
    "typing.ParamSpec": _typevar,
    "typing.TypeVarTuple": lambda encoder, value: {"typevar": [value.__name__]},
    "typing.ForwardRef": _forward,
    "annotationlib.ForwardRef": _forward,
    "_contextvars.ContextVar": lambda encoder, value: {"ContextVar": value.name},
    "contextvars.ContextVar": lambda encoder, value: {"ContextVar": value.name},
    "logging.Logger": lambda encoder, value: {"Logger": value.name},
    "logging.RootLogger": lambda encoder, value: {"Logger": ""},
    "os._Environ": _hollow,
    "_thread.lock": _hollow,
    "_thread.RLock": _hollow,
    "_thread._local": _hollow,
    "_abc._abc_data": _hollow,
    "threading.Condition": _hollow,
    "threading.Semaphore": _hollow,
    "threading.BoundedSemaphore": _hollow,
    "threading.Event": _hollow,
    "threading.Thread": _hollow,
    "concurrent.futures.thread.ThreadPoolExecutor": _hollow,
    "concurrent.futures.process.ProcessPoolExecutor": _hollow,
    "queue.Queue": _hollow,
    "_queue.SimpleQueue": _hollow,
    "weakref.WeakKeyDictionary": _hollow,
    "weakref.WeakValueDictionary": _hollow,
    "weakref.WeakSet": _hollow,
    "_weakrefset.WeakSet": _hollow,
    "weakref.ReferenceType": _hollow,
}

# Found for types that are not in the tables above. Types seldom come and go, but classes in notebooks do.
_found: dict[type, Handler] = {}


def _handler_of(kind: type) -> Handler:
    handler = _found.get(kind)
    if handler is None:
        if len(_found) > 1_000:
            _found.clear()
        handler = _found[kind] = _chosen(kind)
    return handler


def _chosen(kind: type) -> Handler:
    if "__tinygraph_key__" in _names(kind):
        return _by_hook
    if issubclass(kind, type):
        return _code
    if issubclass(kind, Definition):
        return _code
    if issubclass(kind, Future):
        return _future
    if issubclass(kind, Enum):
        return _enum
    named = _BY_NAME.get(f"{kind.__module__}.{kind.__qualname__}")
    if named is not None:
        return named
    for base in kind.__mro__:
        library = base.__module__.partition(".")[0]
        special = handler_of(kind, library) if library in LIBRARIES else None
        if special is not None:
            return special
    if kind.__module__.partition(".")[0] == "pathlib" and hasattr(kind, "__fspath__"):
        return lambda encoder, value: {"Path": [kind.__name__, str(value)]}
    if issubclass(kind, types.ModuleType):
        return _code
    if issubclass(kind, _CONTENTS):
        return _container
    return _reduced


_CONTENTS = (dict, list, set, frozenset, tuple, str, bytes, bytearray, int, float, complex, collections.deque)


def _names(kind: type) -> set[str]:
    return {name for base in kind.__mro__[:-1] for name in vars(base)}


# Instances of classes, of the user and of others

_STATE = ("__reduce__", "__reduce_ex__", "__getstate__")


def _by_hook(encoder: Encoder, value: Any) -> Any:
    meaning = encoder.encode_at(".__tinygraph_key__()", value.__tinygraph_key__())
    return {"key": [encoder.code(type(value)), meaning]}


def _container(encoder: Encoder, value: Any) -> Any:
    """An instance of a class that was derived from a builtin container: what it contains, and its attributes."""
    kind = type(value)
    own = [vars(base) for base in kind.__mro__ if base not in _BUILTIN and base is not object]
    if any(callable(inside.get(name)) for inside in own for name in _STATE):
        return _reduced(encoder, value)
    if isinstance(value, collections.OrderedDict):
        content: Any = encoder.ordered(value)
    elif isinstance(value, dict):
        content = [encoder.encode(getattr(value, "default_factory", None)), *encoder.mapping(value)]
    elif isinstance(value, set | frozenset):
        content = encoder.unordered(value)
    elif isinstance(value, list | tuple | collections.deque):
        content = encoder.items(value)
    else:
        base = next(base for base in _CONTENTS if isinstance(value, base))
        content = _plain(base, value)
    return {"object": [encoder.code(kind), content, _attributes(encoder, value)]}


_BUILTIN = frozenset((*_CONTENTS, collections.OrderedDict, collections.defaultdict, collections.Counter))


def _plain(base: type, value: Any) -> Any:
    """Return the plain text or number, without asking any method of a class derived from it."""
    if base is float:
        return float.__pos__(value)
    if base is int:
        return int.__pos__(value)
    if base is complex:
        return complex.__pos__(value)
    if base is str:
        return str.__str__(value)
    return _bytes(bytes(memoryview(value)))


def _attributes(encoder: Encoder, value: Any) -> list[Any]:
    state = dict(getattr(value, "__dict__", ()))
    for base in type(value).__mro__:
        slots = vars(base).get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else tuple(slots):
            if name.startswith("__") and not name.endswith("__"):
                name = f"_{base.__name__.lstrip('_')}{name}"
            if name not in ("__dict__", "__weakref__") and name not in state:
                try:
                    state[name] = object.__getattribute__(value, name)
                except AttributeError:
                    continue
    return _state(encoder, type(value), state)


def _state(encoder: Encoder, kind: type, state: dict[Any, Any]) -> list[Any]:
    """Encode attributes by name, without those that are a copy of others: what a cached_property keeps."""
    found: list[Any] = []
    for name in sorted(state, key=str):
        if not isinstance(name, str):
            return [{"dict": encoder.mapping(state)}]
        if not isinstance(_static(kind, name), functools.cached_property):
            found += (name, encoder.encode_at(f".{name}", state[name]))
    return found


def _static(kind: type, name: str) -> Any:
    for base in kind.__mro__:
        if name in vars(base):
            return vars(base)[name]
    return None


def _reduced(encoder: Encoder, value: Any) -> Any:
    """What is left says by its pickle what it is made of, which is encoded in turn: never the bytes of a pickle."""
    kind = type(value)
    try:
        reduced = _reduce(value, kind)
    except Exception as error:
        if encoder.only_kind and any(value is stream for stream in (sys.stdin, sys.stdout, sys.stderr)):
            return {"kind": "stream"}
        raise Refused(str(error) or repr(error)) from error
    if isinstance(reduced, str):
        return encoder.code(value)
    parts: tuple[Any, ...] = (*reduced, None, None, None)
    make, args, state, items, pairs = parts[:5]
    if isinstance(make, types.FunctionType) and make is getattr(copyreg, "__newobj__", None):
        cls, *args = args
        made = [encoder.code(cls), *encoder.items(args)]
    else:
        _refuse_address(value, args)
        made = [encoder.encode(make), encoder.items(args)]
    if type(state) is tuple and len(state) == 2 and isinstance(state[0], dict | None) and isinstance(state[1], dict):
        state = {**(state[0] or {}), **state[1]}  # with slots
    if isinstance(state, dict):
        _refuse_address(value, state.values())
        told: Any = _state(encoder, kind, state)
    else:
        _refuse_address(value, (state,))
        told = None if state is None else [encoder.encode(state)]
    inside = [] if items is None else encoder.items(items)
    named = [] if pairs is None else encoder.mapping(dict(pairs))
    return {"object": [*made, told, *([inside, named] if inside or named else ())]}


def _reduce(value: Any, kind: type) -> Any:
    reducer = copyreg.dispatch_table.get(kind)
    if reducer is not None:
        return reducer(value)
    if kind.__module__ != "itertools":
        return value.__reduce_ex__(4)
    with warnings.catch_warnings():  # that iterators can be copied is deprecated, and works as long as it does
        warnings.simplefilter("ignore", DeprecationWarning)
        return value.__reduce_ex__(4)


def _refuse_address(value: Any, parts: Iterable[Any]) -> None:
    """Refuse an object that says where it lies instead of what it is."""
    address = id(value)
    for part in parts:
        if (type(part) is int and part == address) or (type(part) is str and f"0x{address:x}" in part):
            raise Refused(f"{type(value).__name__} is pickled by its address in memory, which means nothing later")
