"""Fileshelf: a state file as a run sees it: the same questions that a folder answers, for one small readable file."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tinygraph.capture import ATOMS
from tinygraph.definition import Definition
from tinygraph.future import MISSING, Elsewhere
from tinygraph.keys.files import intact
from tinygraph.store.codecs import encode
from tinygraph.store.shelf import Lookup, Settings, atom, token_or_digest
from tinygraph.store.statefile import StateFile
from tinygraph.store.why import Seen


class Loaded(Elsewhere):
    """A value that stands in a state file, or beside it. Unlike one of a folder it travels as the value itself."""

    __slots__ = ("load", "origin", "token")

    def __init__(self, token: bytes, load: Callable[[], Any]) -> None:
        self.token = token
        self.load = load
        self.origin: tuple[Any, Any] | None = None

    def fetch(self) -> Any:
        """Return the value, made anew."""
        return self.load()

    def __reduce__(self) -> tuple[Any, ...]:
        return _itself, (self.fetch(),)


class FileShelf:
    """The values in one state file.

    >>> import tempfile
    >>> shelf = FileShelf(StateFile(tempfile.mkdtemp() + "/state.json"))
    >>> _ = shelf.keep(Lookup(b"k" * 20, "shop:load", "load", b"", b""), [1, 2], 0.5)
    >>> shelf.find(b"k" * 20)[1].fetch()
    [1, 2]
    """

    settings: Settings | None = None  # only the driver writes: one file, one writer
    held = 0

    def __init__(self, state: StateFile) -> None:
        self.state = state
        self._versions: dict[bytes, Any] = {}  # by code

    def find(self, key: bytes) -> tuple[bytes, Any] | None:
        """Return the token of a value and what stands for the value, or None."""
        hit = self.state.find(key)
        if hit is None or (hit.files and not intact(hit.load())):
            return None
        value = atom(hit.token)
        return hit.token, Loaded(hit.token, hit.load) if value is MISSING else value

    def keep(self, lookup: Lookup, value: Any, seconds: float) -> tuple[bytes, Any]:
        """Put a value; return its token and what stands for it from now on."""
        token = token_or_digest(value, lambda: encode(value))
        version = self._versions.get(lookup.code)
        self.state.put(lookup.key, token, lookup.name, version, value, seconds, node=lookup.node, code=lookup.code)
        if type(value) in ATOMS:
            return token, value
        found = self.find(lookup.key)
        return token, value if found is None else found[1]

    def keep_code(self, code: bytes, parts: dict[str, str], definition: Definition) -> None:
        """Note the version of a node; what else its code is made of, a state file does not tell."""
        self._versions[code] = definition.version

    def keep_input(self, token: bytes, value: Any) -> None:
        """Keep no arguments: a state file is to be read by people."""

    def keep_thing(self, key: bytes, value: Any) -> None:
        """Keep nothing but what calls returned."""

    def parts_of(self, code: bytes) -> dict[str, str]:
        """Return what the digest of some code was made of: nothing that is known."""
        return {}

    def latest(self, node: str) -> list[Seen]:
        """Return the calls of a node that ran before."""
        return [Seen(code, None) for code in self.state.codes(node)]

    def evicted(self, key: bytes) -> bool:
        """Whether the value of a key was removed to save room: nobody removes anything."""
        return False

    def costs(self) -> dict[str, float]:
        """Return the seconds that calls of nodes take."""
        return self.state.costs()


def _itself(value: Any) -> Any:
    return value
