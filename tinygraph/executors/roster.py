"""The roster: the workers of a pool as their supervisor sees them, each with what it was given to do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from tinygraph.engine import Engine
from tinygraph.executors.catalogue import Known
from tinygraph.executors.output import Said, Whose
from tinygraph.executors.segments import Parcel, SegmentRef
from tinygraph.future import Future

# What a task is expected to take before any of its kind has ended.
UNKNOWN = 1.0
# What a task costs a worker besides its body, in seconds.
PER_TASK = 5e-6


class Member(Protocol):
    """A worker, as the machine offers it."""

    number: int

    @property
    def pid(self) -> int: ...
    @property
    def is_dead(self) -> bool: ...
    def send(self, message: bytes) -> None: ...
    def receive(self) -> list[bytes] | None: ...
    def running(self) -> tuple[int, float]: ...
    def unsent(self) -> list[bytes]: ...
    def withdraw(self, after: int, until: int) -> int: ...
    def kill(self) -> None: ...
    def bury(self) -> int | None: ...

    # What its nodes print and log; a simulated worker need not have these.
    # def said(self, ended: int = 0) -> list[Said]: ...
    # def hear(self, wanted: bool) -> None: ...


class Task:
    """A call in the hands of a worker."""

    __slots__ = ("call", "engine", "known", "number", "parcel")

    def __init__(self, number: int, call: Future[Any], engine: Engine, known: Known) -> None:
        self.number = number
        self.call = call
        self.engine = engine
        self.known = known
        self.parcel: Parcel | None = None  # its arguments, to be held for as long as a worker may open them

    @property
    def is_isolated(self) -> bool:
        """Whether it wants a process of its own."""
        return bool(getattr(self.call.definition, "isolate", False))


class Hand:
    """A worker with the supervisor's books on it."""

    __slots__ = (
        "ahead",
        "alone",
        "ambient",
        "closing",
        "forgets",
        "gone",
        "holds",
        "keeps",
        "known",
        "last",
        "late",
        "left",
        "look_at",
        "member",
        "run",
        "said",
        "tasks",
        "used",
        "voice",
        "words",
    )

    def __init__(self, member: Member) -> None:
        self.member = member
        self.tasks: dict[int, Task] = {}  # sent and not reported, in order
        self.ahead = 0.0  # expected seconds of work in them
        self.alone = False  # its task may have to be killed: nothing is sent after it, to die with it
        self.ambient = b""  # what surrounds its tasks, as it was sent last
        self.known: set[int] = set()  # the definitions that it was sent
        self.forgets: list[int] = []  # those of them that are gone, which it is to be told
        self.run = 0  # whose tasks it was sent last
        self.used = False  # whether it was sent any task
        self.last = False  # it is sent no more, and let go when it has done what it has
        self.holds: set[int] = set()  # the runs for which it may have made objects
        self.keeps: tuple[SegmentRef, ...] = ()  # of the large value that it has just made; until its next task
        self.closing: dict[int, float] = {}  # those that it is to close them for, and until when
        self.left: float | None = None  # since when nobody waits for the task that it runs
        self.look_at = 0.0  # when to look what it is at, if it has several tasks and has not said anything until then
        self.gone = False  # it was found dead, and its end has not come through yet
        self.late = 0  # the task for which it was killed, because that took too long
        self.said: Callable[..., list[Said]] = getattr(member, "said", _nothing)
        self.voice: tuple[int, Whose, Engine] | None = None  # the task that said something last
        self.words = ""  # the last that it said

    def give(self, task: Task) -> None:
        """Note that it is sent a task."""
        self.tasks[task.number] = task
        seconds = task.known.seconds
        self.ahead += (UNKNOWN if seconds is None else seconds) + PER_TASK

    def take(self, number: int) -> Task | None:
        """Note that it has reported a task, and return that; None if it had reported it before."""
        task = self.tasks.pop(number, None)
        if not self.tasks:
            self.ahead = 0.0
        elif task is not None:
            seconds = task.known.seconds
            self.ahead -= (UNKNOWN if seconds is None else seconds) + PER_TASK
        return task


def _nothing(ended: int = 0) -> list[Said]:
    """What a worker says that has no output."""
    return []
