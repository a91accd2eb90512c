"""Handover: a worker gives the memory of the value that it has just returned to the next of its tasks.

A large value is written to segments, and whoever needs it maps them. That has its price: a page is faulted in when it
is first read, and copied when it is first written. The worker that made the value has it in memory of its own still, so
the next task there gets that memory in place of the mappings::

    body ──► value ──► segments ──► mapped by every other task that needs it, wherever it runs
               └──► its own memory ──► the next task on this worker, if it needs it

Why nobody ever sees another value than the one that was returned:

*   The segments are complete before, and never change. A death loses nothing, and who maps them is not concerned.
*   Memory is handed over once, to one task. That may do with it what it likes, as with anything that it gets.
*   Only memory that nobody else can reach is handed over: not that of a global or a cache of a node, not where a view
    of it is left, not what another process shares. References are counted, so this can be known. What cannot be, as
    with memory that is not that of an array, is mapped like any other.
*   Small parts of a value, and which of them are one object, come out of its pickle as anywhere else.

The next task takes it, or it is let go: memory follows need.
"""

from __future__ import annotations

import gc
import mmap
import sys
from typing import Any
from weakref import getweakrefcount

# No more than this stays with a worker that may not need it.
MOST = 512 << 20


class Mapping(mmap.mmap):
    """A segment that was mapped copy-on-write: what is stored into it stays in this process."""


def _references() -> int:
    """Return how many references to a thing are counted where one other thing refers to it, and one name.

    Versions of the interpreter differ in whether they count the argument of the function that counts.
    """
    holder = [object()]
    [thing] = holder
    return sys.getrefcount(thing)


_OWN_REFERENCES = _references()  # to each thing on the way below, if nobody else refers to it
_Buffer: Any = type(gc.get_referents(memoryview(b""))[0])  # what all views of one piece of memory share


class Handover:
    """What a worker keeps of its last value until its next task begins.

    >>> import numpy
    >>> handover = Handover()
    >>> array, shared = numpy.zeros(3), numpy.zeros(3)
    >>> handover.offer({"one": memoryview(array), "other": memoryview(shared)})
    >>> del array
    >>> handover.keep_what_is_ours()
    >>> list(handover.kept)
    ['one']
    """

    def __init__(self) -> None:
        self.kept: dict[str, memoryview] = {}  # by the name of the segment that has the same in it

    def offer(self, memory: dict[str, memoryview]) -> None:
        """Keep the memory of a value that was written; to be followed by `keep_what_is_ours`."""
        if sum([view.nbytes for view in memory.values()]) <= MOST:
            self.kept.update(memory)

    def keep_what_is_ours(self) -> None:
        """Let go of what others can reach, now that the task is over that made it.

        Later would be too late: who could reach it until a moment ago may have changed it.
        """
        for name in [name for name, view in self.kept.items() if not is_out_of_reach(view)]:
            del self.kept[name]

    def take(self, name: str) -> memoryview | None:
        """Return the memory that has the content of a segment, if it is here. Nobody gets it again."""
        return self.kept.pop(name, None)


def is_out_of_reach(view: memoryview) -> bool:
    """Say whether nobody can reach the memory of a view but by that view itself.

    >>> import numpy
    >>> view = memoryview(numpy.zeros(3))
    >>> is_out_of_reach(view)
    True
    >>> another = memoryview(view)
    >>> is_out_of_reach(view)
    False
    """
    numpy = sys.modules.get("numpy")
    [thing] = gc.get_referents(view)
    while sys.getrefcount(thing) <= _OWN_REFERENCES:
        kind = type(thing)
        if kind is _Buffer or kind is memoryview:
            [thing] = gc.get_referents(thing) or [None]
        elif numpy is not None and kind is numpy.ndarray and not getweakrefcount(thing):
            if thing.flags.owndata:
                return True
            thing = thing.base
        else:
            return kind is Mapping
    return False
