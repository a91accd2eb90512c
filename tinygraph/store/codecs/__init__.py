"""Codecs: how a value becomes bytes and back, chosen by its type.

::

    value ── encode ──► Encoded(codec, meta, buffers, ...) ──► the store ──► codec, meta, body ── decode ──► value

========  ==========================================================  ===================================
codec     values                                                      bytes
========  ==========================================================  ===================================
text      str                                                         UTF-8
bytes     bytes                                                       as they are
json      None, bool, int, float; lists and dicts of these and str    JSON, up to 64 KiB
npy       numpy arrays without objects                                a .npy file
arrow     pyarrow tables and record batches                           an arrow stream
pandas    frames and series that arrow holds exactly, up to 16 MiB    an arrow stream
polars    frames and series                                           an arrow file
parts     tuples of arrays and tables and other such values           each by its own codec, one after another
codec:    instances of a class with a codec of its own                the file that its `save` wrote
pickle    all else                                                    pickle protocol 5, big buffers apart
========  ==========================================================  ===================================

What comes back is the consumer's own, equal to what went in, and of the same type. Arrays are not copied: they are
mapped where they lie, and whoever changes one does so for himself. JSON is for people: beyond the size that people read
a pickle is quicker. Only what cannot be said in these ways is pickled; and reading a pickle, or what a class of the
user's loads, can run code, so it is for the store to check who wrote it (`runs_code`).
"""

from __future__ import annotations

import json
import mmap
import os
import pickle
import re
import shutil
import stat
import sys
import tempfile
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, TypeVar

from tinygraph.errors import DefinitionError, StoreError
from tinygraph.store.codecs import pickles
from tinygraph.store.codecs.pickles import laid_out, parts_of

_Class = TypeVar("_Class")
_OWN = "codec:"  # what the name of a class with a codec of its own begins with

LARGEST_JSON = 1 << 16

# Reading these runs nobody's code, whoever wrote them.
_DATA_ONLY = frozenset(("text", "bytes", "json", "npy", "arrow", "pandas", "polars", "parts"))


class Encoded(NamedTuple):
    """A value as bytes."""

    codec: str
    meta: bytes  # what its codec has to know besides
    buffers: list[Any]  # its body in pieces, bytes and views of the value's own memory: write them before it changes
    nbytes: int  # of the body
    files: bool  # whether a `File` or a `Directory` is in it


def encode(value: Any) -> Encoded:
    """Return a value as bytes; raises what the pickler raises.

    >>> encode({"a": 1})
    Encoded(codec='json', meta=b'', buffers=[b'{"a": 1}'], nbytes=8, files=False)
    """
    kind = type(value)
    if _codecs:
        own = _codec_of(kind)
        if own is not None:
            body = _saved(own, value)
            return Encoded(_OWN + own.name, b"", [body], len(body), False)
    encoder = _ENCODERS.get(kind)
    if encoder is None:
        encoder = _of_library(kind)
    return encoder(value) or _pickled(value)


def decode(codec: str, meta: bytes, body: bytes | memoryview) -> Any:
    """Return the value of a body, which belongs to the consumer: bytes, or memory that he may write to.

    >>> decode("json", b"", b'{"a": 1}')
    {'a': 1}
    """
    decoder = _DECODERS.get(codec)
    if decoder is not None:
        return decoder(meta, body)
    if codec.startswith(_OWN):
        return _loaded(codec[len(_OWN) :], body)
    raise StoreError(f"a value was kept by codec {codec!r}, which this version of tinygraph does not know")


def runs_code(codec: str) -> bool:
    """Whether reading what was written by a codec can run code.

    >>> runs_code("pickle"), runs_code("npy")
    (True, False)
    """
    return codec not in _DATA_ONLY


def as_json(value: Any, most: int = LARGEST_JSON) -> str | None:
    """Return a value as JSON of so many letters at most, if JSON holds it exactly.

    >>> as_json({"a": [1, "x"]}), as_json((1, 2))
    ('{"a": [1, "x"]}', None)
    """
    kind = type(value)
    if kind is str:
        if len(value) > most or _text(value) is None:
            return None
        found = _to_json(value)
        return found if len(found) <= most else None
    encoder = _ENCODERS.get(kind)
    encoded = encoder(value) if encoder in (_constant, _number, _container) else None
    if encoded is None or encoded.codec != "json" or encoded.nbytes > most:
        return None
    return str(encoded.buffers[0], "utf-8")


def _encoded(codec: str, meta: bytes, buffers: list[Any]) -> Encoded:
    return Encoded(codec, meta, buffers, sum([memoryview(one).nbytes for one in buffers]), False)


def _own(body: bytes | memoryview) -> memoryview:
    """Return a body that may be written to."""
    view = memoryview(body)
    return memoryview(bytearray(view)) if view.readonly else view


# Text, bytes and JSON

_ATOMS = frozenset((type(None), bool, int, float, complex, str, bytes))
_JSON_ATOMS = frozenset((type(None), bool, int, float, str))
_CONTAINERS = frozenset((list, tuple, dict, set, frozenset))
_JSON_VALUES = _JSON_ATOMS | {list, dict}
_BUILTINS = _ATOMS | _CONTAINERS
_ONLY_TEXT = frozenset((str,))
_TEXTS = frozenset((str, bytes))
_FEW = 32
_DEPTH = 50  # of nesting in JSON: it is read by recursion, and nobody knows how deep the reader stands
_DIGITS = 600  # of a number in JSON: longer ones are slow, and refused where somebody lowered Python's limit

_to_json = json.JSONEncoder(ensure_ascii=False, allow_nan=False, check_circular=False).encode
_from_json = json.JSONDecoder().raw_decode


def _text(value: str) -> Encoded | None:
    try:
        data = value.encode()
    except UnicodeEncodeError:  # half of a pair, as in undecodable names of files
        return None
    return Encoded("text", b"", [data], len(data), False)


def _bytes(value: bytes) -> Encoded:
    return Encoded("bytes", b"", [value], len(value), False)


def _number(value: Any) -> Encoded:
    if type(value) is int:
        if value.bit_length() > 2_000:
            return _plain(value)
    elif value - value != 0.0:  # infinite, or no number: JSON has none of these
        return _plain(value)
    data = repr(value).encode()
    return Encoded("json", b"", [data], len(data), False)


def _constant(value: bool | None) -> Encoded:
    data = b"null" if value is None else b"true" if value else b"false"
    return Encoded("json", b"", [data], len(data), False)


def _plain(value: Any) -> Encoded:
    data = pickles.dumps_plain(value)
    return Encoded("pickle", b"", [data], len(data), False)


def _container(value: Any) -> Encoded | None:
    if len(value) <= _FEW and _is_flat(value) and (found := _json(value)) is not None:
        return found
    form = _form(value, set())
    if form is _JSON and (found := _json(value)) is not None:
        return found
    return None if form is None else _plain(value)


def _is_flat(value: Any) -> bool:
    """Whether a small container is one of short atoms that JSON holds: most are, and this is the quickest look."""
    kind, inner = type(value), value
    if kind is dict:
        if not _ONLY_TEXT.issuperset(map(type, value)):
            return False
        inner = value.values()
    elif kind is not list:
        return False
    return _JSON_ATOMS.issuperset(map(type, inner)) and not any(
        len(one) > LARGEST_JSON for one in inner if type(one) is str
    )


def _json(value: Any) -> Encoded | None:
    try:
        data = _to_json(value).encode()
    except (ValueError, RecursionError):  # no number, too large a number, half of a pair
        return None
    if len(data) > LARGEST_JSON or (len(data) > _DIGITS and _has_long_number(data)):
        return None
    return Encoded("json", b"", [data], len(data), False)


def _has_long_number(data: bytes) -> bool:
    return re.search(rb"\d{%d}" % _DIGITS, data) is not None


_JSON, _BUILTIN = "json", "builtin"


def _form(value: Any, seen: set[int]) -> str | None:
    """Return whether a container is what JSON holds exactly, made of builtins, or None for all else.

    None too for what is too large to be looked through: a pickle costs less. ``seen``: the containers that were met;
    one that occurs twice is one thing, which JSON would make two.
    """
    form, room = _JSON, LARGEST_JSON
    level = [value]
    for _ in range(_DEPTH):
        below: list[Any] = []
        for one in level:
            kind = type(one)
            if id(one) in seen:
                form = _BUILTIN
                continue
            seen.add(id(one))
            room -= 2 * len(one)
            if room < 0:
                return None
            inner: Any = one
            if kind is dict:
                inner = one.values()
                if _ONLY_TEXT.issuperset(map(type, one)):
                    room -= sum(map(len, one))
                elif _ATOMS.issuperset(map(type, one)):
                    form = _BUILTIN
                else:
                    return None
            elif kind is not list:
                form = _BUILTIN
            kinds = set(map(type, inner))
            if not kinds.isdisjoint(_TEXTS):
                room -= sum([len(item) for item in inner if type(item) in _TEXTS])
            if kinds <= _JSON_ATOMS:
                continue
            if not kinds <= _ATOMS:
                if not kinds <= _BUILTINS:
                    return None
                below.extend([item for item in inner if type(item) in _CONTAINERS])
            if not kinds <= _JSON_VALUES:
                form = _BUILTIN
        if not below:
            return form if room >= 0 else None
        level = below
    return None


def _read_json(meta: bytes, body: bytes | memoryview) -> Any:
    return _from_json(str(body, "utf-8"))[0]


# Arrays and tables: their libraries are imported by whoever has such a value


def _array(value: Any) -> Encoded | None:
    from tinygraph.store.codecs import arrays

    found = arrays.encode(value)
    return None if found is None else _encoded("npy", *found)


def _table(value: Any) -> Encoded | None:
    from tinygraph.store.codecs import tables

    found = tables.encode_table(value)
    return None if found is None else _encoded("arrow", *found)


def _frame(value: Any) -> Encoded | None:
    from tinygraph.store.codecs import tables

    found = tables.encode_frame(value)
    return None if found is None else _encoded("pandas", *found)


def _polars(value: Any) -> Encoded | None:
    from tinygraph.store.codecs import tables

    found = tables.encode_polars(value)
    return None if found is None else _encoded("polars", *found)


def _read_array(meta: bytes, body: bytes | memoryview) -> Any:
    from tinygraph.store.codecs import arrays

    return arrays.decode(meta, _own(body))


def _read_table(meta: bytes, body: bytes | memoryview) -> Any:
    from tinygraph.store.codecs import tables

    return tables.decode_table(meta, memoryview(body))


def _read_frame(meta: bytes, body: bytes | memoryview) -> Any:
    from tinygraph.store.codecs import tables

    return tables.decode_frame(meta, _own(body))


def _read_polars(meta: bytes, body: bytes | memoryview) -> Any:
    from tinygraph.store.codecs import tables

    return tables.decode_polars(meta, memoryview(body))


def _of_library(kind: type) -> Callable[[Any], Encoded | None]:
    """Return how instances of a class are encoded that was not met before."""
    for library, names, encoder in _OF_LIBRARIES:
        module = sys.modules.get(library)
        if module is not None and any(kind is getattr(module, name, None) for name in names):
            _ENCODERS[kind] = encoder
            return encoder
    return _pickled


# Tuples


def _tuple(value: tuple[Any, ...]) -> Encoded | None:
    if _ATOMS.issuperset(map(type, value)):
        # Large texts are not copied into a pickle that is made the quick way.
        return None if any(type(one) in _TEXTS and len(one) > LARGEST_JSON for one in value) else _plain(value)
    if _BUILTINS.issuperset(map(type, value)):
        return _container(value)
    return _in_parts(value, set())


def _in_parts(value: tuple[Any, ...], seen: set[int]) -> Encoded | None:
    """Return a tuple part by part, if it is worth it and each part is data that no other part refers to."""
    parts: list[Encoded] = []
    for one in value:
        kind = type(one)
        found: Encoded | None
        if kind in _ATOMS:
            found = encode(one)
        elif id(one) in seen or (_codecs and _codec_of(kind)):
            return None
        elif kind is tuple:
            seen.add(id(one))
            found = _in_parts(one, seen)
        elif kind is list or kind is dict:
            found = _json(one) if _form(one, seen) is _JSON else None
        else:
            seen.add(id(one))
            encoder = _ENCODERS.get(kind) or _of_library(kind)
            found = encoder(one) if encoder in _DATA_ENCODERS else None
        if found is None or found.codec not in _DATA_ONLY:
            return None
        parts.append(found)
    buffers, _ = laid_out([part.buffers for part in parts])
    rows = [[part.codec, part.meta.decode("latin-1"), part.nbytes] for part in parts]
    return _encoded("parts", _to_json(rows).encode(), buffers)


def _read_parts(meta: bytes, body: bytes | memoryview) -> Any:
    rows = _read_json(b"", meta)
    found = []
    for (codec, extra, size), part in zip(rows, parts_of(_own(body), [row[2] for row in rows]), strict=True):
        if codec not in _DATA_ONLY or len(part) != size:
            raise StoreError(f"a value in parts has one that cannot be in it: {codec!r}")
        found.append(decode(codec, extra.encode("latin-1"), part))
    return tuple(found)


# Pickles


def _pickled(value: Any) -> Encoded:
    contents = _Contents()
    pieces, buffers = pickles.dumps(value, contents.reduce)
    if not buffers:
        return _encoded("pickle", b"", pieces)._replace(files=contents.files)
    laid, sizes = laid_out([pieces, *[[one] for one in buffers]])
    return _encoded("pickle", json.dumps(sizes).encode(), laid)._replace(files=contents.files)


class _Contents:
    """What there is in a value that is being pickled."""

    __slots__ = ("_paths", "files")

    def __init__(self) -> None:
        module = sys.modules.get("tinygraph.keys.files")  # where it was not imported, nobody has one
        self._paths: tuple[type, ...] = () if module is None else (module.File, module.Directory)
        self.files = False

    def reduce(self, thing: Any) -> Any:
        """Return how an instance of a class is pickled; None for as ever, and so all of its class."""
        kind = type(thing)
        if isinstance(thing, self._paths):
            self.files = True
        if _codecs and (reduced := reduce_own(thing)) is not None:
            return reduced
        if kind.__name__ == "ndarray" and _of_library(kind) is _array:
            from tinygraph.store.codecs import arrays

            return arrays.reduce(thing)
        return None


def reduce_own(thing: Any) -> Any:
    """Return how an instance of a class with a codec of its own is pickled, as a part of something; None for all else.

    Whoever reads that must have the codec as well.
    """
    own = _codec_of(type(thing)) if _codecs else None
    return None if own is None else (_restored, (own.name, pickle.PickleBuffer(_saved(own, thing))))


def _restored(name: str, body: Any) -> Any:
    return _loaded(name, memoryview(body))


def _read_pickle(meta: bytes, body: bytes | memoryview) -> Any:
    if not meta:
        return pickles.loads(body)
    stream, *buffers = parts_of(_own(body), json.loads(meta))
    return pickles.loads(stream, buffers)


# Codecs of the user's own


class Codec(NamedTuple):
    """How instances of a class are written to a file and read from it."""

    name: str  # of the class, with its module
    kind: type
    methods: Any
    suffix: str


_codecs: dict[type, Codec] = {}
_codecs_by_name: dict[str, Codec] = {}


def codec(kind: type) -> Callable[[_Class], _Class]:
    """Say how instances of a class are kept: by a class with static methods ``save(value, path)`` and ``load(path)``.

    ``save`` writes one file at ``path``, whose bytes are kept; ``load`` gets the path of a private copy of it, which is
    gone afterwards. A ``suffix`` of the class, such as ``".keras"``, ends the path. Subclasses are kept in the same
    way, unless they have a codec of their own; so are instances inside lists, tuples, dicts and objects.

    >>> class Model:
    ...     def __init__(self, weights): self.weights = weights
    >>> @codec(Model)
    ... class Weights:
    ...     @staticmethod
    ...     def save(model, path):
    ...         with open(path, "w") as file: file.write(" ".join(map(str, model.weights)))
    ...     @staticmethod
    ...     def load(path):
    ...         with open(path) as file: return Model([float(word) for word in file.read().split()])
    >>> found = encode(Model([1.5, 2.0]))
    >>> bytes(found.buffers[0]), decode(found.codec, found.meta, bytes(found.buffers[0])).weights
    (b'1.5 2.0', [1.5, 2.0])
    """
    if not isinstance(kind, type):
        raise DefinitionError(f"a codec is for a class, not for {kind!r}: write @tinygraph.codec(TheClass)")

    def register(methods: _Class) -> _Class:
        missing = [name for name in ("save", "load") if not callable(getattr(methods, name, None))]
        if missing:
            raise DefinitionError(
                f"the codec of {kind.__name__} has no {' and no '.join(missing)}: "
                f"it needs static methods save(value, path) and load(path)"
            )
        suffix = getattr(methods, "suffix", "")
        if type(suffix) is not str or "/" in suffix or os.sep in suffix or "\0" in suffix:
            raise DefinitionError(f"the suffix of the codec of {kind.__name__} is no end of a file name: {suffix!r}")
        name = f"{kind.__module__}.{kind.__qualname__}"
        _codecs[kind] = _codecs_by_name[name] = Codec(name, kind, methods, suffix)
        return methods

    return register


def codecs() -> list[tuple[type, Any]]:
    """Return the codecs of the user's own, for a worker, which calls `codec(kind)(methods)` with each."""
    return [(kind, one.methods) for kind, one in _codecs.items()]


def _codec_of(kind: type) -> Codec | None:
    """Return the codec of the most derived class that has one."""
    for base in kind.__mro__:
        found = _codecs.get(base)
        if found is not None:
            return found
    return None


def _saved(own: Codec, value: Any) -> Any:
    """Return what `save` wrote, mapped: the file itself is gone already."""
    folder = tempfile.mkdtemp(prefix="tinygraph-")
    try:
        path = os.path.join(folder, f"value{own.suffix}")
        own.methods.save(value, path)
        return _content(own, path, os.listdir(folder))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _content(own: Codec, path: str, names: Iterable[str]) -> Any:
    save = f"save of the codec of {own.name}"
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    except OSError as error:
        others = ", ".join(sorted(names)) or "nothing"
        raise StoreError(
            f"{save} wrote no file at its path ({error.strerror}); it left {others}: "
            f"write to exactly that path, or give the codec the suffix that is added to it"
        ) from None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            what = "a directory" if stat.S_ISDIR(status.st_mode) else "no plain file"
            raise StoreError(f"{save} made {what} at its path: write one file, an archive for instance")
        if not status.st_size:
            return b""
        return memoryview(mmap.mmap(descriptor, status.st_size, access=mmap.ACCESS_READ))
    finally:
        os.close(descriptor)


def _loaded(name: str, body: bytes | memoryview) -> Any:
    own = _codecs_by_name.get(name)
    if own is None:
        raise StoreError(
            f"a value was kept by the codec of {name}, which is not registered here: "
            f"import or run the module with its @tinygraph.codec first"
        )
    folder = tempfile.mkdtemp(prefix="tinygraph-")
    try:
        path = os.path.join(folder, f"value{own.suffix}")
        with open(path, "xb") as file:
            file.write(body)
        return own.methods.load(path)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


# Who encodes what. Types of libraries join when they are met.

_ENCODERS: dict[type, Callable[[Any], Encoded | None]] = {
    type(None): _constant,
    bool: _constant,
    int: _number,
    float: _number,
    complex: _plain,
    str: _text,
    bytes: _bytes,
    list: _container,
    dict: _container,
    set: _container,
    frozenset: _container,
    tuple: _tuple,
}
_OF_LIBRARIES = (
    ("numpy", ("ndarray",), _array),
    ("numpy", ("float64", "float32", "int64", "int32", "uint8", "bool_", "str_"), _plain),
    ("datetime", ("date", "timedelta"), _plain),
    ("decimal", ("Decimal",), _plain),
    ("pyarrow", ("Table", "RecordBatch"), _table),
    ("pandas", ("DataFrame", "Series"), _frame),
    ("polars", ("DataFrame", "Series"), _polars),
)
_DATA_ENCODERS = frozenset((_array, _table, _frame, _polars))
_DECODERS: dict[str, Callable[[bytes, Any], Any]] = {
    "text": lambda meta, body: str(body, "utf-8"),
    "bytes": lambda meta, body: bytes(body),
    "json": _read_json,
    "npy": _read_array,
    "arrow": _read_table,
    "pandas": _read_frame,
    "polars": _read_polars,
    "parts": _read_parts,
    "pickle": _read_pickle,
}
