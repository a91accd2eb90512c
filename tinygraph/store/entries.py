"""Entries: what a store has of each call that it keeps: put, found by key, read, listed, verified, made room of.

::

                      ┌─► blobs     what is larger than 4 KiB
    Writer.put ───────┴─► journal   the record of an entry: from here on it is kept        (any process)
                             │
    Entries.note, catch_up ──┴─► rows, index     where the record of a key lies            (the driver)

The journals and blobs are the truth, and everything that is read from them is checked before it is decoded. What is
damaged is kept aside, told once, and not there.
"""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from time import sleep, time
from typing import Any, NamedTuple, Protocol

from tinygraph.errors import DamagedEntry
from tinygraph.store import disk, journal
from tinygraph.store.aside import Aside
from tinygraph.store.blobs import Blobs
from tinygraph.store.index import Found, Row
from tinygraph.store.journal import Journal
from tinygraph.store.rows import Entry, Rows, entry_in, payload_of
from tinygraph.store.seal import Seal, trust
from tinygraph.store.shrink import InUse, Shrunk, shrink, size_of

__all__ = ["FILES", "INLINE", "Bad", "Encoded", "Entries", "Entry", "Found", "Shrunk", "Writer"]

FILES = 1  # a flag: the value has files in it, which are looked at before it counts as found
INLINE = 4096  # bytes of a value that lies in its record

_MOMENT = 0.02  # seconds until a disk that was in the way is asked once more
_OPEN = 64  # journals that stay open for reading


class Encoded(Protocol):
    """A value as bytes: what `put` needs to know of it."""

    @property
    def codec(self) -> str: ...
    @property
    def meta(self) -> bytes: ...
    @property
    def buffers(self) -> Sequence[Any]: ...
    @property
    def nbytes(self) -> int: ...


class Bad(NamedTuple):
    """An entry that is not what was put there."""

    key: bytes
    path: str
    problem: str


class Writer:
    """Puts entries. One for each process; a pickled one makes itself anew where it arrives.

    >>> import tempfile, collections
    >>> root, some = tempfile.mkdtemp(), collections.namedtuple("Some", "codec meta buffers nbytes")
    >>> entry = Entry(b"k" * 20, b"token", "m:f", "f", b"", b"", 1.0, 2.0, "text", b"", 5, None, None, 0, b"")
    >>> found = Writer(root, bytes(32)).put(entry, some("text", b"", [b"value"], 5))
    >>> entries = Entries(root, bytes(32))
    >>> entries.find(b"k" * 20) == found, entries.body(entries.read(found, b"k" * 20)).tobytes()
    (True, b'value')
    >>> entries.close()
    """

    def __init__(self, root: str | os.PathLike[str], secret: bytes, durable: bool = False) -> None:
        self._settings = (os.fspath(root), secret, durable)
        self._journal = Journal(os.path.join(root, "journal"), Seal(secret, b"record"), durable)
        self._blobs = Blobs(os.path.join(root, "values"), Seal(secret, b"blob"), durable)

    def __reduce__(self) -> tuple[Any, ...]:
        return Writer, self._settings

    def put(self, entry: Entry, encoded: Encoded) -> Found:
        """Keep an entry with its value; return where it lies. When this returns, it is kept.

        Raises OSError or :class:`StoreError` when that cannot be; then nothing of it is there.
        """
        body = blob = None
        if encoded.nbytes <= INLINE:
            body = b"".join(encoded.buffers)
        else:
            blob = self._blobs.put(encoded.codec, encoded.meta, encoded.buffers)
        # A tuple, and not `entry._replace(...)`, which costs as much as all the rest of this.
        whole = (*entry[:8], encoded.codec, encoded.meta, encoded.nbytes, body, blob, entry.flags, entry.extra)
        pack, at, length = self._journal.append(entry.key, payload_of(whole))
        return Found(entry.token, entry.flags, pack, at, length)

    def close(self) -> None:
        """Let go of this process's journal, so that another one can go on with it. A later put takes one again."""
        self._journal.close()


class Entries:
    """The entries of a store. For all threads of a process; a forked child goes on with its own.

    Nothing is opened before something is asked for. ``warn`` is called with what a person should know.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        secret: bytes,
        durable: bool = False,
        warn: Callable[[str], None] | None = None,
    ) -> None:
        self.root = os.fspath(root)
        self._durable = durable
        self._seal = Seal(secret, b"record")
        warn = warn or _warn
        self._aside = Aside(self.root, warn)
        self._rows = Rows(self.root, secret, durable, self._aside, warn)
        self._blobs = Blobs(os.path.join(self.root, "values"), Seal(secret, b"blob"), durable)
        self._in_use = InUse(self.root)
        self._fds: dict[str, int] = {}
        self._reading = threading.Lock()
        self._pid = os.getpid()

    def find(self, key: bytes) -> Found | None:
        """Return what is known of a key, or None."""
        return self._rows.find(key)

    def note(
        self, key: bytes, found: Found, *, node: str = "", seconds: float | None = None, when: float | None = None
    ) -> None:
        """Take up an entry that a writer has put: it is found from now on, and by other programs after `flush`."""
        self._rows.note(Row(key, found, node, time() if when is None else when), seconds)

    def catch_up(self) -> None:
        """Take up what writers have put and nobody noted; this is done on opening, too."""
        self._rows.catch_up()

    def flush(self) -> None:
        """Write what was noted, found and learned to the index."""
        self._rows.flush()

    def close(self) -> None:
        """Flush, and let go of all files; what is asked for later opens them again."""
        try:
            self._rows.close()
        finally:
            with self._reading:
                while self._fds:
                    disk.close(self._fds.popitem()[1])

    # ---- reading

    def read(self, found: Found, key: bytes) -> Entry:
        """Return an entry; raises :class:`DamagedEntry` if it is not what was put there, and then it is not there."""
        try:
            entry: Entry = _again(self._entry, found, key)
            return entry
        except (DamagedEntry, OSError) as error:
            problem = error
        moved = self._rows.in_index(key)  # another program may have made room meanwhile
        if moved is not None and moved != found:
            if moved.token != found.token:  # the caller has told others of the value that it was
                raise DamagedEntry(f"the entry {key.hex()} was replaced by one of another value")
            try:
                return self._entry(moved, key)
            except (DamagedEntry, OSError) as error:
                found, problem = moved, error
        if not isinstance(problem, FileNotFoundError):
            self._rows.set_aside(found.pack, found.at, found.length, f"the entry {key.hex()}", problem)
        self._rows.forget(key)
        path = journal.path_of(self._rows.journals, found.pack)
        raise DamagedEntry(f"the entry {key.hex()} in {path!r} is damaged: {problem}") from None

    def _entry(self, found: Found, key: bytes) -> Entry:
        record = self._bytes(found.pack, found.at, found.length)
        entry = entry_in(key, journal.unsealed(self._seal, key, record))
        if entry.token != found.token:
            raise DamagedEntry("it is another entry of this call")
        return entry

    def _bytes(self, pack: str, at: int, length: int) -> bytes:
        if self._pid != os.getpid():
            self._pid, self._reading = os.getpid(), threading.Lock()
        with self._reading:  # so that nobody closes the file meanwhile
            fd = self._fds.get(pack)
            if fd is None:
                fd = disk.open_to_read(journal.path_of(self._rows.journals, pack))
                if len(self._fds) >= _OPEN:
                    disk.close(self._fds.pop(next(iter(self._fds))))
                self._fds[pack] = fd
            return disk.read(fd, length, at)

    def body(self, entry: Entry) -> memoryview:
        """Return the value of an entry as bytes that belong to the caller; raises :class:`DamagedEntry`."""
        if entry.blob is None:
            return memoryview(bytearray(entry.body or b""))
        try:
            payload: memoryview = _again(self._payload, entry, entry.blob)
            return payload
        except (DamagedEntry, OSError) as error:
            problem = error
        path = self._blobs.path(entry.blob)
        if not isinstance(problem, FileNotFoundError):
            self._aside.move(path, entry.blob.hex(), f"a value of {entry.name!r}", problem)
        self._rows.forget(entry.key)
        raise DamagedEntry(f"the value of {entry.name!r} in {path!r} is damaged: {problem}") from None

    def _payload(self, entry: Entry, name: bytes) -> memoryview:
        blob = self._blobs.get(name)
        if (blob.codec, blob.meta, blob.payload.nbytes) != (entry.codec, entry.meta, entry.size):
            raise DamagedEntry("it is another value")
        return blob.payload

    # ---- what else is known

    def latest(self, node: str, limit: int = 20) -> list[Entry]:
        """Return the entries of a node that were put last, the newest first."""
        return [*self._readable(self._rows.latest(node, limit))]

    def _readable(self, rows: Iterable[tuple[bytes, Found]]) -> Iterator[Entry]:
        for key, found in rows:
            try:
                yield self.read(found, key)
            except DamagedEntry:  # that was told
                pass

    def costs(self, nodes: Iterable[str] | None = None) -> dict[str, float]:
        """Return the seconds that calls of nodes take, as far as is known: newer ones weigh more."""
        known = self._rows.costs()
        return known if nodes is None else {node: known[node] for node in nodes if node in known}

    def learn(self, node: str, seconds: float) -> None:
        """Note what a call took of which nothing is kept."""
        self._rows.learn(node, seconds)

    def evicted(self, key: bytes) -> bool:
        """Say whether an entry was removed to save room."""
        return self._rows.is_gone(key)

    def size(self) -> int:
        """Return how many bytes the entries have on disk."""
        return size_of(self._rows, self._blobs)

    def forget(self, key: bytes) -> None:
        """Have a key not be found any more, because its value is of no use."""
        self._rows.forget(key)

    def bury(self, keys: Sequence[bytes]) -> None:
        """Take out entries for good: that is noted in a journal."""
        self._rows.bury(keys)

    def verify(self) -> list[Bad]:
        """Read everything that is kept; return what is not what was put there, and change nothing."""
        bad = []
        for key, found in self._rows.all():
            path = journal.path_of(self._rows.journals, found.pack)
            try:
                entry = self._entry(found, key)
                if entry.blob is not None:
                    path = self._blobs.path(entry.blob)
                    self._payload(entry, entry.blob)
            except (DamagedEntry, OSError) as error:
                bad.append(Bad(key, path, str(error)))
        return bad

    # ---- making room

    def use(self) -> None:
        """Say that a run begins: nothing is removed from the store until `release`."""
        trust(self.root)
        self._in_use.enter()
        try:
            self._rows.renew()
            if self._in_use.is_time_to_sweep():
                self._blobs.sweep()
        except BaseException:
            self._in_use.leave()
            raise

    def release(self) -> None:
        """Say that the run has ended, and that nobody needs a value of which only the store knows."""
        self._in_use.leave()

    def shrink(
        self, max_bytes: int | None = None, max_age: float | None = None, spared: Collection[bytes] = ()
    ) -> Shrunk:
        """Remove entries until the store is small enough, and none was unused for longer: the longest unused first.

        Does nothing, and says why, while the store is in use. Entries of processes that have their journal open
        (see :meth:`Writer.close`) do not count any more, but their room is given back later.
        """
        try:
            fd = self._in_use.alone()
        except OSError as error:
            return Shrunk(0, 0, self.size(), f"the store cannot be written to: {error.strerror or error}")
        if fd < 0:
            return Shrunk(0, 0, self.size(), "the store is in use")
        try:
            self._rows.renew()
            if not self._rows.has_index:
                return Shrunk(0, 0, self.size(), "the store has no index at present")
            return shrink(self._rows, self._blobs, self._seal, self._durable, max_bytes, max_age, spared)
        except OSError as error:
            return Shrunk(0, 0, self.size(), f"it could not be done: {error.strerror or error}")
        finally:
            disk.close(fd)

    # ---- last, for from here on `list` means this

    def list(self) -> Iterator[Entry]:
        """Yield all entries, the oldest first."""
        return self._readable(self._rows.all())


def _warn(message: str) -> None:
    warnings.warn(message, RuntimeWarning, stacklevel=5)


def _again(read: Callable[..., Any], *what: Any) -> Any:
    """Read something, and once more if the disk, or the lack of open files, was in the way: that may pass."""
    try:
        return read(*what)
    except FileNotFoundError:
        raise
    except OSError:
        sleep(_MOMENT)
        return read(*what)
