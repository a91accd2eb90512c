"""Placement: which worker gets what is ready, decided from the books alone.

Small tasks travel together, in chunks of a few milliseconds of work; long ones, and those that nothing is known about,
travel alone. The most urgent task goes first, and no worker is idle while anything is ready. That leaves one choice:
of several idle workers a task goes to the one that has its largest input in memory still.

Nobody is waited for on that account. A worker has in memory what it made last, until its next task begins: one that is
busy has nothing any more that others could not map as well.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tinygraph.executors.roster import Hand
from tinygraph.executors.transfer import Kept
from tinygraph.future import Future

# About this much work, in seconds, makes a chunk.
CHUNK = 0.004
# A worker with less work than this ahead of it, in seconds, is sent the next chunk before it asks,
AHEAD = 0.002
# if there are so many ready calls: fewer are not worth a message to a worker that has something to do.
FEW = 16


def idle(hands: Iterable[Hand]) -> Hand | None:
    """Return the first worker that has nothing to do."""
    return next((hand for hand in hands if not (hand.tasks or hand.late or hand.last)), None)


def soon_idle(hands: Iterable[Hand], ready: int) -> Hand | None:
    """Return the worker that should be sent something although it is busy, when so many calls are ready."""
    if ready < FEW:
        return None
    open_to_more = [hand for hand in hands if hand.ahead < AHEAD and not (hand.late or hand.alone or hand.last)]
    return min(open_to_more, key=lambda hand: hand.ahead, default=None)


def keeper(call: Future[Any], hands: Iterable[Hand]) -> Hand | None:
    """Return the idle worker that has the largest input of a call in memory, of those that any worker has."""
    keeping = {hand.keeps: hand for hand in hands if hand.keeps and not (hand.tasks or hand.late or hand.last)}
    if not keeping:
        return None
    found, most = None, 0
    for need in call.dependencies:
        value = need.value
        if type(value) is Kept and value.parcel.nbytes > most and value.parcel.segments in keeping:
            found, most = keeping[value.parcel.segments], value.parcel.nbytes
    return found
