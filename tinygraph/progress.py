"""A line on standard error that says how far a run is."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from time import monotonic
from typing import TextIO

from tinygraph.events import Event, Failed, Finished, Printed, Recalled, Skipped, Started

_SECONDS_BETWEEN = 0.2


class ProgressLine:
    """Reads the events of a run and keeps one line up to date; on something else than a terminal, it writes the last.

    >>> from tinygraph.events import Finished, Started
    >>> line = ProgressLine(sys.stdout, known=lambda: 3)
    >>> line(Started(name="load", number=0, at=0.0, worker=0))
    >>> line(Finished(name="load", number=0, at=0.1, seconds=0.1)); line.close()
    tinygraph: 1 of 3 finished, 0.0 s

    ``known``: how many calls the run knows of so far; nested calls make it grow.
    """

    def __init__(self, stream: TextIO | None = None, known: Callable[[], int] = lambda: 0) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._known = known
        self._finished = self._kept = self._failed = self._skipped = 0
        self._running: dict[int, str] = {}
        self._began = monotonic()
        self._closed = threading.Event()
        self._ticks = self._stream.isatty()
        if self._ticks:  # a thread of its own: a line that stands still for a minute looks like a run that hangs
            threading.Thread(target=self._tick, name="tinygraph-progress", daemon=True).start()

    def __call__(self, event: Event) -> None:
        """Take note of an event."""
        if isinstance(event, Started):
            self._running[event.number] = event.name
        elif isinstance(event, Finished | Recalled | Failed | Skipped):
            self._running.pop(event.number, None)
            self._finished += isinstance(event, Finished | Recalled)
            self._kept += isinstance(event, Recalled)
            self._failed += isinstance(event, Failed)
            self._skipped += isinstance(event, Skipped)
        elif isinstance(event, Printed) and self._ticks:  # told before it is written: the line makes room for it
            self._stream.write("\r\x1b[K")
            self._stream.flush()

    def close(self) -> None:
        """Write the last line."""
        self._closed.set()
        self._running.clear()
        self._stream.write(f"\r\x1b[K{self._text()}\n" if self._ticks else f"{self._text()}\n")
        self._stream.flush()

    def _tick(self) -> None:
        while not self._closed.wait(_SECONDS_BETWEEN):
            self._stream.write(f"\r\x1b[K{self._text()}")
            self._stream.flush()

    def _text(self) -> str:
        known = max(self._known(), self._finished)
        parts = [f"{self._finished:,} of {known:,} finished" + (f" ({self._kept:,} kept)" if self._kept else "")]
        parts += [f"{self._failed:,} failed"] if self._failed else []
        parts += [f"{self._skipped:,} skipped"] if self._skipped else []
        names = list(dict.fromkeys(list(self._running.values())))[:3]
        running = f"  ({', '.join(names)})" if names else ""
        return f"tinygraph: {', '.join(parts)}, {monotonic() - self._began:.1f} s{running}"
