"""Blobs: large values, each in a sealed file of its own, named after what is in it.

::

    values/3f/9c0b...:   head | codec | meta | zeros up to a multiple of 64 | payload
    head:                magic | version | lengths | offset of the payload | digest of the payload | seal

The seal covers the name and all that comes before the payload; the digest, which is in it, covers the payload. So a
payload is verified at the speed of memory, and may then be used where it is mapped.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from struct import Struct
from time import time
from typing import Any, NamedTuple

from tinygraph.errors import DamagedEntry
from tinygraph.keys.digests import SIZE as DIGEST
from tinygraph.keys.digests import digest, digest_of
from tinygraph.store import disk
from tinygraph.store.seal import SIZE, Seal, trust

MAGIC = b"\xf1tgvalue"
VERSION = 1

_HEAD = Struct(f"<8sHHIQQ{DIGEST}s")
_START = _HEAD.size + SIZE  # of what comes after the seal
_ALIGNED, _PAGE = 64, 4096  # where a payload begins, and where one of a page and more
_LARGE = 1 << 20
_MAPPED = 1 << 18  # bytes from which on mapping a file is quicker than reading it
_ABANDONED = 60.0  # seconds after which a temporary file that nobody has locked has no writer
_NAME = re.compile(rf"[0-9a-f]{{{2 * DIGEST - 2}}}")
_TEMPORARY = re.compile(r"\.[0-9a-f]{16}\.tmp")


class Blob(NamedTuple):
    """What lies in a blob. The payload is a copy of this process, or a mapping that is private to it."""

    codec: str
    meta: bytes
    payload: memoryview


class Blobs:
    """The blobs below a folder.

    >>> import tempfile
    >>> blobs = Blobs(tempfile.mkdtemp() + "/values", Seal(bytes(32), b"blob"), durable=False)
    >>> name = blobs.put("text", b"", [b"large"])
    >>> blobs.get(name).payload.tobytes()
    b'large'
    """

    def __init__(self, folder: str, seal: Seal, durable: bool) -> None:
        self._folder = folder
        self._seal = seal
        self._durable = durable
        self._trusted: set[str] = set()

    def path(self, name: bytes) -> str:
        """Return where a blob lies."""
        text = name.hex()
        return os.path.join(self._folder, text[:2], text[2:])

    def put(self, codec: str, meta: bytes, buffers: Sequence[Any]) -> bytes:
        """Write a blob, unless there is one with the same in it; return its name."""
        pieces = [memoryview(buffer).cast("B") for buffer in buffers]
        stands_for, length = digest_of(pieces), sum(piece.nbytes for piece in pieces)
        code = codec.encode()
        name = digest(b"".join((_lengths(len(code)), code, _lengths(len(meta)), meta, stands_for)))
        front = _START + len(code) + len(meta)
        at = front + -front % (_PAGE if length >= _LARGE else _ALIGNED)
        head = _HEAD.pack(MAGIC, VERSION, len(code), len(meta), at, length, stands_for)
        rest = code + meta + bytes(at - front)
        before = head + self._seal(name + head, rest) + rest
        path = self.path(name)
        folder = os.path.dirname(path)
        if folder not in self._trusted:
            self._make_folders(folder)
        if not self._is_there(name):
            try:
                self._write(path, folder, before, pieces)
            except FileNotFoundError:  # the folder was removed, perhaps with all of the store, which then stays so
                self._make_folders(folder)
                self._write(path, folder, before, pieces)
        return name

    def _make_folders(self, folder: str) -> None:
        trust(self._folder, parents=False)
        trust(folder, parents=False)
        self._trusted.add(folder)
        if self._durable:
            for above in disk.with_those_above(self._folder, 3):
                disk.sync_folder(above)

    def _is_there(self, name: bytes) -> bool:
        """Say whether there is a blob with this in it. All of it is read: what is not written again must be whole."""
        try:
            self.get(name)
        except (DamagedEntry, OSError):
            return False
        if self._durable:  # whoever wrote it may not have waited for that
            fd = disk.open_to_read(self.path(name))
            try:
                disk.sync(fd)
            finally:
                disk.close(fd)
            disk.sync_folder(os.path.dirname(self.path(name)))
        return True

    def _write(self, path: str, folder: str, before: bytes, pieces: list[memoryview]) -> None:
        temporary = os.path.join(folder, f".{os.urandom(8).hex()}.tmp")
        fd = open_fd = disk.make(temporary)
        try:
            disk.lock(fd, alone=True)  # says that its writer lives
            disk.write(fd, before)
            for piece in pieces:
                disk.write(fd, piece)
            if self._durable:
                disk.sync(fd)
            open_fd = -1
            disk.end(fd)
            disk.rename(temporary, path)
        except BaseException:
            if open_fd >= 0:
                disk.close(open_fd)
            try:
                disk.remove(temporary)
            except OSError:
                pass
            raise
        if self._durable:
            disk.sync_folder(folder)

    def get(self, name: bytes) -> Blob:
        """Return what lies in a blob; raises :class:`DamagedEntry` unless it is what was put there, OSError if gone."""
        path = self.path(name)
        fd = disk.open_to_read(path)
        try:
            size = disk.status(fd).st_size
            codec, meta, at, stands_for = self._front(fd, name, size)
            if size - at < _MAPPED:
                content: Any = bytearray(disk.read(fd, size, 0))
            else:
                content = disk.mapped(fd, size)
        finally:
            disk.close(fd)
        payload = memoryview(content)[at:]
        if payload.nbytes != size - at or digest(payload) != stands_for:
            raise DamagedEntry("its content is not what was put there")
        return Blob(codec, meta, payload)

    def _front(self, fd: int, name: bytes, size: int) -> tuple[str, bytes, int, bytes]:
        """Return codec, meta, offset and digest of the payload, when the seal is right and nothing is missing."""
        front = disk.read(fd, min(size, _PAGE), 0)
        if len(front) < _START:
            raise DamagedEntry("it is too short")
        magic, version, codec_length, meta_length, at, length, stands_for = _HEAD.unpack_from(front)
        if magic != MAGIC or version != VERSION:
            raise DamagedEntry("it is no value of this format")
        # The file is as long as it says, so nothing larger than the file is ever asked for.
        if at + length != size or _START + codec_length + meta_length > at:
            raise DamagedEntry("it is not as long as it was")
        if at > len(front):
            front = disk.read(fd, at, 0)
        if self._seal(name + front[: _HEAD.size], front[_START:at]) != front[_HEAD.size : _START]:
            raise DamagedEntry("its seal is not right")
        middle = _START + codec_length
        return front[_START:middle].decode(), front[middle : middle + meta_length], at, stands_for

    def all(self) -> Iterator[tuple[bytes, int, float]]:
        """Yield every blob: its name, its size and when it was written."""
        for head in disk.names(self._folder):
            if len(head) == 2:
                for rest, found in disk.sizes(os.path.join(self._folder, head)):
                    if _NAME.fullmatch(rest):
                        yield bytes.fromhex(head + rest), found.st_size, found.st_mtime

    def remove(self, name: bytes) -> None:
        """Remove a blob; who has it mapped keeps it."""
        disk.remove(self.path(name))

    def sweep(self, least_age: float = _ABANDONED) -> int:
        """Remove what writers that died left behind, and return how much that was; never what a living one writes."""
        removed = 0
        for head in disk.names(self._folder):
            folder = os.path.join(self._folder, head)
            for name, found in disk.sizes(folder):
                if _TEMPORARY.fullmatch(name) and time() - found.st_mtime >= least_age:
                    removed += _removed_if_abandoned(os.path.join(folder, name))
        return removed


def _removed_if_abandoned(path: str) -> bool:
    try:
        fd = disk.open_to_read(path)
    except OSError:
        return False
    try:
        if disk.lock(fd, alone=True):
            disk.remove(path)
            return True
    except OSError:
        pass
    finally:
        disk.close(fd)
    return False


def _lengths(length: int) -> bytes:
    return length.to_bytes(8, "little")
