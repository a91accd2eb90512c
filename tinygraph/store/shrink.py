"""Shrink: making room in a store, when nobody uses it."""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from time import time
from typing import NamedTuple

from tinygraph.errors import StoreError
from tinygraph.store import disk, journal
from tinygraph.store.blobs import Blobs
from tinygraph.store.index import Found, Row
from tinygraph.store.journal import Record, Scan
from tinygraph.store.rows import GONE, Rows, entry_in
from tinygraph.store.seal import Seal

_PATIENCE = 30.0  # seconds that a run waits while another program makes room
_DAY = 24 * 3600.0
_REMEMBERED = 30 * _DAY  # seconds for which it is noted in the journals that an entry was removed
_MOSTLY = 2  # a journal is written anew when less than one in so many of its bytes counts


class Shrunk(NamedTuple):
    """What came of making room: nothing if ``why`` says why not."""

    removed: int  # entries
    freed: int  # bytes
    size: int  # bytes that are left
    why: str = ""


class Weight(NamedTuple):
    """What an entry takes, and when it was last of use."""

    key: bytes
    length: int
    blob: bytes | None
    used: float


class InUse:
    """The file that whoever uses a store has locked, with others; and who removes something from it, alone."""

    def __init__(self, root: str) -> None:
        self._path = os.path.join(root, "in-use")
        self._fd = -1
        self._pid = os.getpid()
        self._users = 0
        self._lock = threading.Lock()

    def enter(self) -> None:
        """Say that something begins during which nothing may be removed."""
        if self._pid != os.getpid():  # the lock is the parent's, and a forked child's as long as it lives
            self._pid, self._fd, self._users, self._lock = os.getpid(), -1, 0, threading.Lock()
        with self._lock:
            if self._fd < 0:
                self._fd = self._locked()
            self._users += 1

    def _locked(self) -> int:
        try:
            fd = disk.make_or_open(self._path)
        except OSError:  # a store that can only be read: nobody removes anything from it
            return -1
        if disk.lock(fd, alone=False, wait=_PATIENCE) is False:
            disk.close(fd)
            raise StoreError(f"another program makes room in the store of {self._path!r}, and does not come to an end")
        return fd

    def leave(self) -> None:
        """Say that it has ended."""
        with self._lock:
            self._users -= 1
            if not self._users and self._fd >= 0:
                disk.close(self._fd)  # and not unlocked: a forked child may have it open still
                self._fd = -1

    def alone(self) -> int:
        """Return the open file, locked, when nobody uses the store; else -1. Raises OSError where it cannot be."""
        fd = disk.make_or_open(self._path)
        if disk.lock(fd, alone=True):
            return fd
        disk.close(fd)
        return -1

    def is_time_to_sweep(self) -> bool:
        """Say once a day that what dead writers left behind is to be removed."""
        try:
            fd = disk.make_or_open(self._path)
        except OSError:
            return False
        try:
            found = disk.status(fd)
            if found.st_size and time() - found.st_mtime < _DAY:
                return False
            disk.truncate(fd, 0)
            disk.write(fd, b"Whoever uses the store has locked this file. It was written when the store was swept.\n")
            return True
        except OSError:
            return False
        finally:
            disk.close(fd)


def doomed(
    weights: Sequence[Weight],
    blobs: Mapping[bytes, int],
    max_bytes: int | None,
    unused_since: float | None,
    spared: Collection[bytes] = (),
) -> list[Weight]:
    """Return the entries that have to go: those not used for longest first, until the rest is small and new enough.

    ``blobs`` are the sizes of all that there are; several entries may have one. ``spared`` are keys that stay.

    >>> weights = [Weight(b"a", 10, None, 3.0), Weight(b"b", 10, b"B", 1.0), Weight(b"c", 10, b"B", 2.0)]
    >>> [one.key for one in doomed(weights, {b"B": 100}, 40, None)]
    [b'b', b'c']
    >>> [one.key for one in doomed(weights, {b"B": 100}, None, 1.5)]
    [b'b']
    """
    needed = Counter(one.blob for one in weights if one.blob is not None)
    total = sum(one.length for one in weights) + sum(blobs.get(name, 0) for name in needed)
    gone = []
    for one in sorted(weights, key=lambda one: (one.used, one.key)):
        is_old = unused_since is not None and one.used < unused_since
        if one.key in spared or (not is_old and (max_bytes is None or total <= max_bytes)):
            continue
        gone.append(one)
        total -= one.length
        if one.blob is not None:
            needed[one.blob] -= 1
            if not needed[one.blob]:
                total -= blobs.get(one.blob, 0)
    return gone


def size_of(rows: Rows, blobs: Blobs) -> int:
    """Return how many bytes the entries have on disk."""
    return sum(journal.files(rows.journals).values()) + sum(size for _, size, _ in blobs.all())


def shrink(
    rows: Rows,
    blobs: Blobs,
    seal: Seal,
    durable: bool,
    max_bytes: int | None,
    max_age: float | None,
    spared: Collection[bytes] = (),
) -> Shrunk:
    """Remove entries, what only they needed, and what nobody needs. To be called when nobody uses the store."""
    before = size_of(rows, blobs)
    blobs.sweep()
    weights = list(_weighed(rows, seal))
    there = {name: size for name, size, _ in blobs.all()}
    gone = doomed(weights, there, max_bytes, None if max_age is None else time() - max_age, spared)
    if gone:
        rows.bury([one.key for one in gone])
    dead = frozenset(one.key for one in gone)
    known = frozenset(one.blob for one in weights)
    needed = frozenset(one.blob for one in weights if one.key not in dead)
    for name, _, written in list(blobs.all()):
        # One that never had an entry may get it yet, from a worker whose driver has just died.
        if name not in needed and (name in known or time() - written > _DAY):
            blobs.remove(name)
    _compact(rows, seal, durable, least=1 if gone else _MOSTLY)
    rows.pack()
    after = size_of(rows, blobs)
    return Shrunk(len(gone), max(before - after, 0), after)


def _weighed(rows: Rows, seal: Seal) -> Iterator[Weight]:
    """Yield what each entry takes, as the entry itself says."""
    used = rows.used()
    by_pack = _by_pack(rows)
    for pack, live in by_pack.items():
        for record in _records(rows, pack, seal):
            found = live.get(record.key)
            if found is not None and found.at == record.at:
                entry = entry_in(record.key, record.payload)
                last = max(entry.when, used.get(record.key, 0.0))
                yield Weight(record.key, record.length, entry.blob, last)


def _by_pack(rows: Rows) -> dict[str, dict[bytes, Found]]:
    by_pack: dict[str, dict[bytes, Found]] = {}
    for key, found in rows.all():
        by_pack.setdefault(found.pack, {})[key] = found
    return by_pack


def _records(rows: Rows, pack: str, seal: Seal) -> Iterator[Record]:
    try:
        yield from Scan(journal.path_of(rows.journals, pack), seal)
    except FileNotFoundError:  # what its rows say is found out when they are read
        return


def _compact(rows: Rows, seal: Seal, durable: bool, least: int) -> None:
    """Write journals anew of which a part is dead, and whose writers have ended."""
    by_pack = _by_pack(rows)
    for pack, size in journal.files(rows.journals).items():
        live = by_pack.get(pack, {})
        if size and sum(found.length for found in live.values()) * least < size:
            _write_anew(rows, pack, live, seal, durable)


def _write_anew(rows: Rows, pack: str, live: Mapping[bytes, Found], seal: Seal, durable: bool) -> None:
    path = journal.path_of(rows.journals, pack)
    old = disk.open_to_append(path)
    try:
        if not disk.lock(old, alone=True):
            return  # its writer lives
        to = journal.new_name()
        new_path = journal.path_of(rows.journals, to)
        new = disk.make(new_path)
        try:
            if not disk.lock(new, alone=True):
                return  # a writer has found it: it is that writer's now
            moved, end = _copied(rows, pack, live, seal, to, new)
            if durable:
                disk.sync(new)
                disk.sync_folder(rows.journals)
            if not end:
                disk.remove(new_path)
        except BaseException:
            disk.remove(new_path)
            raise
        finally:
            disk.close(new)
        # The new one first, then the index, then the old one: whatever comes in between, all is there once or twice.
        rows.move(pack, to if end else None, moved, end)
        disk.remove(path)
    finally:
        disk.close(old)


def _copied(rows: Rows, pack: str, live: Mapping[bytes, Found], seal: Seal, to: str, new: int) -> tuple[list[Row], int]:
    """Copy what still counts of a journal to another; return where it lies there, and how long that is."""
    moved, end = [], 0
    for record in _records(rows, pack, seal):
        entry, found = entry_in(record.key, record.payload), live.get(record.key)
        is_note = entry.flags & GONE
        if not (is_note and time() - entry.when < _REMEMBERED) and (found is None or found.at != record.at):
            continue
        disk.write(new, journal.sealed(seal, record.key, record.payload))
        if not is_note:
            place = Found(entry.token, entry.flags, to, end, record.length)
            moved.append(Row(record.key, place, entry.node, entry.when))
        end += record.length
    return moved, end
