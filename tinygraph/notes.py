"""Notes: what happened to a call, as the engine says it. They become events when somebody reads them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

What = Literal["started", "expanded", "finished", "recalled", "printed", "retried", "failed", "skipped"]

if TYPE_CHECKING:

    class Called(Protocol):
        """A call, or what is left of one: its name and its number."""

        @property
        def name(self) -> str: ...

        @property
        def number(self) -> int: ...


class Note(NamedTuple):
    """What happened to a call, `at` seconds after the start of the run, and what `more` there is to say.

    >>> from tinygraph import Node
    >>> Note("finished", Node(abs, name="size")(-1), 0.75, 0.25).call.name
    'size'

    ==========  ==================================
    what        more
    ==========  ==================================
    started     the number of the worker
    expanded    how many calls the body made
    finished    seconds that it took
    recalled    seconds that it took to look up
    printed     a line, and the stream that it is on
    retried     the attempt that raised, and what
    failed      what it raised, as text
    skipped     the name of the call that failed
    ==========  ==================================
    """

    what: What
    call: Called
    at: float
    more: Any
