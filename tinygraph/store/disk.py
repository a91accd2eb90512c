"""Disk: what the store does with files, in one place, so that a test can put a worse disk underneath.

Every file is opened without following a link and without waiting for a pipe, and is not left to other programs that
this one starts. What is opened for reading must be a plain file of this user: a link, a pipe or a device in its place
is never read.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import stat
from collections.abc import Iterator
from time import monotonic, sleep
from typing import Any

_SAFE = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_NO_FILE = (errno.ELOOP, errno.ENXIO, errno.EISDIR, errno.ENODEV, errno.EMLINK)  # what opening other things says
_PIECE = 1 << 30  # bytes of one write: systems stop at 2 GiB


class NotPlain(OSError):
    """What is at a path is not a plain file of this user, but a link, a pipe, a device, or somebody else's."""


def make(path: str) -> int:
    """Make a file that only this user can read, and that was not there, and open it to be appended to."""
    return os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_EXCL | _SAFE, 0o600)


def make_or_open(path: str) -> int:
    """Open a file of this user for reading and writing; make it if it is not there."""
    return _opened(path, os.O_RDWR | os.O_CREAT)


def open_to_read(path: str) -> int:
    """Open a plain file of this user."""
    return _opened(path, os.O_RDONLY)


def open_to_append(path: str) -> int:
    """Open a plain file of this user to be appended to, and read."""
    return _opened(path, os.O_RDWR | os.O_APPEND)


def _opened(path: str, flags: int) -> int:
    try:
        fd = os.open(path, flags | _SAFE, 0o600)
    except OSError as error:
        if error.errno in _NO_FILE:
            raise NotPlain(error.errno, "not a plain file", path) from None
        raise
    found = status(fd)
    if stat.S_ISREG(found.st_mode) and found.st_uid == user():
        return fd
    close(fd)
    what = "not a plain file" if not stat.S_ISREG(found.st_mode) else "owned by somebody else"
    raise NotPlain(errno.EPERM, what, path)


def user() -> int:
    """Return whose files are trusted."""
    return os.geteuid()


def status(fd: int) -> os.stat_result:
    """Return what is known of an open file."""
    return os.fstat(fd)


def identity(path: str) -> tuple[int, int] | None:
    """Return what says whether the file at a path is the one that was there before, or None for no file."""
    try:
        found = os.lstat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def close(fd: int) -> None:
    """Close a file of which nothing more is expected."""
    try:
        os.close(fd)
    except OSError:  # it is closed all the same
        pass


def end(fd: int) -> None:
    """Close a file that was written; raises OSError where only this tells that there was no room, as on NFS."""
    os.close(fd)


def write(fd: int, data: Any) -> None:
    """Write all of a buffer at the end of a file; raises OSError when not all of it could be written."""
    wrote = os.write(fd, data) if len(data) < _PIECE else 0
    if wrote != len(data):
        with memoryview(data) as given, given.cast("B") as view:
            while wrote < view.nbytes:  # a write may stop anywhere
                more = os.write(fd, view[wrote : wrote + _PIECE])
                if not more:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                wrote += more


def read(fd: int, size: int, at: int) -> bytes:
    """Return the bytes of a file from an offset on: as many as were asked for, or to its end."""
    data = os.pread(fd, size, at)
    while len(data) < size:
        more = os.pread(fd, size - len(data), at + len(data))
        if not more:
            break
        data += more
    return data


def mapped(fd: int, size: int) -> mmap.mmap:
    """Map a file privately: what is stored into it stays in this process."""
    found = mmap.mmap(fd, size, access=mmap.ACCESS_COPY)
    try:
        found.madvise(22)  # MADV_POPULATE_READ: all of it at once, half the time of a fault for every few pages
    except (OSError, ValueError, AttributeError):
        pass
    return found


def sync(fd: int) -> None:
    """Return when what was written is where a power loss does not reach it."""
    full = getattr(fcntl, "F_FULLFSYNC", None)  # macOS: fsync() there only reaches the drive's own memory
    if full is not None:
        fcntl.fcntl(fd, full)
    else:
        os.fdatasync(fd)


def sync_folder(path: str) -> None:
    """Return when the names in a folder are where a power loss does not reach them."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        close(fd)


def with_those_above(path: str, count: int) -> list[str]:
    """Return a folder and those that it is in, so many in all.

    >>> with_those_above("/data/store/journal", 3)
    ['/data/store/journal', '/data/store', '/data']
    """
    found = [os.path.abspath(path)]
    while len(found) < count:
        found.append(os.path.dirname(found[-1]))
    return found


def truncate(fd: int, size: int) -> None:
    """Cut a file."""
    os.ftruncate(fd, size)


def rename(path: str, to: str) -> None:
    """Give a file another name, at once, whatever had that name before."""
    os.rename(path, to)


def remove(path: str) -> None:
    """Remove a file or a link."""
    os.unlink(path)


def make_folder(path: str) -> None:
    """Make a folder that only this user can use."""
    os.mkdir(path, 0o700)


def names(path: str) -> list[str]:
    """Return what is in a folder, in order; nothing if it is not there."""
    try:
        return sorted(os.listdir(path))
    except FileNotFoundError:
        return []


def sizes(path: str) -> Iterator[tuple[str, os.stat_result]]:
    """Yield the plain files in a folder, in the order of their names."""
    for name in names(path):
        try:
            found = os.lstat(os.path.join(path, name))
        except OSError:
            continue
        if stat.S_ISREG(found.st_mode):
            yield name, found


def lock(fd: int, *, alone: bool, wait: float = 0.0) -> bool | None:
    """Take the lock of an open file, alone or with others, within so many seconds, and say whether that went well.

    None says that this file system has no locks. A lock goes when the file is closed, whatever ends the process: none
    is ever stale.
    """
    end = monotonic() + wait
    while True:
        try:
            fcntl.flock(fd, (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        except BlockingIOError:
            if monotonic() >= end:
                return False
            sleep(0.005)
        except OSError:
            return None
        else:
            return True
