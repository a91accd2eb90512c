"""What can happen during a run, as frozen dataclasses: one stream that progress, timelines and logs all read."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Event:
    """Something happened to a call, `at` seconds after the start of the run.

    >>> Event(name="load", number=3, at=0.5).name
    'load'
    """

    name: str  # of the node
    number: int  # of the call, in the order of recording
    at: float  # seconds since the run began


@dataclass(frozen=True, slots=True)
class Started(Event):
    """A call began on a worker.

    >>> Started(name="load", number=3, at=0.5, worker=1).worker
    1
    """

    worker: int


@dataclass(frozen=True, slots=True)
class Expanded(Event):
    """The body of a call returned, and its calls joined the graph.

    >>> Expanded(name="train", number=3, at=0.5, calls=12).calls
    12
    """

    calls: int


@dataclass(frozen=True, slots=True)
class Printed(Event):
    """A call on a worker process printed a line. It is told to a listener as it happens, and not kept.

    >>> Printed(name="train", number=3, at=0.6, text="epoch 1", stream="stdout").text
    'epoch 1'
    """

    text: str
    stream: str  # "stdout" or "stderr"


@dataclass(frozen=True, slots=True)
class Finished(Event):
    """A call has its value.

    >>> Finished(name="load", number=3, at=0.75, seconds=0.25).seconds
    0.25
    """

    seconds: float


@dataclass(frozen=True, slots=True)
class Recalled(Event):
    """A call has the value that an equal call had before: it did not run.

    >>> Recalled(name="load", number=3, at=0.01, seconds=1e-05).name
    'load'
    """

    seconds: float


@dataclass(frozen=True, slots=True)
class Retried(Event):
    """A call raised and will be tried again.

    >>> Retried(name="load", number=3, at=0.75, attempt=1, error="OSError: busy").attempt
    1
    """

    attempt: int
    error: str


@dataclass(frozen=True, slots=True)
class Failed(Event):
    """A call raised for the last time.

    >>> Failed(name="load", number=3, at=0.75, error="OSError: gone").error
    'OSError: gone'
    """

    error: str


@dataclass(frozen=True, slots=True)
class Skipped(Event):
    """A call was skipped, because something upstream failed.

    >>> Skipped(name="train", number=4, at=0.75, cause="load").cause
    'load'
    """

    cause: str
