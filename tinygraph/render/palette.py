"""Colours and type, the same in every format. Text on any fill has a contrast of 7 to 1 or more."""

from __future__ import annotations

from dataclasses import dataclass

from tinygraph.future import State

FONT = "Helvetica,Arial,DejaVu Sans,sans-serif"
PAPER = "#ffffff"
INK = "#1b2430"  # names
MUTED = "#4a5565"  # what is said beneath a name
ARROW = "#7b8798"
ACCENT = "#4338ca"  # the critical path, and nothing else

# What is around boxes, the outermost first; deeper than that they alternate.
TINTS = ("#f6f8fb", "#ecf0f6", "#e2e8f1", "#ecf0f6")
FRAME = "#c3ccd9"


@dataclass(frozen=True, slots=True)
class Colours:
    """How a state looks.

    >>> COLOURS[State.FAILED].line
    '#c53030'
    """

    fill: str
    line: str


COLOURS = {
    State.WAITING: Colours("#ffffff", "#94a0b1"),
    State.READY: Colours("#e3f0fd", "#4d8ec9"),
    State.RUNNING: Colours("#fdf0c9", "#c58a10"),
    State.FINISHED: Colours("#ddf3e4", "#4c9f70"),
    State.FAILED: Colours("#fddfdc", "#c53030"),
    State.SKIPPED: Colours("#e4e7ec", "#8b95a3"),
    State.CANCELLED: Colours("#ece4f5", "#8665ad"),
}
