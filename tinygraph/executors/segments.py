"""Segments: files in shared memory that hold the big parts of values, written once and mapped by who needs them.

Who may do what:

*   One process owns the folders (`Segments.create`), the others join (`Segments.attach`). Only the owner counts.
*   What the owner dumps counts once from the start. What an attached process dumps is counted when the owner takes
    it in with `hold`; what it dumped and could not send, it takes back with `discard`; what it dumped and then died,
    the owner takes back with `reap`. At the last `release` a segment goes.
*   A released segment is not deleted at once but set free, to be filled again: memory that is new to a process costs
    several times what copying into it does.

Why nobody ever sees another value than the one that was sent:

*   Whoever maps a segment holds a shared lock on it (`flock`) by the very file description that the mapping keeps
    open. The kernel lets the lock go with the last mapping: when it is collected, at exit, and at `kill -9`, and not
    before a forked child that inherited it has gone as well. Where no such lock can be had, the value is copied.
*   A segment is filled again, or cut short, only under the exclusive lock, and under a new name, so that an outdated
    parcel finds nothing rather than something else.
*   Nothing stores into memory that may not be there: new files are filled by `write`, which says when there is no
    room. Then a plain file in the temporary folder serves, and if that is full as well the message itself.
*   The owner holds a lock on its folders for as long as it lives. `Segments.sweep` removes those without.
"""

from __future__ import annotations

import errno
import io
import itertools
import mmap
import os
import threading
import weakref
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from tinygraph.errors import ReleasedError
from tinygraph.executors.folders import (
    FREE,
    OPEN,
    SHARED_MEMORY,
    drop,
    is_at,
    is_scarce,
    locked,
    own_folder,
    remove_folder,
    room_in,
    sweep,
    unlock,
    usual_roots,
)
from tinygraph.executors.handover import Handover, Mapping

# What stays allocated though nobody needs it, so that the next value finds warm memory.
_FREE_BYTES = 512 << 20
_FREE_FILES = 16
_KEPT_FILES = 4  # of those that this process wrote: they stay open, and mapped once they were filled again

_PIECE = 1 << 30  # bytes a system call is given: Linux takes 2 GiB less a page, macOS refuses more than 2 GiB
_SLICE = 1 << 25  # bytes copied before other threads get their turn


class SegmentRef(NamedTuple):
    """The place of one big part of a value."""

    name: str
    size: int
    folder: int  # its place in `Segments.folders`


class Parcel(NamedTuple):
    """A value on its way: its pickle, and the segments that hold the big parts of it."""

    data: bytes  # empty if the pickle itself is big: then the first segment holds it
    segments: tuple[SegmentRef, ...]
    nbytes: int
    cuts: tuple[int, ...] = ()  # where in the pickle the next segments belong; those that remain are buffers


class _Open(NamedTuple):
    """A segment that this process wrote and has open, in case that it is set free and can be filled again."""

    fd: int
    map: mmap.mmap | None

    def close(self) -> None:
        if self.map is not None:
            self.map.close()
        os.close(self.fd)


class Segments:
    """The folders in which the processes of one pool share segments.

    >>> owner = Segments.create()
    >>> worker = Segments.attach(owner.folder)  # in another process
    >>> from tinygraph.executors.transfer import LARGE, dumps, loads
    >>> result = dumps(bytes(LARGE), worker)
    >>> owner.hold(result)
    >>> loads(result, owner) == bytes(LARGE)
    True
    >>> owner.release(result)
    >>> loads(result, owner)
    Traceback (most recent call last):
    tinygraph.errors.ReleasedError: a value ... was let go before it was fetched
    >>> worker.close()
    >>> owner.close()
    """

    def __init__(self, folders: Iterable[str], *, locks: Iterable[int] = (), owner: bool = False) -> None:
        self.folders = tuple(folders)
        self.is_owner = owner
        self._lock = threading.Lock()
        # What is to be released. A collected value says so in the middle of anything, where no lock may be waited
        # for: whoever has the lock sees to it.
        self._gone: deque[SegmentRef] = deque()
        self._pid = os.getpid()
        self._numbers = itertools.count()
        self._token = os.urandom(4).hex()
        self._counts: dict[str, int] = {}
        self._free: OrderedDict[str, int] = OrderedDict()  # as far as the owner knows: a worker may have taken some
        self._kept: OrderedDict[str, _Open] = OrderedDict()
        self.handover: Handover | None = None  # what a worker just returned and may give to its next task
        # Storing into a mapped file is safe where its pages stay allocated. File systems that copy on write do not.
        self._maps = bool(self.folders) and os.path.dirname(self.folders[0]) == SHARED_MEMORY
        self._finalizer = weakref.finalize(
            self, _leave, self._pid, self._kept, list(locks), self.folders if owner else ()
        )

    @classmethod
    def create(cls, roots: Iterable[str] | None = None) -> Segments:
        """Make the folders of a new pool: in shared memory, and among temporary files for what has no room there."""
        folders, locks = [], []
        for root in usual_roots() if roots is None else roots:
            made = own_folder(root)
            if made is not None:
                folders.append(made[0])
                locks.append(made[1])
        return cls(folders, locks=locks, owner=True)

    @classmethod
    def attach(cls, folder: str) -> Segments:
        """Join a pool, from a process that does not own it; `folder` is what the owner says that it is."""
        return cls(folder.split("\n") if folder else ())

    @property
    def folder(self) -> str:
        """The folders of the pool, as one text for `attach`."""
        return "\n".join(self.folders)

    @staticmethod
    def sweep(roots: Iterable[str] | None = None) -> list[str]:
        """Remove the folders that this user's dead programs left behind, and return their paths."""
        return sweep(usual_roots() if roots is None else roots)

    def close(self) -> None:
        """Remove the folders if they are this process's own, else leave them. What is mapped stays valid."""
        alive = self._finalizer.detach()  # called, it would do nothing once the program is about to end
        if alive is not None:
            _, leave, args, _ = alive
            leave(*args)
        self.folders = ()

    # ---- counting: the owner's part

    def hold(self, parcel: Parcel) -> None:
        """Count one more user of a parcel: of one that came in from a worker, the first."""
        with self._alone():
            for ref in parcel.segments:
                self._counts[ref.name] = self._counts.get(ref.name, 0) + 1
                self._free.pop(_stem(ref.name), None)

    def release(self, parcel: Parcel) -> None:
        """Count one user of a parcel less; what has none left goes. May be called from a finalizer."""
        self.release_refs(*parcel.segments)

    def discard(self, parcel: Parcel) -> None:
        """Take back a parcel that was dumped here and is not going to be sent."""
        for ref in parcel.segments:
            self._take_back(ref)

    def reap(self, pid: int) -> None:
        """Remove what a dead worker wrote and did not get to send.

        To be called when all that came through its pipe is held, and before another worker can have got its number.
        """
        for folder in self.folders:
            try:
                names = os.listdir(folder)
            except OSError:
                continue
            with self._alone():
                lost = [name for name in names if f".{pid}-" in name and name not in self._counts]
            for name in lost:
                drop(os.path.join(folder, name))

    def trim(self) -> None:
        """Give back the memory that waits to be filled again."""
        with self._alone():
            while self._kept:
                self._kept.popitem()[1].close()
            if self.is_owner and os.getpid() == self._pid:
                self._free.clear()
                for stem in self._free_stems():
                    drop(os.path.join(self.folders[0], FREE, stem))

    @contextmanager
    def _alone(self) -> Iterator[None]:
        with self._lock:
            yield
        self.release_refs()

    def release_refs(self, *refs: SegmentRef) -> None:
        if os.getpid() != self._pid:  # a forked child: what it has are copies, and what they count is its parent's
            return
        self._gone.extend(refs)
        while self._gone and self._lock.acquire(blocking=False):
            try:
                while self._gone:
                    ref = self._gone.popleft()
                    count = self._counts.pop(ref.name, 0) - 1
                    if count > 0:
                        self._counts[ref.name] = count
                    elif count == 0 and self.folders:
                        self._retire(ref)
            finally:
                self._lock.release()

    def _retire(self, ref: SegmentRef) -> None:
        stem, path = _stem(ref.name), self._path(ref)
        capacity = _capacity(stem)
        if ref.folder != 0 or capacity > _FREE_BYTES:
            drop(path)
            return
        try:
            os.rename(path, os.path.join(self.folders[0], FREE, stem))
        except OSError:
            drop(path)
            return
        self._free[stem] = capacity
        while len(self._free) > _FREE_FILES or sum(self._free.values()) > _FREE_BYTES:
            oldest, _ = self._free.popitem(last=False)
            drop(os.path.join(self.folders[0], FREE, oldest))

    def _take_back(self, ref: SegmentRef) -> None:
        if self.is_owner:
            self.release_refs(ref)
        elif self.folders and os.getpid() == self._pid:
            drop(self._path(ref))

    def count(self, ref: SegmentRef) -> SegmentRef:
        if self.is_owner:
            self.hold(Parcel(b"", (ref,), ref.size))
        return ref

    # ---- writing

    def put(self, content: Any) -> SegmentRef | None:
        """Write a buffer into a segment, or return `None` if there is no room for it anywhere."""
        with memoryview(content) as whole, whole.cast("B") as view:
            ref = self._refilled(view)
            for place in range(len(self.folders)):
                ref = ref or self._fresh(place, view)
        return ref and self.count(ref)

    def _fresh(self, place: int, view: memoryview) -> SegmentRef | None:
        # Measured for a new file in shared memory: write() takes a little less than posix_fallocate() and write(),
        # and little more than half of filling a mapping, whose every page is first zeroed and then faulted in. Asking
        # for huge pages changes nothing under the usual setting, by which shared memory gets none.
        size, number = view.nbytes, next(self._numbers)
        stem = f"{size:x}-{self._token}{number:x}"
        ref = SegmentRef(f"{stem}.{self._pid}-{number:x}", size, place)
        path = self._path(ref)
        try:
            if room_in(self.folders[place]) < size:
                return None
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | OPEN, 0o600)
        except OSError:
            return None
        try:
            _write_all(fd, view)
        except BaseException as error:
            os.close(fd)
            drop(path)
            if isinstance(error, OSError):
                return None
            raise
        if place == 0:
            self._keep(stem, _Open(fd, None))
        else:
            os.close(fd)
        return ref

    def _refilled(self, view: memoryview) -> SegmentRef | None:
        """Fill a segment again that nobody needs and nobody has mapped, if there is one of fitting size."""
        claimed = self._claimed(view.nbytes)
        if claimed is None:
            return None
        stem, name, kept = claimed
        path = os.path.join(self.folders[0], name)
        try:
            # Measured, with plain copying as 1: a mapping that is there already 1, write() 3, a new mapping that is
            # populated first 3.5 (and 1 from then on), one that is faulted in page by page 7, a fresh file 7.5.
            if self._maps and kept.map is None:
                flags = mmap.MAP_SHARED | getattr(mmap, "MAP_POPULATE", 0)
                kept = _Open(kept.fd, mmap.mmap(kept.fd, _capacity(stem), flags=flags))
            if kept.map is None:
                os.lseek(kept.fd, 0, os.SEEK_SET)
                _write_all(kept.fd, view)
            else:
                copy_bytes(view, kept.map)
            unlock(kept.fd)
        except BaseException as error:
            kept.close()
            drop(path)
            if isinstance(error, (OSError, ValueError)):
                return None
            raise
        self._keep(stem, kept)
        return SegmentRef(name, view.nbytes, 0)

    def _claimed(self, size: int) -> tuple[str, str, _Open] | None:
        """Return a free segment as stem, new name and open file, exclusively locked, or `None`."""
        if not self.folders:
            return None
        free = self._free_stems()
        fitting = [stem for stem in free if size <= _capacity(stem) <= size + (size >> 2)]
        # Those open here first, then the best fit.
        for stem in sorted(fitting, key=lambda stem: (stem not in self._kept, _capacity(stem), stem)):
            path = os.path.join(self.folders[0], FREE, stem)
            with self._alone():  # taken out, so that no other thread of this process finds the same open file
                known = self._kept.pop(stem, None)
            try:
                kept = known or _Open(os.open(path, os.O_RDWR | OPEN), None)
            except OSError:
                continue
            name = f"{stem}.{self._pid}-{next(self._numbers):x}"
            if not locked(kept.fd, alone=True):  # somebody has it mapped still
                if known is None:
                    kept.close()
                else:
                    self._keep(stem, kept)
                continue
            try:
                os.rename(path, os.path.join(self.folders[0], name))  # of several that try, one is first
            except OSError:
                kept.close()
                continue
            return stem, name, kept
        return None

    def _free_stems(self) -> list[str]:
        try:
            return os.listdir(os.path.join(self.folders[0], FREE))
        except OSError:
            return []

    def _keep(self, stem: str, kept: _Open) -> None:
        with self._alone():
            if stem in self._kept:
                self._kept.pop(stem).close()
            if is_scarce(kept.fd) or _capacity(stem) > _FREE_BYTES or not self.folders:
                kept.close()
            else:
                self._kept[stem] = kept
            for other in [other for other, one in self._kept.items() if not os.fstat(one.fd).st_nlink]:
                self._kept.pop(other).close()  # deleted by the owner; its memory stays until nobody has it open
            while len(self._kept) > _KEPT_FILES or sum(map(_capacity, self._kept)) > _FREE_BYTES:
                self._kept.popitem(last=False)[1].close()

    # ---- reading

    def get(self, ref: SegmentRef) -> memoryview:
        """Return the content of a segment: mapped copy-on-write, or copied where mapping it would not be safe.

        Where this process has just written it from its own memory, which nobody else uses, it is that, once.
        """
        if self.handover is not None and (own := self.handover.take(ref.name)) is not None:
            return own
        path = self._path(ref)
        try:
            fd = os.open(path, os.O_RDONLY | OPEN)
        except FileNotFoundError:
            raise was_released(ref) from None
        try:
            # Waiting is short, and almost never: only who drops or refills a segment holds its lock alone.
            is_locked = locked(fd, alone=False, wait=True)
            if not is_at(path, fd):
                raise was_released(ref)
            if os.fstat(fd).st_size < ref.size:
                raise OSError(errno.EIO, "a shared segment is shorter than what was sent", path)
            if is_locked and not is_scarce(fd):
                # The mapping duplicates the file number, so that it keeps the lock for as long as it lives. Its pages
                # come when they are touched: to populate it at once was slower even for who reads all of it, and
                # as a writable mapping it would have been copied whole.
                try:
                    return memoryview(Mapping(fd, ref.size, access=mmap.ACCESS_COPY))
                except OSError:
                    pass
            return memoryview(_read_all(fd, ref.size))
        finally:
            os.close(fd)

    def _path(self, ref: SegmentRef) -> str:
        try:
            return os.path.join(self.folders[ref.folder], ref.name)
        except IndexError:
            raise was_released(ref) from None


def _leave(pid: int, kept: OrderedDict[str, _Open], locks: list[int], folders: tuple[str, ...]) -> None:
    """Close what is open and remove the folders; a forked child, which has copies of all this, removes nothing."""
    while kept:
        kept.popitem()[1].close()
    if os.getpid() == pid:
        for folder in folders:
            remove_folder(folder)
    for fd in locks:
        if fd >= 0:
            os.close(fd)


# ---- files


def _write_all(fd: int, view: memoryview) -> None:
    done = 0
    while done < view.nbytes:  # a write may stop anywhere, and does so at 2 GiB
        wrote = os.write(fd, view[done : done + _PIECE])
        if not wrote:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        done += wrote


def _read_all(fd: int, size: int) -> bytearray:
    content, done = bytearray(size), 0
    with io.FileIO(fd, closefd=False) as file, memoryview(content) as view:
        while done < size:
            got = file.readinto(view[done : done + _PIECE])
            if not got:
                raise OSError(errno.EIO, "a shared segment ended too soon")
            done += got
    return content


def copy_bytes(source: memoryview, target: mmap.mmap | memoryview) -> None:
    with memoryview(target) as view:
        for begin in range(0, source.nbytes, _SLICE):
            view[begin : min(begin + _SLICE, source.nbytes)] = source[begin : begin + _SLICE]


def _stem(name: str) -> str:
    """Return the part of a segment's name that stays as long as its file: capacity and number."""
    return name.partition(".")[0]


def _capacity(stem: str) -> int:
    try:
        return int(stem.partition("-")[0], 16)
    except ValueError:  # not ours
        return 0


def was_released(ref: SegmentRef) -> ReleasedError:
    return ReleasedError(f"a value of {ref.size:,} bytes was let go before it was fetched")
