"""The legend: what is to be seen in a picture, and nothing that is not."""

from __future__ import annotations

from dataclasses import dataclass

from tinygraph.render.palette import ACCENT, ARROW, COLOURS
from tinygraph.render.picture import Picture


@dataclass(frozen=True, slots=True)
class Entry:
    """A sign, its colour and what it means.

    >>> Entry("●", "#4c9f70", "7 finished").text
    '7 finished'
    """

    sign: str
    colour: str
    text: str


def legend_of(picture: Picture) -> list[Entry]:
    """Return the entries of a picture's legend.

    >>> from tinygraph import Node
    >>> from tinygraph.render.calls import listing_of
    >>> from tinygraph.render.picture import picture_of
    >>> [entry.text for entry in legend_of(picture_of(listing_of(Node(abs)(1).graph)))]
    ['1 waiting']
    """
    entries = [Entry("●", COLOURS[state].line, f"{number:,} {state}") for state, number in picture.states]
    if any(box.critical for box in picture.boxes):
        entries.append(Entry("→", ACCENT, "critical path"))
    if any(not box.used for box in picture.boxes):
        entries.append(Entry("- -", ARROW, "called, not returned"))
    if any(box.closed and not box.hidden for box in picture.boxes):
        entries.append(Entry("▣", ARROW, "opens when it runs"))
    return entries
