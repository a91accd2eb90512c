"""Seeds: with `seed=`, each call draws its own random numbers, whoever runs it, when, and after how many attempts.

The seed of a call comes from the seed of the run and the place of the call: the names of its callers and its own, and
with each name which of the equally named calls of that caller it is, in the order of recording.
"""

from __future__ import annotations

import importlib
import random
import sys
from collections.abc import Iterable
from contextvars import ContextVar
from hashlib import blake2b
from types import CodeType
from typing import Any

from tinygraph.future import Future

_SIZE = 16


class Seeds:
    """The seeds of one run.

    >>> from tinygraph import Node
    >>> draw = Node(lambda: ..., name="draw")
    >>> one, other = draw(), draw()
    >>> Seeds(7, [one, other]).of(one) == Seeds(7, [one, other]).of(one) != Seeds(7, [one, other]).of(other)
    True
    """

    def __init__(self, seed: int, targets: Iterable[Future[Any]]) -> None:
        self._root = str(seed).encode()
        # By number and not by call: whatever holds a call keeps its value.
        self._digests: dict[int, bytes] = {}
        self._places: dict[int, int] = {}
        self._counts: dict[tuple[int, str], int] = {}  # by the number of the caller and the name of the call
        top = sorted([call for call in _reached(targets) if call.caller is None], key=lambda call: call.number)
        self._first = top[0].number if top else 0
        self._number(top)

    def of(self, call: Future[Any]) -> int:
        """Return the seed of a call."""
        way = [call]
        while way[-1].number not in self._digests and way[-1].caller is not None:
            way.append(way[-1].caller)
        for one in reversed(way):
            if one.number not in self._digests:
                above = self._root if one.caller is None else self._digests[one.caller.number]
                words = b"%b/%b/%d" % (above, one.name.encode(), self._place(one))
                self._digests[one.number] = blake2b(words, digest_size=_SIZE).digest()
        return int.from_bytes(self._digests[call.number], "big")

    def recorded(self, calls: Iterable[Future[Any]]) -> None:
        """Take calls that an `async def` body has made before it has ended, in the order of recording."""
        self._number([call for call in calls if call.caller is not None])

    def _place(self, call: Future[Any]) -> int:
        """Return how many calls of that name its caller had made before."""
        caller = call.caller
        if call.number not in self._places and caller is not None and caller.expansion is not None:
            self._number([one for one in caller.expansion.calls if one.caller is caller])
        found = self._places.get(call.number)
        # A call that a body captured and that nobody reached before: numbers are an order of recording as well.
        return call.number - self._first if found is None else found

    def _number(self, calls: Iterable[Future[Any]]) -> None:
        counts = self._counts
        for call in calls:
            if call.number not in self._places:
                scope = (-1 if call.caller is None else call.caller.number, call.name)
                self._places[call.number] = counts[scope] = counts.get(scope, -1) + 1


class Source:
    """Where the random numbers of one call come from."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._generator: random.Random | None = None

    def generator(self) -> random.Random:
        """Return the generator of the call: one and the same in all of its body."""
        if self._generator is None:
            self._generator = random.Random(self.seed)
        return self._generator


source: ContextVar[Source | None] = ContextVar("tinygraph.source", default=None)


def generator() -> random.Random:
    """Return the random generator of the call whose body runs: seeded from the run's `seed=` and the call's place.

    >>> from tinygraph import Graph, Node, generator
    >>> draw = Node(lambda: generator().random())
    >>> one = Graph(draw(), draw()).run(executor="threads", seed=7).value
    >>> one == Graph(draw(), draw()).run(executor="inline", seed=7).value, one[0] == one[1]
    (True, False)

    With a seed the functions of `random` and `numpy.random` are seeded as well, wherever one body runs at a time: in
    worker processes and inline. Threads share those, as do `async def` nodes, so that there only this generator gives
    the same numbers again. ``numpy.random.default_rng(generator().getrandbits(128))`` makes one of numpy's.
    Without a seed, or outside of a body, it is a new generator that nobody can foretell.
    """
    current = source.get()
    return random.Random() if current is None else current.generator()


def sow(seed: int, function: Any) -> None:
    """Seed everything that the body of a call may draw from, where no other body runs at the same time."""
    source.set(Source(seed))
    random.seed(seed)
    if "numpy" not in sys.modules and _names_numpy(getattr(function, "__code__", None)):
        try:  # the body is about to, and what it would get then is a generator with a seed of its own
            importlib.import_module("numpy")
        except ImportError:
            return
    numpy: Any = sys.modules.get("numpy")
    if numpy is not None and hasattr(numpy, "random"):
        numpy.random.seed([seed >> shift & 0xFFFFFFFF for shift in range(0, 8 * _SIZE, 32)])


def states() -> tuple[Any, Any]:
    """Return the states of the generators that `sow` seeds, for `restore`."""
    numpy: Any = sys.modules.get("numpy")
    return random.getstate(), numpy.random.get_state() if numpy is not None and hasattr(numpy, "random") else None


def restore(states: tuple[Any, Any]) -> None:
    """Put the generators back to what they were."""
    source.set(None)
    random.setstate(states[0])
    if states[1] is not None:
        sys.modules["numpy"].random.set_state(states[1])


def _names_numpy(code: Any) -> bool:
    if not isinstance(code, CodeType):
        return False
    return any(name.partition(".")[0] == "numpy" for name in code.co_names) or any(map(_names_numpy, code.co_consts))


def _reached(targets: Iterable[Future[Any]]) -> list[Future[Any]]:
    """Return the targets and all that they need, whether it has run before or not."""
    found = dict.fromkeys(targets)
    pending = list(found)
    while pending:
        call = pending.pop()
        for need in (*call.dependencies, *(call.expansion.calls if call.expansion is not None else ())):
            if need not in found:
                found[need] = None
                pending.append(need)
    return list(found)
