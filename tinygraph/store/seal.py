"""Seal: who may have written what lies in a store. A key that only this user has, and folders that only they can use.

Everything that is read from a store was sealed with the key before it was written, and is checked before it is decoded.
So a file that somebody else put there, or that a disk has spoilt, is never believed.
"""

from __future__ import annotations

import errno
import os
import stat
from hashlib import blake2b
from typing import Any

from tinygraph.errors import StoreError, StoreUntrusted
from tinygraph.store import disk

KEY_VARIABLE = "TINYGRAPH_STORE_KEY"
SIZE = 16  # bytes of a seal
FORMAT = 1  # of a store: where things lie in it, and what they look like

_LEAST = 16  # letters of a key that is given as a text
_KEY_LENGTH = 65  # of the file: 32 bytes as hexadecimal digits, and the end of the line


class Seal:
    """What seals things of one purpose: a seal for one purpose is worth nothing for another.

    >>> record = Seal(bytes(32), b"record")
    >>> record(b"some", b"thing") == record(b"something") != Seal(bytes(32), b"row")(b"something")
    True
    """

    __slots__ = ("_base",)

    def __init__(self, secret: bytes, purpose: bytes) -> None:
        # A copy of this is half the price of a new one.
        self._base = blake2b(key=secret, digest_size=SIZE, person=purpose)

    def __call__(self, head: Any, body: Any = b"") -> bytes:
        """Return the seal of both together; where one ends and the other begins is for the caller to fix."""
        made = self._base.copy()
        made.update(head)
        if body:
            made.update(body)
        return made.digest()


def seal(secret: bytes, *parts: bytes) -> bytes:
    """Return the seal of some parts, each as it is: moving a byte from one to the next makes another.

    >>> seal(bytes(32), b"ab", b"c") == seal(bytes(32), b"a", b"bc")
    False
    """
    made = blake2b(key=secret, digest_size=SIZE, person=b"parts")
    for part in parts:
        made.update(len(part).to_bytes(8, "little"))
        made.update(part)
    return made.digest()


def secret() -> bytes:
    """Return this user's key: from the environment, else from the user's own folder, where it is made on first use.

    >>> os.environ["TINYGRAPH_STORE_KEY"] = "correct horse battery staple"
    >>> len(secret())
    32
    >>> del os.environ["TINYGRAPH_STORE_KEY"]
    """
    text = os.environ.get(KEY_VARIABLE)
    if text:
        if len(text) < _LEAST:
            raise StoreError(f"{KEY_VARIABLE} has {len(text)} letters; a key that nobody guesses has {_LEAST} or more")
        return blake2b(text.encode("utf-8", "surrogateescape"), digest_size=32, person=b"tinygraph key").digest()
    folder = _key_folder()
    path = os.path.join(folder, "key")
    try:
        trust(folder)
        return _kept_key(path)
    except OSError as error:
        raise StoreError(
            f"the key of your stores, {path!r}, cannot be read or made: {error.strerror or error}. "
            f"Mend that, or set {KEY_VARIABLE} to a text of {_LEAST} letters or more"
        ) from error


def _key_folder() -> str:
    base = os.environ.get("XDG_CONFIG_HOME", "")
    if not os.path.isabs(base):  # a relative one is to be ignored, says whoever defined it
        base = os.path.join(os.path.expanduser("~"), ".config")
    return os.path.join(base, "tinygraph")


def _kept_key(path: str) -> bytes:
    try:
        fd = disk.open_to_read(path)
    except FileNotFoundError:
        return _made_key(path)
    try:
        content = _key_in(path, fd)
    finally:
        disk.close(fd)
    return _parsed(path, content) if len(content) >= _KEY_LENGTH else _made_key(path)


def _made_key(path: str) -> bytes:
    """Make the key, unless another program does so just now, and return the one that is there then."""
    fd = disk.make_or_open(path)
    try:
        disk.lock(fd, alone=True, wait=10)
        content = _key_in(path, fd)
        if len(content) < _KEY_LENGTH:  # nobody has used it: whoever began it died
            disk.truncate(fd, 0)
            content = os.urandom(32).hex().encode() + b"\n"
            disk.write(fd, content)
            disk.sync(fd)
        return _parsed(path, content)
    finally:
        disk.close(fd)


def _key_in(path: str, fd: int) -> bytes:
    if disk.status(fd).st_mode & 0o077:
        raise StoreUntrusted(
            f"the key of your stores, {path!r}, can be read or written by others, so nothing that it seals can be "
            f"believed. If nobody has, `chmod 600 {path}`; else remove it, and the stores made with it"
        )
    return disk.read(fd, _KEY_LENGTH + 1, 0)


def _parsed(path: str, content: bytes) -> bytes:
    try:
        found = bytes.fromhex(content.decode())
        if len(found) == 32 and len(content) == _KEY_LENGTH:
            return found
    except ValueError:
        pass
    raise StoreError(f"{path!r} is not a key of tinygraph: bring back what it was, or remove it; a new one is made")


def trust(path: str | os.PathLike[str], *, parents: bool = True) -> None:
    """Make a folder that only this user can use, or make sure that nobody else could have written to it.

    ``parents``: make the folders above it as well.

    Raises :class:`StoreUntrusted` for one that is a link, or belongs to somebody else, or can be written to by others.
    """
    text = os.fspath(path)
    if not text or "\0" in text:
        raise StoreError(f"{text!r} cannot be the path of a folder")
    while text != "/" and text.endswith(("/", "/.")):  # with them, a link would be followed
        text = text.removesuffix(".").rstrip("/") or "/"
    try:
        disk.make_folder(text)
    except FileExistsError:
        pass
    except FileNotFoundError:
        if not parents:
            raise
        os.makedirs(os.path.dirname(text), exist_ok=True)
        try:
            disk.make_folder(text)
        except FileExistsError:
            pass
    except OSError as error:
        if error.errno not in (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOSPC) or not os.path.isdir(text):
            raise
    _check(text)


def claim(root: str, secret: bytes) -> None:
    """Make sure that a store is of the format that we know and sealed with this key; mark a new one so.

    Raises :class:`StoreError` for a newer format, :class:`StoreUntrusted` for another key. Nothing is changed then.
    """
    path = os.path.join(root, "format")
    mine = _mark(FORMAT, secret)
    try:
        fd = disk.open_to_read(path)
    except FileNotFoundError:
        _put_mark(path, mine)
        return
    except OSError as error:
        raise StoreUntrusted(f"{path!r} cannot be read: {error.strerror or error}") from None
    try:
        content = disk.read(fd, 4096, 0)
    finally:
        disk.close(fd)
    if content == mine:
        return
    head, _, check = content.removesuffix(b"\n").rpartition(b"\n")
    number = head.partition(b"\n")[0].removeprefix(b"tinygraph store ")
    if _checksum(head) != check or not number.isdigit() or not content.endswith(b"\n"):
        _put_mark(path, mine)  # it is damaged, or was never written to its end
    elif int(number) > FORMAT:
        raise StoreError(
            f"the store {root!r} has format {int(number)}, and this tinygraph knows {FORMAT}: it was made by a newer "
            f"one, and is left as it is. Use that one, or another folder"
        )
    else:
        raise StoreUntrusted(
            f"the store {root!r} was sealed with another key than yours, so nothing in it can be believed. Bring that "
            f"key along (the environment variable {KEY_VARIABLE}, or the file {os.path.join(_key_folder(), 'key')!r}), "
            f"or use another folder"
        )


def _mark(number: int, secret: bytes) -> bytes:
    """Return what the file `format` says: what the store is, whose key sealed it, and a checksum of that."""
    head = f"tinygraph store {number}\nsealed {seal(secret, b'store').hex()}".encode()
    return head + b"\n" + _checksum(head) + b"\n"


def _checksum(head: bytes) -> bytes:
    return blake2b(head, digest_size=SIZE).hexdigest().encode()


def _put_mark(path: str, mark: bytes) -> None:
    try:
        fd = disk.make_or_open(path)
        try:
            disk.lock(fd, alone=True, wait=10)
            disk.truncate(fd, 0)
            disk.write(fd, mark)
        finally:
            disk.close(fd)
    except OSError:  # a store that can only be read, or a full disk: the next program does it
        pass


def _check(path: str) -> None:
    found = os.lstat(path)
    if stat.S_ISLNK(found.st_mode):
        problem = "it is a symbolic link; give the folder that it leads to"
    elif not stat.S_ISDIR(found.st_mode):
        problem = "it is not a folder; give another path"
    elif found.st_uid != disk.user():
        problem = f"it belongs to user {found.st_uid}, and you are user {disk.user()}; use a folder of your own"
    elif found.st_mode & 0o022:
        mode = stat.S_IMODE(found.st_mode)
        problem = f"others can write to it (mode {mode:o}). If nobody has, `chmod 700 {path}`; else use another folder"
    else:
        return
    raise StoreUntrusted(f"{path!r} cannot be trusted: {problem}")
