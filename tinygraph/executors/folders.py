"""Folders that belong to one living process: how they are made, locked, swept and removed, and what is in them locked.

A lock belongs to an open file and goes with it, whatever ends the process. So a folder whose lock can be had belongs to
nobody any more, and a file whose lock can be had alone is mapped by nobody.
"""

from __future__ import annotations

import os
import re
import stat
import sys
from collections.abc import Iterable

SHARED_MEMORY = "/dev/shm"
FREE = "free"  # the folder in it for files that nobody needs
OPEN = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)

if sys.platform == "win32":

    def locked(fd: int, *, alone: bool, wait: bool = False) -> bool:
        """Say that there is no such lock."""
        return False

    def unlock(fd: int) -> None:
        """Do nothing: there was no lock."""

    def is_scarce(fd: int) -> bool:
        """Say that nobody counts them."""
        return False

    def _user() -> int:
        return 0

else:
    import fcntl
    import resource

    def locked(fd: int, *, alone: bool, wait: bool = False) -> bool:
        """Take the lock of an open file, alone or shared, and say whether that went well."""
        try:
            fcntl.flock(fd, (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | (0 if wait else fcntl.LOCK_NB))
        except OSError:  # taken, or a file system without locks
            return False
        return True

    def unlock(fd: int) -> None:
        """Let the lock of an open file go."""
        fcntl.flock(fd, fcntl.LOCK_UN)

    def is_scarce(fd: int) -> bool:
        """Say whether few file numbers are left. A new file gets the lowest free number, so that it tells."""
        return fd > resource.getrlimit(resource.RLIMIT_NOFILE)[0] * 3 // 4

    def _user() -> int:
        return os.getuid()


def usual_roots() -> list[str]:
    """Return where folders are made: in shared memory, and among temporary files for what has no room there."""
    import tempfile

    try:
        return [SHARED_MEMORY, tempfile.gettempdir()]
    except FileNotFoundError:  # no temporary folder can be written to
        return [SHARED_MEMORY]


def own_folder(root: str) -> tuple[str, int] | None:
    """Make a folder of our own and return it with its lock, or `None` where that cannot be."""
    for _ in range(16):
        path = os.path.join(root, f"tinygraph-{_user()}-{os.getpid()}-{os.urandom(4).hex()}")
        try:
            os.mkdir(path, 0o700)
        except FileExistsError:
            continue
        except OSError:
            return None
        fd = -1
        try:
            os.chmod(path, 0o700)  # whatever the umask
            os.mkdir(os.path.join(path, FREE), 0o700)
            if sys.platform == "win32":
                return path, fd
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | OPEN)
            # A sweep may have come in between: it holds the lock, or has removed the folder.
            if locked(fd, alone=True) and is_at(path, fd):
                return path, fd
        except OSError:
            pass
        if fd >= 0:
            os.close(fd)
        remove_folder(path)
    return None


def sweep(roots: Iterable[str]) -> list[str]:
    """Remove the folders that this user's dead programs left behind, and return their paths."""
    removed = []
    mine = re.compile(rf"tinygraph-{_user()}-\d+-[0-9a-f]+")
    for root in roots:
        try:
            names = os.listdir(root)
        except OSError:
            continue
        for name in filter(mine.fullmatch, names):
            if _sweep(os.path.join(root, name)):
                removed.append(os.path.join(root, name))
    return removed


def _sweep(path: str) -> bool:
    """Remove a folder if it is ours and its owner is dead, and say so."""
    if sys.platform == "win32":
        return False
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | OPEN)
    except OSError:  # a link, or a file, or gone
        return False
    try:
        if os.fstat(fd).st_uid != _user() or not locked(fd, alone=True) or not is_at(path, fd):
            return False
        remove_folder(path)
        return not os.path.lexists(path)
    finally:
        os.close(fd)


def remove_folder(folder: str) -> None:
    """Remove a folder of segments. Links are removed, not followed; folders that are not ours to make stay."""
    try:
        with os.scandir(folder) as entries:
            found = list(entries)
    except OSError:
        return
    for entry in found:
        try:
            if entry.is_dir(follow_symlinks=False):
                if entry.name == FREE:
                    remove_folder(entry.path)
            else:
                os.unlink(entry.path)
        except OSError:
            pass
    try:
        os.rmdir(folder)
    except OSError:
        pass


def drop(path: str) -> None:
    """Delete a segment, and let its memory go at once even if its producer has it open, unless somebody uses it."""
    try:
        fd = os.open(path, os.O_RDWR | OPEN)
    except OSError:
        fd = -1
    try:
        # Once it is locked it can no longer be claimed: what we see at its path is so until we let go.
        if fd >= 0 and locked(fd, alone=True) and is_at(path, fd):
            os.truncate(fd, 0)
        os.unlink(path)
    except OSError:
        pass
    finally:
        if fd >= 0:
            os.close(fd)


def is_at(path: str, fd: int) -> bool:
    """Say whether an open file or folder is still the one at this path."""
    try:
        there = os.lstat(path)
    except OSError:
        return False
    here = os.fstat(fd)
    same = (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino)
    return same and (stat.S_ISREG(here.st_mode) or stat.S_ISDIR(here.st_mode))


def room_in(folder: str) -> int:
    """Return how many bytes a folder has room for, as far as can be known without trying."""
    if sys.platform == "win32":
        return sys.maxsize
    free = os.statvfs(folder)
    return free.f_bavail * free.f_frsize if free.f_blocks else sys.maxsize
