"""Ledger: what a worker notes where its supervisor can read it, even after the worker died.

A small file that both map. The worker notes each task before it begins and each outcome before it goes on; outcomes of
short tasks are sent together, and should the worker die before that, they are all here. So a death costs the one task
that was running, and nothing that had ended runs again::

    task | began | after | until | used: u32 | outcomes: (length: u32, bytes) ...

The supervisor notes in it as well: the tasks after one and until another are withdrawn, and the worker begins none of
them. It says that it begins a task before it looks whether that is withdrawn, and the supervisor looks what has begun
after it has withdrawn the rest: one of the two sees the other.
"""

from __future__ import annotations

import mmap
import os
from struct import Struct
from time import monotonic

# As the machine has them, so that each is written and read in one piece.
_NUMBER, _TIME = Struct("@Q"), Struct("@d")
_TASK_AT, _BEGAN_AT, _AFTER_AT, _UNTIL_AT, _USED_AT = range(0, 40, 8)
_LENGTH = Struct("<I")
_OUTCOMES_AT = _USED_AT + _LENGTH.size

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
    >>> supervisor.withdraw(7, 9); [task for task in (7, 8, 9, 10) if worker.is_withdrawn(task)]
    [8, 9]
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
        _TIME.pack_into(self._map, _BEGAN_AT, monotonic())  # first: a task never goes with the time of one before it
        _NUMBER.pack_into(self._map, _TASK_AT, task)

    def is_withdrawn(self, task: int) -> bool:
        """Whether a task that was noted as begun is to be left alone all the same."""
        until: int = _NUMBER.unpack_from(self._map, _UNTIL_AT)[0]
        return task <= until and task > int(_NUMBER.unpack_from(self._map, _AFTER_AT)[0])

    def withdraw(self, after: int, until: int) -> None:
        """Note that the tasks after one and until another are not to be begun; those of before are long over."""
        _NUMBER.pack_into(self._map, _AFTER_AT, after)
        _NUMBER.pack_into(self._map, _UNTIL_AT, until)

    def note(self, outcome: bytes) -> bool:
        """Note an outcome; False when it does not fit beside those that are noted."""
        start = _OUTCOMES_AT + self._used
        end = start + _LENGTH.size + len(outcome)
        if end > CAPACITY:
            return False
        _LENGTH.pack_into(self._map, start, len(outcome))
        self._map[start + _LENGTH.size : end] = outcome
        self._used = end - _OUTCOMES_AT
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
        return int(_NUMBER.unpack_from(self._map, _TASK_AT)[0])

    @property
    def began(self) -> float:
        """When it was begun, in seconds of the monotonic clock."""
        return float(_TIME.unpack_from(self._map, _BEGAN_AT)[0])

    def outcomes(self) -> list[bytes]:
        """Return the outcomes that were noted and not cleared."""
        (used,) = _LENGTH.unpack_from(self._map, _USED_AT)
        found, at, end = [], _OUTCOMES_AT, min(_OUTCOMES_AT + used, CAPACITY)
        while at + _LENGTH.size <= end:
            (length,) = _LENGTH.unpack_from(self._map, at)
            at += _LENGTH.size
            found.append(self._map[at : at + length])
            at += length
        return found

    def close(self) -> None:
        """Let go of the file."""
        self._map.close()
