"""Rows: where the record of each key lies, as far as this process knows it.

::

    noted by this program ──┐
    journals, beyond what ──┼─► rows ──► find
    the index has of them   │    ▲│
                            │    │▼ flush
                            └── index

The index can be lost, spoilt or out of reach at any time. It is made anew from the journals; where that cannot be, a
run goes on with what it has read of them. Neither is an error: what is kept is found all the same, and one warning
says what happened.
"""

from __future__ import annotations

import marshal
import os
import sqlite3
import threading
from collections.abc import Callable, Iterable, Sequence
from time import monotonic, time
from typing import Any, NamedTuple, TypeVar

from tinygraph.store import disk, journal
from tinygraph.store.aside import Aside
from tinygraph.store.index import FORMAT, Found, Index, Row, Spoilt, mean_of, split
from tinygraph.store.journal import Record, Scan
from tinygraph.store.seal import Seal, claim, trust

GONE = 1 << 31  # a flag: the record is no entry, but a note that entries were removed to save room

_FRESH = 0.05  # seconds for which nobody looks again whether another program has added something
_AT_ONCE = 1_000  # rows that are all read when one is asked for: about 3 ms
_AT_MOST = 500_000  # that are ever read at once
_PENDING = 10_000  # that wait to be written
_BURIED = 10_000  # keys in one note that they are gone

# What SQLite says of a file that is well, and only cannot be used now.
_UNUSABLE = frozenset(
    (
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_AUTH,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_NOLFS,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_PROTOCOL,
        sqlite3.SQLITE_INTERRUPT,
    )
)
_NOT_THE_FILE = (sqlite3.SQLITE_IOERR_SHORT_READ, sqlite3.SQLITE_READONLY_DBMOVED)
# What a spoilt file can make of a question.
_TROUBLE = (sqlite3.Error, Spoilt, OSError, ValueError, TypeError, EOFError, OverflowError)

T = TypeVar("T")


class Entry(NamedTuple):
    """What is kept of a call."""

    key: bytes
    token: bytes  # stands for the value
    node: str  # "module:qualname"
    name: str
    code: bytes  # the digest of all that the node's code means
    args: bytes  # marshalled
    when: float
    seconds: float
    codec: str
    meta: bytes
    size: int
    body: bytes | None  # the value, if it is small
    blob: bytes | None  # else the name of its blob
    flags: int
    extra: bytes


def entry_in(key: bytes, payload: bytes) -> Entry:
    """Return the entry that a record says.

    >>> entry = Entry(b"k", b"t", "m:f", "f", b"", b"", 1.0, 2.0, "text", b"", 5, b"value", None, 0, b"")
    >>> entry_in(b"k", payload_of(entry)) == entry
    True
    """
    return Entry(key, *marshal.loads(payload))


def payload_of(entry: tuple[Any, ...]) -> bytes:
    """Return what a record says of an entry, or of a tuple of the same."""
    return marshal.dumps(entry[1:], 2)


def note_of_gone(keys: Sequence[bytes], when: float) -> Entry:
    """Return the note that entries were removed."""
    return Entry(
        bytes(journal.KEY), b"", "", "", b"", b"", when, 0.0, "", b"", 0, None, None, GONE, b"".join(keys)
    )  # fmt: skip


class Rows:
    """Where the record of each key lies. For all threads of a process; a forked child goes on with its own."""

    def __init__(self, root: str, secret: bytes, durable: bool, aside: Aside, warn: Callable[[str], None]) -> None:
        self._root = root
        self._secret = secret
        self._durable = durable
        self._aside = aside
        self._warn = warn
        self._seal = Seal(secret, b"record")
        self.journals = os.path.join(root, "journal")
        self._path = os.path.join(root, f"index-{FORMAT}.sqlite")  # another format has another file
        self._index: Index | None = None
        self._identity: tuple[int, int] | None = None  # of the index that is open
        self._was_mended = self._was_told = False
        self._pid = os.getpid()
        self._alone = _Alone(self)
        self._found: set[bytes] = set()
        self._pending_costs: list[tuple[str, float]] = []
        self._forget_all()

    def _forget_all(self) -> None:
        self._is_open = False
        self._asked = 0
        self._known: dict[bytes, Found] = {}  # all of them, if `_is_whole`; else those that were noted
        self._is_whole = False
        self._due = 0.0  # when it is looked at again whether another program has added something
        self._has_gone: bool | None = None  # whether anything was ever removed, as far as this run has asked
        self._pending: dict[bytes, Row] = {}
        self._replaced: set[bytes] = set()  # keys of those that have older rows, as far as is known
        self._gone: dict[bytes, float] = {}  # removed to save room, as far as this was read, and when
        self._pending_gone: dict[bytes, float] = {}
        self._upto: dict[str, int] = {}  # how far each journal is known
        self._ahead: dict[str, dict[int, int]] = {}  # begin to end of records noted beyond that
        self._advanced: set[str] = set()
        self._without: dict[bytes, Row] | None = None  # all of them, in a run without an index
        self._learned: dict[str, float] | None = None

    # ---- finding

    def find(self, key: bytes) -> Found | None:
        """Return what is known of a key, or None."""
        found = self._known.get(key)
        if found is None:
            found = self._looked_up(key)
            if found is None:
                return None
        self._found.add(key)
        return found

    def _looked_up(self, key: bytes) -> Found | None:
        with self.alone():
            self._asked += 1
            if self._index is not None and not self._is_whole:
                self._load_if_worth_it()
                found = self._known.get(key)
                if found is not None:
                    return found
            if self._is_whole:
                # Another program may have added it since all rows were read: that is looked at now and then.
                now = monotonic()
                if now < self._due:
                    return self._known.get(key)
                self._due = now + _FRESH
                if not self._asking(lambda index: index.was_changed(), lambda: False):
                    return self._known.get(key)
                self._is_whole = False
            return self._asking(lambda index: index.find(key), lambda: self._known.get(key))

    def _load_if_worth_it(self) -> None:
        """Read all rows, when there are few for what has been asked: a third of the price of finding each."""
        if self._asked & (self._asked - 1):  # look again when twice as many were asked for
            return
        most = min(max(_AT_ONCE, 4 * self._asked), _AT_MOST)

        def load(index: Index) -> None:
            count = index.state()[0]
            if count <= most:
                known = {row.key: row.found for row in index.all()}
                if count > 2 * len(known) + _AT_ONCE:
                    index.thin()
                known.update((key, row.found) for key, row in self._pending.items())
                self._known = known
                self._is_whole = True

        self._asking(load, lambda: None)

    def in_index(self, key: bytes) -> Found | None:
        """Return what the index says of a key now: another program may have moved its record."""
        with self.alone():
            found = self._asking(lambda index: index.find(key), lambda: None)
            if found is not None:
                self._known[key] = found
            return found

    def note(self, row: Row, seconds: float | None) -> None:
        """Take up an entry that a writer has put: it is found from now on, and by others after `flush`."""
        with self.alone():
            if row.key in self._known and row.key not in self._pending:
                self._replaced.add(row.key)
            self._take(row, seconds)
            if len(self._pending) >= _PENDING:
                self.flush()

    def forget(self, key: bytes) -> None:
        """Take out a key whose entry is damaged."""
        with self.alone():
            self._drop(key)
            self._asking(lambda index: index.forget(key), lambda: None)

    def _take(self, row: Row, seconds: float | None) -> None:
        key, found = row.key, row.found
        self._known[key] = found
        self._pending[key] = row
        if self._without is not None:
            self._without[key] = row
        if seconds is not None and row.node:
            self._pending_costs.append((row.node, seconds))
        ahead = self._ahead.get(found.pack)
        if ahead is None:
            ahead = self._ahead[found.pack] = {}
        ahead[found.at] = found.at + found.length

    def _drop(self, key: bytes) -> None:
        self._known.pop(key, None)
        self._pending.pop(key, None)
        if self._without is not None:
            self._without.pop(key, None)

    # ---- journals

    def catch_up(self) -> None:
        """Take up what writers have put and nobody noted."""
        with self.alone():
            self._catch_up()

    def _catch_up(self) -> None:
        try:
            there = journal.files(self.journals)
        except OSError as error:
            self._warn(f"the store {self._root!r} cannot be read: {error}")
            return
        for pack in there:
            self._advance(pack)
        # One that has lost its end, in a loss of power, is read again, whatever its rows say.
        lost = sorted(pack for pack, upto in self._upto.items() if there.get(pack, -1) < upto)
        if lost:
            self._lose(lost)
        for pack, size in there.items():
            if size > self._upto.get(pack, 0):
                self._scan(pack, self._upto.get(pack, 0))

    def _lose(self, packs: list[str]) -> None:
        """Take out the rows of journals that are no more, or not what they were."""
        for pack in packs:
            self._upto.pop(pack, None)
            self._ahead.pop(pack, None)
        gone = frozenset(packs)
        for key in [key for key, found in self._known.items() if found.pack in gone]:
            self._drop(key)
        before = self._index

        def remove(index: Index) -> None:
            if index is before:  # and not one that was just made anew, from what there is
                index.write(removed=packs)

        self._asking(remove, lambda: None)

    def _scan(self, pack: str, start: int) -> None:
        scan = Scan(journal.path_of(self.journals, pack), self._seal, start)
        try:
            for record in scan:
                self._take_up(pack, record)
        except OSError as error:
            self._warn(f"the store {self._root!r} has a journal that cannot be read: {error}")
        for at, length in scan.gaps:
            self.set_aside(pack, at, length, "an entry", "its seal is not right")
        self._upto[pack] = scan.upto
        self._advanced.add(pack)
        self._ahead.pop(pack, None)

    def _take_up(self, pack: str, record: Record) -> None:
        entry = entry_in(record.key, record.payload)
        if entry.flags & GONE:
            for key in split(entry.extra):
                self._gone[key] = self._pending_gone[key] = entry.when
                known = self._pending.get(key)
                if known is None or known.made <= entry.when:
                    self._drop(key)
            return
        known = self._pending.get(record.key)
        if self._gone.get(record.key, 0.0) >= entry.when or (known is not None and known.made > entry.when):
            return
        found = Found(entry.token, entry.flags, pack, record.at, record.length)
        newest = None if known is not None else self._asking(lambda index: index.newest(record.key), lambda: None)
        if newest is not None:
            made, *place = newest
            if place == [pack, record.at]:  # another program has taken it up
                self._known[record.key] = found
                return
            if made > entry.when:  # what a program left that died may be older than what another has put since
                return
            self._replaced.add(record.key)
        self._take(Row(record.key, found, entry.node, entry.when), entry.seconds)

    def _advance(self, pack: str) -> None:
        """Note how far a journal is known without a gap."""
        ahead = self._ahead.get(pack)
        if ahead:
            begin = upto = self._upto.get(pack, 0)
            while upto in ahead:
                upto = ahead.pop(upto)
            if upto != begin:
                self._upto[pack] = upto
                self._advanced.add(pack)

    def set_aside(self, pack: str, at: int, length: int, what: str, problem: object) -> None:
        """Keep a copy of a damaged record."""

        def content() -> bytes:
            fd = disk.open_to_read(journal.path_of(self.journals, pack))
            try:
                return disk.read(fd, min(length, disk.status(fd).st_size), at)
            finally:
                disk.close(fd)

        self._aside.copy(f"{pack}-{at}.record", content, what, problem)

    # ---- the index

    def flush(self) -> None:
        """Write what was noted to the index, for other programs and later runs."""
        with self.alone():
            for pack in list(self._ahead):
                self._advance(pack)
            rows, costs, gone = self._pending, self._pending_costs, self._pending_gone
            found, advanced = self._found, self._advanced
            if not (rows or costs or gone or found or advanced):
                return
            self._pending, self._pending_costs, self._pending_gone = {}, [], {}
            replaced, self._replaced = self._replaced, set()
            self._found, self._advanced = set(), set()
            upto = {pack: self._upto[pack] for pack in advanced if pack in self._upto}
            used = (time(), b"".join(found)) if found else None
            if self._learned is not None:
                _learn(self._learned, costs)
            try:
                self._asking(
                    lambda index: index.write(
                        rows.values(), upto, costs, used, gone.items(), replaced=replaced & rows.keys()
                    ),
                    lambda: None,
                )
            except BaseException:  # interrupted: it is not written, and is to be written the next time
                self._pending, self._pending_gone = rows | self._pending, gone | self._pending_gone
                self._replaced |= replaced
                self._advanced |= advanced
                raise
            if self._without is None and (not self._is_whole or len(self._known) > _AT_MOST):
                self._known, self._is_whole = {}, False

    def _asking(self, ask: Callable[[Index], T], without: Callable[[], T]) -> T:
        """Ask the index; where it is spoilt make it anew, where it cannot be used go on without it."""
        for _ in range(2):
            if self._index is None:
                break
            try:
                return ask(self._index)
            except _TROUBLE as error:
                self._mend(error)
        return without()

    def _open(self) -> None:
        trust(self._root)
        for folder in (self.journals, os.path.join(self._root, "values")):
            if os.path.lexists(folder):
                trust(folder)
        claim(self._root, self._secret)
        self._is_open = True
        try:
            self._open_index()
        except _TROUBLE as error:
            self._mend(error)
        else:
            self._catch_up()

    def _open_index(self) -> None:
        try:
            disk.close(disk.make_or_open(self._path))  # readable by nobody else, whatever SQLite would have it
        except disk.NotPlain as error:
            raise Spoilt(str(error)) from None
        self._index = Index(self._path, self._secret, self._durable)
        self._identity = disk.identity(self._path)
        _, self._upto = self._index.state()

    def _mend(self, error: Exception) -> None:
        """Make the index anew from the journals, if it is spoilt; else, or when that fails, go on without it."""
        self._close_index()
        self._known, self._is_whole, self._upto, self._ahead = {}, False, {}, {}
        if not self._was_mended and not _is_unusable(error):
            self._was_mended = True
            try:
                self._remove_index()
                self._open_index()
                self._catch_up()
                self.flush()
                if self._index is not None:
                    self._tell(f"the index of the store {self._root!r} was spoilt, and was made anew: {error}")
                return
            except _TROUBLE as second:
                error = second
        self._go_without(error)

    def _remove_index(self) -> None:
        """Move the index aside, unless another program has just done that."""
        fd = disk.make_or_open(os.path.join(self._root, "index.lock"))
        try:
            disk.lock(fd, alone=True, wait=10)
            if self._identity is None or self._identity == disk.identity(self._path):
                for suffix in ("", "-wal", "-shm"):
                    self._aside.move_silently(self._path + suffix)
            self._identity = None
        finally:
            disk.close(fd)

    def _go_without(self, error: Exception) -> None:
        """Read all journals, and use what they say: nothing that is kept runs again because an index is missing."""
        self._close_index()
        self._known, self._upto, self._ahead, self._without = {}, {}, {}, {}
        self._is_whole = True
        self._catch_up()
        self._learned = {}
        _learn(self._learned, self._pending_costs)
        self._pending, self._pending_costs = {}, []
        self._tell(f"the store {self._root!r} is used without an index, which takes longer: {error}")

    def _tell(self, message: str) -> None:
        if not self._was_told:
            self._was_told = True
            self._warn(message)

    def _close_index(self) -> None:
        if self._index is not None:
            try:
                self._index.close()
            except sqlite3.Error:
                pass
            self._index = None

    def renew(self) -> None:
        """Take in what happened since the last run: another program may have removed something, or all of it."""
        was_open = self._is_open
        self._has_gone = None
        with self.alone():
            if was_open and (self._index is None or self._identity != disk.identity(self._path)):
                self._close_index()
                self._forget_all()
                self._was_mended = self._was_told = False
        with self.alone():
            if self._asking(lambda index: index.was_changed(), lambda: False):
                self.flush()
                self._known, self._is_whole, self._asked = {}, False, 0
                self._upto = self._asking(lambda index: index.state()[1], lambda: self._upto)
            self._catch_up()

    def close(self) -> None:
        """Flush, and let go of the index; what is asked for later opens it again."""
        if not self._is_open:
            return
        with self.alone():
            self.flush()
            self._close_index()
            self._forget_all()

    # ---- what else is known

    @property
    def has_index(self) -> bool:
        """Whether there is an index in this run."""
        return self._index is not None

    def all(self) -> list[tuple[bytes, Found]]:
        """Return all keys, the oldest first, up to now."""
        with self.alone():
            self._catch_up()
            self.flush()

            def without() -> Iterable[Row]:
                return sorted((self._without or {}).values(), key=lambda row: row.made)

            rows = self._asking(lambda index: index.all(), without)
            newest = {row.key: row for row in rows}  # of each key the last
            return [(row.key, row.found) for row in rows if newest[row.key] is row]

    def latest(self, node: str, limit: int) -> list[tuple[bytes, Found]]:
        """Return the keys of a node, the newest first."""
        with self.alone():
            self.flush()

            def without() -> list[tuple[bytes, Found]]:
                rows = [row for row in (self._without or {}).values() if row.node == node]
                rows.sort(key=lambda row: row.made, reverse=True)
                return [(row.key, row.found) for row in rows[:limit]]

            return self._asking(lambda index: index.latest(node, limit), without)

    def costs(self) -> dict[str, float]:
        """Return the seconds that calls take, by node."""
        with self.alone():
            if self._learned is None:
                nothing: dict[str, float] = {}
                self._learned = self._asking(lambda index: index.costs(), lambda: nothing)
            found = dict(self._learned)
            _learn(found, self._pending_costs)
            return found

    def learn(self, node: str, seconds: float) -> None:
        """Note what a call took of which nothing is kept."""
        with self.alone():
            self._pending_costs.append((node, seconds))

    def is_gone(self, key: bytes) -> bool:
        """Say whether an entry was removed to save room."""
        with self.alone():
            if self._has_gone is None:
                self._has_gone = self._asking(lambda index: index.has_gone(), lambda: False)
            if not (self._has_gone or self._gone):
                return False
            return key in self._gone or self._asking(lambda index: index.is_gone(key), lambda: False)

    def used(self) -> dict[bytes, float]:
        """Return when keys were last found, of those that were."""
        with self.alone():
            nothing: dict[bytes, float] = {}
            return self._asking(lambda index: index.used(), lambda: nothing)

    # ---- making room

    def bury(self, keys: Sequence[bytes]) -> None:
        """Take out entries, and note that: in a journal first, for an index that is made anew is to know it too."""
        with self.alone():
            self._has_gone = True
            own, when = journal.Journal(self.journals, self._seal, self._durable), time()
            try:
                for i in range(0, len(keys), _BURIED):
                    note = note_of_gone(keys[i : i + _BURIED], when)
                    own.append(note.key, payload_of(note))
            finally:
                own.close()
            self._catch_up()  # which reads the note
            self.flush()

    def move(self, pack: str, to: str | None, rows: Sequence[Row], end: int) -> None:
        """Take in that a journal was written anew, or that nothing of it was left."""
        with self.alone():
            self._upto.pop(pack, None)
            self._ahead.pop(pack, None)
            upto = {} if to is None else {to: end}
            self._upto |= upto
            for row in rows:
                self._known[row.key] = row.found
            self._asking(lambda index: index.write(rows, upto, removed=[pack]), lambda: None)

    def pack(self) -> None:
        """Make the index as small as it can be."""
        with self.alone():
            try:
                if self._index is not None:
                    self._index.pack()
            except sqlite3.Error:  # no room for that; what it says is as true as before
                pass

    # ---- threads and forks

    def alone(self) -> _Alone:
        """Keep other threads out; in here everything is open."""
        if self._pid != os.getpid():
            # A forked child. What its parent has open of SQLite must be neither used nor closed here.
            _left_alone.append(self._index)
            self._pid, self._alone, self._index = os.getpid(), _Alone(self), None
            self._pending_costs, self._found = [], set()
            self._forget_all()
        return self._alone


class _Alone:
    """The lock of some rows, which opens them."""

    __slots__ = ("_lock", "_rows")

    def __init__(self, rows: Rows) -> None:
        self._lock = threading.RLock()
        self._rows = rows

    def __enter__(self) -> None:
        self._lock.acquire()
        if not self._rows._is_open:
            try:
                self._rows._open()
            except BaseException:
                self._lock.release()
                raise

    def __exit__(self, *args: object) -> None:
        self._lock.release()


_left_alone: list[Any] = []  # connections of parents


def _is_unusable(error: Exception) -> bool:
    code = getattr(error, "sqlite_errorcode", None)
    if code is None or code in _NOT_THE_FILE:
        return isinstance(error, OSError)
    return code & 0xFF in _UNUSABLE


def _learn(means: dict[str, float], costs: Iterable[tuple[str, float]]) -> None:
    for node, seconds in costs:
        means[node] = mean_of(means.get(node, seconds), seconds)
