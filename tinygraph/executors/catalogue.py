"""The catalogue: what is known about nodes, and which versions of them workers have been sent.

A node may change between two runs, by what its function closes over or finds in its module. So each run pickles it
anew, once, and takes it as it was then. As long as nothing changed, all runs share one version; a version crosses once
to each worker, however runs take turns. It is forgotten, here and by the workers, when no open run needs it and a later
one has taken its place, or when the node itself is gone.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from itertools import count
from typing import Any
from weakref import WeakKeyDictionary

from tinygraph.definition import Definition
from tinygraph.errors import PayloadError
from tinygraph.executors.ambient import dumps


class Version:
    """A node as it was pickled. It says so when nobody needs it any more."""

    __slots__ = ("_gone", "code", "number")

    def __init__(self, code: bytes, number: int, gone: deque[int]) -> None:
        self.code = code
        self.number = number  # as workers know it
        self._gone = gone

    def __del__(self) -> None:
        self._gone.append(self.number)


class Known:
    """What is known about a node. It goes with the node."""

    __slots__ = ("__weakref__", "run", "seconds", "version")

    def __init__(self) -> None:
        self.seconds: float | None = None  # what a call takes
        self.version: Version | None = None  # the one that was used last
        self.run = 0  # the run that used it


class Catalogue:
    """Nodes by what workers know of them.

    >>> from tinygraph import Node
    >>> double, catalogue = Node(lambda x: 2 * x), Catalogue(count(1))
    >>> known = catalogue.known(double)
    >>> catalogue.open(1); catalogue.open(2)
    >>> {catalogue.version(double, known, run).number for run in (1, 2, 1, 2)}
    {1}
    >>> catalogue.close(1); catalogue.close(2)
    >>> del double, known
    >>> list(catalogue.gone())
    [1]
    """

    def __init__(self, numbers: count[int]) -> None:
        self._numbers = numbers
        self._known: WeakKeyDictionary[Definition, Known] = WeakKeyDictionary()
        self._versions: dict[int, dict[Known, Version]] = {}  # by run, for as long as it is open
        self._gone: deque[int] = deque()  # numbers of versions; appended to whenever one is collected

    def __iter__(self) -> Iterator[Definition]:
        return iter(self._known)

    def known(self, definition: Definition) -> Known:
        """Return what is known about a node."""
        found = self._known.get(definition)
        if found is None:
            found = self._known[definition] = Known()
        return found

    def open(self, run: int) -> None:
        """Begin to keep the versions that a run uses."""
        self._versions[run] = {}

    def close(self, run: int) -> None:
        """Let go of them."""
        del self._versions[run]

    def version(self, definition: Definition, known: Known, run: int) -> Version:
        """Return a node as a run has it; raises :class:`PayloadError` when it cannot be pickled."""
        version = known.version
        if version is not None and known.run == run:
            return version
        mine = self._versions[run].get(known)
        if mine is None:
            code = _pickled(definition)
            # As it was when it was used last: nearly always. Or as some other run that is open has it.
            others = (versions.get(known) for versions in self._versions.values())
            same: Any = (one for one in (version, *others) if one is not None and one.code == code)
            mine = next(same, None) or Version(code, next(self._numbers), self._gone)
            self._versions[run][known] = mine
        known.version, known.run = mine, run
        return mine

    def gone(self) -> Iterator[int]:
        """Give the numbers of versions that nobody needs any more, each once."""
        while self._gone:
            yield self._gone.popleft()


def _pickled(definition: Definition) -> bytes:
    try:
        return dumps(definition)
    except Exception as error:
        raise PayloadError(f"{definition.name}: the node cannot be pickled for a worker: {error}") from error
