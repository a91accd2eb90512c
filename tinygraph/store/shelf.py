"""Shelf: where the values of a directory store lie, as the driver and its workers see it.

::

    Lookup (what is asked) ──► find ──► a value, or a Stored one: read when somebody needs it
          │
          └─ not there: the body runs, and whoever ran it puts what came out ──► put ──► Found (where it lies)
"""

from __future__ import annotations

import marshal
import threading
from collections import Counter
from collections.abc import Callable
from time import time
from typing import Any, NamedTuple

from tinygraph.blame import text_of
from tinygraph.capture import ATOMS, Nested
from tinygraph.definition import Definition
from tinygraph.errors import DamagedEntry, StoreError, UnhashableArgumentError
from tinygraph.future import MISSING, Elsewhere
from tinygraph.keys.canonical import token as token_of
from tinygraph.keys.digests import digest
from tinygraph.keys.files import intact
from tinygraph.store.codecs import Encoded, decode, encode
from tinygraph.store.entries import FILES, INLINE, Entries, Entry, Writer
from tinygraph.store.index import Found
from tinygraph.store.why import Argument, Seen

_RECENT = 500  # calls of a node that a new one is compared with
_LARGEST_INPUT = 1 << 20  # bytes of an argument that is kept besides the values of calls


class At(NamedTuple):
    """Stands for the value of a call in an argument that is kept: the key under which that value lies."""

    key: bytes


class Made(NamedTuple):
    """Stands for an object in an argument that is kept: how it is made, which may go wrong."""

    cls: type
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


class Lookup(NamedTuple):
    """What is known of a call before it has run: the key of its value, and what that key was made from."""

    key: bytes
    node: str  # where its function is defined, as module:name
    name: str
    code: bytes  # the digest of all that the function means
    args: bytes  # its arguments, marshalled

    @property
    def arguments(self) -> list[Argument]:
        """The arguments, as they were given."""
        return [Argument(*one) for one in marshal.loads(self.args)]


class Settings(NamedTuple):
    """What a process needs to know to use a store."""

    root: str
    secret: bytes
    durable: bool


class Stored(Elsewhere):
    """A value that lies in a store, and is read when somebody needs it: each time anew.

    Pickled it is a few bytes, and unpickled the value itself: a worker reads it without the driver in between.
    """

    __slots__ = ("__weakref__", "encoded", "found", "key", "origin", "shelf")

    def __init__(self, shelf: Shelf, key: bytes, found: Found, encoded: tuple[str, bytes, bytes] | None = None) -> None:
        self.shelf = shelf
        self.key = key
        self.found = found
        self.origin: tuple[Any, Any] | None = None  # the arguments of the call, which can run again with them
        self.encoded = encoded  # of a small value that was put just now: codec, meta and body
        shelf.held[key] += 1

    @property
    def token(self) -> bytes:
        """What stands for the value in keys."""
        return self.found.token

    def fetch(self) -> Any:
        """Return the value, made anew: whoever changes it does so for himself."""
        if self.encoded is not None:
            codec, meta, body = self.encoded
            try:
                return decode(codec, meta, memoryview(bytearray(body)))
            except Exception as error:
                raise DamagedEntry(f"a value that was just kept cannot be read: {text_of(error)}") from error
        return self.shelf.load(self.key, self.found)

    def __reduce__(self) -> tuple[Any, ...]:
        return _fetched, (self.shelf.settings, self.key, self.found)

    def __del__(self) -> None:
        held = self.shelf.held
        held[self.key] -= 1
        if not held[self.key]:
            del held[self.key]


class Shelf:
    """The values of one store, for one process."""

    def __init__(self, settings: Settings, entries: Entries) -> None:
        self.settings = settings
        self.entries = entries
        self.held: Counter[bytes] = Counter()  # the keys of values that somebody has not read yet, and may
        self.writer = Writer(*settings)
        self._parts: dict[bytes, dict[str, str]] = {}
        self._known: set[bytes] = set()  # things that were put here by this process, or found

    def find(self, key: bytes) -> tuple[bytes, Any] | None:
        """Return the token of a value and what stands for the value, or None."""
        found = self.entries.find(key)
        if found is None:
            return None
        if found.flags & FILES and not self._is_intact(key, found):
            return None
        return found.token, self.standing(key, found)

    def standing(self, key: bytes, found: Found) -> Any:
        """Return what stands for a value: the value itself where its token is as much."""
        value = atom(found.token)
        return Stored(self, key, found) if value is MISSING else value

    def load(self, key: bytes, found: Found) -> Any:
        """Read a value; raises :class:`DamagedEntry` for one that is not what was put there."""
        entry = self.entries.read(found, key)
        body = self.entries.body(entry)
        try:
            return decode(entry.codec, entry.meta, body)
        except Exception as error:  # its class is another than it was, or cannot be imported here: the entry is well
            what = f"the value of {entry.name!r}" if entry.name else "a part of a call"
            raise DamagedEntry(f"{what} in {self.settings.root!r} cannot be read: {text_of(error)}") from error

    def keep(self, lookup: Lookup, value: Any, seconds: float) -> tuple[bytes, Any]:
        """Put a value; return its token and what stands for it from now on."""
        encoded = encode(value)
        found = _put(self.writer, lookup, value, encoded, seconds)
        self.adopt(lookup, found, seconds)
        if type(value) in ATOMS:
            return found.token, value
        if encoded.nbytes > INLINE:
            return found.token, Stored(self, lookup.key, found)
        return found.token, Stored(self, lookup.key, found, (encoded.codec, encoded.meta, b"".join(encoded.buffers)))

    def discard(self, key: bytes) -> None:
        """Have a value not be found that a worker has put, because it is not what its key says."""
        self.entries.bury([key])

    def adopt(self, lookup: Lookup, found: Found, seconds: float) -> None:
        """Take a value up in the index that this process or a worker has put."""
        self.entries.note(lookup.key, found, node=lookup.node, seconds=seconds)

    def keep_thing(self, key: bytes, value: Any) -> None:
        """Keep something that is no call's value, unless it is there."""
        if key not in self._known:
            if self.entries.find(key) is None:
                self.keep(Lookup(key, "", "", b"", b""), value, 0.0)
            self._known.add(key)

    def thing(self, key: bytes) -> Any:
        """Return what was put under a key, or MISSING."""
        found = self.entries.find(key)
        return MISSING if found is None else self.load(key, found)

    def entry(self, key: bytes) -> Entry | None:
        """Return what is kept under a key, besides its value."""
        found = self.entries.find(key)
        return None if found is None else self.entries.read(found, key)

    def argument(self, argument: Argument) -> Any:
        """Return the value of an argument of an earlier call, or MISSING."""
        value = atom(argument.token)
        if value is MISSING:
            value = self.thing(argument.key or key_of("input", argument.token))
        return self.filled(value)

    def filled(self, value: Any) -> Any:
        """Put values where an argument that was kept has only their keys."""
        return Nested(value).replace(At, lambda at: self.thing(at.key))

    def latest(self, node: str) -> list[Seen]:
        """Return the calls of a node that ran last, the latest first."""
        return [
            Seen(entry.code, [Argument(*one) for one in marshal.loads(entry.args)])
            for entry in self.entries.latest(node, _RECENT)
            if entry.args
        ]

    def keep_code(self, code: bytes, parts: dict[str, str], definition: Definition) -> None:
        """Keep what the digest of some code was made of, and the node itself, so that it can run again elsewhere."""
        if code in self._parts:
            return
        self._parts[code] = parts
        self.keep_thing(key_of("parts", code), dict(parts))
        try:
            self.keep_thing(key_of("node", code), definition)
        except Exception:  # it cannot be pickled: then it runs again only where it is defined
            return

    def keep_input(self, token: bytes, value: Any) -> None:
        """Keep an argument that was no call's value, so that the call can run again; a large one is the user's."""
        if getattr(value, "nbytes", 0) > _LARGEST_INPUT:
            return
        key = key_of("input", token)
        try:
            self.keep_thing(key, value)
        except (OSError, StoreError):
            raise
        except Exception:  # it cannot be pickled: then the call runs again only where somebody has it
            self._known.add(key)

    def parts_of(self, code: bytes) -> dict[str, str]:
        """Return what the digest of some code was made of, as far as it is known."""
        found = self._parts.get(code)
        if found is None:
            thing = self.thing(key_of("parts", code))
            found = self._parts[code] = {} if thing is MISSING else thing
        return found

    def evicted(self, key: bytes) -> bool:
        """Whether the value of a key was removed to save room."""
        return self.entries.evicted(key)

    def costs(self) -> dict[str, float]:
        """Return the seconds that calls of nodes take, where that is known."""
        return self.entries.costs()

    def _is_intact(self, key: bytes, found: Found) -> bool:
        try:
            return intact(self.load(key, found))
        except DamagedEntry:
            return False


class Put(NamedTuple):
    """What a worker tells the driver of a value that it has put."""

    found: Found
    nbytes: int


def keep_for_driver(settings: Settings, lookup: Lookup, value: Any, seconds: float) -> Put:
    """Put a value from a process that is not the driver's, which takes it up in its index."""
    encoded = encode(value)
    return Put(_put(shelf_at(settings).writer, lookup, value, encoded, seconds), encoded.nbytes)


def _put(writer: Writer, lookup: Lookup, value: Any, encoded: Encoded, seconds: float) -> Found:
    """Put what came out of a call, in this process; its token comes from its meaning, else from its bytes."""
    token = token_or_digest(value, lambda: encoded)
    flags = FILES if encoded.files else 0
    entry = Entry(
        lookup.key, token, lookup.node, lookup.name, lookup.code, lookup.args, time(), seconds,
        encoded.codec, encoded.meta, encoded.nbytes, None, None, flags, b"",
    )  # fmt: skip
    return writer.put(entry, encoded)


def token_or_digest(value: Any, encoded: Callable[[], Encoded]) -> bytes:
    """Return the token of a value; of one whose meaning is not the same everywhere, one that is made of its bytes.

    What depends on such a value runs again wherever its bytes differ.
    """
    try:
        return token_of(value)
    except (UnhashableArgumentError, RecursionError):
        bytes_of = encoded()
        parts = [digest(bytes_of.codec.encode()), digest(bytes_of.meta), *map(digest, bytes_of.buffers)]
        return b"#" + digest(b"".join(parts))


def atom(token: bytes) -> Any:
    """Return the plain value whose token this is, or MISSING.

    >>> atom(token_of(3)), atom(token_of([3])), atom(token_of("x" * 99))
    (3, MISSING, MISSING)
    """
    if token[:1] == b"#":
        return MISSING
    value = marshal.loads(token)
    return value if type(value) in ATOMS else MISSING


def key_of(what: str, identity: bytes) -> bytes:
    """Return the key of something that is no call's value."""
    return digest(what.encode() + b"\0" + identity)


_shelves: dict[Settings, Shelf] = {}
_opening = threading.Lock()


def shelf_at(settings: Settings) -> Shelf:
    """Return the shelf of a store in this process: one for all who ask."""
    with _opening:
        found = _shelves.get(settings)
        if found is None:
            found = _shelves[settings] = Shelf(settings, Entries(*settings))
        return found


def _fetched(settings: Settings, key: bytes, found: Found) -> Any:
    return shelf_at(settings).load(key, found)
