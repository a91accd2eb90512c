"""Journal: small sealed records in files that are only appended to, each by one writer at a time.

::

    journal/9f0c21d4e8a7b365.log:   record | record | record | ...
    record:   magic | version | length | key | seal | payload          the seal covers all the rest

A record is there when the one write that appends it has returned, and a program may be killed at any instant: what is
torn then has no valid seal, and a reader goes on at the next record that has one.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator
from struct import Struct
from typing import NamedTuple

from tinygraph.errors import DamagedEntry, StoreError
from tinygraph.store import disk
from tinygraph.store.seal import SIZE, Seal, trust

MAGIC = b"\xf1tgr"
VERSION = 1
KEY = 20  # bytes of a key

_HEAD = Struct(f"<4sHHI{KEY}s")
_START = _HEAD.size + SIZE  # of the payload
_LARGEST = 64 << 20  # bytes of a record
_FULL = 64 << 20  # bytes of a file to which nothing more is appended
_BLOCK = 1 << 20  # bytes that are read at once
_TRIES = 64  # files of which a new writer sees whether their own writers have ended
_NAME = re.compile(r"([0-9a-f]{16})\.log")


class Record(NamedTuple):
    """A record whose seal is right, and where it lies."""

    at: int
    length: int
    key: bytes
    payload: bytes


def sealed(seal: Seal, key: bytes, payload: bytes) -> bytes:
    """Return a record.

    >>> seal = Seal(bytes(32), b"record")
    >>> unsealed(seal, b"k" * 20, sealed(seal, b"k" * 20, b"payload"))
    b'payload'
    """
    length = _START + len(payload)
    if length > _LARGEST or len(key) != KEY:
        raise StoreError(f"a record of {length:,} bytes under a key of {len(key)} cannot be kept")
    head = _HEAD.pack(MAGIC, VERSION, 0, length, key)
    return head + seal(head, payload) + payload


def unsealed(seal: Seal, key: bytes, record: bytes) -> bytes:
    """Return the payload of a record; raises :class:`DamagedEntry` for anything but a whole record of this key."""
    head = record[: _HEAD.size]
    if len(record) < _START or head != _HEAD.pack(MAGIC, VERSION, 0, len(record), key):
        raise DamagedEntry("it is not the record of this call")
    payload = record[_START:]
    if seal(head, payload) != record[_HEAD.size : _START]:
        raise DamagedEntry("its seal is not right")
    return payload


def files(folder: str) -> dict[str, int]:
    """Return the journals in a folder, by their names without suffix, and how long they are."""
    return {
        match[1]: found.st_size for name, found in disk.sizes(folder) if (match := _NAME.fullmatch(name)) is not None
    }


def path_of(folder: str, pack: str) -> str:
    """Return the path of a journal."""
    return os.path.join(folder, f"{pack}.log")


def new_name() -> str:
    """Return a name that no journal has."""
    return os.urandom(8).hex()


class Scan:
    """The records of a journal from an offset on, whatever lies between them.

    When it has been gone through, ``upto`` is where the next one begins, and ``gaps`` are the places and lengths of
    what must have been whole records once. What a killed writer left is neither.
    """

    def __init__(self, path: str, seal: Seal, start: int = 0) -> None:
        self.path = path
        self.upto = start
        self.gaps: list[tuple[int, int]] = []
        self._seal = seal

    def __iter__(self) -> Iterator[Record]:
        fd = disk.open_to_read(self.path)
        try:
            yield from self._records(fd, disk.status(fd).st_size)
        finally:
            disk.close(fd)

    def _records(self, fd: int, size: int) -> Iterator[Record]:
        begin = self.upto  # of what has not been understood
        at, claimed = begin, 0  # `claimed`: the length of the record that seems to lie at `begin`
        base, block = at, b""
        while at + _START <= size:
            if at - base + _START > len(block):
                base, block = at, disk.read(fd, min(_BLOCK, size - at), at)
                if len(block) < _START:  # it was cut meanwhile
                    break
            i = at - base
            magic, version, _, length, key = _HEAD.unpack_from(block, i)
            if magic == MAGIC and version == VERSION and _START <= length <= min(_LARGEST, size - at):
                if i + length > len(block):
                    # No more than the file has is ever asked for, whatever a record says of its length.
                    base, block, i = at, disk.read(fd, max(_BLOCK, length), at), 0
                payload = block[i + _START : i + length]
                if self._seal(block[i : i + _HEAD.size], payload) == block[i + _HEAD.size : i + _START]:
                    if claimed and begin + claimed == at:
                        self.gaps.append((begin, claimed))
                    yield Record(at, length, key, payload)
                    at += length
                    begin = self.upto = at
                    claimed = 0
                    continue
            if at == begin:
                claimed = length
            found = block.find(MAGIC, i + 1)
            # The magic may begin in this block and end in the next.
            at = base + (found if found >= 0 else max(len(block) - len(MAGIC) + 1, i + 1))
        if claimed and begin + claimed == size:
            self.gaps.append((begin, claimed))


class Journal:
    """One process's own journal: made, or taken over from a writer that has ended, when something is first appended.

    ``pack`` is its name. Threads may share one; a forked child gets one of its own.
    """

    def __init__(self, folder: str, seal: Seal, durable: bool) -> None:
        self._folder = folder
        self._seal = seal
        self._durable = durable
        self._fd = -1
        self._pid = 0
        self._lock = threading.Lock()
        self.pack = ""

    def append(self, key: bytes, payload: bytes) -> tuple[str, int, int]:
        """Append a record; return the name of the file, where it lies in it, and its length."""
        record = sealed(self._seal, key, payload)
        if self._pid != os.getpid():
            self._lock = threading.Lock()  # of a forked child: nobody there holds the old one, which may be taken
            self._fd = -1  # the file is the parent's, and stays open there
            self._pid = os.getpid()
        with self._lock:
            fd, at = self._opened()
            try:
                disk.write(fd, record)
                if self._durable:
                    disk.sync(fd)
            except BaseException:
                self._undo(fd, at)
                raise
            return self.pack, at, len(record)

    def close(self) -> None:
        """Let go of the file, so that another writer can go on with it."""
        if self._pid != os.getpid():
            return  # nothing was appended, or only by the parent
        with self._lock:
            if self._fd >= 0:
                disk.close(self._fd)
            self._fd = -1

    def _opened(self) -> tuple[int, int]:
        """Return the file and its length."""
        if self._fd >= 0:
            found = disk.status(self._fd)
            if found.st_nlink and found.st_size < _FULL:
                return self._fd, found.st_size
            disk.close(self._fd)  # full, or removed with the store
            self._fd = -1
        trust(self._folder, parents=False)  # where the store was removed, it stays removed
        self._fd = self._taken_over()
        while self._fd < 0:
            self.pack = new_name()
            fd = disk.make(path_of(self._folder, self.pack))
            # For as long as it is open: says that its writer lives. Another one may have found it in between.
            if disk.lock(fd, alone=True) is False:
                disk.close(fd)
            else:
                self._fd = fd
        if self._durable:  # the file's name, that of its folder, and that of the store
            for folder in disk.with_those_above(self._folder, 3):
                disk.sync_folder(folder)
        return self._fd, disk.status(self._fd).st_size

    def _taken_over(self) -> int:
        """Return the journal of a writer that has ended, or -1. So there are no more of them than writers at once."""
        tried = 0
        for pack, size in files(self._folder).items():
            if size >= _FULL // 2:
                continue
            tried += 1
            if tried > _TRIES:
                break
            try:
                fd = disk.open_to_append(path_of(self._folder, pack))
            except OSError:
                continue
            # Whoever removes one has locked it before: then it has no name any more.
            if disk.lock(fd, alone=True) and disk.status(fd).st_nlink:
                self.pack = pack
                return fd
            disk.close(fd)
        return -1

    def _undo(self, fd: int, at: int) -> None:
        """Take back what was written of a record, or leave the file as it is and never write to it again."""
        try:
            disk.truncate(fd, at)
        except OSError:
            self._fd = -1
            disk.close(fd)
