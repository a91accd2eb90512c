"""State files: what one item of work has come to, as one file of JSON that a person can read and edit.

::

    persist_7.json                       {"format": 1, "entries": [
    persist_7.files/                         {"name": "load", "version": null, "output": [1, 2], "finished": ...,
        5f/0c3a91...                          "duration": 0.5, "key": ...},
                                             {"name": "train", ..., "output": "<numpy.ndarray>", "file": "5f0c3a91..."}
                                         ]}

What JSON holds exactly stands in the file itself, and what is changed there by hand counts. All else lies in a file
beside, sealed. The file is replaced as a whole, so it is never half-written; before that it is read again, under a
lock, so that two programs may use it: for each entry the one that wrote it last is right. Entries and fields that are
not ours are kept.
"""

from __future__ import annotations

import atexit
import json
import os
import stat
import threading
import warnings
from collections.abc import Callable
from datetime import datetime
from functools import cache
from time import monotonic
from typing import Any, NamedTuple
from weakref import WeakValueDictionary

from tinygraph.errors import DamagedEntry, StoreError, StoreUntrusted
from tinygraph.keys.canonical import token as token_of
from tinygraph.store import disk
from tinygraph.store.blobs import Blobs
from tinygraph.store.codecs import as_json, decode, encode
from tinygraph.store.seal import Seal, seal, secret

FORMAT = 1

_SHARE = 0.1  # of the time that writing may take
_PATIENCE = 10.0  # seconds to wait for another program that writes
_WIDTH = 80  # letters that tell of a value in a file beside


class Hit(NamedTuple):
    """What a state file has for a key."""

    token: bytes
    files: bool  # whether it holds `File` or `Directory` values, to be looked at before it counts
    load: Callable[[], Any]  # returns the value, anew each time; raises DamagedEntry for one that is not what it was


class StateFile:
    """One state file. All of a program that open the same path share what they know.

    >>> import tempfile
    >>> path = tempfile.mkdtemp() + "/persist_7.json"
    >>> with StateFile(path) as state:
    ...     state.put(b"key", token_of([1, 2]), "load", None, [1, 2], 0.5)
    >>> StateFile(path).find(b"key").load()
    [1, 2]

    Raises :class:`StoreUntrusted` for a link, for what is no plain file, and for a file that others own or can write
    to; :class:`StoreError` for JSON that is something else. A file that is no JSON at all is moved aside, with a
    warning.
    """

    def __init__(self, path: str | os.PathLike[str], *, durable: bool = False) -> None:
        text = os.fspath(path)
        if "\0" in text or not os.path.basename(text):
            raise StoreError(f"{text!r} cannot be the path of a state file")
        folder = os.path.realpath(os.path.dirname(text) or ".")
        self.path = os.path.join(folder, os.path.basename(text))
        with _opening:
            state = _open.get(self.path)
            if state is None:
                state = _open[self.path] = _State(self.path)
            state.durable |= durable
        _write_at_exit()
        self._state = state
        state.refresh()

    def find(self, key: bytes) -> Hit | None:
        """Return what the file has for a key, as it is now."""
        return self._state.find(key)

    def put(
        self,
        key: bytes,
        token: bytes,
        name: str,
        version: Any,
        value: Any,
        seconds: float,
        *,
        node: str = "",
        code: bytes = b"",
    ) -> None:
        """Put a value, and write the file soon: at once, as long as that costs little.

        ``node`` and ``code``: where the function is defined, and the digest of what it means; with them, entries that
        its former code made are dropped when the file is closed. Raises what the pickler raises.
        """
        self._state.put(key, token, name, version, value, seconds, node, code.hex())

    def codes(self, node: str) -> list[bytes]:
        """Return the digests of the code with which calls of a node were put, the last first."""
        return [_bytes_of(data, "code") for data in reversed(self._state.told()) if data.get("node") == node]

    def costs(self) -> dict[str, float]:
        """Return the seconds that calls took, by node."""
        pairs = [(data.get("node"), data.get("duration")) for data in self._state.told()]
        return {node: float(took) for node, took in pairs if isinstance(node, str) and isinstance(took, int | float)}

    def forget(self, key: bytes) -> None:
        """Drop an entry, because what it refers to is gone or damaged."""
        self._state.forget(key)

    def flush(self) -> None:
        """Write what was put, now."""
        self._state.write()

    def close(self) -> None:
        """Write what was put, without what was superseded."""
        self._state.prune()
        self._state.write()

    def __enter__(self) -> StateFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"StateFile({self.path!r})"


class _Entry:
    """One entry: what it says, how that is written, and whose it is."""

    __slots__ = ("data", "key", "text", "token")

    def __init__(self, data: Any, token: bytes = b"") -> None:
        self.data = data
        self.text = _written(data)
        self.key = _bytes_of(data, "key")
        self.token = token  # of a value that stands in the file: found when it is first asked for

    @property
    def name(self) -> str:
        return str(self.data.get("name", "")) if isinstance(self.data, dict) else ""

    @property
    def file(self) -> bytes:
        return _bytes_of(self.data, "file")


class _State:
    """What this program knows of a file, and has not written yet."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.durable = False
        self._stem = os.path.splitext(path)[0]
        self._lock = threading.RLock()
        self._seen: Any = None  # what the file looked like when it was last read or written
        self._rest: dict[str, Any] = {}  # what stands beside the entries
        self._entries: list[_Entry] = []
        self._by_key: dict[bytes, _Entry] = {}
        self._changed: dict[bytes, _Entry | None] = {}  # put and not yet written; None for what is to go
        self._used: set[bytes] = set()
        self._dropped: set[bytes] = set()  # what lies beside and is not needed once the file says so
        self._made: dict[str, str] = {}  # by node: the code with which it was put
        self._names: set[str] = set()
        self._numbers: dict[str, int] = {}  # by name: up to which number they are taken
        self._due = 0.0
        self._timer: threading.Timer | None = None
        self._blobs: Blobs | None = None

    # Looking

    def find(self, key: bytes) -> Hit | None:
        with self._lock:
            self.refresh()
            entry = self._by_key.get(key)
            if entry is None:
                return None
            data = entry.data
            if "file" not in data:
                token = entry.token = entry.token or token_of(data["output"])
                found = Hit(token, False, lambda: json.loads(json.dumps(data["output"])))
            else:
                token, name = _bytes_of(data, "token"), entry.file
                if self._sealed(key, token, name) != _bytes_of(data, "seal") or not os.path.exists(self._at(name)):
                    return None
                found = Hit(token, data.get("files") is True, lambda: self._load(key, name))
            self._used.add(key)
            return found

    def _load(self, key: bytes, name: bytes) -> Any:
        try:
            blob = self._beside().get(name)
        except (DamagedEntry, OSError) as error:
            self.forget(key)
            raise DamagedEntry(f"{self._at(name)!r}, a part of {self.path!r}, is damaged: {error}") from error
        try:
            return decode(blob.codec, blob.meta, blob.payload)
        except Exception as error:  # its class is another than it was
            raise DamagedEntry(f"a value of {self.path!r} cannot be read: {type(error).__name__}: {error}") from error

    def told(self) -> list[dict[str, Any]]:
        with self._lock:
            return [entry.data for entry in self._entries if isinstance(entry.data, dict)]

    # Changing

    def put(
        self, key: bytes, token: bytes, name: str, version: Any, value: Any, seconds: float, node: str, code: str
    ) -> None:
        data: dict[str, Any] = {"name": name, "version": _plain(version)}
        text = as_json(value)
        encoded = None if text is not None else encode(value)
        data["output"] = _about(value) if text is None else json.loads(text)
        data["finished"] = datetime.now().astimezone().isoformat(timespec="seconds")
        data["duration"] = round(seconds, 6)
        if node:
            data["node"], data["code"] = node, code
        data["key"] = key.hex()
        if encoded is not None:
            file = self._beside().put(encoded.codec, encoded.meta, encoded.buffers)
            data["token"], data["file"] = token.hex(), file.hex()
            if encoded.files:
                data["files"] = True
            data["seal"] = self._sealed(key, token, file).hex()
        with self._lock:
            self.refresh()
            self._apply(key, _Entry(data, token if encoded is None else b""))
            self._used.add(key)
            if node:
                self._made[node] = code
            self._soon()

    def forget(self, key: bytes) -> None:
        with self._lock:
            if key in self._by_key:
                self._apply(key, None)
                self._soon()

    def prune(self) -> None:
        """Drop what an earlier code of a node made and nothing has asked for since."""
        with self._lock:
            for entry in self._entries[:]:
                data = entry.data
                if (
                    entry.key
                    and entry.key not in self._used
                    and self._made.get(data.get("node"), data.get("code")) != data.get("code")
                ):
                    self._apply(entry.key, None)

    def _apply(self, key: bytes, entry: _Entry | None) -> None:
        self._changed[key] = entry
        self._place(key, entry)

    def _place(self, key: bytes, entry: _Entry | None) -> None:
        """Put an entry where the one of its key is, or at the end, under a name that no other entry has."""
        old = self._by_key.pop(key, None)
        at = self._entries.index(old) if old is not None else len(self._entries)
        if old is not None:
            del self._entries[at]
            self._names.discard(old.name)
            if old.file:
                self._dropped.add(old.file)
        if entry is None:
            return
        name = entry.name
        if old is not None and _is_numbered(old.name, name):
            unique = old.name
        else:
            unique, number = name, self._numbers.get(name, 1)
            while unique in self._names:
                number += 1
                unique = f"{name} ({number})"
            self._numbers[name] = number
        if unique != name:
            entry = _Entry({**entry.data, "name": unique}, entry.token)
        self._entries.insert(at, entry)
        self._names.add(unique)
        self._by_key[key] = entry

    # Reading and writing

    def refresh(self) -> None:
        """Read the file, if it is not what it was."""
        with self._lock:
            seen = _look(self.path)
            if seen != self._seen:
                fd = self._locked() if seen is not None else -1
                try:
                    self._read(fd)
                finally:
                    if fd >= 0:
                        disk.close(fd)

    def _read(self, fd: int) -> None:
        """Take over what the file says, and put on top what was changed here."""
        self._rest, self._entries = {}, []
        self._seen = None
        if fd >= 0:
            content = disk.read(fd, disk.status(fd).st_size, 0)
            try:
                self._rest, self._entries = _parsed(content)
            except (ValueError, RecursionError) as error:
                self._set_aside(error)
            except StoreError as error:
                raise StoreError(f"{self.path!r} {error}") from None
            else:
                self._seen = _signature(disk.status(fd))
        self._by_key = {entry.key: entry for entry in self._entries if entry.key}
        self._names = {entry.name for entry in self._entries}
        self._numbers = {}
        for key, entry in self._changed.items():
            self._place(key, entry)

    def _set_aside(self, error: Exception) -> None:
        to, number = f"{self.path}.damaged", 1
        while os.path.lexists(to):
            number += 1
            to = f"{self.path}.damaged-{number}"
        disk.rename(self.path, to)
        warnings.warn(
            f"the state file {self.path!r} is damaged ({error}): it is now {to!r}, and everything runs anew",
            stacklevel=2,
        )

    def _soon(self) -> None:
        """Write now, or in a while if writing has taken its share of the time."""
        wait = self._due - monotonic()
        if wait <= 0:
            self.write()
        elif self._timer is None:
            self._timer = threading.Timer(wait, self.write_late)
            self._timer.daemon = True
            self._timer.start()

    def write_late(self) -> None:
        """Write what waits for it, where nobody is to be told but by a warning."""
        try:
            self.write()
        except (OSError, StoreError) as error:
            warnings.warn(f"the state file {self.path!r} could not be written: {error}", stacklevel=2)

    def write(self) -> None:
        """Write what was changed, on top of what others have written meanwhile."""
        with self._lock:
            timer, self._timer = self._timer, None
            if timer is not None:
                timer.cancel()
            if not self._changed:
                return
            began = monotonic()
            os.makedirs(os.path.dirname(self.path), exist_ok=True)
            fd = self._locked()
            try:
                if _signature(disk.status(fd)) != self._seen:
                    self._read(fd)
                self._replace()
                self._changed.clear()
            finally:
                disk.close(fd)
                ended = monotonic()
                self._due = ended + (ended - began) / _SHARE
            dropped, self._dropped = self._dropped, set()
            self._remove(dropped.difference([entry.file for entry in self._entries]))

    def _locked(self) -> int:
        """Open the file, made if it is not there, with its lock; another program may replace it meanwhile."""
        while True:
            try:
                fd = disk.make_or_open(self.path)
            except OSError as error:
                raise _refused(self.path, error) from error
            try:
                disk.lock(fd, alone=True, wait=_PATIENCE)
                status = disk.status(fd)
                if status.st_mode & 0o022:
                    mode = stat.S_IMODE(status.st_mode)
                    raise StoreUntrusted(
                        f"{self.path!r} cannot be trusted: others can write to it (mode {mode:o}). "
                        f"If nobody has, `chmod 600 {self.path}`; else remove it"
                    )
                if _look(self.path) == _signature(status):
                    return fd
            except BaseException:
                disk.close(fd)
                raise
            disk.close(fd)

    def _replace(self) -> None:
        folder, name = os.path.split(self.path)
        temporary = os.path.join(folder, f".{name[:100]}.{os.urandom(4).hex()}.tmp")
        fd = disk.make(temporary)
        try:
            disk.write(fd, self._content())
            if self.durable:
                disk.sync(fd)
            disk.rename(temporary, self.path)
            self._seen = _signature(disk.status(fd))
        except BaseException:
            try:
                disk.remove(temporary)
            except OSError:
                pass
            raise
        finally:
            disk.close(fd)
        if self.durable:
            disk.sync_folder(folder)

    def _content(self) -> bytes:
        entries = ",\n".join([entry.text for entry in self._entries])
        head = {"format": FORMAT, **self._rest}
        lines = [f"  {_compact(name)}: {_compact(value)},\n" for name, value in head.items()]
        text = "{\n" + "".join(lines) + '  "entries": [' + (f"\n{entries}\n  " if entries else "") + "]\n}\n"
        return text.encode()

    # Beside

    def _beside(self) -> Blobs:
        if self._blobs is None:
            self._blobs = Blobs(f"{self._stem}.files", Seal(secret(), b"state"), self.durable)
        return self._blobs

    def _at(self, name: bytes) -> str:
        return self._beside().path(name)

    def _sealed(self, key: bytes, token: bytes, name: bytes) -> bytes:
        """Return the seal of an entry: what lies beside is for this key only, whoever edits the file."""
        return seal(secret(), b"state", key, token, name)

    def _remove(self, names: set[bytes]) -> None:
        for name in names:
            try:
                self._beside().remove(name)
            except OSError:  # somebody else did
                pass


_open: WeakValueDictionary[str, _State] = WeakValueDictionary()
_opening = threading.Lock()


@cache
def _write_at_exit() -> None:
    """See to it that what waits to be written is written when the program ends."""
    atexit.register(_write_all)


def _write_all() -> None:
    for state in list(_open.values()):
        state.write_late()


# What a file says


def _parsed(content: bytes) -> tuple[dict[str, Any], list[_Entry]]:
    """Return what stands beside the entries, and the entries; ValueError for what is damaged."""
    if not content:
        return {}, []
    found = json.loads(content.decode(), parse_constant=_no_constant)
    if found == {}:
        return {}, []
    if not isinstance(found, dict) or type(found.get("format")) is not int:
        raise StoreError("is JSON, but no state file of tinygraph: give another path")
    if found["format"] > FORMAT:
        raise StoreError("was written by a newer version of tinygraph: update this one, or give another path")
    entries = found.pop("entries", None)
    if not isinstance(entries, list):
        raise ValueError("it has no list of entries")
    del found["format"]
    _written(found)
    return found, [_Entry(data) for data in entries]


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _written(data: Any) -> str:
    """Return an entry as it stands in the file: a line for each field."""
    if not isinstance(data, dict) or not data:
        return f"    {_compact(data)}"
    lines = [f"      {_compact(name)}: {_compact(value)}" for name, value in data.items()]
    return "    {\n" + ",\n".join(lines) + "\n    }"


def _compact(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    try:
        text.encode()
    except UnicodeEncodeError:  # half of a pair, in what somebody else wrote
        return json.dumps(value, allow_nan=False)
    return text


def _bytes_of(data: Any, field: str) -> bytes:
    """Return the bytes that a field has in hexadecimal; none where it has not."""
    text = data.get(field) if isinstance(data, dict) and "output" in data else None
    try:
        return bytes.fromhex(text) if isinstance(text, str) else b""
    except ValueError:
        return b""


def _is_numbered(unique: str, name: str) -> bool:
    """Whether a name is another one with a number, or without."""
    rest = unique.removeprefix(name)
    return unique.startswith(name) and (
        not rest or (rest.startswith(" (") and rest.endswith(")") and rest[2:-1].isdigit())
    )


def _plain(version: Any) -> Any:
    text = as_json(version)
    return repr(version) if text is None else json.loads(text)


def _about(value: Any) -> str:
    """Return a few words on a value that lies in a file beside."""
    import reprlib

    kind = type(value)
    if kind.__module__ == "builtins":
        return " ".join(reprlib.repr(value).split())[:_WIDTH]
    shape = getattr(value, "shape", "")
    return f"<{kind.__module__}.{kind.__qualname__}{f' {shape}' if type(shape) is tuple else ''}>"


# What a file looks like


def _look(path: str) -> Any:
    try:
        return _signature(os.lstat(path))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _refused(path, error) from error


def _signature(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size, status.st_mode


def _refused(path: str, error: OSError) -> Exception:
    """Return the error for a file that could not be opened: it is no plain file of this user, or the disk says no."""
    try:
        status = os.lstat(path)
    except OSError:
        return StoreError(f"the state file {path!r} cannot be used: {error.strerror or error}")
    if stat.S_ISLNK(status.st_mode):
        problem = "it is a symbolic link; give the path that it leads to"
    elif not stat.S_ISREG(status.st_mode):
        problem = "it is no plain file; give another path"
    elif status.st_uid != disk.user():
        problem = f"it belongs to user {status.st_uid}, and you are user {disk.user()}; give a path of your own"
    else:
        return StoreError(f"the state file {path!r} cannot be used: {error.strerror or error}")
    return StoreUntrusted(f"{path!r} cannot be trusted: {problem}")
