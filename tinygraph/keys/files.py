"""Files: paths whose meaning is what lies there, so that a result is found again only while its file holds the same."""

from __future__ import annotations

import errno
import marshal
import os
import stat
from abc import abstractmethod
from collections.abc import Iterator
from time import time_ns
from typing import Any

from tinygraph.capture import parts_of
from tinygraph.keys.digests import SIZE, digest

_AT_ONCE = 1 << 21  # bytes that are read at a time: they stay in the cache of the processor
_LARGE = 1 << 16  # from here on `digest` uses blake3
_FRESH = 2_000_000_000  # ns: a file that was written so lately may be written again within the same tick of its clock

# Digests of files that were hashed before, by device and inode, beside what must be unchanged for them to count.
_hashed: dict[tuple[int, int], tuple[tuple[int, ...], bytes]] = {}
_MOST = 100_000


class _Content(os.PathLike[str]):
    """A path that means its content."""

    __slots__ = ("_was", "path")

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path: str = os.fspath(path)
        if not isinstance(self.path, str):
            raise TypeError(f"{type(self).__name__} takes a path as text or as a Path, not {path!r}")
        self._was: bytes | None = None

    @property
    def digest(self) -> bytes:
        """What stands for the content as it is now. Raises FileNotFoundError where there is nothing."""
        self._was = self._now()
        return self._was

    def is_intact(self) -> bool:
        """Say whether the content is what it was when its digest was last taken, before it was pickled for instance.

        >>> import pathlib, tempfile
        >>> path = pathlib.Path(tempfile.mkdtemp(), "data.csv")
        >>> _ = path.write_text("1,2")
        >>> file = File(path)
        >>> before = file.digest
        >>> _ = path.write_text("1,3")
        >>> file.is_intact()
        False
        """
        if self._was is None:
            return os.path.lexists(self.path)
        try:
            return self._now() == self._was
        except OSError:
            return False

    @abstractmethod
    def _now(self) -> bytes: ...

    def __fspath__(self) -> str:
        return self.path

    def __tinygraph_key__(self) -> bytes:
        return self.digest

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and other.path == self.path

    def __hash__(self) -> int:
        return hash((type(self), self.path))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.path!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        try:
            was: bytes | None = self.digest
        except OSError:
            was = self._was
        return _restored, (type(self), self.path, was)


class File(_Content):
    """A file that counts by its content, as the argument of a node or as its result.

    >>> import pathlib, tempfile
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> one, two = File(folder / "one"), File(folder / "two")
    >>> for file in (one, two):
    ...     _ = pathlib.Path(file).write_text("the same")
    >>> one.digest == two.digest, one == two
    (True, False)

    Where it lies does not count; two are equal (``==``) when their paths are. A result that is a file is found in a
    store only as long as the file still holds what it held.
    """

    __slots__ = ()

    def _now(self) -> bytes:
        return _digest_of_file(self.path)


class Directory(_Content):
    """A directory that counts by what is in it: relative paths and contents, at any depth.

    >>> import os, tempfile
    >>> folder = tempfile.mkdtemp()
    >>> before = Directory(folder).digest
    >>> os.mkdir(os.path.join(folder, "empty"))
    >>> Directory(folder).digest == before
    False

    Where the directory itself lies does not count, nor do times and permissions. A symbolic link counts by where it
    leads and is not followed.
    """

    __slots__ = ()

    def _now(self) -> bytes:
        if not os.path.isdir(self.path):
            os.stat(self.path)  # says so, where there is nothing
            raise NotADirectoryError(errno.ENOTDIR, "not a directory: use File for a file", self.path)
        return digest(marshal.dumps(list(_listed(self.path)), 2))


def intact(value: Any) -> bool:
    """Say whether every file in a value still holds what it held.

    >>> intact({"rows": 3}), intact([File("no such file")])
    (True, False)
    """
    seen: set[int] = set()
    pending = [value]
    alive = []
    while pending:
        thing = pending.pop()
        if isinstance(thing, _Content):
            if not thing.is_intact():
                return False
        elif id(thing) not in seen:
            seen.add(id(thing))
            alive.append(thing)  # so that nothing else gets its address
            pending.extend(part for _, part in parts_of(thing))
    return True


def _restored(kind: type[_Content], path: str, was: bytes | None) -> _Content:
    made = kind(path)
    made._was = was
    return made


def _listed(root: str) -> Iterator[tuple[bytes, str, bytes]]:
    """Yield what is in a directory, by relative path: what it is, and what it holds."""
    pending = [""]
    while pending:
        inside = pending.pop()
        entries = sorted(os.scandir(os.path.join(root, inside)), key=lambda entry: entry.name)
        for entry in entries:
            path = f"{inside}/{entry.name}" if inside else entry.name
            name = os.fsencode(path)
            if entry.is_symlink():
                yield name, "link", os.fsencode(_target(root, entry.path))
            elif entry.is_dir(follow_symlinks=False):
                yield name, "directory", b""
                pending.append(path)
            elif entry.is_file(follow_symlinks=False):
                yield name, "file", _digest_of_file(entry.path)
            else:
                yield name, "other", b""


def _target(root: str, link: str) -> str:
    """Return where a link leads; from where it lies, if that is in the same directory, wherever that is."""
    target = os.readlink(link)
    if os.path.isabs(target) and os.path.commonpath((os.path.abspath(root), target)) == os.path.abspath(root):
        return os.path.relpath(target, os.path.dirname(os.path.abspath(link)))
    return target


def _digest_of_file(path: str) -> bytes:
    """Return the digest of a file's content, which is read unless it was read before and surely has not changed since.

    It is read and not mapped: a mapped file that somebody cuts short is a fatal signal.
    """
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0))
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            hint = "use Directory for a directory" if stat.S_ISDIR(found.st_mode) else "it holds nothing that stays"
            raise IsADirectoryError(errno.EISDIR, f"not a file: {hint}", path)
        place, unchanged = (found.st_dev, found.st_ino), _stamp(found)
        known = _hashed.get(place)
        if known is not None and known[0] == unchanged:
            return known[1]
        began = time_ns()
        content = _digest_of(descriptor, found.st_size)
        if began - max(found.st_mtime_ns, found.st_ctime_ns) > _FRESH and _stamp(os.fstat(descriptor)) == unchanged:
            if len(_hashed) >= _MOST:
                _hashed.clear()
            _hashed[place] = unchanged, content
        return content
    finally:
        os.close(descriptor)


def _stamp(found: os.stat_result) -> tuple[int, ...]:
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _digest_of(descriptor: int, size: int) -> bytes:
    buffer = bytearray(min(size + 1, _AT_ONCE))
    view = memoryview(buffer)
    filled = _fill(descriptor, view)
    if filled < len(buffer) and filled < _LARGE:
        return digest(view[:filled])
    from blake3 import blake3

    hasher = blake3(max_threads=blake3.AUTO)
    while filled:
        hasher.update(view[:filled])
        filled = _fill(descriptor, view)
    found: bytes = hasher.digest(SIZE)
    return found


def _fill(descriptor: int, view: memoryview) -> int:
    """Read until the buffer is full, or the file is at its end."""
    filled = 0
    while filled < len(view):
        got = os.readv(descriptor, [view[filled:]])
        if not got:
            break
        filled += got
    return filled
