"""Ctrl-C during a run: the run ends at once and in order, whatever the nodes make of it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

from tinygraph import engine as books
from tinygraph.engine import Engine
from tinygraph.executors.bodies import Bodies


class Interruptible:
    """From before a run begins to after it has ended, in the main thread: Ctrl-C stops the run.

    It is raised only where that harms nothing.

    A `KeyboardInterrupt` can come between any two steps of the interpreter. In the body of a node it belongs there, for
    nothing else gets the body to end. Between the entries of the engine's books it would leave half of them, or a lock
    that is held; there the run is only told to stop, which it does within a few steps, and raises it then. So a body
    that swallows the exception does not go unheard either. A second Ctrl-C is raised wherever it comes.

    A handler of the user's own is left in place.
    """

    def __init__(self, engine: Callable[[], Engine | None]) -> None:
        self._engine = engine  # the one that runs now: there is none at first, and another once inputs are filled
        self._before: Any = None
        self._struck = False

    def __enter__(self) -> Interruptible:
        if threading.current_thread() is threading.main_thread():
            before = signal.getsignal(signal.SIGINT)
            if before is signal.default_int_handler:
                self._before = before
                signal.signal(signal.SIGINT, self._interrupt)
        return self

    def heed(self) -> None:
        """Raise what came before there was an engine that could be told."""
        if self._struck:
            raise KeyboardInterrupt

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)
        if self._struck and (kind is None or not issubclass(kind, KeyboardInterrupt)):
            raise KeyboardInterrupt  # it came when the run was over, or had failed just then

    def _interrupt(self, signum: int, frame: FrameType | None) -> None:
        engine, again, self._struck = self._engine(), self._struck, True
        if engine is not None:  # the driver reads it in its next step: it may be in the midst of one, and hold a lock
            engine.post(lambda: engine.stop(KeyboardInterrupt()))
        if again or _in_body(frame):
            raise KeyboardInterrupt


def _in_body(frame: FrameType | None) -> bool:
    """Whether the body of a node is what runs here, and not what keeps books about it."""
    while frame is not None:
        if frame.f_globals is vars(books):
            return False
        if frame.f_code is Bodies.perform.__code__:
            # In its `try`: what is raised before or after that, it does not see, and does not hold the engine's lock.
            known = frame.f_locals
            return "began" in known and not known.keys() & {"value", "error"}
        frame = frame.f_back
    return False
