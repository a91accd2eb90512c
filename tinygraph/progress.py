"""A line on standard error that says how far a run is."""

from __future__ import annotations

import sys
from time import monotonic
from typing import TextIO

from tinygraph.events import Event, Failed, Finished, Skipped, Started

_SECONDS_BETWEEN = 0.1


class ProgressLine:
    """Reads the events of a run and keeps one line up to date; on something else than a terminal, it writes the last.

    >>> from tinygraph.events import Started
    >>> line = ProgressLine(sys.stdout)
    >>> line(Started(name="load", number=0, at=0.0, worker=0)); line.close()
    tinygraph: 0 finished, 1 running, 0.0 s
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._live = self._stream.isatty()
        self._finished = self._failed = self._skipped = 0
        self._running: dict[int, str] = {}
        self._at = 0.0
        self._shown = 0.0

    def __call__(self, event: Event) -> None:
        """Take note of an event."""
        self._at = event.at
        if isinstance(event, Started):
            self._running[event.number] = event.name
        elif isinstance(event, Finished | Failed | Skipped):
            self._running.pop(event.number, None)
            self._finished += isinstance(event, Finished)
            self._failed += isinstance(event, Failed)
            self._skipped += isinstance(event, Skipped)
        if self._live and monotonic() - self._shown > _SECONDS_BETWEEN:
            self._shown = monotonic()
            self._stream.write(f"\r\x1b[K{self._text()}")
            self._stream.flush()

    def close(self) -> None:
        """Write the last line."""
        self._stream.write(f"\r\x1b[K{self._text()}\n" if self._live else f"{self._text()}\n")
        self._stream.flush()

    def _text(self) -> str:
        parts = [f"{self._finished:,} finished"]
        parts += [f"{self._failed:,} failed"] if self._failed else []
        parts += [f"{self._skipped:,} skipped"] if self._skipped else []
        parts += [f"{len(self._running):,} running"] if self._running else []
        names = list(dict.fromkeys(self._running.values()))[:3] if self._live else []
        text = f"tinygraph: {', '.join(parts)}, {self._at:.1f} s"
        return f"{text}  ({', '.join(names)})" if names else text
