"""Ledger: what a worker notes where its supervisor can read it, even after the worker died.

A small file that both map. The worker notes each task before it begins and each outcome before it goes on; outcomes of
short tasks are sent together, and should the worker die before that, they are all here. So a death costs the one task
that was running, and nothing that had ended runs again::

    task: u64 | began: f64 | used: u32 | outcomes: (length: u32, bytes) ...
"""

from __future__ import annotations

import mmap
import os
from struct import Struct
from time import monotonic

_HEAD = Struct("<QdI")
_TASK = Struct("<Qd")
_LENGTH = Struct("<I")
_USED_AT = _TASK.size

CAPACITY = 1 << 16


class Ledger:
    """One side's view of the file.

    >>> import tempfile
    >>> path = tempfile.mkdtemp() + "/ledger"
    >>> supervisor, worker = Ledger.create(path), Ledger(path)
    >>> worker.begin(7); _ = worker.note(b"out"); supervisor.task, supervisor.outcomes()
    (7, [b'out'])
    >>> worker.clear(); supervisor.outcomes()
    []
    """

    def __init__(self, path: str) -> None:
        descriptor = os.open(path, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0))
        try:
            self._map = mmap.mmap(descriptor, CAPACITY)
        finally:
            os.close(descriptor)
        self._used = 0  # the worker's own count; the file's is for the supervisor

    @classmethod
    def create(cls, path: str) -> Ledger:
        """Make the file, empty; whoever makes it removes it."""
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            # Written and not only extended: a page that does not exist yet could be refused later, as a fatal signal.
            done = 0
            while done < CAPACITY:  # where there is little room, a write stops short, and the next one says why
                done += os.write(descriptor, bytes(CAPACITY - done))
            return cls(path)
        except BaseException:
            os.unlink(path)
            raise
        finally:
            os.close(descriptor)

    def begin(self, task: int) -> None:
        """Note that the worker begins a task."""
        _TASK.pack_into(self._map, 0, task, monotonic())

    def note(self, outcome: bytes) -> bool:
        """Note an outcome; False when it does not fit beside those that are noted."""
        start = _HEAD.size + self._used
        end = start + _LENGTH.size + len(outcome)
        if end > CAPACITY:
            return False
        _LENGTH.pack_into(self._map, start, len(outcome))
        self._map[start + _LENGTH.size : end] = outcome
        self._used = end - _HEAD.size
        # Last, because from here on the outcome counts.
        _LENGTH.pack_into(self._map, _USED_AT, self._used)
        return True

    def clear(self) -> None:
        """Forget the outcomes: they have been sent."""
        self._used = 0
        _LENGTH.pack_into(self._map, _USED_AT, 0)

    @property
    def task(self) -> int:
        """The task that was begun last; 0 when none was."""
        return int(_TASK.unpack_from(self._map, 0)[0])

    @property
    def began(self) -> float:
        """When it was begun, in seconds of the monotonic clock."""
        return float(_TASK.unpack_from(self._map, 0)[1])

    def outcomes(self) -> list[bytes]:
        """Return the outcomes that were noted and not cleared."""
        (used,) = _LENGTH.unpack_from(self._map, _USED_AT)
        found, at, end = [], _HEAD.size, min(_HEAD.size + used, CAPACITY)
        while at + _LENGTH.size <= end:
            (length,) = _LENGTH.unpack_from(self._map, at)
            at += _LENGTH.size
            found.append(self._map[at : at + length])
            at += length
        return found

    def close(self) -> None:
        """Let go of the file."""
        self._map.close()
